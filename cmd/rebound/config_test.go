package main

import (
	"bytes"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"rebound/store/seal"
	"rebound/store/storetest"
)

const goodSecret = "whsec_0123456789abcdef0123456789"

// complete is a configuration without a fault.
func complete(changes ...string) []string {
	return append([]string{
		"ENCRYPTION_KEY=" + seal.GenerateKey(), "STRIPE_WEBHOOK_SECRET=" + goodSecret,
		"SMTP_URL=smtp://user:hunter2secret@mail.example:587", "MAIL_FROM=Shop <billing@shop.example>",
		"MAIL_REPLY_TO=help@shop.example", "MERCHANT_NAME=Shop", "PAYMENT_URL=https://shop.example/pay/{payment_id}",
		"PUBLIC_URL=https://rebound.example",
	}, changes...)
}

func faultsOf(t *testing.T, environ []string, why purpose) []string {
	t.Helper()
	_, err := loadConfig(environ, why)
	if err == nil {
		return nil
	}
	var list configFaults
	require.ErrorAs(t, err, &list)
	return list
}

func TestACompleteConfigurationHasTheContractsDefaults(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(complete("PATH=/bin"), forServing)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:8080", c.ListenAddr)
	require.Equal(t, "127.0.0.1:8081", c.AdminAddr)
	require.Equal(t, "live", c.Mode)
	require.Equal(t, []time.Duration{time.Minute, 30 * time.Minute, 24 * time.Hour}, []time.Duration{c.NotifyHold, c.NotifyHoldWeak, c.NotifyMaxAge})
	require.Equal(t, []time.Duration{72 * time.Hour, 168 * time.Hour}, c.Reminders)
	require.EqualValues(t, 256<<10, c.BodyLimit)
	require.Equal(t, "stripe", c.BillingNotifications)
	require.Equal(t, []int{1, 4, 2, 4, 50, 4000}, []int{c.MailPerPayment24H, c.MailPerPaymentTotal, c.MailPerMailbox24H, c.MailPerMailbox7D, c.MailNewMailboxesPerHour, c.MailPerDay})
	require.Equal(t, "billing@shop.example", c.from)
	require.Len(t, c.warnings, 1, "BILLING_NOTIFICATIONS is unset in live mode")

	c, err = loadConfig(complete("REMINDERS=", "BILLING_NOTIFICATIONS=ours"), forServing)
	require.NoError(t, err)
	require.Empty(t, c.Reminders, "set to nothing: none")
	require.Empty(t, c.warnings)
}

func TestEachFaultIsOneLineThatNamesItsVariable(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"STRIPE_WEBHOOK_SECRET=":                     "STRIPE_WEBHOOK_SECRET: is required",
		"STRIPE_WEBHOOK_SECRET=" + goodSecret + ",":  "STRIPE_WEBHOOK_SECRET: item 2 of 2 is empty",
		"STRIPE_WEBHOOK_SECRET=whsec_short":          "STRIPE_WEBHOOK_SECRET: item 1 of 1 has 11 bytes",
		"FRAME_WEBHOOK_SECRET=short":                 "FRAME_WEBHOOK_SECRET: item 1 of 1 has 5 bytes",
		"ENCRYPTION_KEY=":                            "ENCRYPTION_KEY: is required",
		"ENCRYPTION_KEY=bm90IDMyIGJ5dGVz":            "ENCRYPTION_KEY: key 1 of 1 has 12 bytes",
		"SMTP_URL=http://mail.example":               "SMTP_URL: scheme must be smtp or smtps",
		"MAIL_FROM=":                                 "MAIL_FROM: is required with SMTP_URL",
		"MAIL_REPLY_TO=":                             "MAIL_REPLY_TO: is required with SMTP_URL",
		"MAIL_FROM=nobody":                           "MAIL_FROM: is not one address",
		"MAIL_REPLY_TO=a@b.example, c@d.example":     "MAIL_REPLY_TO: is not one address",
		"MERCHANT_NAME=":                             "MERCHANT_NAME: is required with SMTP_URL",
		"PAYMENT_URL=":                               "PAYMENT_URL: is required with SMTP_URL",
		"PAYMENT_URL=http://shop.example/pay":        `PAYMENT_URL: "http://shop.example/pay" must begin with https://`,
		"PAYMENT_URL=javascript:alert(1)":            "PAYMENT_URL: ",
		"PAYMENT_URL=https://{payment_id}.example/":  "PAYMENT_URL: ",
		"PAYMENT_URL=https://shop.example/{payment}": "PAYMENT_URL: ",
		"MODE=production":                            `MODE: "production" is not one of live, test`,
		"NOTIFY_HOLD=60":                             `NOTIFY_HOLD: "60" is not a duration`,
		"NOTIFY_HOLD=-1s":                            `NOTIFY_HOLD: "-1s" is negative`,
		"NOTIFY_MAX_AGE=0s":                          "NOTIFY_MAX_AGE: ",
		"REMINDERS=72h,24h":                          "REMINDERS: the waits must be above zero and rise",
		"REMINDERS=soon":                             `REMINDERS: "soon" is not durations`,
		"NOTIFY_UNKNOWN=never":                       `NOTIFY_UNKNOWN: "never" is not one of mail, inbox`,
		"BILLING_NOTIFICATIONS=both":                 `BILLING_NOTIFICATIONS: "both" is not one of stripe, ours`,
		"MAIL_DELIVERY=once":                         `MAIL_DELIVERY: "once" is not one of at-least-once, at-most-once`,
		"MAX_RETRIES_PER_CHARGE=9":                   `MAX_RETRIES_PER_CHARGE: "9" is not between 1 and 8`,
		"MAIL_PER_DAY=-2":                            `MAIL_PER_DAY: "-2" is below -1`,
		"MAIL_PER_DAY=many":                          `MAIL_PER_DAY: "many" is not a whole number`,
		"BODY_LIMIT=lots":                            `BODY_LIMIT: "lots" is not a size`,
		"BODY_LIMIT=1GiB":                            `BODY_LIMIT: "1GiB" is not a size`,
		"BODY_LIMIT=100":                             "BODY_LIMIT: is not between",
		"LISTEN_ADDR=8080":                           `LISTEN_ADDR: "8080" is not host:port`,
		"ADMIN_ADDR=0.0.0.0:8081":                    "API_TOKEN: is required because ADMIN_ADDR is not a loopback address",
		"ADMIN_ADDR=:8081":                           "API_TOKEN: is required because ADMIN_ADDR is not a loopback address",
		"ADMIN_ADDR=127.0.0.1:8080":                  "ADMIN_ADDR: is the same as LISTEN_ADDR",
		"API_TOKEN=a,,b":                             "API_TOKEN: item 2 of 3 is empty",
		"ADMIN_ADDR=garbage":                         `ADMIN_ADDR: "garbage" is not host:port`,
		"API_TOKEN=tök":                              "API_TOKEN: item 1 of 1: a token may hold only visible ASCII",
		"API_TOKEN=a@acct_1!":                        "API_TOKEN: item 1 of 1: what follows @",
		"API_TOKEN=a@acct_1,b,a":                     "API_TOKEN: item 3 of 3 is an earlier token with another scope",
		"API_TOKEN=a@acct_1,a@acct_2":                "API_TOKEN: item 2 of 2 is an earlier token with another scope",
		"REBOUND_POSTGRES_URL=http://mirror.example": "REBOUND_POSTGRES_URL: is not the https address",
		"STRIPE_WEBHOOK_SECRET=\x00STRIPE_WEBHOOK_SECRET_FILE=/nowhere/at/all": "STRIPE_WEBHOOK_SECRET_FILE: there is no file",
		"STRIPE_WEBHOOK_SECRET=" + goodSecret + "\n" + goodSecret:              "STRIPE_WEBHOOK_SECRET: item 1 of 1 holds white space",
		"FRAME_WEBHOOK_SECRET=" + goodSecret + " " + goodSecret:                "FRAME_WEBHOOK_SECRET: item 1 of 1 holds white space",
		"DATABASE_URL=postgres://u:secret@h/d?default_query_exec_mode=exec":    "DATABASE_URL: has a default_query_exec_mode that cannot be used",
		"API_TOKEN=a@cus_1": "API_TOKEN: item 1 of 1: what follows @",
		"CHECKOUT_ORIGINS=https://shop.example/checkout":        `CHECKOUT_ORIGINS: "https://shop.example/checkout" is not an origin`,
		"CHECKOUT_ORIGINS=*":                                    `CHECKOUT_ORIGINS: "*" is not an origin`,
		"PUBLIC_URL=rebound.example":                            `PUBLIC_URL: "rebound.example" is not a web address`,
		"PUBLIC_URL=ftp://rebound.example":                      `PUBLIC_URL: "ftp://rebound.example" must begin with https:// or http://`,
		"PUBLIC_URL=https://rebound.example/?a=b":               `PUBLIC_URL: "https://rebound.example/?a=b" must not hold a ? or #`,
		"PUBLIC_URL=https://rebound.example/#a":                 `PUBLIC_URL: "https://rebound.example/#a" must not hold a ? or #`,
		"STRIPE_API_KEY=pk_live_1":                              "STRIPE_API_KEY: is a publishable key",
		"LOG_LEVEL=loud":                                        `LOG_LEVEL: "loud" is not one of`,
		"LOG_FORMAT=xml":                                        `LOG_FORMAT: "xml" is not one of json, console`,
		"DATABASE_URL=mysql//x":                                 "DATABASE_URL: is not a Postgres connection string",
		"EMAIL_METADATA_KEY=session":                            "EMAIL_METADATA_KEY: is the same key as PRESENCE_METADATA_KEY",
		"ACCOUNT_PROFILES=/nowhere/at/all":                      "ACCOUNT_PROFILES: cannot be read",
		"STRIPE_API_KEY_FILE=/nowhere/at/all":                   "STRIPE_API_KEY_FILE: there is no file",
		"STRIPE_WEBHOOK_SECRET_FILE=/nowhere/but/the/value/too": "STRIPE_WEBHOOK_SECRET: is given twice",
	} {
		lines := faultsOf(t, complete(strings.Split(set, "\x00")...), forServing)
		require.Len(t, lines, 1, set)
		require.Contains(t, lines[0], want, set)
	}
}

func TestLinksThatNoCustomerCanFollowAreWarnedOf(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]int{
		"PUBLIC_URL=":                     1,
		"PUBLIC_URL=\x00SMTP_URL=":        0, // nothing is mailed
		"PUBLIC_URL=\x00MODE=test":        0,
		"PUBLIC_URL=https://shop.example": 0,
	} {
		c, err := loadConfig(complete(append(strings.Split(set, "\x00"), "BILLING_NOTIFICATIONS=ours")...), forServing)
		require.NoError(t, err)
		require.Len(t, c.warnings, want, set)
		if want > 0 {
			require.Contains(t, c.warnings[0], "PUBLIC_URL")
		}
	}
}

// Nothing slows down who guesses, and a token opens addresses and redirects mails.
func TestATokenThatCanBeGuessedIsWarnedOf(t *testing.T) {
	t.Parallel()
	const long = "0123456789abcdef"
	for set, want := range map[string]int{
		"":                            0,
		long:                          0,
		long + "@acct_1":              0,
		"admin":                       1,
		long[1:]:                      1,
		long + ",admin,root":          1,
		"admin@acct_0123456789abcdef": 1,
	} {
		c, err := loadConfig(complete("API_TOKEN="+set, "BILLING_NOTIFICATIONS=ours"), forServing)
		require.NoError(t, err)
		require.Len(t, c.warnings, want, set)
		if want > 0 {
			require.Contains(t, c.warnings[0], "API_TOKEN")
			require.NotContains(t, c.warnings[0], "admin")
		}
	}
}

func TestAnOriginIsReadAsBrowsersWriteIt(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(complete("CHECKOUT_ORIGINS=https://Shop.example/, https://shop.example:443,http://shop.example:80,https://shop.example:8443,"+
		"http://shop.example:443,https://Bücher.example,http://127.0.0.1:80,http://[::1]:3000"), forServing)
	require.NoError(t, err)
	require.Equal(t, []string{"https://shop.example", "https://shop.example", "http://shop.example", "https://shop.example:8443",
		"http://shop.example:443", "https://xn--bcher-kva.example", "http://127.0.0.1", "http://[::1]:3000"}, c.CheckoutOrigins)
}

func TestAllFaultsComeTogetherAndNoneShowsASecret(t *testing.T) {
	t.Parallel()
	environ := []string{
		"MODE=x", "SMTP_URL=smtps://user:hunter2secret@mail.example?tls=none", "STRIPE_WEBHOOK_SECRET=whsec_hidden",
		"API_TOKEN=tok_hidden@nobody", "ENCRYPTION_KEY=key_hidden", "NOTIFY_HOLD=y", "STRIPE_API_KEY=sk_hidden with space",
		"DATABASE_URL=postgres://u:pw_hidden@host:notaport/db",
	}
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{"serve"}, environ, &stdout, &stderr)
	require.Equal(t, 2, exitCode(err))
	printError(&stderr, err)
	text := stdout.String() + stderr.String()
	require.NotContains(t, text, "hidden")
	require.NotContains(t, text, "hunter2secret")
	for _, name := range []string{
		"DATABASE_URL", "API_TOKEN", "ENCRYPTION_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_KEY", "MODE", "SMTP_URL",
		"MAIL_FROM", "MAIL_REPLY_TO", "MERCHANT_NAME", "PAYMENT_URL", "NOTIFY_HOLD",
	} {
		require.Equal(t, 1, strings.Count("\n"+text, "\n"+name+": "), "%s in %s", name, text)
	}
	require.Equal(t, 12, strings.Count(text, "\n"), "one line for each fault and nothing else")
}

func TestAFileGivesAValueWithoutItsLastNewline(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(goodSecret+"\n"), 0o600))
	name := filepath.Join(t.TempDir(), "name")
	require.NoError(t, os.WriteFile(name, []byte("The Shop\r\n"), 0o600))
	c, err := loadConfig(complete("STRIPE_WEBHOOK_SECRET=", "STRIPE_WEBHOOK_SECRET_FILE="+path, "MERCHANT_NAME=", "MERCHANT_NAME_FILE="+name), forServing)
	require.NoError(t, err)
	require.Equal(t, []string{goodSecret}, c.stripeSecrets)
	require.Equal(t, "The Shop", c.MerchantName)
	c, err = loadConfig(complete("STRIPE_WEBHOOK_SECRET= ", "STRIPE_WEBHOOK_SECRET_FILE="+path, "MERCHANT_NAME_FILE= "), forServing)
	require.NoError(t, err, "white space is no value, and no path")
	require.Equal(t, []string{goodSecret}, c.stripeSecrets)
}

func TestMigrateNeedsNothingButTheDatabase(t *testing.T) {
	t.Parallel()
	require.Empty(t, faultsOf(t, []string{"DATABASE_URL=postgres://h/db"}, forDatabase))
	require.Len(t, faultsOf(t, []string{"DATABASE_URL=x y", "MODE=z"}, forDatabase), 1)
	require.Len(t, faultsOf(t, []string{"REBOUND_POSTGRES_URL=nonsense"}, forDatabase), 1)
	c, err := loadConfig([]string{"REBOUND_POSTGRES_URL=https://mirror.example/maven"}, forDatabase)
	require.NoError(t, err)
	require.Equal(t, "https://mirror.example/maven", c.PostgresSource)
}

func TestAListenAddressWithoutAnAddressIsAFaultAndABusyPortIsNot(t *testing.T) {
	t.Parallel()
	_, _, err := call(t, complete("LISTEN_ADDR=no..such:80"), "serve")
	require.Equal(t, 2, exitCode(err), "%v", err)
	require.ErrorContains(t, err, `LISTEN_ADDR: "no..such:80" cannot be resolved`)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, _, err = call(t, complete("DATABASE_URL="+storetest.New(t), "LISTEN_ADDR="+taken.Addr().String()), "serve")
	require.Equal(t, 1, exitCode(err), "%v", err)
}

func TestTheMemoryLimitLeavesRoomBelowTheOneThatKills(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	unit := regexp.MustCompile(`(?m)^MemoryMax=(\d+)M$`).FindSubmatch(readme)
	require.NotNil(t, unit)
	kills, err := strconv.ParseInt(string(unit[1]), 10, 64)
	require.NoError(t, err)
	tuneMemory(nil)
	require.LessOrEqual(t, debug.SetMemoryLimit(-1), kills<<20*3/4)
}

func TestAServerThatEndsAtOnceIsStartedAgainHoweverOften(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	unit := regexp.MustCompile(`(?m)^Restart=always\nRestartSec=(\d+)$`).FindSubmatch(readme)
	require.NotNil(t, unit)
	rest, err := strconv.Atoi(string(unit[1]))
	require.NoError(t, err)
	require.Greater(t, 4*rest, 10, "systemd gives a unit up that is started five times within ten seconds")
}

func TestSimilarAndFutureVariablesAreWarnedOf(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(complete("BILLING_NOTIFICATIONS=ours", "STRIPE_WEBHOOK_SECRETS=x", "OTEL_EXPORTER_OTLP_ENDPOINT=http://x", "HOME=/root",
		"PG_COLOR=always", "NOTIFY_HOLD_WEEK=1m", "SIGNATURE_TOLERANCE=61m"), forServing)
	require.NoError(t, err)
	require.Equal(t, []string{
		"SIGNATURE_TOLERANCE is above 1h: for as long, whoever has seen a signed event can send it again",
		"NOTIFY_HOLD_WEEK is not a setting; did you mean NOTIFY_HOLD_WEAK?",
		"OTEL_EXPORTER_OTLP_ENDPOINT is set, but this version does not use it",
		"STRIPE_WEBHOOK_SECRETS is not a setting; did you mean STRIPE_WEBHOOK_SECRET?",
	}, c.warnings)
}

// Any 32 bytes are a key, but such a one is a placeholder that somebody forgot.
func TestAKeyThatIsOneByteRepeatedIsWarnedOf(t *testing.T) {
	t.Parallel()
	weak := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))
	c, err := loadConfig(complete("BILLING_NOTIFICATIONS=ours", "ENCRYPTION_KEY="+newKey()+","+weak), forServing)
	require.NoError(t, err)
	require.Len(t, c.warnings, 1)
	require.Contains(t, c.warnings[0], "ENCRYPTION_KEY: key 2 of 2 is one byte repeated")
	require.NotContains(t, c.warnings[0], weak[:8])
}

func TestTheSummaryShowsSecretsAndAddressesOnlyAsSet(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(complete("API_TOKEN=tok_hidden"), forServing)
	require.NoError(t, err)
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range c.summary() {
		f.AddTo(encoder)
	}
	require.Len(t, encoder.Fields, len(variables()))
	for _, key := range []string{"api_token", "smtp_url", "encryption_key", "stripe_webhook_secret", "mail_from"} {
		require.Equal(t, true, encoder.Fields[key], key)
	}
	require.Equal(t, false, encoder.Fields["stripe_api_key"])
	require.Equal(t, "1m0s", encoder.Fields["notify_hold"])
}

func TestOverridesAreLoadedAndEachOfTheirFaultsIsALine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "overrides.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"do_not_honor":{"retry":"never"}}`), 0o600))
	c, err := loadConfig(complete("DECLINE_OVERRIDES="+path), forServing)
	require.NoError(t, err)
	require.Equal(t, 1, c.policy().Rules.Overrides.Len())
	require.NoError(t, os.WriteFile(path, []byte(`{"stolen_card":{"disclosable":true},"nonsense":{}}`), 0o600))
	lines := faultsOf(t, complete("DECLINE_OVERRIDES="+path), forServing)
	require.Len(t, lines, 2)
	require.Contains(t, lines[1], "DECLINE_OVERRIDES: reading the override of stolen_card")
	for _, content := range []string{"", "retry: never"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		lines = faultsOf(t, complete("DECLINE_OVERRIDES="+path), forServing)
		require.Len(t, lines, 1, content)
		require.Contains(t, lines[0], "not a JSON object", content)
	}
}

func TestAccountProfilesAreCheckedOneByOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "profiles.json")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(`{"acct_1":{"merchant_name":"One","mail_from":"One <pay@one.example>","payment_url":"https://one.example/{payment_id}","locale":"de-AT"}}`)
	c, err := loadConfig(complete("ACCOUNT_PROFILES="+path), forServing)
	require.NoError(t, err)
	require.Equal(t, "pay@one.example", c.profiles["acct_1"].from)
	require.True(t, c.policy().Profiles["acct_1"])

	write(`{"acct_1":{"merchant_name":"One","payment_url":"http://one.example/"},"cus_2":{"merchant_name":"T","mail_from":"t@two.example","payment_url":"https://two.example"}}`)
	lines := faultsOf(t, complete("ACCOUNT_PROFILES="+path), forServing)
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], "ACCOUNT_PROFILES: acct_1 mail_from: is missing")
	require.Contains(t, lines[1], "ACCOUNT_PROFILES: acct_1 payment_url: must begin with https://")
	require.Contains(t, lines[2], "ACCOUNT_PROFILES: cus_2 is not an account id")
	write(`{"acct_1":{"merchant":"One"}}`)
	require.Contains(t, faultsOf(t, complete("ACCOUNT_PROFILES="+path), forServing)[0], "unknown field")
}

func TestFailuresAreKeptForNinetyDaysInLiveMode(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(complete("RETENTION_FAILURES=2159h", "SWEEP_INTERVAL=0s", "RETENTION_ADDRESSES=-1h"), forServing)
	require.EqualError(t, err, `RETENTION_FAILURES: "2159h0m0s" is below 2160h (90 days), which only MODE=test allows
RETENTION_ADDRESSES: "-1h0m0s" is not above zero
SWEEP_INTERVAL: "0s" is below 1s`)
	_, err = loadConfig(complete("RETENTION_QUARANTINE=23h", "RETENTION_ADDRESSES=23h"), forServing)
	require.EqualError(t, err, `RETENTION_ADDRESSES: "23h0m0s" is below 24h, which only MODE=test allows
RETENTION_QUARANTINE: "23h0m0s" is below 24h, which only MODE=test allows`)
	_, err = loadConfig(complete("RETENTION_FAILURES=2160h", "RETENTION_QUARANTINE=24h", "RETENTION_ADDRESSES=24h"), forServing)
	require.NoError(t, err)
	_, err = loadConfig(complete("MODE=test", "RETENTION_FAILURES=1s", "RETENTION_ADDRESSES=1s", "RETENTION_QUARANTINE=1s", "SWEEP_INTERVAL=1s"), forServing)
	require.NoError(t, err)
}

package main

import (
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.uber.org/zap"

	"rebound/console"
	"rebound/decline"
	"rebound/store/seal"
)

// config is the whole environment. A field tagged secret never shows its value: not in a fault, not in the log.
type config struct {
	DatabaseURL    string `env:"DATABASE_URL" secret:"true"`
	DataDir        string `env:"DATA_DIR"`
	PostgresSource string `env:"REBOUND_POSTGRES_URL" secret:"true"` // Maven repository to fetch a private Postgres from
	MigrateOnStart bool   `env:"MIGRATE_ON_START"`
	ListenAddr     string `env:"LISTEN_ADDR" envDefault:"127.0.0.1:8080"`
	AdminAddr      string `env:"ADMIN_ADDR" envDefault:"127.0.0.1:8081"`
	PublicURL      string `env:"PUBLIC_URL"`
	APIToken       string `env:"API_TOKEN" secret:"true"`
	EncryptionKey  string `env:"ENCRYPTION_KEY" secret:"true"`

	StripeWebhookSecret string        `env:"STRIPE_WEBHOOK_SECRET" secret:"true"`
	FrameWebhookSecret  string        `env:"FRAME_WEBHOOK_SECRET" secret:"true"`
	StripeAPIKey        string        `env:"STRIPE_API_KEY" secret:"true"`
	StripeAPIBase       string        `env:"STRIPE_API_BASE"`
	BodyLimit           size          `env:"BODY_LIMIT" envDefault:"256KiB"`
	SignatureTolerance  time.Duration `env:"SIGNATURE_TOLERANCE" envDefault:"300s"`
	Mode                string        `env:"MODE" envDefault:"live"`

	SMTPURL         string   `env:"SMTP_URL" secret:"true"`
	MailFrom        string   `env:"MAIL_FROM"`
	MailReplyTo     string   `env:"MAIL_REPLY_TO"`
	MerchantName    string   `env:"MERCHANT_NAME"`
	MerchantURL     string   `env:"MERCHANT_URL"`
	SupportEmail    string   `env:"SUPPORT_EMAIL"`
	PaymentURL      string   `env:"PAYMENT_URL"`
	AccountProfiles string   `env:"ACCOUNT_PROFILES"`
	CheckoutOrigins []string `env:"CHECKOUT_ORIGINS"`

	NotifyHold           time.Duration   `env:"NOTIFY_HOLD" envDefault:"60s"`
	NotifyHoldWeak       time.Duration   `env:"NOTIFY_HOLD_WEAK" envDefault:"30m"`
	NotifyMaxAge         time.Duration   `env:"NOTIFY_MAX_AGE" envDefault:"24h"`
	NotifyUnknown        string          `env:"NOTIFY_UNKNOWN" envDefault:"mail"`
	Reminders            []time.Duration `env:"REMINDERS"`
	BillingNotifications string          `env:"BILLING_NOTIFICATIONS"`
	PresenceMetadataKey  string          `env:"PRESENCE_METADATA_KEY" envDefault:"session"`
	EmailMetadataKey     string          `env:"EMAIL_METADATA_KEY" envDefault:"email"`
	LocaleMetadataKey    string          `env:"LOCALE_METADATA_KEY" envDefault:"locale"`

	MailPerPayment24H       int    `env:"MAIL_PER_PAYMENT_24H" envDefault:"1"`
	MailPerPaymentTotal     int    `env:"MAIL_PER_PAYMENT_TOTAL" envDefault:"4"`
	MailPerMailbox24H       int    `env:"MAIL_PER_MAILBOX_24H" envDefault:"2"`
	MailPerMailbox7D        int    `env:"MAIL_PER_MAILBOX_7D" envDefault:"4"`
	MailNewMailboxesPerHour int    `env:"MAIL_NEW_MAILBOXES_PER_HOUR" envDefault:"50"`
	MailPerDay              int    `env:"MAIL_PER_DAY" envDefault:"4000"`
	MailDelivery            string `env:"MAIL_DELIVERY" envDefault:"at-least-once"`
	MaxRetriesPerCharge     int    `env:"MAX_RETRIES_PER_CHARGE" envDefault:"4"`
	DeclineOverrides        string `env:"DECLINE_OVERRIDES"`

	RetentionFailures   time.Duration `env:"RETENTION_FAILURES" envDefault:"9600h"`
	RetentionAddresses  time.Duration `env:"RETENTION_ADDRESSES" envDefault:"720h"`
	RetentionQuarantine time.Duration `env:"RETENTION_QUARANTINE" envDefault:"720h"`
	SweepInterval       time.Duration `env:"SWEEP_INTERVAL" envDefault:"1h"`

	LogLevel        string        `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat       string        `env:"LOG_FORMAT"`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"30s"`

	// What the values above come to.
	keys          []seal.Key
	stripeSecrets []string
	frameSecrets  []string
	tokens        []console.Token
	profiles      map[string]accountProfile // by acct_…
	overrides     decline.Overrides
	from, replyTo string // addresses alone
	warnings      []string
}

// The defaults of the listeners, which dev must know before it has a configuration.
const (
	defaultListenAddr = "127.0.0.1:8080"
	defaultAdminAddr  = "127.0.0.1:8081"
)

// laterVariables are of the contract, but nothing in this version reads them.
var laterVariables = []string{
	"OTEL_EXPORTER_OTLP_ENDPOINT",
}

// otherVariables are read elsewhere, by the private Postgres.
var otherVariables = []string{"REBOUND_POSTGRES_BIN"}

// size is a number of bytes, written with a unit or without: 256KiB, 1MB, 65536.
type size int64

// UnmarshalText reads a size.
func (s *size) UnmarshalText(text []byte) error {
	number := strings.TrimSpace(string(text))
	factor := int64(1)
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"KB", 1000}, {"MB", 1000 * 1000}, {"B", 1}} {
		if rest, found := strings.CutSuffix(number, u.suffix); found {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<40/factor {
		return fmt.Errorf("not a size")
	}
	*s = size(n * factor)
	return nil
}

// purpose says what of the configuration a command stands on; the rest may be absent or wrong.
type purpose int

const (
	forDatabase purpose = iota // reaching the database, and logging
	forStore                   // reading and writing what is stored: the keys too
	forServing                 // everything
)

var (
	databaseVariables = []string{"DATABASE_URL", "DATA_DIR", "REBOUND_POSTGRES_URL", "LOG_LEVEL", "LOG_FORMAT"}
	storeVariables    = append([]string{"ENCRYPTION_KEY"}, databaseVariables...)
)

// configFaults is every fault of a configuration at once. It ends the program with exit code 2.
type configFaults []string

// Error gives one line for each fault, naming the variable.
func (f configFaults) Error() string { return strings.Join(f, "\n") }

// loadConfig reads the environment ("KEY=value" each). All faults are returned together, as configFaults.
func loadConfig(environ []string, why purpose) (*config, error) {
	vars := readEnviron(environ)
	f := &faults{}
	readFiles(vars, slices.Concat(variables(), laterVariables), f)
	return parseConfig(vars, f, why)
}

// parseConfig is loadConfig once the files of X_FILE have been read, with what was found wrong of them.
func parseConfig(vars map[string]string, f *faults, why purpose) (*config, error) {
	known := variables()
	c := &config{}
	if err := env.ParseWithOptions(c, env.Options{Environment: nonEmpty(vars)}); err != nil {
		addParseFaults(err, vars, f)
	}
	if _, set := vars["REMINDERS"]; !set {
		c.Reminders = []time.Duration{72 * time.Hour, 168 * time.Hour}
	}
	c.validate(f)
	c.warnings = append(c.warnings, strayWarnings(vars, known)...)
	list := f.sorted(known)
	if needed := map[purpose][]string{forDatabase: databaseVariables, forStore: storeVariables}[why]; needed != nil {
		list = slices.DeleteFunc(list, func(line string) bool {
			name, _, _ := strings.Cut(line, ":")
			return !slices.Contains(needed, strings.TrimSuffix(name, "_FILE"))
		})
	}
	if len(list) > 0 {
		return nil, configFaults(list)
	}
	return c, nil
}

// readEnviron is the environment by name. White space alone is no value, for whoever reads it.
func readEnviron(environ []string) map[string]string {
	vars := env.ToMap(environ)
	for name, value := range vars {
		if strings.TrimSpace(value) == "" {
			vars[name] = ""
		}
	}
	return vars
}

// nonEmpty drops variables that are set to nothing: they mean their default, as an unset one does.
func nonEmpty(vars map[string]string) map[string]string {
	out := make(map[string]string, len(vars))
	for name, value := range vars {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

// variables lists the names of config's fields in the order of the struct.
func variables() []string {
	var names []string
	for field := range reflect.TypeFor[config]().Fields() {
		if name := field.Tag.Get("env"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func isSecret(variable string) bool {
	for field := range reflect.TypeFor[config]().Fields() {
		if field.Tag.Get("env") == variable {
			return field.Tag.Get("secret") != ""
		}
	}
	return true // an unknown one is not shown either
}

// addParseFaults puts env's errors, which name Go fields and may quote values, into words of our own.
func addParseFaults(err error, vars map[string]string, f *faults) {
	var all []error
	if list, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // the outermost error is the list
		all = list.Unwrap()
	} else {
		all = []error{err}
	}
	for _, one := range all {
		parse, ok := one.(env.ParseError) //nolint:errorlint // env returns it unwrapped
		if !ok {
			f.add("environment", "could not be read")
			continue
		}
		field, _ := reflect.TypeFor[config]().FieldByName(parse.Name)
		name := field.Tag.Get("env")
		want := "a value of another kind"
		switch field.Type {
		case reflect.TypeFor[time.Duration]():
			want = "a duration such as 90s, 30m or 24h"
		case reflect.TypeFor[[]time.Duration]():
			want = "durations separated by commas, such as 72h,168h"
		case reflect.TypeFor[int]():
			want = "a whole number"
		case reflect.TypeFor[bool]():
			want = "true or false"
		case reflect.TypeFor[size]():
			want = "a size such as 256KiB or 1MiB"
		}
		f.addValue(name, vars[name], "is not "+want)
		f.giveUp(name)
	}
}

// summary is the configuration as the log shows it: secrets only as whether they are set.
func (c *config) summary() []zap.Field {
	var fields []zap.Field
	value := reflect.ValueOf(c).Elem()
	for field, v := range value.Fields() {
		name := field.Tag.Get("env")
		if name == "" {
			continue
		}
		key := strings.ToLower(name)
		switch {
		case field.Tag.Get("secret") != "":
			fields = append(fields, zap.Bool(key, !v.IsZero()))
		case field.Type == reflect.TypeFor[time.Duration]():
			fields = append(fields, zap.Stringer(key, time.Duration(v.Int())))
		case field.Type == reflect.TypeFor[[]time.Duration]():
			list, _ := v.Interface().([]time.Duration)
			texts := make([]string, 0, len(list))
			for _, d := range list {
				texts = append(texts, d.String())
			}
			fields = append(fields, zap.Strings(key, texts))
		case name == "MAIL_FROM" || name == "MAIL_REPLY_TO" || name == "SUPPORT_EMAIL":
			fields = append(fields, zap.Bool(key, !v.IsZero())) // addresses do not belong in logs
		default:
			fields = append(fields, zap.Any(key, v.Interface()))
		}
	}
	return fields
}

// loopback tells whether a listen address or a host is reachable from this machine alone. An empty host means every
// interface.
func loopback(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

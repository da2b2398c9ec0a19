package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap/zapcore"
	"golang.org/x/net/idna"

	"rebound/console"
	"rebound/decline"
	"rebound/notify/email"
	"rebound/notify/link"
	"rebound/store"
	"rebound/store/seal"
	"rebound/webhook"
)

// minRetention is how long failures are kept at least in live mode.
const minRetention = 90 * 24 * time.Hour

// minToken is the length in characters under which a token is warned of, since it can hardly be random.
const minToken = 16

// faults collects what is wrong, by variable.
type faults struct {
	lines  []string
	unread map[string]bool // variables whose value could not be read: nothing more is said of them
}

func (f *faults) add(variable, format string, args ...any) {
	if f.unread[variable] {
		return
	}
	f.lines = append(f.lines, variable+": "+fmt.Sprintf(format, args...))
}

// addValue quotes the value of a variable that holds no secret.
func (f *faults) addValue(variable, value, what string) {
	if isSecret(variable) || value == "" {
		f.add(variable, "%s", what)
		return
	}
	if len(value) > 80 {
		value = value[:80] + "…"
	}
	f.add(variable, "%q %s", value, what)
}

// sorted puts the faults in the order of the variables, so that the same configuration reads the same every time.
func (f *faults) sorted(order []string) []string {
	rank := func(line string) int {
		name, _, _ := strings.Cut(line, ":")
		if i := slices.Index(order, strings.TrimSuffix(name, "_FILE")); i >= 0 {
			return i
		}
		return len(order)
	}
	lines := slices.Clone(f.lines)
	slices.SortStableFunc(lines, func(a, b string) int { return rank(a) - rank(b) })
	return slices.Compact(lines)
}

// giveUp says that the value of a variable could not be read.
func (f *faults) giveUp(variable string) {
	if f.unread == nil {
		f.unread = map[string]bool{}
	}
	f.unread[variable] = true
}

// readFiles replaces each X_FILE by the content of the file that it names, without the newline at its end.
func readFiles(vars map[string]string, known []string, f *faults) {
	for _, name := range known {
		path := vars[name+"_FILE"]
		if path == "" {
			continue
		}
		if vars[name] != "" {
			f.add(name, "is given twice, by itself and by %s_FILE; keep one", name)
			continue
		}
		content, err := os.ReadFile(path) //nolint:gosec // the operator names the file
		what := ""
		switch {
		case errors.Is(err, os.ErrNotExist):
			what = "there is no file"
		case errors.Is(err, os.ErrPermission):
			what = "may not be read:"
		case err != nil:
			what = "cannot be read:"
		case len(content) > 1<<20:
			what = "is larger than 1 MiB:"
		case bytes.IndexByte(content, 0) >= 0:
			what = "holds a zero byte:"
		case len(bytes.TrimSpace(content)) == 0:
			what = "is an empty file:"
		}
		if what != "" {
			f.add(name+"_FILE", "%s %s", what, path)
			f.giveUp(name)
			continue
		}
		vars[name] = strings.TrimRight(string(content), "\r\n")
		delete(vars, name+"_FILE")
	}
}

// validate checks every value and fills in what is derived from them.
func (c *config) validate(f *faults) {
	c.validateListeners(f)
	c.validateProviders(f)
	c.validateMail(f)

	oneOf(f, "MODE", c.Mode, "live", "test")
	oneOf(f, "NOTIFY_UNKNOWN", c.NotifyUnknown, "mail", "inbox")
	oneOf(f, "MAIL_DELIVERY", c.MailDelivery, "at-least-once", "at-most-once")
	oneOf(f, "LOG_FORMAT", c.LogFormat, "", "json", "console")
	if _, err := zapcore.ParseLevel(c.LogLevel); err != nil {
		f.addValue("LOG_LEVEL", c.LogLevel, "is not one of debug, info, warn, error")
	}
	if c.BillingNotifications == "" {
		c.BillingNotifications = "stripe"
		if c.Mode == "live" {
			c.warnings = append(c.warnings, "BILLING_NOTIFICATIONS is not set: failures of invoices are left to Stripe's "+
				"own mails (stripe), counted by rebound_mails_left_to_stripe_total. Check that Stripe's billing settings send them, or set ours")
		}
	}
	oneOf(f, "BILLING_NOTIFICATIONS", c.BillingNotifications, "stripe", "ours")
	if c.MaxRetriesPerCharge < 1 || c.MaxRetriesPerCharge > 8 {
		f.addValue("MAX_RETRIES_PER_CHARGE", strconv.Itoa(c.MaxRetriesPerCharge), "is not between 1 and 8")
	}
	if c.DeclineOverrides != "" {
		c.overrides = readOverrides(f, c.DeclineOverrides)
	}
	for name, n := range map[string]int{
		"MAIL_PER_PAYMENT_24H": c.MailPerPayment24H, "MAIL_PER_PAYMENT_TOTAL": c.MailPerPaymentTotal,
		"MAIL_PER_MAILBOX_24H": c.MailPerMailbox24H, "MAIL_PER_MAILBOX_7D": c.MailPerMailbox7D,
		"MAIL_NEW_MAILBOXES_PER_HOUR": c.MailNewMailboxesPerHour, "MAIL_PER_DAY": c.MailPerDay,
	} {
		if n < -1 {
			f.addValue(name, strconv.Itoa(n), "is below -1 (-1 means no limit, 0 none allowed)")
		}
	}
	for name, d := range map[string]time.Duration{
		"NOTIFY_HOLD": c.NotifyHold, "NOTIFY_HOLD_WEAK": c.NotifyHoldWeak,
	} {
		if d < 0 {
			f.addValue(name, d.String(), "is negative")
		}
	}
	for name, d := range map[string]time.Duration{
		"NOTIFY_MAX_AGE": c.NotifyMaxAge, "SIGNATURE_TOLERANCE": c.SignatureTolerance, "SHUTDOWN_TIMEOUT": c.ShutdownTimeout,
		"RETENTION_FAILURES": c.RetentionFailures, "RETENTION_ADDRESSES": c.RetentionAddresses, "RETENTION_QUARANTINE": c.RetentionQuarantine,
	} {
		if d <= 0 {
			f.addValue(name, d.String(), "is not above zero")
		}
	}
	if c.SweepInterval < time.Second {
		f.addValue("SWEEP_INTERVAL", c.SweepInterval.String(), "is below 1s")
	}
	// Stripe can send an event again for 30 days, people by hand for longer: what was dropped would count as new.
	if c.Mode == "live" && c.RetentionFailures > 0 && c.RetentionFailures < minRetention {
		f.addValue("RETENTION_FAILURES", c.RetentionFailures.String(), "is below 2160h (90 days), which only MODE=test allows")
	}
	for name, d := range map[string]time.Duration{"RETENTION_ADDRESSES": c.RetentionAddresses, "RETENTION_QUARANTINE": c.RetentionQuarantine} {
		if c.Mode == "live" && d > 0 && d < 24*time.Hour {
			f.addValue(name, d.String(), "is below 24h, which only MODE=test allows")
		}
	}
	if c.SignatureTolerance > time.Hour {
		c.warnings = append(c.warnings, "SIGNATURE_TOLERANCE is above 1h: for as long, whoever has seen a signed event can send it again")
	}
	for i, d := range c.Reminders {
		if d <= 0 || i > 0 && d <= c.Reminders[i-1] {
			f.add("REMINDERS", "the waits must be above zero and rise, such as 72h,168h")
			break
		}
	}
	if c.BodyLimit < 1<<10 || c.BodyLimit > 16<<20 {
		f.add("BODY_LIMIT", "is not between 1KiB and 16MiB")
	}
	keys := map[string]string{}
	for _, k := range []struct{ name, value string }{
		{"PRESENCE_METADATA_KEY", c.PresenceMetadataKey}, {"EMAIL_METADATA_KEY", c.EmailMetadataKey},
		{"LOCALE_METADATA_KEY", c.LocaleMetadataKey},
	} {
		if other, taken := keys[k.value]; taken {
			f.add(k.name, "is the same key as %s", other)
		}
		keys[k.value] = k.name
	}
}

func oneOf(f *faults, variable, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		f.addValue(variable, value, "is not one of "+strings.TrimPrefix(strings.Join(allowed, ", "), ", "))
	}
}

func (c *config) validateListeners(f *faults) {
	for name, addr := range map[string]string{"LISTEN_ADDR": c.ListenAddr, "ADMIN_ADDR": c.AdminAddr} {
		_, port, err := net.SplitHostPort(addr)
		if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 0 || n > 65535 {
			f.addValue(name, addr, "is not host:port, such as 127.0.0.1:8080 or :0")
			f.giveUp(name)
		}
	}
	if c.ListenAddr == c.AdminAddr && !strings.HasSuffix(c.ListenAddr, ":0") {
		f.add("ADMIN_ADDR", "is the same as LISTEN_ADDR; the merchant API must have a listener of its own")
	}
	if c.APIToken == "" && !f.unread["ADMIN_ADDR"] && !loopback(c.AdminAddr) {
		f.add("API_TOKEN", "is required because ADMIN_ADDR is not a loopback address")
	}
	if c.APIToken != "" {
		items := splitList(c.APIToken)
		c.tokens = tokens(f, items)
		if slices.ContainsFunc(items, func(item string) bool {
			secret, _, _ := strings.Cut(item, "@")
			return len(secret) < minToken
		}) {
			c.warnings = append(c.warnings, fmt.Sprintf("API_TOKEN holds a token of under %d characters: nothing slows down who guesses. "+
				"Take one that nobody can guess, for example from `openssl rand -hex 24`", minToken))
		}
	}
	if c.PublicURL != "" {
		if u, err := webURL(c.PublicURL, true); err != nil {
			f.addValue("PUBLIC_URL", c.PublicURL, err.Error())
		} else if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			f.addValue("PUBLIC_URL", c.PublicURL, "must not hold a ? or #: the paths of links are put behind it")
		} else if !email.ValidLink(c.PublicURL) { // as in a mail, where other letters are no URL
			f.addValue("PUBLIC_URL", c.PublicURL, "must be printable ASCII; a host name with other letters is written as xn--…")
		}
		c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	}
	for i, origin := range c.CheckoutOrigins {
		origin = strings.TrimSpace(origin)
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
			u.Scheme+"://"+u.Host != strings.TrimRight(origin, "/") || strings.Contains(u.Host, "*") {
			f.addValue("CHECKOUT_ORIGINS", origin, "is not an origin, such as https://shop.example")
			continue
		}
		c.CheckoutOrigins[i] = originOf(u)
	}
	if c.DatabaseURL != "" {
		if _, err := store.ParseDSN(c.DatabaseURL); err != nil {
			f.add("DATABASE_URL", "%s", err)
		}
	}
	if c.PostgresSource != "" {
		if u, err := url.Parse(c.PostgresSource); err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Host)) {
			f.add("REBOUND_POSTGRES_URL", "is not the https address of a Maven repository")
		}
	}
	if c.EncryptionKey == "" {
		f.add("ENCRYPTION_KEY", "is required: a 32-byte key in base64, for example from `openssl rand -base64 32`")
		return
	}
	keys, err := seal.ParseKeys(c.EncryptionKey)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			f.add("ENCRYPTION_KEY", "%s", line)
		}
	}
	for i, k := range keys {
		if k.Guessable() {
			c.warnings = append(c.warnings, fmt.Sprintf("ENCRYPTION_KEY: key %d of %d is one byte repeated: whoever guesses it reads the addresses; "+
				"make a random one, for example with `openssl rand -base64 32`", i+1, len(keys)))
		}
	}
	c.keys = keys
}

// originOf writes an origin as browsers do, else it would never equal one of theirs: the host in ASCII and small letters, and no
// port where it is the scheme's own.
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if port := u.Port(); u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	if ascii, err := idna.Lookup.ToASCII(u.Hostname()); err == nil {
		host = strings.Replace(host, strings.ToLower(u.Hostname()), ascii, 1)
	}
	return u.Scheme + "://" + host
}

func tokens(f *faults, items []string) []console.Token {
	list := make([]console.Token, 0, len(items))
	scopes := map[string]string{}
	for i, item := range items {
		token, err := console.ParseToken(item)
		secret, scope, _ := strings.Cut(item, "@")
		before, known := scopes[secret]
		switch {
		case item == "":
			f.add("API_TOKEN", "item %d of %d is empty", i+1, len(items))
		case err != nil:
			f.add("API_TOKEN", "item %d of %d: %v", i+1, len(items), err)
		case known && before != scope:
			f.add("API_TOKEN", "item %d of %d is an earlier token with another scope; only one of them would count", i+1, len(items))
		}
		scopes[secret] = scope
		list = append(list, token)
	}
	return list
}

// resolveListeners finds out whether the names in the listen addresses exist: a name that does not is a slip of the
// configuration, as a busy port is not.
func (c *config) resolveListeners(ctx context.Context) error {
	f := &faults{}
	for _, l := range [][2]string{{"LISTEN_ADDR", c.ListenAddr}, {"ADMIN_ADDR", c.AdminAddr}} {
		host, _, err := net.SplitHostPort(l[1])
		if err != nil || host == "" {
			continue // every interface; the form was checked before
		}
		var unknown *net.DNSError
		if _, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host); errors.As(err, &unknown) && ctx.Err() == nil {
			f.addValue(l[0], l[1], "cannot be resolved to an address")
		}
	}
	if len(f.lines) > 0 {
		return configFaults(f.lines)
	}
	return nil
}

func (c *config) validateProviders(f *faults) {
	if c.StripeWebhookSecret == "" && c.FrameWebhookSecret == "" {
		f.add("STRIPE_WEBHOOK_SECRET", "is required: the endpoint's signing secret, whsec_… (or set FRAME_WEBHOOK_SECRET)")
	}
	c.stripeSecrets = secrets(f, "STRIPE_WEBHOOK_SECRET", c.StripeWebhookSecret)
	c.frameSecrets = secrets(f, "FRAME_WEBHOOK_SECRET", c.FrameWebhookSecret)
	if c.StripeAPIKey != "" && strings.ContainsAny(c.StripeAPIKey, " \t\r\n,") {
		f.add("STRIPE_API_KEY", "holds a space or a comma; it takes one key")
	}
	if strings.HasPrefix(c.StripeAPIKey, "pk_") {
		f.add("STRIPE_API_KEY", "is a publishable key, which cannot read anything; it takes a restricted one, rk_…")
	}
	if c.StripeAPIBase != "" {
		if _, err := webURL(c.StripeAPIBase, true); err != nil {
			f.addValue("STRIPE_API_BASE", c.StripeAPIBase, err.Error())
		}
	}
}

func secrets(f *faults, variable, list string) []string {
	if list == "" {
		return nil
	}
	items := splitList(list)
	for i, item := range items {
		switch {
		case item == "":
			f.add(variable, "item %d of %d is empty", i+1, len(items))
		case len(item) < webhook.MinSecretBytes:
			f.add(variable, "item %d of %d has %d bytes; a signing secret has at least %d", i+1, len(items), len(item), webhook.MinSecretBytes)
		case strings.ContainsFunc(item, unicode.IsSpace): // several, one a line: as one secret it would fit no delivery
			f.add(variable, "item %d of %d holds white space; secrets are separated by commas", i+1, len(items))
		}
	}
	return items
}

func splitList(list string) []string {
	items := strings.Split(list, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

// parseMailAddress reads an address. A name may stand before it, and is left out: mails bear the merchant's.
func parseMailAddress(f *faults, variable, value string) string {
	if value == "" {
		return ""
	}
	parsed, err := mail.ParseAddress(value)
	if err != nil {
		f.add(variable, "is not one address, such as billing@shop.example or Shop <billing@shop.example>")
		return ""
	}
	address, ok := email.ValidAddress(parsed.Address)
	if !ok {
		f.add(variable, "is not an address that mail can be sent from or to")
	}
	return address
}

// unfitName is what is wrong with a merchant's name that no mail can bear.
const unfitName = "is longer than 100 characters or holds a character that cannot be seen"

func (c *config) validateMail(f *faults) {
	c.from = parseMailAddress(f, "MAIL_FROM", c.MailFrom)
	c.replyTo = parseMailAddress(f, "MAIL_REPLY_TO", c.MailReplyTo)
	c.SupportEmail = parseMailAddress(f, "SUPPORT_EMAIL", c.SupportEmail)
	if c.MerchantName != "" && !email.ValidName(c.MerchantName) {
		f.add("MERCHANT_NAME", unfitName)
	}
	if c.MerchantURL != "" {
		if _, err := webURL(c.MerchantURL, true); err != nil {
			f.addValue("MERCHANT_URL", c.MerchantURL, err.Error())
		}
	}
	if c.PaymentURL != "" {
		if err := paymentURL(c.PaymentURL); err != nil {
			f.addValue("PAYMENT_URL", c.PaymentURL, err.Error())
		}
	}
	if c.AccountProfiles != "" {
		c.profiles = readProfiles(f, c.AccountProfiles)
	}
	if c.SMTPURL == "" {
		return
	}
	if c.PublicURL == "" && c.Mode == "live" {
		c.warnings = append(c.warnings, "PUBLIC_URL is not set: links in mails lead to LISTEN_ADDR. "+
			"Set how customers reach this server")
	}
	if _, err := email.NewSender(c.SMTPURL, email.Options{}); err != nil {
		f.add("SMTP_URL", "%s", strings.TrimPrefix(err.Error(), "reading SMTP URL: "))
	}
	for _, need := range []struct{ name, value string }{
		{"MAIL_FROM", c.MailFrom}, {"MAIL_REPLY_TO", c.MailReplyTo}, {"MERCHANT_NAME", strings.TrimSpace(c.MerchantName)}, {"PAYMENT_URL", c.PaymentURL},
	} {
		if need.value == "" {
			f.add(need.name, "is required with SMTP_URL")
		}
	}
}

// webURL takes absolute http(s) URLs. Plain http is for this machine alone where anyHost is false.
func webURL(text string, anyHost bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("is not a web address, such as https://shop.example")
	case u.User != nil:
		return nil, errors.New("must not hold a user or password")
	case u.Scheme == "https", u.Scheme == "http" && (anyHost || loopback(u.Host)):
		return u, nil
	case anyHost:
		return nil, errors.New("must begin with https:// or http://")
	default:
		return nil, errors.New("must begin with https:// (http:// is for this machine alone)")
	}
}

// paymentURL checks where mails lead: https, and the payment's id only after the host, so that no event chooses it.
func paymentURL(text string) error {
	if err := link.CheckPaymentURL(text); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "payment URL "))
	}
	_, err := webURL(strings.ReplaceAll(text, "{payment_id}", "id"), false)
	return err
}

// readOverrides reads the file of DECLINE_OVERRIDES.
func readOverrides(f *faults, path string) decline.Overrides {
	const name = "DECLINE_OVERRIDES"
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		f.add(name, "cannot be read: %s", path)
		return decline.Overrides{}
	}
	defer file.Close()
	overrides, err := decline.LoadOverrides(file)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			f.add(name, "%s", line)
		}
	}
	return overrides
}

// accountProfile is how one connected account appears in its mails.
type accountProfile struct {
	MerchantName string `json:"merchant_name"`
	MailFrom     string `json:"mail_from"`
	MailReplyTo  string `json:"mail_reply_to"`
	SupportEmail string `json:"support_email"`
	MerchantURL  string `json:"merchant_url"`
	PaymentURL   string `json:"payment_url"`
	Locale       string `json:"locale"`

	from, replyTo string
}

// readProfiles reads the file of ACCOUNT_PROFILES: one JSON object, account ids to profiles.
func readProfiles(f *faults, path string) map[string]accountProfile {
	const name = "ACCOUNT_PROFILES"
	content, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		f.add(name, "cannot be read: %s", path)
		return nil
	}
	var profiles map[string]accountProfile
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&profiles); err != nil {
		f.add(name, "%s is not an object of accounts and their profiles: %v", path, err)
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		f.add(name, "%s holds more than one JSON value", path)
	}
	accounts := make([]string, 0, len(profiles))
	for account := range profiles {
		accounts = append(accounts, account)
	}
	slices.Sort(accounts)
	for _, account := range accounts {
		p := profiles[account]
		own := &faults{}
		if !strings.HasPrefix(account, "acct_") {
			own.add("", "is not an account id (acct_…)")
		}
		for _, need := range []struct{ member, value string }{
			{"merchant_name", p.MerchantName}, {"mail_from", p.MailFrom}, {"payment_url", p.PaymentURL},
		} {
			if strings.TrimSpace(need.value) == "" {
				own.add(need.member, "is missing")
			}
		}
		p.from = parseMailAddress(own, "mail_from", p.MailFrom)
		p.replyTo = parseMailAddress(own, "mail_reply_to", p.MailReplyTo)
		p.SupportEmail = parseMailAddress(own, "support_email", p.SupportEmail)
		if strings.TrimSpace(p.MerchantName) != "" && !email.ValidName(p.MerchantName) {
			own.add("merchant_name", unfitName)
		}
		if p.PaymentURL != "" {
			if err := paymentURL(p.PaymentURL); err != nil {
				own.add("payment_url", "%v", err)
			}
		}
		if p.MerchantURL != "" {
			if _, err := webURL(p.MerchantURL, true); err != nil {
				own.add("merchant_url", "%v", err)
			}
		}
		if p.Locale != "" {
			p.Locale = decline.MatchLocale(p.Locale)
		}
		profiles[account] = p
		for _, line := range own.lines {
			f.add(name, "%s %s", account, strings.TrimPrefix(line, ": "))
		}
	}
	return profiles
}

// strayWarnings finds variables that were probably meant for us but are not read.
func strayWarnings(vars map[string]string, known []string) []string {
	var warnings []string
	all := slices.Concat(known, laterVariables, otherVariables)
	names := make([]string, 0, len(vars))
	for name := range vars {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(laterVariables, name) && vars[name] != "" {
			warnings = append(warnings, name+" is set, but this version does not use it")
			continue
		}
		base := strings.TrimSuffix(name, "_FILE")
		if slices.Contains(all, name) || slices.Contains(all, base) || len(base) < 8 || !strings.Contains(base, "_") {
			continue
		}
		for _, candidate := range all {
			if similar(base, candidate) {
				warnings = append(warnings, name+" is not a setting; did you mean "+candidate+"?")
				break
			}
		}
	}
	return warnings
}

// similar tells whether two names are at most two letters apart.
func similar(a, b string) bool {
	const most = 2
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)] <= most
}

// Package email words, draws and sends the mail that tells a customer of a failed payment.
//
// Everything in a mail comes from the merchant's own settings or from package decline's catalog, but for the amount,
// the currency and the link's token: nothing that a payer can type ever reaches it.
package email

import (
	"bytes"
	_ "embed" // the compiled templates
	"encoding/json"
	"fmt"
	"html/template"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"
	"unicode"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"

	"rebound/decline"
)

//go:generate node generate.mjs

//go:embed payment.html
var htmlSource string

//go:embed payment.mso.json
var msoSource []byte

//go:embed payment.txt
var textSource string

// The kinds of mail.
const (
	First    = "first"    // the first and only mail on a failure
	Reminder = "reminder" // a later one, while the payment still fails
)

const (
	maxMerchant = 100  // characters of a merchant's name
	maxURL      = 2000 // octets of a link
)

// Profile is what an account's mails say of the merchant. It comes from settings, never from an event.
type Profile struct {
	MerchantName string // at most 100 characters, no control characters
	MerchantURL  string // optional; shown, and no link
	SupportEmail string // optional; an address that customers may ask
	From         string // the sender's address
	ReplyTo      string // optional
}

// Mail is one notification to be rendered.
type Mail struct {
	To       string // see ValidAddress
	Locale   string // BCP 47; the nearest supported language is used
	Kind     string // First or Reminder; empty means First
	Public   decline.Public
	Amount   int64  // in the provider's minor units; see decline.MoneyKnown
	Currency string // ISO 4217, any case
	// Link is where the customer fixes the payment: absolute, http or https.
	Link string
	// UnsubscribeURL is the preference link; empty for none. The List-Unsubscribe headers are set too, the one-click
	// header (RFC 8058) only for https.
	UnsubscribeURL string
	// MessageID is the part between the angle brackets, fixed for a notification's life, so that a mail sent twice
	// is recognisable.
	MessageID string
	Date      time.Time
	Profile   Profile
}

// Message is a rendered mail.
type Message struct {
	From, FromName string
	ReplyTo        string
	To             string
	MessageID      string // without angle brackets
	Date           time.Time
	UnsubscribeURL string

	Locale  string // the language that was used
	Subject string
	HTML    string
	Text    string
}

type msoFile struct {
	SourceSHA256 string   `json:"source_sha256"`
	Fragments    []string `json:"fragments"`
}

var (
	mso          = mustDecodeFragments(msoSource)
	htmlTemplate = template.Must(template.New("payment.html").Funcs(template.FuncMap{"mso": msoFragment}).Parse(htmlSource))
	textTemplate = texttemplate.Must(texttemplate.New("payment.txt").Parse(textSource))
)

// messageIDPattern is compiled by the first mail: its counts make it large, and every command would wait for it.
var messageIDPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_.+=-]{1,200}@[A-Za-z0-9.-]{1,253}$`)
})

func mustDecodeFragments(data []byte) msoFile {
	var f msoFile
	if err := json.Unmarshal(data, &f); err != nil {
		panic(fmt.Sprintf("decoding payment.mso.json: %v", err))
	}
	return f
}

// msoFragment gives back a conditional comment that html/template would delete (golang/go#54380). The fragments are
// constants of the build, so they need no escaping.
func msoFragment(n int) template.HTML { return template.HTML(mso.Fragments[n]) } //nolint:gosec // a constant

// view is what the templates see.
type view struct {
	Lang, Dir, Start string // Start is the side where lines start

	Subject, Preheader, Heading, Intro, Amount, What string
	Button, Link                                     string
	AlreadyPaid, Support, Merchant, Site, Why        string
	Unsubscribe, UnsubscribeURL                      string
}

// Render makes the mail. It fails, with ErrBadAddress or a plain error, on input that must not become a mail; no error
// of it holds an address.
func Render(m Mail) (*Message, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	to, _ := ValidAddress(m.To)
	from, _ := ValidAddress(m.Profile.From)
	replyTo, _ := ValidAddress(m.Profile.ReplyTo)

	locale := decline.MatchLocale(m.Locale)
	phrases := decline.PhrasesFor(locale)
	v := m.view(phrases, locale)

	var html, text bytes.Buffer
	if err := htmlTemplate.Execute(&html, v); err != nil {
		return nil, fmt.Errorf("rendering mail %s as HTML: %w", m.MessageID, err)
	}
	if err := textTemplate.Execute(&text, v); err != nil {
		return nil, fmt.Errorf("rendering mail %s as text: %w", m.MessageID, err)
	}
	return &Message{
		From: from, FromName: m.Profile.MerchantName, ReplyTo: replyTo, To: to,
		MessageID: m.MessageID, Date: m.Date, UnsubscribeURL: m.UnsubscribeURL,
		Locale: phrases.Locale, Subject: v.Subject, HTML: html.String(), Text: text.String(),
	}, nil
}

func (m Mail) check() error {
	if _, ok := ValidAddress(m.To); !ok {
		return fmt.Errorf("checking recipient of mail %.200q: %w", m.MessageID, ErrBadAddress)
	}
	if _, ok := ValidAddress(m.Profile.From); !ok {
		return fmt.Errorf("checking sender of mail %.200q: %w", m.MessageID, ErrBadAddress)
	}
	if m.Profile.ReplyTo != "" {
		if _, ok := ValidAddress(m.Profile.ReplyTo); !ok {
			return fmt.Errorf("checking reply address of mail %.200q: %w", m.MessageID, ErrBadAddress)
		}
	}
	if m.Profile.SupportEmail != "" {
		if _, ok := ValidAddress(m.Profile.SupportEmail); !ok {
			return fmt.Errorf("checking support address of mail %.200q: %w", m.MessageID, ErrBadAddress)
		}
	}
	if !messageIDPattern().MatchString(m.MessageID) {
		return fmt.Errorf("checking mail: message id %.200q is not of the form left@right", m.MessageID)
	}
	if m.Kind != "" && m.Kind != First && m.Kind != Reminder {
		return fmt.Errorf("checking mail %s: unknown kind %q", m.MessageID, m.Kind)
	}
	if m.Date.IsZero() {
		return fmt.Errorf("checking mail %s: no date", m.MessageID)
	}
	if !ValidName(m.Profile.MerchantName) {
		return fmt.Errorf("checking mail %s: merchant name must be 1 to %d plain characters", m.MessageID, maxMerchant)
	}
	if !ValidLink(m.Link) {
		return fmt.Errorf("checking mail %s: link is not an absolute http or https URL", m.MessageID)
	}
	if m.UnsubscribeURL != "" && !ValidLink(m.UnsubscribeURL) {
		return fmt.Errorf("checking mail %s: unsubscribe link is not an absolute http or https URL", m.MessageID)
	}
	return nil
}

func (m Mail) view(p decline.Phrases, locale string) view {
	merchant, support := m.Profile.MerchantName, m.Profile.SupportEmail
	amount := ""
	if decline.MoneyKnown(m.Amount, m.Currency) {
		amount = decline.FormatMoney(m.Amount, m.Currency, locale)
	} else { // the sentences that name it have others in their place
		p.Preheader, p.Intro = p.Heading, p.Subject
	}
	v := view{Lang: p.Locale, Dir: "ltr", Start: "left", Link: m.Link, Amount: amount, UnsubscribeURL: m.UnsubscribeURL}

	subject := p.Subject
	if m.Kind == Reminder {
		subject = p.Reminder
	}
	v.Subject = decline.Fill(subject, merchant, amount, support)
	v.Preheader = decline.Fill(p.Preheader, merchant, amount, support)

	v.Merchant, v.Site = merchant, site(m.Profile.MerchantURL)
	if p.RightToLeft {
		v.Dir, v.Start = "rtl", "right"
		// A Latin name or address in a right-to-left sentence drags its punctuation along unless it is isolated.
		merchant, amount, support = isolate(merchant), isolate(amount), isolate(support)
	}
	fill := func(phrase string) string { return decline.Fill(phrase, merchant, amount, support) }
	v.Heading = fill(p.Heading)
	v.Intro = fill(p.Intro)
	v.What = m.Public.Message(locale).Text
	v.Button = fill(p.Button)
	v.AlreadyPaid = fill(p.AlreadyPaid)
	if m.Profile.SupportEmail != "" {
		v.Support = fill(p.Support)
	}
	v.Why = fill(p.WhyThisMail)
	v.Unsubscribe = fill(p.Unsubscribe)
	return v
}

// site is a merchant's address as people write it.
func site(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	path := u.Path
	if path != "" && !ValidName(path) { // what would break the line or turn it around stays encoded
		path = u.EscapedPath()
	}
	return u.Host + strings.TrimRight(path, "/")
}

// isolate wraps s in Unicode's first-strong isolate.
func isolate(s string) string {
	if s == "" {
		return ""
	}
	return "\u2068" + s + "\u2069"
}

// ValidName tells whether a mail may bear s as its merchant's name: 1 to 100 characters of one line without control or
// invisible formatting characters.
func ValidName(s string) bool {
	if strings.TrimSpace(s) == "" || !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxMerchant {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		joiner := r == '\u200c' || r == '\u200d' // Persian words and some emoji need them
		return !joiner && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp))
	}) < 0
}

// ValidLink tells whether a mail may lead to s: an absolute http or https URL of printable ASCII without user information.
func ValidLink(s string) bool {
	if len(s) > maxURL || strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("<>\"\\", r) }) >= 0 {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil
}

// Bytes encodes the message as RFC 5322 text with CRLF line ends: multipart/alternative, text first. Lines are
// quoted-printable, so any server can carry it.
func (m *Message) Bytes() ([]byte, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	// FromFormat would lose quotation marks inside the name.
	msg.FromMailAddress(&mail.Address{Name: m.FromName, Address: m.From})
	if err := msg.To(m.To); err != nil {
		return nil, fmt.Errorf("encoding mail %s: recipient: %w", m.MessageID, ErrBadAddress)
	}
	if m.ReplyTo != "" {
		if err := msg.ReplyTo(m.ReplyTo); err != nil {
			return nil, fmt.Errorf("encoding mail %s: reply address: %w", m.MessageID, ErrBadAddress)
		}
	}
	msg.Subject(m.Subject)
	msg.SetMessageIDWithValue(m.MessageID)
	msg.SetDateWithValue(m.Date)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no out-of-office answers, please
	msg.SetGenHeader("Content-Language", m.Locale)
	if m.UnsubscribeURL != "" {
		msg.SetGenHeaderPreformatted(gomail.HeaderListUnsubscribe, "<"+m.UnsubscribeURL+">")
		if strings.HasPrefix(m.UnsubscribeURL, "https://") {
			msg.SetListUnsubscribePost()
		}
	}
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)

	var raw bytes.Buffer
	if _, err := msg.WriteTo(&raw); err != nil {
		return nil, fmt.Errorf("encoding mail %s: %w", m.MessageID, err)
	}
	return raw.Bytes(), nil
}

package email

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

const payLink = "https://pay.shop.example/pay/3q2-7w_abcdefghijklmno"

func sample() Mail {
	return Mail{
		To: "jane@customer.example", Locale: "en", Kind: First,
		Public: decline.Public{Code: "insufficient_funds", NextStep: decline.UseAnotherMethod},
		Amount: 4900, Currency: "eur", Link: payLink,
		UnsubscribeURL: "https://pay.shop.example/unsubscribe/zyxwvutsrqponmlkjihgfe",
		MessageID:      "nt_0123456789abcdef@shop.example", Date: time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC),
		Profile: Profile{
			MerchantName: "Maple & Co", MerchantURL: "https://shop.example", SupportEmail: "help@shop.example",
			From: "billing@shop.example", ReplyTo: "help@shop.example",
		},
	}
}

// parts decodes a received mail into its header and its two parts.
func parts(t *testing.T, raw []byte) (mail.Header, string, string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	require.NoError(t, err)
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/alternative", kind)
	var bodies []string
	reader := multipart.NewReader(m.Body, params["boundary"])
	for _, want := range []string{"text/plain; charset=UTF-8", "text/html; charset=UTF-8"} {
		part, err := reader.NextRawPart()
		require.NoError(t, err)
		require.Equal(t, want, part.Header.Get("Content-Type"))
		require.Equal(t, "quoted-printable", part.Header.Get("Content-Transfer-Encoding"))
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(t, err)
		bodies = append(bodies, strings.ReplaceAll(string(body), "\r\n", "\n"))
	}
	_, err = reader.NextRawPart()
	require.ErrorIs(t, err, io.EOF)
	return m.Header, bodies[0], bodies[1]
}

func TestAMailHoldsWhatTheCustomerNeedsInBothParts(t *testing.T) {
	t.Parallel()
	m := sample()
	message, err := Render(m)
	require.NoError(t, err)
	raw, err := message.Bytes()
	require.NoError(t, err)
	header, text, html := parts(t, raw)

	phrases := decline.PhrasesFor("en")
	amount := decline.FormatMoney(4900, "eur", "en")
	require.NotEmpty(t, amount)
	words := m.Public.Message("en").Text
	require.NotEmpty(t, words)
	for _, want := range []string{
		phrases.Heading, words, amount, phrases.Button, phrases.AlreadyPaid, "help@shop.example", phrases.Unsubscribe,
		decline.Fill(phrases.Intro, "Maple & Co", amount, ""), decline.Fill(phrases.WhyThisMail, "Maple & Co", "", ""),
	} {
		require.Contains(t, text, want)
		require.Contains(t, unescape(html), want)
	}
	require.Contains(t, text, payLink)
	require.Equal(t, 1, strings.Count(html, `href="`+payLink+`"`))
	require.Equal(t, 2, strings.Count(html, "href="), "the button and the preference link, no more")
	require.Contains(t, html, `<html lang="en" dir="ltr"`)
	require.NotContains(t, html+text, "ZgotmplZ")
	require.NotContains(t, html, "<no value>")
	require.NotContains(t, html, "<img")
	require.NotContains(t, html, "url(")

	decoded, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, decline.Fill(phrases.Subject, "Maple & Co", "", ""), decoded)
	require.Equal(t, `"Maple & Co" <billing@shop.example>`, header.Get("From"))
	require.Equal(t, "<jane@customer.example>", header.Get("To"))
	require.Equal(t, "<help@shop.example>", header.Get("Reply-To"))
	require.Equal(t, "<nt_0123456789abcdef@shop.example>", header.Get("Message-Id"))
	require.Equal(t, "Wed, 25 Nov 2026 08:00:00 +0000", header.Get("Date"))
	require.Equal(t, "auto-generated", header.Get("Auto-Submitted"))
	require.Equal(t, "<"+m.UnsubscribeURL+">", header.Get("List-Unsubscribe"))
	require.Equal(t, "List-Unsubscribe=One-Click", header.Get("List-Unsubscribe-Post"))
	require.Empty(t, header.Get("Bcc")+header.Get("X-Mailer")+header.Get("User-Agent"))
}

func unescape(s string) string {
	return strings.NewReplacer("&amp;", "&", "&#39;", "'", "&#43;", "+", "&#34;", `"`).Replace(s)
}

func TestWithoutAPreferenceLinkNothingSpeaksOfOne(t *testing.T) {
	t.Parallel()
	m := sample()
	m.UnsubscribeURL, m.Profile.SupportEmail = "", ""
	message, err := Render(m)
	require.NoError(t, err)
	raw, err := message.Bytes()
	require.NoError(t, err)
	header, text, html := parts(t, raw)
	require.NotContains(t, header, "List-Unsubscribe")
	require.NotContains(t, header, "List-Unsubscribe-Post")
	require.NotContains(t, text+html, decline.PhrasesFor("en").Unsubscribe)
	require.Equal(t, 1, strings.Count(html, "href="))

	m.UnsubscribeURL = "http://127.0.0.1:8080/unsubscribe/x"
	message, err = Render(m)
	require.NoError(t, err)
	raw, err = message.Bytes()
	require.NoError(t, err)
	header, _, _ = parts(t, raw)
	require.NotEmpty(t, header.Get("List-Unsubscribe"))
	require.NotContains(t, header, "List-Unsubscribe-Post", "one-click needs https, RFC 8058 section 3.1")
}

// By it a customer sees whose mail it is. It is no link: a mail leads to the payment and to its own settings alone.
func TestAMailNamesTheMerchantsSite(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://shop.example/":              "shop.example",
		"https://shop.example/a&b/":          "shop.example/a&b",
		"http://localhost:8090/shop":         "localhost:8090/shop",
		"https://bücher.example/café/":       "bücher.example/café",
		"https://shop.example/caf%C3%A9":     "shop.example/café",
		"https://shop.example/%0aX%E2%80%AE": "shop.example/%0aX%E2%80%AE",
		"":                                   "",
	} {
		m := sample()
		m.Profile.MerchantURL, m.Profile.SupportEmail = address, ""
		message, err := Render(m)
		require.NoError(t, err)
		_, footer, found := strings.Cut(message.Text, "\n-- \nMaple & Co\n")
		require.True(t, found)
		if want == "" {
			require.NotContains(t, footer, "shop.example\n")
			continue
		}
		require.True(t, strings.HasPrefix(footer, want+"\n"), footer)
		require.Contains(t, unescape(message.HTML), "<bdi>"+want+"</bdi>")
		require.Equal(t, 2, strings.Count(message.HTML, "href="))
	}
}

func TestAReminderHasItsOwnSubject(t *testing.T) {
	t.Parallel()
	m := sample()
	m.Kind = Reminder
	message, err := Render(m)
	require.NoError(t, err)
	require.Equal(t, decline.Fill(decline.PhrasesFor("en").Reminder, "Maple & Co", "", ""), message.Subject)
}

// No event of ours has told it, or none that could be read: nothing is paid with 0, and a customer who reads of it takes the mail for
// a forgery.
func TestAnAmountThatIsNotKnownIsNotSaid(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Mail){
		"no amount": func(m *Mail) { m.Amount = 0 }, "no currency": func(m *Mail) { m.Currency = "" },
		"neither": func(m *Mail) { m.Amount, m.Currency = 0, "" }, "four letters": func(m *Mail) { m.Currency = "usdc" },
		"words": func(m *Mail) { m.Currency = "call +1 900 evil.example" },
	} {
		for _, locale := range []string{"en", "ar"} {
			m := sample()
			m.Locale = locale
			change(&m)
			message, err := Render(m)
			require.NoError(t, err, name)
			require.NotRegexp(t, `[0-9€¤]|(?i:usdc|evil)`, message.Subject+message.Text[:strings.Index(message.Text, payLink)], name)
			require.NotRegexp(t, `0[.]00|49[.]00|€|¤|(?i:usdc|evil)`, styles.ReplaceAllString(message.HTML, ""), name)
			require.NotContains(t, message.HTML+message.Text, "\u2068\u2069")
			require.NotRegexp(t, `<p[^>]*></p>`, message.HTML, "Outlook draws a line of its size for what says nothing")
			require.Contains(t, message.HTML, decline.PhrasesFor(locale).Heading, name)
		}
	}
}

func TestEveryLanguageRendersWithItsDirection(t *testing.T) {
	t.Parallel()
	for _, locale := range decline.Locales() {
		m := sample()
		m.Locale = locale
		message, err := Render(m)
		require.NoError(t, err, locale)
		phrases := decline.PhrasesFor(locale)
		start, dir := "left", "ltr"
		if phrases.RightToLeft {
			start, dir = "right", "rtl"
			require.NotContains(t, message.HTML, "text-align:left", locale)
			require.NotContains(t, message.HTML, "direction:ltr", locale)
		}
		require.Contains(t, message.HTML, `lang="`+phrases.Locale+`" dir="`+dir+`"`)
		require.Contains(t, message.HTML, "text-align:"+start)
		require.NotContains(t, styles.ReplaceAllString(message.HTML, "")+message.Text+message.Subject, "{", locale+": unfilled placeholder")
		require.NotContains(t, message.Text, "<")
	}
}

// The style sheet is the one place for braces; drop it before looking for placeholders.
var styles = regexp.MustCompile(`(?s)<style.*?</style>`)

func TestFraudSignalsReadLikeAnyGenericDecline(t *testing.T) {
	t.Parallel()
	classify := func(code string) decline.Public {
		return decline.Rules{}.Classify(decline.Facts{
			Source: decline.Stripe, FailureCode: "card_declined", DeclineCode: code, MethodType: "card", AttemptsUsed: 1,
		}).Public
	}
	generic := sample()
	generic.Public = classify("generic_decline")
	require.Equal(t, decline.GenericDecline, generic.Public.Code)
	want, err := Render(generic)
	require.NoError(t, err)
	for _, code := range []string{
		"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card", "security_violation",
	} {
		m := generic
		m.Public = classify(code)
		got, err := Render(m)
		require.NoError(t, err, code)
		require.Equal(t, want, got, code)
	}
}

func TestHostileInputNeverBecomesAMail(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Mail){
		"second recipient":       func(m *Mail) { m.To = "jane@customer.example, joe@x.example" },
		"header in recipient":    func(m *Mail) { m.To = "jane@customer.example\r\nBcc: joe@x.example" },
		"sender not an address":  func(m *Mail) { m.Profile.From = "Shop <a@shop.example>" },
		"reply-to not address":   func(m *Mail) { m.Profile.ReplyTo = "x\r\nX: y" },
		"support not an address": func(m *Mail) { m.Profile.SupportEmail = "https://evil.example" },
		"script link":            func(m *Mail) { m.Link = "javascript:alert(1)" },
		"relative link":          func(m *Mail) { m.Link = "//evil.example/x" },
		"link with user":         func(m *Mail) { m.Link = "https://shop.example@evil.example/" },
		"link with line break":   func(m *Mail) { m.Link = "https://shop.example/\r\nX: y" },
		"preference link":        func(m *Mail) { m.UnsubscribeURL = "https://shop.example/>\r\nX: y" },
		"message id":             func(m *Mail) { m.MessageID = "x@y>\r\nX: y" },
		"message id of no form":  func(m *Mail) { m.MessageID = "nt_1" },
		"kind":                   func(m *Mail) { m.Kind = "promotion" },
		"no date":                func(m *Mail) { m.Date = time.Time{} },
		"merchant line break":    func(m *Mail) { m.Profile.MerchantName = "Shop\r\nBcc: joe@x.example" },
		"merchant bidi override": func(m *Mail) { m.Profile.MerchantName = "Shop\u202e" },
		"no merchant":            func(m *Mail) { m.Profile.MerchantName = " " },
	} {
		m := sample()
		spoil(&m)
		_, err := Render(m)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "jane", name)
	}
	m := sample()
	m.To = "x"
	_, err := Render(m)
	require.ErrorIs(t, err, ErrBadAddress)
}

func TestMarkupInTheMerchantsNameIsText(t *testing.T) {
	t.Parallel()
	m := sample()
	m.Profile.MerchantName = `<b>"Bob's"</b> {{.Link}} & Söhne`
	message, err := Render(m)
	require.NoError(t, err)
	require.NotContains(t, message.HTML, "<b>")
	require.Contains(t, message.Text, m.Profile.MerchantName)
	raw, err := message.Bytes()
	require.NoError(t, err)
	header, _, _ := parts(t, raw)
	from, err := header.AddressList("From")
	require.NoError(t, err)
	require.Len(t, from, 1)
	require.Equal(t, m.Profile.MerchantName, from[0].Name)
}

func TestOutlookFramesSurviveAndHoldNoData(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(mso.Fragments), 10)
	for _, fragment := range mso.Fragments {
		require.NotContains(t, fragment, "{{")
		require.Regexp(t, `^<!--(\[if|<!\[endif)`, fragment)
	}
	message, err := Render(sample())
	require.NoError(t, err)
	rest := message.HTML
	for _, fragment := range mso.Fragments {
		_, after, found := strings.Cut(rest, fragment)
		require.True(t, found, "in their order: %s", fragment)
		rest = after
	}
	require.Equal(t, len(mso.Fragments), strings.Count(message.HTML, "<!--[if")+strings.Count(message.HTML, "<!--<!["))
	require.Equal(t, len(mso.Fragments), strings.Count(htmlSource, "{{mso "))
	require.NotContains(t, htmlSource, "<!--")
}

func TestTheCompiledTemplateIsOfTheCommittedSource(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("payment.mjml")
	require.NoError(t, err)
	sum := sha256.Sum256(source)
	require.Equal(t, hex.EncodeToString(sum[:]), mso.SourceSHA256, "run go generate ./notify/email")
	for _, address := range regexp.MustCompile(`https?://[^"' ]+`).FindAllString(htmlSource, -1) {
		require.Equal(t, "http://www.w3.org/1999/xhtml", address, "nothing is fetched from elsewhere")
	}
}

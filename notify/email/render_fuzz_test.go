package email

import (
	"mime"
	"net/mail"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

// FuzzRender puts anything at all where a mail's variable parts stand: it becomes no mail, or one with the header lines
// that it was meant to have and no others, one sender, one recipient, and no way to betray a fraud signal.
func FuzzRender(f *testing.F) {
	f.Add("jane@customer.example", "Maple & Co", "en", "insufficient_funds", "eur", "3q2-7w", "nt_1@shop.example", int64(4900), false, "https://shop.example/unsubscribe/x")
	f.Add("jane@bücher.example", `<b>"Bob's"</b> {{.Link}} & Söhne`, "ar", "stolen_card", "KWD", "x", "nt_2@shop.example", int64(-1), true, "")
	f.Add("a@b.example\r\nBcc: c@d.example", "Shop\r\nBcc: joe@x.example", "x\r\ny", "expired_card", "jpy", "\r\nX: y", "x@y>\r\nX: y", int64(1)<<62, false, "https://s.example/>\r\nX: y")
	f.Add("a@b.example", "Shop\u202e {amount} {{.}} =?utf-8?q?x?=", "he-IL", "lost_card", "bhd", "?a=b&c=d#e", "nt_3@b.example", int64(0), true, "http://127.0.0.1/x")
	f.Add("a@b.example", strings.Repeat("長い名", 33), "zh-Hant", "generic_decline", "clf", "日本", "nt_4@b.example", int64(123456789), false, "https://b.example/u")
	f.Fuzz(func(t *testing.T, to, merchant, locale, code, currency, token, messageID string, amount int64, reminder bool, unsubscribe string) {
		facts := decline.Facts{Source: decline.Stripe, FailureCode: "card_declined", DeclineCode: code, MethodType: "card", AttemptsUsed: 1}
		verdict := decline.Rules{}.Classify(facts)
		m := sample()
		m.To, m.Locale, m.Public, m.Currency, m.Amount, m.MessageID, m.UnsubscribeURL = to, locale, verdict.Public, currency, amount, messageID, unsubscribe
		m.Link, m.Profile.MerchantName = "https://pay.shop.example/pay/"+token, merchant
		if reminder {
			m.Kind = Reminder
		}
		message, err := Render(m)
		if err != nil {
			if len(to) > 6 {
				require.NotContains(t, strings.ReplaceAll(err.Error(), messageID, ""), to)
			}
			return
		}
		raw, err := message.Bytes()
		require.NoError(t, err)
		require.True(t, utf8.Valid(raw))
		head, _, _ := strings.Cut(string(raw), "\r\n\r\n")
		for _, line := range strings.Split(string(raw), "\r\n") {
			require.LessOrEqual(t, len(line), 998, "RFC 5322")
			require.NotContains(t, line, "\n")
			require.NotContains(t, line, "\r")
		}
		require.Equal(t, strings.ToValidUTF8(head, ""), head)

		header, text, html := parts(t, raw)
		for name, values := range header {
			require.Contains(t, []string{
				"Auto-Submitted", "Content-Language", "Content-Type", "Date", "From", "List-Unsubscribe", "List-Unsubscribe-Post", "Message-Id",
				"Mime-Version", "Reply-To", "Subject", "To",
			}, name)
			require.Len(t, values, 1, name)
		}
		for name, want := range map[string]string{"From": m.Profile.From, "To": message.To, "Reply-To": m.Profile.ReplyTo} {
			list, err := header.AddressList(name)
			require.NoError(t, err, name)
			require.Len(t, list, 1, name)
			require.Equal(t, want, list[0].Address, name)
		}
		require.Equal(t, "<"+messageID+">", header.Get("Message-Id"))
		subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
		require.NoError(t, err)
		require.NotContains(t, subject, "\n")
		from, err := mail.ParseAddress(header.Get("From"))
		require.NoError(t, err)
		require.Equal(t, merchant, from.Name)
		date, err := header.Date()
		require.NoError(t, err)
		require.Equal(t, m.Date, date.In(time.UTC))

		links := 1
		if unsubscribe != "" {
			links = 2
		}
		require.Equal(t, links, strings.Count(html, "href="))
		require.NotContains(t, html, "<script")
		require.NotContains(t, html+text, "ZgotmplZ")
		if verdict.Hidden { // whatever the code was, the mail is that of a decline without a reason
			facts.DeclineCode = "generic_decline"
			m.Public = decline.Rules{}.Classify(facts).Public
			generic, err := Render(m)
			require.NoError(t, err)
			require.Equal(t, generic, message)
		}
	})
}

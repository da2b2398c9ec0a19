package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/notify"
	"rebound/notify/email/smtptest"
)

// What no mail can be written with is a fault of the configuration: otherwise every mail would fail, each on its own.
func TestAConfigurationIsRefusedOrMailsCanBeWrittenWithIt(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	bidi, marked := "Shop\u200e", "\ufeffShop"
	for _, try := range []struct {
		own     string
		profile map[string]string
		refused string
	}{
		{own: "SUPPORT_EMAIL=help@shop.example"},
		{own: "SUPPORT_EMAIL=Shop Help <help@shop.example>"},
		{own: "SUPPORT_EMAIL=help@bücher.example"},
		{own: "MERCHANT_NAME=Café “Größe” & Söhne <b>"},
		{own: "MERCHANT_NAME=" + strings.Repeat("ü", 100)},
		{own: "MERCHANT_NAME=" + strings.Repeat("ü", 101), refused: "MERCHANT_NAME: "},
		{own: "MERCHANT_NAME=" + bidi, refused: "MERCHANT_NAME: "},
		{own: "MERCHANT_NAME=" + marked, refused: "MERCHANT_NAME: "},
		{own: "MERCHANT_NAME=Sh\xffop", refused: "MERCHANT_NAME: "},
		{own: "PUBLIC_URL=https://bücher.example", refused: "PUBLIC_URL: "},
		{own: "PUBLIC_URL=https://rebound.example/a b", refused: "PUBLIC_URL: "},
		{own: "PUBLIC_URL=https://rebound.example/base/"},
		{profile: map[string]string{"support_email": "Shop Help <help@shop.example>"}},
		{profile: map[string]string{"merchant_name": strings.Repeat("x", 101)}, refused: "ACCOUNT_PROFILES: acct_1 merchant_name: "},
		{profile: map[string]string{"merchant_name": "Shop\nOther"}, refused: "ACCOUNT_PROFILES: acct_1 merchant_name: "},
		{profile: map[string]string{"merchant_name": bidi}, refused: "ACCOUNT_PROFILES: acct_1 merchant_name: "},
	} {
		account := ""
		environ := complete("SMTP_URL="+peer.URL(), "PUBLIC_URL=https://rebound.example", try.own)
		if try.profile != nil {
			account = "acct_1"
			profile := map[string]string{"merchant_name": "Shop", "mail_from": "billing@shop.example", "payment_url": "https://shop.example/pay"}
			for member, value := range try.profile {
				profile[member] = value
			}
			content, err := json.Marshal(map[string]any{account: profile})
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "profiles.json")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			environ = complete("SMTP_URL="+peer.URL(), "PUBLIC_URL=https://rebound.example", "ACCOUNT_PROFILES="+path)
		}
		c, err := loadConfig(environ, forServing)
		if try.refused != "" {
			require.ErrorContains(t, err, try.refused, "%+v", try)
			continue
		}
		require.NoError(t, err, "%+v", try)
		m, err := newMailer(c)
		require.NoError(t, err)
		out := m.Deliver(t.Context(), notify.Letter{
			To: "payer@example.com", Account: account, Locale: "en", Template: "first", Public: decline.Generic(), Amount: 2000, Currency: "usd",
			Link: c.PublicURL + "/pay/token", MessageID: "nt_1@shop.example", Date: time.Unix(1_790_000_000, 0),
		})
		require.Equal(t, notify.Accepted, out.Result, "%+v: %s", try, out.Reason)
	}
}

package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/wneessen/go-mail"
	"go.uber.org/zap"

	"rebound/cmd/rebound/internal/demo"
	"rebound/cmd/rebound/internal/sample"
)

// send hands a mail with a text and an HTML part to the catcher, by an independent SMTP client.
func send(t *testing.T, smtpURL string) {
	t.Helper()
	u, err := url.Parse(smtpURL)
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(u.Host)
	require.NoError(t, err)
	number, err := net.LookupPort("tcp", port)
	require.NoError(t, err)
	m := mail.NewMsg()
	require.NoError(t, m.From("shop@merchant.example"))
	require.NoError(t, m.To("zoë@customer.example"))
	m.Subject("Zahlung fällig: 42,00 €")
	m.SetBodyString(mail.TypeTextPlain, "Please pay.\n.\nTwo lines above stands a lone dot. Grüße")
	m.AddAlternativeString(mail.TypeTextHTML, `<html><head><title>x</title></head><body><a href="https://shop.example/pay">Pay</a></body></html>`)
	client, err := mail.NewClient(u.Hostname(), mail.WithPort(number), mail.WithTLSPolicy(mail.NoTLS))
	require.NoError(t, err)
	require.NoError(t, client.DialAndSendWithContext(t.Context(), m))
}

func catcher(t *testing.T, mailbox *demo.Mailbox) *demo.SMTPServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := demo.StartSMTP(listener, mailbox)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server
}

func TestTheCatcherCanEndAsSoonAsItBegan(t *testing.T) {
	t.Parallel()
	mailbox, err := demo.OpenMailbox(filepath.Join(t.TempDir(), "mail"))
	require.NoError(t, err)
	for range 100 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, demo.StartSMTP(listener, mailbox).Close())
	}
}

func TestMailArrivesBySMTPAndOutlivesTheProgram(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	mailbox, err := demo.OpenMailbox(dir)
	require.NoError(t, err)
	changed := mailbox.Changed()
	send(t, catcher(t, mailbox).URL())
	<-changed

	again, err := demo.OpenMailbox(dir)
	require.NoError(t, err)
	ids, err := again.IDs()
	require.NoError(t, err)
	require.Len(t, ids, 1)
	m, err := again.Read(ids[0])
	require.NoError(t, err)
	require.Equal(t, "Zahlung fällig: 42,00 €", m.Subject)
	require.Contains(t, m.To, "zoë@customer.example")
	require.Contains(t, m.Text, "\n.\r\nTwo lines above")
	require.Contains(t, m.Text, "Grüße")
	require.Contains(t, m.HTML, `href="https://shop.example/pay"`)
	require.True(t, bytes.HasPrefix(m.Source, []byte("Return-Path: <shop@merchant.example>\r\nDelivered-To: ")))

	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "no half-written file stays")
	info, err := files[0].Info()
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
}

func TestAnIDIsNeverAPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret.eml"), []byte("x"), 0o600))
	mailbox, err := demo.OpenMailbox(filepath.Join(dir, "mail"))
	require.NoError(t, err)
	for _, id := range []string{"", "../secret", "..", "20260101T000000.000000000Z-../../secret"} {
		_, err := mailbox.Read(id)
		require.ErrorIs(t, err, demo.ErrNoMail, id)
	}
}

// recorder stands for the webhook.
type recorder struct {
	mu     sync.Mutex
	events []sample.Event
	came   chan struct{}
}

func (r *recorder) post(_ context.Context, e sample.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.came <- struct{}{}
	return nil
}

type site struct {
	*httptest.Server
	events  *recorder
	mailbox *demo.Mailbox
}

func setup(t *testing.T) *site {
	t.Helper()
	mailbox, err := demo.OpenMailbox(t.TempDir())
	require.NoError(t, err)
	r := &recorder{came: make(chan struct{}, 100)}
	shop := demo.NewShop(r.post, time.Millisecond, zap.NewNop())
	t.Cleanup(shop.Close)
	server := httptest.NewServer(demo.NewWeb(demo.WebConfig{
		Mailbox: mailbox, Shop: shop, PublicURL: "http://127.0.0.1:1", ConsoleURL: "http://127.0.0.1:2/console", Log: zap.NewNop(),
	}))
	t.Cleanup(server.Close)
	return &site{server, r, mailbox}
}

func (s *site) do(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		if request.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			request.Host = header[i+1]
		}
	}
	answer, err := s.Client().Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(content)
}

func TestATryAtTheShopBecomesEventsAndSuccessEndsIt(t *testing.T) {
	t.Parallel()
	s := setup(t)
	status, body := s.do(t, http.MethodPost, "/shop/checkout", "{}")
	require.Equal(t, http.StatusOK, status)
	var opened struct {
		PaymentIntent string `json:"payment_intent"`
		ClientSecret  string `json:"client_secret"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &opened))
	require.True(t, strings.HasPrefix(opened.ClientSecret, opened.PaymentIntent+"_secret_"))

	try := func(result string) int {
		status, _ := s.do(t, http.MethodPost, "/shop/try", `{"payment_intent":"`+opened.PaymentIntent+`","result":"`+result+`"}`)
		return status
	}
	require.Equal(t, http.StatusAccepted, try("stolen-card"))
	<-s.events.came
	<-s.events.came
	require.Equal(t, http.StatusNotFound, try("nonsense"))
	require.Equal(t, http.StatusAccepted, try("success"))
	<-s.events.came
	<-s.events.came
	require.Equal(t, http.StatusConflict, try("success"))

	var types []string
	for _, e := range s.events.events {
		types = append(types, e.Type)
		require.Contains(t, string(e.Body), opened.PaymentIntent)
	}
	require.Equal(t, []string{"charge.failed", "payment_intent.payment_failed", "charge.succeeded", "payment_intent.succeeded"}, types)
}

func TestThePaymentPageOfAMailRecoversAnyPayment(t *testing.T) {
	t.Parallel()
	s := setup(t)
	status, page := s.do(t, http.MethodGet, "/shop/pay/pi_3earlier", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page, "pi_3earlier")
	require.Empty(t, s.events.events, "looking changes nothing")
	status, page = s.do(t, http.MethodPost, "/shop/pay/pi_3earlier", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page, "gone through")
	<-s.events.came
	<-s.events.came
	require.Equal(t, "payment_intent.succeeded", s.events.events[1].Type)
	_, page = s.do(t, http.MethodPost, "/shop/pay/pi_3earlier", "")
	require.Contains(t, page, "already")
	status, _ = s.do(t, http.MethodPost, "/shop/pay/"+url.PathEscape("pi_<script>"), "")
	require.Equal(t, http.StatusNotFound, status)
}

func TestOtherSitesCannotUseTheDemo(t *testing.T) {
	t.Parallel()
	s := setup(t)
	status, _ := s.do(t, http.MethodPost, "/shop/checkout", "{}", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, status)
	status, _ = s.do(t, http.MethodGet, "/mail", "", "Host", "evil.example")
	require.Equal(t, http.StatusMisdirectedRequest, status)
}

func TestTheInboxShowsMailInASandbox(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, page := s.do(t, http.MethodGet, "/mail", "")
	require.Contains(t, page, "No mail yet")
	send(t, catcher(t, s.mailbox).URL())
	ids, err := s.mailbox.IDs()
	require.NoError(t, err)
	_, page = s.do(t, http.MethodGet, "/mail", "")
	require.Contains(t, page, "Zahlung fällig: 42,00 €")
	require.Contains(t, page, `href="/mail/`+ids[0]+`"`)
	require.Contains(t, page, `data-have="1"`)
	come, _ := s.do(t, http.MethodGet, "/mail/new?have=0", "")
	require.Equal(t, http.StatusOK, come, "a mail that came before the page asked is not waited for")

	_, page = s.do(t, http.MethodGet, "/mail/"+ids[0], "")
	require.Contains(t, page, `sandbox="allow-popups`)
	require.Contains(t, page, "Return-Path")

	answer, err := s.Client().Get(s.URL + "/mail/" + ids[0] + "/html")
	require.NoError(t, err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Contains(t, string(content), `<head><base target="_blank">`)
	require.Contains(t, answer.Header.Get("Content-Security-Policy"), "sandbox allow-popups")
	require.NotContains(t, answer.Header.Get("Content-Security-Policy"), "allow-scripts")

	status, _ := s.do(t, http.MethodGet, "/mail/nonsense", "")
	require.Equal(t, http.StatusNotFound, status)
}

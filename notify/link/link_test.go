package link

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"rebound/decline"
)

const goodToken = "3q2-7w_abcdefghijklmno"

// tokens is the store's side: tests decide what it holds.
type tokens struct {
	mu           sync.Mutex
	target       Target
	err          error
	silent       bool // nothing is answered until nobody waits
	unsubscribed []string
	asked        []string
}

func (s *tokens) find(ctx context.Context, token string) (Target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return Target{}, ctx.Err()
	}
	s.asked = append(s.asked, token)
	if s.err != nil {
		return Target{}, s.err
	}
	if token != goodToken {
		return Target{}, ErrUnknown
	}
	return s.target, nil
}

func (s *tokens) ResolvePayment(ctx context.Context, token string) (Target, error) {
	return s.find(ctx, token)
}

func (s *tokens) ResolveUnsubscribe(ctx context.Context, token string) (Target, error) {
	return s.find(ctx, token)
}

func (s *tokens) Unsubscribe(ctx context.Context, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.unsubscribed = append(s.unsubscribed, token)
	return nil
}

type site struct {
	*tokens
	routes  *echo.Echo
	url     string
	reports []string
}

func routed(target Target) *site {
	s := &site{tokens: &tokens{target: target}, routes: echo.New()}
	(&Handler{Tokens: s.tokens, Report: func(err error) { s.reports = append(s.reports, err.Error()) }}).Register(s.routes)
	return s
}

func setup(t *testing.T, target Target) *site {
	t.Helper()
	s := routed(target)
	server := httptest.NewServer(s.routes)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func sample(state State) Target {
	return Target{
		State: state, PaymentID: "pi_3abc", PaymentURL: "https://shop.example/pay/{payment_id}?from=mail",
		Locale: "en", MerchantName: "Maple & Co <b>", SupportEmail: "help@shop.example",
	}
}

// do makes one request and follows no redirect; every answer must carry the guarding headers.
func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
	require.Equal(t, "no-referrer", response.Header.Get("Referrer-Policy"))
	require.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "noindex, nofollow", response.Header.Get("X-Robots-Tag"))
	require.Regexp(t, `^default-src 'none'; style-src 'sha256-[^']{44}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'$`, response.Header.Get("Content-Security-Policy"))
	return response, string(text)
}

func TestAnOpenPaymentLeadsToTheMerchantsPage(t *testing.T) {
	t.Parallel()
	s := setup(t, sample(Open))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		response, _ := do(t, method, s.url+"/pay/"+goodToken+"?payment_id=pi_other&next=https://evil.example", "")
		require.Equal(t, http.StatusSeeOther, response.StatusCode)
		require.Equal(t, "https://shop.example/pay/pi_3abc?from=mail", response.Header.Get("Location"))
	}
}

func TestASettledPaymentIsToldInTheMailsLanguage(t *testing.T) {
	t.Parallel()
	for state, want := range map[State]struct {
		status int
		text   func(decline.Phrases) string
	}{
		Recovered: {http.StatusOK, func(p decline.Phrases) string { return p.PageRecovered }},
		Canceled:  {http.StatusOK, func(p decline.Phrases) string { return p.PageClosed }},
		Expired:   {http.StatusGone, func(p decline.Phrases) string { return p.PageExpired }},
	} {
		for _, locale := range decline.Locales() {
			target := sample(state)
			target.Locale = locale
			s := setup(t, target)
			response, body := do(t, http.MethodGet, s.url+"/pay/"+goodToken, "", "Accept-Language", "ja")
			require.Equal(t, want.status, response.StatusCode)
			require.Equal(t, "text/html; charset=UTF-8", response.Header.Get("Content-Type"))
			phrases := decline.PhrasesFor(locale)
			dir := "ltr"
			if phrases.RightToLeft {
				dir = "rtl"
			}
			require.Contains(t, body, `<html lang="`+phrases.Locale+`" dir="`+dir+`">`)
			require.Contains(t, unescape(body), want.text(phrases))
			require.Contains(t, body, "Maple &amp; Co &lt;b&gt;")
			require.Contains(t, body, "help@shop.example")
			require.NotContains(t, body, "<form")
			require.NotContains(t, body, "<script")
			require.NotContains(t, body, goodToken)
			require.NotContains(t, body, "pi_3abc")
			require.NotContains(t, body, "ZgotmplZ")
		}
	}
}

func unescape(s string) string {
	return strings.NewReplacer("&#39;", "'", "&#34;", `"`, "&amp;", "&").Replace(s)
}

func TestUnknownAndMalformedTokensReadLikeExpiredOnes(t *testing.T) {
	t.Parallel()
	s := setup(t, sample(Open))
	var bodies []string
	for _, token := range []string{"AAAAAAAAAAAAAAAAAAAAAA", "x", strings.Repeat("a", 129), "a%00b", "a'b", "..%2f..", "%E2%82%AC"} {
		response, body := do(t, http.MethodGet, s.url+"/pay/"+token, "", "Accept-Language", "de-CH, en;q=0.5")
		require.Equal(t, http.StatusGone, response.StatusCode, token)
		bodies = append(bodies, body)
		response, _ = do(t, http.MethodPost, s.url+"/unsubscribe/"+token, "")
		require.Equal(t, http.StatusGone, response.StatusCode, token)
	}
	for _, body := range bodies {
		require.Equal(t, bodies[0], body)
		require.Contains(t, body, decline.PhrasesFor(decline.MatchLocale("de")).PageExpired)
	}
	require.Empty(t, s.unsubscribed)
	require.Empty(t, s.reports)
	require.Len(t, s.asked, 4, "only well-formed tokens are looked up")
}

func TestOnlyAPostUnsubscribes(t *testing.T) {
	t.Parallel()
	s := setup(t, sample(Open))
	address := s.url + "/unsubscribe/" + goodToken
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} {
		response, body := do(t, method, address, "")
		require.Equal(t, http.StatusOK, response.StatusCode)
		if method == http.MethodGet {
			require.Contains(t, body, `<form method="post">`)
			require.Contains(t, body, decline.PhrasesFor("en").Unsubscribe)
			require.Contains(t, unescape(body), decline.Fill(decline.PhrasesFor("en").PageUnsubAsk, "Maple & Co &lt;b&gt;", "", ""))
		}
	}
	require.Empty(t, s.unsubscribed)

	for _, post := range [][2]string{
		{"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"},
		{"", "application/x-www-form-urlencoded"},
		{"--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n", "multipart/form-data; boundary=x"},
	} {
		response, body := do(t, http.MethodPost, address, post[0], "Content-Type", post[1])
		require.Equal(t, http.StatusOK, response.StatusCode, "no redirect, RFC 8058 section 3.1")
		require.Contains(t, body, decline.PhrasesFor("en").PageUnsubDone)
		require.NotContains(t, body, "<form")
	}
	require.Equal(t, []string{goodToken, goodToken, goodToken}, s.unsubscribed)
}

// answer gives a request straight to the routes.
func (s *site) answer(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.routes.ServeHTTP(w, r)
	return w
}

func TestWhoClosesThePageAtOnceIsUnsubscribedAllTheSame(t *testing.T) {
	t.Parallel()
	s := routed(sample(Open))
	gone, leave := context.WithCancel(t.Context())
	leave()
	s.answer(httptest.NewRequestWithContext(gone, http.MethodPost, "/unsubscribe/"+goodToken, nil))
	require.Equal(t, []string{goodToken}, s.unsubscribed)
	for _, path := range []string{"/pay/", "/unsubscribe/"} {
		s.answer(httptest.NewRequestWithContext(gone, http.MethodGet, path+goodToken, nil))
	}
	require.Empty(t, s.reports, "a visitor who leaves is no fault")
}

func TestNobodyWaitsForASilentStoreForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := routed(sample(Open))
		s.silent = true
		for _, request := range [][2]string{{http.MethodGet, "/pay/"}, {http.MethodGet, "/unsubscribe/"}, {http.MethodPost, "/unsubscribe/"}} {
			w := s.answer(httptest.NewRequest(request[0], request[1]+goodToken, nil))
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			require.NotEmpty(t, w.Header().Get("Retry-After"))
		}
		require.Len(t, s.reports, 3)
	})
}

func TestAStoreInTroubleAsksForAnotherTryAndSaysNothing(t *testing.T) {
	t.Parallel()
	s := setup(t, sample(Open))
	s.err = errors.New("dialling postgres secret-host")
	for _, request := range [][2]string{{http.MethodGet, "/pay/"}, {http.MethodGet, "/unsubscribe/"}, {http.MethodPost, "/unsubscribe/"}} {
		response, body := do(t, request[0], s.url+request[1]+goodToken, "")
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		require.Equal(t, "30", response.Header.Get("Retry-After"))
		require.NotContains(t, body, "secret-host")
	}
	require.Len(t, s.reports, 3)
	require.NotContains(t, strings.Join(s.reports, " "), goodToken)

	broken := setup(t, Target{State: Open, PaymentID: "pi_1", PaymentURL: "javascript:alert(1)"})
	response, _ := do(t, http.MethodGet, broken.url+"/pay/"+goodToken, "")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Empty(t, response.Header.Get("Location"))
	strange := setup(t, Target{State: "odd"})
	response, _ = do(t, http.MethodGet, strange.url+"/pay/"+goodToken, "")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
}

func TestAPaymentIDCannotLeaveItsPlace(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"https://shop.example/pay/{payment_id}", "pi_3Abc-9.x~", "https://shop.example/pay/pi_3Abc-9.x~"},
		{"https://shop.example/pay/{payment_id}/now?id={payment_id}#{payment_id}", "a/b&c=d#e f", "https://shop.example/pay/a%2Fb%26c%3Dd%23e%20f/now?id=a%2Fb%26c%3Dd%23e%20f#a%2Fb%26c%3Dd%23e%20f"},
		{"https://shop.example/{payment_id}", "é\r\n%", "https://shop.example/%C3%A9%0D%0A%25"},
		{"http://127.0.0.1:9000/account", "pi_1", "http://127.0.0.1:9000/account"},
		{"https://shop.example", "pi_1", "https://shop.example"},
	} {
		got, err := PaymentURL(c[0], c[1])
		require.NoError(t, err, c[0])
		require.Equal(t, c[2], got)
	}
	for _, id := range []string{"", ".", ".."} {
		_, err := PaymentURL("https://shop.example/{payment_id}/x", id)
		require.Error(t, err)
	}
	for _, bad := range []string{
		"", "shop.example/{payment_id}", "//shop.example/{payment_id}", "javascript:alert({payment_id})", "ftp://shop.example/", "https://{payment_id}.evil.example/",
		"https://user:pw@shop.example/{payment_id}", "https://shop.example/{id}", "https://shop.example/{payment_id", "https://shop.example/a b", "https://shop.example/\r\nX: y", `https://shop.example\@evil.example/`, "https:///x",
		"https://shop.example:{payment_id}/", "{payment_id}://shop.example/",
	} {
		require.Error(t, CheckPaymentURL(bad), bad)
	}
}

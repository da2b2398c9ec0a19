package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"rebound/store/storetest"
)

// marked stands in every hostile body and query: no answer may repeat it.
const marked = "m4rked"

// nonsense is a request as its bytes. Of some the sender stops sending.
type nonsense struct {
	address, method, text string
	ends                  bool
}

// answer is what a request met: 0 where there was no answer.
func (n nonsense) answer() (status int, text string) {
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		return 0, err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = io.WriteString(conn, n.text) // the server need not take all of it
		if tcp, ok := conn.(*net.TCPConn); ok && n.ends {
			_ = tcp.CloseWrite()
		}
	}()
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, &http.Request{Method: n.method})
	if err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(reader, &http.Request{Method: n.method})
	}
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	resp.Header.Del("Location") // a log-in comes back to what was asked for
	return resp.StatusCode, fmt.Sprint(resp.Header, string(body))
}

// The routes are those that the program has, so that a new one is asked too.
func TestNoRouteAnswersNonsenseByAFaultOfItsOwnOrRepeatsIt(t *testing.T) {
	t.Parallel()
	env := serveEnv(storetest.New(t), newKey(), nil, setting{"FRAME_WEBHOOK_SECRET", "whsec_frame_0123456789abcdefghijklmnop"},
		setting{"CHECKOUT_ORIGINS", "https://shop.example"}, setting{"API_TOKEN", e2eToken + ",token-of-one-account@acct_1"})
	c, err := loadConfig(env, forServing)
	require.NoError(t, err)
	lines := newLogLines()
	log, err := newLogger(lines, c.LogLevel, c.LogFormat)
	require.NoError(t, err)
	public, admin, err := listen(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	running, ended := make(chan *server, 1), make(chan error, 1)
	go func() {
		ended <- serve(ctx, c, serveOptions{role: "all", db: &database{dsn: c.DatabaseURL}, public: public, admin: admin, log: log,
			ready: func(s *server) { running <- s }})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	s := <-running

	var asks []nonsense
	ask := func(address, method, target, header, body string, ends bool) {
		if body == "" {
			body = "\r\n"
		}
		asks = append(asks, nonsense{address, method, method + " " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + header + body, ends})
	}
	routes := 0
	for _, of := range []struct {
		address string
		handler http.Handler
		callers []string
	}{{public.Addr().String(), s.public.Handler, callers[:2]}, {admin.Addr().String(), s.admin.Handler, callers}} {
		router, ok := of.handler.(*echo.Echo)
		require.True(t, ok)
		for _, route := range router.Routes() {
			routes++
			path := inPlaces(route.Path, "x_1")
			for _, who := range of.callers {
				for _, param := range oddParams {
					ask(of.address, route.Method, inPlaces(route.Path, param), who, "", false)
				}
				for _, query := range oddQueries {
					ask(of.address, route.Method, path+query, who, "", false)
				}
				for _, header := range oddHeaders {
					ask(of.address, route.Method, path, who+header, "", false)
				}
				for _, body := range oddBodies {
					ask(of.address, route.Method, path, who, body, false)
				}
				for _, body := range brokenBodies {
					ask(of.address, route.Method, path, who, body, true)
				}
				for _, method := range oddMethods {
					ask(of.address, method, path, who, "", false)
				}
			}
		}
		for _, target := range []string{"*", "?x", "x", "//", "/%2f", "/\\", "/..;/console", "/console/../v1/failures", "//console", "http://evil.example/console", "mailto:x", "/" + strings.Repeat("a/", 9000)} {
			ask(of.address, http.MethodGet, target, "", "", false)
			ask(of.address, http.MethodConnect, target, "", "", false)
		}
	}
	require.Greater(t, routes, 30)

	work := make(chan nonsense)
	var mu sync.Mutex
	var faults []string
	var workers sync.WaitGroup
	for range 4 { // as many as /metrics answers at once
		workers.Go(func() {
			for n := range work {
				if status, text := n.answer(); status < 200 || status >= 500 || strings.Contains(text, marked) {
					mu.Lock()
					faults = append(faults, fmt.Sprintf("%.200q: %d %.300s", n.text, status, text))
					mu.Unlock()
				}
			}
		})
	}
	for _, n := range asks {
		work <- n
	}
	close(work)
	workers.Wait()
	t.Logf("%d requests to %d routes", len(asks), routes)
	require.Empty(t, faults[:min(len(faults), 10)], "%d in all", len(faults))
	require.Empty(t, lines.errors(), "and none is a fault to look for")
	var rows int
	require.NoError(t, s.store.Pool().QueryRow(t.Context(), `SELECT (SELECT count(*) FROM facts) + (SELECT count(*) FROM quarantine)
		+ (SELECT count(*) FROM contacts) + (SELECT count(*) FROM suppressions)`).Scan(&rows))
	require.Zero(t, rows, "nothing of it is kept")
}

// inPlaces fills the parameters of a route.
func inPlaces(route, value string) string {
	parts := strings.Split(route, "/")
	for i, part := range parts {
		if strings.HasPrefix(part, ":") {
			parts[i] = value
		}
	}
	return strings.Join(parts, "/")
}

func withLength(header, body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", header, len(body), body)
}

var (
	callers = []string{
		"", "Authorization: Bearer " + e2eToken + "\r\n", "Authorization: Bearer token-of-one-account\r\n",
		"Cookie: rebound_session=9999999999.AAAA; rebound_session=\"\r\n",
	}
	oddMethods = []string{"HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FOO", "get"}
	oddParams  = []string{
		"", "..", "%2e%2e", "%2F", "a%2Fb", "%00", "%ff", "%ED%A0%80", "%", "%zz", "%25", "+", "*", "a;b", "a:b", "'--", "%22%3Cscript%3E", "\xff\xfe",
		strings.Repeat("a", 300), strings.Repeat("%41", 2000),
	}
	oddQueries = []string{
		"?", "?;", "?%zz", "?%00=" + marked, "?a\xff=\xfe", "?x#y", "?token=" + marked, "?next=//evil.example/" + marked, "?client_secret=pi_1_secret_" + marked,
		"?limit=99999999999999999999", "?limit=1&limit=2", "?starting_after=nt_x", "?starting_after=fl_x'--", "?account=%00", "?account=", "?livemode=maybe",
		"?locale=%ff", "?locale=%ED%A0%80", "?created[gte]=253402300799&created[lt]=0&customer=cus_1", "?created[lt]=253402300799&customer=cus_%F0%9F%98%80",
		"?customer=" + strings.Repeat("a", 20000), "?" + strings.Repeat("a=1&", 5000),
	}
	oddHeaders = []string{
		"Accept-Language: " + strings.Repeat("a,;", 5000) + "\r\n", "Origin: null\r\n", "Origin: https://shop.example\r\nOrigin: https://evil.example\r\n",
		"Last-Event-ID: \xff\r\n", "Cookie: " + strings.Repeat("a=b;", 5000) + "\r\n", "Range: bytes=0-1,5-9999999999999\r\n", "If-None-Match: *\r\n",
		"Sec-Fetch-Site: cross-site\r\n", "Upgrade: websocket\r\n", "Stripe-Signature: t=1,v1=\xff\r\nX-Frame-Signature: sha256=\xff\r\n",
		"Content-Type: a\r\nContent-Type: b\r\n", "Authorization: Bearer wrong\r\n", "Authorization: Bearer pi_1_secret_\r\n", "Authorization: Basic OjpA\r\n", "X-Forwarded-Proto: https, \"\r\nForwarded: for=" + marked + "\r\n", "Expect: " + marked + "\r\n",
	}
	oddBodies = []string{
		withLength("", marked), withLength("Content-Type: text/xml\r\n", marked), withLength("Content-Type: \x01/;;;\r\n", marked),
		withLength("Content-Encoding: gzip\r\n", marked), withLength("Expect: 100-continue\r\n", marked),
		withLength("Content-Type: application/json\r\n", `{"email":"`+marked+`"}`), withLength("Content-Type: application/json\r\n", `{"locale":"\ud800`+marked+`"}`),
		withLength("Content-Type: application/json\r\n", strings.Repeat("[", 15000)), withLength("Content-Type: application/json\r\n", "\xff\x00"+marked),
		withLength("Content-Type: application/x-www-form-urlencoded\r\n", "token=%zz&next="+marked),
		withLength("Content-Type: application/x-www-form-urlencoded\r\n", strings.Repeat("token="+marked+"&", 20000)),
		withLength("Content-Type: multipart/form-data; boundary=x\r\n", "--x\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n"+marked+"\r\n--x--\r\n"),
		"Content-Length: 6\r\nContent-Length: 7\r\n\r\n" + marked, "Content-Length: -1\r\n\r\n" + marked,
	}
	brokenBodies = []string{
		"Content-Length: 100\r\n\r\n" + marked, "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"email\":\"" + marked,
		"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + marked, "Transfer-Encoding: chunked\r\n\r\n50\r\n" + marked, "Transfer-Encoding: chunked\r\n\r\n2\r\n" + marked + "\r\n0\r\n\r\n",
	}
)

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/notify/email/smtptest"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// asProgram makes the test binary behave as the program: a process that can be killed, without building another.
const asProgram = "REBOUND_TEST_BINARY_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	storetest.Main(m)
}

const (
	e2eSecret = "whsec_e2e_0123456789abcdefghijklmnop"
	e2eToken  = "token-for-the-end-to-end-tests"
)

// logLines collects a program's JSON log and lets a test wait for a line.
type logLines struct {
	mu    sync.Mutex
	lines []map[string]any
	rest  []byte
	grown chan struct{}
}

func newLogLines() *logLines { return &logLines{grown: make(chan struct{})} }

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			break
		}
		var m map[string]any
		if json.Unmarshal(line, &m) != nil {
			m = map[string]any{"msg": string(line), "level": "text"}
		}
		l.lines, l.rest = append(l.lines, m), rest
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return len(p), nil
}

// wait returns the first line with the message.
func (l *logLines) wait(t *testing.T, message string) map[string]any {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for from := 0; ; {
		l.mu.Lock()
		lines, grown := l.lines[from:], l.grown
		l.mu.Unlock()
		for _, line := range lines {
			if line["msg"] == message {
				return line
			}
		}
		from += len(lines)
		select {
		case <-grown:
		case <-timeout:
			require.Failf(t, "the line never came", "%q; the log: %v", message, lines)
		}
	}
}

func (l *logLines) errors() (out []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if level, _ := line["level"].(string); level == "error" || level == "fatal" || level == "panic" || level == "text" {
			out = append(out, line)
		}
	}
	return out
}

// replica is one running `rebound serve`, in this process.
type replica struct {
	public, admin string
	log           *logLines
	stop          func()
}

type setting struct{ name, value string }

func serveEnv(dsn, key string, peer *smtptest.Peer, settings ...setting) []string {
	env := map[string]string{
		"DATABASE_URL": dsn, "ENCRYPTION_KEY": key, "STRIPE_WEBHOOK_SECRET": e2eSecret, "MODE": "test",
		"LISTEN_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "API_TOKEN": e2eToken, "LOG_FORMAT": "json",
		"NOTIFY_HOLD": "1s", "NOTIFY_HOLD_WEAK": "1s", "REMINDERS": "",
	}
	if peer != nil {
		env["SMTP_URL"], env["MAIL_FROM"], env["MAIL_REPLY_TO"] = peer.URL(), "payments@shop.example", "help@shop.example"
		env["MERCHANT_NAME"], env["PAYMENT_URL"] = "Example Shop", "https://shop.example/pay/{payment_id}"
	}
	for _, s := range settings {
		env[s.name] = s.value
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

func boot(t *testing.T, env []string) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{log: newLogLines()}
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"serve"}, env, io.Discard, r.log) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(r.stop)
	line := r.log.wait(t, "server.listening")
	r.public, r.admin = "http://"+line["listen_addr"].(string), "http://"+line["admin_addr"].(string)
	return r
}

// post signs and sends one event; it returns the status.
func (r *replica) post(t *testing.T, body []byte) int {
	t.Helper()
	status, err := postTo(r.public, body)
	require.NoError(t, err)
	return status
}

func postTo(public string, body []byte) (int, error) {
	req, err := http.NewRequest(http.MethodPost, public+"/webhooks/stripe", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("Stripe-Signature", sample.Sign(body, e2eSecret, time.Now()))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, nil
}

// get reads a JSON answer of the merchant API.
func (r *replica) get(t *testing.T, path string, into any) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.admin+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+e2eToken)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if into != nil && resp.StatusCode == http.StatusOK {
		require.NoError(t, json.Unmarshal(body, into), string(body))
	}
	return resp.StatusCode
}

type apiFailure struct {
	ID       string
	Payment  string `json:"payment_id"`
	Charge   *string
	Amount   int64
	Currency string
	Decline  struct {
		Type        string
		Code        string
		FailureCode *string `json:"failure_code"`
		Disclosable bool
	}
	CustomerMessage struct{ Code, Locale, Text string } `json:"customer_message"`
	Presence        struct{ Verdict string }
	PaymentStatus   string `json:"payment_status"`
	Notifications   []struct {
		ID, Channel, Template, Status string
		Reason                        *string
	}
	Events []string
}

func (r *replica) failures(t *testing.T, payment string) []apiFailure {
	t.Helper()
	var list struct{ Data []apiFailure }
	require.Equal(t, http.StatusOK, r.get(t, "/v1/failures?limit=100&payment_id="+payment, &list))
	return list.Data
}

// told is what stands for a channel, e.g. "email:suppressed:on_session".
func (f apiFailure) told() map[string]string {
	told := make(map[string]string)
	for _, n := range f.Notifications {
		if n.Reason != nil {
			told[n.Channel] = n.Status + ":" + *n.Reason
			continue
		}
		told[n.Channel] = n.Status
	}
	return told
}

func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{{}}
	}
	var out [][]int
	for _, p := range permutations(n - 1) {
		for i := range n {
			q := append(append(append([]int{}, p[:i]...), n-1), p[i:]...)
			out = append(out, q)
		}
	}
	return out
}

func newKey() string { return seal.GenerateKey() }

func TestEachSampleCaseInAnyOrderPostedTwice(t *testing.T) {
	t.Parallel()
	want := map[string]struct {
		presence, decline string
		told              map[string]string
		mails             int
	}{
		"pair":           {"on_session", "insufficient_funds", map[string]string{"checkout": "sent", "email": "suppressed:on_session"}, 0},
		"block":          {"on_session", "generic_decline", map[string]string{"checkout": "sent", "email": "suppressed:on_session"}, 0},
		"authentication": {"off_session", "authentication_not_handled", map[string]string{"inbox": "delivered", "email": "sent"}, 1},
		"three-d-secure": {"on_session", "payment_intent_authentication_failure", map[string]string{"checkout": "sent", "email": "suppressed:on_session"}, 0},
		"charge-only":    {"off_session", "expired_card", map[string]string{"inbox": "delivered", "email": "sent"}, 1},
		"sepa":           {"off_session", "incorrect_account_holder_name", map[string]string{"inbox": "delivered", "email": "sent"}, 1},
		"renewal":        {"off_session", "do_not_honor", map[string]string{"inbox": "delivered", "email": "suppressed:billing_by_stripe"}, 0},
		"connect":        {"off_session", "generic_decline", map[string]string{"inbox": "delivered", "email": "suppressed:no_account_profile"}, 0},
	}
	require.Len(t, want, len(sample.Cases()))
	peer := smtptest.New(t, smtptest.Options{})
	r := boot(t, serveEnv(storetest.New(t), newKey(), peer))

	type posted struct {
		*sample.Payment
		order []int
	}
	var payments []posted
	mails := 0
	for _, c := range sample.Cases() {
		first, err := sample.Build(c.Name, sample.Params{Seed: 1, Now: time.Now()})
		require.NoError(t, err)
		for i, order := range permutations(len(first.Events)) {
			p, err := sample.Build(c.Name, sample.Params{Seed: uint64(i), Now: time.Now(), Email: fmt.Sprintf("%s-%d@example.com", c.Name, i)})
			require.NoError(t, err)
			for range 2 {
				for _, at := range order {
					require.Equal(t, http.StatusOK, r.post(t, p.Events[at].Body), "%s %s", c.Name, p.Events[at].Type)
				}
			}
			payments = append(payments, posted{p, order})
			mails += want[c.Name].mails
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	_, err := peer.WaitHeld(ctx, mails)
	require.NoError(t, err)
	for _, p := range payments {
		expected := want[p.Case]
		var got []apiFailure
		require.Eventually(t, func() bool {
			got = r.failures(t, p.PaymentID())
			return len(got) == 1 && got[0].told()["email"] != "held"
		}, 30*time.Second, 50*time.Millisecond, "%s %v", p.Case, p.order)
		require.Len(t, got, 1, "%s %v", p.Case, p.order)
		require.Equal(t, expected.presence, got[0].Presence.Verdict, "%s %v", p.Case, p.order)
		require.Equal(t, expected.told, got[0].told(), "%s %v", p.Case, p.order)
		require.Equal(t, expected.decline, got[0].CustomerMessage.Code, "%s %v", p.Case, p.order)
		require.Equal(t, p.Amount, got[0].Amount)
		require.Equal(t, p.Currency, got[0].Currency)
		to := 0
		for _, m := range peer.Held() {
			if m.To == p.Email {
				to++
			}
		}
		require.Equal(t, expected.mails, to, "%s %v", p.Case, p.order)
	}
	require.Len(t, peer.Held(), mails)
	require.Empty(t, r.log.errors())
	for _, m := range peer.Held() {
		require.NotContains(t, strings.ToLower(string(m.Raw)), "_secret_")
	}
}

func TestInLiveModeLiveEventsAreMailed(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	r := boot(t, serveEnv(storetest.New(t), newKey(), peer, setting{"MODE", "live"}))
	p, err := sample.Build("authentication", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	live := regexp.MustCompile(`"livemode": *false`)
	for _, e := range p.Events {
		require.Equal(t, http.StatusOK, r.post(t, live.ReplaceAll(e.Body, []byte(`"livemode":true`))))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = peer.WaitHeld(ctx, 1)
	require.NoError(t, err)
}

package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"rebound/notify/email"
	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	allToken     = "everything-0123456789"
	accountToken = "one-account-0123456789"
	ownAccount   = "acct_own"
)

// start is the moment that the tests' clock shows.
var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// bench is the admin listener on a database of its own.
type bench struct {
	t      *testing.T
	store  *store.Store
	server *httptest.Server
	logs   *observer.ObservedLogs
	token  string
}

// setup starts the listener with two tokens; change may alter its configuration.
func setup(t *testing.T, change ...func(*Config)) *bench {
	t.Helper()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	now := func() time.Time { return start }
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 4, Now: now})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	core, logs := observer.New(zap.InfoLevel)
	c := Config{
		Store: s, Tokens: tokens(t, allToken, accountToken+"@"+ownAccount), Livemode: true, Now: now, Log: zap.New(core), ValidEmail: mailable,
		Metrics: prometheus.NewRegistry(), Health: NewHealth(func(context.Context) error { return nil }, now, nil),
	}
	for _, f := range change {
		f(&c)
	}
	server := httptest.NewServer(New(c))
	t.Cleanup(server.Close)
	return &bench{t: t, store: s, server: server, logs: logs, token: allToken}
}

func mailable(address string) bool {
	_, ok := email.ValidAddress(address)
	return ok
}

func tokens(t *testing.T, items ...string) []Token {
	t.Helper()
	var out []Token
	for _, item := range items {
		token, err := ParseToken(item)
		require.NoError(t, err)
		out = append(out, token)
	}
	return out
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t require.TestingT) map[string]any {
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &m), a.body)
	return m
}

// ids are the ids of a list's objects.
func (a answer) ids(t *testing.T) []string {
	t.Helper()
	require.Equal(t, http.StatusOK, a.status, a.body)
	out := []string{}
	for _, o := range a.json(t)["data"].([]any) {
		out = append(out, o.(map[string]any)["id"].(string))
	}
	return out
}

// call sends a request; of the API's answers each is held against its description.
func (b *bench) call(method, path, body string, change ...func(*http.Request)) answer {
	b.t.Helper()
	a := b.send(b.t, method, path, body, change...)
	if strings.HasPrefix(path, "/v1/") || strings.HasSuffix(path, "z") {
		described(b.t, method, path, a)
	}
	return a
}

func (b *bench) send(t require.TestingT, method, path, body string, change ...func(*http.Request)) answer {
	r, err := http.NewRequest(method, b.server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(r)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, string(read)}
}

func (b *bench) get(path string, params ...string) answer {
	b.t.Helper()
	return b.call(http.MethodGet, withQuery(path, params...), "")
}

func withQuery(path string, params ...string) string {
	if len(params) == 0 {
		return path
	}
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	return path + "?" + q.Encode()
}

// save writes rows as they are.
func (b *bench) save(c store.Changes) {
	b.t.Helper()
	require.NoError(b.t, b.store.InIngest(b.t.Context(), func(in *store.Ingest) error { return in.Save(b.t.Context(), c) }))
}

func key(payment string) store.PaymentKey {
	return store.PaymentKey{PaymentID: payment, Source: "stripe", Livemode: true}
}

// failed is an insufficient_funds failure of an off-session charge.
func failed(id, payment string) store.Attempt {
	return store.Attempt{
		ID: id, PaymentKey: key(payment), AttemptKey: "ch_" + id, Result: "failed", OccurredAt: start.Add(-time.Hour), ReceivedAt: start.Add(-time.Hour),
		PaymentIntent: payment, Charge: "ch_" + id, Customer: "cus_1", Amount: 2000, Currency: "usd",
		FailureCode: "card_declined", DeclineCode: "insufficient_funds", OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds",
		NetworkStatus: "declined_by_network", RiskLevel: "normal", AdviceCode: "try_again_later", NetworkDeclineCode: "51",
		ErrorType: "card_error", ErrorMessage: "Your card has insufficient funds.", ErrorDocURL: "https://stripe.com/docs/error-codes/card-declined",
		MethodID: "pm_1", MethodType: "card", Brand: "visa", Network: "visa", Last4: "0341", ExpMonth: 4, ExpYear: 2027, Country: "US",
		Funding: "credit", Fingerprint: "fp_1", CVCCheck: "pass",
		Type: "issuer_declined", Code: "insufficient_funds", Category: "insufficient_funds", Severity: "soft", Disclosable: true,
		NextStep: "use_another_payment_method", MerchantNextStep: "Wait for the customer.", DecidedBy: "decline_code:stripe",
		PublicCode: "insufficient_funds", PublicNextStep: "use_another_payment_method", PublicRetry: true,
		Presence: "off_session", Evidence: []string{"saved_method=weak"},
		RetryVerdict: "retry_later", AttemptsUsed: 1, AttemptsLeft: 3, Events: []string{"evt_" + id},
	}
}

func payment(id string) store.Payment {
	return store.Payment{PaymentKey: key(id), Status: "failing", PaymentIntent: id, Customer: "cus_1", Amount: 2000, Currency: "usd", CreatedAt: start}
}

// add writes failures, each with the payment it belongs to unless that is there.
func (b *bench) add(attempts ...store.Attempt) {
	b.t.Helper()
	for _, a := range attempts {
		var there bool
		require.NoError(b.t, b.store.Pool().QueryRow(b.t.Context(), `SELECT EXISTS (SELECT 1 FROM payments
			WHERE payment_id = $1 AND source = $2 AND account = $3 AND livemode = $4)`, a.PaymentID, a.Source, a.Account, a.Livemode).Scan(&there))
		if !there {
			p := payment(a.PaymentID)
			p.PaymentKey, p.Customer = a.PaymentKey, a.Customer
			b.save(store.Changes{Payments: []store.Payment{p}})
		}
		a.PaymentStatus = cmp.Or(a.PaymentStatus, "failing")
		b.save(store.Changes{Attempts: []store.Attempt{a}})
	}
}

func notification(id string, a store.Attempt, channel, status string) store.Notification {
	return store.Notification{ID: id, PaymentKey: a.PaymentKey, FailureID: a.ID, Channel: channel, Template: "first", Status: status, DueAt: start,
		Customer: a.Customer, ShownCode: a.PublicCode, CreatedAt: start, UpdatedAt: start}
}

// change gives a copy of an attempt.
func change(a store.Attempt, f func(*store.Attempt)) store.Attempt {
	f(&a)
	return a
}

// indented makes JSON comparable by eye, with its members in the order in which they were sent.
func indented(t *testing.T, body string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, []byte(strings.TrimSpace(body)), "", " "))
	return out.String()
}

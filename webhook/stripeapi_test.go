package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/handler"
	"rebound/store/job"
)

const testKey = "sk_test_SENTINEL_key"

// api is a look-up client whose Stripe is this test's own.
type api struct {
	*StripeAPI
	logs *observer.ObservedLogs

	mu    sync.Mutex
	calls []string
	seen  []http.Header
}

func (a *api) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.calls...)
}

// fakeAPI answers each path with its own handler; others get Stripe's 404.
func fakeAPI(t *testing.T, paths map[string]http.HandlerFunc, change ...func(*APIConfig)) *api {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	a := &api{logs: logs}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.calls = append(a.calls, r.URL.RequestURI())
		a.seen = append(a.seen, r.Header.Clone())
		a.mu.Unlock()
		if answer, ok := paths[r.URL.Path]; ok {
			answer(w, r)
			return
		}
		answerWith(404, `{"error":{"code":"resource_missing","type":"invalid_request_error","message":"SENTINEL"}}`)(w, r)
	}))
	t.Cleanup(server.Close)
	c := APIConfig{Key: testKey, Base: server.URL, Decode: testOptions(), Now: func() time.Time { return testNow }, Log: zap.New(core)}
	for _, f := range change {
		f(&c)
	}
	var err error
	a.StripeAPI, err = NewStripeAPI(c)
	require.NoError(t, err)
	return a
}

func answerWith(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Request-Id", "req_9")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func askFor(customer, invoice, intent string) job.LookUpContact {
	return job.LookUpContact{PaymentID: "pi_1", Source: "stripe", Account: "acct_shop", Livemode: true, Customer: customer, Invoice: invoice, Intent: intent}
}

const (
	apiCustomer = `{"id":"cus_1","object":"customer","created":1600000000,"email":"buyer@example.com","name":"SENTINEL","preferred_locales":["fr-CA","en"],"livemode":true}`
	apiInvoice  = `{"id":"in_1","object":"invoice","status":"open","billing_reason":"subscription_cycle","customer":"cus_1","customer_email":"billing@example.com","amount_due":900,"currency":"usd","payment_intent":"pi_later","livemode":true}`
	apiSession  = `{"object":"list","data":[{"id":"cs_1","object":"checkout.session","status":"complete","locale":"nl","payment_intent":"pi_1","customer_details":{"email":"visitor@example.com","name":"SENTINEL"},"livemode":true}]}`
	apiIntent   = `{"id":"pi_1","object":"payment_intent","status":"requires_payment_method","invoice":"in_1","customer":"cus_1","client_secret":"SENTINEL","livemode":true}`
	emptyList   = `{"object":"list","data":[],"has_more":false}`
)

func TestACustomerIsLookedUpInItsAccount(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(200, apiCustomer)})
	d, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
	require.NoError(t, err)
	require.Equal(t, &handler.Customer{CustomerID: "cus_1", Source: "stripe", Account: "acct_shop", Livemode: true,
		Created: 1600000000, RecordCreated: testNow.Unix(), RecordEvent: "api", Email: "buyer@example.com", Locale: "fr-CA,en"}, d.Customer)
	require.Empty(t, d.Facts)
	require.Equal(t, []string{"/v1/customers/cus_1"}, a.asked())
	require.Equal(t, "acct_shop", a.seen[0].Get("Stripe-Account"))
	require.Equal(t, "Bearer "+testKey, a.seen[0].Get("Authorization"))
	require.NotContains(t, fmt.Sprint(a.logs.All()), "@")
}

func TestAnAnswerIsAsOldAsItsQuestion(t *testing.T) {
	t.Parallel()
	now := testNow
	late := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			now = now.Add(20 * time.Second)
			answerWith(200, body)(w, r)
		}
	}
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/invoices/in_1": late(apiInvoice), "/v1/customers/cus_1": late(apiCustomer)},
		func(c *APIConfig) { c.Now = func() time.Time { return now } })
	d, err := a.LookUp(t.Context(), askFor("cus_1", "in_1", ""))
	require.NoError(t, err)
	require.Equal(t, testNow.Unix(), d.Facts[0].Created)
	require.Equal(t, testNow.Add(20*time.Second).Unix(), d.Customer.RecordCreated, "a deletion in the meantime is newer")
}

func TestAnIDCannotBreakOutOfItsPath(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, nil)
	_, err := a.LookUp(t.Context(), askFor("../../v1/refunds?x=1", "", ""))
	require.Error(t, err)
	require.Equal(t, []string{"/v1/customers/..%2F..%2Fv1%2Frefunds%3Fx%3D1"}, a.asked())
}

func TestTheFirmsOwnAccountIsNotNamed(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(200, apiCustomer)})
	ask := askFor("cus_1", "", "")
	ask.Account = ""
	_, err := a.LookUp(t.Context(), ask)
	require.NoError(t, err)
	require.NotContains(t, a.seen[0], "Stripe-Account")
}

func TestADeletedCustomerIsRecordedAndNobodyElseIsLookedFor(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{
		"/v1/payment_intents/pi_1": answerWith(200, `{"id":"pi_1","livemode":true}`),
		"/v1/customers/cus_1":      answerWith(200, `{"id":"cus_1","object":"customer","deleted":true}`),
	})
	d, err := a.LookUp(t.Context(), askFor("cus_1", "", "pi_1"))
	require.NoError(t, err)
	require.True(t, d.Customer.Deleted)
	require.Len(t, a.asked(), 2)
}

func TestAnInvoiceGivesFactsForItselfAndThePaymentAskedFor(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/invoices/in_1": answerWith(200, apiInvoice), "/v1/customers/cus_1": answerWith(200, apiCustomer)})
	d, err := a.LookUp(t.Context(), askFor("", "in_1", "pi_1"))
	require.NoError(t, err)
	require.Len(t, d.Facts, 2)
	own, payment := d.Facts[0], d.Facts[1]
	require.Equal(t, []string{"in_1", "pi_1"}, []string{own.PaymentID, payment.PaymentID})
	require.Equal(t, "pi_1", payment.PaymentIntent, "not the later one that the invoice names")
	for _, f := range d.Facts {
		require.Equal(t, []string{"invoice", "in_1", "in_1", "open", "subscription_cycle", "acct_shop", "invoice.read", "2024-06-20", ""},
			[]string{f.Object, f.ObjectID, f.Invoice, f.Status, f.BillingReason, f.Account, f.EventType, f.APIVersion, f.RequestOrigin})
		require.Equal(t, &handler.Contact{Customer: "billing@example.com"}, f.Addresses)
		require.Equal(t, testNow.Unix(), f.Created)
		require.True(t, strings.HasPrefix(f.EventID, "api:in_1:open"), f.EventID)
	}
	require.Equal(t, "buyer@example.com", d.Customer.Email, "the invoice names its customer")
	require.Equal(t, []string{"/v1/invoices/in_1", "/v1/customers/cus_1"}, a.asked())

	paid := fakeAPI(t, map[string]http.HandlerFunc{"/v1/invoices/in_1": answerWith(200, `{"id":"in_1","status":"paid","livemode":true}`)})
	d, err = paid.LookUp(t.Context(), askFor("", "in_1", ""))
	require.NoError(t, err)
	require.Equal(t, "invoice.paid", d.Facts[0].EventType, "what is settled says so as the event does")
}

func TestAnIntentNamesTheInvoiceThatItsChargeNoLongerDoes(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{
		"/v1/payment_intents/pi_1": answerWith(200, apiIntent), "/v1/invoices/in_1": answerWith(200, apiInvoice),
		"/v1/customers/cus_1": answerWith(200, apiCustomer),
	})
	d, err := a.LookUp(t.Context(), askFor("", "", "pi_1"))
	require.NoError(t, err)
	require.Equal(t, []string{"/v1/payment_intents/pi_1", "/v1/invoices/in_1", "/v1/customers/cus_1"}, a.asked())
	require.Len(t, d.Facts, 3)
	require.Equal(t, "payment_intent.read", d.Facts[0].EventType)
	require.Equal(t, "in_1", d.Facts[0].Invoice)
	require.NotContains(t, fmt.Sprintf("%+v %+v", d, a.logs.All()), "SENTINEL")
}

func TestACheckoutSessionIsAskedForWhenNobodyElseHasAnAddress(t *testing.T) {
	t.Parallel()
	paths := map[string]http.HandlerFunc{
		"/v1/payment_intents/pi_1": answerWith(200, `{"id":"pi_1","livemode":true}`), "/v1/checkout/sessions": answerWith(200, apiSession),
	}
	a := fakeAPI(t, paths)
	d, err := a.LookUp(t.Context(), askFor("", "", "pi_1"))
	require.NoError(t, err)
	require.Contains(t, []string{
		"/v1/checkout/sessions?payment_intent=pi_1&limit=1", "/v1/checkout/sessions?limit=1&payment_intent=pi_1",
	}, a.asked()[1])
	f := d.Facts[1]
	require.Equal(t, []string{"pi_1", "checkout_session", "cs_1", "nl", "visitor@example.com"},
		[]string{f.PaymentID, f.Object, f.ObjectID, f.SessionLocale, f.Addresses.Customer})

	paths["/v1/checkout/sessions"] = answerWith(200, emptyList)
	d, err = fakeAPI(t, paths).LookUp(t.Context(), askFor("", "", "pi_1"))
	require.NoError(t, err)
	require.Len(t, d.Facts, 1)
}

func TestWhichFailuresAreWorthRepeating(t *testing.T) {
	t.Parallel()
	for status, retryable := range map[int]bool{
		301: false, 400: false, 401: false, 402: false, 403: false, 404: false, 409: true, 424: true, 429: true, 500: true, 502: true, 503: true, 504: true,
	} {
		for _, body := range []string{`{"error":{"code":"some_code","message":"SENTINEL"}}`, "<html>SENTINEL", ""} {
			a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(status, body, "Retry-After", "7", "Location", "/v1/customers/cus_2")})
			d, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
			require.Error(t, err)
			require.Equal(t, retryable, Retryable(err), "%d %s", status, body)
			require.Equal(t, 7*time.Second, RetryAfter(err))
			require.Empty(t, d)
			e, ok := errors.AsType[*APIError](err)
			require.True(t, ok)
			require.Equal(t, status, e.Status)
			require.Equal(t, "req_9", e.RequestID)
			require.Len(t, a.asked(), 1, "neither repeated here nor redirected")
			require.NotContains(t, err.Error()+fmt.Sprint(a.logs.All()), "SENTINEL")
		}
	}
	require.False(t, Retryable(nil))
	require.False(t, Retryable(errors.New("a fault of ours")))
	require.Zero(t, RetryAfter(errors.New("a fault of ours")))
}

func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}
	t.Cleanup(func() { close(stop) })
	for name, c := range map[string]http.HandlerFunc{
		"hang": hang, "not JSON": answerWith(200, "<html>SENTINEL"), "cut off": answerWith(200, `{"id":"cus_1","email":"SENTINEL`),
		"a list": answerWith(200, `[{"id":"cus_1"}]`), "no id": answerWith(200, `{"email":"SENTINEL"}`), "empty": answerWith(200, ""),
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"id":"cus_1","x":"`))
			for range 3 << 10 {
				_, _ = w.Write(make([]byte, 1<<10))
			}
		},
		"dropped": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		},
	} {
		a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": c}, func(c *APIConfig) { c.Timeout = 200 * time.Millisecond })
		d, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
		require.Error(t, err, name)
		require.True(t, Retryable(err), name)
		require.Empty(t, d, name)
		require.NotContains(t, err.Error()+fmt.Sprint(a.logs.All()), "SENTINEL", name)
		require.NotContains(t, err.Error(), testKey, name)
	}
}

func TestACallWithoutAnAnswerNamesNoCustomer(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, nil, func(c *APIConfig) { c.Base = "http://127.0.0.1:1" })
	_, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
	require.True(t, Retryable(err))
	require.ErrorContains(t, err, "connection refused")
	require.NotContains(t, err.Error(), "cus_1", "the queue keeps it with the job, which an erasure leaves alone while it runs")
}

func TestOneMissingObjectDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(200, apiCustomer)})
	d, err := a.LookUp(t.Context(), askFor("cus_1", "in_gone", "pi_1"))
	require.Error(t, err)
	require.False(t, Retryable(err))
	require.Equal(t, "buyer@example.com", d.Customer.Email)

	a = fakeAPI(t, map[string]http.HandlerFunc{"/v1/invoices/in_1": answerWith(200, apiInvoice), "/v1/customers/cus_1": answerWith(503, "")})
	d, err = a.LookUp(t.Context(), askFor("cus_1", "in_1", "pi_1"))
	require.True(t, Retryable(err), "the job comes again")

	a = fakeAPI(t, map[string]http.HandlerFunc{"/v1/invoices/in_1": answerWith(404, ""), "/v1/customers/cus_1": answerWith(503, "")})
	_, gone := a.LookUp(t.Context(), askFor("cus_1", "in_1", "pi_1"))
	require.True(t, Retryable(gone), "what is gone for good does not hide what is only away")
	require.Len(t, d.Facts, 2, "what was found is there all the same")
}

func TestAnObjectOfTheOtherModeIsNotUsed(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(200, `{"id":"cus_1","email":"t@example.com","livemode":false}`)})
	d, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
	require.ErrorIs(t, err, ErrOtherMode)
	require.False(t, Retryable(err))
	require.Nil(t, d.Customer)
}

func TestAnOutageStopsTheCallsUntilItIsOver(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	status := 503
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		answerWith(status, apiCustomer)(w, r)
	}}, func(c *APIConfig) { c.BreakerAfter, c.BreakerDelay = 3, time.Millisecond })
	for range 3 {
		_, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
		require.True(t, Retryable(err))
	}
	require.Equal(t, "open", a.breaker.State().String())

	mu.Lock()
	status = 200
	mu.Unlock()
	require.Eventually(t, func() bool {
		_, err := a.LookUp(t.Context(), askFor("cus_1", "", ""))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, "closed", a.breaker.State().String())

	long := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_1": answerWith(503, "")}, func(c *APIConfig) { c.BreakerAfter = 1 })
	for range 5 {
		_, err := long.LookUp(t.Context(), askFor("cus_1", "", ""))
		require.True(t, Retryable(err))
		if len(long.asked()) == 1 && RetryAfter(err) > 0 {
			require.LessOrEqual(t, RetryAfter(err), 30*time.Second)
		}
	}
	require.Len(t, long.asked(), 1, "no call while it is open")
}

func TestRefusalsDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	a := fakeAPI(t, map[string]http.HandlerFunc{"/v1/customers/cus_l": answerWith(409, "")}, func(c *APIConfig) { c.BreakerAfter = 1 })
	for _, id := range []string{"cus_missing", "cus_l", "cus_missing"} {
		_, err := a.LookUp(t.Context(), askFor(id, "", ""))
		require.Error(t, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.LookUp(gone, askFor("cus_1", "", ""))
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, Retryable(err))
	require.Equal(t, "closed", a.breaker.State().String())
}

func TestAnAPIWithoutAKeyOrABaseIsRefused(t *testing.T) {
	t.Parallel()
	_, err := NewStripeAPI(APIConfig{})
	require.Error(t, err)
	for _, base := range []string{"api.stripe.com", "ftp://x", "http://", "::"} {
		_, err := NewStripeAPI(APIConfig{Key: testKey, Base: base})
		require.Error(t, err, base)
	}
	a, err := NewStripeAPI(APIConfig{Key: testKey})
	require.NoError(t, err)
	ask := askFor("cus_1", "", "")
	ask.Source = "frame"
	_, err = a.LookUp(t.Context(), ask)
	require.Error(t, err)
	require.False(t, Retryable(err))
}

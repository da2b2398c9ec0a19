package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"rebound/handler"
	"rebound/notify/checkout"
	"rebound/notify/link"
	"rebound/store"
	"rebound/store/job"
	"rebound/store/seal"
	"rebound/store/storetest"
	"rebound/webhook"
)

var linkTime = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// mailedLink gives the resolver of a store that holds one unsent mail of a failing payment, and the token of that mail,
// which expires at the given moment.
func mailedLink(t *testing.T, expires time.Time) (mailLinks, string) {
	t.Helper()
	return mailedLinkOf(t, "", expires)
}

func mailedLinkOf(t *testing.T, account string, expires time.Time) (mailLinks, string) {
	t.Helper()
	keys, err := seal.ParseKeys(newKey())
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 4, Now: func() time.Time { return linkTime }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe", Account: account}
	require.NoError(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		return in.Save(t.Context(), store.Changes{
			Payments: []store.Payment{{PaymentKey: k, Status: "failing", PaymentIntent: "pi_1", CreatedAt: linkTime}},
			Notifications: []store.Notification{{ID: "nt_1", PaymentKey: k, Channel: store.ChannelEmail, Template: "first", Status: store.Held,
				DueAt: linkTime, CreatedAt: linkTime, UpdatedAt: linkTime}},
		})
	}))
	token, err := s.NewLink(t.Context(), "nt_1", expires)
	require.NoError(t, err)
	return mailLinks{store: s, config: &config{PaymentURL: "https://shop.example/{payment_id}"}}, token
}

func TestAPaymentLinkIsOpenUntilItExpires(t *testing.T) {
	t.Parallel()
	for want, expires := range map[link.State]time.Time{link.Open: linkTime.Add(time.Second), link.Expired: linkTime} {
		links, token := mailedLink(t, expires)
		target, err := links.ResolvePayment(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, want, target.State)
		_, err = links.ResolveUnsubscribe(t.Context(), token)
		require.NoError(t, err, "a wish to hear no more does not expire")
	}
}

// Whoever has paid by another way is not led to pay again: what a payment is for may be paid without the payment.
func TestALinkLeadsNobodyToPayWhatIsPaidOtherwise(t *testing.T) {
	t.Parallel()
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	of := func(id string) store.PaymentKey { return store.PaymentKey{PaymentID: id, Source: "stripe"} }
	for name, try := range map[string]struct {
		invoice string
		changes store.Changes
		want    link.State
	}{
		"an open invoice": {"in_1", store.Changes{Invoices: []store.Invoice{{PaymentKey: of("in_1"), Status: "open"}}}, link.Open},
		"an invoice paid out of band": {
			"in_1", store.Changes{Invoices: []store.Invoice{{PaymentKey: of("in_1"), Status: "paid", SettledCreated: 5}}}, link.Recovered,
		},
		"a voided invoice": {
			"in_1", store.Changes{Invoices: []store.Invoice{{PaymentKey: of("in_1"), Status: "void", SettledCreated: 5}}}, link.Canceled,
		},
		"an invoice given up": { // it can still be paid
			"in_1", store.Changes{Invoices: []store.Invoice{{PaymentKey: of("in_1"), Status: "uncollectible", SettledCreated: 5}}}, link.Open,
		},
		"another payment of the invoice": {
			"in_1", store.Changes{Payments: []store.Payment{{PaymentKey: of("pi_2"), Status: "recovered", Invoice: "in_1", SucceededCreated: 5}}}, link.Recovered,
		},
		"another payment of the order": {
			"", store.Changes{Payments: []store.Payment{{PaymentKey: of("pi_2"), Status: "recovered", OrderReference: "order_1", SucceededCreated: 5}}}, link.Recovered,
		},
		"another customer's payment": {
			"", store.Changes{Payments: []store.Payment{{PaymentKey: of("pi_2"), Status: "recovered", SucceededCreated: 5}}}, link.Open,
		},
		"another account's order": {
			"", store.Changes{Payments: []store.Payment{{
				PaymentKey: store.PaymentKey{PaymentID: "pi_2", Source: "stripe", Account: "acct_1"}, Status: "recovered", OrderReference: "order_1", SucceededCreated: 5,
			}}}, link.Open,
		},
	} {
		links, token := mailedLink(t, linkTime.Add(time.Second))
		try.changes.Payments = append(try.changes.Payments, store.Payment{
			PaymentKey: k, Status: "failing", PaymentIntent: "pi_1", Invoice: try.invoice, OrderReference: "order_1", FailedCreated: 4,
		})
		require.NoError(t, links.store.InIngest(t.Context(), func(in *store.Ingest) error {
			in.Doubtful = true
			return in.Save(t.Context(), try.changes)
		}), name)
		target, err := links.ResolvePayment(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, try.want, target.State, name)
	}
}

func TestALinkStopsNoMailBeforeItsOwnWasSent(t *testing.T) {
	t.Parallel()
	links, token := mailedLink(t, linkTime)
	stopped := func() (n int) {
		require.NoError(t, links.store.Pool().QueryRow(t.Context(), `SELECT count(*) FROM suppressions`).Scan(&n))
		return n
	}
	require.ErrorIs(t, links.Unsubscribe(t.Context(), token), link.ErrUnknown)
	require.Zero(t, stopped())

	mailbox := links.store.HashMailbox("payer@example.com")
	_, err := links.store.Pool().Exec(t.Context(), `UPDATE notifications SET mailbox = $1`, mailbox)
	require.NoError(t, err)
	require.NoError(t, links.Unsubscribe(t.Context(), token))
	require.Equal(t, 1, stopped())
}

func TestWhoHeardFromAnAccountWithoutAProfileCanStillEndIt(t *testing.T) {
	t.Parallel()
	links, token := mailedLinkOf(t, "acct_gone", linkTime.Add(time.Hour))
	_, err := links.store.Pool().Exec(t.Context(), `UPDATE notifications SET mailbox = $1`, links.store.HashMailbox("payer@example.com"))
	require.NoError(t, err)
	_, err = links.ResolvePayment(t.Context(), token)
	require.ErrorIs(t, err, link.ErrUnknown, "there is nowhere to lead to")
	links.config.MerchantName = "The Platform"
	target, err := links.ResolveUnsubscribe(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, "The Platform", target.MerchantName)
	require.NoError(t, links.Unsubscribe(t.Context(), token))
	_, err = links.store.Pool().Exec(t.Context(), `UPDATE payments SET status = 'recovered'`)
	require.NoError(t, err)
	target, err = links.ResolvePayment(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, link.Recovered, target.State)
}

// takesAll is a recorder that keeps nothing.
type takesAll struct{}

func (takesAll) Record(context.Context, handler.Delivery) error { return nil }

func TestALookUpWaitsForAsLongAsTheProviderSays(t *testing.T) {
	t.Parallel()
	work := func(retryAfter string) error {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", retryAfter)
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		defer server.Close()
		api, err := webhook.NewStripeAPI(webhook.APIConfig{Key: "sk_test_1", Base: server.URL})
		require.NoError(t, err)
		ask := job.LookUpContact{PaymentID: "pi_1", Source: "stripe", Customer: "cus_1"}
		return (&lookUpWorker{api: api, recorder: takesAll{}}).Work(t.Context(), &river.Job[job.LookUpContact]{Args: ask})
	}
	require.Equal(t, river.JobSnooze(90*time.Second), work("90"))
	var refused *webhook.APIError
	require.ErrorAs(t, work(""), &refused, "River's own back-off decides")
}

func TestAnAttemptsAgeIsByTheClockThatDatedIt(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(newKey())
	require.NoError(t, err)
	behind := func() time.Time { return time.Now().Add(-time.Hour) }
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 4, Now: behind})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.SetClock(t.Context()))
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	require.NoError(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		return in.Save(t.Context(), store.Changes{
			Payments: []store.Payment{{PaymentKey: k, Status: "failing", PaymentIntent: "pi_1", CreatedAt: s.Now()}},
			Attempts: []store.Attempt{{PaymentKey: k, ID: "fl_1", Result: "failed", OccurredAt: s.Now(), ReceivedAt: s.Now(), AttemptsUsed: 1}},
		})
	}))
	states, err := checkoutRows{s}.States(t.Context(), []checkout.Key{checkoutKey(k)})
	require.NoError(t, err)
	require.Len(t, states, 1)
	require.InDelta(t, 0, states[0].Age.Seconds(), 30)
}

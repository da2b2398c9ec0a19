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
	keys, err := seal.ParseKeys(newKey())
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 4, Now: func() time.Time { return linkTime }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	require.NoError(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		return in.Save(t.Context(), store.Changes{
			Payments: []store.Payment{{PaymentKey: k, Status: "failing", PaymentIntent: "pi_1", CreatedAt: linkTime, UpdatedAt: linkTime}},
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

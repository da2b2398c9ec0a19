package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/storetest"
)

// Each of three rows is held in turn while pages' messages and a derivation come to it, the latter in any order: in some,
// each would wait for what the other has locked already.
func TestWhatPagesHaveShownAndADerivationDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	var keys []store.PaymentKey
	var payments []store.Payment
	var notices []store.Notification
	var shown []store.CheckoutShown
	for i := range 3 {
		k := store.PaymentKey{PaymentID: fmt.Sprint("pi_", i), Source: "stripe"}
		keys = append(keys, k)
		payments = append(payments, store.Payment{PaymentKey: k, Status: "failing", CreatedAt: ledgerNow})
		notices = append(notices, store.Notification{
			ID: fmt.Sprint("nt_", i), PaymentKey: k, FailureID: fmt.Sprint("fl_", i), Channel: store.ChannelCheckout, Template: "attempt",
			Status: store.Sent, DueAt: ledgerNow, CreatedAt: ledgerNow, UpdatedAt: ledgerNow,
		})
		shown = append(shown, store.CheckoutShown{PaymentKey: k, AttemptID: fmt.Sprint("fl_", i), Code: "card_declined", At: ledgerNow})
	}
	derive := func(order ...int) error {
		return s.InIngest(t.Context(), func(in *store.Ingest) error {
			if _, err := in.Load(t.Context(), keys, nil, nil, false); err != nil {
				return err
			}
			c := store.Changes{Payments: payments}
			for _, i := range order {
				c.Notifications = append(c.Notifications, notices[i])
			}
			return in.Save(t.Context(), c)
		})
	}
	require.NoError(t, derive(0, 1, 2))
	other, err := pgx.ConnectConfig(t.Context(), s.Pool().Config().ConnConfig)
	require.NoError(t, err)
	defer func() { _ = other.Close(context.Background()) }()
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for held := range 3 {
			tx, err := other.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `SELECT FROM notifications WHERE id = $1 FOR UPDATE`, notices[held].ID)
			require.NoError(t, err)
			done := make(chan error, 2)
			for i, f := range []func() error{
				func() error { return s.MarkCheckoutShown(t.Context(), shown) },
				func() error { return derive(order...) },
			} {
				go func() { done <- f() }()
				untilWaiting(t, tx, i+1)
			}
			require.NoError(t, tx.Commit(t.Context()))
			require.NoError(t, <-done, "order %v, held %d", order, held)
			require.NoError(t, <-done, "order %v, held %d", order, held)
		}
	}
	var marked int
	require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT count(*) FROM notifications WHERE shown_code = 'card_declined'`).Scan(&marked))
	require.Equal(t, 3, marked)
}

// A heartbeat comes to the rows of streams that have ended since, which are being removed.
func TestAHeartbeatAndTheEndOfItsStreamsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := openPool(t, storetest.New(t), 4)
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	a, b := store.CheckoutStream{ID: "cs_a", PaymentKey: k}, store.CheckoutStream{ID: "cs_b", PaymentKey: k}
	other, err := pgx.ConnectConfig(t.Context(), s.Pool().Config().ConnConfig)
	require.NoError(t, err)
	defer func() { _ = other.Close(context.Background()) }()
	for _, order := range [][]store.CheckoutStream{{a, b}, {b, a}} {
		require.NoError(t, s.KeepCheckoutStreams(t.Context(), order))
		tx, err := other.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT FROM checkout_streams WHERE id = 'cs_a' FOR UPDATE`)
		require.NoError(t, err)
		done := make(chan error, 2)
		for i, f := range []func() error{
			func() error { return s.DropCheckoutStreams(t.Context(), []string{"cs_a", "cs_b"}) },
			func() error { return s.KeepCheckoutStreams(t.Context(), order) },
		} {
			go func() { done <- f() }()
			untilWaiting(t, tx, i+1)
		}
		require.NoError(t, tx.Commit(t.Context()))
		require.NoError(t, <-done)
		require.NoError(t, <-done)
	}
}

// untilWaiting returns once so many of the database's sessions wait for a lock.
func untilWaiting(t *testing.T, tx pgx.Tx, sessions int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		_, err := tx.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting))
		return waiting == sessions
	}, 10*time.Second, 10*time.Millisecond)
}

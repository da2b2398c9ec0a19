package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/notify/email/smtptest"
	"rebound/store/storetest"
)

// orderEvents are two failed attempts, each told by charge and intent, and a success, all in
// one second. None of the intents' errors names its charge: only latest_charge does.
func orderEvents(payment string, created int64) [][]byte {
	event := func(name, eventType string, object map[string]any) []byte {
		body, err := json.Marshal(map[string]any{
			"id": "evt_" + name + payment, "object": "event", "api_version": "2024-06-20", "created": created, "livemode": false,
			"type": eventType, "request": map[string]any{"id": nil}, "data": map[string]any{"object": object},
		})
		if err != nil {
			panic(err)
		}
		return body
	}
	method := func(n int) string { return fmt.Sprintf("pm_%d%s", n, payment) }
	charge := func(n int, reason string) []byte {
		return event(fmt.Sprintf("c%d", n), "charge.failed", map[string]any{
			"id": fmt.Sprintf("ch_%d%s", n, payment), "object": "charge", "amount": 4200, "currency": "usd", "created": created,
			"customer": "cus_" + payment, "payment_intent": "pi_" + payment, "payment_method": method(n), "receipt_email": payment + "@example.com",
			"failure_code": "card_declined", "outcome": map[string]any{"type": "issuer_declined", "reason": reason},
			"payment_method_details": map[string]any{"type": "card", "card": map[string]any{"brand": "visa", "last4": "4242"}},
		})
	}
	intent := func(n int, code string) []byte {
		return event(fmt.Sprintf("p%d", n), "payment_intent.payment_failed", map[string]any{
			"id": "pi_" + payment, "object": "payment_intent", "amount": 4200, "currency": "usd", "created": created - 60, "customer": "cus_" + payment,
			"latest_charge": fmt.Sprintf("ch_%d%s", n, payment), "receipt_email": payment + "@example.com",
			"last_payment_error": map[string]any{"type": "card_error", "code": "card_declined", "decline_code": code,
				"payment_method": map[string]any{"id": method(n), "object": "payment_method", "type": "card", "customer": "cus_" + payment, "created": created - 90000}},
		})
	}
	return [][]byte{
		charge(1, "insufficient_funds"), intent(1, "insufficient_funds"), charge(2, "do_not_honor"), intent(2, "do_not_honor"),
		event("ok", "payment_intent.succeeded", map[string]any{
			"id": "pi_" + payment, "object": "payment_intent", "amount": 4200, "currency": "usd", "created": created - 60,
			"customer": "cus_" + payment, "latest_charge": "ch_3" + payment, "status": "succeeded",
		}),
	}
}

// arrangementsOf lists every ordered choice of one or more of n things; five things have 325.
func arrangementsOf(n int) [][]int {
	var all [][]int
	var extend func(order []int)
	extend = func(order []int) {
		for i := range n {
			if !slices.Contains(order, i) {
				next := append(slices.Clone(order), i)
				all = append(all, next)
				extend(next)
			}
		}
	}
	extend(nil)
	return all
}

// TestEveryArrangementOnOneAndTwoReplicas posts all 325 arrangements of all subsets of the five events, plain, doubled,
// and repeated at the end, to one replica and to two in turn: what reads back is a function of the subset alone, and mails
// are 0 when the success is in it, else 1.
func TestEveryArrangementOnOneAndTwoReplicas(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	dsn := storetest.New(t)
	env := serveEnv(dsn, newKey(), peer, setting{"NOTIFY_HOLD", "20s"}, setting{"NOTIFY_HOLD_WEAK", "20s"}, setting{"MAIL_NEW_MAILBOXES_PER_HOUR", "-1"})
	one := boot(t, env)
	two := boot(t, env)

	arrangements := arrangementsOf(5)
	require.Len(t, arrangements, 325)
	type run struct {
		payment string
		order   []int
		subset  string
	}
	var runs []run
	for i, order := range arrangements {
		subset := slices.Clone(order)
		slices.Sort(subset)
		doubled := slices.Concat(order, order)
		for j := range order {
			doubled[2*j], doubled[2*j+1] = order[j], order[j]
		}
		for form, posts := range map[string][]int{"a": order, "b": doubled, "c": slices.Concat(order, order)} {
			runs = append(runs, run{fmt.Sprintf("%s%03d", form, i), posts, fmt.Sprint(subset)})
		}
	}
	created := time.Now().Unix()
	work := make(chan run)
	var posting sync.WaitGroup
	errs := make(chan error, 16)
	for range 16 {
		posting.Go(func() {
			for r := range work {
				events := orderEvents(r.payment, created)
				for at, e := range r.order {
					to := one
					if r.payment[0] != 'a' && at%2 == 1 { // the plain form goes to one replica, the others to both
						to = two
					}
					if status, err := postTo(to.public, events[e]); err != nil || status != http.StatusOK {
						errs <- fmt.Errorf("%s: status %d: %w", r.payment, status, err)
						return
					}
				}
			}
			errs <- nil
		})
	}
	for _, r := range runs {
		work <- r
	}
	close(work)
	posting.Wait()
	for range 16 {
		require.NoError(t, <-errs)
	}

	mailed := 0
	for _, r := range runs {
		if !strings.Contains(r.subset, "4") {
			mailed++
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, err := peer.WaitHeld(ctx, mailed)
	require.NoError(t, err, "%d of %d mails", len(peer.Held()), mailed)
	db, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	defer db.Close(ctx)
	require.Eventually(t, func() bool {
		var open int
		return db.QueryRow(ctx, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held'`).Scan(&open) == nil && open == 0
	}, time.Minute, 50*time.Millisecond)

	bySubset := make(map[string]string)
	for _, r := range runs {
		got := readBack(t, db, r.payment)
		if want, seen := bySubset[r.subset]; seen {
			require.Equal(t, want, got, "%v", r)
		}
		bySubset[r.subset] = got
	}
	require.Len(t, bySubset, 31)
	to := make(map[string]int)
	for _, m := range peer.Held() {
		to[m.To]++
	}
	for _, r := range runs {
		want := 1
		if strings.Contains(r.subset, "4") {
			want = 0
		}
		require.Equal(t, want, to[r.payment+"@example.com"], "%v", r)
	}
}

// readBack is all that a payment has come to, without its name and without times of arrival.
func readBack(t *testing.T, db *pgx.Conn, payment string) string {
	t.Helper()
	var got string
	require.NoError(t, db.QueryRow(context.Background(), `SELECT concat_ws(E'\n',
		(SELECT concat_ws(' ', status, amount, currency) FROM payments WHERE payment_id = $1),
		(SELECT string_agg(concat_ws(' ', result, charge, detail), E'\n' ORDER BY result, charge) FROM attempts WHERE payment_id = $1),
		(SELECT string_agg(concat_ws(' ', channel, template, status, reason, shown_code), E'\n' ORDER BY channel, template) FROM notifications WHERE payment_id = $1))`,
		"pi_"+payment).Scan(&got))
	return strings.ReplaceAll(got, payment, "")
}

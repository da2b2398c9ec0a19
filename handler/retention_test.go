package handler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

const day = 24 * time.Hour

var testRetention = store.Retention{Failures: 400 * day, Addresses: 30 * day, Quarantine: 30 * day}

// clocked is a bench whose time is the test's.
type clocked struct {
	bench
	now *atomic.Pointer[time.Time]
	log *observer.ObservedLogs // the store's
}

func setupClocked(t *testing.T) clocked {
	t.Helper()
	now := new(atomic.Pointer[time.Time])
	now.Store(&testNow)
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	core, log := observer.New(zapcore.DebugLevel)
	s, err := store.Open(context.Background(), store.Config{
		DSN: storetest.New(t), Keys: keys, MaxConns: 6, Now: func() time.Time { return *now.Load() }, Log: zap.New(core),
	})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return clocked{bench{store: s, recorder: newRecorder(t, s)}, now, log}
}

func (c clocked) after(d time.Duration) {
	at := testNow.Add(d)
	c.now.Store(&at)
}

func (c clocked) sweep(t *testing.T) store.Swept {
	t.Helper()
	swept, err := c.store.Sweep(context.Background(), testRetention)
	require.NoError(t, err)
	return swept
}

func (c clocked) rows(t *testing.T) map[string]int {
	t.Helper()
	rows := make(map[string]int)
	for _, table := range []string{"facts", "payments", "attempts", "notifications", "links", "invoices", "tombstones", "quarantine"} {
		if n := c.count(t, `SELECT count(*) FROM `+table); n > 0 {
			rows[table] = n
		}
	}
	return rows
}

func (c clocked) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := c.store.Pool().Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func of(payment string, f Fact) Fact {
	f.PaymentID, f.PaymentIntent = payment, payment
	f.EventID += payment
	if f.Charge != "" {
		f.Charge += payment
	}
	if f.LatestCharge != "" {
		f.LatestCharge += payment
	}
	return f
}

func reachable(f Fact) Fact {
	f.Addresses = &Contact{Billing: "jenny@example.com"}
	return f
}

func TestAnOldPaymentGoesWithAllThatHangsOnIt(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.record(t, of("pi_old", chargeFailed(1, "insufficient_funds")), of("pi_old", intentFailed(1, "insufficient_funds")))
	id := ""
	require.NoError(t, c.store.Pool().QueryRow(context.Background(), `SELECT id FROM notifications WHERE channel = 'email'`).Scan(&id))
	_, err := c.store.NewLink(context.Background(), id, testNow)
	require.NoError(t, err)
	c.after(day)
	c.record(t, of("pi_young", chargeFailed(1, "insufficient_funds")))

	c.after(400 * day)
	require.Zero(t, c.sweep(t), "not a moment too early")
	c.after(400*day + time.Second)
	require.Equal(t, store.Swept{Payments: 1}, c.sweep(t))
	require.Equal(t, map[string]int{"facts": 1, "payments": 1, "attempts": 1, "notifications": 2}, c.rows(t))
	require.Zero(t, c.sweep(t))
	c.after(402 * day)
	require.Equal(t, store.Swept{Payments: 1}, c.sweep(t))
	require.Empty(t, c.rows(t))
}

func TestAPaymentThatStillGetsEventsStaysWhole(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.record(t, chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"))
	c.after(100 * day)
	c.record(t, chargeFailed(2, "insufficient_funds"))
	before := c.state(t)
	c.after(450 * day)
	require.Zero(t, c.sweep(t))
	require.Equal(t, before, c.state(t))
	c.after(501 * day)
	require.Equal(t, store.Swept{Payments: 1}, c.sweep(t))
	require.Empty(t, c.rows(t))
}

func TestASweepTakesEverythingInBatchesAndPassesWhatStays(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	var facts []Fact
	for i := range 330 {
		facts = append(facts, of(fmt.Sprintf("pi_%03d", i), chargeFailed(1, "insufficient_funds")))
	}
	d := Delivery{Facts: facts}
	require.NoError(t, c.recorder.Record(context.Background(), d))
	// More than a batch of payments that live on, all at the head of the walk.
	c.after(day)
	for i := range 150 {
		f := of(fmt.Sprintf("pi_%03d", i), chargeFailed(2, "insufficient_funds"))
		f.ReceivedAt = time.Time{}
		facts[i] = f
	}
	require.NoError(t, c.recorder.Record(context.Background(), Delivery{Facts: facts[:150]}))
	c.after(400*day + time.Hour)
	require.Equal(t, store.Swept{Payments: 180}, c.sweep(t))
	require.Equal(t, 150, c.rows(t)["payments"])
	require.Equal(t, 300, c.rows(t)["facts"])
}

func TestAnInvoiceGoesAfterItsPayments(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	inv := fact("evt_in", "invoice.payment_failed", "invoice")
	inv.PaymentID, inv.PaymentIntent, inv.Invoice, inv.ObjectID, inv.Status = "in_1", "", "in_1", "in_1", "open"
	charge := chargeFailed(1, "insufficient_funds")
	charge.Invoice = "in_1"
	c.record(t, inv)
	c.after(100 * day)
	c.record(t, charge)
	// invoices.created_at is Postgres' own time, which is not the test's.
	_, err := c.store.Pool().Exec(context.Background(), `UPDATE invoices SET created_at = $1`, testNow)
	require.NoError(t, err)
	c.after(450 * day)
	require.Zero(t, c.sweep(t), "the payment still refers to it")
	c.after(501 * day)
	require.Equal(t, store.Swept{Payments: 1, Invoices: 1}, c.sweep(t))
	require.Empty(t, c.rows(t))
}

// A sweep has locked the row that two replicas wait for, and takes it away: one of them is to make it anew, and the other to wait.
func TestAnInvoiceThatIsSweptAsItIsPaidIsKeptAsPaid(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	other := newRecorder(t, c.store)
	event := func(id, eventType, status string) Fact {
		f := fact(id, eventType, "invoice")
		f.PaymentID, f.PaymentIntent, f.Invoice, f.ObjectID, f.Status, f.ReceivedAt = "in_1", "", "in_1", "in_1", status, time.Time{}
		return f
	}
	c.record(t, event("evt_old", "invoice.created", "draft"))
	// Each stops where it has read what is known, until the test lets it go on.
	c.exec(t, `CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int); RETURN NEW; END $$`)
	c.exec(t, `CREATE TRIGGER paid BEFORE INSERT ON facts FOR EACH ROW WHEN (NEW.event_id = 'evt_paid') EXECUTE FUNCTION stop(7)`)
	c.exec(t, `CREATE TRIGGER open BEFORE INSERT ON facts FOR EACH ROW WHEN (NEW.event_id = 'evt_open') EXECUTE FUNCTION stop(8)`)
	stop, err := c.store.Pool().Acquire(t.Context())
	require.NoError(t, err)
	defer stop.Release()
	_, err = stop.Exec(t.Context(), `SELECT pg_advisory_lock(7), pg_advisory_lock(8)`)
	require.NoError(t, err)
	defer func() { _, _ = stop.Exec(context.Background(), `SELECT pg_advisory_unlock_all()`) }()
	const waiting = `SELECT count(*) FROM pg_stat_activity w WHERE datname = current_database() AND wait_event_type = 'Lock'`
	const atStop, behind = waiting + ` AND wait_event = 'advisory'`, waiting + ` AND EXISTS (
		SELECT FROM pg_stat_activity s WHERE s.wait_event = 'advisory' AND s.pid = ANY (pg_blocking_pids(w.pid)))`

	sweep, err := c.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = sweep.Rollback(context.Background()) }()
	_, err = sweep.Exec(t.Context(), `SELECT FROM invoices FOR UPDATE`)
	require.NoError(t, err)
	paid, open := make(chan error, 1), make(chan error, 1)
	go func() {
		paid <- c.recorder.Record(t.Context(), Delivery{Facts: []Fact{event("evt_paid", "invoice.paid", "paid")}})
	}()
	go func() {
		open <- other.Record(t.Context(), Delivery{Facts: []Fact{event("evt_open", "invoice.payment_failed", "open")}})
	}()
	require.Eventually(t, func() bool { return c.count(t, waiting) == 2 }, 2*time.Second, time.Millisecond)
	_, err = sweep.Exec(t.Context(), `DELETE FROM invoices`)
	require.NoError(t, err)
	_, err = sweep.Exec(t.Context(), `DELETE FROM facts`)
	require.NoError(t, err)
	require.NoError(t, sweep.Commit(t.Context()))
	require.Eventually(t, func() bool { return c.count(t, atStop)+c.count(t, behind) == 2 }, 2*time.Second, time.Millisecond)
	_, err = stop.Exec(t.Context(), `SELECT pg_advisory_unlock(7)`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(paid) == 1 || c.count(t, behind) == 1 }, 2*time.Second, time.Millisecond)
	_, err = stop.Exec(t.Context(), `SELECT pg_advisory_unlock(8)`)
	require.NoError(t, err)
	require.NoError(t, <-paid)
	require.NoError(t, <-open)
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM invoices WHERE settled_created > 0`), "it is paid")
	require.Equal(t, 2, c.count(t, `SELECT count(*) FROM facts`))
}

func TestAClaimedMailKeepsItsPayment(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.record(t, chargeFailed(1, "insufficient_funds"))
	ctx := context.Background()
	_, err := c.store.Pool().Exec(ctx, `UPDATE notifications SET owner = 7 WHERE channel = 'email'`)
	require.NoError(t, err)
	c.after(500 * day)
	require.Zero(t, c.sweep(t))
	_, err = c.store.Pool().Exec(ctx, `UPDATE notifications SET owner = 0`)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Payments: 1}, c.sweep(t))
}

func TestASweepNeverTakesHalfOfAPaymentThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	const payments = 120
	c := setupClocked(t)
	var old []Fact
	for i := range payments {
		old = append(old, of(fmt.Sprintf("pi_%03d", i), chargeFailed(1, "insufficient_funds")))
		old[i].ReceivedAt = time.Time{}
	}
	require.NoError(t, c.recorder.Record(context.Background(), Delivery{Facts: old}))
	c.after(401 * day)
	var writers sync.WaitGroup
	for i := range payments {
		writers.Go(func() {
			f := of(fmt.Sprintf("pi_%03d", i), intentFailed(1, "insufficient_funds"))
			f.ReceivedAt = time.Time{}
			if err := c.recorder.Record(context.Background(), Delivery{Facts: []Fact{f}}); err != nil {
				t.Error(err)
			}
		})
	}
	swept := 0
	for range 5 {
		swept += c.sweep(t).Payments
	}
	writers.Wait()
	require.Equal(t, payments, c.count(t, `SELECT count(*) FROM payments`), "each has an event of today")
	// Each attempt tells of exactly the events whose facts are there.
	require.Zero(t, c.count(t, `SELECT count(*) FROM attempts a WHERE detail::json->>'evs' <>
		(SELECT string_agg(f.event_id, ' ' ORDER BY f.event_id) FROM facts f WHERE f.payment_id = a.payment_id)`))
	require.Equal(t, 2*payments-swept, c.count(t, `SELECT count(*) FROM facts`))
	t.Logf("%d of %d were swept before their late event came", swept, payments)
}

func TestAddressesAreErasedAfterTheLastNotification(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	ctx := context.Background()
	sealed := func() int { return c.count(t, `SELECT count(*) FROM facts WHERE contact IS NOT NULL`) }
	c.record(t, reachable(chargeFailed(1, "insufficient_funds")), reachable(of("pi_held", chargeFailed(1, "insufficient_funds"))))
	require.Equal(t, 2, sealed())
	_, err := c.store.Pool().Exec(ctx, `UPDATE notifications SET status = 'sent', sent_at = $1 WHERE payment_id = 'pi_1' AND channel = 'email'`, testNow.Add(7*day))
	require.NoError(t, err)
	c.after(37 * day)
	require.Zero(t, c.sweep(t))
	c.after(37*day + time.Second)
	require.Equal(t, store.Swept{Addresses: 1}, c.sweep(t))
	require.Equal(t, 1, sealed(), "a mail that may still go out keeps its address")
	to, err := c.store.Recipient(ctx, testKey, "")
	require.NoError(t, err)
	require.Empty(t, to.Emails)
	before := c.state(t)
	c.record(t, reachable(chargeFailed(1, "insufficient_funds")))
	require.Equal(t, 1, sealed(), "an event that is sent again does not bring it back")
	require.Equal(t, before, c.state(t))
	_, err = c.store.ExpireHeld(ctx, day)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Addresses: 1}, c.sweep(t))
}

// An invoice's own events have named no payment since 2025-03-31: what is told of one is told of its payment.
func TestAnInvoicesAddressIsErasedAfterTheLastNotificationOfItsPayment(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	charge, invoice := chargeFailed(1, "insufficient_funds"), reachable(fact("evt_in", "invoice.payment_failed", "invoice"))
	charge.Invoice, charge.Addresses = "in_1", nil
	invoice.PaymentID, invoice.Invoice, invoice.PaymentIntent = "in_1", "in_1", ""
	c.record(t, charge, invoice)
	c.exec(t, `UPDATE notifications SET status = 'held' WHERE channel = 'email'`)
	c.after(31 * day)
	require.Zero(t, c.sweep(t), "a mail that may still go out")
	c.exec(t, `UPDATE notifications SET status = 'sent', sent_at = $1`, testNow.Add(7*day))
	require.Zero(t, c.sweep(t), "it was told of a while ago")
	c.after(37*day + time.Second)
	require.Equal(t, store.Swept{Addresses: 1}, c.sweep(t))
}

func TestACustomersAddressIsErasedAfterTheLastNotification(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	ctx := context.Background()
	for _, id := range []string{"cus_1", "cus_never_told"} {
		require.NoError(t, c.recorder.Record(ctx, Delivery{Customer: &Customer{
			CustomerID: id, Source: "stripe", RecordCreated: 1, RecordEvent: "evt_1", Email: "jenny@example.com",
		}}))
		require.NoError(t, c.store.PutContact(ctx, store.CustomerKey{CustomerID: id, Source: "stripe"}, "put@example.com", "", ""))
	}
	c.record(t, chargeFailed(1, "insufficient_funds"))
	_, err := c.store.Pool().Exec(ctx, `UPDATE notifications SET status = 'sent', sent_at = $1 WHERE channel = 'email'`, testNow.Add(day))
	require.NoError(t, err)
	c.after(31 * day)
	require.Zero(t, c.sweep(t))
	c.after(31*day + time.Second)
	require.Equal(t, store.Swept{Addresses: 1}, c.sweep(t))
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM customers WHERE contact IS NOT NULL AND customer_id = 'cus_never_told'`))
	require.Equal(t, 2, c.count(t, `SELECT count(*) FROM contacts WHERE contact IS NOT NULL`), "the merchant's own word stands")
	// The provider's next word brings it back.
	require.NoError(t, c.recorder.Record(ctx, Delivery{Customer: &Customer{
		CustomerID: "cus_1", Source: "stripe", RecordCreated: 2, RecordEvent: "evt_2", Email: "jenny@example.com",
	}}))
	require.Equal(t, 2, c.count(t, `SELECT count(*) FROM customers WHERE contact IS NOT NULL`))
}

// toldLongAgo makes a customer with an address, whom a mail told of a failure at the test's beginning.
func (c clocked) toldLongAgo(t *testing.T, customer string) {
	t.Helper()
	require.NoError(t, c.recorder.Record(t.Context(), Delivery{Customer: &Customer{
		CustomerID: customer, Source: "stripe", RecordCreated: 1, RecordEvent: "evt_1", Email: customer + "@example.com",
	}}))
	f := of("pi_of_"+customer, chargeFailed(1, "insufficient_funds"))
	f.Customer = customer
	c.record(t, f)
	c.exec(t, `UPDATE notifications SET status = 'sent', sent_at = $1 WHERE channel = 'email'`, testNow)
}

func TestASweepWaitsForNoCustomer(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	for i := range 3 {
		c.toldLongAgo(t, fmt.Sprint("cus_", i))
	}
	tx, err := c.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM customers WHERE customer_id = 'cus_1' FOR UPDATE`)
	require.NoError(t, err)
	c.after(31 * day)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	swept, err := c.store.Sweep(ctx, testRetention)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Addresses: 2}, swept)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, store.Swept{Addresses: 1}, c.sweep(t))
}

func TestCustomersWhoKeepTheirAddressAreWalkedInFewTransactions(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.exec(t, `INSERT INTO customers SELECT 'cus_' || lpad(i::text, 4, '0'), 'stripe', '', false, 1, 'evt', false, 'sealed', '', 1 FROM generate_series(1, 2000) i`)
	for i := range 60 {
		c.toldLongAgo(t, fmt.Sprintf("cus_%04d_told", 30*i))
	}
	c.after(31 * day)
	require.Equal(t, store.Swept{Addresses: 60}, c.sweep(t))
	require.Zero(t, c.sweep(t))
	require.Equal(t, 2000, c.count(t, `SELECT count(*) FROM customers WHERE contact IS NOT NULL`))
	require.Less(t, c.log.FilterMessage("sweep.batch").Len(), 30)
}

func TestADeletedCustomersAddressIsNotKept(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	for _, deleted := range []bool{false, true} {
		require.NoError(t, c.recorder.Record(t.Context(), Delivery{Customer: &Customer{
			CustomerID: fmt.Sprint("cus_", deleted), Source: "stripe", RecordCreated: 1, RecordEvent: "evt_1", Deleted: deleted, Email: "jenny@example.com",
		}}))
	}
	c.sweep(t)
	require.Equal(t, []string{"cus_false"}, c.column(t, `SELECT customer_id FROM customers WHERE contact IS NOT NULL`))
}

// A new failure comes while the sweep is in the same batch as its payment.
func TestTheAddressOfAMailThatIsHeldDuringASweepStays(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := setupClocked(t)
	c.record(t, reachable(of("pi_1", chargeFailed(1, "insufficient_funds"))), reachable(of("pi_2", chargeFailed(1, "insufficient_funds"))))
	c.exec(t, `UPDATE notifications SET status = 'suppressed', reason = 'too_old' WHERE channel = 'email'`)
	// The sweep stops at the first payment's address until the test lets it go on.
	c.exec(t, `CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$`)
	c.exec(t, `CREATE TRIGGER stop BEFORE UPDATE ON facts FOR EACH ROW WHEN (OLD.payment_id = 'pi_1') EXECUTE FUNCTION stop()`)
	stop, err := c.store.Pool().Acquire(ctx)
	require.NoError(t, err)
	defer stop.Release()
	_, err = stop.Exec(ctx, `SELECT pg_advisory_lock(7)`)
	require.NoError(t, err)
	defer func() { _, _ = stop.Exec(context.Background(), `SELECT pg_advisory_unlock_all()`) }()
	c.after(31 * day)
	swept, recorded := make(chan error, 1), make(chan error, 1)
	waiting := func() int {
		return c.count(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	}
	go func() {
		_, err := c.store.Sweep(ctx, testRetention)
		swept <- err
	}()
	require.Eventually(t, func() bool { return waiting() == 1 }, 10*time.Second, time.Millisecond)
	go func() {
		f := of("pi_2", chargeFailed(2, "insufficient_funds"))
		f.ReceivedAt, f.Created = time.Time{}, testNow.Add(31*day).Unix()
		recorded <- c.recorder.Record(ctx, Delivery{Facts: []Fact{f}})
	}()
	require.Eventually(t, func() bool { return len(recorded) > 0 || waiting() == 2 }, 10*time.Second, time.Millisecond)
	early := len(recorded) > 0
	_, err = stop.Exec(ctx, `SELECT pg_advisory_unlock(7)`)
	require.NoError(t, err)
	require.NoError(t, <-swept)
	require.NoError(t, <-recorded)
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM notifications WHERE status = 'held' AND payment_id = 'pi_2'`))
	kept := c.count(t, `SELECT count(*) FROM facts WHERE payment_id = 'pi_2' AND contact IS NOT NULL`)
	require.Equal(t, early, kept == 1, "the address goes only before the failure comes")
}

func TestQuarantinedBodiesGoByTheirOwnRule(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	for i := range 250 {
		require.NoError(t, c.recorder.Record(context.Background(), Delivery{Quarantine: &Quarantined{Source: "stripe", EventID: fmt.Sprint("evt_", i), Body: []byte("{}")}}))
		if i == 199 {
			c.after(day)
		}
	}
	c.after(30*day + time.Second)
	require.Equal(t, store.Swept{Quarantined: 200}, c.sweep(t))
	require.Equal(t, map[string]int{"quarantine": 50}, c.rows(t))
}

// dump is every row of every table, as text.
func (c clocked) dump(t *testing.T) string {
	t.Helper()
	rows, err := c.store.Pool().Query(context.Background(), `SELECT query_to_xml(format('SELECT * FROM %I', relname), true, false, '')::text
		FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname`)
	require.NoError(t, err)
	var all []string
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		all = append(all, s)
	}
	require.NoError(t, rows.Err())
	return strings.Join(all, "\n")
}

func (c clocked) column(t *testing.T, sql string) (out []string) {
	t.Helper()
	rows, err := c.store.Pool().Query(context.Background(), sql)
	require.NoError(t, err)
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		out = append(out, s)
	}
	require.NoError(t, rows.Err())
	return out
}

func TestAMailboxIsErasedWhereverItsAddressStands(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := setupClocked(t)
	normalise := func(address string) (string, bool) {
		return strings.ToLower(address), strings.Contains(address, "@")
	}
	guest := of("pi_guest", chargeFailed(1, "insufficient_funds"))
	guest.Customer, guest.MethodID = "", "pm_guest"
	guest.Addresses = &Contact{Receipt: "Jenny@Example.com"}
	byRecord := of("pi_record", chargeFailed(1, "insufficient_funds"))
	byRecord.Customer = "cus_record"
	other := of("pi_other", chargeFailed(1, "insufficient_funds"))
	other.Addresses = &Contact{Billing: "someone@example.com"}
	mailed := of("pi_mailed", chargeFailed(1, "insufficient_funds"))
	mailed.Customer = "cus_mailed"
	c.record(t, guest, byRecord, other, mailed)
	require.NoError(t, c.recorder.Record(ctx, Delivery{Customer: &Customer{CustomerID: "cus_record", Source: "stripe", RecordCreated: 1, RecordEvent: "e", Email: "jenny@example.com"}}))
	require.NoError(t, c.recorder.Record(ctx, Delivery{Quarantine: &Quarantined{Source: "stripe", EventID: "evt_q", Body: []byte(`{"email":"JENNY@example.com"}`)}}))
	_, err := c.store.Pool().Exec(ctx, `UPDATE notifications SET mailbox = $1 WHERE payment_id = 'pi_mailed'`, c.store.HashMailbox("jenny@example.com"))
	require.NoError(t, err)

	erased, err := c.store.Erase(ctx, store.Erasure{Mailbox: "jenny@example.com", Normalise: normalise})
	require.NoError(t, err)
	require.Equal(t, store.Erased{Customers: 1, Payments: 3, Mails: 2, Quarantined: 1}, erased)
	all := c.dump(t)
	for _, word := range []string{"cus_record", "cus_mailed", "pm_guest"} {
		require.Zero(t, strings.Count(all, word), word)
	}
	held := c.column(t, `SELECT payment_id FROM notifications WHERE status = 'held'`)
	require.Equal(t, []string{"pi_other"}, held)
	require.True(t, slices.Contains(c.column(t, `SELECT customer FROM payments`), "cus_1"))
}

// A body of Frame's has no time in its signature, so anybody who once saw it can send it again.
func TestAnEventOfFrameThatComesAgainAfterItsFailureWasSweptLeavesNothing(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	f := chargeFailed(1, "insufficient_funds")
	f.Source = "frame"
	c.record(t, f)
	c.after(401 * day)
	require.Equal(t, 1, c.sweep(t).Payments)
	c.record(t, f)
	for _, table := range []string{"facts", "payments", "attempts", "notifications"} {
		require.Zero(t, c.count(t, `SELECT count(*) FROM `+table), table)
	}
}

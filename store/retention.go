package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// Retention says how long what is stored is kept, from its receipt.
type Retention struct {
	Failures   time.Duration // a payment with all that hangs on it, once its last event is as old
	Addresses  time.Duration // from the last notification of the payment, or of the customer
	Quarantine time.Duration
}

// Swept counts what a sweep took away.
type Swept struct {
	Payments, Invoices, Addresses, Quarantined int
}

const (
	// sweepBatch is how many rows one transaction takes away at most: what it locks is free again in a few milliseconds.
	sweepBatch = 25
	// customersPage is how many customers one transaction looks at, to find the few whose address goes.
	customersPage = 500
	// sweepLock is the advisory lock of the one sweep that is in a batch: it is of the schema, as ownerLock is, where no process has
	// the number 0.
	sweepLock = ownerLockClass + `, 0`
	// sweepRest bounds the pause after a batch, which is as long as the batch was: events come first.
	sweepRest = time.Second
)

// errSweptElsewhere ends a sweep that met another.
var errSweptElsewhere = errors.New("another process sweeps")

// Sweep takes away what is older than r allows, in small transactions, oldest first. What it does not come to before
// the context ends is left to the next one.
func (s *Store) Sweep(ctx context.Context, r Retention) (Swept, error) {
	w := &sweep{store: s, now: s.Now(), retention: r}
	for _, step := range []struct {
		what  string
		batch func() func(context.Context, pgx.Tx) (more bool, err error)
	}{
		{"payments", w.payments}, {"invoices", w.invoices}, {"addresses", w.addresses}, {"quarantine", w.quarantine}, {"customers", w.customers},
	} {
		switch err := s.inBatches(ctx, step.batch()); {
		case errors.Is(err, errSweptElsewhere):
			return w.swept, nil
		case err != nil:
			return w.swept, fmt.Errorf("sweeping %s: %w", step.what, err)
		}
	}
	return w.swept, nil
}

// inBatches runs one transaction after another until one finds nothing more.
func (s *Store) inBatches(ctx context.Context, batch func(context.Context, pgx.Tx) (bool, error)) error {
	for more := true; more; {
		begun := time.Now()
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var alone bool
			// Nothing is lost with a sweep that a crash undoes, so its commit waits for no disk while it holds locks.
			b := &pgx.Batch{}
			b.Queue(`SET LOCAL synchronous_commit = off`)
			b.Queue(`SELECT pg_try_advisory_xact_lock(` + sweepLock + `)`).QueryRow(func(row pgx.Row) error { return row.Scan(&alone) })
			err := tx.SendBatch(ctx, b).Close()
			if err != nil {
				return err
			}
			if !alone {
				return errSweptElsewhere
			}
			more, err = batch(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
		took := time.Since(begun)
		s.log.Debug("sweep.batch", zap.Duration("took", took))
		if !more {
			return nil
		}
		rest := time.NewTimer(min(took, sweepRest))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		}
	}
	return nil
}

// sweep is one run of Sweep.
type sweep struct {
	store     *Store
	now       time.Time
	retention Retention
	swept     Swept
}

// place is where a walk stands: the next batch begins after it, so that what may not go yet is met once only.
type place struct {
	at time.Time
	id string
}

// aged is a row that a walk has come to.
type aged struct {
	PaymentKey
	At time.Time `db:"at"`
	ID string    `db:"id"`
}

func (p *place) passed(rows []aged) (keys []PaymentKey, more bool) {
	for _, r := range rows {
		keys = append(keys, r.PaymentKey)
		p.at, p.id = r.At, r.ID
	}
	return sorted(keys), len(rows) == sweepBatch
}

// payments takes away payments with their facts, attempts, notifications and links, all or nothing: what is derived is a
// function of all facts, and must not be derived again from half of them. One that still gets events lives on.
func (w *sweep) payments() func(context.Context, pgx.Tx) (bool, error) {
	var from place
	before := w.now.Add(-w.retention.Failures)
	return func(ctx context.Context, tx pgx.Tx) (bool, error) {
		keys, more, err := w.old(ctx, tx, "payments", "payment_id", before, &from)
		if err != nil || len(keys) == 0 {
			return more, err
		}
		// The locks are held: what is read from here on cannot change. A claimed mail is in its sender's hands.
		keys, err = collected[PaymentKey](tx.Query(ctx, `SELECT k.id AS payment_id, k.source, k.account, k.livemode FROM `+keyRows+`
			WHERE NOT EXISTS (SELECT FROM facts f WHERE `+keyMatch("f", "payment_id")+` AND f.received_at >= $5)
			AND NOT EXISTS (SELECT FROM notifications n WHERE `+keyMatch("n", "payment_id")+` AND n.owner <> 0)`, arraysOf(keys).args(before)...))
		if err != nil || len(keys) == 0 {
			return more, err
		}
		a := arraysOf(keys).args()
		b := &pgx.Batch{}
		b.Queue(`DELETE FROM links WHERE notification_id IN (SELECT n.id FROM notifications n JOIN `+keyRows+` ON `+keyMatch("n", "payment_id")+`)`, a...)
		b.Queue(`DELETE FROM notifications n USING `+keyRows+` WHERE `+keyMatch("n", "payment_id"), a...)
		b.Queue(`DELETE FROM attempts t USING `+keyRows+` WHERE `+keyMatch("t", "payment_id"), a...)
		b.Queue(`DELETE FROM payments p USING `+keyRows+` WHERE `+keyMatch("p", "payment_id"), a...)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return false, err
		}
		w.swept.Payments += len(keys)
		return more, w.dropFacts(ctx, tx, keys)
	}
}

// invoices takes away the invoices that no payment refers to any more.
func (w *sweep) invoices() func(context.Context, pgx.Tx) (bool, error) {
	var from place
	before := w.now.Add(-w.retention.Failures)
	return func(ctx context.Context, tx pgx.Tx) (bool, error) {
		keys, more, err := w.old(ctx, tx, "invoices", "invoice_id", before, &from)
		if err != nil || len(keys) == 0 {
			return more, err
		}
		keys, err = collected[PaymentKey](tx.Query(ctx, `SELECT k.id AS payment_id, k.source, k.account, k.livemode FROM `+keyRows+`
			WHERE NOT EXISTS (SELECT FROM facts f WHERE `+keyMatch("f", "payment_id")+` AND f.received_at >= $5)
			AND NOT EXISTS (SELECT FROM payments p WHERE `+keyMatch("p", "invoice")+` AND p.invoice <> '')`, arraysOf(keys).args(before)...))
		if err != nil || len(keys) == 0 {
			return more, err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM invoices i USING `+keyRows+` WHERE `+keyMatch("i", "invoice_id"), arraysOf(keys).args()...); err != nil {
			return false, err
		}
		w.swept.Invoices += len(keys)
		return more, w.dropFacts(ctx, tx, keys)
	}
}

// old locks the next rows of a table that were made before a time. Those that somebody else holds are left to the next
// sweep: a batch waits for nobody.
func (w *sweep) old(ctx context.Context, tx pgx.Tx, table, id string, before time.Time, from *place) (keys []PaymentKey, more bool, err error) {
	rows, err := collected[aged](tx.Query(ctx, `SELECT t.`+id+` AS payment_id, t.source, t.account, t.livemode, t.created_at AS at, t.`+id+` AS id
		FROM `+table+` t WHERE t.created_at < $1 AND (t.created_at, t.`+id+`) > ($2, $3) ORDER BY t.created_at, t.`+id+` LIMIT $4`,
		before, from.at, from.id, sweepBatch))
	if err != nil {
		return nil, false, err
	}
	keys, more = from.passed(rows)
	keys, err = tryLock(ctx, tx, table, id, keys)
	return keys, more, err
}

// lockableRows are keys with the locks that ingest holds on them while it derives.
const lockableRows = `unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::bigint[]) AS k(id, source, account, livemode, lock)`

func lockable(keys []PaymentKey, more ...any) []any {
	locks := make([]int64, len(keys))
	for i, k := range keys {
		locks[i] = k.lock()
	}
	return arraysOf(keys).args(append([]any{locks}, more...)...)
}

// tryLock takes those locks, and the rows' own, which a sender shares during its claim.
func tryLock(ctx context.Context, tx pgx.Tx, table, id string, keys []PaymentKey) ([]PaymentKey, error) {
	return collected[PaymentKey](tx.Query(ctx, `SELECT t.`+id+` AS payment_id, t.source, t.account, t.livemode
		FROM `+lockableRows+` JOIN `+table+` t ON `+keyMatch("t", id)+`
		WHERE pg_try_advisory_xact_lock(k.lock) FOR UPDATE OF t SKIP LOCKED`, lockable(keys)...))
}

// dropFacts takes away all facts filed under the keys. What Frame sends could be sent again by anybody who once saw it,
// so that its events are remembered.
func (w *sweep) dropFacts(ctx context.Context, tx pgx.Tx, keys []PaymentKey) error {
	type event struct {
		EventID   string `db:"event_id"`
		EventType string `db:"event_type"`
	}
	events, err := collected[event](tx.Query(ctx, `WITH gone AS (
			DELETE FROM facts f USING `+keyRows+` WHERE `+keyMatch("f", "payment_id")+` RETURNING f.source, f.event_id, f.event_type
		) SELECT event_id, event_type FROM gone WHERE source = $5`, arraysOf(keys).args(sourceFrame)...))
	if err != nil || len(events) == 0 {
		return err
	}
	hashes := make([][]byte, len(events))
	for i, e := range events {
		hashes[i] = w.store.eventTombstone(e.EventID, e.EventType)
	}
	return layTombstones(ctx, tx, hashes)
}

func layTombstones(ctx context.Context, tx pgx.Tx, hashes [][]byte) error {
	_, err := tx.Exec(ctx, `INSERT INTO tombstones (hash) SELECT * FROM unnest($1::bytea[]) ON CONFLICT DO NOTHING`, hashes)
	return err
}

// told is the time of a notification n, which was held back where it was not sent.
const told = `coalesce(n.sent_at, n.created_at)`

// addresses erases the addresses that came with a payment's events, once nothing more is to be sent to them.
func (w *sweep) addresses() func(context.Context, pgx.Tx) (bool, error) {
	var from place
	before := w.now.Add(-w.retention.Addresses)
	return func(ctx context.Context, tx pgx.Tx) (bool, error) {
		rows, err := collected[aged](tx.Query(ctx, `SELECT f.payment_id, f.source, f.account, f.livemode, f.received_at AS at, f.event_id AS id
			FROM facts f WHERE f.contact IS NOT NULL AND f.received_at < $1 AND (f.received_at, f.event_id) > ($2, $3)
			ORDER BY f.received_at, f.event_id LIMIT $4`, before, from.at, from.id, sweepBatch))
		if err != nil {
			return false, err
		}
		keys, more := from.passed(rows)
		// First the locks: a statement sees what was committed when it began.
		keys, err = collected[PaymentKey](tx.Query(ctx, `SELECT k.id AS payment_id, k.source, k.account, k.livemode
			FROM `+lockableRows+` WHERE pg_try_advisory_xact_lock(k.lock)`, lockable(keys)...))
		if err != nil || len(keys) == 0 {
			return more, err
		}
		tag, err := tx.Exec(ctx, `UPDATE facts f SET contact = NULL FROM `+keyRows+` WHERE `+keyMatch("f", "payment_id")+`
			AND f.contact IS NOT NULL AND f.received_at < $5 AND NOT EXISTS (
				SELECT FROM notifications n WHERE `+keyMatch("n", "payment_id")+` AND (n.status = 'held' OR `+told+` >= $5))
			AND NOT EXISTS ( -- an invoice's own events name no payment
				SELECT FROM payments p JOIN notifications n ON `+sameKey("p", "n")+` WHERE `+keyMatch("p", "invoice")+` AND p.invoice <> ''
					AND (n.status = 'held' OR `+told+` >= $5))`,
			arraysOf(keys).args(before)...)
		w.swept.Addresses += int(tag.RowsAffected())
		return more, err
	}
}

// customersSQL reads some customers whose address is stored, after a place, with whether it goes: $6 is the moment before
// which they were last told of anything. OFFSET keeps the planner from joining in another order, by reading all attempts.
var customersSQL = ofCustomer.halfYears() + `SELECT c.customer_id AS payment_id, c.source, c.account, c.livemode, c.deleted OR coalesce((
		SELECT bool_and(n.status <> 'held' AND ` + told + ` < $6) FROM half_years CROSS JOIN LATERAL (SELECT a.payment_id FROM attempts a
			WHERE ` + ofCustomer.rows + ` AND a.customer = c.customer_id AND ` + ofCustomer.in("c.customer_id") + `
			AND a.source = c.source AND a.account = c.account AND a.livemode = c.livemode OFFSET 0) a
		JOIN notifications n ON n.payment_id = a.payment_id AND n.source = c.source AND n.account = c.account AND n.livemode = c.livemode), false) AS goes
	FROM (SELECT customer_id, source, account, livemode, deleted FROM customers
		WHERE contact IS NOT NULL AND (customer_id, source, account, livemode) > ($1, $2, $3, $4)
		ORDER BY customer_id, source, account, livemode LIMIT $5) c
	ORDER BY c.customer_id, c.source, c.account, c.livemode`

// customers erases the addresses of customers who have not been told of anything for as long, or whom the provider has
// deleted. The provider's next word of the customer brings the address back. What the merchant said of a customer stands
// until the merchant takes it back. Most customers keep their address, so that one transaction looks at many.
func (w *sweep) customers() func(context.Context, pgx.Tx) (bool, error) {
	type walked struct {
		PaymentKey
		Goes bool `db:"goes"`
	}
	var from PaymentKey
	before := w.now.Add(-w.retention.Addresses)
	return func(ctx context.Context, tx pgx.Tx) (bool, error) {
		page, err := collected[walked](tx.Query(ctx, customersSQL,
			from.PaymentID, from.Source, from.Account, from.Livemode, customersPage, before))
		more := len(page) == customersPage
		var keys []PaymentKey
		for _, c := range page {
			from = c.PaymentKey
			if c.Goes {
				keys = append(keys, c.PaymentKey)
			}
			if len(keys) == sweepBatch {
				more = true
				break
			}
		}
		if err != nil || len(keys) == 0 {
			return more, err
		}
		// Ingest locks customers too, in an order that this page has not: a batch waits for nobody.
		if keys, err = tryLock(ctx, tx, "customers", "customer_id", keys); err != nil {
			return false, err
		}
		tag, err := tx.Exec(ctx, `UPDATE customers c SET contact = NULL FROM `+keyRows+` WHERE `+keyMatch("c", "customer_id"), arraysOf(keys).args()...)
		w.swept.Addresses += int(tag.RowsAffected())
		return more, err
	}
}

func (w *sweep) quarantine() func(context.Context, pgx.Tx) (bool, error) {
	before := w.now.Add(-w.retention.Quarantine)
	return func(ctx context.Context, tx pgx.Tx) (bool, error) {
		tag, err := tx.Exec(ctx, `DELETE FROM quarantine WHERE id IN (
			SELECT id FROM quarantine WHERE received_at < $1 ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, before, sweepBatch)
		w.swept.Quarantined += int(tag.RowsAffected())
		return tag.RowsAffected() == sweepBatch, err
	}
}

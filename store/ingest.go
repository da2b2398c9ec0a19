package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"
)

var (
	factTable         = newTable[Fact]("facts")
	paymentTable      = newTable[Payment]("payments")
	attemptTable      = newTable[Attempt]("attempts")
	notificationTable = newTable[Notification]("notifications")
)

// CheckoutChannel is the LISTEN channel that carries the ids of payments whose open checkout streams have news.
const CheckoutChannel = "rebound_checkout"

// Ingest is one transaction that records a group of deliveries: LockInvoices, then Load, then Save. It knows rows, not
// meaning; what to save is the caller's to work out in between.
type Ingest struct {
	tx    pgx.Tx
	store *Store
}

// Loaded is what is known of the locked payments and invoices, the group's own facts included.
type Loaded struct {
	Payments      map[PaymentKey]*LoadedPayment
	Invoices      map[PaymentKey]*Invoice // as stored; Facts of an invoice in the group are in InvoiceFacts
	InvoiceFacts  map[PaymentKey][]Fact
	NewFacts      []Fact              // of the group, those that are not stored yet
	KnownCustomer map[PaymentKey]bool // by customer id as PaymentID: an address of it is stored, or that it was deleted
}

// LoadedPayment is one payment with all that hangs on it.
type LoadedPayment struct {
	Payment       Payment // as stored before this group
	Facts         []Fact  // the group's own included
	Notifications []Notification
	AttemptIDs    []string
	Streams       bool // an open checkout stream waits for news
}

// Changes is what a group comes to.
type Changes struct {
	Facts         []Fact // Loaded.NewFacts
	Payments      []Payment
	Invoices      []Invoice
	Attempts      []Attempt
	Notifications []Notification
	// Ids of attempts and notifications that the facts no longer bear out.
	StaleAttempts, StaleNotifications []string
	Customers                         []Customer
	Quarantined                       []Quarantined
	Jobs                              []river.InsertManyParams
	News                              []string // payment ids whose open checkout streams are to be told
}

// InIngest runs fn in one transaction and commits it. An error of fn, or of the commit, leaves nothing behind, save
// where the answer to the commit was lost: then repeating the group is harmless.
func (s *Store) InIngest(ctx context.Context, fn func(*Ingest) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return fn(&Ingest{tx: tx, store: s}) })
}

// IsDataError tells whether Postgres refused the data itself: the same rows would be refused for ever.
func IsDataError(err error) bool {
	if errors.Is(err, errUnstorable) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) < 2 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "23", "54": // data exception, integrity constraint, program limit exceeded
		return true
	}
	return false
}

// IsRetryable tells whether the same transaction may well succeed when it is run again at once: it was a deadlock's or a
// serialisation's victim.
func IsRetryable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "40001")
}

type keyArrays struct {
	ids, sources, accounts []string
	livemodes              []bool
}

func arraysOf(keys []PaymentKey) keyArrays {
	var a keyArrays
	for _, k := range keys {
		a.ids = append(a.ids, k.PaymentID)
		a.sources = append(a.sources, k.Source)
		a.accounts = append(a.accounts, k.Account)
		a.livemodes = append(a.livemodes, k.Livemode)
	}
	return a
}

func (a keyArrays) args(more ...any) []any {
	return append([]any{a.ids, a.sources, a.accounts, a.livemodes}, more...)
}

const keyRows = `unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS k(id, source, account, livemode)`

func keyMatch(t, id string) string {
	return fmt.Sprintf("%s.%s = k.id AND %s.source = k.source AND %s.account = k.account AND %s.livemode = k.livemode", t, id, t, t, t)
}

// LockInvoices makes and locks the invoices, and returns the payments that are known to belong to them. It comes before
// Load, so that every replica locks invoices first and payments after.
func (in *Ingest) LockInvoices(ctx context.Context, invoices []PaymentKey) ([]PaymentKey, error) {
	if len(invoices) == 0 {
		return nil, nil
	}
	invoices = sorted(invoices)
	a := arraysOf(invoices)
	var linked []PaymentKey
	b := &pgx.Batch{}
	b.Queue(noScans)
	b.Queue(`INSERT INTO invoices (invoice_id, source, account, livemode, status, billing_reason, settled_created)
		SELECT k.*, '', '', 0 FROM `+keyRows+` ON CONFLICT DO NOTHING`, a.args()...)
	b.Queue(`SELECT 1 FROM invoices i JOIN `+keyRows+` ON `+keyMatch("i", "invoice_id")+`
		ORDER BY i.invoice_id COLLATE "C", i.source, i.account, i.livemode FOR UPDATE OF i`, a.args()...)
	b.Queue(`SELECT p.payment_id, p.source, p.account, p.livemode FROM payments p JOIN `+keyRows+` ON `+keyMatch("p", "invoice")+` AND p.invoice <> ''`,
		a.args()...).Query(func(rows pgx.Rows) (err error) {
		linked, err = collected[PaymentKey](rows, nil)
		return err
	})
	if err := in.tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("locking %d invoices: %w", len(invoices), err)
	}
	return linked, nil
}

// Load locks the payments in the one order that every replica uses, and reads all that is known of them and of the
// invoices, the group's own facts added. The lock comes first: what is read after it cannot change until the commit.
func (in *Ingest) Load(ctx context.Context, payments, invoices []PaymentKey, facts []Fact) (*Loaded, error) {
	payments = sorted(payments)
	l := &Loaded{
		Payments:      make(map[PaymentKey]*LoadedPayment, len(payments)),
		Invoices:      make(map[PaymentKey]*Invoice),
		InvoiceFacts:  make(map[PaymentKey][]Fact),
		KnownCustomer: make(map[PaymentKey]bool),
	}
	now := in.store.Now()
	for _, k := range payments {
		l.Payments[k] = &LoadedPayment{Payment: Payment{PaymentKey: k, CreatedAt: now}}
	}
	// Nothing hangs on a payment that has no row yet: most are new, and need no more questions.
	known, err := in.loadPayments(ctx, payments, customersOf(facts), l)
	if err != nil {
		return nil, fmt.Errorf("loading %d payments: %w", len(payments), err)
	}
	stored := make(map[factID]bool)
	if len(known)+len(invoices) > 0 {
		if err := in.loadKnown(ctx, known, invoices, l, stored); err != nil {
			return nil, fmt.Errorf("loading %d known payments: %w", len(known), err)
		}
	}
	for _, f := range facts {
		if id := idOf(f); !stored[id] {
			stored[id] = true
			if err := in.store.sealFact(&f); err != nil {
				return nil, err
			}
			l.NewFacts = append(l.NewFacts, f)
			l.add(f)
		}
	}
	slices.SortStableFunc(l.NewFacts, func(a, b Fact) int { return a.PaymentKey.Compare(b.PaymentKey) })
	return l, nil
}

// factID is the key of facts.
type factID struct {
	PaymentKey
	eventID, eventType, apiVersion string
}

func idOf(f Fact) factID { return factID{f.PaymentKey, f.EventID, f.EventType, f.APIVersion} }

func (l *Loaded) add(f Fact) {
	if p := l.Payments[f.PaymentKey]; p != nil {
		p.Facts = append(p.Facts, f)
	} else {
		l.InvoiceFacts[f.PaymentKey] = append(l.InvoiceFacts[f.PaymentKey], f)
	}
}

// noScans keeps plans off the tables as a whole: a fresh database has no statistics to plan by.
const noScans = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

// loadPayments locks the payments, reads the rows of those that have one, and which of the customers have an address.
func (in *Ingest) loadPayments(ctx context.Context, payments, customers []PaymentKey, l *Loaded) (known []PaymentKey, err error) {
	locks := make([]int64, len(payments))
	for i, k := range payments {
		locks[i] = k.lock()
	}
	slices.Sort(locks)
	b := &pgx.Batch{}
	b.Queue(noScans)
	b.Queue(lockPayments, locks)
	b.Queue(`SELECT `+paymentTable.selected("p")+` FROM `+keyRows+` JOIN payments p ON `+keyMatch("p", "payment_id"), arraysOf(payments).args()...).Query(
		eachRow(func(p Payment) {
			l.Payments[p.PaymentKey].Payment = p
			known = append(known, p.PaymentKey)
		}))
	if len(customers) > 0 {
		b.Queue(`SELECT c.customer_id AS payment_id, c.source, c.account, c.livemode FROM customers c JOIN `+keyRows+` ON `+keyMatch("c", "customer_id")+`
			WHERE c.contact IS NOT NULL OR c.deleted`,
			arraysOf(customers).args()...).Query(eachRow(func(k PaymentKey) { l.KnownCustomer[k] = true }))
	}
	err = in.tx.SendBatch(ctx, b).Close()
	return known, err
}

// lockPayments takes the locks in the order of its argument.
const lockPayments = `SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k`

// lock is the payment's advisory lock: whoever derives or deletes a payment holds it until the commit. Two payments that
// share one only wait for each other. It may not change between versions that run side by side.
func (k PaymentKey) lock() int64 {
	h := fnv.New64a()
	for _, part := range []string{k.PaymentID, k.Source, k.Account, strconv.FormatBool(k.Livemode)} {
		_, _ = io.WriteString(h, part)
		_, _ = h.Write([]byte{0})
	}
	return int64(h.Sum64()) //nolint:gosec // any 64 bits do
}

// loadKnown reads what hangs on payments that have a row, and on the invoices.
func (in *Ingest) loadKnown(ctx context.Context, payments, invoices []PaymentKey, l *Loaded, stored map[factID]bool) error {
	a := arraysOf(payments)
	b := &pgx.Batch{}
	b.Queue(`SELECT `+factTable.selected("f")+` FROM facts f JOIN `+keyRows+` ON `+keyMatch("f", "payment_id"),
		arraysOf(append(slices.Clone(payments), invoices...)).args()...).Query(eachRow(func(f Fact) {
		stored[idOf(f)] = true
		l.add(f)
	}))
	if len(payments) > 0 {
		b.Queue(`SELECT `+notificationTable.selected("n")+` FROM notifications n JOIN `+keyRows+` ON `+keyMatch("n", "payment_id"), a.args()...).Query(
			eachRow(func(n Notification) {
				p := l.Payments[n.PaymentKey]
				p.Notifications = append(p.Notifications, n)
			}))
		b.Queue(`SELECT t.payment_id, t.source, t.account, t.livemode, t.id FROM attempts t JOIN `+keyRows+` ON `+keyMatch("t", "payment_id"),
			a.args()...).Query(eachRow(func(t attemptID) {
			p := l.Payments[t.PaymentKey]
			p.AttemptIDs = append(p.AttemptIDs, t.ID)
		}))
		b.Queue(`SELECT DISTINCT c.payment_id, c.source, c.account, c.livemode FROM checkout_streams c JOIN `+keyRows+` ON `+keyMatch("c", "payment_id"),
			a.args()...).Query(eachRow(func(k PaymentKey) { l.Payments[k].Streams = true }))
	}
	for _, k := range payments {
		if p := l.Payments[k].Payment; p.Invoice != "" {
			k.PaymentID = p.Invoice
			invoices = append(invoices, k)
		}
	}
	if len(invoices) > 0 {
		b.Queue(`SELECT i.invoice_id AS payment_id, i.source, i.account, i.livemode, i.status, i.billing_reason, i.settled_created
			FROM invoices i JOIN `+keyRows+` ON `+keyMatch("i", "invoice_id"), arraysOf(sorted(invoices)).args()...).Query(
			eachRow(func(i Invoice) { l.Invoices[i.PaymentKey] = &i }))
	}
	return in.tx.SendBatch(ctx, b).Close()
}

type attemptID struct {
	PaymentKey
	ID string `db:"id"`
}

func eachRow[T any](do func(T)) func(pgx.Rows) error {
	return func(rows pgx.Rows) error { return each(rows, do) }
}

func customersOf(facts []Fact) []PaymentKey {
	seen := make(map[PaymentKey]bool)
	for _, f := range facts {
		if f.Customer != "" {
			seen[PaymentKey{f.Customer, f.Source, f.Account, f.Livemode}] = true
		}
	}
	keys := make([]PaymentKey, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	return sorted(keys)
}

func sorted(keys []PaymentKey) []PaymentKey {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, PaymentKey.Compare)
	return slices.Compact(keys)
}

var (
	savePayments = `ON CONFLICT (payment_id, source, account, livemode) DO UPDATE SET ` +
		paymentTable.excluded("payment_id", "source", "account", "livemode", "created_at")
	saveAttempts = `ON CONFLICT (id) DO UPDATE SET ` + attemptTable.excluded("id", "payment_id", "source", "account", "livemode")
	// What is claimed or over is out of reach: only its sender may still change it.
	// What a page has shown is the stream's to write down.
	saveNotifications = `ON CONFLICT (id) DO UPDATE SET ` +
		notificationTable.excluded("id", "payment_id", "source", "account", "livemode", "next_try_at", "owner", "tries", "message_id", "mailbox",
			"new_mailbox", "read_at", "created_at", "shown_code", "locale") + `,
		shown_code = CASE WHEN notifications.channel = 'checkout' THEN notifications.shown_code ELSE EXCLUDED.shown_code END,
		locale = CASE WHEN notifications.channel = 'checkout' THEN notifications.locale ELSE EXCLUDED.locale END
		WHERE notifications.owner = 0 AND (notifications.status IN ('held', 'suppressed', 'canceled') OR notifications.channel <> 'email')`
)

// Save writes what the group came to.
func (in *Ingest) Save(ctx context.Context, c Changes) error {
	b := &pgx.Batch{}
	if err := factTable.queue(b, c.Facts, `ON CONFLICT DO NOTHING`); err != nil {
		return err
	}
	if err := paymentTable.queue(b, c.Payments, savePayments); err != nil {
		return err
	}
	for _, i := range c.Invoices {
		b.Queue(`UPDATE invoices SET status = $5, billing_reason = $6, settled_created = $7
			WHERE invoice_id = $1 AND source = $2 AND account = $3 AND livemode = $4`,
			i.PaymentID, i.Source, i.Account, i.Livemode, i.Status, i.BillingReason, i.SettledCreated)
	}
	if len(c.StaleAttempts) > 0 {
		b.Queue(`DELETE FROM attempts WHERE id = ANY($1)`, c.StaleAttempts)
	}
	if len(c.StaleNotifications) > 0 {
		b.Queue(`DELETE FROM notifications WHERE id = ANY($1) AND owner = 0`, c.StaleNotifications)
	}
	if err := attemptTable.queue(b, c.Attempts, saveAttempts); err != nil {
		return err
	}
	if err := notificationTable.queue(b, c.Notifications, saveNotifications); err != nil {
		return err
	}
	for _, cust := range c.Customers {
		in.store.queueCustomer(b, cust)
	}
	for _, q := range c.Quarantined {
		in.store.queueQuarantine(b, q)
	}
	for _, id := range c.News {
		b.Queue(`SELECT pg_notify($1, $2)`, CheckoutChannel, id)
	}
	if b.Len() > 0 {
		if err := in.tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("saving %d payments: %w", len(c.Payments), err)
		}
	}
	if len(c.Jobs) > 0 {
		if _, err := in.store.jobs.InsertManyFastTx(ctx, in.tx, c.Jobs); err != nil {
			return fmt.Errorf("inserting %d jobs: %w", len(c.Jobs), err)
		}
	}
	return nil
}

// Now is the store's clock, in UTC and in the precision that Postgres keeps.
func (s *Store) Now() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

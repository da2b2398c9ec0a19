package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

	"rebound/store/job"
)

var (
	factTable         = newTable[Fact]("facts", 1024)
	paymentTable      = newTable[Payment]("payments", 320)
	attemptTable      = newTable[Attempt]("attempts", 1536)
	notificationTable = newTable[Notification]("notifications", 384)
	// newNotifications leaves out what only a sender or a reader sets: each column costs every row.
	newNotifications = notificationTable.without("next_try_at", "owner", "tries", "undecided", "mailbox", "new_mailbox", "read_at")
)

// CheckoutChannel is the LISTEN channel that carries the ids of payments whose open checkout streams have news.
const CheckoutChannel = "rebound_checkout"

// Ingest is one transaction that records a group of deliveries: LockInvoices, then Load, then Save. It knows rows, not
// meaning; what to save is the caller's to work out in between.
type Ingest struct {
	conn  *pgx.Conn
	store *Store
	begun bool
	// Of what Load has locked: rows that are not among them are new.
	found struct {
		payments map[PaymentKey]bool
		ids      map[string]bool // of attempts and notifications
	}
	// Facts that stand with what an erasure takes, since they were stored before anything said whose their payment is. What
	// they led to is derived anew.
	overtaken []*Fact
	// Doubtful makes no use of what Load has found: each row is written whether or not there is one.
	Doubtful bool
}

// Loaded is what is known of the locked payments and invoices, the group's own facts included.
type Loaded struct {
	Payments      map[PaymentKey]*LoadedPayment
	Invoices      map[PaymentKey]*Invoice // as stored; Facts of an invoice in the group are in InvoiceFacts
	InvoiceFacts  map[PaymentKey][]*Fact
	NewFacts      []Fact              // of the group, those that are not stored yet
	KnownCustomer map[PaymentKey]bool // by customer id as PaymentID: an address of it is stored, or that it was deleted
}

// LoadedPayment is one payment with all that hangs on it.
type LoadedPayment struct {
	Payment       Payment // as stored before this group
	Facts         []*Fact // the group's own included, at the end
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
	Jobs                              []Job
	Due                               []job.DeliverDue // far enough ahead that none is over before the commit
	News                              []string         // payment ids whose open checkout streams are to be told
}

// Job is work for later.
type Job struct {
	Args  river.JobArgs
	Queue string
	At    time.Time
}

// InIngest runs fn in one transaction, which Save commits. An error leaves nothing behind, save where the answer to the
// commit was lost: then repeating the group is harmless.
func (s *Store) InIngest(ctx context.Context, fn func(*Ingest) error) error {
	conn, err := s.ingest.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	defer conn.Release() // which closes one that is still in a transaction
	if err = fn(&Ingest{conn: conn.Conn(), store: s}); err != nil && conn.Conn().PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, `ROLLBACK`)
	}
	return err
}

// send runs statements in the transaction, which begins with the first: begin and commit travel with the rest, since each
// round trip of a group delays all that wait for the next.
func (in *Ingest) send(ctx context.Context, b *pgx.Batch) error {
	if !in.begun {
		in.begun = true
		first := &pgx.Batch{}
		first.Queue(`BEGIN`)
		first.QueuedQueries = append(first.QueuedQueries, b.QueuedQueries...)
		b = first
	}
	giveRoom(in.conn.PgConn())
	return in.conn.SendBatch(ctx, b).Close()
}

// roomForRequest is what a connection of InIngest keeps for its requests, in bytes: enough for some eighty deliveries.
const roomForRequest = 256 << 10

// room is a message of no bytes that has those after it written to memory that is there. pgx starts each request with a KB
// and lets go of what it grew to: that was a fifth of all that the server allocated under load.
type room []byte

func (r room) Encode(written []byte) ([]byte, error) { return append(r[:0], written...), nil }
func (room) Decode([]byte) error                     { return nil }
func (room) Frontend()                               {}

// giveRoom gives a connection the room for its requests that it had for those before.
func giveRoom(c *pgconn.PgConn) {
	const key = "rebound.room"
	r, ok := c.CustomData()[key].(room)
	if !ok {
		r = make(room, 0, roomForRequest)
		c.CustomData()[key] = r
	}
	c.Frontend().Send(r)
}

// maxIngests is how many transactions of InIngest run at a time: a recorder has two committers.
const maxIngests = 2

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
		// A number that is taken is no fault of what came: the job queue's stand behind its rows where a database was moved without
		// its sequences. Nor is a column that must be filled and is not: a row fills every such column that this program knows.
		return pg.Code != "23505" && pg.Code != "23502"
	}
	return false
}

// IsRetryable tells whether the same transaction may well succeed when it is run again at once, with Ingest.Doubtful set: it
// was a deadlock's or a serialisation's victim, or a row that Load did not find was there.
func IsRetryable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "40001" || pg.Code == "23505")
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
	queueLocks(b, nil)
	// One statement, which changes nothing of a row that is there, but locks it: of two, a sweep could take the row away between.
	b.Queue(`INSERT INTO invoices AS i (invoice_id, source, account, livemode, status, billing_reason, settled_created)
		SELECT k.*, '', '', 0 FROM `+keyRows+` ON CONFLICT (invoice_id, source, account, livemode) DO UPDATE SET status = i.status WHERE false`, a.args()...)
	b.Queue(`SELECT p.payment_id, p.source, p.account, p.livemode FROM payments p JOIN `+keyRows+` ON `+keyMatch("p", "invoice")+` AND p.invoice <> ''`,
		a.args()...).Query(func(rows pgx.Rows) (err error) {
		linked, err = collected[PaymentKey](rows, nil)
		return err
	})
	if err := in.send(ctx, b); err != nil {
		return nil, fmt.Errorf("locking %d invoices: %w", len(invoices), err)
	}
	return linked, nil
}

// Load locks the payments in the one order that every replica uses, and reads all that is known of them and of the
// invoices, the group's own facts added. The lock comes first: what is read after it cannot change until the commit, save
// that a sender claims a mail.
// Whether the customers are known is asked only where askCustomers.
func (in *Ingest) Load(ctx context.Context, payments, invoices []PaymentKey, facts []*Fact, askCustomers bool) (*Loaded, error) {
	payments = sorted(payments)
	l := &Loaded{
		Payments:      make(map[PaymentKey]*LoadedPayment, len(payments)),
		Invoices:      make(map[PaymentKey]*Invoice),
		InvoiceFacts:  make(map[PaymentKey][]*Fact),
		KnownCustomer: make(map[PaymentKey]bool),
		NewFacts:      make([]Fact, 0, len(facts)), // it does not grow: payments point into it
	}
	now := in.store.Now()
	for _, k := range payments {
		l.Payments[k] = &LoadedPayment{Payment: Payment{PaymentKey: k, CreatedAt: now}}
	}
	stored := make(map[factID]bool, len(facts))
	gone, err := in.loadKnown(ctx, payments, invoices, facts, askCustomers, l, stored)
	if err != nil {
		return nil, fmt.Errorf("loading %d payments: %w", len(payments), err)
	}
	before := make(map[PaymentKey]int, len(payments)+len(invoices)) // how many facts are stored
	for k, p := range l.Payments {
		before[k] = len(p.Facts)
		for _, f := range p.Facts { // an erasure may not have come to them yet
			gone.anonymise(f)
		}
	}
	for k, of := range l.InvoiceFacts {
		before[k] = len(of)
	}
	facts = slices.Clone(facts)
	slices.SortStableFunc(facts, func(a, b *Fact) int { return a.PaymentKey.Compare(b.PaymentKey) })
	for _, f := range facts {
		if id := idOf(f); stored[id] || gone.seen(f) {
			continue
		} else {
			stored[id] = true
		}
		l.NewFacts = append(l.NewFacts, *f)
		own := &l.NewFacts[len(l.NewFacts)-1]
		gone.anonymise(own)
		if own.ReceivedAt.IsZero() {
			own.ReceivedAt = now
		}
		l.add(own)
	}
	for k, p := range l.Payments {
		in.overtake(p.Facts, before[k])
	}
	for k, of := range l.InvoiceFacts {
		in.overtake(of, before[k])
	}
	for i := range l.NewFacts {
		own := &l.NewFacts[i]
		if own.Contact, err = in.store.sealContact(own.Addresses, "facts"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// overtake makes a payment's or an invoice's facts anonymous where one of them is: those too that do not say whose they are.
// The first of them are stored.
func (in *Ingest) overtake(facts []*Fact, stored int) {
	if !slices.ContainsFunc(facts, func(f *Fact) bool { return IsPseudonym(f.Customer) }) {
		return
	}
	for i, f := range facts {
		if in.store.anonymise(f) && i < stored {
			in.overtaken = append(in.overtaken, f)
		}
	}
}

// factID is the key of facts.
type factID struct {
	PaymentKey
	eventID, eventType, apiVersion string
}

func idOf(f *Fact) factID { return factID{f.PaymentKey, f.EventID, f.EventType, f.APIVersion} }

func (l *Loaded) add(f *Fact) {
	if p := l.Payments[f.PaymentKey]; p != nil {
		p.Facts = append(p.Facts, f)
	} else {
		l.InvoiceFacts[f.PaymentKey] = append(l.InvoiceFacts[f.PaymentKey], f)
	}
}

// loadKnown locks the payments, and reads the rows of those that have one and what hangs on them and on the invoices,
// which of the customers have an address, and what of the facts was erased. Rows are asked for by the first part of their
// key alone, which is nearly always enough, and told apart here.
func (in *Ingest) loadKnown(ctx context.Context, payments, invoices []PaymentKey, facts []*Fact, askCustomers bool, l *Loaded,
	stored map[factID]bool) (*tombstones, error) {
	wanted := make(map[PaymentKey]bool, len(invoices))
	for _, k := range invoices {
		wanted[k] = true
	}
	in.found.payments, in.found.ids = make(map[PaymentKey]bool), make(map[string]bool)
	gone := in.store.tombstonesOf(facts)
	b := &pgx.Batch{}
	queueLocks(b, payments)
	b.Queue(selectKnown.sql, idsOf(payments), idsOf(invoices), gone.asked).Query(selectKnown.read(
		take(func(p knownPayment) {
			if of := l.Payments[p.PaymentKey]; of != nil {
				of.Payment, of.Streams, of.AttemptIDs = p.Payment, p.Streams, strings.Fields(p.AttemptIDs)
				in.found.payments[p.PaymentKey] = true
			}
		}),
		take(func(f Fact) {
			if l.Payments[f.PaymentKey] != nil || wanted[f.PaymentKey] {
				stored[idOf(&f)] = true
				l.add(&f)
			}
		}),
		take(func(n Notification) {
			if p := l.Payments[n.PaymentKey]; p != nil {
				p.Notifications = append(p.Notifications, n)
			}
		}),
		take(gone.add),
	))
	if customers := customersOf(facts); askCustomers && len(customers) > 0 {
		b.Queue(`SELECT c.customer_id AS payment_id, c.source, c.account, c.livemode FROM customers c
			WHERE c.customer_id = ANY($1) AND (c.contact IS NOT NULL OR c.deleted)`,
			idsOf(customers)).Query(eachRow(func(k PaymentKey) { l.KnownCustomer[k] = true }))
	}
	if err := in.send(ctx, b); err != nil {
		return nil, err
	}
	for k, p := range l.Payments {
		for _, id := range p.AttemptIDs {
			in.found.ids[id] = true
		}
		for _, n := range p.Notifications {
			in.found.ids[n.ID] = true
		}
		if k.PaymentID = p.Payment.Invoice; k.PaymentID != "" {
			invoices = append(invoices, k)
		}
	}
	if len(invoices) == 0 {
		return gone, nil
	}
	b = &pgx.Batch{}
	b.Queue(`SELECT i.invoice_id AS payment_id, i.source, i.account, i.livemode, i.status, i.billing_reason, i.settled_created
		FROM invoices i WHERE i.invoice_id = ANY($1)`, idsOf(sorted(invoices))).Query(eachRow(func(i Invoice) { l.Invoices[i.PaymentKey] = &i }))
	return gone, in.send(ctx, b)
}

// knownPayment is a payment with what else its row is asked for.
type knownPayment struct {
	Payment
	Streams    bool   `db:"streams"`
	AttemptIDs string `db:"attempt_ids"`
}

// selectKnown takes the ids of payments, those of invoices, and the hashes of tombstones. What hangs on a payment is asked
// for only of those that have a row, as every payment with facts has: most failures are of a payment that is not known yet.
var selectKnown = newUnion(`known AS MATERIALIZED (SELECT `+paymentTable.names+` FROM payments WHERE payment_id = ANY($1))`,
	branch{columnsOf(reflect.TypeFor[knownPayment]()), "p", `FROM known p`, []string{
		`EXISTS (SELECT FROM checkout_streams c WHERE c.payment_id = p.payment_id AND c.source = p.source AND c.account = p.account
			AND c.livemode = p.livemode)`,
		`coalesce((SELECT string_agg(t.id, ' ') FROM attempts t WHERE t.payment_id = p.payment_id AND t.source = p.source
			AND t.account = p.account AND t.livemode = p.livemode), '')`,
	}},
	branch{factTable.columns, "f", `FROM facts f WHERE f.payment_id = ANY(ARRAY(SELECT payment_id FROM known) || $2::text[])`, nil},
	branch{notificationTable.columns, "n", `FROM notifications n WHERE n.payment_id = ANY(ARRAY(SELECT payment_id FROM known))`, nil},
	branch{columnsOf(reflect.TypeFor[tombstone]()), "t", `FROM tombstones t WHERE t.hash = ANY($3)`, nil},
)

// queueLocks takes the erasureLock's share, then the payments' locks in the one order that every replica uses. What is
// read by the statements after it cannot change until the commit.
func queueLocks(b *pgx.Batch, payments []PaymentKey) {
	locks := make([]int64, len(payments))
	for i, k := range payments {
		locks[i] = k.lock()
	}
	slices.Sort(locks)
	b.Queue(holdErasures+` UNION ALL SELECT pg_advisory_xact_lock(k) FROM unnest($2::bigint[]) AS k`, int64(erasureLock), locks)
}

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

func idsOf(keys []PaymentKey) []string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.PaymentID
	}
	return ids
}

func eachRow[T any](do func(T)) func(pgx.Rows) error {
	return func(rows pgx.Rows) error { return each(rows, do) }
}

func customersOf(facts []*Fact) []PaymentKey {
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
	eraseFacts = `ON CONFLICT (payment_id, source, account, livemode, event_id, event_type, api_version) DO UPDATE SET
		contact = NULL, detail = EXCLUDED.detail`
	savePayments = `ON CONFLICT (payment_id, source, account, livemode) DO UPDATE SET ` +
		paymentTable.excluded("payment_id", "source", "account", "livemode", "created_at")
	// All attempts of a payment are derived together, and a card tester's has thousands: those that come to the same stay.
	saveAttempts = `ON CONFLICT (id) DO UPDATE SET ` + attemptTable.excluded("id", "payment_id", "source", "account", "livemode") +
		` WHERE attempts.* IS DISTINCT FROM EXCLUDED.*`
	// A mail that is over is its sender's alone. Of one that is claimed the decision is written down, should its try end in
	// "not now"; what it speaks of is its sender's. What a page has shown is the stream's to write down.
	saveNotifications = `ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, reason = EXCLUDED.reason, updated_at = EXCLUDED.updated_at, ` +
		excludedWhere("notifications.owner = 0", "failure_id", "due_at", "sent_at", "customer") + ", " +
		excludedWhere("notifications.owner = 0 AND notifications.channel <> 'checkout'", "locale", "shown_code") + `
		WHERE notifications.status IN ('held', 'suppressed', 'canceled') OR notifications.channel <> 'email'`
)

// excludedWhere lists what sets columns to the new row's where a condition holds.
func excludedWhere(condition string, columns ...string) string {
	sets := make([]string, len(columns))
	for i, c := range columns {
		sets[i] = fmt.Sprintf("%[1]s = CASE WHEN %[2]s THEN EXCLUDED.%[1]s ELSE notifications.%[1]s END", c, condition)
	}
	return strings.Join(sets, ", ")
}

// Save writes what the group came to, and commits.
func (in *Ingest) Save(ctx context.Context, c Changes) error {
	b := &pgx.Batch{}
	if !in.begun {
		queueLocks(b, nil)
	}
	if err := errors.Join(
		queueByNovelty(in, b, factTable, c.Facts, `ON CONFLICT DO NOTHING`, func(*Fact) bool { return false }),
		factTable.queue(b, in.overtaken, eraseFacts),
		queueByNovelty(in, b, paymentTable, c.Payments, savePayments, func(p *Payment) bool { return in.found.payments[p.PaymentKey] }),
	); err != nil {
		return err
	}
	for _, i := range c.Invoices {
		b.Queue(`INSERT INTO invoices (invoice_id, source, account, livemode, status, billing_reason, settled_created)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (invoice_id, source, account, livemode) DO UPDATE SET
			status = EXCLUDED.status, billing_reason = EXCLUDED.billing_reason, settled_created = EXCLUDED.settled_created`,
			i.PaymentID, i.Source, i.Account, i.Livemode, i.Status, i.BillingReason, i.SettledCreated)
	}
	if len(c.StaleAttempts) > 0 {
		b.Queue(`DELETE FROM attempts WHERE id = ANY($1)`, c.StaleAttempts)
	}
	if len(c.StaleNotifications) > 0 {
		b.Queue(`DELETE FROM notifications WHERE id = ANY($1) AND owner = 0`, c.StaleNotifications)
	}
	if err := errors.Join(
		queueByNovelty(in, b, attemptTable, c.Attempts, saveAttempts, func(a *Attempt) bool { return in.found.ids[a.ID] }),
		queueByNovelty(in, b, newNotifications, c.Notifications, saveNotifications, func(n *Notification) bool { return in.found.ids[n.ID] }),
		queueJobs(b, c.Jobs, in.store.Now()),
	); err != nil {
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
	if err := queueDue(b, c.Due); err != nil {
		return err
	}
	b.Queue(`COMMIT`)
	if err := in.send(ctx, b); err != nil {
		return fmt.Errorf("saving %d payments: %w", len(c.Payments), err)
	}
	return nil
}

// queueByNovelty adds the statements that write rows: those that Load did not find without ON CONFLICT, whose look for a row
// and mark of a half-made one cost nearly as much as another index.
func queueByNovelty[T any](in *Ingest, b *pgx.Batch, t table[T], rows []T, tail string, found func(*T) bool) error {
	var known, fresh []*T
	for i := range rows {
		if row := &rows[i]; in.Doubtful || found(row) {
			known = append(known, row)
		} else {
			fresh = append(fresh, row)
		}
	}
	return errors.Join(t.queue(b, fresh, ""), t.queue(b, known, tail))
}

// queueJobs adds the statement that writes jobs. River's own insert is a round trip of its own, and returns what nobody
// reads; a job is a plain row to clients in any language.
func queueJobs(b *pgx.Batch, jobs []Job, now time.Time) error {
	if len(jobs) == 0 {
		return nil
	}
	var kinds, args, queues []string
	var times []time.Time
	for _, j := range jobs {
		text, err := json.Marshal(j.Args)
		if err != nil {
			return fmt.Errorf("writing a job %s: %w", j.Args.Kind(), err)
		}
		kinds, args, queues, times = append(kinds, j.Args.Kind()), append(args, string(text)), append(queues, j.Queue), append(times, j.At)
	}
	b.Queue(`INSERT INTO river_job (kind, args, queue, scheduled_at, state, max_attempts)
		SELECT j.kind, j.args::jsonb, j.queue, j.at, CASE WHEN j.at > $5 THEN 'scheduled' ELSE 'available' END::river_job_state, $6
		FROM (SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[])) AS j(kind, args, queue, at)`,
		kinds, args, queues, times, now, river.MaxAttemptsDefault)
	return nil
}

// queueDue adds the statements that write jobs of a moment, where there is none yet: no two with one key are scheduled at a time.
// They are the last, and in order, since another group that has the same to write waits for this one's commit. Such a job may
// never be put off by its worker: scheduled again it could stand beside a newer one of its key, and River drops both.
func queueDue(b *pgx.Batch, due []job.DeliverDue) error {
	slices.SortFunc(due, func(x, y job.DeliverDue) int { return x.Until.Compare(y.Until) })
	for _, d := range due {
		args, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("writing a job %s: %w", d.Kind(), err)
		}
		// The key holds while the job is in the states that the bits name: the first is "scheduled".
		b.Queue(`INSERT INTO river_job (kind, args, queue, scheduled_at, state, max_attempts, unique_key, unique_states)
			VALUES ($1, $2::text::jsonb, $3, $4, 'scheduled', $5, $6, B'10000000')
			ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND river_job_state_in_bitmask(unique_states, state)
			DO NOTHING`,
			d.Kind(), string(args), job.QueueMail, d.Until, river.MaxAttemptsDefault, []byte(d.Kind()+" "+d.Until.Format(time.RFC3339)))
	}
	return nil
}

package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"rebound/store/job"
)

// Erasure says who is to be forgotten: a customer by id, or whoever can be reached at a mailbox.
type Erasure struct {
	Customer string
	Mailbox  string // normalised
	// Normalise checks an address and normalises it; it comes with Mailbox.
	Normalise func(address string) (mailbox string, ok bool)
}

// Erased counts what an erasure has changed; all zero when there was nothing left.
type Erased struct {
	Customers   int // records of customers, the provider's and the merchant's
	Payments    int // payments and invoices whose facts named somebody
	Mails       int // held mails that were canceled
	Quarantined int // bodies
	Jobs        int
}

// ReasonErased is why the held mails of somebody who was erased are canceled.
const ReasonErased = "erased"

// Erase forgets somebody: what names them is replaced by pseudonyms, so that failures stay and still add up, their
// addresses are deleted, and tombstones keep what is sent again, or later, just as anonymous. It may be repeated.
func (s *Store) Erase(ctx context.Context, e Erasure) (Erased, error) {
	w := &erasing{store: s, Erasure: e, customers: make(map[string]bool), keys: make(map[PaymentKey]bool), words: make(map[string]bool)}
	if e.Customer != "" {
		w.customers[e.Customer] = true
	}
	// Once for what is there, and once more, now that the tombstones are laid, for what was on its way in.
	for range 2 {
		if err := w.find(ctx); err != nil {
			return w.erased, fmt.Errorf("looking for whom to erase: %w", err)
		}
		if err := w.bury(ctx); err != nil {
			return w.erased, fmt.Errorf("laying tombstones: %w", err)
		}
	}
	// One at a time: whoever waits for two locks could wait for somebody who waits for it.
	for k := range w.keys {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return w.payment(ctx, tx, k) })
		if err != nil {
			return w.erased, fmt.Errorf("erasing payment %s: %w", k.PaymentID, err)
		}
	}
	if err := w.quarantine(ctx); err != nil {
		return w.erased, fmt.Errorf("erasing quarantined bodies: %w", err)
	}
	// Last: by these an erasure that was cut short finds its customers again.
	if err := w.records(ctx); err != nil {
		return w.erased, fmt.Errorf("erasing customers' records: %w", err)
	}
	return w.erased, nil
}

// erasing is one run of Erase.
type erasing struct {
	Erasure
	store     *Store
	customers map[string]bool // ids
	keys      map[PaymentKey]bool
	words     map[string]bool // what names them in a body: ids, fingerprints, addresses
	erased    Erased
}

func (w *erasing) find(ctx context.Context) error {
	if w.Mailbox != "" {
		if err := w.findMailbox(ctx); err != nil {
			return err
		}
	}
	ids := slices.Collect(maps.Keys(w.customers))
	for id := range w.customers {
		w.words[id] = true
	}
	// The tables are read as a whole: it is seldom, locks nothing, and an index would cost every event.
	keys, err := collected[PaymentKey](w.store.pool.Query(ctx, `
		SELECT payment_id, source, account, livemode FROM facts WHERE detail::json->>'customer' = ANY($1)
		UNION SELECT payment_id, source, account, livemode FROM payments WHERE customer = ANY($1)
		UNION SELECT payment_id, source, account, livemode FROM attempts WHERE customer = ANY($1)
		UNION SELECT payment_id, source, account, livemode FROM notifications WHERE customer = ANY($1)`, ids))
	for _, k := range keys {
		w.keys[k] = true
	}
	return err
}

// findMailbox finds the customers, and the payments, that were or could be written to at the mailbox.
func (w *erasing) findMailbox(ctx context.Context) error {
	type reached struct {
		PaymentKey
		Customer string `db:"customer"`
		Contact  []byte `db:"contact"`
	}
	found := func(r reached, payment bool) {
		if payment {
			w.keys[r.PaymentKey] = true
		}
		if r.Customer != "" && !isPseudonym(r.Customer) {
			w.customers[r.Customer] = true
		}
	}
	for _, from := range []struct {
		table, sql string // the table is the context of its sealed addresses
		args       []any
	}{
		{"", `SELECT payment_id, source, account, livemode, customer, NULL::bytea AS contact FROM notifications WHERE mailbox = $1`,
			[]any{w.store.HashMailbox(w.Mailbox)}},
		{"customers", `SELECT '' AS payment_id, source, account, livemode, customer_id AS customer, contact FROM customers WHERE contact IS NOT NULL`, nil},
		{"contacts", `SELECT '' AS payment_id, source, account, livemode, customer_id AS customer, contact FROM contacts WHERE contact IS NOT NULL`, nil},
		{"facts", `SELECT payment_id, source, account, livemode, coalesce(detail::json->>'customer', '') AS customer, contact FROM facts WHERE contact IS NOT NULL`, nil},
	} {
		rows, err := w.store.pool.Query(ctx, from.sql, from.args...)
		if err != nil {
			return err
		}
		var opening error
		err = each(rows, func(r reached) {
			if len(r.Contact) == 0 {
				found(r, true)
				return
			}
			c, err := w.store.openContact(r.Contact, from.table)
			if err != nil {
				opening = err
			}
			for _, address := range c.all() {
				if mailbox, ok := w.Normalise(address); ok && mailbox == w.Mailbox {
					w.words[address] = true
					found(r, from.table == "facts")
				}
			}
		})
		if err != nil {
			return err
		}
		if opening != nil {
			return opening
		}
	}
	return nil
}

func (c Contact) all() []string {
	return slices.DeleteFunc([]string{c.Metadata, c.Receipt, c.Customer, c.Billing}, func(address string) bool { return address == "" })
}

// bury lays the tombstones, alone: afterwards no transaction is under way that has not seen them.
func (w *erasing) bury(ctx context.Context) error {
	var hashes [][]byte
	for id := range w.customers {
		hashes = append(hashes, w.store.customerTombstone(id))
	}
	for k := range w.keys {
		hashes = append(hashes, w.store.paymentTombstone(k))
	}
	return pgx.BeginFunc(ctx, w.store.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(erasureLock)); err != nil {
			return err
		}
		return layTombstones(ctx, tx, hashes)
	})
}

// payment makes what is filed under a key anonymous, facts and what was derived from them alike, so that a derivation
// of the facts as they are now comes to the rows as they are now.
func (w *erasing) payment(ctx context.Context, tx pgx.Tx, k PaymentKey) error {
	s := w.store
	a := arraysOf([]PaymentKey{k}).args()
	var facts []Fact
	var payments []Payment
	var attempts []Attempt
	b := &pgx.Batch{}
	b.Queue(`SELECT pg_advisory_xact_lock($1)`, k.lock())
	b.Queue(`SELECT `+factTable.selected("f")+` FROM facts f JOIN `+keyRows+` ON `+keyMatch("f", "payment_id"), a...).Query(
		eachRow(func(f Fact) { facts = append(facts, f) }))
	b.Queue(`SELECT `+paymentTable.selected("p")+` FROM payments p JOIN `+keyRows+` ON `+keyMatch("p", "payment_id"), a...).Query(
		eachRow(func(p Payment) { payments = append(payments, p) }))
	b.Queue(`SELECT `+attemptTable.selected("t")+` FROM attempts t JOIN `+keyRows+` ON `+keyMatch("t", "payment_id"), a...).Query(
		eachRow(func(t Attempt) { attempts = append(attempts, t) }))
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	changed := false
	for i := range facts {
		f := &facts[i]
		c, err := s.openContact(f.Contact, "facts")
		if err != nil {
			return err
		}
		for _, word := range append(c.all(), f.Customer, f.MethodID, f.Fingerprint) {
			if word != "" && !isPseudonym(word) {
				w.words[word], changed = true, true
			}
		}
		s.anonymise(f)
	}
	for i := range payments {
		payments[i].Customer = s.pseudonym(payments[i].Customer)
	}
	for i := range attempts {
		t := &attempts[i]
		s.anonymiseFields(&t.Customer, &t.MethodID, &t.Fingerprint, &t.ErrorMessage, &t.ErrorLogURL)
		t.AttemptKey = s.anonymousKey(t.AttemptKey)
	}
	b = &pgx.Batch{}
	err := factTable.queue(b, facts, `ON CONFLICT (payment_id, source, account, livemode, event_id, event_type, api_version) DO UPDATE SET
		contact = NULL, detail = EXCLUDED.detail`)
	if err != nil {
		return err
	}
	if err := paymentTable.queue(b, payments, savePayments); err != nil {
		return err
	}
	if err := attemptTable.queue(b, attempts, saveAttempts); err != nil {
		return err
	}
	b.Queue(`DELETE FROM links WHERE notification_id IN (SELECT n.id FROM notifications n JOIN `+keyRows+` ON `+keyMatch("n", "payment_id")+`)`, a...)
	canceled := 0
	b.Queue(`UPDATE notifications n SET status = 'canceled', reason = $5, updated_at = $6 FROM `+keyRows+`
		WHERE `+keyMatch("n", "payment_id")+` AND n.status = 'held' AND n.owner = 0`, append(a, ReasonErased, s.Now())...).Exec(countInto(&canceled))
	customers, pseudonyms := make([]string, 0, len(w.customers)), make([]string, 0, len(w.customers))
	for id := range w.customers {
		customers, pseudonyms = append(customers, id), append(pseudonyms, s.pseudonym(id))
	}
	b.Queue(`UPDATE notifications n SET customer = e.pseudonym FROM `+keyRows+`, unnest($5::text[], $6::text[]) AS e(id, pseudonym)
		WHERE `+keyMatch("n", "payment_id")+` AND n.customer = e.id`, append(a, customers, pseudonyms)...)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if changed {
		w.erased.Payments++
	}
	w.erased.Mails += canceled
	return nil
}

func countInto(n *int) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		*n += int(tag.RowsAffected())
		return nil
	}
}

// quarantine deletes the bodies that name them.
func (w *erasing) quarantine(ctx context.Context) error {
	type quarantined struct {
		ID   string `db:"id"`
		Body []byte `db:"body"`
	}
	rows, err := w.store.pool.Query(ctx, `SELECT id, body FROM quarantine WHERE body IS NOT NULL`)
	if err != nil {
		return err
	}
	var ids []string
	var opening error
	if err = each(rows, func(q quarantined) {
		body, err := w.store.sealer.Open(q.Body, []byte("quarantine"))
		if err != nil {
			opening = fmt.Errorf("opening a body: %w", err)
		}
		if w.named(body) {
			ids = append(ids, q.ID)
		}
	}); err != nil {
		return err
	}
	if opening != nil {
		return opening
	}
	tag, err := w.store.pool.Exec(ctx, `UPDATE quarantine SET body = NULL WHERE id = ANY($1)`, ids)
	w.erased.Quarantined = int(tag.RowsAffected())
	return err
}

// addressLike finds what may be an address in a text of any shape.
var addressLike = regexp.MustCompile(`[^\s"'<>(),:;\\\x00-\x1f]+@[^\s"'<>(),:;\\\x00-\x1f]+`)

func (w *erasing) named(body []byte) bool {
	for word := range w.words {
		if bytes.Contains(body, []byte(word)) {
			return true
		}
	}
	if w.Mailbox == "" {
		return false
	}
	for _, address := range addressLike.FindAll(body, -1) {
		if mailbox, ok := w.Normalise(string(address)); ok && mailbox == w.Mailbox {
			return true
		}
	}
	return false
}

// records deletes what the provider and the merchant said of the customers, and the look-ups of them. A look-up that is
// under way finds the tombstone when it comes back.
func (w *erasing) records(ctx context.Context) error {
	ids := slices.Collect(maps.Keys(w.customers))
	b := &pgx.Batch{}
	var records, jobs int
	b.Queue(`DELETE FROM customers WHERE customer_id = ANY($1)`, ids).Exec(countInto(&records))
	b.Queue(`DELETE FROM contacts WHERE customer_id = ANY($1)`, ids).Exec(countInto(&records))
	b.Queue(`DELETE FROM river_job WHERE kind = $2 AND state <> 'running' AND args->>'customer' = ANY($1)`, ids, job.LookUpContact{}.Kind()).Exec(countInto(&jobs))
	b.Queue(`UPDATE river_job SET args = args - 'customer' WHERE kind = $2 AND args->>'customer' = ANY($1)`, ids, job.LookUpContact{}.Kind()).Exec(countInto(&jobs))
	err := w.store.pool.SendBatch(ctx, b).Close()
	w.erased.Customers, w.erased.Jobs = records, jobs
	return err
}

const pseudonymPrefix = "erased_"

func isPseudonym(id string) bool { return strings.HasPrefix(id, pseudonymPrefix) }

// pseudonym stands for an id that was erased: the same for the same id, so that what belonged together still does, and
// without the key nobody can tell whose it was. It is its own pseudonym.
func (s *Store) pseudonym(id string) string {
	if id == "" || isPseudonym(id) {
		return id
	}
	return s.hasher.ID(pseudonymPrefix, "pseudonym", id)
}

// anonymise takes the identity out of a fact.
func (s *Store) anonymise(f *Fact) {
	s.anonymiseFields(&f.Customer, &f.MethodID, &f.Fingerprint, &f.ErrorMessage, &f.ErrorLogURL)
	f.Addresses, f.Contact = nil, nil
}

// anonymiseFields replaces ids by pseudonyms, in the texts too that may quote them, or an address.
func (s *Store) anonymiseFields(customer, method, fingerprint *string, texts ...*string) {
	var pairs []string
	for _, id := range []*string{customer, method, fingerprint} {
		if *id != "" {
			pairs = append(pairs, *id, s.pseudonym(*id))
		}
		*id = s.pseudonym(*id)
	}
	quoted := strings.NewReplacer(pairs...)
	for _, text := range texts {
		*text = addressLike.ReplaceAllString(quoted.Replace(*text), "…")
	}
}

// anonymousKey is the key of an attempt, or of what hangs on one, without the payment method by which an attempt without
// a charge is known (pm:<method>:…): ids are made from it, and do not change by an erasure.
func (s *Store) anonymousKey(key string) string {
	rest, ok := strings.CutPrefix(key, "pm:")
	if !ok {
		return key
	}
	method, rest, _ := strings.Cut(rest, ":")
	return "pm:" + s.pseudonym(method) + ":" + rest
}

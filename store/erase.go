package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

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
	// Until nothing more turns up that came in before the last tombstones were laid.
	for buried := -1; ; {
		if err := w.find(ctx); err != nil {
			return w.erased, fmt.Errorf("looking for whom to erase: %w", err)
		}
		found := len(w.customers) + len(w.keys)
		if found == buried {
			break
		}
		if err := w.bury(ctx); err != nil {
			return w.erased, fmt.Errorf("laying tombstones: %w", err)
		}
		buried = found
	}
	// An erasure that is cut short must find the rest again: what says that somebody is at the mailbox goes last, and before
	// all else what can be told to be theirs only by what goes later.
	if err := w.quarantine(ctx); err != nil {
		return w.erased, fmt.Errorf("erasing quarantined bodies: %w", err)
	}
	if err := w.payments(ctx, false); err != nil {
		return w.erased, err
	}
	if err := w.records(ctx); err != nil {
		return w.erased, fmt.Errorf("erasing customers' records: %w", err)
	}
	err := w.payments(ctx, true)
	return w.erased, err
}

// erasing is one run of Erase.
type erasing struct {
	Erasure
	store     *Store
	customers map[string]bool     // ids
	keys      map[PaymentKey]bool // true: it tells, or was told to, the mailbox
	words     map[string]bool     // what names them in a body: ids, fingerprints, addresses; in lower case
	erased    Erased
}

// payments makes the payments anonymous that tell the mailbox, or those that do not. One at a time: whoever waits for two
// locks could wait for somebody who waits for it.
func (w *erasing) payments(ctx context.Context, tell bool) error {
	for k, tells := range w.keys {
		if tells != tell {
			continue
		}
		if err := pgx.BeginFunc(ctx, w.store.pool, func(tx pgx.Tx) error { return w.payment(ctx, tx, k) }); err != nil {
			return fmt.Errorf("erasing payment %s: %w", k.PaymentID, err)
		}
	}
	return nil
}

// find finds the customers and their payments. The tables are read as a whole: it is seldom, locks nothing, and an index
// would cost every event.
func (w *erasing) find(ctx context.Context) error {
	return pgx.BeginFunc(ctx, w.store.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('enable_seqscan', 'on', true)`); err != nil {
			return err
		}
		if w.Mailbox != "" {
			if err := w.findMailbox(ctx, tx); err != nil {
				return err
			}
		}
		keys, err := collected[PaymentKey](tx.Query(ctx, `
			SELECT payment_id, source, account, livemode FROM facts WHERE detail::json->>'cus' = ANY($1)
			UNION SELECT payment_id, source, account, livemode FROM payments WHERE customer = ANY($1)
			UNION SELECT payment_id, source, account, livemode FROM attempts WHERE customer = ANY($1)
			UNION SELECT payment_id, source, account, livemode FROM notifications WHERE customer = ANY($1)`, slices.Collect(maps.Keys(w.customers))))
		for _, k := range keys {
			if _, known := w.keys[k]; !known {
				w.keys[k] = false
			}
		}
		return err
	})
}

// findMailbox finds the customers, and the payments, that were or could be written to at the mailbox.
func (w *erasing) findMailbox(ctx context.Context, tx pgx.Tx) error {
	type reached struct {
		PaymentKey
		Customer string `db:"customer"`
		Contact  []byte `db:"contact"`
	}
	found := func(r reached, payment bool) {
		if payment {
			w.keys[r.PaymentKey] = true
		}
		if r.Customer != "" && !IsPseudonym(r.Customer) {
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
		{"facts", `SELECT f.payment_id, f.source, f.account, f.livemode, coalesce(f.detail::json->>'cus', p.customer, '') AS customer, f.contact
			FROM facts f LEFT JOIN payments p ON ` + sameKey("p", "f") + ` WHERE f.contact IS NOT NULL`, nil},
	} {
		rows, err := tx.Query(ctx, from.sql, from.args...)
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
	return nonEmpty(c.Metadata, c.Receipt, c.Customer, c.Billing)
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
	var told, pseudonyms []string // the notifications' customers
	b := &pgx.Batch{}
	b.Queue(`SELECT pg_advisory_xact_lock($1)`, k.lock())
	b.Queue(`SELECT `+factTable.selected("f")+` FROM facts f JOIN `+keyRows+` ON `+keyMatch("f", "payment_id"), a...).Query(
		eachRow(func(f Fact) { facts = append(facts, f) }))
	b.Queue(`SELECT `+paymentTable.selected("p")+` FROM payments p JOIN `+keyRows+` ON `+keyMatch("p", "payment_id"), a...).Query(
		eachRow(func(p Payment) { payments = append(payments, p) }))
	b.Queue(`SELECT `+attemptTable.selected("t")+` FROM attempts t JOIN `+keyRows+` ON `+keyMatch("t", "payment_id"), a...).Query(
		eachRow(func(t Attempt) { attempts = append(attempts, t) }))
	b.Queue(`SELECT DISTINCT n.customer FROM notifications n JOIN `+keyRows+` ON `+keyMatch("n", "payment_id"), a...).Query(
		func(rows pgx.Rows) (err error) {
			told, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	changed := false
	for i := range facts {
		changed = s.anonymise(&facts[i]) || changed
	}
	for i := range payments {
		payments[i].Customer = s.pseudonym(payments[i].Customer)
	}
	for i := range attempts {
		t := &attempts[i]
		s.anonymiseFields(&t.Customer, &t.MethodID, &t.Fingerprint, &t.ErrorMessage, &t.ErrorLogURL)
	}
	b = &pgx.Batch{}
	if err := factTable.queue(b, pointers(facts), eraseFacts); err != nil {
		return err
	}
	if err := paymentTable.queue(b, pointers(payments), savePayments); err != nil {
		return err
	}
	if err := attemptTable.queue(b, pointers(attempts), saveAttempts); err != nil {
		return err
	}
	b.Queue(`DELETE FROM links WHERE notification_id IN (SELECT n.id FROM notifications n JOIN `+keyRows+` ON `+keyMatch("n", "payment_id")+`)`, a...)
	canceled := 0
	b.Queue(`UPDATE notifications n SET status = 'canceled', reason = $5, updated_at = $6 FROM `+keyRows+`
		WHERE `+keyMatch("n", "payment_id")+` AND n.status = 'held' AND n.owner = 0`, append(a, ReasonErased, s.Now())...).Exec(countInto(&canceled))
	for _, id := range told {
		pseudonyms = append(pseudonyms, s.pseudonym(id))
	}
	b.Queue(`UPDATE notifications n SET customer = e.pseudonym FROM `+keyRows+`, unnest($5::text[], $6::text[]) AS e(id, pseudonym)
		WHERE `+keyMatch("n", "payment_id")+` AND n.customer = e.id AND e.id <> e.pseudonym`, append(a, told, pseudonyms)...)
	// A look-up that is under way finds the tombstone when it comes back. Others are inserted under the payment's lock.
	const lookUps = ` river_job.kind = $5 AND args->>'payment_id' = k.id AND args->>'source' = k.source
		AND coalesce(args->>'account', '') = k.account AND (args->>'livemode')::boolean = k.livemode`
	jobs := append(a, job.LookUpContact{}.Kind())
	b.Queue(`DELETE FROM river_job USING `+keyRows+` WHERE state <> 'running' AND`+lookUps, jobs...).Exec(countInto(&w.erased.Jobs))
	b.Queue(`UPDATE river_job SET args = args - 'customer' FROM `+keyRows+` WHERE args ? 'customer' AND`+lookUps, jobs...).Exec(countInto(&w.erased.Jobs))
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

// learn reads what the payments' facts say by which a body may name them.
func (w *erasing) learn(ctx context.Context) error {
	for id := range w.customers {
		w.words[strings.ToLower(id)] = true
	}
	rows, err := w.store.pool.Query(ctx, `SELECT `+factTable.selected("f")+` FROM facts f JOIN `+keyRows+` ON `+keyMatch("f", "payment_id"),
		arraysOf(slices.Collect(maps.Keys(w.keys))).args()...)
	if err != nil {
		return err
	}
	var opening error
	err = each(rows, func(f Fact) {
		c, err := w.store.openContact(f.Contact, "facts")
		if err != nil {
			opening = err
		}
		for _, word := range append(c.all(), f.Customer, f.MethodID, f.Fingerprint) {
			if isName(word) {
				w.words[strings.ToLower(word)] = true
			}
		}
	})
	return cmp.Or(err, opening)
}

// quarantine deletes the bodies that name them.
func (w *erasing) quarantine(ctx context.Context) error {
	if err := w.learn(ctx); err != nil {
		return err
	}
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

// addressLike finds what may be an address in a text of any shape, with what may stand around one.
var addressLike = regexp.MustCompile(`[^\s"<>(),:;\\\x00-\x1f]+@[^\s"<>(),:;\\\x00-\x1f]+`)

// escaped finds what JSON may write instead of a letter.
var escaped = regexp.MustCompile(`\\u[0-9A-Fa-f]{4}`)

func (w *erasing) named(body []byte) bool {
	body = bytes.ToLower(escaped.ReplaceAllFunc(body, func(e []byte) []byte {
		letter, _ := strconv.ParseUint(string(e[2:]), 16, 32)
		return utf8.AppendRune(nil, rune(letter))
	}))
	for word := range w.words {
		if bytes.Contains(body, []byte(word)) {
			return true
		}
	}
	if w.Mailbox == "" {
		return false
	}
	for _, match := range addressLike.FindAllString(string(body), -1) {
		for _, address := range []string{match, strings.Trim(match, "'.!?*[]{}`")} {
			if mailbox, ok := w.Normalise(address); ok && mailbox == w.Mailbox {
				return true
			}
		}
	}
	return false
}

// records deletes what the provider and the merchant said of the customers.
func (w *erasing) records(ctx context.Context) error {
	ids := slices.Collect(maps.Keys(w.customers))
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM customers WHERE customer_id = ANY($1)`, ids).Exec(countInto(&w.erased.Customers))
	b.Queue(`DELETE FROM contacts WHERE customer_id = ANY($1)`, ids).Exec(countInto(&w.erased.Customers))
	return w.store.pool.SendBatch(ctx, b).Close()
}

const pseudonymPrefix = "erased_"

// IsPseudonym tells whether an id stands for one that was erased.
func IsPseudonym(id string) bool { return strings.HasPrefix(id, pseudonymPrefix) }

func isName(word string) bool { return word != "" && !IsPseudonym(word) }

// pseudonym stands for an id that was erased: the same for the same id, so that what belonged together still does, and
// without the key nobody can tell whose it was. It is its own pseudonym.
func (s *Store) pseudonym(id string) string {
	if id == "" || IsPseudonym(id) {
		return id
	}
	return s.hasher.ID(pseudonymPrefix, "pseudonym", id)
}

// anonymise takes the identity out of a fact, and tells whether there was any.
func (s *Store) anonymise(f *Fact) (changed bool) {
	said := func() [5]string {
		return [...]string{f.Customer, f.MethodID, f.Fingerprint, f.ErrorMessage, f.ErrorLogURL}
	}
	before, reachable := said(), f.Addresses != nil || f.Contact != nil
	s.anonymiseFields(&f.Customer, &f.MethodID, &f.Fingerprint, &f.ErrorMessage, &f.ErrorLogURL)
	f.Addresses, f.Contact = nil, nil
	return reachable || said() != before
}

// anonymiseFields replaces ids by pseudonyms, in the texts too that may quote them, or an address. A message may also
// quote what its own event does not name.
func (s *Store) anonymiseFields(customer, method, fingerprint, message, url *string) {
	var pairs []string
	for _, id := range []*string{customer, method, fingerprint} {
		if *id != "" {
			pairs = append(pairs, *id, s.pseudonym(*id))
		}
		*id = s.pseudonym(*id)
	}
	quoted := strings.NewReplacer(pairs...)
	for _, text := range []*string{message, url} {
		*text = addressLike.ReplaceAllString(quoted.Replace(*text), "…")
	}
	*message = idLike.ReplaceAllStringFunc(*message, func(word string) string {
		if strings.ContainsAny(word, "0123456789") && (len(word) >= longWord || strings.Contains(word, "_")) {
			return s.pseudonym(word)
		}
		return word
	})
}

// longWord is a length at which a word with digits is an id rather than a number or a date.
const longWord = 12

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

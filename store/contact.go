package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"rebound/store/job"
)

// CustomerKey names a customer of one provider account and mode.
type CustomerKey struct {
	CustomerID string
	Source     string
	Account    string
	Livemode   bool
}

// Recipient is who is to hear of a payment, and in which language.
type Recipient struct {
	Emails []string // the one to use first; what a merchant writes down may be no address, so those after it are told too
	Locale string   // a language wish, '' when none is known
	Gone   bool     // the customer was deleted: no mail
}

// sealContact encrypts addresses. The context is the table they stand in: a sealed value cannot be moved to another.
func (s *Store) sealContact(c *Contact, table string) ([]byte, error) {
	if c == nil || *c == (Contact{}) {
		return nil, nil
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("sealing an address: %w", err)
	}
	return s.sealer.Seal(plain, []byte(table)), nil
}

func (s *Store) openContact(sealed []byte, table string) (Contact, error) {
	var c Contact
	if len(sealed) == 0 {
		return c, nil
	}
	plain, err := s.sealer.Open(sealed, []byte(table))
	if err != nil {
		return c, fmt.Errorf("opening an address: %w", err)
	}
	if err := json.Unmarshal(plain, &c); err != nil {
		return c, errors.New("opening an address: it is not readable")
	}
	return c, nil
}

func (s *Store) queueCustomer(b *pgx.Batch, c Customer) {
	sealed, err := s.sealContact(&Contact{Customer: c.Email}, "customers")
	if err != nil || c.Deleted {
		sealed = nil
	}
	since := c.RecordCreated
	if c.Created > 0 {
		since = min(since, c.Created)
	}
	b.Queue(`INSERT INTO customers AS c (customer_id, source, account, livemode, record_created, record_event, deleted, contact, locale, known_since)
		SELECT $1::text, $2::text, $3::text, $4::boolean, $5::bigint, $6::text, $7::boolean, $8::bytea, $9::text, $11::bigint
		WHERE NOT EXISTS (SELECT FROM tombstones WHERE hash = $10)
		ON CONFLICT (customer_id, source, account, livemode) DO UPDATE SET record_created = EXCLUDED.record_created,
			record_event = EXCLUDED.record_event, deleted = EXCLUDED.deleted, contact = EXCLUDED.contact, locale = EXCLUDED.locale
		WHERE (EXCLUDED.record_created, EXCLUDED.record_event) > (c.record_created, c.record_event)`,
		c.CustomerID, c.Source, c.Account, c.Livemode, c.RecordCreated, c.RecordEvent, c.Deleted, sealed, c.Locale, s.customerTombstone(c.CustomerID), since)
	// Whichever record wins: a customer of years does not become a stranger by an update.
	b.Queue(`UPDATE customers SET known_since = $5 WHERE customer_id = $1 AND source = $2 AND account = $3 AND livemode = $4 AND known_since > $5`,
		c.CustomerID, c.Source, c.Account, c.Livemode, since)
}

func (s *Store) queueQuarantine(b *pgx.Batch, q Quarantined) {
	b.Queue(`INSERT INTO quarantine (id, source, event_id, event_type, reason, body, received_at)
		SELECT $1::text, $2::text, $3::text, $4::text, $5::text,
			CASE WHEN NOT EXISTS (SELECT FROM tombstones WHERE hash = ANY($8)) THEN $6::bytea END, $7::timestamptz
		ON CONFLICT DO NOTHING`,
		s.hasher.ID("qr_", "quarantine", q.Source, q.EventID, q.EventType), q.Source, q.EventID, q.EventType, q.Reason,
		s.sealer.Seal(q.Body, []byte("quarantine")), s.Now(), s.tombstonesIn(q.Body))
}

// PutContact keeps what the merchant says of a customer; empty members say nothing. Mails that were held for want of an
// address go out. Of a customer who was erased nothing is kept.
func (s *Store) PutContact(ctx context.Context, k CustomerKey, email, locale, timeZone string) error {
	sealed, err := s.sealContact(&Contact{Customer: email}, "contacts")
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(holdErasures, int64(erasureLock))
	b.Queue(`INSERT INTO contacts (customer_id, source, account, livemode, contact, locale, time_zone, updated_at)
		SELECT $1::text, $2::text, $3::text, $4::boolean, $5::bytea, $6::text, $7::text, $8::timestamptz
		WHERE NOT EXISTS (SELECT FROM tombstones WHERE hash = $9)
		ON CONFLICT (customer_id, source, account, livemode) DO UPDATE SET contact = EXCLUDED.contact, locale = EXCLUDED.locale,
			time_zone = EXCLUDED.time_zone, updated_at = EXCLUDED.updated_at`,
		k.CustomerID, k.Source, k.Account, k.Livemode, sealed, locale, timeZone, s.Now(), s.customerTombstone(k.CustomerID))
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("keeping the contact of customer %s: %w", k.CustomerID, err)
	}
	_, err = s.WakeHeld(ctx, ReasonNoAddress, 1000)
	return err
}

// Recipient finds a payment's addresses and language in this order: the merchant's metadata, the
// merchant's PUT, receipt_email, the customer's record, what an invoice or a Checkout Session has of the customer,
// billing_details.email. The choice does not know why the payment failed.
func (s *Store) Recipient(ctx context.Context, k PaymentKey, customer string) (Recipient, error) {
	var r Recipient
	if IsPseudonym(customer) {
		return r, nil // an event of the payment that did not say whose it is may have come before
	}
	var inFacts Contact
	var sessionLocale string
	// An invoice's own events have named no payment since 2025-03-31. They give an address; the language is the payment's.
	factRows, err := s.pool.Query(ctx, `SELECT f.contact, CASE f.payment_id WHEN $1 THEN coalesce(f.detail::json->>'lo', '') ELSE '' END, coalesce(f.detail::json->>'slo', '')
		FROM facts f WHERE f.payment_id = ANY (ARRAY[$1, (SELECT p.invoice FROM payments p
			WHERE p.payment_id = $1 AND p.source = $2 AND p.account = $3 AND p.livemode = $4)])
		AND f.source = $2 AND f.account = $3 AND f.livemode = $4
		ORDER BY f.created DESC, f.event_id DESC, f.api_version DESC`, k.PaymentID, k.Source, k.Account, k.Livemode)
	if err != nil {
		return r, fmt.Errorf("reading the addresses of payment %s: %w", k.PaymentID, err)
	}
	defer factRows.Close()
	for factRows.Next() {
		var sealed []byte
		var locale, session string
		if err := factRows.Scan(&sealed, &locale, &session); err != nil {
			return r, fmt.Errorf("reading the addresses of payment %s: %w", k.PaymentID, err)
		}
		c, err := s.openContact(sealed, "facts")
		if err != nil {
			return r, err
		}
		firstOf(&inFacts.Metadata, c.Metadata)
		firstOf(&inFacts.Receipt, c.Receipt)
		firstOf(&inFacts.Customer, c.Customer)
		firstOf(&inFacts.Billing, c.Billing)
		firstOf(&r.Locale, locale)
		firstOf(&sessionLocale, session)
	}
	if err := factRows.Err(); err != nil {
		return r, fmt.Errorf("reading the addresses of payment %s: %w", k.PaymentID, err)
	}
	if customer == "" {
		r.Emails = nonEmpty(inFacts.Metadata, inFacts.Receipt, inFacts.Customer, inFacts.Billing)
		firstOf(&r.Locale, sessionLocale)
		return r, nil
	}
	var put, record []byte
	var putLocale, recordLocale string
	var deleted bool
	err = s.pool.QueryRow(ctx, `SELECT m.contact, coalesce(m.locale, ''), c.contact, coalesce(c.locale, ''), coalesce(c.deleted, false)
		FROM (SELECT $1::text AS id, $2::text AS source, $3::text AS account, $4::boolean AS livemode) k
		LEFT JOIN contacts m ON m.customer_id = k.id AND m.source = k.source AND m.account = k.account AND m.livemode = k.livemode
		LEFT JOIN customers c ON c.customer_id = k.id AND c.source = k.source AND c.account = k.account AND c.livemode = k.livemode`,
		customer, k.Source, k.Account, k.Livemode).Scan(&put, &putLocale, &record, &recordLocale, &deleted)
	if err != nil {
		return r, fmt.Errorf("reading customer %s: %w", customer, err)
	}
	fromPut, err := s.openContact(put, "contacts")
	if err != nil {
		return r, err
	}
	fromRecord, err := s.openContact(record, "customers")
	if err != nil {
		return r, err
	}
	r.Gone = deleted
	r.Emails = nonEmpty(inFacts.Metadata, fromPut.Customer, inFacts.Receipt, fromRecord.Customer, inFacts.Customer, inFacts.Billing)
	firstOf(&r.Locale, putLocale, recordLocale, sessionLocale)
	return r, nil
}

// languageOf is the language wish of the customer of a row that has a payment's key and a customer: the one of Recipient, but for
// the merchant's own word, which every attempt of the payment bears.
func languageOf(row string) string {
	ofCustomer := " WHERE c.customer_id = @.customer AND c.source = @.source AND c.account = @.account AND c.livemode = @.livemode"
	return strings.ReplaceAll(`coalesce((SELECT nullif(c.locale, '') FROM contacts c`+ofCustomer+`), (SELECT nullif(c.locale, '') FROM customers c`+ofCustomer+`),
		(SELECT f.detail::json->>'slo' FROM facts f WHERE `+sameKey("f", "@")+` AND f.detail::json->>'slo' <> ''
			ORDER BY f.created DESC, f.event_id DESC, f.api_version DESC LIMIT 1), '')`, "@", row)
}

// languagesSQL looks once for each payment, however many of its attempts are asked about.
var languagesSQL = "SELECT k.n, " + languageOf("k") + ` AS locale FROM unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[])
	AS k(n, source, account, livemode, payment_id, customer)`

// queueLanguages adds a statement to a batch that gives each of the failures whose payment's events named no language when it was
// derived that of its customer: what is told of it here is to read as the mail does.
func queueLanguages(b *pgx.Batch, failures []Failure) {
	type whose struct {
		PaymentKey
		customer string
	}
	var k keys
	var customers []string
	asked, of := map[whose]int{}, map[int][]*Failure{}
	for i := range failures {
		f := &failures[i]
		if f.Locale != "" {
			continue
		}
		w := whose{f.PaymentKey, f.Customer}
		n, seen := asked[w]
		if !seen {
			n = len(customers)
			asked[w] = n
			k.add(n, f.PaymentKey, f.PaymentID)
			customers = append(customers, f.Customer)
		}
		of[n] = append(of[n], f)
	}
	if len(customers) == 0 {
		return
	}
	b.Queue(languagesSQL, k.n, k.source, k.account, k.livemode, k.key, customers).Query(eachRow(func(l struct {
		N      int64  `db:"n"`
		Locale string `db:"locale"`
	}) {
		for _, f := range of[int(l.N)] {
			f.Locale = l.Locale
		}
	}))
}

// nonEmpty are the values that say anything.
func nonEmpty(values ...string) []string {
	return slices.DeleteFunc(values, func(v string) bool { return v == "" })
}

func firstOf(to *string, values ...string) {
	if i := slices.IndexFunc(values, func(v string) bool { return v != "" }); *to == "" && i >= 0 {
		*to = values[i]
	}
}

// The reasons for which a mail is held until something outside it changes.
const (
	ReasonNoAddress         = "no_address"
	ReasonSMTPNotConfigured = "smtp_not_configured"
	ReasonMailStorm         = "mail_storm"  // too many unknown mailboxes in an hour
	ReasonDailyLimit        = "daily_limit" // too many mails in a day
)

// WakeHeld inserts jobs for mails that are due, unclaimed and held for a reason that may be gone, the first mails of known customers
// before those that yield to them, then oldest first, and limit at most: for no_address only those for whose customer, payment or
// invoice an address has come to be known. It returns how many.
func (s *Store) WakeHeld(ctx context.Context, reason string, limit int) (int, error) {
	rows, err := s.pool.Query(ctx, `SELECT n.id FROM notifications n
		WHERE n.status = 'held' AND n.channel = 'email' AND n.owner = 0 AND n.due_at <= $1 AND n.reason = $2
		AND (n.reason <> $3
			OR EXISTS (SELECT 1 FROM customers c WHERE c.customer_id = n.customer AND c.source = n.source AND c.account = n.account
				AND c.livemode = n.livemode AND c.contact IS NOT NULL AND NOT c.deleted)
			OR EXISTS (SELECT 1 FROM contacts c WHERE c.customer_id = n.customer AND c.source = n.source AND c.account = n.account
				AND c.livemode = n.livemode AND c.contact IS NOT NULL)
			OR EXISTS (SELECT 1 FROM facts f WHERE f.payment_id = ANY (ARRAY[n.payment_id, (SELECT p.invoice FROM payments p WHERE `+sameKey("p", "n")+`)])
				AND f.source = n.source AND f.account = n.account AND f.livemode = n.livemode AND f.contact IS NOT NULL))
		ORDER BY (n.reason IN ('mail_storm', 'daily_limit') AND n.template = 'first' AND `+knownCustomer+`) DESC, n.due_at LIMIT $4`, s.Now(), reason, ReasonNoAddress, limit)
	if err != nil {
		return 0, fmt.Errorf("looking for held mails: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("looking for held mails: %w", err)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	// A job too many is harmless: it finds nothing to claim.
	if _, err := s.jobs.InsertMany(ctx, mailJobs(ids)); err != nil {
		return 0, fmt.Errorf("inserting %d mail jobs: %w", len(ids), err)
	}
	return len(ids), nil
}

func mailJobs(ids []string) []river.InsertManyParams {
	params := make([]river.InsertManyParams, len(ids))
	for i, id := range ids {
		params[i] = river.InsertManyParams{Args: job.DeliverMail{NotificationID: id}, InsertOpts: &river.InsertOpts{Queue: job.QueueMail}}
	}
	return params
}

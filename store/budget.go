package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// budgetLock is the advisory lock under which mails are counted: two senders must not both take the last place.
const budgetLock = 0x62756467

// Use is what has been sent, or is being sent, that a mail's limits count. A day is 24 hours, a week seven days, an hour
// sixty minutes, all before now.
type Use struct {
	PaymentDay, PaymentEver int       // mails of this payment
	PaymentDayOver          time.Time // when the newest of PaymentDay that is sent counts no more; zero where none is
	MailboxDay, MailboxWeek int       // mails to the mailbox, or to the customer where those are more
	NewMailboxesHour        int       // mails to mailboxes that were unknown before their hour, refused ones too, whole service
	StormBefore             int       // mails due before this one that the storm holds; no more than a thousand are counted
	AllDay, KnownDay        int       // mails, and those of them to known mailboxes, whole service
	Known                   bool      // this mailbox was known an hour ago, or its customer an hour before the mail was decided on
	Suppressed              string
}

// knownCustomer tells of a row n of notifications whether its customer was known before the hour in which the mail was decided on. By
// the hour before now all customers of a storm would become known while their mails are held.
const knownCustomer = `(
	EXISTS (SELECT 1 FROM contacts c WHERE c.customer_id = n.customer AND c.source = n.source AND c.account = n.account AND c.livemode = n.livemode)
	OR EXISTS (SELECT 1 FROM customers c WHERE c.customer_id = n.customer AND c.source = n.source AND c.account = n.account AND c.livemode = n.livemode
		AND c.known_since <= floor(extract(epoch FROM n.created_at))::bigint - 3600)
	OR EXISTS (SELECT 1 FROM payments o WHERE o.customer = n.customer AND o.customer <> '' AND o.source = n.source AND o.account = n.account
		AND o.livemode = n.livemode AND o.succeeded_created > 0 AND o.succeeded_created <= floor(extract(epoch FROM n.created_at))::bigint - 3600))`

// budgetSQL counts what a mail's limits rest on. A mail that another process has booked and not yet settled counts as sent now,
// one of which no server has said whether it has it as sent when that was last written down: it may have arrived. By when they
// were due, since refused ones stay for as long as failures do: to look at all of a year's for each mail would take longer than
// to send it. So it would by the index of what is sent, which Postgres takes for a payment's mails when it has no statistics:
// OFFSET 0 keeps it to the payment's.
const budgetSQL = `WITH underway AS (
		SELECT n.* FROM notifications n WHERE n.owner <> 0 AND n.mailbox IS NOT NULL AND n.id <> $1
	), uncertain AS (
		SELECT * FROM underway
		UNION ALL
		SELECT n.* FROM notifications n WHERE n.mailbox IS NOT NULL AND n.sent_at IS NULL AND n.owner = 0
			AND n.status IN ('held', 'unknown') AND n.due_at > $7 AND n.updated_at > $7
	), mails AS (
		SELECT n.* FROM notifications n WHERE n.channel = 'email' AND n.sent_at > $6
		UNION ALL
		SELECT * FROM uncertain WHERE owner <> 0 OR updated_at > $6
	)
	SELECT
		count(*) FILTER (WHERE payment_id = $2 AND source = $3 AND account = $4 AND livemode = $5),
		max(sent_at) FILTER (WHERE payment_id = $2 AND source = $3 AND account = $4 AND livemode = $5),
		(SELECT count(*) FROM (SELECT channel, status, owner, mailbox, sent_at FROM notifications
			WHERE payment_id = $2 AND source = $3 AND account = $4 AND livemode = $5 OFFSET 0) p WHERE channel = 'email'
			AND (sent_at IS NOT NULL OR mailbox IS NOT NULL AND owner = 0 AND status IN ('held', 'unknown')))
			+ (SELECT count(*) FROM underway u WHERE u.payment_id = $2 AND u.source = $3 AND u.account = $4 AND u.livemode = $5),
		GREATEST(count(*) FILTER (WHERE mailbox = $8),
			count(*) FILTER (WHERE customer = $9 AND $9 <> '' AND source = $3 AND account = $4 AND livemode = $5)),
		GREATEST((SELECT count(*) FROM notifications w WHERE w.mailbox = $8 AND w.sent_at > $7)
				+ (SELECT count(*) FROM uncertain u WHERE u.mailbox = $8),
			(SELECT count(*) FROM notifications w WHERE w.customer = $9 AND $9 <> '' AND w.channel = 'email' AND w.sent_at > $7
				AND w.source = $3 AND w.account = $4 AND w.livemode = $5)
				+ (SELECT count(*) FROM uncertain u WHERE u.customer = $9 AND $9 <> '' AND u.source = $3 AND u.account = $4 AND u.livemode = $5)),
		count(*) FILTER (WHERE new_mailbox AND (owner <> 0 OR coalesce(sent_at, updated_at) > $10))
			+ (SELECT count(*) FROM notifications f WHERE f.mailbox IS NOT NULL AND f.sent_at IS NULL AND f.owner = 0
				AND f.status = 'failed' AND f.new_mailbox AND f.due_at > $7 AND f.updated_at > $10),
		(SELECT count(*) FROM (SELECT FROM notifications h WHERE h.status = 'held' AND h.channel = 'email' AND h.owner = 0
			AND h.reason = 'mail_storm' AND h.due_at < $11 LIMIT 1000) h),
		count(*), count(*) FILTER (WHERE NOT new_mailbox AND template = 'first'),
		EXISTS (SELECT 1 FROM notifications o WHERE o.mailbox = $8 AND o.sent_at <= $10)
			OR EXISTS (SELECT 1 FROM notifications n WHERE n.id = $1 AND ` + knownCustomer + `),
		coalesce((SELECT reason FROM suppressions WHERE mailbox = $8), '')
	FROM mails`

// Budget counts, under one lock over all replicas, what the limits of a claimed mail rest on, asks allow, and books the
// mail before the lock is given up when allow says so: its mailbox and, for the pages of its links, its language.
func (s *Store) Budget(ctx context.Context, owner int64, n *Notification, allow func(Use) bool) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(budgetLock)); err != nil {
			return err
		}
		now := s.Now()
		hour, day, week := now.Add(-time.Hour), now.Add(-24*time.Hour), now.Add(-7*24*time.Hour)
		var u Use
		var newest *time.Time
		err := tx.QueryRow(ctx, budgetSQL,
			n.ID, n.PaymentID, n.Source, n.Account, n.Livemode, day, week, n.Mailbox, n.Customer, hour, n.DueAt).Scan(
			&u.PaymentDay, &newest, &u.PaymentEver, &u.MailboxDay, &u.MailboxWeek, &u.NewMailboxesHour, &u.StormBefore, &u.AllDay, &u.KnownDay, &u.Known, &u.Suppressed)
		if err != nil {
			return err
		}
		if newest != nil {
			u.PaymentDayOver = newest.Add(24 * time.Hour)
		}
		n.NewMailbox = !u.Known
		if !allow(u) {
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE notifications SET mailbox = $3, new_mailbox = $4, locale = $5 WHERE id = $1 AND owner = $2`,
			n.ID, owner, n.Mailbox, n.NewMailbox, n.Locale)
		return err
	})
	if err != nil {
		return fmt.Errorf("counting the mails before mail %s: %w", n.ID, err)
	}
	return nil
}

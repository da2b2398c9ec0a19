package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"rebound/store/job"
)

// Refusal says why a notification could not be claimed.
type Refusal string

// The refusals.
const (
	NotHeld    Refusal = "not_held"    // sent, ended, or claimed by another process
	NotDue     Refusal = "not_due"     // another job comes: at its time, or, if this clock is behind, from the look for lost ones
	NotFailing Refusal = "not_failing" // the payment is pending or over
	StreamOpen Refusal = "stream_open" // the customer is at the checkout page now, and reads it there
	Superseded Refusal = "superseded"  // a later success or a settled invoice made it pointless
)

// streamAlive is how old the heartbeat of an open checkout stream may be.
const streamAlive = 30 * time.Second

// Claimed is a mail that this process, and no other, may now send.
type Claimed struct {
	Notification Notification
	Payment      Payment
	Attempt      Attempt // the newest failed one: later attempts change the text until the claim
}

// Claim gives a held, due mail to the owner if its payment is still failing, which it reads under the payment's lock: no
// claim commits after a success has. Exactly one of the results is set; both are zero where there is no such id.
func (s *Store) Claim(ctx context.Context, owner int64, id string) (claimed *Claimed, refusal Refusal, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		claimed, refusal, err = s.claim(ctx, tx, owner, id)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("claiming mail %s: %w", id, err)
	}
	return claimed, refusal, nil
}

func (s *Store) claim(ctx context.Context, tx pgx.Tx, owner int64, id string) (*Claimed, Refusal, error) {
	now := s.Now()
	payment, err := one[Payment](ctx, tx, `SELECT `+paymentTable.selected("p")+` FROM payments p JOIN notifications n
		ON n.payment_id = p.payment_id AND n.source = p.source AND n.account = p.account AND n.livemode = p.livemode
		WHERE n.id = $1 FOR SHARE OF p`, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, NotHeld, nil
	}
	if err != nil {
		return nil, "", err
	}
	// After the lock, so that what is read is what the last holder committed.
	n, err := one[Notification](ctx, tx, `SELECT `+notificationTable.selected("n")+` FROM notifications n WHERE n.id = $1 FOR UPDATE`, id)
	switch {
	case err != nil:
		return nil, "", err
	case n.Status != Held || n.Owner != 0:
		return nil, NotHeld, nil
	case n.DueAt.After(now), n.NextTryAt != nil && n.NextTryAt.After(now):
		return nil, NotDue, nil
	case payment.Status != "failing":
		if reason := over(payment.Status); reason != "" {
			_, err := tx.Exec(ctx, `UPDATE notifications SET status = $2, reason = $3, updated_at = $4 WHERE id = $1`, id, Canceled, reason, now)
			return nil, NotFailing, err
		}
		return nil, NotFailing, nil
	}
	var streaming, superseded bool
	k := payment.PaymentKey
	err = tx.QueryRow(ctx, `SELECT
		EXISTS (SELECT 1 FROM checkout_streams c WHERE c.payment_id = $1 AND c.source = $2 AND c.account = $3 AND c.livemode = $4 AND c.heartbeat_at > $5),
		EXISTS (SELECT 1 FROM payments o WHERE o.customer = $6 AND o.customer <> '' AND o.source = $2 AND o.account = $3 AND o.livemode = $4
			AND o.succeeded_created >= $7 AND o.succeeded_created > 0 AND o.payment_id <> $1 AND o.amount = $8 AND o.currency = $9)
		OR EXISTS (SELECT 1 FROM payments o WHERE o.order_reference = $11 AND o.order_reference <> '' AND o.source = $2 AND o.account = $3
			AND o.livemode = $4 AND o.succeeded_created >= $7 AND o.succeeded_created > 0)
		OR EXISTS (SELECT 1 FROM payments o WHERE o.invoice = $10 AND o.invoice <> '' AND o.source = $2 AND o.account = $3 AND o.livemode = $4
			AND o.succeeded_created >= $7 AND o.succeeded_created > 0)
		OR EXISTS (SELECT 1 FROM invoices i WHERE i.invoice_id = $10 AND i.invoice_id <> '' AND i.source = $2 AND i.account = $3 AND i.livemode = $4
			AND i.settled_created > 0)`,
		k.PaymentID, k.Source, k.Account, k.Livemode, now.Add(-streamAlive), payment.Customer, payment.FailedCreated,
		payment.Amount, payment.Currency, payment.Invoice, payment.OrderReference).Scan(&streaming, &superseded)
	switch {
	case err != nil:
		return nil, "", err
	case superseded:
		_, err := tx.Exec(ctx, `UPDATE notifications SET status = $2, reason = $3, updated_at = $4 WHERE id = $1`, id, Canceled, string(Superseded), now)
		return nil, Superseded, err
	case streaming:
		return nil, StreamOpen, nil
	}
	attempt, err := one[Attempt](ctx, tx, `SELECT `+attemptTable.selected("a")+` FROM attempts a
		WHERE a.payment_id = $1 AND a.source = $2 AND a.account = $3 AND a.livemode = $4 AND a.result = 'failed'
		ORDER BY (a.detail::json->>'au')::bigint DESC LIMIT 1`, k.PaymentID, k.Source, k.Account, k.Livemode)
	if err != nil {
		return nil, "", fmt.Errorf("reading the newest attempt of payment %s: %w", k.PaymentID, err)
	}
	// Why it waited is over: a reason that it has later is what was decided while it was claimed.
	_, err = tx.Exec(ctx, `UPDATE notifications SET owner = $2, reason = '', tries = tries + 1, failure_id = $3, shown_code = $4, updated_at = $5 WHERE id = $1`,
		id, owner, attempt.ID, attempt.PublicCode, now)
	n.Owner, n.Reason, n.Tries, n.FailureID, n.ShownCode = owner, "", n.Tries+1, attempt.ID, attempt.PublicCode
	return &Claimed{Notification: n, Payment: payment, Attempt: attempt}, "", err
}

func one[T any](ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, sql string, args ...any) (T, error) {
	var row T
	rows, err := collected[T](q.Query(ctx, sql, args...))
	switch {
	case err != nil:
		return row, err
	case len(rows) == 0:
		return row, pgx.ErrNoRows
	case len(rows) > 1:
		return row, pgx.ErrTooManyRows
	}
	return rows[0], nil
}

// over is why nothing more is said of a payment in this state; empty when it goes on.
func over(paymentStatus string) string {
	switch paymentStatus {
	case "recovered":
		return "recovered"
	case "canceled":
		return "payment_canceled"
	}
	return ""
}

// Reasons for which a payment gets no mail at all.
const (
	ReasonNoContact     = "no_contact" // the bank says that nobody is there to read it
	ReasonStripeBilling = "billing_by_stripe"
	ReasonNoProfile     = "no_account_profile"
)

// Reasons for which a sender ends a mail when it is due, and which no further event of the payment takes away.
const (
	ReasonUnsubscribed    = "unsubscribed" // of suppressions, as the next
	ReasonBounced         = "bounced"
	ReasonCustomerDeleted = "customer_deleted"
	ReasonInvalidAddress  = "invalid_address"
	ReasonMailboxLimit    = "mailbox_limit"
	ReasonPaymentLimit    = "payment_limit"
)

// ReasonTooOld is of a mail whose time was over when it was decided on, or when it was due.
const ReasonTooOld = "too_old"

// barsReminders tells whether the reason for which a payment would get no first mail now holds for those after it too: nobody
// is there to read them, or another tells the customer. That the last try was made at a page does not.
func barsReminders(reason string) bool {
	return reason == ReasonNoContact || reason == ReasonStripeBilling || reason == ReasonNoProfile
}

// Settlement is what became of a claimed mail.
type Settlement struct {
	Notification Notification   // its next state; NextTryAt is when a held one is to be tried again, nil: by no job of ours
	FollowUps    []Notification // held mails that follow, where the payment still goes on
	Suppress     string         // why its mailbox gets no more mail; '' for none
}

// Settle ends a claim: the owner says what became of the mail. It has no effect, and returns false, where the claim is no
// longer the owner's. The payment is read under its lock: for a mail that was to be tried again, what was decided of it
// meanwhile stands, and nothing follows once the payment has ended or what came to be known bars it. A mail that was not to be
// sent is looked at again where its payment has failed again meanwhile.
func (s *Store) Settle(ctx context.Context, owner int64, x Settlement) (bool, error) {
	n := x.Notification
	var settled bool
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// Whoever derives the payment is to see either none of what follows or all of it, the follow-ups too.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, n.PaymentKey.lock()); err != nil {
			return err
		}
		var payment, status, reason, customer string
		var failedAgain bool
		err := tx.QueryRow(ctx, `SELECT p.status, n.status, n.reason, n.customer, n.failure_id IS DISTINCT FROM `+newestFailed("id")+`
			FROM notifications n JOIN payments p ON `+sameKey("p", "n")+`
			WHERE n.id = $1 AND n.owner = $2 FOR SHARE OF p`, n.ID, owner).Scan(&payment, &status, &reason, &customer, &failedAgain)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if n.Status == Suppressed && failedAgain {
			// It was judged by an attempt that is not the newest any more: by its age, as a rule. Not at once, since a job that comes
			// while this one is at work finds nothing to do.
			again := s.Now().Add(time.Second)
			n.Status, n.Reason, n.NextTryAt = Held, "", &again
		}
		if n.Status == Held && status != Held {
			n.Status, n.Reason, n.NextTryAt = status, reason, nil
		} else if n.Status == Held && reason != "" {
			n.Reason = reason
		}
		tag, err := tx.Exec(ctx, `UPDATE notifications SET status = $3, reason = $4, next_try_at = $5, sent_at = $6, locale = $7, mailbox = $8,
			new_mailbox = $9, owner = 0, updated_at = $10, tries = $11, undecided = $12 WHERE id = $1 AND owner = $2`,
			n.ID, owner, n.Status, n.Reason, n.NextTryAt, n.SentAt, n.Locale, n.Mailbox, n.NewMailbox, s.Now(), n.Tries, n.Undecided)
		if err != nil {
			return err
		}
		if settled = tag.RowsAffected() == 1; !settled {
			return nil
		}
		if x.Suppress != "" && len(n.Mailbox) > 0 {
			if _, err := tx.Exec(ctx, suppress, n.Mailbox, x.Suppress, s.Now()); err != nil {
				return err
			}
		}
		var jobs []river.InsertManyParams
		if n.Status == Held && n.NextTryAt != nil {
			jobs = append(jobs, mailJobAt(n.ID, *n.NextTryAt))
		}
		// Meanwhile, and nothing else changes either while it is claimed.
		erased, barred := customer != n.Customer, status == Suppressed && barsReminders(reason)
		ended := over(payment) != "" || status == Canceled // the payment, or what it was for
		if !ended && !erased && !barred && len(x.FollowUps) > 0 {
			b := &pgx.Batch{}
			if err := notificationTable.queue(b, pointers(x.FollowUps), `ON CONFLICT DO NOTHING`); err != nil {
				return err
			}
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
			for _, f := range x.FollowUps {
				jobs = append(jobs, mailJobAt(f.ID, f.DueAt))
			}
		}
		if len(jobs) == 0 {
			return nil
		}
		_, err = s.jobs.InsertManyTx(ctx, tx, jobs)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("settling mail %s: %w", n.ID, err)
	}
	return settled, nil
}

func mailJobAt(id string, at time.Time) river.InsertManyParams {
	return river.InsertManyParams{Args: job.DeliverMail{NotificationID: id}, InsertOpts: &river.InsertOpts{Queue: job.QueueMail, ScheduledAt: at}}
}

// jobsAtOnce is how many jobs one statement writes.
const jobsAtOnce = 1000

const dueMailsSQL = `SELECT id FROM notifications WHERE status = 'held' AND channel = 'email' AND owner = 0 AND due_at > $1 AND due_at <= $2
	ORDER BY due_at, id`

// QueueDue gives each of a moment's mails that is still held, and that nobody has claimed, a job of its own.
func (s *Store) QueueDue(ctx context.Context, due job.DeliverDue) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, dueMailsSQL, due.After(), due.Until)
		if err != nil {
			return err
		}
		held, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for some := range slices.Chunk(held, jobsAtOnce) {
			if _, err := s.jobs.InsertManyTx(ctx, tx, mailJobs(some)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("queueing the mails that are due by %s: %w", due.Until.Format(time.RFC3339), err)
	}
	return nil
}

// HoldFor records why a due mail is not being sent, without a claim.
func (s *Store) HoldFor(ctx context.Context, id, reason string) error {
	_, err := s.pool.Exec(ctx, `UPDATE notifications SET reason = $2, updated_at = $3 WHERE id = $1 AND status = 'held' AND owner = 0`, id, reason, s.Now())
	if err != nil {
		return fmt.Errorf("holding mail %s: %w", id, err)
	}
	return nil
}

// expiredAtOnce is how many mails one statement of ExpireHeld ends: an ingest may wait for their rows.
const expiredAtOnce = 500

// ExpireHeld suppresses mails that were held for longer than maxAge after they were due, or after the newest attempt of their
// payment, of which they would speak, became known; it returns how many.
func (s *Store) ExpireHeld(ctx context.Context, maxAge time.Duration) (ended int64, err error) {
	for {
		some, err := s.expireSome(ctx, maxAge)
		if ended += some; err != nil || some < expiredAtOnce {
			return ended, err
		}
	}
}

// newestFailed reads a column of the newest failed attempt of a row n of notifications' payment: the one that Claim has it speak of.
func newestFailed(column string) string {
	return `(SELECT a.` + column + ` FROM attempts a WHERE ` + sameKey("a", "n") + ` AND a.result = 'failed'
		ORDER BY (a.detail::json->>'au')::bigint DESC LIMIT 1)`
}

// failedSince tells of a row n of notifications whether its payment's newest failed attempt became known since $2. An older one
// that did gives the mail no more time: the sender goes by the newest.
var failedSince = `coalesce(` + newestFailed("received_at") + ` >= $2, false)`

func (s *Store) expireSome(ctx context.Context, maxAge time.Duration) (ended int64, err error) {
	now := s.Now()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT n.id FROM notifications n WHERE n.status = 'held' AND n.channel = 'email' AND n.owner = 0 AND n.due_at < $2
			AND NOT `+failedSince+` ORDER BY n.due_at LIMIT $1 FOR UPDATE SKIP LOCKED`, expiredAtOnce, now.Add(-maxAge))
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return err
		}
		// Asked again now that they are locked: a row that was written meanwhile was seen as it is then, its attempts were not.
		tag, err := tx.Exec(ctx, `UPDATE notifications n SET status = 'suppressed', reason = CASE WHEN n.reason = '' THEN $4 ELSE n.reason END,
			updated_at = $1 WHERE n.id = ANY($3) AND NOT `+failedSince, now, now.Add(-maxAge), ids, ReasonTooOld)
		ended = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("expiring held mails: %w", err)
	}
	return ended, nil
}

const suppress = `INSERT INTO suppressions (mailbox, reason, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

// Suppress stops all mail to a mailbox.
func (s *Store) Suppress(ctx context.Context, mailbox []byte, reason string) error {
	_, err := s.pool.Exec(ctx, suppress, mailbox, reason, s.Now())
	if err != nil {
		return fmt.Errorf("suppressing a mailbox: %w", err)
	}
	return nil
}

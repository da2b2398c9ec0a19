package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"rebound/store/job"
)

// ownerLock is the class of the advisory locks that processes hold on their numbers: it is of the sequence that the numbers are
// taken from, since Rebound in another schema of the database has the same numbers. It may not change between versions that run
// side by side.
const ownerLock = `'owner_numbers'::regclass::oid`

// ownerLockClass is ownerLock as the functions take it.
const ownerLockClass = ownerLock + `::bigint::bit(32)::int`

// ErrOwnerLost is returned by Check once the session that holds the lock is gone: claims may by now be another's.
var ErrOwnerLost = errors.New("this process no longer holds the lock on its claims")

var errOwnerTaken = errors.New("another session has it")

// ownerPatience is how long an answer about a lock may take.
const ownerPatience = 5 * time.Second

// Owner is this process in the eyes of the others: a number, and a session advisory lock on it, held on a connection of
// its own. While the lock is held nobody else touches its claims; when the process dies Postgres frees it.
type Owner struct {
	Number int64

	config *pgx.ConnConfig
	lost   atomic.Bool // the lock was free for a time, if only until Keep took it again

	mu     sync.Mutex
	conn   *pgx.Conn
	closed bool
}

// NewOwner takes a fresh number and its lock.
func (s *Store) NewOwner(ctx context.Context) (*Owner, error) {
	o := &Owner{config: s.pool.Config().ConnConfig}
	conn, err := pgx.ConnectConfig(ctx, o.config)
	if err != nil {
		return nil, fmt.Errorf("connecting for the process lock: %w", err)
	}
	o.conn = conn
	if err = conn.QueryRow(ctx, `SELECT nextval('owner_numbers')`).Scan(&o.Number); err == nil {
		if _, err = conn.Exec(ctx, `SELECT pg_advisory_lock(`+ownerLockClass+`, $1)`, int32(o.Number)); err == nil {
			return o, nil
		}
	}
	_ = conn.Close(ctx)
	return nil, fmt.Errorf("taking the process lock: %w", err)
}

// Check asks over the locking session itself whether it still lives, and returns ErrOwnerLost if it does not, for ever: what
// Keep takes again was free in between.
func (o *Owner) Check(ctx context.Context) error {
	if o.Lost() { // Keep may be at work for long
		return ErrOwnerLost
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Lost() || !o.alive(ctx) {
		return ErrOwnerLost
	}
	return nil
}

// Lost tells whether Check is known to fail.
func (o *Owner) Lost() bool { return o.lost.Load() }

// alive asks the locking session whether it lives.
func (o *Owner) alive(ctx context.Context) bool {
	// The asking mail's own context must not end the session that all mails in flight rest on.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownerPatience)
	defer cancel()
	if o.conn.IsClosed() || o.conn.Ping(ctx) != nil {
		_ = o.conn.Close(ctx)
		o.lost.Store(true)
		return false
	}
	return true
}

// Keep takes the lock again where its session is lost, so that nobody takes over claims whose outcome this process is
// still to write down. It fails while another session has the lock: the lost one, until Postgres has noticed, or one that
// is taking the claims over.
func (o *Owner) Keep(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.alive(ctx) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, o.config)
	if err != nil {
		return fmt.Errorf("connecting for the lock of process %d: %w", o.Number, err)
	}
	free := false
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+ownerLockClass+`, $1)`, int32(o.Number)).Scan(&free)
	if err == nil && free {
		o.conn = conn
		return nil
	}
	_ = conn.Close(ctx)
	return fmt.Errorf("taking the lock of process %d again: %w", o.Number, cmp.Or(err, errOwnerTaken))
}

// Close gives the lock back for good. Claims that are still open are then free for the others to take over.
func (o *Owner) Close(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.lost.Store(true)
	_ = o.conn.Close(ctx)
}

const idleOwnersSQL = `SELECT DISTINCT n.owner FROM notifications n WHERE n.owner <> 0 AND NOT EXISTS (
	SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.classid = ` + ownerLock + ` AND l.objid = n.owner::oid AND l.objsubid = 2 AND l.granted)`

// IdleOwners lists the numbers that have claims open, and whose lock nobody holds at this moment.
func (s *Store) IdleOwners(ctx context.Context) ([]int64, error) {
	rows, err := s.pool.Query(ctx, idleOwnersSQL)
	if err != nil {
		return nil, fmt.Errorf("looking for dead processes: %w", err)
	}
	idle, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("looking for dead processes: %w", err)
	}
	return idle, nil
}

// TakeOver releases the claims of a dead process: they stand as was decided meanwhile, held as a rule, and get jobs again. A
// mail whose limits had been counted may be with its server: that was one more such try, and at the most-th it becomes unknown.
// Where sending twice is worse than not at all, all do. Nothing happens, and no ids return, if the process turns out to live.
func (s *Store) TakeOver(ctx context.Context, number int64, again bool, most int64) (ids []string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var dead bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(`+ownerLockClass+`, $1)`, int32(number)).Scan(&dead); err != nil || !dead {
			return err
		}
		const handedOver = `undecided + (mailbox IS NOT NULL)::int`
		rows, err := tx.Query(ctx, `UPDATE notifications SET owner = 0, undecided = `+handedOver+`, updated_at = $5,
			status = CASE WHEN $2 AND `+handedOver+` < $4 THEN status ELSE $3 END,
			reason = CASE WHEN $2 AND `+handedOver+` < $4 THEN reason ELSE 'sender_died' END WHERE owner = $1 RETURNING id`,
			number, again, Unknown, most, s.Now())
		if err != nil {
			return err
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !again || len(ids) == 0 {
			return err
		}
		_, err = s.jobs.InsertManyTx(ctx, tx, mailJobs(ids))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("taking over the claims of process %d: %w", number, err)
	}
	return ids, nil
}

// Release gives back a claim that the owner may have made without learning of it.
func (s *Store) Release(ctx context.Context, owner int64, id string) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// The claim's commit may still be under way: who has the row's lock sees it, or it will never be.
		if _, err := tx.Exec(ctx, `SELECT FROM notifications WHERE id = $1 FOR UPDATE`, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE notifications SET owner = 0, tries = tries - 1, updated_at = $3 WHERE id = $1 AND owner = $2`, id, owner, s.Now())
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing mail %s: %w", id, err)
	}
	return nil
}

// overdueAtOnce is how many mails RequeueOverdue looks for a job of, and requeuedAtOnce how many get one by one transaction.
const (
	overdueAtOnce  = 2000
	requeuedAtOnce = 200
)

// MailPlace is a mail's place in the order in which mails are due. The zero one is behind all.
type MailPlace struct {
	DueAt time.Time `db:"due_at"`
	ID    string    `db:"id"`
}

// RequeueOverdue makes jobs for mails that could have gone out long before, that nobody has claimed and that have no job:
// the process that had fetched it was killed before the claim, as a rule. Since mails may well wait in thousands it looks
// at the next few before a place, and returns the place of the last, the zero one when it has come to the end: a walk from
// the newest, so that it ends however many become overdue meanwhile. Each is requeued at most once per period. A
// job that was put off, by snooze at most, is one to come.
func (s *Store) RequeueOverdue(ctx context.Context, before MailPlace, overdue, period, snooze time.Duration) (ids []string, last MailPlace, err error) {
	now := s.Now()
	late := now.Add(-overdue)
	if before == (MailPlace{}) {
		before.DueAt = late
	}
	waiting, err := collect[MailPlace](ctx, s.pool, `SELECT n.due_at, n.id FROM notifications n
		WHERE n.status = 'held' AND n.channel = 'email' AND n.owner = 0 AND n.reason IN ('', 'awaits_intent')
			AND (n.due_at, n.id) < ($1, $2) AND (n.next_try_at IS NULL OR n.next_try_at < $3) AND n.updated_at < $4
		ORDER BY n.due_at DESC, n.id DESC LIMIT `+strconv.Itoa(overdueAtOnce), before.DueAt, before.ID, late, now.Add(-period))
	if err != nil {
		return nil, before, fmt.Errorf("looking for overdue mails: %w", err)
	}
	if len(waiting) == overdueAtOnce {
		last = waiting[len(waiting)-1]
	}
	lost, err := s.withoutJob(ctx, waiting, snooze)
	if err != nil {
		return nil, last, err
	}
	for some := range slices.Chunk(lost, requeuedAtOnce) {
		requeued, err := s.requeue(ctx, some, now.Add(-period))
		if err != nil {
			return ids, before, fmt.Errorf("requeueing overdue mails: %w", err)
		}
		ids = append(ids, requeued...)
	}
	return ids, last, nil
}

// requeue makes a job for each of the mails that is still held and that nothing has touched since a moment.
func (s *Store) requeue(ctx context.Context, mails []string, since time.Time) (ids []string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE notifications SET updated_at = $1 WHERE id IN (
			SELECT n.id FROM notifications n JOIN payments p ON `+sameKey("p", "n")+`
			WHERE n.id = ANY($2) AND n.status = 'held' AND n.owner = 0 AND n.updated_at < $3 AND p.status = 'failing'
			FOR UPDATE OF n SKIP LOCKED) RETURNING id`, s.Now(), mails, since)
		if err != nil {
			return err
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(ids) == 0 {
			return err
		}
		_, err = s.jobs.InsertManyTx(ctx, tx, mailJobs(ids))
		return err
	})
	return ids, err
}

// dueJobsSQL is the jobs that are due, those of the newest mails first; laterJobsSQL is those that come within a while. When a
// moment's job that failed comes again is up to who failed, so all its mails are not to wait for that.
var (
	dueJobsSQL = `(SELECT args FROM river_job WHERE state = 'available' AND queue = $1 AND priority = $2 ORDER BY scheduled_at DESC)
		UNION ALL (SELECT args FROM river_job WHERE state = 'scheduled' AND queue = $1 AND priority = $2 AND scheduled_at <= $3 ORDER BY scheduled_at DESC)
		UNION ALL SELECT args FROM river_job WHERE state = 'retryable' AND queue = $1 AND kind <> '` + job.DeliverDue{}.Kind() + `'`
	laterJobsSQL = `SELECT args FROM river_job WHERE state = 'scheduled' AND queue = $1 AND priority = $2 AND scheduled_at > $3 AND scheduled_at <= $4`
)

// withoutJob returns those of the mails that no job is to come for. It reads the jobs of all mails that are due: an index by
// their arguments would cost every failure something, this costs a look.
func (s *Store) withoutJob(ctx context.Context, mails []MailPlace, snooze time.Duration) (ids []string, err error) {
	without := make(map[string]time.Time, len(mails))
	for _, m := range mails {
		without[m.ID] = m.DueAt
	}
	now := s.Now()
	err = s.withJobs(ctx, without, dueJobsSQL, job.QueueMail, river.PriorityDefault, now)
	if err == nil {
		err = s.withJobs(ctx, without, laterJobsSQL, job.QueueMail, river.PriorityDefault, now, now.Add(snooze))
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the jobs of %d overdue mails: %w", len(mails), err)
	}
	return slices.Sorted(maps.Keys(without)), nil
}

// withJobs takes away the mails, by when each is due, that the jobs of a query are for.
func (s *Store) withJobs(ctx context.Context, mails map[string]time.Time, sql string, args ...any) error {
	if len(mails) == 0 {
		return nil
	}
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for len(mails) > 0 && rows.Next() {
		var is struct {
			job.DeliverMail
			job.DeliverDue
		}
		if err := rows.Scan(&is); err != nil {
			return err
		}
		delete(mails, is.NotificationID)
		if !is.Until.IsZero() {
			maps.DeleteFunc(mails, func(_ string, at time.Time) bool { return at.After(is.After()) && !at.After(is.Until) })
		}
	}
	rows.Close() // what is left is only passed over
	return rows.Err()
}

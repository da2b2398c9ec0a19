package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"rebound/migrations"
)

// QuarantineEntry is a quarantined event without its body.
type QuarantineEntry struct {
	ID         string    `db:"id"`
	Source     string    `db:"source"`
	EventID    string    `db:"event_id"`
	EventType  string    `db:"event_type"`
	Reason     string    `db:"reason"`
	ReceivedAt time.Time `db:"received_at"`
}

// QuarantinePage lists quarantined events, newest first, and tells whether older ones follow. It returns ErrNotFound
// when after names none.
func (s *Store) QuarantinePage(ctx context.Context, after string, limit int) (page []QuarantineEntry, more bool, err error) {
	q := &question{where: []string{"true"}}
	if after != "" {
		var at time.Time
		err := s.pool.QueryRow(ctx, "SELECT received_at FROM quarantine WHERE id = $1", after).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, false, ErrNotFound
		}
		if err != nil {
			return nil, false, fmt.Errorf("reading where quarantined event %s stands: %w", after, err)
		}
		q.and("(received_at, id) < (?, ?)", at, after)
	}
	page, err = collect[QuarantineEntry](ctx, s.pool, `SELECT id, source, event_id, event_type, reason, received_at
		FROM quarantine WHERE `+q.String()+" ORDER BY received_at DESC, id DESC LIMIT "+strconv.Itoa(limit+1), q.args...)
	if err != nil {
		return nil, false, fmt.Errorf("listing quarantined events: %w", err)
	}
	page, more = first(page, limit)
	return page, more, nil
}

// QuarantineCount counts the quarantined events.
func (s *Store) QuarantineCount(ctx context.Context) (n int64, err error) {
	if err := s.pool.QueryRow(ctx, "SELECT count(*) FROM quarantine").Scan(&n); err != nil {
		return 0, fmt.Errorf("counting quarantined events: %w", err)
	}
	return n, nil
}

// HeldMail counts the mails that wait for one reason.
type HeldMail struct {
	Reason string `db:"reason"` // '' only waits until it is due
	Count  int64  `db:"count"`
}

// HeldMails counts the mails that wait, by reason, the commonest first.
func (s *Store) HeldMails(ctx context.Context, w Within) ([]HeldMail, error) {
	q := &question{where: []string{"n.status = 'held' AND n.channel = 'email'"}}
	q.within(w, "n")
	held, err := collect[HeldMail](ctx, s.pool, `SELECT n.reason, count(*) AS count
		FROM notifications n WHERE `+q.String()+" GROUP BY n.reason ORDER BY 2 DESC, 1", q.args...)
	if err != nil {
		return nil, fmt.Errorf("counting held mails: %w", err)
	}
	return held, nil
}

// Readiness is what a replica asks of Postgres before it says that it is ready.
type Readiness struct {
	Skew         time.Duration // how far Postgres' clock is ahead of this machine's
	SchemaBehind bool
}

// Readiness asks for the schema's steps and the time in one statement and takes no lock, so that it can be asked often
// and while a migration runs.
func (s *Store) Readiness(ctx context.Context) (Readiness, error) {
	var theirs time.Time
	var ours, jobs int64
	err := s.pool.QueryRow(ctx, `SELECT clock_timestamp(),
		(SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied),
		(SELECT coalesce(max(version), 0)::bigint FROM river_migration WHERE line = 'main')`).Scan(&theirs, &ours, &jobs)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code == "42P01" || refused.Code == "42703") { // no such table or column
		return Readiness{SchemaBehind: true}, nil
	}
	if err != nil {
		return Readiness{}, fmt.Errorf("asking Postgres whether it is ready: %w", err)
	}
	need := newestSteps()
	return Readiness{Skew: theirs.Sub(s.now()), SchemaBehind: ours < need.ours || jobs < need.jobs}, nil
}

// newestSteps are the newest steps that this program has, its own and the job queue's.
var newestSteps = sync.OnceValue(func() (newest struct{ ours, jobs int64 }) {
	files, err := fs.Glob(migrations.Files, "*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, name := range files {
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err == nil {
			newest.ours = max(newest.ours, n)
		}
	}
	m, err := rivermigrate.New(riverpgxv5.New(nil), nil)
	if err != nil {
		panic(err) // the only error is of options, and there are none
	}
	for _, v := range m.AllVersions() {
		newest.jobs = max(newest.jobs, int64(v.Version))
	}
	return newest
})

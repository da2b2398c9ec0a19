package store

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// clockEvery is how often Postgres is asked for the time: what a machine's clock may be off for when it is set, or has stood
	// still with the machine.
	clockEvery    = 10 * time.Second
	clockPatience = 2 * time.Second
	// clockOff is how far off a clock is worth a line.
	clockOff = time.Second
)

// clockReading is what Postgres' clock and ours said at one moment.
type clockReading struct{ postgres, ours time.Time }

// Now is the time by Postgres' clock, as SetClock last found it, in UTC and in the precision that Postgres keeps: what one
// replica dates another compares, and a clock that is a minute ahead would send a mail a minute before its customer had the
// chance to pay. Until SetClock it is this machine's.
func (s *Store) Now() time.Time {
	now := s.now()
	if at := s.clock.Load(); at != nil {
		now = at.postgres.Add(now.Sub(at.ours))
	}
	return now.UTC().Truncate(time.Microsecond)
}

// JobClock is the job queue's clock. Its leader makes jobs ready by it that are dated by Now, and a process dates by it those
// that it puts off.
type JobClock struct{ store *Store }

// JobClock is Now for the job queue.
func (s *Store) JobClock() JobClock { return JobClock{s} }

// Now is what the store's is, but for the machine's own measure of spans, which it keeps: the queue takes the difference of two.
func (c JobClock) Now() time.Time {
	now := c.store.now()
	return now.Add(c.store.Now().Sub(now))
}

// NowOrNil leaves it to Postgres where a statement needs the time.
func (c JobClock) NowOrNil() *time.Time { return nil }

// SetClock asks Postgres for the time. A difference that may be the way there and back changes nothing.
func (s *Store) SetClock(ctx context.Context) error {
	asked := s.now()
	var postgres time.Time
	if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&postgres); err != nil {
		return fmt.Errorf("asking Postgres for the time: %w", err)
	}
	thought, ours := s.Now(), s.now()
	took := ours.Sub(asked)
	postgres = postgres.Add(took / 2)
	if off := postgres.Sub(thought); off.Abs() > took {
		s.clock.Store(&clockReading{postgres: postgres, ours: ours})
		if off.Abs() > clockOff {
			s.log.Warn("clock.set", zap.Duration("behind_postgres", off))
		}
	}
	return nil
}

// KeepClock sets the clock again and again until the context ends.
func (s *Store) KeepClock(ctx context.Context) {
	ticker := time.NewTicker(clockEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		patient, cancel := context.WithTimeout(ctx, clockPatience)
		_ = s.SetClock(patient) // that Postgres does not answer is told by who needs it
		cancel()
	}
}

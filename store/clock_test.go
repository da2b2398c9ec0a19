package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestTheClockOfAStoreIsPostgresOnceItIsSet(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	machine := time.Now
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 1, Now: func() time.Time { return machine() }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	off := func() time.Duration {
		var postgres time.Time
		require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&postgres))
		return s.Now().Sub(postgres)
	}
	for _, ahead := range []time.Duration{90 * time.Second, -90 * time.Second, 0} {
		machine = func() time.Time { return time.Now().Add(ahead) }
		require.NoError(t, s.SetClock(t.Context()))
		require.Less(t, off().Abs(), 20*time.Second, ahead)
		machine = func() time.Time { return time.Now().Add(ahead + time.Hour) }
		require.InDelta(t, time.Hour.Seconds(), off().Seconds(), 20, "between two readings it goes as the machine's does")
	}
}

func TestADifferenceThatMayBeTheWayToPostgresSetsNoClock(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	var asked int
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 1, Now: func() time.Time {
		asked++
		return time.Now().Add(time.Duration(asked) * time.Hour) // the answer takes an hour
	}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	asked = -1
	require.NoError(t, s.SetClock(t.Context()))
	asked = -1
	require.Less(t, time.Since(s.Now()).Abs(), time.Minute)
}

func TestAnAnswerIsAsOldAsHalfTheWayToPostgres(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	var asked int
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 1, Now: func() time.Time {
		asked++
		return time.Now().Add(-time.Hour + time.Duration(asked)*40*time.Second) // each look at the clock takes 40 s
	}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.SetClock(t.Context()))
	require.InDelta(t, 80, time.Until(s.Now()).Seconds(), 19, "half of the two looks that the way took, and this one")
}

// The job queue's leader makes jobs ready by its own clock that others have dated.
func TestTheJobQueuesClockIsTheStores(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 1, Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.SetClock(t.Context()))
	jobs := s.JobClock()
	require.InDelta(t, 0, s.Now().Sub(jobs.Now()).Seconds(), 20)
	require.Contains(t, jobs.Now().String(), " m=", "of two readings the machine's own measure tells the span")
	require.Nil(t, jobs.NowOrNil(), "statements go by Postgres itself")
}

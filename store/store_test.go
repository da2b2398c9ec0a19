package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/storetest"
)

// served is the number of the Postgres process that answers.
func served(t *testing.T, s *store.Store) (pid int) {
	t.Helper()
	require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
	return pid
}

func TestWorkThatFollowsWorkGoesToTheSamePostgresProcess(t *testing.T) {
	t.Parallel()
	s := openPool(t, storetest.New(t), 4)
	held, err := s.Pool().Acquire(t.Context())
	require.NoError(t, err)
	first := served(t, s) // of a second connection
	held.Release()
	require.NotEqual(t, first, served(t, s), "the last that came back is the next that goes")
	last := served(t, s)
	for range 50 {
		require.Equal(t, last, served(t, s))
	}
}

// openBesideAdmin opens a store, and a session that its connections have nothing to do with.
func openBesideAdmin(t *testing.T) (*store.Store, *pgx.Conn) {
	t.Helper()
	dsn := storetest.New(t)
	admin, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	return openPool(t, dsn, 4), admin
}

func TestWhoeverAsksAfterConnectionsBrokeAtRestIsAnswered(t *testing.T) {
	t.Parallel()
	s, admin := openBesideAdmin(t)
	pid := served(t, s)
	require.Eventually(t, func() (rested bool) {
		require.NoError(t, admin.QueryRow(t.Context(), `SELECT clock_timestamp() - state_change > '150 ms' FROM pg_stat_activity WHERE pid = $1`, pid).Scan(&rested))
		return rested
	}, 10*time.Second, 10*time.Millisecond)
	_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	require.NotEqual(t, pid, served(t, s))
}

func TestAReadOnlySessionIsUsedOnce(t *testing.T) {
	t.Parallel()
	s, admin := openBesideAdmin(t)
	set := func(value string) {
		_, err := admin.Exec(t.Context(), `SET default_transaction_read_only = off`)
		require.NoError(t, err)
		_, err = admin.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = `+value+`', current_database()); END $$`)
		require.NoError(t, err)
	}
	set("on")
	s.Pool().Reset()
	readOnly, err := s.ReadOnly(t.Context())
	require.NoError(t, err, "it is used, so that somebody can tell what is the matter")
	require.True(t, readOnly)
	set("off")
	readOnly, err = s.ReadOnly(t.Context())
	require.NoError(t, err)
	require.False(t, readOnly, "the same session would still be read-only")
}

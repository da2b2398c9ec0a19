package store_test

import (
	"context"
	"net/url"
	"sync"
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

// Two that share a database, each in a schema of its own, have the same numbers.
func TestProcessesOfAnotherSchemaTakeNoNumber(t *testing.T) {
	t.Parallel()
	empty := storetest.NewEmpty(t)
	admin, err := pgx.Connect(t.Context(), empty)
	require.NoError(t, err)
	defer admin.Close(context.Background())
	of := func(schema string) *store.Owner {
		_, err := admin.Exec(t.Context(), `CREATE SCHEMA `+schema)
		require.NoError(t, err)
		u, err := url.Parse(empty)
		require.NoError(t, err)
		q := u.Query()
		q.Set("search_path", schema)
		u.RawQuery = q.Encode()
		require.NoError(t, store.Migrate(t.Context(), u.String()))
		s := openPool(t, u.String(), 4)
		impatient, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		o, err := s.NewOwner(impatient)
		require.NoError(t, err)
		t.Cleanup(func() { o.Close(context.Background()) })
		_, err = s.Pool().Exec(t.Context(), `INSERT INTO notifications (id, payment_id, source, account, livemode, failure_id, channel, template, status, reason,
			due_at, owner, message_id, customer, locale, shown_code, created_at, updated_at)
			SELECT 'nt_' || n, 'pi_1', 'stripe', '', false, '', 'email', 'first', 'held', '', now(), n, '', '', '', '', now(), now() FROM unnest($1::bigint[]) n`,
			[]int64{o.Number, o.Number + 1})
		require.NoError(t, err)
		idle, err := s.IdleOwners(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int64{o.Number + 1}, idle)
		return o
	}
	first, second := of("live"), of("test")
	require.Equal(t, first.Number, second.Number)
	require.NoError(t, first.Check(t.Context()))
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
	_, err := s.ReadOnly(t.Context()) // there is a connection that records from now on
	require.NoError(t, err)
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

func TestWhereNoConnectionCanRecordReadinessSaysSo(t *testing.T) {
	t.Parallel()
	s, _ := openBesideAdmin(t)
	elsewhere := s.Pool().Config().ConnConfig.Copy()
	database := pgx.Identifier{elsewhere.Database}.Sanitize()
	elsewhere.Database = "postgres"
	admin, err := pgx.ConnectConfig(t.Context(), elsewhere)
	require.NoError(t, err)
	defer admin.Close(context.Background())
	allow := func(value string) {
		t.Helper()
		_, err := admin.Exec(t.Context(), `ALTER DATABASE `+database+` ALLOW_CONNECTIONS `+value)
		require.NoError(t, err)
	}
	allow("false")
	_, err = s.Readiness(t.Context())
	require.NoError(t, err, "the connections that there are go on")
	_, err = s.ReadOnly(t.Context())
	require.Error(t, err)
	allow("true")
	_, err = s.ReadOnly(t.Context())
	require.NoError(t, err)

	taken, end := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer close(end)
	for range 2 {
		all.Go(func() {
			_ = s.InIngest(t.Context(), func(*store.Ingest) error {
				taken <- struct{}{}
				<-end
				return nil
			})
		})
		<-taken
	}
	patient, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.ReadOnly(patient)
	require.NoError(t, err, "those that record are only busy, as with a slow disk")
}

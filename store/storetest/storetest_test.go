package storetest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func tables(t *testing.T, dsn string) (n int) {
	t.Helper()
	require.NoError(t, connect(t, dsn).QueryRow(t.Context(),
		"SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&n))
	return n
}

func TestEveryTestHasItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one", "two", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := storetest.New(t)
			require.Greater(t, tables(t, dsn), 5)
			// It fails where two tests share a database.
			_, err := connect(t, dsn).Exec(t.Context(), "CREATE TABLE mine (a int)")
			require.NoError(t, err)
		})
	}
}

func TestEmptyDatabaseHasNoTables(t *testing.T) {
	t.Parallel()
	require.Zero(t, tables(t, storetest.NewEmpty(t)))
}

func TestDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("inner", func(t *testing.T) {
		dsn = storetest.NewEmpty(t)
		conn, err := pgx.Connect(context.Background(), dsn) // left open on purpose
		require.NoError(t, err)
		require.NoError(t, conn.Ping(t.Context()))
	})
	_, err := pgx.Connect(t.Context(), dsn)
	require.ErrorContains(t, err, "3D000")
}

func BenchmarkNew(b *testing.B) {
	storetest.New(b)
	for b.Loop() {
		storetest.New(b)
	}
}

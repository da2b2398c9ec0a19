package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/storetest"
)

// plan is how Postgres runs a statement whose parameters it does not look at, as it does for one that it has prepared.
func plan(t *testing.T, conn *pgx.Conn, sql string, args []any) string {
	t.Helper()
	ctx := t.Context()
	_, err := conn.Exec(ctx, "SET plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	rows, err := conn.Query(ctx, "EXPLAIN (COSTS OFF) "+sql, append([]any{pgx.QueryExecModeCacheStatement}, args...)...)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

func TestListsAreReadByTheirIndexes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, storetest.New(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	fill(t, conn, 20_000)
	after := time.Unix(1_700_000_000, 0)
	account, live := "acct_1", true
	for _, statistics := range []bool{true, false} {
		if !statistics { // a fresh database has none
			_, err := conn.Exec(ctx, "DELETE FROM pg_statistic WHERE starelid IN ('attempts'::regclass, 'payments'::regclass, 'notifications'::regclass)")
			require.NoError(t, err)
		}
		for _, c := range []struct {
			filter store.FailureFilter
			index  string
		}{
			{store.FailureFilter{Customer: "cus_7"}, "attempts_customer"},
			{store.FailureFilter{Customer: "cus_7", After: "fl_9", Within: store.Within{Account: &account, Livemode: &live}}, "attempts_customer|attempts_account"},
			{store.FailureFilter{Charge: "ch_7"}, "attempts_charge"},
			{store.FailureFilter{PaymentID: "pi_7"}, "attempts_payment"},
			{store.FailureFilter{}, "attempts_newest"},
			{store.FailureFilter{After: "fl_9"}, "attempts_newest"},
		} {
			c.filter.Limit = 10
			sql, args := store.FailuresSQL(c.filter, after)
			got := plan(t, conn, sql, args)
			require.Regexp(t, c.index, got, "%+v", c.filter)
			require.NotContains(t, got, "Seq Scan on attempts", "%+v", c.filter)
		}
		sql, args := store.InboxSQL(store.InboxFilter{Customer: "cus_7", Limit: 10}, after)
		require.Contains(t, plan(t, conn, sql, args), "notifications_inbox")
	}
}

// fill makes n failures of n/20 customers, each with an inbox row.
func fill(t *testing.T, conn *pgx.Conn, n int) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO payments (payment_id, source, account, livemode, status, payment_intent, customer, invoice, order_reference, amount, currency,
			failed_created, succeeded_created, created_at, updated_at)
		SELECT 'pi_' || i, 'stripe', '', true, 'failing', '', 'cus_' || i % ($1::int / 20), '', '', 1, 'usd', 1, 0, now(), now() FROM generate_series(1, $1::int) i`,
		`INSERT INTO notifications (id, payment_id, source, account, livemode, failure_id, channel, template, status, reason, due_at, owner, tries,
			message_id, customer, locale, shown_code, new_mailbox, created_at, updated_at)
		SELECT 'nt_' || i, 'pi_' || i, 'stripe', '', true, 'fl_' || i, 'inbox', 'first', 'delivered', '', now(), 0, 0, '', 'cus_' || i % ($1::int / 20), '', '', false, now(), now()
		FROM generate_series(1, $1::int) i`,
	} {
		_, err := conn.Exec(t.Context(), sql, n)
		require.NoError(t, err)
	}
	// Every column is NOT NULL; what the plans do not look at gets the empty value of its type.
	_, err := conn.Exec(t.Context(), `DO $$ DECLARE names text; empties text; BEGIN
		SELECT string_agg(column_name, ', '), string_agg(CASE data_type WHEN 'text' THEN '''''' WHEN 'bigint' THEN '0' WHEN 'boolean' THEN 'false' WHEN 'json' THEN '''{}''' ELSE 'now()' END, ', ')
		INTO names, empties FROM information_schema.columns WHERE table_name = 'attempts' AND is_nullable = 'NO'
		AND column_name NOT IN ('id', 'payment_id', 'source', 'livemode', 'result', 'occurred_at', 'charge', 'customer');
		EXECUTE format('INSERT INTO attempts (id, payment_id, source, livemode, result, occurred_at, charge, customer, %s)
			SELECT ''fl_'' || i, ''pi_'' || i, ''stripe'', true, ''failed'', now() - i * interval ''1 s'', ''ch_'' || i, ''cus_'' || i %% (20000 / 20), %s
			FROM generate_series(1, 20000) i', names, empties);
	END $$`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "ANALYZE attempts, payments, notifications")
	require.NoError(t, err)
}

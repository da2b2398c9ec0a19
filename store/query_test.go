package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/storetest"
)

// plan is how Postgres answers a question.
func plan(t *testing.T, conn *pgx.Conn, sql string, args int) string {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
	for name, value := range store.ByIndexes {
		_, err = tx.Exec(t.Context(), fmt.Sprintf("SET LOCAL %s = %s", name, value))
		require.NoError(t, err)
	}
	_, err = tx.Exec(t.Context(), "DEALLOCATE ALL; PREPARE question AS "+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	execute := "EXPLAIN (COSTS OFF) EXECUTE question"
	if args > 0 {
		execute += "(NULL" + strings.Repeat(", NULL", args-1) + ")"
	}
	rows, err := tx.Query(t.Context(), execute, pgx.QueryExecModeExec)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

func TestQuestionsAreAnsweredByTheirIndexes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, storetest.New(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	fill(t, conn, 20_000)
	after := time.Unix(1_700_000_000, 0)
	account, live := "acct_1", true
	type question struct {
		name, sql string
		args      int
		indexes   []string
	}
	var questions []question
	for _, c := range []struct {
		filter store.FailureFilter
		index  string
	}{
		{store.FailureFilter{Customer: "cus_7"}, "attempts_customer"},
		{store.FailureFilter{Customer: "cus_7", Category: "fraud_risk", From: after, Before: after}, "attempts_customer"},
		{store.FailureFilter{Customer: "cus_7", After: "fl_9", Within: store.Within{Account: &account, Livemode: &live}}, "attempts_customer"},
		{store.FailureFilter{Charge: "ch_7"}, "attempts_charge"},
		{store.FailureFilter{Charge: "ch_7", After: "fl_9", Within: store.Within{Account: &account, Livemode: &live}}, "attempts_charge"},
		{store.FailureFilter{PaymentID: "pi_7"}, "attempts_payment"},
		{store.FailureFilter{PaymentID: "pi_7", Source: "stripe", After: "fl_9"}, "attempts_payment"},
		{store.FailureFilter{Within: store.Within{Account: &account}}, "attempts_account"},
		{store.FailureFilter{After: "fl_9", Within: store.Within{Account: &account, Livemode: &live}}, "attempts_account"},
		{store.FailureFilter{}, "attempts_newest"},
		{store.FailureFilter{After: "fl_9"}, "attempts_newest"},
		{store.FailureFilter{From: after, Before: after, Status: "failing"}, "attempts_newest"},
	} {
		c.filter.Limit = 10
		sql, args := store.FailuresSQL(c.filter, after)
		questions = append(questions, question{fmt.Sprintf("%+v", c.filter), sql, len(args), []string{c.index}})
	}
	sql, args := store.InboxSQL(store.InboxFilter{Customer: "cus_7", Limit: 10}, after)
	questions = append(questions, question{"inbox", sql, len(args), []string{"notifications_inbox", "payments_pkey", "attempts_pkey"}})
	sql, args = store.PaymentSQL("pi_7")
	questions = append(questions, question{"payment", sql, len(args), []string{"payments_pkey"}})
	sql, args = store.CardUsesSQL([]store.Attempt{declined("a"), declined("b")}, ledgerNow)
	questions = append(questions, question{"ledger", sql, len(args), []string{"attempts_card", "attempts_card_code", "attempts_payment"}},
		question{"notifications", store.NotificationsSQL, 4, []string{"notifications_payment"}},
		question{"languages", store.LanguagesSQL, 6, []string{"facts_pkey", "contacts_pkey", "customers_pkey"}},
		question{"dead processes", store.IdleOwnersSQL, 0, []string{"notifications_owner"}},
		question{"jobs that are due", store.DueJobsSQL, 3, []string{"river_job_prioritized_fetching_index"}},
		question{"mails that are due", store.DueMailsSQL, 2, []string{"notifications_held"}},
		question{"mails before a mail", store.BudgetSQL, 11, []string{"notifications_payment", "notifications_sent", "notifications_undecided", "notifications_storm"}},
		question{"customers' addresses", store.CustomersSQL, 6, []string{"customers_pkey", "attempts_customer", "notifications_payment"}},
		question{"jobs put off", store.LaterJobsSQL, 4, []string{"river_job_prioritized_fetching_index"}})

	for _, state := range []struct{ name, sql string }{
		{"with statistics", "ANALYZE attempts, payments, notifications"},
		{"without", "DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE relname ~ '^(attempts|payments|notifications)')"},
		{"of tables that were never counted", "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname ~ '^(attempts|payments|notifications)'"},
	} {
		_, err := conn.Exec(ctx, state.sql)
		require.NoError(t, err, state.name)
		for _, q := range questions {
			got := plan(t, conn, q.sql, q.args)
			for _, index := range q.indexes {
				require.Regexp(t, `Index (Only )?Scan (Backward )?using `+index+` `, got, "%s, %s", state.name, q.name)
			}
			require.NotRegexp(t, "Seq Scan|Bitmap|Gather|Hash|Merge", got, "%s, %s", state.name, q.name)
		}
	}
}

func TestEveryStatementIsPlannedOnceAndByIndexes(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	save(t, s, declined("a"))
	for name, value := range store.ByIndexes {
		var set string
		require.NoError(t, s.Pool().QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&set))
		require.Equal(t, value, set, name)
	}
	for range 3 {
		_, _, err := s.FailurePage(t.Context(), store.FailureFilter{Charge: "ch_a", Limit: 10})
		require.NoError(t, err)
	}
	var generic, custom int
	require.NoError(t, s.Pool().QueryRow(t.Context(), "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%a.charge = $1%'").Scan(&generic, &custom))
	require.Equal(t, []int{3, 0}, []int{generic, custom})
}

// fill makes n failures of n/20 customers, each with an inbox row.
func fill(t *testing.T, conn *pgx.Conn, n int) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO payments (payment_id, source, account, livemode, status, payment_intent, customer, invoice, order_reference, amount, currency,
			failed_created, succeeded_created, created_at)
		SELECT 'pi_' || i, 'stripe', '', true, 'failing', '', 'cus_' || i % ($1::int / 20), '', '', 1, 'usd', 1, 0, now() FROM generate_series(1, $1::int) i`,
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
		AND column_name NOT IN ('id', 'payment_id', 'source', 'livemode', 'result', 'occurred_at', 'charge', 'customer', 'fingerprint');
		EXECUTE format('INSERT INTO attempts (id, payment_id, source, livemode, result, occurred_at, charge, customer, fingerprint, %s)
			SELECT ''fl_'' || i, ''pi_'' || i, ''stripe'', true, ''failed'', now() - i * interval ''1 s'', ''ch_'' || i, ''cus_'' || i %% (20000 / 20), ''fp_'' || i %% 5000, %s
			FROM generate_series(1, 20000) i', names, empties);
	END $$`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "ANALYZE attempts, payments, notifications")
	require.NoError(t, err)
}

func TestAPageOfACustomersFailuresTellsThoseOfOneSecondApart(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	of := func(customer string, at time.Time) func(*store.Attempt) {
		return func(a *store.Attempt) { a.Customer, a.OccurredAt = customer, at }
	}
	first, last := time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	save(t, s, declined("f", of("cus_1", last)), declined("e", of("cus_1", last)), declined("z", of("cus_2", ledgerNow)),
		declined("a", of("cus_1", ledgerNow)), declined("d", of("cus_1", ledgerNow)), declined("b", of("cus_1", ledgerNow)), declined("c", of("cus_1", ledgerNow)),
		declined("h", of("cus_1", first)), declined("g", of("cus_1", first.Add(time.Hour))))
	list := func(f store.FailureFilter) (ids []string) {
		for f.Customer = "cus_1"; ; {
			page, more, err := s.FailurePage(t.Context(), f)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), f.Limit)
			for _, a := range page {
				ids, f.After = append(ids, a.ID), a.ID
			}
			if !more {
				return ids
			}
		}
	}
	all := strings.Split("f e d c b a g h", " ")
	for limit := 1; limit <= len(all)+1; limit++ {
		require.Equal(t, all, list(store.FailureFilter{Limit: limit}), "%d to a page", limit)
		require.Equal(t, strings.Split("f e d c b a", " "), list(store.FailureFilter{Limit: limit, From: ledgerNow}), "%d to a page", limit)
		require.Equal(t, strings.Split("d c b a g", " "), list(store.FailureFilter{Limit: limit, From: first.Add(time.Minute), Before: last}), "%d to a page", limit)
	}
}

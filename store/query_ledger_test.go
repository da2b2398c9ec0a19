package store_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

var ledgerNow = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	return openPool(t, storetest.New(t), 1)
}

func openPool(t *testing.T, dsn string, connections int32) *store.Store {
	t.Helper()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{DSN: dsn, Keys: keys, MaxConns: connections, Now: func() time.Time { return ledgerNow }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// declined is a failed Visa attempt of an hour ago, on a payment of its own.
func declined(id string, change ...func(*store.Attempt)) store.Attempt {
	a := store.Attempt{ID: id, PaymentKey: store.PaymentKey{PaymentID: "pi_" + id, Source: "stripe", Livemode: true}, AttemptKey: "ch_" + id, Result: "failed",
		OccurredAt: ledgerNow.Add(-time.Hour), ReceivedAt: ledgerNow, Amount: 2000, Currency: "usd", Fingerprint: "fp_1", MethodID: "pm_1",
		Brand: "visa", Network: "visa", Country: "US", Code: "insufficient_funds", DeclineCode: "insufficient_funds", NetworkDeclineCode: "51",
		Category: "insufficient_funds", NextStep: "use_another_payment_method", Presence: "off_session", RetryVerdict: "retry_now", AttemptsUsed: 1, AttemptsLeft: 3}
	for _, f := range change {
		f(&a)
	}
	return a
}

func save(t *testing.T, s *store.Store, attempts ...store.Attempt) {
	t.Helper()
	require.NoError(t, s.InIngest(t.Context(), func(in *store.Ingest) error {
		return in.Save(t.Context(), store.Changes{Attempts: attempts})
	}))
}

func ids(u decline.Use) []string {
	var out []string
	for _, t := range u.Tries {
		out = append(out, t.ID)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestTheUseOfACardIsWhatCountsOnIt(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	old := func(a *store.Attempt) { a.OccurredAt = ledgerNow.Add(-31 * 24 * time.Hour) }
	asked := declined("asked")
	bare := declined("bare", func(a *store.Attempt) { a.Fingerprint, a.MethodID = "", "" })
	method := declined("method", func(a *store.Attempt) { a.Fingerprint = "" })
	save(t, s, asked, bare, method,
		declined("same_card"),
		declined("same_payment", func(a *store.Attempt) { a.PaymentID, a.Fingerprint, a.MethodID = "pi_asked", "fp_2", "pm_2" }),
		declined("same_payment_and_card", func(a *store.Attempt) { a.PaymentID = "pi_asked" }),
		declined("other_card", func(a *store.Attempt) { a.Fingerprint, a.MethodID = "fp_2", "pm_2" }),
		declined("other_account", func(a *store.Attempt) { a.Account = "acct_2" }),
		declined("other_mode", func(a *store.Attempt) { a.Livemode = false }),
		declined("other_source", func(a *store.Attempt) { a.Source = "frame" }),
		declined("succeeded", func(a *store.Attempt) { a.Result = "succeeded" }),
		declined("old", old),
		declined("old_and_barred", old, func(a *store.Attempt) { a.NetworkDeclineCode = "04" }),
		declined("barred_elsewhere", old, func(a *store.Attempt) { a.NetworkDeclineCode, a.Account = "04", "acct_2" }),
		declined("barred_on_another_network", old, func(a *store.Attempt) { a.NetworkDeclineCode, a.Network = "07", "cartes_bancaires" }),
		declined("same_method", func(a *store.Attempt) { a.Fingerprint = "" }),
		declined("bare_on_its_payment", func(a *store.Attempt) { a.Fingerprint, a.MethodID, a.PaymentID = "", "", "pi_bare" }),
		declined("bare_elsewhere", func(a *store.Attempt) { a.Fingerprint, a.MethodID = "", "" }),
	)
	uses, err := s.CardUses(t.Context(), []store.Attempt{asked, bare, method, asked}, ledgerNow)
	require.NoError(t, err)
	require.Equal(t, []string{"asked", "old_and_barred", "same_card", "same_payment", "same_payment_and_card"}, ids(uses(0)))
	require.Equal(t, []string{"bare", "bare_on_its_payment"}, ids(uses(1)))
	require.Equal(t, []string{"method", "same_method"}, ids(uses(2)))
	require.Equal(t, ids(uses(0)), ids(uses(3)))
	for i := range 4 {
		require.Zero(t, uses(i).Since)
	}
	require.Equal(t, decline.RetryNever, decline.Rules{}.Decide(asked.RetryQuestion(), uses(0), ledgerNow).Verdict)

	_, err = s.CardUses(t.Context(), nil, ledgerNow)
	require.NoError(t, err)
}

func TestARowKeepsItsVerdictInItsQuestion(t *testing.T) {
	t.Parallel()
	later := ledgerNow.Add(time.Hour)
	q := declined("a", func(a *store.Attempt) {
		a.RetryVerdict, a.RetryNotBefore, a.RetryLimitedBy, a.Network, a.Presence = "retry_later", &later, "mastercard:mac_25", "", "on_session"
	}).RetryQuestion()
	require.Equal(t, decline.Retry{Verdict: decline.RetryLater, AttemptsUsed: 1, AttemptsLeft: 3, NotBefore: later, Wait: 2 * time.Hour, LimitedBy: "mastercard:mac_25"}, q.Retry)
	require.Equal(t, "visa", q.Network, "the brand stands in for the network")
	require.Equal(t, decline.ByCustomer, q.By)
	require.Equal(t, "fp_1", q.Card)
	require.Equal(t, 2, declined("b", func(a *store.Attempt) { a.AttemptsUsed = 2 }).RetryQuestion().Number, "which of two in one second came later")
}

func TestACardUnderAttackIsReadInPart(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	var attempts []store.Attempt
	for i := range 250 {
		attempts = append(attempts, declined(fmt.Sprintf("a%03d", i), func(a *store.Attempt) {
			a.OccurredAt, a.Amount = ledgerNow.Add(-time.Duration(i)*time.Minute), int64(i)
			if i == 240 {
				a.NetworkDeclineCode = "04"
			}
		}))
	}
	save(t, s, attempts...)
	uses, err := s.CardUses(t.Context(), attempts[:100], ledgerNow)
	require.NoError(t, err)
	require.Len(t, ids(uses(0)), 202, "the newest, one too many, and the one that bars")
	require.Equal(t, ledgerNow.Add(-200*time.Minute), uses(0).Since)
	require.Contains(t, ids(uses(0)), "a240")
	require.NotContains(t, ids(uses(0)), "a230")
	attempts[0].RetryVerdict = "retry_now"
	d := decline.Rules{}.Decide(attempts[0].RetryQuestion(), uses(0), ledgerNow)
	require.Equal(t, "visa:category_1", d.LimitedBy)
}

// Card testers can try one payment thousands of times. Each attempt's use is some 100 KB: all of them at once would be more
// memory than the process has. No other test may run meanwhile.
func TestTheUseOfAPaymentUnderAttackTakesLittleMemory(t *testing.T) {
	s := openStore(t)
	var attempts []store.Attempt
	for i := range 1500 {
		attempts = append(attempts, declined(fmt.Sprintf("a%04d", i), func(a *store.Attempt) {
			a.PaymentID, a.Fingerprint, a.OccurredAt = "pi_1", fmt.Sprint("fp_", i%5), ledgerNow.Add(-time.Duration(i)*time.Minute)
		}))
	}
	save(t, s, attempts...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	uses, err := s.CardUses(t.Context(), attempts, ledgerNow)
	require.NoError(t, err)
	require.Len(t, ids(uses(0)), 361, "its card's, and the newest of the payment with one too many")
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(32<<20))
	runtime.KeepAlive(uses)
	runtime.KeepAlive(attempts)
}

func TestEachStepCanBeTakenBackAndAllMadeAgain(t *testing.T) {
	t.Parallel()
	ctx, dsn := t.Context(), storetest.New(t)
	conn, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	schema := func() (made string) {
		require.NoError(t, conn.QueryRow(ctx, `SELECT coalesce(string_agg(what, E'\n' ORDER BY what), '') FROM (
			SELECT concat(table_name, '.', column_name, ' ', data_type, ' ' || collation_name) FROM information_schema.columns WHERE table_schema = 'public'
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
			UNION ALL SELECT format('function %s', proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS s(what)
			WHERE what !~ 'goose_db_version'`).Scan(&made))
		return made
	}
	all := schema()
	for _, index := range []string{"attempts_card ", "attempts_card_code ", "attempts_customer ", "notifications_inbox "} {
		require.Contains(t, all, index)
	}
	require.NotContains(t, all, "river_job_args_index")
	var byLanguage []string
	require.NoError(t, conn.QueryRow(ctx, `SELECT array_agg(concat(table_name, '.', column_name)) FROM information_schema.columns
		WHERE table_schema = 'public' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND table_name !~ '^(river|goose)_'`).Scan(&byLanguage))
	require.Empty(t, byLanguage, "text that is ordered as its database has it")
	states, err := store.MigrationStatus(ctx, dsn)
	require.NoError(t, err)
	for _, state := range slices.Backward(states) { // newer steps go first
		if strings.HasPrefix(state.Name, "0") { // the others are the job queue's own
			require.NoError(t, store.MigrateDown(ctx, dsn), state.Name)
		}
	}
	require.Empty(t, schema())
	require.NoError(t, store.Migrate(ctx, dsn))
	require.Equal(t, all, schema())
}

package handler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

type bench struct {
	store    *store.Store
	recorder *Recorder
}

func setup(t *testing.T) bench {
	t.Helper()
	s := openStore(t, storetest.New(t))
	return bench{store: s, recorder: newRecorder(t, s)}
}

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	s, err := store.Open(context.Background(), store.Config{DSN: dsn, Keys: keys, MaxConns: 4, Now: func() time.Time { return testNow }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func newRecorder(t *testing.T, s *store.Store) *Recorder {
	t.Helper()
	p := testPolicy()
	p.NotificationID, p.AttemptID = nil, nil
	r := NewRecorder(s, p, zap.NewNop(), prometheus.NewRegistry())
	t.Cleanup(r.Close)
	return r
}

func (b bench) record(t *testing.T, facts ...Fact) {
	t.Helper()
	for _, f := range facts {
		f.ReceivedAt = time.Time{}
		require.NoError(t, b.recorder.Record(context.Background(), Delivery{Facts: []Fact{f}}))
	}
}

// state reads back everything that a payment's facts have come to, as text.
func (b bench) state(t *testing.T) string {
	t.Helper()
	var out []string
	for _, q := range []string{
		`SELECT concat_ws(' ', 'payment', payment_id, status, customer, amount, currency) FROM payments`,
		`SELECT concat_ws(' ', 'attempt', id, result, charge, detail) FROM attempts`,
		`SELECT concat_ws(' ', 'notification', id, failure_id, channel, template, status, reason, shown_code, due_at) FROM notifications`,
	} {
		rows, err := b.store.Pool().Query(context.Background(), q)
		require.NoError(t, err)
		for rows.Next() {
			var s string
			require.NoError(t, rows.Scan(&s))
			out = append(out, s)
		}
		require.NoError(t, rows.Err())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (b bench) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, b.store.Pool().QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

// A card tester can try one payment thousands of times. Each event of it would write the rows of all its attempts again, and
// the dead ones would be in the way of the next.
func TestAFurtherAttemptLeavesTheRowsOfTheOthersAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	versions := func() (at []string) {
		rows, err := b.store.Pool().Query(t.Context(), `SELECT concat_ws(' ', charge, xmin) FROM attempts ORDER BY charge`)
		require.NoError(t, err)
		at, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return at
	}
	b.record(t, chargeFailed(1, "do_not_honor"), intentFailed(1, "do_not_honor"), chargeFailed(2, "do_not_honor"), intentFailed(2, "do_not_honor"))
	before := versions()
	b.record(t, chargeFailed(3, "do_not_honor"), intentFailed(3, "do_not_honor"), chargeFailed(1, "do_not_honor"))
	require.Equal(t, before, versions()[:2])
	b.record(t, succeeded())
	require.Equal(t, 3, b.count(t, `SELECT count(*) FROM attempts WHERE result = 'failed' AND payment_status = 'recovered'`), "what changes is written")
}

func TestArrivalOrderAndRepeatsDoNotChangeWhatIsStored(t *testing.T) {
	t.Parallel()
	events := []Fact{chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), chargeFailed(2, "stolen_card"), succeeded()}
	want := ""
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 2, 0, 1, 3, 3, 0}} {
		b := setup(t)
		for _, i := range order {
			b.record(t, events[i])
		}
		got := strings.ReplaceAll(b.state(t), "\n", "\n")
		got = stripIDs(got)
		if want == "" {
			want = got
		}
		require.Equal(t, want, got, "order %v", order)
	}
}

// stripIDs removes keyed ids, which differ between databases.
func stripIDs(s string) string {
	var out []string
	for _, line := range strings.Split(s, "\n") {
		var words []string
		for _, w := range strings.Fields(line) {
			if !strings.HasPrefix(w, "fl_") && !strings.HasPrefix(w, "nt_") && !strings.HasPrefix(w, "at_") {
				words = append(words, w)
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestAProvisionalAttemptIsAbsorbedByItsCharge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lone := intentFailed(1, "insufficient_funds")
	lone.LatestCharge = ""
	b.record(t, lone)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts`))
	newer := lone
	newer.APIVersion, newer.LatestCharge = "2025-04-30.basil", "ch_1"
	b.record(t, newer, chargeFailed(1, "insufficient_funds"))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts WHERE charge = 'ch_1'`))
}

// mailsWithJobs counts mails as often as there is a job to send them.
const mailsWithJobs = `SELECT count(*) FROM notifications n JOIN river_job j ON args->>'notification_id' = n.id
	OR n.due_at <= (args->>'until')::timestamptz AND n.due_at > (args->>'until')::timestamptz - interval '2 s' WHERE n.channel = 'email'`

// loseJobs takes all jobs away, and what the recorder remembers of them.
func (b bench) loseJobs(t *testing.T) {
	t.Helper()
	_, err := b.store.Pool().Exec(t.Context(), `DELETE FROM river_job`)
	require.NoError(t, err)
	clear(b.recorder.rings)
}

func TestConcurrentCopiesOnTwoReplicasMakeOneRowEach(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := bench{store: b.store, recorder: newRecorder(t, b.store)}
	var wg sync.WaitGroup
	errs := make(chan error, 1000)
	for i := range 40 {
		for range 8 {
			for _, r := range []*Recorder{b.recorder, other.recorder} {
				wg.Go(func() {
					f := chargeFailed(i, "insufficient_funds")
					f.PaymentID = fmt.Sprintf("pi_%d", i)
					f.PaymentIntent = f.PaymentID
					f.ReceivedAt = time.Time{}
					errs <- r.Record(context.Background(), Delivery{Facts: []Fact{f}})
				})
			}
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 40, b.count(t, `SELECT count(*) FROM facts`))
	require.Equal(t, 40, b.count(t, `SELECT count(*) FROM attempts`))
	require.Equal(t, 40, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email'`))
	require.Equal(t, 40, b.count(t, mailsWithJobs))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`))
}

func TestMailsOfAboutOneMomentShareAJobOfAllReplicas(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := bench{store: b.store, recorder: newRecorder(t, b.store)}
	for i, replica := range []bench{b, b, other} {
		f := chargeFailed(i, "insufficient_funds")
		f.PaymentID = fmt.Sprintf("pi_%d", i)
		replica.record(t, f)
		require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE kind = 'deliver_due' AND state = 'scheduled'`))
		require.Equal(t, i+1, b.count(t, mailsWithJobs))
	}
}

func TestAJobThatAnotherGroupDidNotCommitIsWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.record(t, chargeFailed(1, "insufficient_funds"))
	other, err := b.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	var rows string
	require.NoError(t, other.QueryRow(t.Context(), `SELECT jsonb_agg(j)::text FROM river_job j`).Scan(&rows))
	b.loseJobs(t)
	_, err = other.Exec(t.Context(), `INSERT INTO river_job SELECT * FROM jsonb_populate_recordset(NULL::river_job, $1::text::jsonb)`, rows)
	require.NoError(t, err)
	f := chargeFailed(2, "insufficient_funds")
	f.PaymentID, f.ReceivedAt = "pi_2", time.Time{}
	recorded := make(chan error, 1)
	go func() { recorded <- b.recorder.Record(t.Context(), Delivery{Facts: []Fact{f}}) }()
	require.Eventually(t, func() bool {
		return b.count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'`) == 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, other.Rollback(t.Context()))
	require.NoError(t, <-recorded)
	require.Equal(t, 2, b.count(t, mailsWithJobs))
}

func TestAMailThatIsDueSoonHasAJobOfItsOwn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.recorder.policy.Hold, b.recorder.policy.HoldWeak = soon-time.Millisecond, soon-time.Millisecond
	b.record(t, chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job JOIN notifications n ON args->>'notification_id' = n.id AND scheduled_at = due_at`))
}

func TestAGroupThatWasNotCommittedLeavesNoMemoryOfItsJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.Pool().Exec(t.Context(), `ALTER TABLE river_job RENAME TO away`)
	require.NoError(t, err)
	require.Error(t, b.recorder.Record(t.Context(), Delivery{Facts: []Fact{chargeFailed(1, "insufficient_funds")}}))
	_, err = b.store.Pool().Exec(t.Context(), `ALTER TABLE away RENAME TO river_job`)
	require.NoError(t, err)
	b.record(t, chargeFailed(1, "insufficient_funds"))
	require.Equal(t, 1, b.count(t, mailsWithJobs))
}

func TestARowThatPostgresRefusesDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	b := setup(t)
	group := make([]*waiting, 5)
	for i := range group {
		f := chargeFailed(i, "insufficient_funds")
		f.PaymentID, f.ReceivedAt = fmt.Sprintf("pi_%d", i), time.Time{}
		if i == 3 {
			f.ErrorMessage = "a\x00b"
		}
		group[i] = &waiting{delivery: Delivery{Facts: []Fact{f}}, answer: make(chan error, 1)}
	}
	b.recorder.commit(context.Background(), group)
	for _, w := range group {
		require.NoError(t, <-w.answer)
	}
	require.Equal(t, 4, b.count(t, `SELECT count(*) FROM facts`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM quarantine WHERE event_id = 'evt_ch3'`))
}

// Rows outlive the programs that wrote them, and replicas of two versions read each other's.
func TestARowIsReadThoughItNamesWhatNoFieldIsKeptUnderNow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.record(t, chargeFailed(1, "lost_card"))
	for _, table := range []string{"facts", "attempts"} {
		_, err := b.store.Pool().Exec(t.Context(), `UPDATE `+table+` SET detail = '{"oc":1772366398,"zz":{"or":[null,{}]},'||substr(detail, 2)`)
		require.NoError(t, err)
	}
	b.record(t, intentFailed(1, "do_not_honor"))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts WHERE detail::json->>'or' = 'lost_card' AND detail::json->>'dc' = 'do_not_honor'`))
}

// A database that another commit's first migration made, say: no event is at fault, and all of them would go to quarantine.
func TestAnEventIsSentAgainWhereATableHasAColumnThatNobodyFills(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.Pool().Exec(t.Context(), `ALTER TABLE payments ADD COLUMN unheard_of timestamptz NOT NULL`)
	require.NoError(t, err)
	w := &waiting{delivery: Delivery{Facts: []Fact{chargeFailed(1, "insufficient_funds")}}, answer: make(chan error, 1)}
	b.recorder.commit(t.Context(), []*waiting{w})
	require.Error(t, <-w.answer, "the provider sends it again")
	require.Zero(t, b.count(t, `SELECT count(*) FROM quarantine`))
}

// A database that was moved by logical replication has its rows, and its sequences as they were made.
func TestADatabaseWhoseSequencesWereLeftBehindLosesNoEvent(t *testing.T) {
	t.Parallel()
	b, guest := setupGuest(t)
	known := intentFailed(1, "insufficient_funds")
	known.MethodType = "us_bank_account"
	b.record(t, guest)
	b.record(t, known) // with a job
	_, err := b.store.Pool().Exec(t.Context(), `SELECT setval('river_job_id_seq', (SELECT min(id) FROM river_job), false)`)
	require.NoError(t, err)
	for i := 2; i <= 3; i++ {
		f := known
		f.PaymentID, f.EventID = fmt.Sprint("pi_", i), fmt.Sprint("evt_again", i)
		w := &waiting{delivery: Delivery{Facts: []Fact{f}}, answer: make(chan error, 1)}
		for range 3 { // the provider sends again what was refused
			b.recorder.commit(t.Context(), []*waiting{w})
			if err = <-w.answer; err == nil {
				break
			}
		}
		require.NoError(t, err)
	}
	require.Zero(t, b.count(t, `SELECT count(*) FROM quarantine`))
	require.Equal(t, 3, b.count(t, `SELECT count(DISTINCT payment_id) FROM attempts`))
}

// setupGuest has a recorder that looks customers up, and the failed bank debit of a payer who is not known.
func setupGuest(t *testing.T) (b bench, guest Fact) {
	t.Helper()
	b = setup(t)
	b.recorder.policy.LooksUp = true
	guest = chargeFailed(1, "insufficient_funds")
	guest.Customer, guest.MethodType = "", "us_bank_account"
	return b, guest
}

func TestACustomerWhoComesToBeKnownLaterIsLookedUp(t *testing.T) {
	t.Parallel()
	b, guest := setupGuest(t)
	b.record(t, guest)
	lookUps := func() int { return b.count(t, `SELECT count(*) FROM river_job WHERE kind = 'look_up_contact'`) }
	require.Zero(t, lookUps())
	known := intentFailed(1, "insufficient_funds")
	known.MethodType = "us_bank_account"
	read := known
	read.EventID, read.EventType = "api:pi_1:requires_payment_method", "payment_intent.read"
	for _, f := range []Fact{known, known, read} {
		b.record(t, f)
		require.Equal(t, 1, lookUps(), "after %s", f.EventID)
	}
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held' AND customer = 'cus_1'`))
}

func TestTheIntentOfALoneChargeThatNamesNoInvoiceIsLookedUp(t *testing.T) {
	t.Parallel()
	b, guest := setupGuest(t)
	guest.APIVersion = "2025-03-31.basil"
	b.record(t, guest)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE kind = 'look_up_contact' AND args->>'intent' = 'pi_1'`))
}

func TestAnAnswerThatNamesTheCustomerAsksNothingMore(t *testing.T) {
	t.Parallel()
	b, guest := setupGuest(t)
	read := intentFailed(1, "insufficient_funds")
	read.EventID, read.EventType, read.MethodType = "api:pi_1:requires_payment_method", "payment_intent.read", "us_bank_account"
	b.record(t, guest, read)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held' AND customer = 'cus_1'`))
	require.Zero(t, b.count(t, `SELECT count(*) FROM river_job WHERE kind = 'look_up_contact'`))
}

func TestADeliveryThatPanicsIsQuarantinedAndItsNeighboursAreStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.recorder.policy.AttemptID
	b.recorder.policy.AttemptID = func(prefix string, k PaymentKey, attemptKey string) string {
		if k.PaymentID == "pi_2" {
			panic("a defect, with what it is about")
		}
		return id(prefix, k, attemptKey)
	}
	logged, logs := observer.New(zap.DebugLevel)
	b.recorder.log = zap.New(logged)
	var group []*waiting
	for i := 1; i <= 3; i++ {
		f := chargeFailed(i, "insufficient_funds")
		f.PaymentID, f.ReceivedAt = fmt.Sprint("pi_", i), time.Time{}
		group = append(group, &waiting{delivery: Delivery{Facts: []Fact{f}}, answer: make(chan error, 1)})
	}
	b.recorder.commit(t.Context(), group)
	for _, w := range group {
		require.NoError(t, <-w.answer)
	}
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM attempts`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM quarantine WHERE event_id = 'evt_ch2' AND reason = 'not understood' AND body IS NOT NULL`))
	told := logs.FilterMessage("delivery.quarantined").All()
	require.Len(t, told, 1)
	require.Contains(t, told[0].ContextMap()["error"], "recorder_test.go", "it says where")
	require.NotContains(t, told[0].ContextMap()["error"], "what it is about", "it may quote the delivery")
}

func TestRowsThatWereThoughtNewAndAreNotAreWrittenOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.record(t, chargeFailed(1, "insufficient_funds"))
	want := b.state(t)
	// By the payment's row the rest is found: without it, every row of the repeat is taken for a new one.
	_, err := b.store.Pool().Exec(t.Context(), `DELETE FROM payments`)
	require.NoError(t, err)
	b.record(t, chargeFailed(1, "insufficient_funds"))
	require.Equal(t, want, b.state(t))
	require.Zero(t, b.count(t, `SELECT count(*) FROM quarantine`))
}

func TestOneIDInTwoAccountsIsTwoPaymentsThoughOneIsKnown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.record(t, chargeFailed(1, "insufficient_funds"))
	known, other := chargeFailed(2, "stolen_card"), chargeFailed(1, "expired_card")
	other.Account = "acct_2"
	var group []*waiting
	for _, f := range []Fact{other, known, chargeFailed(1, "insufficient_funds")} {
		f.ReceivedAt = time.Time{}
		group = append(group, &waiting{delivery: Delivery{Facts: []Fact{f}}, answer: make(chan error, 1)})
	}
	b.recorder.commit(t.Context(), group)
	for _, w := range group {
		require.NoError(t, <-w.answer)
	}
	require.Equal(t, 3, b.count(t, `SELECT count(*) FROM facts`))
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM attempts WHERE account = ''`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts WHERE account = 'acct_2'`))
}

func TestACloseAnswersAllThatWaitForOnePayment(t *testing.T) {
	t.Parallel()
	b := setup(t)
	waiters := make([]*waiting, 3*maxGroup)
	for i := range waiters {
		f := chargeFailed(i%4, "insufficient_funds")
		f.ReceivedAt = time.Time{}
		d := Delivery{Facts: []Fact{f}}
		waiters[i] = &waiting{delivery: d, touches: touches(d), answer: make(chan error, 1)}
		require.True(t, b.recorder.enqueue(waiters[i]))
	}
	b.recorder.Close()
	for _, w := range waiters {
		select {
		case err := <-w.answer:
			require.NoError(t, err)
		default:
			t.Fatal("a delivery was left behind")
		}
	}
	require.False(t, b.recorder.enqueue(waiters[0]), "the recorder is closed")
	require.Equal(t, 4, b.count(t, `SELECT count(*) FROM facts`))
}

func TestWhoComesWhenTooManyWaitIsSentAway(t *testing.T) {
	t.Parallel()
	r := &Recorder{} // without committers
	r.changed.L = &r.mu
	for range maxWaiting {
		require.True(t, r.enqueue(&waiting{}))
	}
	require.False(t, r.enqueue(&waiting{}))
}

func TestACancelledRequestDoesNotCancelItsDelivery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := chargeFailed(1, "insufficient_funds")
	f.ReceivedAt = time.Time{}
	_ = b.recorder.Record(ctx, Delivery{Facts: []Fact{f}})
	b.recorder.Close()
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM facts`))
}

func TestAnInvoiceEventReachesItsPaymentWhicheverComesFirst(t *testing.T) {
	t.Parallel()
	charge := chargeFailed(1, "insufficient_funds")
	charge.Invoice, charge.RequestOrigin = "in_1", "api"
	invoice := fact("evt_in", "invoice.payment_failed", "invoice")
	invoice.PaymentID, invoice.Invoice, invoice.BillingReason, invoice.PaymentIntent = "in_1", "in_1", "subscription_cycle", ""
	for _, order := range [][]Fact{{charge, invoice}, {invoice, charge}} {
		b := setup(t)
		b.record(t, order...)
		require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts WHERE detail::json->>'ev' = 'invoice_cycle=strong'`), "%s first", order[0].EventType)
	}
}

func TestJobsAreMadeOnlyForMailsThatMayGoOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	action := fact("evt_a", "payment_intent.requires_action", "payment_intent")
	b.record(t, action, intentFailed(1, "insufficient_funds"))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'suppressed' AND reason = 'on_session' OR reason = 'payment_pending'`))
	require.Zero(t, b.count(t, mailsWithJobs))
}

func TestAMailHasNoJobWhileItsPaymentIsPendingAndOneOnceItFailsAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.record(t, fact("evt_p", "payment_intent.processing", "payment_intent"), chargeFailed(1, "insufficient_funds"))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'held' AND reason = 'payment_pending'`))
	require.Zero(t, b.count(t, `SELECT count(*) FROM river_job`))
	again := intentFailed(1, "insufficient_funds")
	again.Created++
	b.record(t, again)
	require.Equal(t, 1, b.count(t, mailsWithJobs))
}

// Who has just paid anew, by a debit that takes days, would read to pay once more.
func TestANoticeIsAwayWhileItsPaymentMayStillSucceed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	inbox := func() int {
		page, _, err := b.store.InboxPage(t.Context(), store.InboxFilter{Customer: "cus_1", Limit: 10})
		require.NoError(t, err)
		return len(page)
	}
	b.record(t, chargeFailed(1, "expired_card"), intentFailed(1, "expired_card"))
	require.Equal(t, 1, inbox())
	anew := fact("evt_p", "payment_intent.processing", "payment_intent")
	anew.Created++
	b.record(t, anew)
	require.Zero(t, inbox())
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'inbox' AND status = 'suppressed' AND reason = 'payment_pending'`))
	acts := fact("evt_a", "payment_intent.requires_action", "payment_intent")
	acts.Created = anew.Created
	b.record(t, acts)
	require.Zero(t, inbox(), "of one second what is under way counts")
	acts.EventID = "evt_b"
	acts.Created++
	b.record(t, acts)
	require.Equal(t, 1, inbox(), "it waits for the customer, who may have closed the bank's page")
	again := intentFailed(2, "insufficient_funds")
	again.Created += 2
	b.record(t, again)
	require.Equal(t, 1, inbox())
}

// The page has told of the second attempt. Of the payment, which is still open, the app goes on telling, as reminders do.
func TestANoticeStaysWhenTheCustomerHasTriedAtAPageInVain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	notices := func() string {
		page, _, err := b.store.InboxPage(t.Context(), store.InboxFilter{Customer: "cus_1", Limit: 10})
		require.NoError(t, err)
		var said []string
		for _, n := range page {
			said = append(said, fmt.Sprint(n.PublicCode, " ", n.ReadAt != nil))
		}
		return strings.Join(said, ", ")
	}
	b.record(t, chargeFailed(1, "expired_card"))
	require.Equal(t, "expired_card false", notices())
	_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET read_at = due_at WHERE channel = 'inbox'`)
	require.NoError(t, err)
	at := chargeFailed(2, "insufficient_funds")
	at.Created, at.Session = testCreated+60, ""
	at.RequestOrigin, at.CVCCheck = "api", "pass"
	b.record(t, at)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'checkout'`))
	require.Equal(t, "expired_card true", notices())
	done := succeeded()
	done.Created = testCreated + 120
	b.record(t, done)
	require.Empty(t, notices())
}

func TestAddressesAreSealedInTheDatabase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	f := chargeFailed(1, "insufficient_funds")
	f.Addresses = &Contact{Receipt: "buyer@example.com"}
	b.record(t, f)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM facts WHERE contact IS NOT NULL`))
	require.Zero(t, b.count(t, `SELECT count(*) FROM facts f WHERE f::text LIKE '%buyer%' OR position('buyer'::bytea IN contact) > 0`))
	to, err := b.store.Recipient(context.Background(), testKey, "cus_1")
	require.NoError(t, err)
	require.Equal(t, "buyer@example.com", to.Emails[0])
}

func TestTheHighestCustomerRecordWinsInAnyOrder(t *testing.T) {
	t.Parallel()
	older := Customer{CustomerID: "cus_1", Source: "stripe", RecordCreated: 10, RecordEvent: "evt_1", Email: "old@example.com"}
	newer := Customer{CustomerID: "cus_1", Source: "stripe", RecordCreated: 10, RecordEvent: "evt_2", Email: "new@example.com"}
	for _, order := range [][]Customer{{older, newer}, {newer, older}} {
		b := setup(t)
		b.record(t, chargeFailed(1, "insufficient_funds"))
		for _, c := range order {
			require.NoError(t, b.recorder.Record(context.Background(), Delivery{Customer: &c}))
		}
		to, err := b.store.Recipient(context.Background(), testKey, "cus_1")
		require.NoError(t, err)
		require.Equal(t, "new@example.com", to.Emails[0])
	}
}

func TestTheRecipientIsFoundInTheContractsOrder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := setup(t)
	f := chargeFailed(1, "insufficient_funds")
	f.Addresses = &Contact{Billing: "billing@example.com"}
	b.record(t, f)
	find := func() string {
		to, err := b.store.Recipient(ctx, testKey, "cus_1")
		require.NoError(t, err)
		return to.Emails[0]
	}
	require.Equal(t, "billing@example.com", find())
	require.NoError(t, b.recorder.Record(ctx, Delivery{Customer: &Customer{CustomerID: "cus_1", Source: "stripe", RecordCreated: 1, RecordEvent: "evt_c", Email: "customer@example.com"}}))
	require.Equal(t, "customer@example.com", find())
	pi := intentFailed(1, "insufficient_funds")
	pi.Addresses = &Contact{Receipt: "receipt@example.com"}
	b.record(t, pi)
	require.Equal(t, "receipt@example.com", find())
	require.NoError(t, b.store.PutContact(ctx, store.CustomerKey{CustomerID: "cus_1", Source: "stripe"}, "put@example.com", "fr", "Europe/Paris"))
	require.Equal(t, "put@example.com", find())
	second := chargeFailed(2, "insufficient_funds")
	second.Addresses = &Contact{Metadata: "metadata@example.com"}
	b.record(t, second)
	require.Equal(t, "metadata@example.com", find())
	require.NoError(t, b.recorder.Record(ctx, Delivery{Customer: &Customer{CustomerID: "cus_1", Source: "stripe", RecordCreated: 2, RecordEvent: "evt_d", Deleted: true}}))
	to, err := b.store.Recipient(ctx, testKey, "cus_1")
	require.NoError(t, err)
	require.True(t, to.Gone)
}

// Since 2025-03-31 an invoice's event does not name the payment: only the payment names its invoice.
func TestAnAddressOnAnInvoicesEventIsItsPaymentsToo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	charge := chargeFailed(1, "insufficient_funds")
	charge.Invoice, charge.Addresses = "in_1", nil
	invoice := fact("evt_in", "invoice.payment_failed", "invoice")
	invoice.PaymentID, invoice.Invoice, invoice.PaymentIntent = "in_1", "in_1", ""
	invoice.Addresses = &Contact{Customer: "invoice@example.com"}
	for _, order := range [][]Fact{{charge, invoice}, {invoice, charge}} {
		b := setup(t)
		b.record(t, order...)
		_, err := b.store.Pool().Exec(ctx, `UPDATE notifications SET status = 'held', reason = 'no_address', due_at = $1 WHERE channel = 'email'`, testNow)
		require.NoError(t, err)
		for _, customer := range []string{"", "cus_1"} {
			to, err := b.store.Recipient(ctx, testKey, customer)
			require.NoError(t, err)
			require.Equal(t, "invoice@example.com", to.Emails[0])
		}
		woken, err := b.store.WakeHeld(ctx, store.ReasonNoAddress, 10)
		require.NoError(t, err)
		require.Equal(t, 1, woken, "%s last", order[1].EventType)
	}
}

func TestTheLanguageIsFoundInTheContractsOrder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := setup(t)
	session := fact("evt_cs", "checkout.session.async_payment_failed", "checkout_session")
	session.SessionLocale = "it"
	b.record(t, chargeFailed(1, "insufficient_funds"), session)
	find := func(customer string) string {
		to, err := b.store.Recipient(ctx, testKey, customer)
		require.NoError(t, err)
		return to.Locale
	}
	require.Equal(t, "it", find(""))
	require.Equal(t, "it", find("cus_1"))
	require.NoError(t, b.recorder.Record(ctx, Delivery{Customer: &Customer{CustomerID: "cus_1", Source: "stripe", RecordCreated: 1, RecordEvent: "evt_c", Locale: "pl"}}))
	require.Equal(t, "pl", find("cus_1"))
	require.NoError(t, b.store.PutContact(ctx, store.CustomerKey{CustomerID: "cus_1", Source: "stripe"}, "", "fr", ""))
	require.Equal(t, "fr", find("cus_1"))
	named := intentFailed(1, "insufficient_funds")
	named.Locale, named.Created = "de", testCreated-1
	b.record(t, named)
	require.Equal(t, "de", find("cus_1"))
	require.Equal(t, "de", find(""))
}

func TestACheckoutMessageThatNobodyHasSeenHasNoLanguageYet(t *testing.T) {
	t.Parallel()
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Session, intent.Locale = OnSession, "fr"
	for _, order := range [][]Fact{{charge, intent}, {intent, charge}} {
		for _, mode := range []bool{charge.Livemode, !charge.Livemode} {
			b := setup(t)
			b.recorder.policy.Livemode = mode
			b.record(t, order...)
			require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'checkout' AND locale = '' AND shown_code = ''`), mode)
		}
	}
}

func TestARepeatDoesNotUndoWhatTheSenderDecided(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ set, want string }{
		"superseded": {`status = 'canceled', reason = 'superseded'`, "canceled superseded"},
		"storm":      {`reason = 'mail_storm'`, "held mail_storm"},
		"day":        {`reason = 'daily_limit'`, "held daily_limit"},
		"no address": {`reason = 'no_address'`, "held no_address"},
		"not now":    {`next_try_at = now()`, "held "},
	}
	for _, reason := range []string{
		"unsubscribed", "bounced", "customer_deleted", "invalid_address", "mailbox_limit", "payment_limit",
		"too_old", "no_address", "mail_storm", "daily_limit", "smtp_not_configured",
	} {
		cases["ended by "+reason] = struct{ set, want string }{`status = 'suppressed', reason = '` + reason + `'`, "suppressed " + reason}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupClocked(t)
			b.record(t, chargeFailed(1, "insufficient_funds"))
			require.Equal(t, 1, b.count(t, mailsWithJobs))
			b.after(testPolicy().MaxAge + time.Hour)
			_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET `+c.set+` WHERE channel = 'email'`)
			require.NoError(t, err)
			b.loseJobs(t)
			b.record(t, chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"))
			var got string
			require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT status || ' ' || reason FROM notifications WHERE channel = 'email'`).Scan(&got))
			require.Equal(t, c.want, got)
			require.Zero(t, b.count(t, mailsWithJobs))
		})
	}
}

// Of Frame's transfer only the time tells which charge it wraps: while an old one is known without its charge, the new charge
// seems to be old too.
func TestAnAttemptThatOnlySeemedOldIsWrittenFor(t *testing.T) {
	t.Parallel()
	charge := func(n int, created int64) Fact {
		f := chargeFailed(n, "")
		f.Source, f.FailureCode, f.OutcomeType, f.APIVersion, f.Created = "frame", "insufficient_funds", "", "", created
		return f
	}
	before := int64(testCreated - 30*60*60)
	transfer := fact("evt_tr", "transfer.failed", "transfer")
	transfer.Source, transfer.APIVersion, transfer.Created = "frame", "", before
	fresh, old := charge(2, testCreated), charge(1, before)
	for _, order := range [][]Fact{{old, transfer, fresh}, {fresh, transfer, old}, {transfer, fresh, old}} {
		b := setup(t)
		b.record(t, order...)
		require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held'`))
		require.Equal(t, 1, b.count(t, mailsWithJobs))
	}
}

func TestASupersededMailIsLookedAtAgainOnceItsPaymentIsForSomethingElse(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Fact){
		"invoice":  func(f *Fact) { f.Invoice = "in_2" },
		"order":    func(f *Fact) { f.OrderReference = "order_2" },
		"amount":   func(f *Fact) { f.Amount++ },
		"currency": func(f *Fact) { f.Currency = "eur" },
		"customer": func(f *Fact) { f.Customer = "cus_2" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.recorder.policy.MailsInvoices = true
			charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
			charge.Invoice, intent.Invoice = "in_1", "in_1"
			change(&intent)
			intent.Created = charge.Created + 1
			b.record(t, charge)
			_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET status = 'canceled', reason = 'superseded' WHERE channel = 'email'`)
			require.NoError(t, err)
			b.record(t, charge)
			require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'canceled'`))
			b.loseJobs(t)
			b.record(t, intent)
			require.Zero(t, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'canceled'`))
			require.Equal(t, 1, b.count(t, mailsWithJobs))
		})
	}
}

func TestMailsLeftToStripeAreCountedOnce(t *testing.T) {
	t.Parallel()
	s, metrics := openStore(t, storetest.New(t)), prometheus.NewRegistry()
	b := bench{store: s, recorder: NewRecorder(s, testPolicy(), zap.NewNop(), metrics)}
	t.Cleanup(b.recorder.Close)
	left := func() float64 {
		t.Helper()
		families, err := metrics.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "rebound_mails_left_to_stripe_total" {
				return f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return -1
	}
	require.Zero(t, left(), "shown before there is any")
	b.record(t, chargeFailed(1, "insufficient_funds"))
	require.Zero(t, left())
	renewal := lone("pi_renewal")
	renewal.Invoice = "in_1"
	again := renewal
	again.EventID, again.Charge, again.ObjectID, again.Created = "evt_again", "ch_again", "ch_again", renewal.Created+86400
	b.record(t, renewal, renewal, again)
	require.EqualValues(t, 1, left(), "a repeat and a further attempt bring no mail of their own")
}

func TestASettledInvoiceTakesBackWhatIsNotSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.recorder.policy.MailsInvoices = true
	charge := chargeFailed(1, "insufficient_funds")
	charge.Invoice = "in_1"
	paid := fact("evt_in", "invoice.paid", "invoice")
	paid.PaymentID, paid.Invoice, paid.Status, paid.PaymentIntent = "in_1", "in_1", "paid", ""
	b.record(t, charge)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held'`))
	b.record(t, paid)
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'canceled' AND reason = 'superseded'`))
}

// The mails after the first were decided on when that was sent. What has come to be known since bars them like a first one.
func TestAReminderIsNotSentWhereAFirstMailWouldNotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second func(*Fact)
		want   string
	}{
		"the bank says that the customer has died":               {func(f *Fact) { f.FailureCode, f.OutcomeReason = "recipient_deceased", "" }, "suppressed no_contact"},
		"Stripe mails for the invoice":                           {func(f *Fact) { f.Invoice = "in_1" }, "suppressed billing_by_stripe"},
		"Stripe mails for the invoice, and it fails on the page": {func(f *Fact) { f.Invoice, f.Session = "in_1", OnSession }, "suppressed billing_by_stripe"},
		"it fails again":       {func(*Fact) {}, "held "},
		"it fails on the page": {func(f *Fact) { f.Session = OnSession }, "held "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			debit := chargeFailed(1, "insufficient_funds")
			debit.MethodType = "sepa_debit"
			b.record(t, debit)
			_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET status = 'sent', sent_at = due_at WHERE channel = 'email'`)
			require.NoError(t, err)
			_, err = b.store.Pool().Exec(t.Context(), `INSERT INTO notifications SELECT (jsonb_populate_record(n, jsonb_build_object(
				'id', 'nt_reminder', 'template', 'reminder_1', 'status', 'held', 'sent_at', NULL, 'due_at', n.due_at + interval '72 hours'))).*
				FROM notifications n WHERE n.channel = 'email'`)
			require.NoError(t, err)
			again := chargeFailed(2, "insufficient_funds")
			again.MethodType = "sepa_debit"
			c.second(&again)
			b.record(t, again)
			var got string
			require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT status || ' ' || reason FROM notifications WHERE id = 'nt_reminder'`).Scan(&got))
			require.Equal(t, c.want, got)
		})
	}
}

func waitingFor(facts ...Fact) (group []*waiting) {
	for _, f := range facts {
		group = append(group, &waiting{delivery: Delivery{Facts: []Fact{f}}, answer: make(chan error, 1)})
	}
	return group
}

func lone(payment string) Fact {
	f := chargeFailed(1, "insufficient_funds")
	f.PaymentID, f.PaymentIntent, f.Customer, f.ReceivedAt = payment, payment, "cus_of_"+payment, time.Time{}
	return f
}

// A replica that stands still inside a group keeps its locks for as long as its host answers for its connection.
func TestAFrozenReplicaDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	b := setup(t)
	frozen, thaw, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = b.store.InIngest(context.Background(), func(in *store.Ingest) error {
			_, err := in.Load(context.Background(), []PaymentKey{testKey}, nil, nil, false)
			close(frozen)
			<-thaw
			return err
		})
	}()
	<-frozen
	defer func() { close(thaw); <-done }()
	group := waitingFor(lone("pi_1"), lone("pi_2"), lone("pi_3"))
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	b.recorder.commit(ctx, group)
	for _, w := range group {
		require.NoError(t, <-w.answer)
	}
}

// Its customer's erasure has laid the tombstone and was killed before it came to the payment: the second rendering is
// anonymous, the first is not yet, and both are one attempt.
func TestATwinOfAHalfErasedPaymentIsTheSameAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := intentFailed(1, "insufficient_funds")
	first.LatestCharge, first.ReceivedAt = "", time.Time{}
	b.record(t, first)
	exec := func(sql string) {
		_, err := b.store.Pool().Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'killed'; END $$`)
	exec(`CREATE TRIGGER refuse BEFORE UPDATE ON facts FOR EACH ROW EXECUTE FUNCTION refuse()`)
	_, err := b.store.Erase(t.Context(), store.Erasure{Customer: "cus_1"})
	require.ErrorContains(t, err, "killed")
	exec(`DROP TRIGGER refuse ON facts`)
	twin := first
	twin.APIVersion = "2025-04-30.basil"
	group := waitingFor(twin, lone("pi_9"))
	b.recorder.commit(t.Context(), group)
	require.NoError(t, <-group[0].answer)
	require.NoError(t, <-group[1].answer)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM attempts WHERE payment_id = 'pi_1'`))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM payments WHERE payment_id = 'pi_9'`))
}

func TestWhatIsMadeStorableIsCutBetweenLetters(t *testing.T) {
	t.Parallel()
	got := storable("x\x00" + strings.Repeat("é", 200))
	require.Equal(t, "x"+strings.Repeat("é", 127), got)
	require.Equal(t, "x"+strings.Repeat("é", 126)+"y", storable("x"+strings.Repeat("é", 126)+"y"+strings.Repeat("é", 9)))
}

func TestADatabasesDefaultsDoNotChangeWhatTheStoreRestsOn(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, set := range []string{`default_transaction_isolation = 'repeatable read'`, `synchronous_commit = off`} {
		_, err = conn.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{conn.Config().Database}.Sanitize()+` SET `+set)
		require.NoError(t, err)
	}
	s := openStore(t, dsn)
	for setting, want := range map[string]string{"transaction_isolation": "read committed", "synchronous_commit": "on"} {
		var is string
		require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&is))
		require.Equal(t, want, is, setting)
	}
	// What is read after a lock is what its last holder committed: two replicas with one payment do not fail each other.
	recorders := []*Recorder{newRecorder(t, s), newRecorder(t, s)}
	var work errgroup.Group
	for i := range 40 {
		for _, r := range recorders {
			work.Go(func() error {
				f := chargeFailed(i%4, "insufficient_funds")
				f.EventID, f.ReceivedAt = fmt.Sprint(f.EventID, i), time.Time{}
				return r.Record(context.Background(), Delivery{Facts: []Fact{f}})
			})
		}
	}
	require.NoError(t, work.Wait())
}

package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"rebound/decline"
	"rebound/store"
	"rebound/store/job"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// post is a Mailer that keeps letters and answers as it is told.
type post struct {
	mu      sync.Mutex
	letters []Letter
	answer  func(Letter) Outcome
}

func (p *post) Deliver(_ context.Context, l Letter) Outcome {
	p.mu.Lock()
	p.letters = append(p.letters, l)
	answer := p.answer
	p.mu.Unlock()
	if answer == nil {
		return Outcome{Result: Accepted, Code: 250}
	}
	return answer(l)
}

func (p *post) Mailbox(address string) (string, bool) {
	return strings.ToLower(address), strings.Contains(address, "@")
}

func (p *post) MaxDuration() time.Duration { return time.Minute }

func (p *post) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.letters)
}

type bench struct {
	store *store.Store
	clock *clock
	post  *post
	logs  *observer.ObservedLogs
	dsn   string
	keys  []seal.Key
}

func setup(t *testing.T) *bench {
	t.Helper()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	b := &bench{clock: &clock{at: start}, post: &post{}, dsn: storetest.New(t), keys: keys}
	b.store, err = store.Open(t.Context(), store.Config{DSN: b.dsn, Keys: keys, MaxConns: 6, Now: b.clock.now})
	require.NoError(t, err)
	t.Cleanup(b.store.Close)
	return b
}

func (b *bench) sender(t *testing.T, change ...func(*Config)) *Sender {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	b.logs = logs
	c := Config{
		Store: b.store, Mailer: b.post, Log: zap.New(core), PublicURL: "https://rebound.test", MaxAge: 24 * time.Hour,
		Limits:  Limits{PerPayment24h: 1, PerPayment: 4, PerMailbox24h: 2, PerMailbox7d: 4, NewMailboxesPerHour: 50, PerDay: 4000},
		Metrics: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&c)
	}
	s := NewSender(c)
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

// failing stores a payment with one failure and its held first mail, due after a minute.
func (b *bench) failing(t *testing.T, payment, email string) string {
	t.Helper()
	k := store.PaymentKey{PaymentID: payment, Source: "stripe"}
	first := b.clock.now()
	f := store.Fact{PaymentKey: k, EventID: "evt_" + payment, EventType: "charge.failed", Created: first.Unix(), Object: "charge",
		Charge: "ch_" + payment, Customer: "cus_" + payment, Amount: 4200, Currency: "usd"}
	if email != "" {
		f.Addresses = &store.Contact{Receipt: email}
	}
	id := b.store.NotificationID(k, store.ChannelEmail, "first", "")
	err := b.store.InIngest(t.Context(), func(in *store.Ingest) error {
		loaded, err := in.Load(t.Context(), []store.PaymentKey{k}, nil, []*store.Fact{&f}, false)
		if err != nil {
			return err
		}
		return in.Save(t.Context(), store.Changes{
			Facts: loaded.NewFacts,
			Payments: []store.Payment{{PaymentKey: k, Status: "failing", Customer: f.Customer, Amount: 4200, Currency: "usd",
				FailedReceivedAt: &first, FailedCreated: first.Unix(), CreatedAt: first}},
			Attempts: []store.Attempt{{ID: "fl_" + payment, PaymentKey: k, AttemptKey: f.Charge, Result: "failed", OccurredAt: first, ReceivedAt: first,
				PublicCode: "insufficient_funds", PublicNextStep: "use_another_payment_method", AttemptsUsed: 1}},
			Notifications: []store.Notification{{ID: id, PaymentKey: k, FailureID: "fl_" + payment, Channel: store.ChannelEmail, Template: "first",
				Status: store.Held, DueAt: first.Add(time.Minute), MessageID: id + "@rebound.test", Customer: f.Customer, CreatedAt: first, UpdatedAt: first}},
		})
	})
	require.NoError(t, err)
	return id
}

func (b *bench) notification(t *testing.T, id string) store.Notification {
	t.Helper()
	var n store.Notification
	require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT status, reason, due_at, next_try_at, owner, sent_at, tries FROM notifications WHERE id = $1`, id).
		Scan(&n.Status, &n.Reason, &n.DueAt, &n.NextTryAt, &n.Owner, &n.SentAt, &n.Tries))
	n.DueAt = n.DueAt.UTC()
	return n
}

func (b *bench) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := b.store.Pool().Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func (b *bench) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, b.store.Pool().QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// copies adds n mails like one.
func (b *bench) copies(t *testing.T, id string, n int) {
	t.Helper()
	b.exec(t, `INSERT INTO notifications SELECT (jsonb_populate_record(n, jsonb_build_object('id', 'nt_' || i))).*
		FROM notifications n, generate_series(1, $2::int) i WHERE n.id = $1`, id, n)
}

func TestADueMailOfAFailingPaymentGoesOutOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")

	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Zero(t, b.post.count(), "the hold has not run out")

	b.clock.forward(time.Minute)
	for range 3 {
		_, err = s.Deliver(t.Context(), id)
		require.NoError(t, err)
	}
	require.Equal(t, 1, b.post.count())
	letter := b.post.letters[0]
	require.Equal(t, "buyer@example.com", letter.To)
	require.Equal(t, id+"@rebound.test", letter.MessageID)
	require.True(t, strings.HasPrefix(letter.Link, "https://rebound.test/pay/"))
	n := b.notification(t, id)
	require.Equal(t, store.Sent, n.Status)
	require.NotNil(t, n.SentAt)
	require.Zero(t, n.Owner)
}

// Of two attempts the older one's event may come last.
func TestAMailSpeaksOfTheNewestAttemptWhicheverCameLast(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.exec(t, `UPDATE attempts SET detail = (detail::jsonb || '{"au": 1}')::text`)
	b.exec(t, `INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object('id', 'fl_newer', 'received_at', received_at - interval '1 second',
		'detail', (detail::jsonb || '{"au": 2, "pub": "expired_card"}')::text))).* FROM attempts a`)
	b.clock.forward(time.Minute)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "expired_card", b.post.letters[0].Public.Code)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE failure_id = 'fl_newer' AND shown_code = 'expired_card'`))
}

func TestManySendersSendOneMail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	var wg sync.WaitGroup
	for range 4 {
		s := b.sender(t)
		wg.Go(func() { _, _ = s.Deliver(context.Background(), id) })
	}
	wg.Wait()
	require.Equal(t, 1, b.post.count())
}

func TestTheClaimReadsThePayment(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change string
		status string
		reason string
	}{
		"recovered":                         {`UPDATE payments SET status = 'recovered' WHERE payment_id = 'pi_1'`, store.Canceled, "recovered"},
		"pending":                           {`UPDATE payments SET status = 'pending' WHERE payment_id = 'pi_1'`, store.Held, ""},
		"the invoice was settled":           {`INSERT INTO invoices VALUES ('in_1', 'stripe', '', false, 'paid', '', 1); UPDATE payments SET invoice = 'in_1'`, store.Canceled, "superseded"},
		"a later success, same sum":         {`INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', customer, '', '', amount, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Canceled, "superseded"},
		"a later success, other sum":        {`INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', customer, '', '', 1, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Sent, ""},
		"a later success, same order":       {`UPDATE payments SET order_reference = 'order_1'; INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', '', '', order_reference, 1, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Canceled, "superseded"},
		"a later success, same invoice":     {`UPDATE payments SET invoice = 'in_1'; INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', '', invoice, '', 1, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Canceled, "superseded"},
		"an earlier success of the order":   {`UPDATE payments SET order_reference = 'order_1'; INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', '', '', order_reference, 1, currency, NULL, NULL, 0, failed_created - 60, now() FROM payments`, store.Sent, ""},
		"an earlier success of the invoice": {`UPDATE payments SET invoice = 'in_1'; INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', '', invoice, '', 1, currency, NULL, NULL, 0, failed_created - 60, now() FROM payments`, store.Sent, ""},
		"another account's later success":   {`INSERT INTO payments SELECT 'pi_2', source, 'acct_2', livemode, 'recovered', '', customer, '', '', amount, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Sent, ""},
		"the other mode's later success":    {`INSERT INTO payments SELECT 'pi_2', source, account, NOT livemode, 'recovered', '', customer, '', '', amount, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Sent, ""},
		"another provider's later success":  {`INSERT INTO payments SELECT 'pi_2', 'frame', account, livemode, 'recovered', '', customer, '', '', amount, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Sent, ""},
		"a guest's later success":           {`UPDATE payments SET customer = ''; INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', '', '', '', amount, currency, NULL, NULL, 0, failed_created + 60, now() FROM payments`, store.Sent, ""},
		"an earlier success":                {`INSERT INTO payments SELECT 'pi_2', source, account, livemode, 'recovered', '', customer, '', '', amount, currency, NULL, NULL, 0, failed_created - 60, now() FROM payments`, store.Sent, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			s := b.sender(t)
			id := b.failing(t, "pi_1", "buyer@example.com")
			for sql := range strings.SplitSeq(c.change, ";") {
				b.exec(t, sql)
			}
			b.clock.forward(time.Minute)
			_, err := s.Deliver(t.Context(), id)
			require.NoError(t, err)
			n := b.notification(t, id)
			require.Equal(t, c.status, n.Status)
			require.Equal(t, c.reason, n.Reason)
			require.Equal(t, c.status == store.Sent, b.post.count() == 1)
		})
	}
}

func TestAMailWaitsWhileTheCheckoutPageIsOpen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.exec(t, `INSERT INTO checkout_streams VALUES ('s', 'pi_1', 'stripe', '', false, $1)`, b.clock.now())
	again, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, streamRetry, again)
	b.clock.forward(time.Minute) // the heartbeat is old now
	_, err = s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, b.post.count())
}

func TestWithoutAnAddressAMailIsHeldUntilOneAppears(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "")
	b.clock.forward(time.Minute)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	n := b.notification(t, id)
	require.Equal(t, store.Held, n.Status)
	require.Equal(t, store.ReasonNoAddress, n.Reason)
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_1', 'stripe', '', false, 1, 'evt_1', true, '\x00', '', 1)`)
	require.NoError(t, s.Wake(t.Context()))
	require.Zero(t, b.count(t, `SELECT count(*) FROM river_job`), "a deleted customer's address is none")
	b.exec(t, `DELETE FROM customers`)

	require.NoError(t, b.store.PutContact(t.Context(), store.CustomerKey{CustomerID: "cus_pi_1", Source: "stripe"}, "late@example.com", "de", ""))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id))
	_, err = s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "late@example.com", b.post.letters[0].To)
	require.Equal(t, "de", b.post.letters[0].Locale)
}

func TestHeldMailEndsWhenItIsNoUseAnyMore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Mailer = nil })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.ReasonSMTPNotConfigured, b.notification(t, id).Reason)
	b.clock.forward(25 * time.Hour)
	require.NoError(t, s.Wake(t.Context()))
	n := b.notification(t, id)
	require.Equal(t, store.Suppressed, n.Status)
	require.Equal(t, store.ReasonSMTPNotConfigured, n.Reason)
	told := b.logs.FilterMessage("mails.expired").All()
	require.Len(t, told, 1, "a customer was not told: the log says so")
	require.EqualValues(t, 1, told[0].ContextMap()["mails"])
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, 1, b.logs.FilterMessage("mails.expired").Len())
}

func TestAMailIsAsOldAsTheAttemptThatItSpeaksOf(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(30 * time.Hour)
	b.exec(t, `UPDATE attempts SET received_at = $1`, b.clock.now().Add(-time.Hour))
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, store.Held, b.notification(t, id).Status)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

// A claimed mail speaks of the attempt that it was claimed for. Once its try has failed it is to speak of the newest, which may have
// come meanwhile and have its own time.
func TestAnAttemptThatComesWhileAMailIsRefusedHasItsTime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(24 * time.Hour)
	b.post.answer = func(Letter) Outcome {
		b.clock.forward(2 * time.Minute) // the day is over
		b.failsAgain(t, id, "pi_1", func() {})
		return Outcome{Result: Deferred, Code: 451}
	}
	deliver(t, s, id)
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, store.Held, b.notification(t, id).Status, "the second attempt is minutes old")
	b.post.answer = nil
	b.clock.forward(time.Hour)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

// A delivery that Stripe repeats for days may tell of an attempt before the one that the mail speaks of.
func TestALateWordOfAnOlderAttemptHoldsNoMailOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	require.Equal(t, store.ReasonNoAddress, b.notification(t, id).Reason)
	b.clock.forward(23 * time.Hour)
	b.exec(t, `INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object('id', 'fl_0', 'attempt_key', 'ch_0', 'occurred_at', occurred_at - interval '1 day',
		'received_at', $1::timestamptz))).* FROM attempts a`, b.clock.now())
	b.exec(t, `UPDATE attempts SET detail = jsonb_set(detail::jsonb, '{au}', '2')::text WHERE id = 'fl_pi_1'`)
	b.clock.forward(2 * time.Hour)
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, store.Suppressed, b.notification(t, id).Status, "to an address that came now the sender would say that it is too old")
}

// What a statement began to see may be over by the time that it has a row's lock: of the row it looks again, of other tables it does not.
func TestAMailWhosePaymentFailsAgainAsOldOnesEndIsHeldOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Second)
	id := b.failing(t, "pi_2", "reader@example.com")
	b.clock.forward(30 * time.Hour)
	// The statement stops at the first mail's attempts until the test lets it go on.
	b.exec(t, `ALTER TABLE attempts RENAME TO all_attempts`)
	b.exec(t, `CREATE FUNCTION pass(payment text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
		IF payment = 'pi_1' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN true; END $$`)
	b.exec(t, `CREATE VIEW attempts AS SELECT * FROM all_attempts WHERE pass(payment_id) OFFSET 0`)
	test, err := pgx.Connect(t.Context(), b.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = test.Close(context.Background()) })
	_, err = test.Exec(t.Context(), `SELECT pg_advisory_lock(7)`)
	require.NoError(t, err)
	woken := make(chan error, 1)
	go func() { woken <- s.Wake(context.Background()) }()
	require.Eventually(t, func() bool {
		return b.count(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
	}, 10*time.Second, 10*time.Millisecond)
	_, err = test.Exec(t.Context(), `INSERT INTO all_attempts SELECT (jsonb_populate_record(a, jsonb_build_object('id', 'fl_2', 'received_at', $1::timestamptz,
		'detail', jsonb_set(detail::jsonb, '{au}', '2')::text))).* FROM all_attempts a WHERE payment_id = 'pi_2'`, b.clock.now())
	require.NoError(t, err)
	_, err = test.Exec(t.Context(), `UPDATE notifications SET failure_id = 'fl_2' WHERE id = $1`, id)
	require.NoError(t, err)
	_, err = test.Exec(t.Context(), `SELECT pg_advisory_unlock(7)`)
	require.NoError(t, err)
	require.NoError(t, <-woken)
	require.Equal(t, store.Held, b.notification(t, id).Status)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'suppressed'`), "the one of old")
}

// The recorder has read that the mail is held when a sender claims it, and that sender waits for the recorder to say how old the mail is.
func TestAMailIsNotTooOldForAnAttemptThatCameWhileItWasClaimed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(30 * time.Hour)
	delivered := make(chan error, 1)
	b.failsAgain(t, id, "pi_1", func() {
		go func() {
			_, err := s.Deliver(context.Background(), id)
			delivered <- err
		}()
		require.Eventually(t, func() bool {
			return b.count(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
		}, 1900*time.Millisecond, time.Millisecond) // a transaction that rests for two seconds is ended
	})
	require.NoError(t, <-delivered)
	require.Equal(t, store.Held, b.notification(t, id).Status)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id))
	b.clock.forward(time.Minute) // the charge's event may still come
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

// The job that is made for it may come while that which made it is still at work, and a process has one at a time for a mail.
func TestTheJobOfAMailThatIsLookedAtAgainIsNotLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var s *Sender
	var id string
	settled := make(chan struct{})
	s = b.sender(t, func(c *Config) {
		c.Log = zap.New(zapcore.RegisterHooks(c.Log.Core(), func(e zapcore.Entry) error {
			if e.Message != "notification.suppressed" {
				return nil
			}
			defer close(settled)
			if b.count(t, `WITH due AS (DELETE FROM river_job WHERE args->>'notification_id' = $1 AND scheduled_at <= $2 RETURNING id)
				SELECT count(*) FROM due`, id, b.clock.now()) == 1 { // as River does it at once
				deliver(t, s, id)
			}
			return nil
		}))
	})
	id = b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(30 * time.Hour)
	b.exec(t, `CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		UPDATE attempts SET id = 'fl_2', received_at = NEW.updated_at WHERE payment_id = 'pi_1'; RETURN NEW; END $$`)
	b.exec(t, `CREATE TRIGGER again AFTER UPDATE ON notifications FOR EACH ROW WHEN (OLD.owner = 0 AND NEW.owner <> 0) EXECUTE FUNCTION again()`)
	deliver(t, s, id)
	<-settled
	require.Equal(t, store.Held, b.notification(t, id).Status)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id))
}

// failsAgain stores a second failed attempt of a payment, as the recorder does, and does something between reading and writing.
func (b *bench) failsAgain(t *testing.T, id, payment string, between func()) {
	t.Helper()
	k := store.PaymentKey{PaymentID: payment, Source: "stripe"}
	now := b.clock.now()
	f := store.Fact{PaymentKey: k, EventID: "evt_2_" + payment, EventType: "charge.failed", Created: now.Unix(), Object: "charge", Charge: "ch_2_" + payment,
		Customer: "cus_" + payment, Amount: 4200, Currency: "usd"}
	require.NoError(t, b.store.InIngest(context.Background(), func(in *store.Ingest) error {
		loaded, err := in.Load(context.Background(), []store.PaymentKey{k}, nil, []*store.Fact{&f}, false)
		if err != nil {
			return err
		}
		between()
		p := loaded.Payments[k]
		var mails []store.Notification
		for _, n := range p.Notifications {
			if n.ID == id {
				n.FailureID, n.UpdatedAt = "fl_2_"+payment, now
				mails = append(mails, n)
			}
		}
		return in.Save(context.Background(), store.Changes{
			Facts: loaded.NewFacts, Payments: []store.Payment{p.Payment}, Notifications: mails,
			Attempts: []store.Attempt{{ID: "fl_2_" + payment, PaymentKey: k, AttemptKey: f.Charge, Result: "failed", OccurredAt: now, ReceivedAt: now,
				PublicCode: "insufficient_funds", PublicNextStep: "use_another_payment_method", AttemptsUsed: 2}},
		})
	}))
}

func TestMoreMailsEndThanOneStatementEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.copies(t, id, 1200)
	b.clock.forward(25 * time.Hour)
	ended, err := b.store.ExpireHeld(t.Context(), 24*time.Hour)
	require.NoError(t, err)
	require.EqualValues(t, 1201, ended)
	require.Zero(t, b.count(t, `SELECT count(*) FROM notifications WHERE status = 'held'`))
}

func TestWhatTheServerSaysDecides(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		outcome Outcome
		atMost  bool
		status  string
		reason  string
		retried bool
	}{
		"accepted":                          {outcome: Outcome{Result: Accepted, Code: 250}, status: store.Sent},
		"no such mailbox":                   {outcome: Outcome{Result: RejectedAddress, Code: 550}, status: store.Failed, reason: "rejected_address:550"},
		"refused":                           {outcome: Outcome{Result: RejectedMail, Code: 554}, status: store.Failed, reason: "rejected_mail:554"},
		"not now":                           {outcome: Outcome{Result: Deferred, Code: 451}, status: store.Held, retried: true},
		"go away":                           {outcome: Outcome{Result: Paused, Code: 421}, status: store.Held, retried: true},
		"no answer to the dot":              {outcome: Outcome{Result: Undecided}, status: store.Held, retried: true},
		"no answer to the dot, at most one": {outcome: Outcome{Result: Undecided}, atMost: true, status: store.Unknown, reason: "undecided"},
		"given up before the dot":           {outcome: Outcome{Result: Abandoned}, status: store.Held, retried: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.post.answer = func(Letter) Outcome { return c.outcome }
			s := b.sender(t, func(conf *Config) { conf.AtMost = c.atMost })
			id := b.failing(t, "pi_1", "buyer@example.com")
			b.clock.forward(time.Minute)
			_, err := s.Deliver(t.Context(), id)
			require.NoError(t, err)
			n := b.notification(t, id)
			require.Equal(t, c.status, n.Status)
			require.Equal(t, c.reason, n.Reason)
			require.Zero(t, n.Owner)
			require.Equal(t, c.retried, b.count(t, `SELECT count(*) FROM river_job WHERE scheduled_at >= $1`, b.clock.now().Add(firstRetry)) == 1)
			if c.retried {
				require.GreaterOrEqual(t, n.NextTryAt.Sub(b.clock.now()), firstRetry)
				require.Equal(t, start.Add(time.Minute), n.DueAt, "how long it stays useful does not change")
			}
		})
	}
}

// deferred is a due mail and a mail server that says "not now".
func deferred(t *testing.T) (b *bench, s *Sender, id string) {
	t.Helper()
	b = setup(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Deferred, Code: 451} }
	s = b.sender(t)
	id = b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	return b, s, id
}

func TestAMailIsNotTriedAgainBeforeItsTime(t *testing.T) {
	t.Parallel()
	b, s, id := deferred(t)
	deliver(t, s, id)
	next := b.notification(t, id).NextTryAt
	b.clock.forward(next.Sub(b.clock.now()) - time.Microsecond)
	deliver(t, s, id) // by a job that was one too many
	require.Equal(t, 1, b.post.count())
	b.clock.forward(time.Microsecond)
	deliver(t, s, id)
	require.Equal(t, 2, b.post.count())
}

func TestWhatIsDecidedWhileAMailIsRefusedStands(t *testing.T) {
	t.Parallel()
	for decided, want := range map[string]string{"held": "payment_pending", "suppressed": "on_session"} {
		b, s, id := deferred(t)
		b.post.answer = func(Letter) Outcome {
			b.exec(t, `UPDATE notifications SET status = $2, reason = $3 WHERE id = $1`, id, decided, want)
			return Outcome{Result: Deferred, Code: 451}
		}
		deliver(t, s, id)
		n := b.notification(t, id)
		require.Equal(t, []string{decided, want}, []string{n.Status, n.Reason})
	}
}

func TestAMailRefusedForADayIsGivenUp(t *testing.T) {
	t.Parallel()
	b, s, id := deferred(t)
	for range 40 {
		_, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
		b.clock.forward(75 * time.Minute)
	}
	n := b.notification(t, id)
	require.Equal(t, store.Suppressed, n.Status)
	require.Equal(t, "too_old", n.Reason)
	require.Less(t, b.post.count(), 22)
}

func TestABouncedMailboxGetsNoMoreMail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: RejectedAddress, Code: 550} }
	s := b.sender(t)
	first, second := b.failing(t, "pi_1", "gone@example.com"), b.failing(t, "pi_2", "gone@example.com")
	b.clock.forward(time.Minute)
	for _, id := range []string{first, second} {
		_, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
	}
	require.Equal(t, 1, b.post.count())
	require.Equal(t, "bounced", b.notification(t, second).Reason)
}

func TestAPaymentThatEndsWhileItsMailIsUnderWayEndsItsMails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result Result
		status string
	}{"not now": {Deferred, store.Canceled}, "accepted": {Accepted, store.Sent}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.post.answer = func(Letter) Outcome {
				// as the recorder writes it
				b.exec(t, `UPDATE payments SET status = 'recovered'`)
				b.exec(t, `UPDATE notifications SET status = 'canceled', reason = 'recovered'`)
				return Outcome{Result: c.result}
			}
			s := b.sender(t, func(conf *Config) { conf.Reminders = []time.Duration{72 * time.Hour} })
			id := b.failing(t, "pi_1", "buyer@example.com")
			b.clock.forward(time.Minute)
			_, err := s.Deliver(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, c.status, b.notification(t, id).Status)
			require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications`), "no reminder of what is paid")
			require.Zero(t, b.count(t, `SELECT count(*) FROM river_job`))
		})
	}
}

func TestAnOutcomeIsWrittenDownHoweverOftenTheDatabaseFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.post.answer = func(Letter) Outcome {
		// The next two times that the outcome is written the database refuses.
		b.exec(t, `CREATE SEQUENCE tries`)
		b.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('tries') <= 2 THEN RAISE 'not now'; END IF; RETURN NEW; END $$`)
		b.exec(t, `CREATE TRIGGER refuse BEFORE UPDATE OF status ON notifications FOR EACH ROW EXECUTE FUNCTION refuse()`)
		return Outcome{Result: Accepted, Code: 250}
	}
	s := b.sender(t)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
	require.Equal(t, 1, b.post.count())
}

func TestRefusalsInARowPauseSending(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: RejectedMail, Code: 554} }
	s := b.sender(t)
	var ids []string
	for _, p := range []string{"pi_1", "pi_2", "pi_3", "pi_4", "pi_5", "pi_6"} {
		ids = append(ids, b.failing(t, p, p+"@example.com"))
	}
	b.clock.forward(time.Minute)
	for _, id := range ids[:refusalsInARow] {
		again, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
		require.Zero(t, again)
	}
	again, err := s.Deliver(t.Context(), ids[5])
	require.NoError(t, err)
	require.Equal(t, refusalPause, again)
	require.Equal(t, refusalsInARow, b.post.count())
}

func TestAPauseIsNoLongerThoughTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	ids := []string{b.failing(t, "pi_1", "one@example.com"), b.failing(t, "pi_2", "two@example.com")}
	b.clock.forward(23 * time.Hour) // the clock was ahead
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Paused, Code: 421} }
	deliver(t, s, ids[0])
	b.post.answer = nil
	b.clock.forward(-22 * time.Hour)
	again, err := s.Deliver(t.Context(), ids[1])
	require.NoError(t, err)
	require.Zero(t, again)
	require.Equal(t, store.Sent, b.notification(t, ids[1]).Status)
	b.clock.forward(22*time.Hour - time.Minute)
	require.Zero(t, s.paused(), "it is over for good, also when the clock is there again")
}

// claims has a process of its own claim a mail.
func (b *bench) claims(t *testing.T, id string) (*store.Owner, *store.Claimed) {
	t.Helper()
	owner, err := b.store.NewOwner(t.Context())
	require.NoError(t, err)
	claimed, _, err := b.store.Claim(t.Context(), owner.Number, id)
	require.NoError(t, err)
	require.NotNil(t, claimed)
	return owner, claimed
}

// ends ends it, and waits until its lock is free.
func (b *bench) ends(t *testing.T, owner *store.Owner) {
	t.Helper()
	owner.Close(t.Context())
	require.Eventually(t, func() bool { idle, err := b.store.IdleOwners(t.Context()); return err == nil && len(idle) == 1 }, 10*time.Second, 10*time.Millisecond)
}

func TestADeadProcessIsFoundThoughTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	dying, _ := b.claims(t, id)
	b.ends(t, dying)
	w := newWatch(b.sender(t))
	w.look(t.Context())
	b.clock.forward(-time.Hour)
	w.look(t.Context())
	require.Equal(t, dying.Number, b.notification(t, id).Owner)
	b.clock.forward(deadAfter)
	w.look(t.Context())
	require.Zero(t, b.notification(t, id).Owner)
}

func TestMailsThatCannotBeWrittenDoNotPauseSending(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: RejectedMail, Reason: "the account has no profile"} }
	s := b.sender(t)
	for i := range refusalsInARow {
		id := b.failing(t, fmt.Sprint("pi_", i), fmt.Sprint(i, "@example.com"))
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		require.Equal(t, store.Failed, b.notification(t, id).Status)
	}
	require.Zero(t, s.paused(), "no server has refused anything, and the others' mails can go")
}

func TestRefusalsWithAnAcceptedMailBetweenThemDoNotPauseSending(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post.answer = func(Letter) Outcome {
		if b.post.count() == refusalsInARow {
			return Outcome{Result: Accepted, Code: 250}
		}
		return Outcome{Result: RejectedMail, Code: 554}
	}
	s := b.sender(t)
	for i := range refusalsInARow + 1 {
		id := b.failing(t, fmt.Sprint("pi_", i), fmt.Sprint(i, "@example.com"))
		b.clock.forward(time.Minute)
		deliver(t, s, id)
	}
	require.Equal(t, refusalsInARow+1, b.post.count())
	require.Zero(t, s.paused())
}

func TestOneMailboxGetsNoMoreThanItsLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour} }) // a mail that is only planned does not count
	for i, p := range []string{"pi_1", "pi_2", "pi_3"} {
		id := b.failing(t, p, "Buyer@example.com")
		b.clock.forward(time.Minute)
		_, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
		if i == 2 {
			n := b.notification(t, id)
			require.Equal(t, store.Suppressed, n.Status)
			require.Equal(t, "mailbox_limit", n.Reason)
		}
	}
	require.Equal(t, 2, b.post.count())
}

func TestRemindersFollowWhileThePaymentFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour, 168 * time.Hour} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	reminder := b.store.NotificationID(store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}, store.ChannelEmail, "reminder_1", "")
	require.Equal(t, b.clock.now().Add(72*time.Hour), b.notification(t, reminder).DueAt)
	_, err = s.Deliver(t.Context(), reminder)
	require.NoError(t, err)
	require.Equal(t, 1, b.post.count())
	b.clock.forward(72 * time.Hour)
	_, err = s.Deliver(t.Context(), reminder)
	require.NoError(t, err)
	require.Equal(t, 2, b.post.count())
	require.Equal(t, "reminder_1", b.post.letters[1].Template)
	require.NotEqual(t, b.post.letters[0].MessageID, b.post.letters[1].MessageID)
}

// Whoever turns reminders off means those too that were planned before.
func TestAReminderThatIsNoLongerWantedIsNotSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	planning := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour, 168 * time.Hour} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	_, err := planning.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, b.post.count())

	one := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour} })
	deliver := func(template string) store.Notification {
		reminder := b.store.NotificationID(store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}, store.ChannelEmail, template, "")
		_, err = one.Deliver(t.Context(), reminder)
		require.NoError(t, err)
		return b.notification(t, reminder)
	}
	b.clock.forward(72 * time.Hour)
	require.Equal(t, store.Sent, deliver("reminder_1").Status)
	b.clock.forward(96 * time.Hour)
	second := deliver("reminder_2")
	require.Equal(t, 2, b.post.count())
	require.Equal(t, store.Suppressed, second.Status)
	require.Equal(t, "no_reminder", second.Reason)
}

func TestTheClaimsOfADeadProcessAreTakenOver(t *testing.T) {
	t.Parallel()
	for name, atMost := range map[string]bool{"at least once: sent again": false, "at most once: unknown": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := b.failing(t, "pi_1", "buyer@example.com")
			b.clock.forward(time.Minute)
			dying, claimed := b.claims(t, id)

			s := b.sender(t, func(c *Config) { c.AtMost = atMost })
			w := newWatch(s)
			for range 3 { // while it lives, however long it takes, nobody touches its claim
				w.look(t.Context())
				b.clock.forward(time.Hour)
			}
			require.Equal(t, dying.Number, b.notification(t, id).Owner)

			b.ends(t, dying)
			w.look(t.Context())
			b.clock.forward(deadAfter - time.Second)
			w.look(t.Context())
			require.Equal(t, dying.Number, b.notification(t, id).Owner, "neither one look is enough nor two that are close together")
			b.clock.forward(time.Second)
			w.look(t.Context())
			n := b.notification(t, id)
			require.Zero(t, n.Owner)
			if atMost {
				require.Equal(t, store.Unknown, n.Status)
				return
			}
			require.Equal(t, store.Held, n.Status)
			require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`))

			settled, err := b.store.Settle(t.Context(), dying.Number, store.Settlement{Notification: claimed.Notification})
			require.NoError(t, err)
			require.False(t, settled, "the dead process's claim is no longer its own")
		})
	}
}

func TestAMailWhoseJobWasLostIsRequeued(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	ids := []string{b.failing(t, "pi_1", "buyer@example.com"), b.failing(t, "pi_2", "buyer@example.com")}
	b.exec(t, `UPDATE notifications SET reason = 'awaits_intent' WHERE id = $1`, ids[1])
	b.clock.forward(time.Minute + overdue + time.Second)
	w := newWatch(s)
	w.look(t.Context())
	w.look(t.Context())
	for _, id := range ids {
		require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id), "once per period")
	}
}

func TestAMailWhoseMomentHasAJobIsNotRequeued(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	b.clock.forward(time.Second) // from a whole moment
	id := b.failing(t, "pi_1", "buyer@example.com")
	due := b.notification(t, id).DueAt
	b.clock.forward(time.Minute + overdue + time.Second)
	look := s.Watcher()
	for _, c := range []struct {
		until time.Time
		state string
		jobs  int
	}{
		{due.Add(time.Second), "scheduled", 1}, {due.Add(3 * time.Second), "scheduled", 2}, {due.Add(-time.Second), "scheduled", 2},
		{due.Add(time.Second), "available", 1}, {due.Add(time.Second), "retryable", 2},
	} {
		b.exec(t, `DELETE FROM river_job`)
		b.exec(t, `UPDATE notifications SET updated_at = created_at`)
		args, err := json.Marshal(job.DeliverDue{Until: c.until})
		require.NoError(t, err)
		b.exec(t, `INSERT INTO river_job (kind, args, queue, scheduled_at, state, max_attempts) VALUES ('deliver_due', $1, 'mail', $2, $3, 25)`, args, c.until, c.state)
		look(t.Context())
		require.Equal(t, c.jobs, b.count(t, `SELECT count(*) FROM river_job`), "the %s job of %s", c.state, c.until)
	}
}

func TestTheJobOfAMomentMakesOneForEachOfItsMailsThatIsStillHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	require.NoError(t, s.Start(t.Context()))
	var ids []string
	for i := range 8 { // due every half second
		ids = append(ids, b.failing(t, fmt.Sprint("pi_", i), "buyer@example.com"))
		b.clock.forward(500 * time.Millisecond)
	}
	due := job.DueWith(b.notification(t, ids[4]).DueAt)
	require.Equal(t, start.Add(time.Minute+2*time.Second), due.Until)
	require.Equal(t, due, job.DueWith(b.notification(t, ids[1]).DueAt))
	require.NotEqual(t, due, job.DueWith(b.notification(t, ids[0]).DueAt))
	b.exec(t, `UPDATE notifications SET status = 'canceled' WHERE id = $1`, ids[2])
	b.exec(t, `UPDATE notifications SET owner = 7 WHERE id = $1`, ids[3])

	require.NoError(t, (&dueWorker{sender: s}).Work(t.Context(), &river.Job[job.DeliverDue]{Args: due}))
	var made string
	require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT string_agg(args->>'notification_id', ' ' ORDER BY id) FROM river_job
		WHERE kind = 'deliver_mail' AND state = 'available'`).Scan(&made))
	require.Equal(t, ids[1]+" "+ids[4], made)
}

func TestAMomentOfMoreMailsThanOneStatementWritesHasAJobForEach(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.copies(t, id, 2500)
	require.NoError(t, b.store.QueueDue(t.Context(), job.DueWith(b.notification(t, id).DueAt)))
	require.Equal(t, 2501, b.count(t, `SELECT count(DISTINCT args->>'notification_id') FROM river_job WHERE kind = 'deliver_mail'`))
}

func TestAMailWhoseJobIsPutOffIsNotRequeued(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   time.Duration
		jobs int
	}{"while the page is open": {streamRetry, 1}, "while the server refuses": {refusalPause, 1}, "by nothing that is known": {time.Hour, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			s := b.sender(t)
			id := b.failing(t, "pi_1", "buyer@example.com")
			b.clock.forward(time.Minute + overdue + time.Second)
			b.exec(t, `INSERT INTO river_job (kind, args, queue, scheduled_at, state, max_attempts)
				VALUES ('deliver_mail', jsonb_build_object('notification_id', $1::text), 'mail', $2, 'scheduled', 25)`, id, b.clock.now().Add(c.in))
			s.Watcher()(t.Context())
			require.Equal(t, c.jobs, b.count(t, `SELECT count(*) FROM river_job`))
		})
	}
}

func TestALookAsksForTheJobsOfAFewOverdueMailsAndAllHaveTheirTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	lost := b.failing(t, "pi_1", "buyer@example.com")
	b.exec(t, `INSERT INTO notifications (id, payment_id, source, account, livemode, failure_id, channel, template, status, reason, due_at, message_id,
			customer, locale, shown_code, created_at, updated_at)
		SELECT id || i, payment_id, source, account, livemode, failure_id, channel, template, status, reason, due_at + i * interval '0.1 ms', message_id,
			customer, locale, shown_code, created_at, updated_at FROM notifications, generate_series(1, 4050) AS i`)
	b.exec(t, `INSERT INTO river_job (kind, args, queue, scheduled_at, state, max_attempts)
		SELECT 'deliver_mail', jsonb_build_object('notification_id', id), 'mail', $2, 'retryable', 25 FROM notifications WHERE id <> $1`, lost, start.Add(time.Hour))
	b.clock.forward(time.Minute + overdue + time.Second)
	look := s.Watcher()
	jobs := func() int {
		return b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, lost)
	}
	for range 2 {
		look(t.Context())
		require.Zero(t, jobs(), "it is the last of 4051")
		b.clock.forward(lookEvery)
	}
	for range 5 {
		look(t.Context())
		require.Equal(t, 1, jobs())
		b.clock.forward(lookEvery)
	}
	require.Equal(t, 4051, b.count(t, `SELECT count(*) FROM river_job`))
}

func TestASenderThatLostItsLockDropsTheMailBeforeTheDot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.post.answer = func(l Letter) Outcome {
		_, err := b.store.Pool().Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2`)
		require.NoError(t, err)
		if errors.Is(l.BeforeDot(context.Background()), store.ErrOwnerLost) {
			return Outcome{Result: Abandoned}
		}
		return Outcome{Result: Accepted}
	}
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.NotEqual(t, store.Sent, b.notification(t, id).Status)
}

func TestAWishForALanguageWithoutTextsIsCountedAndMetByTheDefault(t *testing.T) {
	t.Parallel()
	for wish, c := range map[string]struct {
		locale  string
		counted float64
	}{"fr-CA": {"fr", 0}, "": {"de", 0}, "tlh": {"de", 1}, "en": {"en", 0}} {
		metrics := prometheus.NewRegistry()
		s := NewSender(Config{AccountLocales: map[string]string{"acct_1": "de"}, Metrics: metrics})
		require.Equal(t, c.locale, s.localeFor(wish, "acct_1"), wish)
		families, err := metrics.Gather()
		require.NoError(t, err)
		require.Len(t, families, 1, "only the plain counter shows before it is used")
		require.Equal(t, c.counted, families[0].GetMetric()[0].GetCounter().GetValue(), wish)
	}
}

func TestNoAddressIsEverLogged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "very.secret@example.com")
	b.clock.forward(time.Minute)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.NotZero(t, b.logs.Len())
	for _, line := range b.logs.All() {
		for key, value := range line.ContextMap() {
			require.NotContains(t, key+": "+toText(value), "secret")
		}
	}
}

func toText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return ""
}

func TestOnlyItsOwnerGivesAClaimBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	claimed, _, err := b.store.Claim(t.Context(), 7, id)
	require.NoError(t, err)
	require.NotNil(t, claimed)
	require.NoError(t, b.store.Release(t.Context(), 8, id))
	require.EqualValues(t, 7, b.notification(t, id).Owner)
	require.NoError(t, b.store.Release(t.Context(), 7, id))
	require.Zero(t, b.notification(t, id).Owner)
	claimed, _, err = b.store.Claim(t.Context(), 8, id)
	require.NoError(t, err)
	require.NotNil(t, claimed)
}

// losingCommit is the store by a way that, once told to, breaks with the news of the next commit.
func (b *bench) losingCommit(t *testing.T) (through *store.Store, lose *atomic.Bool) {
	t.Helper()
	config, err := pgx.ParseConfig(b.dsn)
	require.NoError(t, err)
	network, target := pgconn.NetworkAddress(config.Host, config.Port)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	lose = new(atomic.Bool)
	carry := func(near, far net.Conn) {
		defer near.Close()
		defer far.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := far.Read(buf)
			if err != nil || bytes.Contains(buf[:n], []byte("COMMIT\x00")) && lose.CompareAndSwap(true, false) {
				return
			}
			if _, err = near.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(network, target)
			if err != nil {
				_ = near.Close()
				continue
			}
			go carry(near, far)
			go carry(far, near)
		}
	}()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password), Host: listener.Addr().String(), Path: config.Database, RawQuery: "sslmode=disable"}
	through, err = store.Open(t.Context(), store.Config{DSN: u.String(), Keys: b.keys, MaxConns: 2, Now: b.clock.now})
	require.NoError(t, err)
	t.Cleanup(through.Close)
	return through, lose
}

func TestAClaimOfWhichTheAnswerWasLostIsGivenBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	through, lose := b.losingCommit(t)
	s := b.sender(t, func(c *Config) { c.Store = through })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	lose.Store(true)
	_, err := s.Deliver(t.Context(), id)
	require.ErrorContains(t, err, "claiming")
	require.Zero(t, b.notification(t, id).Owner)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestASecondJobOfAMailLeavesItToTheFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	b.post.answer = func(Letter) Outcome {
		again, err := s.Deliver(ended, id) // it would give back what it could not claim
		require.NoError(t, err)
		require.Zero(t, again)
		return Outcome{Result: Accepted}
	}
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, b.post.count())
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestAnErrorAfterADeferralMakesNoJobOfItsOwn(t *testing.T) {
	t.Parallel()
	b, s, id := deferred(t)
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`))
	b.clock.forward(time.Hour)
	b.exec(t, `UPDATE facts SET contact = '\x00'::bytea`) // an address that no key opens
	for range 3 {
		_, err = s.Deliver(t.Context(), id)
		require.Error(t, err)
	}
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`), "the queue repeats the failed job itself")
}

// Postgres ends the session that holds the process's lock while the mail server takes its time to answer the dot, and later
// the one that took the lock again.
func TestALostSessionDoesNotDoubleTheMailOfALivingProcess(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, other := b.sender(t), b.sender(t)
	require.NoError(t, s.Start(t.Context()))
	number := s.owner.Number
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	look, othersLook := s.Watcher(), other.Watcher()
	taken := false
	b.post.answer = func(l Letter) Outcome {
		if taken {
			return Outcome{Result: Accepted, Code: 250}
		}
		taken = true
		require.NoError(t, l.BeforeDot(t.Context()))
		for round := range 20 {
			if round%8 == 0 {
				b.loseLock(t, number)
			}
			othersLook(t.Context())
			look(t.Context())
			require.Equal(t, 1, b.locks(t, number))
			b.clock.forward(lookEvery)
		}
		require.ErrorIs(t, l.BeforeDot(t.Context()), store.ErrOwnerLost, "somebody could have taken the mail over in between")
		return Outcome{Result: Accepted, Code: 250}
	}
	for range 30 { // the jobs that a look would have made
		for _, s := range []*Sender{s, other} {
			_, err := s.Deliver(t.Context(), id)
			require.NoError(t, err)
		}
		othersLook(t.Context())
		look(t.Context())
		b.clock.forward(lookEvery)
	}
	require.Equal(t, store.Sent, b.notification(t, id).Status)
	require.Equal(t, 1, b.post.count(), "mails that left")
	b.unlocked(t, number)
}

// locks counts the sessions that hold the lock on a process's number.
func (b *bench) locks(t *testing.T, number int64) int {
	t.Helper()
	return b.count(t, `SELECT count(*) FROM pg_locks WHERE `+lockOf, number)
}

const lockOf = `locktype = 'advisory' AND objsubid = 2 AND granted AND objid = $1::bigint::oid
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// unlocked waits until Postgres has freed it.
func (b *bench) unlocked(t *testing.T, number int64) {
	t.Helper()
	require.Eventually(t, func() bool { return b.locks(t, number) == 0 }, 10*time.Second, 10*time.Millisecond)
}

func (b *bench) loseLock(t *testing.T, number int64) {
	t.Helper()
	b.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE `+lockOf, number)
	b.unlocked(t, number)
}

func TestStopGivesBackTheLockOfAMailInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	require.NoError(t, s.Start(t.Context()))
	number := s.owner.Number
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	look := s.Watcher()
	b.post.answer = func(Letter) Outcome {
		b.loseLock(t, number)
		look(t.Context())
		require.Equal(t, 1, b.locks(t, number))
		s.Stop(t.Context())
		b.unlocked(t, number)
		for range 10 { // its own looks neither take the lock again nor the claim over
			look(t.Context())
			require.Zero(t, b.locks(t, number))
			require.Equal(t, number, b.notification(t, id).Owner)
			b.clock.forward(lookEvery)
		}
		return Outcome{Result: Accepted, Code: 250}
	}
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
	require.Equal(t, 1, b.post.count())
}

func TestNoReminderFollowsAMailWhoseCustomerIsErasedWhileItIsSent(t *testing.T) {
	t.Parallel()
	for _, erased := range []bool{false, true} {
		b := setup(t)
		s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour} })
		id := b.failing(t, "pi_1", "buyer@example.com")
		b.clock.forward(time.Minute)
		b.post.answer = func(Letter) Outcome {
			if erased {
				_, err := b.store.Erase(context.Background(), store.Erasure{Customer: "cus_pi_1"})
				require.NoError(t, err)
			}
			return Outcome{Result: Accepted}
		}
		_, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, store.Sent, b.notification(t, id).Status)
		named := b.count(t, `SELECT count(*) FROM notifications WHERE customer = 'cus_pi_1'`)
		if erased {
			require.Zero(t, named)
			require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications`))
			continue
		}
		require.Equal(t, 2, named)
	}
}

// The payment itself goes on failing; a reminder would stand as held until it is due, and be canceled then.
func TestNoReminderFollowsAMailWhoseInvoiceIsSettledWhileItIsSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.post.answer = func(Letter) Outcome {
		b.exec(t, `UPDATE notifications SET status = 'canceled', reason = 'superseded' WHERE id = $1`, id) // as the recorder writes it
		return Outcome{Result: Accepted}
	}
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM notifications`))
}

// A further event may bar the payment's mails while its first is out: that one cannot be had back, the others are not to follow.
func TestNoReminderFollowsAMailThatIsBarredWhileItIsSent(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]int{"": 2, "on_session": 2, "no_contact": 1, "billing_by_stripe": 1, "no_account_profile": 1} {
		b := setup(t)
		s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour} })
		id := b.failing(t, "pi_1", "buyer@example.com")
		b.clock.forward(time.Minute)
		b.post.answer = func(Letter) Outcome {
			if reason != "" {
				b.exec(t, `UPDATE notifications SET status = 'suppressed', reason = $2 WHERE id = $1`, id, reason)
			}
			return Outcome{Result: Accepted}
		}
		deliver(t, s, id)
		require.Equal(t, store.Sent, b.notification(t, id).Status)
		require.Equal(t, want, b.count(t, `SELECT count(*) FROM notifications`), reason)
	}
}

// deliver does what a mail's job does.
func deliver(t *testing.T, s *Sender, id string) {
	t.Helper()
	_, err := s.Deliver(t.Context(), id)
	require.NoError(t, err)
}

func TestAMailOfWhichNoServerSaysThatItHasItIsSentFourTimesAtMost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Deferred, Code: 451} }
	for range 5 { // such tries reach nobody
		deliver(t, s, id)
		b.clock.forward(longestRetry)
	}
	tried := b.post.count()
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Undecided} }
	for range 10 {
		deliver(t, s, id)
		b.clock.forward(longestRetry + longestRetry/4)
	}
	require.Equal(t, mostUndecided, b.post.count()-tried)
	n := b.notification(t, id)
	require.Equal(t, store.Unknown, n.Status)
	require.Equal(t, "undecided", n.Reason)
}

// dies has a process claim a mail, come as far as the mail server, and end there.
func (b *bench) dies(t *testing.T, w *watch, id string) (claimed bool, token string) {
	t.Helper()
	dying, err := b.store.NewOwner(t.Context())
	require.NoError(t, err)
	c, _, err := b.store.Claim(t.Context(), dying.Number, id)
	require.NoError(t, err)
	if c != nil {
		c.Notification.Mailbox = b.store.HashMailbox("buyer@example.com")
		require.NoError(t, b.store.Budget(t.Context(), dying.Number, &c.Notification, func(store.Use) bool { return true }))
		token, err = b.store.NewLink(t.Context(), id, b.clock.now().Add(time.Hour))
		require.NoError(t, err)
	}
	dying.Close(t.Context())
	require.Eventually(t, func() bool {
		idle, err := b.store.IdleOwners(t.Context())
		return err == nil && (c == nil || len(idle) == 1)
	},
		10*time.Second, 10*time.Millisecond)
	w.look(t.Context())
	b.clock.forward(deadAfter)
	w.look(t.Context())
	return c != nil, token
}

func TestAMailWhoseSendersDieOneAfterAnotherIsSentFourTimesAtMost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w := newWatch(b.sender(t))
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	tried := 0
	for range mostUndecided + 2 {
		if claimed, _ := b.dies(t, w, id); claimed {
			tried++
		}
	}
	require.Equal(t, mostUndecided, tried)
	n := b.notification(t, id)
	require.Equal(t, store.Unknown, n.Status)
	require.Equal(t, "sender_died", n.Reason)
}

func TestTheLinkOfAMailWhoseSenderDiedUnsubscribes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	_, token := b.dies(t, newWatch(s), id)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Deferred, Code: 451} }
	deliver(t, s, id)
	l, err := b.store.Link(t.Context(), token)
	require.NoError(t, err)
	require.NotEmpty(t, l.Mailbox, "the mail may have arrived")
}

// Its customer may open it before its outcome is written down, or where its sender died before that.
func TestTheLinkOfAMailHasItsLanguageFromTheStart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.AccountLocales = map[string]string{"": "de"} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	var opened store.Link
	b.post.answer = func(l Letter) Outcome {
		var err error
		opened, err = b.store.Link(t.Context(), strings.TrimPrefix(l.Link, "https://rebound.test/pay/"))
		require.NoError(t, err)
		return Outcome{Result: Accepted, Code: 250}
	}
	deliver(t, s, id)
	require.Equal(t, "de", b.post.letters[0].Locale)
	require.Equal(t, "de", opened.Locale)
}

func TestTheLinkOfAMailThatMayHaveArrivedUnsubscribes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	mailbox := func() []byte {
		l, err := b.store.Link(t.Context(), strings.TrimPrefix(b.post.letters[0].Link, "https://rebound.test/pay/"))
		require.NoError(t, err)
		return l.Mailbox
	}
	for _, next := range []Outcome{{Result: Undecided}, {Result: Deferred, Code: 451}} {
		b.post.answer = func(Letter) Outcome { return next }
		deliver(t, s, id)
		require.NotEmpty(t, mailbox(), "after %s", next.Result)
		b.clock.forward(longestRetry)
	}
	deliver(t, b.sender(t, func(c *Config) { c.Limits.PerDay = 0 }), id)
	require.Equal(t, store.ReasonDailyLimit, b.notification(t, id).Reason)
	require.NotEmpty(t, mailbox())
}

func TestAMailsJobThatFailedOftenComesAgainSoon(t *testing.T) {
	t.Parallel()
	b := setup(t)
	next := (&deliverWorker{sender: b.sender(t)}).NextRetry(&river.Job[job.DeliverMail]{})
	require.WithinDuration(t, b.clock.now(), next, 10*time.Minute, "the look for lost mails passes over it until then")
}

func TestAPanicOfTheMailerIsNoAnswerAndItsMailIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.post.answer = func(l Letter) Outcome { panic("a defect about " + l.To) }
	deliver(t, s, id)
	told := b.logs.FilterMessage("mailer.panicked").All()
	require.Len(t, told, 1)
	require.Contains(t, told[0].ContextMap()["stack"], "sender_test.go", "it says where")
	require.NotContains(t, fmt.Sprint(b.logs.All()), "buyer@")
	n := b.notification(t, id)
	require.Equal(t, store.Held, n.Status)
	require.Zero(t, n.Owner)
	b.post.answer = nil
	b.clock.forward(longestRetry)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestALookThatFailedDoesNotCountAgainstALivingProcess(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, other := b.sender(t), b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	look := other.Watcher()
	b.post.answer = func(Letter) Outcome { // the mail is with the server, past its dot
		b.loseLock(t, s.owner.Number)
		look(t.Context()) // finds the lock free
		away, cancel := context.WithCancel(context.Background())
		cancel()
		b.clock.forward(deadAfter)
		look(away)        // Postgres is away
		look(t.Context()) // it is back, and this process is the first to ask
		return Outcome{Result: Accepted, Code: 250}
	}
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status, "taken over, it would be sent twice")
}

func TestAProcessThatWaitsForANewNumberKeepsTheLockOfItsMailInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, other := b.sender(t), b.sender(t)
	first, second := b.failing(t, "pi_1", "buyer@example.com"), b.failing(t, "pi_2", "visitor@example.com")
	b.clock.forward(time.Minute)
	blocker, err := pgx.Connect(t.Context(), b.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = blocker.Close(context.Background()) })
	b.post.answer = func(Letter) Outcome { // past its dot
		_, err := blocker.Exec(t.Context(), `BEGIN; ALTER SEQUENCE owner_numbers CACHE 1`)
		require.NoError(t, err)
		b.loseLock(t, s.owner.Number)
		waiting, giveUp := context.WithTimeout(t.Context(), 10*time.Second)
		defer giveUp()
		var work sync.WaitGroup
		work.Go(func() { _, _ = s.Deliver(waiting, second) })
		require.Eventually(t, func() bool {
			return b.count(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%nextval%' AND datname = current_database()`) == 1
		}, 10*time.Second, 10*time.Millisecond)
		s.Watcher()(t.Context()) // takes the lock again
		require.NoError(t, waiting.Err(), "not when the new number is there")
		look := other.Watcher()
		look(t.Context())
		b.clock.forward(deadAfter)
		look(t.Context())
		giveUp()
		work.Wait()
		return Outcome{Result: Accepted, Code: 250}
	}
	deliver(t, s, first)
	require.Equal(t, store.Sent, b.notification(t, first).Status, "taken over, it would be sent twice")
}

func TestAMailWaitsForTheWordOfItsAttemptsCharge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.exec(t, `UPDATE attempts SET detail = jsonb_set(detail::jsonb, '{aw}', 'true')::text, received_at = $1`, b.clock.now().Add(-time.Second))
	deliver(t, s, id)
	n := b.notification(t, id)
	require.Equal(t, store.Held, n.Status)
	require.Zero(t, n.Tries)
	require.Equal(t, decline.ChargeWindow-time.Second, n.NextTryAt.Sub(b.clock.now()))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1 AND scheduled_at = $2`, id, n.NextTryAt))
	b.clock.forward(decline.ChargeWindow)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestAHoldShorterThanTheWaitForAChargeDoesNotShortenIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.exec(t, `UPDATE notifications SET due_at = $1`, start.Add(2*time.Second))
	b.exec(t, `UPDATE attempts SET detail = jsonb_set(detail::jsonb, '{aw}', 'true')::text`)
	b.clock.forward(2 * time.Second)
	deliver(t, s, id)
	n := b.notification(t, id)
	require.Equal(t, store.Held, n.Status)
	require.Equal(t, start.Add(decline.ChargeWindow), n.NextTryAt.UTC())
}

// The hold never restarts, so a later attempt's mail is due with the first event of it, of which the other may say that the
// customer was at the page.
func TestALaterAttemptsMailWaitsForItsTwinEvent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ hold, waits time.Duration }{
		"a hold as it is in production": {time.Minute, decline.ChargeWindow},
		"a hold of two seconds":         {2 * time.Second, 2 * time.Second},
		"no hold":                       {0, 0},
	} {
		b := setup(t)
		s := b.sender(t)
		id := b.failing(t, "pi_1", "buyer@example.com")
		b.exec(t, `UPDATE notifications SET due_at = $1`, start.Add(c.hold))
		b.clock.forward(2 * time.Hour)
		b.exec(t, `UPDATE attempts SET received_at = $1`, b.clock.now())
		if c.waits > 0 {
			deliver(t, s, id)
			n := b.notification(t, id)
			require.Equal(t, store.Held, n.Status, name)
			require.Equal(t, c.waits, n.NextTryAt.Sub(b.clock.now()), name)
			b.clock.forward(c.waits)
		}
		deliver(t, s, id)
		require.Equal(t, store.Sent, b.notification(t, id).Status, name)
		require.Equal(t, 1, b.post.count(), name)
	}
}

func TestAClaimWhoseCommitIsUnderWayIsGivenBackOnceItIsThere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	claim, err := b.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = claim.Rollback(context.Background()) }()
	_, err = claim.Exec(t.Context(), `UPDATE notifications SET owner = 7, tries = 1 WHERE id = $1`, id)
	require.NoError(t, err)
	var work errgroup.Group
	work.Go(func() error { return b.store.Release(t.Context(), 7, id) })
	require.Eventually(t, func() bool {
		return b.count(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, claim.Commit(t.Context()))
	require.NoError(t, work.Wait())
	n := b.notification(t, id)
	require.Zero(t, n.Owner)
	require.Zero(t, n.Tries)
}

func TestALookThatHangsIsGivenUpSoThatTheNextKeepsTheLocks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Hour) // overdue, and without a job
	blocker, err := pgx.Connect(t.Context(), b.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = blocker.Close(context.Background()) })
	_, err = blocker.Exec(t.Context(), `BEGIN; LOCK TABLE river_job`)
	require.NoError(t, err)
	w := newWatch(b.sender(t))
	w.patience = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w.look(ctx)
	require.NoError(t, ctx.Err())
}

func TestWhatIsNoAddressGivesWayToTheNext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	other, none := b.failing(t, "pi_1", "receipt@example.com"), b.failing(t, "pi_2", "none")
	for _, customer := range []string{"cus_pi_1", "cus_pi_2"} {
		require.NoError(t, b.store.PutContact(t.Context(), store.CustomerKey{CustomerID: customer, Source: "stripe"}, "n/a", "", ""))
	}
	b.clock.forward(time.Minute)
	deliver(t, s, other)
	deliver(t, s, none)
	require.Equal(t, store.Sent, b.notification(t, other).Status)
	require.Equal(t, 1, b.post.count())
	require.Equal(t, "receipt@example.com", b.post.letters[0].To)
	require.Equal(t, "invalid_address", b.notification(t, none).Reason)
}

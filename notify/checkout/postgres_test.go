package checkout_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/notify/checkout"
	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// tables fits the store to the hub, as cmd does, and tells the test what the listener hears.
type tables struct {
	*store.Store
	listening chan struct{}
	notified  chan string
}

func (t tables) Secrets(ctx context.Context, ids []string) ([]checkout.Secret, error) {
	found, err := t.ClientSecrets(ctx, ids)
	return each(found, func(c store.ClientSecret) checkout.Secret {
		return checkout.Secret{Key: checkout.Key(c.PaymentKey), Hash: c.Hash}
	}), err
}

func (t tables) States(ctx context.Context, keys []checkout.Key) ([]checkout.State, error) {
	found, err := t.CheckoutStates(ctx, each(keys, func(k checkout.Key) store.PaymentKey { return store.PaymentKey(k) }))
	return each(found, func(c store.CheckoutState) checkout.State {
		return checkout.State{
			Key: checkout.Key(c.PaymentKey), Status: c.Status, PaymentIntent: c.PaymentIntent, AttemptID: c.AttemptID,
			Public: c.Public, AwaitsCharge: c.AwaitsCharge, Age: t.Now().Sub(c.ReceivedAt), Locale: c.Locale,
		}
	}), err
}

func (t tables) Keep(ctx context.Context, streams []checkout.Presence) error {
	return t.KeepCheckoutStreams(ctx, each(streams, func(p checkout.Presence) store.CheckoutStream {
		return store.CheckoutStream{ID: p.ID, PaymentKey: store.PaymentKey(p.Key)}
	}))
}

func (t tables) Drop(ctx context.Context, ids []string) error { return t.DropCheckoutStreams(ctx, ids) }

func (t tables) Sweep(ctx context.Context, age time.Duration) error {
	return t.SweepCheckoutStreams(ctx, age)
}

func (t tables) MarkShown(ctx context.Context, shown []checkout.Shown) error {
	return t.MarkCheckoutShown(ctx, each(shown, func(s checkout.Shown) store.CheckoutShown {
		return store.CheckoutShown{
			PaymentKey: store.PaymentKey(s.Key), AttemptID: s.AttemptID, Code: s.Code, Locale: s.Locale, At: s.At,
		}
	}))
}

func (t tables) Listen(ctx context.Context, onNews func(string), onListening func()) {
	t.Store.Listen(ctx, func(payload string) {
		onNews(payload)
		t.notified <- payload
	}, func() {
		onListening()
		t.listening <- struct{}{}
	})
}

func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}

// receive takes what must come, and does not wait for ever.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		require.True(t, ok, "it has ended")
		return v
	case <-time.After(time.Minute):
		require.FailNow(t, "nothing came within a minute")
		panic("unreachable")
	}
}

// database is one database and a connection to look into it.
type database struct {
	t    *testing.T
	dsn  string
	key  string
	pool *pgxpool.Pool
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	d := &database{t: t, dsn: storetest.New(t), key: seal.GenerateKey()}
	d.pool = d.open().Pool()
	return d
}

func (d *database) open() *store.Store {
	d.t.Helper()
	keys, err := seal.ParseKeys(d.key)
	require.NoError(d.t, err)
	s, err := store.Open(d.t.Context(), store.Config{DSN: d.dsn, Keys: keys, MaxConns: 4, Log: zap.NewNop()})
	require.NoError(d.t, err)
	d.t.Cleanup(s.Close)
	return s
}

// insert writes a row; the columns that are not named are empty.
func (d *database) insert(table string, values map[string]any) {
	d.t.Helper()
	rows, err := d.pool.Query(d.t.Context(), `SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns
		WHERE table_schema = 'public' AND table_name = $1`, table)
	require.NoError(d.t, err)
	var names, places []string
	var args []any
	var name, kind string
	var nullable bool
	empty := map[string]any{"text": "", "bigint": 0, "boolean": false, "timestamp with time zone": time.Now()}
	_, err = pgx.ForEachRow(rows, []any{&name, &kind, &nullable}, func() error {
		value, given := values[name]
		if !given && nullable {
			return nil
		}
		if !given {
			value = empty[kind]
		}
		if detail, ok := value.(map[string]any); ok {
			text, err := json.Marshal(detail)
			require.NoError(d.t, err)
			value = string(text)
		}
		args = append(args, value)
		names = append(names, name)
		places = append(places, "$"+strconv.Itoa(len(args)))
		return nil
	})
	require.NoError(d.t, err)
	_, err = d.pool.Exec(d.t.Context(), "INSERT INTO "+table+" ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(places, ", ")+")", args...)
	require.NoError(d.t, err)
}

func keyed(k store.PaymentKey, values map[string]any) map[string]any {
	all := map[string]any{"payment_id": k.PaymentID, "source": k.Source, "account": k.Account, "livemode": k.Livemode}
	for name, v := range values {
		all[name] = v
	}
	return all
}

// paid is the key of payment as the store has it.
var paid = store.PaymentKey(payment)

// payment writes a payment whose secret an event has told.
func (d *database) payment(k store.PaymentKey, status string, secretHash []byte) {
	d.insert("payments", keyed(k, map[string]any{"status": status, "payment_intent": k.PaymentID, "client_secret_hash": secretHash}))
}

// attempt writes a failed attempt with the verdict of a decline code.
func (d *database) attempt(k store.PaymentKey, id, declineCode string, at time.Time) {
	public := decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: declineCode}).Public
	d.insert("attempts", keyed(k, map[string]any{
		"id": id, "result": "failed", "occurred_at": at, "detail": map[string]any{
			"au": at.UnixMilli(), "pub": public.Code, "pnx": public.NextStep, "pfi": public.Field, "pre": public.RetrySameMethod,
		},
	}))
}

func (d *database) notify(paymentID string) {
	_, err := d.pool.Exec(d.t.Context(), `SELECT pg_notify($1, $2)`, store.CheckoutChannel, paymentID)
	require.NoError(d.t, err)
}

func (d *database) streams() []string {
	rows, err := d.pool.Query(context.WithoutCancel(d.t.Context()), `SELECT id FROM checkout_streams`)
	require.NoError(d.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(d.t, err)
	return ids
}

func (d *database) presence() int { return len(d.streams()) }

// replica is one process: a store, a hub and an HTTP server.
type replica struct {
	t *testing.T
	tables
	server *httptest.Server
}

func (d *database) replica(origins ...string) *replica {
	d.t.Helper()
	s := d.open()
	r := &replica{t: d.t, tables: tables{s, make(chan struct{}, 10), make(chan string, 100)}}
	hub := checkout.New(checkout.Config{Store: r.tables, Hash: s.HashClientSecret, Origins: origins, Now: time.Now, Log: zap.NewNop()})
	e := echo.New()
	hub.Register(e)
	r.server = httptest.NewServer(e)
	ctx, cancel := context.WithCancel(d.t.Context())
	var running sync.WaitGroup
	running.Go(func() { hub.Run(ctx) })
	d.t.Cleanup(func() {
		cancel()
		running.Wait()
		r.server.Close()
	})
	receive(d.t, r.listening)
	return r
}

func (r *replica) listen(clientSecret string) *reader {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.server.URL+checkout.EventsPath, nil)
	require.NoError(r.t, err)
	req.Header.Set("Authorization", "Bearer "+clientSecret)
	res, err := r.server.Client().Do(req)
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, res.StatusCode)
	stream := read(res)
	r.t.Cleanup(stream.close)
	return stream
}

func TestEveryReplicaTellsItsStreams(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	a, b := d.replica(), d.replica()
	now := time.Now()
	d.payment(paid, "failing", a.HashClientSecret(secret))
	d.attempt(paid, "fl_1", "insufficient_funds", now)
	ra, rb := a.listen(secret), b.listen(secret)
	first := receive(t, ra.news)
	require.Equal(t, "insufficient_funds", codeOf(t, first))
	require.Equal(t, first, receive(t, rb.news))
	require.Equal(t, 2, d.presence())

	d.attempt(paid, "fl_2", "expired_card", now.Add(time.Second))
	d.notify(paid.PaymentID)
	require.Equal(t, paid.PaymentID, receive(t, a.notified))
	require.Equal(t, paid.PaymentID, receive(t, b.notified))
	second := receive(t, ra.news)
	require.Equal(t, "expired_card", codeOf(t, second))
	require.Equal(t, second, receive(t, rb.news))

	_, err := d.pool.Exec(t.Context(), `UPDATE payments SET status = 'recovered'`)
	require.NoError(t, err)
	d.notify(paid.PaymentID)
	require.Equal(t, "payment_succeeded", receive(t, ra.news).Event)
	require.Equal(t, "payment_succeeded", receive(t, rb.news).Event)

	ra.close()
	require.Eventually(t, func() bool { return d.presence() == 1 }, 10*time.Second, 10*time.Millisecond)
}

func TestAStreamOpenedBeforeTheFirstEventIsConfirmedByIt(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	a := d.replica()
	right, wrong := a.listen(secret), a.listen("pi_1_secret_wrong")
	require.Zero(t, d.presence())
	d.payment(paid, "failing", a.HashClientSecret(secret))
	d.attempt(paid, "fl_1", "insufficient_funds", time.Now())
	require.Equal(t, "insufficient_funds", codeOf(t, receive(t, right.news)))
	_, told := <-wrong.news
	require.False(t, told)
	require.True(t, wrong.over())
}

func TestAListenerWhoseSessionIsKilledListensAgainAndCatchesUp(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	a := d.replica()
	d.payment(paid, "failing", a.HashClientSecret(secret))
	d.attempt(paid, "fl_1", "insufficient_funds", time.Now())
	r := a.listen(secret)
	receive(t, r.news)

	var killed int
	require.NoError(t, d.pool.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'LISTEN %'`).Scan(&killed))
	require.Equal(t, 1, killed)
	d.attempt(paid, "fl_2", "expired_card", time.Now().Add(time.Second)) // and nobody hears of it
	receive(t, a.listening)
	require.Equal(t, "expired_card", codeOf(t, receive(t, r.news)))
	d.attempt(paid, "fl_3", "incorrect_cvc", time.Now().Add(2*time.Second))
	d.notify(paid.PaymentID)
	require.Equal(t, paid.PaymentID, receive(t, a.notified))
	require.Equal(t, "incorrect_cvc", codeOf(t, receive(t, r.news)))
}

func TestWhatAStreamShowedIsRecordedOnItsNotification(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	a := d.replica()
	d.payment(paid, "failing", a.HashClientSecret(secret))
	d.attempt(paid, "fl_1", "fraudulent", time.Now())
	for id, channel := range map[string]string{"nt_1": "checkout", "nt_2": "email", "nt_3": "checkout"} {
		d.insert("notifications", keyed(paid, map[string]any{"id": id, "failure_id": "fl_1", "channel": channel, "status": "held"}))
	}
	_, err := d.pool.Exec(t.Context(), `UPDATE notifications SET failure_id = 'fl_0' WHERE id = 'nt_3'`)
	require.NoError(t, err)
	receive(t, a.listen(secret).news)
	read := func() (rows []string) {
		found, err := d.pool.Query(t.Context(), `SELECT concat_ws(' ', id, status, shown_code, locale, sent_at IS NOT NULL) FROM notifications ORDER BY id`)
		require.NoError(t, err)
		rows, err = pgx.CollectRows(found, pgx.RowTo[string])
		require.NoError(t, err)
		return rows
	}
	require.Eventually(t, func() bool { return strings.Contains(read()[0], "sent") }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, []string{"nt_1 sent generic_decline en t", "nt_2 held   f", "nt_3 held   f"}, read())
}

// It is not parallel: it looks at all goroutines of the process.
func TestAHubThatEndsLeavesNothingBehind(t *testing.T) { //nolint:paralleltest // see above
	d := newDatabase(t)
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { // after those of the replica
		require.Zero(t, d.presence())
		goleak.VerifyNone(t, before)
	})
	a := d.replica()
	d.payment(paid, "failing", a.HashClientSecret(secret))
	d.attempt(paid, "fl_1", "insufficient_funds", time.Now())
	for range 3 {
		receive(t, a.listen(secret).news)
	}
	require.Equal(t, 3, d.presence())
}

func TestTheNewestFailedAttemptIsTheState(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	s := d.open()
	now := time.Now().UTC().Truncate(time.Second)
	theirs := paid
	theirs.Account = "acct_1"
	none := paid
	none.PaymentID = "pi_none"
	silent := paid
	silent.PaymentID = "pi_silent"
	d.payment(paid, "failing", []byte("a"))
	d.payment(theirs, "pending", []byte("b"))
	d.payment(silent, "failing", nil)
	d.attempt(paid, "fl_b", "insufficient_funds", now)
	d.attempt(paid, "fl_c", "incorrect_cvc", now.Add(time.Millisecond)) // the later one of this second
	d.attempt(paid, "fl_d", "expired_card", now.Add(-time.Hour))
	d.attempt(theirs, "fl_z", "expired_card", now.Add(time.Hour))
	d.insert("attempts", keyed(paid, map[string]any{"id": "fl_s", "result": "succeeded", "occurred_at": now.Add(time.Hour)}))
	_, err := d.pool.Exec(t.Context(), `UPDATE attempts SET received_at = $1, detail = (detail::jsonb || '{"aw": true, "lo": "fr"}')::text WHERE id = 'fl_c'`, now)
	require.NoError(t, err)

	states, err := s.CheckoutStates(t.Context(), []store.PaymentKey{paid, theirs, none, silent})
	require.NoError(t, err)
	require.Len(t, states, 3)
	byKey := map[store.PaymentKey]store.CheckoutState{}
	for _, c := range states {
		c.ReceivedAt = c.ReceivedAt.UTC()
		byKey[c.PaymentKey] = c
	}
	require.Equal(t, store.CheckoutState{
		PaymentKey: paid, Status: "failing", PaymentIntent: "pi_1", AttemptID: "fl_c",
		Public:       decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "incorrect_cvc"}).Public,
		AwaitsCharge: true, ReceivedAt: now, Locale: "fr",
	}, byKey[paid])
	require.Equal(t, "fl_z", byKey[theirs].AttemptID)
	require.Empty(t, byKey[silent].AttemptID)

	secrets, err := s.ClientSecrets(t.Context(), []string{"pi_1", "pi_none", "pi_silent"})
	require.NoError(t, err)
	require.ElementsMatch(t, []store.ClientSecret{{PaymentKey: paid, Hash: []byte("a")}, {PaymentKey: theirs, Hash: []byte("b")}}, secrets)
}

func TestRowsOfDeadReplicasAreSweptAndThoseOfLivingOnesKept(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	s := d.open()
	require.NoError(t, s.KeepCheckoutStreams(t.Context(), []store.CheckoutStream{{ID: "cs_1", PaymentKey: paid}, {ID: "cs_2", PaymentKey: paid}, {ID: "cs_3", PaymentKey: paid}}))
	_, err := d.pool.Exec(t.Context(), `UPDATE checkout_streams SET heartbeat_at = heartbeat_at - interval '1 hour' WHERE id <> 'cs_3'`)
	require.NoError(t, err)
	require.NoError(t, s.KeepCheckoutStreams(t.Context(), []store.CheckoutStream{{ID: "cs_2", PaymentKey: paid}}))
	require.NoError(t, s.SweepCheckoutStreams(t.Context(), time.Minute))
	require.Equal(t, 2, d.presence())
	require.NoError(t, s.DropCheckoutStreams(t.Context(), []string{"cs_1", "cs_2"}))
	require.Equal(t, 1, d.presence())
}

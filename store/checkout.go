package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"rebound/decline"
)

// ClientSecret is the keyed hash of a payment's client secret, as a payment intent event gave it.
type ClientSecret struct {
	PaymentKey
	Hash []byte `db:"client_secret_hash"`
}

// CheckoutStream is the row of one open checkout stream: whoever pays the payment has the page before them.
type CheckoutStream struct {
	ID string // unique over all replicas
	PaymentKey
}

// CheckoutState is what the checkout page of a payment may depend on: the payment's status and the customer's view of
// its newest failed attempt.
type CheckoutState struct {
	PaymentKey
	Status        string // of Payment
	PaymentIntent string
	AttemptID     string // newest failed attempt; '' when there is none, and then all below is empty
	Public        decline.Public
	AwaitsCharge  bool
	ReceivedAt    time.Time // first receipt of the attempt
	Locale        string    // the merchant's own metadata
}

// CheckoutShown is one message that was written to a checkout stream.
type CheckoutShown struct {
	PaymentKey
	AttemptID string
	Code      string // customer-safe
	Locale    string
	At        time.Time
}

// The LATERAL subqueries of this file end in OFFSET 0: that keeps the planner from joining whole tables, or walking an
// ordered index from its end, when it has no statistics.

// ClientSecrets reads the known client secrets of payments by id alone, since a client secret tells neither account nor
// mode. A payment whose events carried no secret is left out; one id may come back under several keys.
func (s *Store) ClientSecrets(ctx context.Context, paymentIDs []string) ([]ClientSecret, error) {
	found, err := collect[ClientSecret](ctx, s.pool, `
		SELECT p.payment_id, p.source, p.account, p.livemode, p.client_secret_hash
		FROM unnest($1::text[]) AS k (payment_id)
		CROSS JOIN LATERAL (
			SELECT payment_id, source, account, livemode, client_secret_hash FROM payments
			WHERE payment_id = k.payment_id AND client_secret_hash IS NOT NULL
			OFFSET 0
		) p`, paymentIDs)
	if err != nil {
		return nil, fmt.Errorf("reading client secrets of %d payments: %w", len(paymentIDs), err)
	}
	return found, nil
}

// CheckoutStates reads the present state of payments. A payment that is not there is left out.
func (s *Store) CheckoutStates(ctx context.Context, keys []PaymentKey) ([]CheckoutState, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT k.id, k.source, k.account, k.livemode, p.status, p.payment_intent,
		       coalesce(a.id, ''), coalesce(a.public_code, ''), coalesce(a.public_next_step, ''),
		       coalesce(a.public_field, ''), coalesce(a.public_retry, false), coalesce(a.awaits_charge, false),
		       coalesce(a.received_at, 'epoch'), coalesce(a.locale, '')
		FROM `+keyRows+`
		CROSS JOIN LATERAL (
			SELECT status, payment_intent FROM payments
			WHERE `+keyMatch("payments", "payment_id")+`
			OFFSET 0
		) p
		LEFT JOIN LATERAL (
			SELECT * FROM (
				SELECT id, received_at, detail::json->>'lo' AS locale, (detail::json->>'au')::bigint AS attempts_used,
				       detail::json->>'pub' AS public_code, detail::json->>'pnx' AS public_next_step,
				       detail::json->>'pfi' AS public_field, (detail::json->>'pre')::boolean AS public_retry,
				       (detail::json->>'aw')::boolean AS awaits_charge
				FROM attempts
				WHERE `+keyMatch("attempts", "payment_id")+` AND result = 'failed'
				OFFSET 0
			) f
			ORDER BY attempts_used DESC LIMIT 1
		) a ON true`, arraysOf(keys).args()...)
	if err != nil {
		return nil, fmt.Errorf("reading the checkout state of %d payments: %w", len(keys), err)
	}
	states, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (CheckoutState, error) {
		var c CheckoutState
		err := row.Scan(&c.PaymentID, &c.Source, &c.Account, &c.Livemode, &c.Status, &c.PaymentIntent,
			&c.AttemptID, &c.Public.Code, &c.Public.NextStep, &c.Public.Field, &c.Public.RetrySameMethod,
			&c.AwaitsCharge, &c.ReceivedAt, &c.Locale)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the checkout state of %d payments: %w", len(keys), err)
	}
	return states, nil
}

// KeepCheckoutStreams writes the heartbeat of open streams, and the row of one that has none.
func (s *Store) KeepCheckoutStreams(ctx context.Context, streams []CheckoutStream) error {
	ids, keys := make([]string, len(streams)), make([]PaymentKey, len(streams))
	// In the order in which those of them that have ended since are removed: of two such, each would wait for the other.
	streams = slices.SortedFunc(slices.Values(streams), func(a, b CheckoutStream) int { return strings.Compare(a.ID, b.ID) })
	for i, c := range streams {
		ids[i], keys[i] = c.ID, c.PaymentKey
	}
	if _, err := s.pool.Exec(ctx, `
		INSERT INTO checkout_streams (payment_id, source, account, livemode, id, heartbeat_at)
		SELECT u.*, $6 FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[]) AS u
		ON CONFLICT (id) DO UPDATE SET heartbeat_at = EXCLUDED.heartbeat_at`,
		arraysOf(keys).args(ids, s.Now())...); err != nil {
		return fmt.Errorf("writing the heartbeat of %d checkout streams: %w", len(streams), err)
	}
	return nil
}

// DropCheckoutStreams removes the rows of streams that have ended.
func (s *Store) DropCheckoutStreams(ctx context.Context, ids []string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM checkout_streams WHERE id = ANY($1)`, ids); err != nil {
		return fmt.Errorf("removing %d checkout streams: %w", len(ids), err)
	}
	return nil
}

// SweepCheckoutStreams removes the rows that dead replicas left: those whose last heartbeat is older than age.
func (s *Store) SweepCheckoutStreams(ctx context.Context, age time.Duration) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM checkout_streams WHERE heartbeat_at < $1`, s.Now().Add(-age)); err != nil {
		return fmt.Errorf("sweeping checkout streams: %w", err)
	}
	return nil
}

// MarkCheckoutShown records on the checkout notification of each attempt what was shown, and when first. An attempt
// that has no such notification (its payment was judged off session, and yet a page was open) is passed over.
func (s *Store) MarkCheckoutShown(ctx context.Context, shown []CheckoutShown) error {
	var keys []PaymentKey
	var attempts, codes, locales []string
	var times []time.Time
	for _, c := range shown {
		keys = append(keys, c.PaymentKey)
		attempts = append(attempts, c.AttemptID)
		codes = append(codes, c.Code)
		locales = append(locales, c.Locale)
		times = append(times, c.At.UTC())
	}
	// Whoever derives a payment writes these rows too, in an order of its own; the payments' locks have one.
	b := &pgx.Batch{}
	queueLocks(b, keys)
	// Of several messages of one attempt in one batch the last counts: it is the sharpest.
	b.Queue(`
		UPDATE notifications n
		SET status = 'sent', reason = '', sent_at = coalesce(n.sent_at, m.at), shown_code = m.code, locale = m.locale,
		    updated_at = m.at
		FROM (
			SELECT DISTINCT ON (attempt_id) *
			FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[],
			            $8::timestamptz[]) WITH ORDINALITY
			     AS u (payment_id, source, account, livemode, attempt_id, code, locale, at, place)
			ORDER BY attempt_id, place DESC
		) m
		WHERE n.payment_id = m.payment_id AND n.source = m.source AND n.account = m.account
		      AND n.livemode = m.livemode AND n.failure_id = m.attempt_id
		      AND n.channel = 'checkout' AND n.status IN ('held', 'sent')`,
		arraysOf(keys).args(attempts, codes, locales, times)...)
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("recording %d checkout messages: %w", len(shown), err)
	}
	return nil
}

// The waits between attempts to listen again.
const (
	listenBackoffMin = 100 * time.Millisecond
	listenBackoffMax = 5 * time.Second
)

// Listen hands every notification of CheckoutChannel to onNotify until ctx ends. It keeps one connection of its own,
// outside the pool, and makes a new one whenever that breaks. onListening is called each time that the channel is being
// listened to, the first included: what was notified before is lost, so the caller must read the present state then.
// Both are called from one goroutine and should be quick. It does not work through a pooler in transaction mode.
func (s *Store) Listen(ctx context.Context, onNotify func(payload string), onListening func()) {
	config := s.pool.Config().ConnConfig
	backoff, failing := listenBackoffMin, false
	for {
		err := listenOnce(ctx, config, onNotify, func() {
			if failing {
				s.log.Info("listen.recovered", zap.String("channel", CheckoutChannel))
			}
			backoff, failing = listenBackoffMin, false
			onListening()
		})
		if ctx.Err() != nil {
			return
		}
		if !failing { // the same failure again says nothing new
			s.log.Warn("listen.lost", zap.String("channel", CheckoutChannel), zap.Error(err))
			failing = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff/2 + rand.N(backoff)): // replicas must not all come back at the same moment
		}
		backoff = min(2*backoff, listenBackoffMax)
	}
}

func listenOnce(ctx context.Context, config *pgx.ConnConfig, onNotify func(string), onListening func()) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connecting to listen on %s: %w", CheckoutChannel, err)
	}
	defer func() {
		// ctx has often ended by now, and the server should hear a goodbye all the same.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+CheckoutChannel); err != nil {
		return fmt.Errorf("listening on %s: %w", CheckoutChannel, err)
	}
	onListening()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("waiting for a notification on %s: %w", CheckoutChannel, err)
		}
		onNotify(n.Payload)
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// PaymentHistory is everything that is known of one payment, as it stood at one moment.
type PaymentHistory struct {
	Payment       Payment
	Attempts      []Failure // failed and succeeded, oldest first
	Events        []SeenEvent
	Notifications []Notification // of every attempt, oldest first
}

// SeenEvent is one rendering of a provider's event that bears on a payment, its invoice's events included.
type SeenEvent struct {
	EventID    string    `db:"event_id"`
	EventType  string    `db:"event_type"`
	APIVersion string    `db:"api_version"`
	ObjectID   string    `db:"object_id"`
	Created    int64     `db:"created"` // Unix seconds
	ReceivedAt time.Time `db:"received_at"`
}

// paymentSQL is the statement that finds a payment, the first of its rows. They are few, but with a LIMIT Postgres would
// walk all payments, the newest first, as long as it does not know that.
func paymentSQL(paymentID, source string, w Within) (string, []any) {
	// A row without a status is one that is being made, or of an object that is no payment.
	q := &question{where: []string{"p.status <> ''"}}
	q.and("p.payment_id = ?", paymentID)
	if source != "" {
		q.and("p.source = ?", source)
	}
	q.within(w, "p")
	return "SELECT " + paymentTable.selected("p") + " FROM payments p WHERE " + q.String() + " ORDER BY p.created_at DESC, p.source, p.account, p.livemode DESC", q.args
}

// FindPayment reads a payment with its attempts, events and notifications. One id can exist in several sources, accounts
// and modes; the payment that was first seen last is taken. An empty source is any. ErrNotFound: there is none.
func (s *Store) FindPayment(ctx context.Context, paymentID, source string, w Within) (PaymentHistory, error) {
	var h PaymentHistory
	// One snapshot: the parts would else contradict each other while events come in.
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		sql, args := paymentSQL(paymentID, source, w)
		payments, err := collect[Payment](ctx, tx, sql, args...)
		if err != nil {
			return err
		}
		if len(payments) == 0 {
			return ErrNotFound
		}
		h.Payment = payments[0]
		k := h.Payment.PaymentKey
		const ofKey = " = $1 AND %[1]s.source = $2 AND %[1]s.account = $3 AND %[1]s.livemode = $4"
		// Of one second, the failed ones as they were counted: the last of them is the newest to whoever tells of it.
		if h.Attempts, err = collect[Failure](ctx, tx, selectAttempts+" WHERE a.payment_id"+fmt.Sprintf(ofKey, "a")+
			" ORDER BY a.occurred_at, a.result, coalesce((a.detail::json->>'au')::bigint, 0), a.id", k.PaymentID, k.Source, k.Account, k.Livemode); err != nil {
			return err
		}
		if h.Events, err = collect[SeenEvent](ctx, tx, `SELECT f.event_id, f.event_type, f.api_version,
			coalesce(f.detail::json->>'oid', '') AS object_id, f.created, f.received_at
			FROM facts f WHERE f.payment_id IN ($1, $5) AND f.source = $2 AND f.account = $3 AND f.livemode = $4
			ORDER BY f.created, f.received_at, f.event_id, f.api_version`,
			k.PaymentID, k.Source, k.Account, k.Livemode, h.Payment.Invoice); err != nil {
			return err
		}
		if h.Notifications, err = collect[Notification](ctx, tx, "SELECT "+notificationTable.selected("n")+
			" FROM notifications n WHERE n.payment_id"+fmt.Sprintf(ofKey, "n")+" ORDER BY n.created_at, n.due_at, n.id",
			k.PaymentID, k.Source, k.Account, k.Livemode); err != nil {
			return err
		}
		return complete(ctx, tx, h.Attempts)
	})
	if errors.Is(err, ErrNotFound) {
		return h, ErrNotFound
	}
	if err != nil {
		return h, fmt.Errorf("reading payment %s: %w", paymentID, err)
	}
	return h, nil
}

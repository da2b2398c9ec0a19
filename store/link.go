package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Link is what a token in a mail leads to.
type Link struct {
	PaymentKey
	PaymentStatus string    `db:"payment_status"` // of Payment, or of what it is for: that may be paid, or be over, without it
	Locale        string    `db:"locale"`
	Mailbox       []byte    `db:"mailbox"`
	ExpiresAt     time.Time `db:"expires_at"`
}

// ErrNoLink is returned for a token that was never given out, or whose notification is gone.
var ErrNoLink = errors.New("there is no such link")

// paidOtherwise tells of a row p of payments whether its order or its invoice was paid by another payment. A success of as much by
// the same customer, which ends mails too, may be for something else.
const paidOtherwise = `(
	EXISTS (SELECT 1 FROM payments o WHERE o.order_reference = p.order_reference AND o.order_reference <> '' AND o.source = p.source
		AND o.account = p.account AND o.livemode = p.livemode AND o.succeeded_created >= p.failed_created AND o.succeeded_created > 0)
	OR EXISTS (SELECT 1 FROM payments o WHERE o.invoice = p.invoice AND o.invoice <> '' AND o.source = p.source
		AND o.account = p.account AND o.livemode = p.livemode AND o.succeeded_created >= p.failed_created AND o.succeeded_created > 0))`

// NewLink makes a random token of 128 bits for a notification's mail. Only its hash is kept.
func (s *Store) NewLink(ctx context.Context, notificationID string, expires time.Time) (string, error) {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails
	token := base64.RawURLEncoding.EncodeToString(raw)
	hash := sha256.Sum256([]byte(token))
	if _, err := s.pool.Exec(ctx, `INSERT INTO links (token_hash, notification_id, expires_at) VALUES ($1, $2, $3)`,
		hash[:], notificationID, expires); err != nil {
		return "", fmt.Errorf("making a link for mail %s: %w", notificationID, err)
	}
	return token, nil
}

// Link finds what a token leads to; expired ones are returned too.
func (s *Store) Link(ctx context.Context, token string) (Link, error) {
	hash := sha256.Sum256([]byte(token))
	// What is given up (uncollectible) can still be paid.
	l, err := one[Link](ctx, s.pool, `SELECT p.payment_id, p.source, p.account, p.livemode, n.locale, n.mailbox, l.expires_at,
			CASE WHEN p.status IN ('recovered', 'canceled') THEN p.status
				WHEN `+paidOtherwise+`
					OR i.settled_created > 0 AND i.status NOT IN ('void', 'uncollectible') THEN 'recovered'
				WHEN i.settled_created > 0 AND i.status = 'void' THEN 'canceled'
				ELSE p.status END AS payment_status
		FROM links l JOIN notifications n ON n.id = l.notification_id
		JOIN payments p ON p.payment_id = n.payment_id AND p.source = n.source AND p.account = n.account AND p.livemode = n.livemode
		LEFT JOIN invoices i ON i.invoice_id = p.invoice AND i.invoice_id <> '' AND i.source = p.source AND i.account = p.account AND i.livemode = p.livemode
		WHERE l.token_hash = $1`, hash[:])
	if errors.Is(err, pgx.ErrNoRows) {
		return Link{}, ErrNoLink
	}
	if err != nil {
		return Link{}, fmt.Errorf("reading a link: %w", err)
	}
	return l, nil
}

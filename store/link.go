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
	PaymentStatus string    `db:"payment_status"`
	Locale        string    `db:"locale"`
	Mailbox       []byte    `db:"mailbox"`
	ExpiresAt     time.Time `db:"expires_at"`
}

// ErrNoLink is returned for a token that was never given out, or whose notification is gone.
var ErrNoLink = errors.New("there is no such link")

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
	l, err := one[Link](ctx, s.pool, `SELECT p.payment_id, p.source, p.account, p.livemode, p.status AS payment_status, n.locale, n.mailbox, l.expires_at
		FROM links l JOIN notifications n ON n.id = l.notification_id
		JOIN payments p ON p.payment_id = n.payment_id AND p.source = n.source AND p.account = n.account AND p.livemode = n.livemode
		WHERE l.token_hash = $1`, hash[:])
	if errors.Is(err, pgx.ErrNoRows) {
		return Link{}, ErrNoLink
	}
	if err != nil {
		return Link{}, fmt.Errorf("reading a link: %w", err)
	}
	return l, nil
}

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Notice is an in-app notice as its customer may see it: nothing in it tells more than the public view of the failure.
type Notice struct {
	ID string `db:"id"`
	PaymentKey
	Customer      string     `db:"customer"`
	Locale        string     `db:"locale"` // the notification's, else the attempt's, else the customer's
	CreatedAt     time.Time  `db:"created_at"`
	ReadAt        *time.Time `db:"read_at"`
	PaymentStatus string     `db:"payment_status"`
	Amount        int64      `db:"amount"`
	Currency      string     `db:"currency"`

	PublicCode     string `db:"public_code"` // '' when the attempt is gone
	PublicNextStep string `db:"public_next_step"`
	PublicField    string `db:"public_field"`
	PublicRetry    bool   `db:"public_retry"`

	AwaitsCharge bool       `db:"awaits_charge"` // of the attempt
	AttemptAt    *time.Time `db:"attempt_at"`    // when it became known; nil when it is gone
}

// InboxFilter chooses notices of one customer.
type InboxFilter struct {
	Within
	Customer string
	Source   string // '' any
	Unread   bool   // only those not read
	After    string // id of the notice that ended the page before
	Limit    int
}

var ofInbox = keyed{"notifications n", "n.customer", "n.created_at", "n.channel = 'inbox' AND n.customer <> ''"}

// Only what was told is a notice; a row that records a decision not to tell is not.
const noticeWhere = "n.channel = 'inbox' AND n.customer <> '' AND n.status IN ('sent', 'delivered')"

var selectNotices = `SELECT n.id, n.payment_id, n.source, n.account, n.livemode, n.customer,
	coalesce(nullif(n.locale, ''), nullif(a.detail::json->>'lo', ''), ` + languageOf("n") + `) AS locale, n.created_at, n.read_at, p.status AS payment_status,
	coalesce((a.detail::json->>'amt')::bigint, p.amount) AS amount, coalesce(a.detail::json->>'cur', p.currency) AS currency,
	coalesce(a.detail::json->>'pub', '') AS public_code, coalesce(a.detail::json->>'pnx', '') AS public_next_step,
	coalesce(a.detail::json->>'pfi', '') AS public_field, coalesce((a.detail::json->>'pre')::boolean, false) AS public_retry,
	coalesce((a.detail::json->>'aw')::boolean, false) AS awaits_charge, a.received_at AS attempt_at
	FROM notifications n
	JOIN payments p ON p.payment_id = n.payment_id AND p.source = n.source AND p.account = n.account AND p.livemode = n.livemode
	LEFT JOIN attempts a ON a.id = n.failure_id`

func inboxSQL(f InboxFilter, after time.Time) (string, []any) {
	q := &question{where: []string{noticeWhere, "NOT " + paidOtherwise}}
	q.and("n.customer = ?", f.Customer)
	q.within(f.Within, "n")
	if f.Source != "" {
		q.and("n.source = ?", f.Source)
	}
	if f.Unread {
		q.and("n.read_at IS NULL")
	}
	if f.After != "" {
		q.and(`(n.created_at, n.id) < (?, ?)`, after, f.After)
	}
	return ofInbox.newest(selectNotices, q, f.Customer, time.Time{}, after, f.Limit+1), q.args
}

// InboxPage lists a customer's notices, newest first, and tells whether older ones follow. It returns ErrNotFound when
// f.After names no notice of this customer within f.Within, told or not.
func (s *Store) InboxPage(ctx context.Context, f InboxFilter) (page []Notice, more bool, err error) {
	var after time.Time
	if f.After != "" {
		// One that was told and taken back since, as when its payment was paid between two pages, still says where the page ended.
		q := &question{where: []string{ofInbox.rows}}
		q.and("n.id = ?", f.After)
		q.and("n.customer = ?", f.Customer)
		q.within(f.Within, "n")
		err := s.pool.QueryRow(ctx, "SELECT n.created_at FROM notifications n WHERE "+q.String(), q.args...).Scan(&after)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, false, ErrNotFound
		}
		if err != nil {
			return nil, false, fmt.Errorf("reading where notice %s stands: %w", f.After, err)
		}
	}
	sql, args := inboxSQL(f, after)
	page, err = collect[Notice](ctx, s.pool, sql, args...)
	if err != nil {
		return nil, false, fmt.Errorf("listing the inbox of customer %s: %w", f.Customer, err)
	}
	slices.SortFunc(page, func(a, b Notice) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	page, more = first(page, f.Limit)
	return page, more, nil
}

// MarkNoticeRead notes when a notice was first read and returns it. Reading again changes nothing. ErrNotFound: there
// is no such notice within w.
func (s *Store) MarkNoticeRead(ctx context.Context, id string, w Within) (Notice, error) {
	q := &question{where: []string{noticeWhere}}
	q.args = append(q.args, s.Now())
	q.and("n.id = ?", id)
	q.within(w, "n")
	q.and("n.read_at IS NULL")
	if _, err := s.pool.Exec(ctx, "UPDATE notifications n SET read_at = $1, updated_at = $1 WHERE "+q.String(), q.args...); err != nil {
		return Notice{}, fmt.Errorf("marking notice %s as read: %w", id, err)
	}
	q = &question{where: []string{noticeWhere}}
	q.and("n.id = ?", id)
	q.within(w, "n")
	found, err := collect[Notice](ctx, s.pool, selectNotices+" WHERE "+q.String(), q.args...)
	if err != nil {
		return Notice{}, fmt.Errorf("reading notice %s: %w", id, err)
	}
	if len(found) == 0 {
		return Notice{}, ErrNotFound
	}
	return found[0], nil
}

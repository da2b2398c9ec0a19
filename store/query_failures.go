package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNotFound is returned where an id names no row that the caller may see. It does not tell an unknown id from a
// foreign one.
var ErrNotFound = errors.New("no such row")

// Failure is a failed attempt with what was decided to tell of it.
type Failure struct {
	Attempt
	Notifications []Notification `db:"-"` // oldest first
}

// Within narrows a question to one account or one mode; a nil member does not.
type Within struct {
	Account  *string // '' is the platform's own
	Livemode *bool
}

// FailureFilter chooses failures. Zero members do not filter.
type FailureFilter struct {
	Within
	PaymentID string
	Charge    string
	Customer  string
	Category  string
	Status    string // of the payment
	Source    string
	From      time.Time // failed at or after
	Before    time.Time // failed before
	After     string    // id of the failure that ended the page before
	Limit     int
}

// question builds the WHERE part of a statement, one argument at a time.
type question struct {
	where []string
	args  []any
}

// and adds a condition; each ? in it is one of the values.
func (q *question) and(condition string, values ...any) {
	for _, v := range values {
		q.args = append(q.args, v)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(q.args)), 1)
	}
	q.where = append(q.where, condition)
}

func (q *question) within(w Within, alias string) {
	if w.Account != nil {
		q.and(alias+".account = ?", *w.Account)
	}
	if w.Livemode != nil {
		q.and(alias+".livemode = ?", *w.Livemode)
	}
}

func (q *question) String() string { return strings.Join(q.where, " AND ") }

// sameKey joins two tables on the whole payment key.
func sameKey(a, b string) string {
	return fmt.Sprintf("%[1]s.payment_id = %[2]s.payment_id AND %[1]s.source = %[2]s.source AND %[1]s.account = %[2]s.account AND %[1]s.livemode = %[2]s.livemode", a, b)
}

var selectAttempts = "SELECT " + attemptTable.selected("a") + " FROM attempts a"

// failuresSQL is the statement of FailurePage. The conditions of the partial indexes stand in it as literals, so that a
// generic plan can use them too.
func failuresSQL(f FailureFilter, after time.Time) (string, []any) {
	q := &question{where: []string{"a.result = 'failed'"}}
	q.within(f.Within, "a")
	for _, eq := range []struct{ column, value string }{
		{"a.payment_id", f.PaymentID}, {"a.charge", f.Charge}, {"a.customer", f.Customer},
		{"a.category", f.Category}, {"a.source", f.Source}, {"a.payment_status", f.Status},
	} {
		if eq.value == "" {
			continue
		}
		q.and(eq.column+" = ?", eq.value)
		if eq.column == "a.charge" || eq.column == "a.customer" {
			q.and(eq.column + " <> ''")
		}
	}
	at := "a.occurred_at"
	switch {
	case f.PaymentID != "" || f.Charge != "":
		// There are few, but while Postgres believes that there are many it walks all failures, the newest first, until a page
		// is full. This order has no index, and nothing here is the condition of an index on failures alone.
		at, q.where[0] = unindexed, "a.result || '' = 'failed'"
	case f.Customer != "":
		at = unindexed // nor are bounds to be looked for among all failures
	case f.Account != nil && *f.Account != "":
		q.and("a.account <> ''") // a customer's index is narrower than an account's
	}
	if !f.From.IsZero() {
		q.and(at+" >= ?", f.From)
	}
	if !f.Before.IsZero() {
		q.and(at+" < ?", f.Before)
	}
	if f.After != "" {
		q.and("("+at+", a.id) < (?, ?)", after, f.After)
	}
	if f.byCustomer() {
		return ofCustomer.newest(selectAttempts, q, f.Customer, f.From, earliest(f.Before, after), f.Limit+1), q.args
	}
	return fmt.Sprintf("%s WHERE %s ORDER BY %s DESC, a.id DESC LIMIT %d", selectAttempts, q, at, f.Limit+1), q.args
}

// byCustomer tells whether the failures come from a customer's index: such a page is put in order here.
func (f FailureFilter) byCustomer() bool {
	return f.Customer != "" && f.PaymentID == "" && f.Charge == ""
}

// unindexed is the time of a failure to which no index gives an order.
const unindexed = "(a.occurred_at + interval '0')"

var ofCustomer = keyed{"attempts a", "a.customer", "a.occurred_at", "a.result = 'failed' AND a.customer <> ''"}

// keyed is an index on key_second: of a table, by a column, at a time, for the rows of a condition.
type keyed struct{ table, key, at, rows string }

func (k keyed) second() string { return "key_second(" + k.key + ", " + k.at + ")" }

// halfYears is what a statement begins with that reads such an index: it jumps to the last row of each half year.
func (k keyed) halfYears() string {
	return fmt.Sprintf(`WITH RECURSIVE half_years(n) AS (
		(SELECT %[1]s >> 55 FROM %[2]s WHERE %[3]s ORDER BY %[1]s DESC LIMIT 1)
		UNION ALL SELECT (SELECT %[1]s >> 55 FROM %[2]s WHERE %[3]s AND %[1]s < n << 55 ORDER BY %[1]s DESC LIMIT 1) FROM half_years WHERE n IS NOT NULL
	) `, k.second(), k.table, k.rows)
}

// in is the condition that bounds the rows of a value to the half year n; that they are of that value has to be said too.
func (k keyed) in(value string) string {
	return fmt.Sprintf("%s BETWEEN half_year_key(n, %[2]s) AND half_year_key(n, %[2]s) + 16777215", k.second(), value)
}

// newest completes a question for the rows of a value to the newest of them between two moments, zero being none: so many
// of each half year, by the second alone. Who reads them takes the first.
func (k keyed) newest(sel string, q *question, value string, from, before time.Time, limit int) string {
	if from.IsZero() {
		from = time.Unix(0, 0)
	}
	if before.IsZero() {
		before = time.Unix(math.MaxUint32, 0)
	}
	q.and(k.second()+" BETWEEN key_second(?, ?) AND key_second(?, ?)", value, from, value, before)
	q.args = append(q.args, value)
	q.where = append(q.where, k.in("$"+strconv.Itoa(len(q.args))))
	return fmt.Sprintf("%sSELECT r.* FROM half_years CROSS JOIN LATERAL (%s WHERE %s ORDER BY %s DESC FETCH FIRST %d ROWS WITH TIES) r",
		k.halfYears(), sel, q, k.second(), limit)
}

// first returns as many rows as a page has, and whether more follow.
func first[T any](rows []T, limit int) (page []T, more bool) {
	return rows[:min(len(rows), limit)], len(rows) > limit
}

// earliest is the earlier of two moments, of which a zero one is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// FailurePage lists failures, newest first, without their notifications, and tells whether older ones follow. It returns
// ErrNotFound when f.After names no failure within f.Within.
func (s *Store) FailurePage(ctx context.Context, f FailureFilter) (page []Failure, more bool, err error) {
	var after time.Time
	if f.After != "" {
		q := &question{where: []string{"a.result = 'failed'"}}
		q.and("a.id = ?", f.After)
		q.within(f.Within, "a")
		err := s.pool.QueryRow(ctx, "SELECT a.occurred_at FROM attempts a WHERE "+q.String(), q.args...).Scan(&after)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, false, ErrNotFound
		}
		if err != nil {
			return nil, false, fmt.Errorf("reading where failure %s stands: %w", f.After, err)
		}
	}
	sql, args := failuresSQL(f, after)
	page, err = collect[Failure](ctx, s.pool, sql, args...)
	if err != nil {
		return nil, false, fmt.Errorf("listing failures: %w", err)
	}
	if f.byCustomer() {
		slices.SortFunc(page, func(a, b Failure) int {
			return cmp.Or(b.OccurredAt.Compare(a.OccurredAt), strings.Compare(b.ID, a.ID))
		})
	}
	page, more = first(page, f.Limit)
	return page, more, nil
}

// FindFailure reads one failed attempt.
func (s *Store) FindFailure(ctx context.Context, id string, w Within) (Failure, error) {
	q := &question{where: []string{"a.result = 'failed'"}}
	q.and("a.id = ?", id)
	q.within(w, "a")
	found, err := collect[Failure](ctx, s.pool, selectAttempts+" WHERE "+q.String(), q.args...)
	if err != nil {
		return Failure{}, fmt.Errorf("reading failure %s: %w", id, err)
	}
	if len(found) == 0 {
		return Failure{}, ErrNotFound
	}
	err = complete(ctx, s.pool, found)
	return found[0], err
}

// notificationsSQL reads the notifications of some payments, by the index on the whole key: by the ids alone, of which nobody
// can say how rare they are before there are statistics, Postgres would prepare for a large part of the table.
var notificationsSQL = "SELECT " + notificationTable.selected("n") + " FROM " + keyRows + " JOIN notifications n ON " + keyMatch("n", "payment_id") +
	" ORDER BY n.created_at, n.due_at, n.id"

func complete(ctx context.Context, db querier, failures []Failure) error {
	if len(failures) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	queueNotifications(b, failures)
	queueLanguages(b, failures)
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("completing %d failures: %w", len(failures), err)
	}
	return nil
}

// queueNotifications adds a statement to a batch that gives each of the failures its notifications.
func queueNotifications(b *pgx.Batch, failures []Failure) {
	payments := make([]PaymentKey, len(failures))
	at := make(map[string]int, len(failures))
	for i, f := range failures {
		payments[i], at[f.ID] = f.PaymentKey, i
	}
	b.Queue(notificationsSQL, arraysOf(sorted(payments)).args()...).Query(eachRow(func(n Notification) {
		if i, ok := at[n.FailureID]; ok {
			failures[i].Notifications = append(failures[i].Notifications, n)
		}
	}))
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// collect reads rows into structs by the names of their columns.
func collect[T any](ctx context.Context, db querier, sql string, args ...any) ([]T, error) {
	return collected[T](db.Query(ctx, sql, args...))
}

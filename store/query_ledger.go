package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"rebound/decline"
)

// cardKey is what the ledger counts a card by, and what the indexes attempts_card and attempts_card_code are made of.
const cardKey = "COALESCE(NULLIF(a.fingerprint, ''), a.method_id)"

// countedTries bounds what is read of one card and of one payment, the newest first. It is well above every limit on
// attempts; what lies beyond it counts as tried (see decline.Use.Since), so a card under attack costs no more to look up.
const countedTries = 200

// ledgerTry is a row of CardUses: a failed attempt that bears on the n-th card or payment that was asked about.
type ledgerTry struct {
	N    int64  `db:"n"`
	Kind string `db:"kind"` // card, payment, barred
	Attempt
}

func (a Attempt) try() decline.Try {
	return decline.Try{
		ID: a.ID, PaymentID: a.PaymentID, Number: int(a.AttemptsUsed), At: a.OccurredAt.UTC(), Card: cmp.Or(a.Fingerprint, a.MethodID), MethodID: a.MethodID,
		Amount: a.Amount, Currency: a.Currency, By: decline.InitiatorOf(a.Presence), Network: cmp.Or(a.Network, a.Brand, decline.BankNetwork(a.MethodType)), Country: a.Country,
		Code: a.Code, DeclineCode: a.DeclineCode, ErrorCode: a.ErrorCode, FailureCode: a.FailureCode,
		NetworkDeclineCode: a.NetworkDeclineCode, NetworkAdviceCode: a.NetworkAdviceCode,
	}
}

// RetryQuestion is what the ledger is asked about a failed attempt.
func (a Attempt) RetryQuestion() decline.Question {
	q := decline.Question{
		Try: a.try(),
		Retry: decline.Retry{Verdict: decline.RetryVerdict(a.RetryVerdict), AttemptsUsed: int(a.AttemptsUsed), AttemptsLeft: int(a.AttemptsLeft),
			LimitedBy: a.RetryLimitedBy},
		Category: decline.Category(a.Category), NextStep: decline.NextStep(a.NextStep),
	}
	if a.RetryNotBefore != nil {
		q.Retry.NotBefore = *a.RetryNotBefore
		q.Retry.Wait = q.Retry.NotBefore.Sub(a.OccurredAt)
	}
	return q
}

var ofCard = keyed{"attempts a", cardKey, "a.occurred_at", "a.result = 'failed' AND " + cardKey + " <> ''"}

var ledgerColumns = attemptTable.selected("a")

// barringCodes are those that bar a card at any network: the index attempts_card_code knows no others.
var barringCodes = "'" + strings.Join(decline.BarringCodes(""), "', '") + "'"

// cardUsesSQL reads, each by its index and each bounded: the newest attempts on a card; the newest on a payment; and one
// attempt per card and code that bars it. Arguments: cards as n, source, account, livemode, key; since; payments as n,
// source, account, livemode, payment id; barring codes as n, source, account, livemode, key, code, network.
var cardUsesSQL = ofCard.halfYears() + `
SELECT c.i AS n, 'card' AS kind, t.* FROM unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::text[]) AS c(i, source, account, livemode, key)
CROSS JOIN LATERAL (
	SELECT a.* FROM half_years CROSS JOIN LATERAL (SELECT ` + ledgerColumns + ` FROM attempts a
		WHERE ` + ofCard.rows + ` AND ` + cardKey + ` = c.key AND ` + ofCard.in("c.key") + ` AND a.occurred_at > $6
		AND ` + ofCard.second() + ` BETWEEN key_second(c.key, $6) AND key_second(c.key, 'infinity')
		AND a.source = c.source AND a.account = c.account AND a.livemode = c.livemode
		ORDER BY ` + ofCard.second() + ` DESC LIMIT $19) a
	ORDER BY a.occurred_at DESC LIMIT $19) t
UNION ALL
SELECT p.n, 'payment', t.* FROM unnest($7::bigint[], $8::text[], $9::text[], $10::boolean[], $11::text[]) AS p(n, source, account, livemode, payment_id)
CROSS JOIN LATERAL (
	SELECT ` + ledgerColumns + ` FROM attempts a
	WHERE a.payment_id = p.payment_id AND a.source = p.source AND a.account = p.account AND a.livemode = p.livemode AND a.result || '' = 'failed'
	ORDER BY ` + unindexed + ` DESC LIMIT $19) t
UNION ALL
SELECT b.n, 'barred', t.* FROM unnest($12::bigint[], $13::text[], $14::text[], $15::boolean[], $16::text[], $17::text[], $18::text[])
	AS b(n, source, account, livemode, key, code, network)
CROSS JOIN LATERAL (
	SELECT ` + ledgerColumns + ` FROM attempts a
	WHERE a.result = 'failed' AND a.network_decline_code IN (` + barringCodes + `) AND ` + cardKey + ` = b.key AND a.network_decline_code = b.code
	AND a.source = b.source AND a.account = b.account AND a.livemode = b.livemode
	AND (b.network = '' OR lower(COALESCE(NULLIF(a.network, ''), a.brand)) IN ('', lower(b.network)))
	LIMIT 1) t`

// keys are the columns of what is asked about, an array each.
type keys struct {
	n               []int64
	source, account []string
	livemode        []bool
	key             []string
}

func (k *keys) add(n int, of PaymentKey, key string) {
	k.n, k.source, k.account = append(k.n, int64(n)), append(k.source, of.Source), append(k.account, of.Account)
	k.livemode, k.key = append(k.livemode, of.Livemode), append(k.key, key)
}

// asked are the distinct cards and payments of some attempts, and where each attempt's are.
type asked struct {
	cards, payments, barred keys
	codes, networks         []string // of barred
	cardOf, paymentOf       []int    // by attempt; a card of -1 is unknown, a payment of -1 has no other failed attempt
}

func askAbout(attempts []Attempt) *asked {
	type card struct {
		source, account, key string
		livemode             bool
	}
	q := &asked{}
	cards, payments, barred := map[card]int{}, map[PaymentKey]int{}, map[string]bool{}
	for _, a := range attempts {
		n, seen := payments[a.PaymentKey]
		switch {
		case a.PaymentTries == 1:
			n = -1
		case !seen:
			n = len(payments)
			payments[a.PaymentKey] = n
			q.payments.add(n, a.PaymentKey, a.PaymentID)
		}
		q.paymentOf = append(q.paymentOf, n)

		key := cmp.Or(a.Fingerprint, a.MethodID)
		if key == "" {
			q.cardOf = append(q.cardOf, -1)
			continue
		}
		c := card{a.Source, a.Account, key, a.Livemode}
		if n, seen = cards[c]; !seen {
			n = len(cards)
			cards[c] = n
			q.cards.add(n, a.PaymentKey, key)
		}
		q.cardOf = append(q.cardOf, n)
		network := cmp.Or(a.Network, a.Brand)
		if again := fmt.Sprint(n, " ", network); !barred[again] {
			barred[again] = true
			for _, code := range decline.BarringCodes(network) {
				q.barred.add(n, a.PaymentKey, key)
				q.codes, q.networks = append(q.codes, code), append(q.networks, network)
			}
		}
	}
	return q
}

func (q *asked) args(since time.Time) []any {
	return []any{
		q.cards.n, q.cards.source, q.cards.account, q.cards.livemode, q.cards.key, since,
		q.payments.n, q.payments.source, q.payments.account, q.payments.livemode, q.payments.key,
		q.barred.n, q.barred.source, q.barred.account, q.barred.livemode, q.barred.key, q.codes, q.networks, countedTries + 1,
	}
}

// Uses gives the use made so far of the card and the payment of the i-th of the attempts that were asked about. It is put
// together when it is asked for: a card tester's payment has thousands of attempts, and the use of each is some 100 KB.
type Uses func(i int) decline.Use

// CardUses reads the use made so far of the card and the payment of each attempt, by one statement however many they are.
// now bounds how far back a card is looked at: decline.Lookback before it.
func (s *Store) CardUses(ctx context.Context, attempts []Attempt, now time.Time) (Uses, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	b := &pgx.Batch{}
	uses := queueUses(b, attempts, now)
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("reading the use of the cards of %d attempts: %w", len(attempts), err)
	}
	return uses, nil
}

// Complete gives each failure of a page its notifications and its language, and returns what CardUses does of them. The questions travel
// together: two connections at a time cost more than they saved.
func (s *Store) Complete(ctx context.Context, page []Failure, now time.Time) (Uses, error) {
	if len(page) == 0 {
		return nil, nil
	}
	attempts := make([]Attempt, len(page))
	for i, f := range page {
		attempts[i] = f.Attempt
	}
	b := &pgx.Batch{}
	queueNotifications(b, page)
	queueLanguages(b, page)
	uses := queueUses(b, attempts, now)
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("completing %d failures: %w", len(page), err)
	}
	return uses, nil
}

// queueUses adds the statement of CardUses to a batch; what it returns is to be asked once the batch has ended well.
func queueUses(b *pgx.Batch, attempts []Attempt, now time.Time) Uses {
	q := askAbout(attempts)
	var rows []ledgerTry
	b.Queue(cardUsesSQL, q.args(now.Add(-decline.Lookback()))...).Query(eachRow(func(row ledgerTry) { rows = append(rows, row) }))
	sorted := sync.OnceValue(func() Uses { return q.uses(attempts, rows) })
	return func(i int) decline.Use { return sorted()(i) }
}

// uses sorts out what the rows say of the attempts' cards and payments.
func (q *asked) uses(attempts []Attempt, rows []ledgerTry) Uses {
	cards, payments := make([]decline.Use, len(q.cards.n)), make([][]decline.Try, len(q.payments.n))
	newest := make([]int, len(cards))
	for _, row := range rows {
		if row.Kind == "payment" {
			payments[row.N] = append(payments[row.N], row.try())
			continue
		}
		c := &cards[row.N]
		c.Tries = append(c.Tries, row.try())
		if row.Kind == "card" {
			newest[row.N]++
		}
	}
	for n := range cards {
		if newest[n] > countedTries { // the one too many, the oldest, tells how far they reach
			cards[n].Since = reach(rows, n)
		}
	}
	return func(i int) (use decline.Use) {
		if n := q.cardOf[i]; n >= 0 {
			use = cards[n]
		}
		of := []decline.Try{attempts[i].try()}
		if n := q.paymentOf[i]; n >= 0 {
			of = payments[n]
		}
		use.Tries = slices.Concat(use.Tries, of) // the slice of a card is shared by its attempts
		return use
	}
}

// reach is when the oldest of a card's newest attempts was made.
func reach(rows []ledgerTry, n int) (oldest time.Time) {
	for _, row := range rows {
		if row.N == int64(n) && row.Kind == "card" && (oldest.IsZero() || row.OccurredAt.Before(oldest)) {
			oldest = row.OccurredAt
		}
	}
	return oldest.UTC()
}

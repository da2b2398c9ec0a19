package decline_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rebound/decline"
)

// event is a failed attempt of a made-up history. Nothing here knows how the ledger counts: the oracle below reads the
// rules as they are published, one by one, with their numbers written out.
type event struct {
	id, payment     string
	at              time.Time
	fingerprint, pm string
	amount          int64
	currency        string
	by              decline.Initiator
	network         string
	country         string
	decline, err    string
	response, mac   string
	used            int // failed attempts on the payment up to this one
	verdict         decline.Verdict
}

func (e event) key() string {
	if e.fingerprint != "" {
		return e.fingerprint
	}
	return e.pm
}

func (e event) try() decline.Try {
	return decline.Try{ID: e.id, PaymentID: e.payment, At: e.at, Card: e.key(), MethodID: e.pm, Amount: e.amount, Currency: e.currency,
		By: e.by, Network: e.network, Country: e.country, Code: e.verdict.Code, DeclineCode: e.decline, ErrorCode: e.err,
		NetworkDeclineCode: e.response, NetworkAdviceCode: e.mac}
}

func (e event) question() decline.Question {
	return decline.Question{Try: e.try(), Retry: e.verdict.Retry, Category: e.verdict.Category, NextStep: e.verdict.NextStep}
}

// oneCard is what the networks would take for one card: the same fingerprint, else the same method, else the payment's.
func oneCard(a, b event) bool {
	if a.key() == "" || b.key() == "" {
		return a.payment == b.payment
	}
	return a.key() == b.key()
}

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

var (
	mastercard24h = day("2022-10-01")
	mastercard30d = day("2023-11-01")
	visa20        = day("2025-05-25")
	brazil7       = day("2023-02-01")
	category1     = []string{"04", "07", "12", "14", "15", "41", "43", "46", "57", "R0", "R1", "R3"}
	macWait       = map[string]time.Duration{"24": time.Hour, "25": 24 * time.Hour, "26": 48 * time.Hour, "27": 96 * time.Hour,
		"28": 144 * time.Hour, "29": 192 * time.Hour, "30": 240 * time.Hour}
	nineHard = []string{"incorrect_number", "lost_card", "pickup_card", "stolen_card", "revocation_of_authorization",
		"revocation_of_all_authorizations", "authentication_required", "highest_risk_level", "transaction_not_allowed"}
)

const days = 24 * time.Hour

// broken names the published limits that one more attempt like q at t would go over.
func broken(history []event, q event, most int, t time.Time) (rules []string) {
	count := func(window time.Duration, counts func(event) bool) (n int) {
		for _, e := range history {
			if e.at.After(t.Add(-window)) && counts(e) {
				n++
			}
		}
		return n
	}
	over := func(rule string, have, limit int) {
		if have+1 > limit {
			rules = append(rules, rule)
		}
	}
	always := 100 * 365 * days
	card := func(e event) bool { return oneCard(q, e) && e.network == q.network }
	same := func(e event) bool { return card(e) && e.amount == q.amount && e.currency == q.currency }
	over("stripe:max_retries_per_charge", count(always, func(e event) bool { return e.payment == q.payment }), most)
	if count(24*time.Hour, func(e event) bool { return oneCard(q, e) && e.err == "card_decline_rate_limit_exceeded" }) > 0 {
		rules = append(rules, "stripe:card_decline_rate_limit_exceeded")
	}
	retries := 0
	for i := len(history) - 1; i >= 0; i-- {
		if e := history[i]; e.payment == q.payment && oneCard(q, e) {
			if retries >= 1 && e.decline == "do_not_honor" && e.err != "card_decline_rate_limit_exceeded" && e.response == "" && e.mac == "" {
				rules = append(rules, "once")
			}
			if slices.Contains(nineHard, e.decline) && e.verdict.Code == e.decline {
				rules = append(rules, "stripe:hard_decline_code")
			}
			retries++
		}
	}
	switch q.network {
	case "visa":
		if count(always, func(e event) bool { return card(e) && slices.Contains(category1, e.response) }) > 0 {
			rules = append(rules, "visa:category_1")
		}
		if t.Before(visa20) {
			over("visa:15", count(30*days, same), 15)
			break
		}
		cit := count(30*days, func(e event) bool { return same(e) && e.by != decline.ByMerchant })
		mit := count(30*days, func(e event) bool { return same(e) && e.by != decline.ByCustomer })
		if q.by != decline.ByMerchant {
			over("visa:20 by the customer", cit, 20)
		}
		over("visa:20 by the merchant", mit, 20)
		if q.country == "BR" {
			over("abecs:20", count(30*days, same), 20)
		}
	case "mastercard":
		switch {
		case q.country == "BR" && !t.Before(brazil7):
			over("abecs:7", count(days, card), 7)
		case t.Before(mastercard24h):
			over("mastercard:20", count(days, card), 20)
		default:
			over("mastercard:10", count(days, card), 10)
		}
		if !t.Before(mastercard30d) || q.country == "BR" {
			over("mastercard:35", count(30*days, same), 35)
		}
		if count(30*days, func(e event) bool { return card(e) && (e.mac == "03" || e.mac == "21") }) > 0 {
			rules = append(rules, "mastercard:mac_03_21")
		}
		for _, e := range history {
			if (same(e) || card(e) && e.payment == q.payment) && t.Before(e.at.Add(macWait[e.mac])) {
				rules = append(rules, "mastercard:mac_"+e.mac)
			}
		}
	case "amex", "discover":
		over("amex:20", count(30*days, same), 20)
	case "elo":
		over("elo:15", count(30*days, same), 15)
		if count(always, func(e event) bool { return card(e) && slices.Contains([]string{"14", "41", "57"}, e.response) }) > 0 {
			rules = append(rules, "elo:irreversible")
		}
	}
	return rules
}

// shape is how one history is drawn: a few cards tried often, or many, in bursts or over months.
type shape struct {
	payments, cards, amounts int
	steps                    []time.Duration
	known                    bool // cards, networks and initiators are known of every attempt
}

func drawHistory(t *rapid.T) ([]event, decline.Rules, shape) {
	pick := func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	s := shape{payments: []int{2, 500, 500, 5000}[pick(4, "payments")], cards: []int{1, 1, 3}[pick(3, "cards")], amounts: []int{1, 1, 2}[pick(3, "amounts")],
		known: rapid.Bool().Draw(t, "known")}
	s.steps = [][]time.Duration{
		{0, time.Second, time.Minute, time.Hour}, {time.Hour, 3 * time.Hour, 4 * time.Hour, 12 * time.Hour},
		{time.Minute, 5 * time.Hour, days, 3 * days, 20 * days},
	}[pick(3, "steps")]
	rules := decline.Rules{MaxRetriesPerCharge: []int{0, 1, 4, 8}[pick(4, "most")]}
	networks := [][]string{{"visa"}, {"mastercard"}, {"visa", "mastercard", "amex", "discover", "elo", "unionpay"}}[pick(3, "networks")]
	calm, usual := rapid.SampledFrom([]bool{true, true, false}).Draw(t, "calm"), rapid.SampledFrom([]string{"", "51"}).Draw(t, "usual")
	at := day([]string{"2022-09-20", "2023-10-15", "2025-05-12", "2026-03-01"}[pick(4, "era")])
	network := make([]string, s.cards)
	for i := range network {
		network[i] = networks[pick(len(networks), "network")]
	}
	country := []string{"US", "US", "BR"}[pick(3, "country")]
	used := map[string]int{}
	history := make([]event, 0, 60)
	for i := range []int{5, 25, 40, 55}[pick(4, "size")] - rapid.IntRange(0, 4).Draw(t, "length") {
		at = at.Add(s.steps[pick(len(s.steps), "step")])
		bits := rapid.Uint64().Draw(t, "attempt") // one draw for all members, spread since rapid prefers small numbers
		bits = (bits ^ bits>>33) * 0xff51afd7ed558ccd
		bits = (bits ^ bits>>33) * 0xc4ceb9fe1a85ec53
		bits ^= bits >> 33
		take := func(n uint64) int { v := bits % n; bits /= n; return int(v) }
		card, payment := take(uint64(s.cards)), take(uint64(s.payments))
		e := event{id: fmt.Sprintf("fl_%02d", i), payment: fmt.Sprintf("pi_%d", payment), at: at, network: network[card], country: country,
			fingerprint: fmt.Sprintf("fp_%d", card), pm: fmt.Sprintf("pm_%d", card), amount: int64(1000 + take(uint64(s.amounts))), currency: "usd",
			by: []decline.Initiator{decline.ByMerchant, decline.ByCustomer, decline.ByUnknown}[take(3)], decline: "insufficient_funds", err: "card_declined", response: usual}
		if s.known && e.by == decline.ByUnknown {
			e.by = decline.ByMerchant
		}
		if what := take(16); !s.known {
			switch what {
			case 0:
				e.fingerprint = ""
			case 1:
				e.fingerprint, e.pm = "", ""
			}
		}
		if what := take(40); !calm || i%9 == 8 {
			switch what {
			case 0, 1:
				e.decline, e.response = "do_not_honor", ""
			case 2:
				e.decline, e.response = "pickup_card", "04"
			case 3:
				e.response, e.decline = []string{"14", "41", "57", "R1", "12"}[take(5)], "generic_decline"
			case 4:
				e.mac = []string{"03", "21"}[take(2)]
			case 5, 6:
				e.mac = fmt.Sprint(24 + take(7))
			case 7:
				e.err, e.decline = "card_decline_rate_limit_exceeded", ""
			case 8:
				e.decline = nineHard[take(9)]
			case 9:
				e.decline = []string{"incorrect_cvc", "expired_card", "fraudulent", "a_new_code"}[take(4)]
			case 10:
				e.decline, e.err = "", "lock_timeout"
			}
		}
		used[e.payment]++
		e.used = used[e.payment]
		e.verdict = rules.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: e.decline, ErrorCode: e.err, MethodType: "card",
			Network: e.network, NetworkDeclineCode: e.response, NetworkAdviceCode: e.mac, AttemptsUsed: e.used, FailedAt: e.at})
		history = append(history, e)
	}
	return history, rules, s
}

// useOf is what a store gives: at most most attempts on the card, the newest, and one with each barring code.
func useOf(history []event, q event, now time.Time, most int) decline.Use {
	var u decline.Use
	seen := map[string]bool{}
	add := func(e event) {
		if !seen[e.id] {
			seen[e.id] = true
			u.Tries = append(u.Tries, e.try())
		}
	}
	n := 0
	codes := map[string]bool{}
	for i := len(history) - 1; i >= 0; i-- {
		e := history[i]
		if e.payment == q.payment {
			add(e)
		}
		if e.key() == "" || e.key() != q.key() {
			continue
		}
		if e.at.After(now.Add(-decline.Lookback())) {
			if n++; n <= most {
				add(e)
			} else if u.Since.IsZero() {
				u.Since = e.at
			}
		}
		if slices.Contains(decline.BarringCodes(q.network), e.response) && !codes[e.response] {
			codes[e.response] = true
			add(e)
		}
	}
	return u
}

func TestNoHistoryYieldsAGrantAboveALimit(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	grants, limits := 0, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		for range 100 { // ten thousand histories, with the usual hundred checks
			history, rules, s := drawHistory(t)
			most := rules.MaxRetriesPerCharge
			if most == 0 {
				most = 4
			}
			after := []time.Duration{0, time.Hour, 23 * time.Hour, 10 * days, 31 * days}[rapid.IntRange(0, 4).Draw(t, "after")]
			seen := rapid.SampledFrom([]int{3, 100, 100, 100}).Draw(t, "seen")
			all, asked := history, rapid.IntRange(0, len(history)-1).Draw(t, "asked")
			for end := len(all); end > 0; end -= 1 + len(all)/6 { // as it stood at several points, for the newest failure or another
				history = all[:end]
				q, now := history[end-1], history[end-1].at.Add(after)
				if asked < end && end%3 == 0 {
					q = history[asked]
				}
				use := useOf(history, q, now, seen)
				d := rules.Decide(q.question(), use, now)
				mu.Lock()
				limits[d.LimitedBy]++
				if d.Verdict == decline.RetryNow || d.Verdict == decline.RetryLater {
					grants++
				}
				mu.Unlock()
				judge(t, d, history, q, most, now)
				if s.known && use.Since.IsZero() {
					notNeedless(t, d, history, q, most, now)
				}
			}
		}
	})
	require.Greater(t, grants, 1000)
	for _, rule := range []string{
		"stripe:max_retries_per_charge", "stripe:hard_decline_code", "stripe:card_decline_rate_limit_exceeded", "frame:one_retry",
		"visa:category_1", "visa:category_2", "visa:category_4", "visa:category_2_to_4_older", "mastercard:declines_24h", "mastercard:declines_24h_older",
		"mastercard:declines_30d", "mastercard:mac_03_21", "mastercard:mac_26", "mastercard:mac_28", "amex:operator_default",
		"elo:declines_30d", "abecs-brazil:mastercard_24h", "abecs-brazil:irreversible", "rebound:card_tried_too_often",
	} {
		require.Positive(t, limits[rule], "no history met %s: the test is blind to it; it met %v", rule, limits)
	}
}

// strict orders verdicts by hand.
var strict = map[decline.RetryVerdict]int{decline.RetryNow: 0, decline.RetryLater: 1, decline.AfterCustomerAction: 2, decline.RetryNever: 3}

func judge(t require.TestingT, d decline.Decision, history []event, q event, most int, now time.Time) {
	own := q.verdict.Retry
	require.GreaterOrEqual(t, strict[d.Verdict], strict[own.Verdict], "looser than the attempt's own verdict")
	require.Equal(t, max(most-d.AttemptsUsed, 0), d.AttemptsLeft)
	if strict[d.Verdict] > 1 {
		require.False(t, d.Allowed)
		require.Zero(t, d.From)
		require.Zero(t, d.NotBefore)
		require.True(t, own.Verdict == d.Verdict || d.LimitedBy != "", "a limit is named")
		return
	}
	require.False(t, d.NotBefore.Before(own.NotBefore), "earlier than the attempt's own time")
	granted := []time.Time{latest(now, d.NotBefore), d.From}
	if d.Allowed {
		granted = append(granted, now)
	}
	for _, at := range granted {
		require.Empty(t, broken(history, q, most, at), "granted at %s, asked at %s: %+v", at, now, d)
	}
}

// notNeedless checks that a retry is put off to the first moment that the rules allow, and no later.
func notNeedless(t require.TestingT, d decline.Decision, history []event, q event, most int, now time.Time) {
	if strict[d.Verdict] > 1 || !d.NotBefore.After(now) || d.NotBefore.Equal(q.verdict.Retry.NotBefore) {
		return
	}
	require.NotEmpty(t, broken(history, q, most, d.NotBefore.Add(-time.Second)), "%s holds longer than any rule: %+v", d.LimitedBy, d)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

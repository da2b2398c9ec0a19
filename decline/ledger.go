package decline

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Initiator says who started an attempt. Visa counts the two kinds apart; an unknown one counts as both.
type Initiator string

// The initiators.
const (
	ByUnknown  Initiator = ""
	ByCustomer Initiator = "customer" // CIT: the customer was there
	ByMerchant Initiator = "merchant" // MIT: a charge in the customer's absence
)

// InitiatorOf reads the initiator off a presence verdict.
func InitiatorOf(presence string) Initiator {
	switch presence {
	case "on_session", "in_person":
		return ByCustomer
	case "off_session":
		return ByMerchant
	}
	return ByUnknown
}

// Try is one failed attempt, reduced to what limits are counted by. Tries that meet in one Use are of one provider,
// account and mode. Empty means unknown.
type Try struct {
	ID        string
	PaymentID string
	Number    int // among the payment's failed attempts, from 1: it orders those of one second
	At        time.Time
	// Card is what the networks count: the fingerprint, else the payment method's id. Fingerprints differ between
	// accounts, and between a card and its wallet numbers, as the networks' own counts do.
	Card     string
	MethodID string
	Amount   int64 // minor units
	Currency string
	By       Initiator
	Network  string // card network, else brand, else that of a bank debit
	Country  string // of the card, ISO 3166-1 alpha-2

	Code               string // the verdict's
	DeclineCode        string
	ErrorCode          string
	FailureCode        string
	NetworkDeclineCode string
	NetworkAdviceCode  string
}

// Question asks whether the payment method of a failed attempt may be tried again, for the same amount.
type Question struct {
	Try
	Retry    Retry // the attempt's own verdict, by Classify
	Category Category
	NextStep NextStep
}

// Use is the use already made of a payment and a card, whoever made it: Stripe, the merchant or the customer. It holds,
// in any order, every failed attempt on the payment, every one on the card later than Since, and of the earlier ones on
// the card at least one with each code of BarringCodes that there is. The attempt asked about may be among them.
type Use struct {
	Tries []Try
	Since time.Time // zero: nothing is missing
}

// Decision is a retry verdict with all limits counted in. Its Retry is never looser than the attempt's own.
type Decision struct {
	Retry
	// Allowed tells whether a retry is within every limit at the moment that was asked about.
	Allowed bool
	// From is the earliest moment at which a retry is within every limit, if nothing else is tried until then; zero
	// when only the customer, or nobody, can help. It differs from NotBefore where "later" has no rule's time.
	From time.Time
	// Rules are the limits that were looked at, as they stand at the moment that was asked about.
	Rules []RuleUse
}

// RuleUse is one limit and the use made of it.
type RuleUse struct {
	Name     string // "visa:category_2"
	Max      int    // failed attempts within Window, or retries after a code; 0: none after the attempt that sets it off
	Used     int    // what counts against Max; of a Max of 0, the attempts that set it off
	Window   time.Duration
	Scope    string // charge, card, card_amount, payment_method
	Limiting bool   // it stands against a retry now
	// Until is when it lets go; zero when it does not limit, or only new payment details help.
	Until                     time.Time
	Meaning, Sources, Edition string
	Status                    string // default: a careful choice where a network publishes none
}

// ledgerWait is what "later" means where no rule gives a time: a day, the commonest of the waits that rules do give.
const ledgerWait = 24 * time.Hour

// Decide gives the strictest of the attempt's own verdict and of every dated limit on the payment and on the card, and
// names it. A limit that holds at the time a retry is put off to puts it off further. What it counts is stricter than
// what networks bill, on purpose: every failed attempt counts, and a retry counts before it is made.
//
// A network's count is of one card on that network; where it counts initiators apart, a retry after a
// merchant-initiated attempt is taken to be one too, and any other may be made by either.
func (r Rules) Decide(q Question, use Use, now time.Time) Decision {
	l := newLedger(r, q, use)
	d := Decision{Retry: q.Retry}
	if d.Verdict == "" {
		d.Verdict = RetryLater
	}
	d.AttemptsUsed = max(q.Retry.AttemptsUsed, len(l.payment))
	d.AttemptsLeft = max(r.maxRetries()-d.AttemptsUsed, 0)
	findings := l.look(now)
	for _, f := range findings {
		d.Rules = append(d.Rules, f.RuleUse)
	}
	from := now
	if q.Retry.NotBefore.After(now) {
		from = q.Retry.NotBefore
	}
	if from = l.settle(&d, findings, from); !d.refused() && q.Retry.Verdict != RetryNow && q.Retry.NotBefore.IsZero() {
		if later := q.At.Add(ledgerWait); later.After(from) {
			from = l.settle(&d, nil, later)
		}
	}
	if d.refused() {
		d.NotBefore, d.Wait = time.Time{}, 0
		return d
	}
	d.From, d.Allowed = from, !from.After(now)
	return d
}

func (d *Decision) refused() bool { return strictness(d.Verdict) > strictness(RetryLater) }

// bar makes the verdict as strict as v, and names the rule.
func (d *Decision) bar(v RetryVerdict, rule string) {
	switch s, was := strictness(v), strictness(d.Verdict); {
	case s > was:
		d.Verdict, d.LimitedBy = v, rule
	case s == was && d.LimitedBy == "":
		d.LimitedBy = rule
	}
}

// settle finds the first moment, not before from, at which no rule limits, and writes the rules that count into d. now
// are the findings of the present; a rule without an end is final whenever it is seen.
func (l *ledger) settle(d *Decision, now []finding, from time.Time) time.Time {
	for _, f := range now {
		if f.verdict != "" {
			d.bar(f.verdict, f.Name)
		}
	}
	for {
		next, rule := from, ""
		for _, f := range l.look(from) {
			if f.verdict != "" {
				d.bar(f.verdict, f.Name)
			}
			if f.Limiting && f.Until.After(next) {
				next, rule = f.Until, f.Name
			}
		}
		if d.refused() || rule == "" {
			return from
		}
		// Every step ends at the moment at which a try leaves a window, of which there are finitely many.
		from = next
		d.Verdict, d.NotBefore, d.Wait, d.LimitedBy = RetryLater, next, next.Sub(l.q.At), rule
	}
}

// finding is a limit with what it makes of the verdict.
type finding struct {
	RuleUse
	verdict RetryVerdict // empty unless it limits without an end in sight
}

// ledger is a question with the use made so far, sorted out.
type ledger struct {
	rules   Rules
	q       Question
	since   time.Time
	payment []Try // on the same payment, newest first
	card    []Try // on the same card, newest first
	network string
	brazil  bool
}

func newLedger(r Rules, q Question, use Use) *ledger {
	l := &ledger{rules: r, q: q, since: use.Since}
	tries := slices.Clone(use.Tries)
	if !slices.ContainsFunc(tries, func(t Try) bool { return t.ID == q.ID }) {
		tries = append(tries, q.Try)
	}
	slices.SortFunc(tries, func(a, b Try) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Number, a.Number), strings.Compare(b.ID, a.ID))
	})
	tries = slices.CompactFunc(tries, func(a, b Try) bool { return a.ID == b.ID })
	l.network, l.brazil = ledgerNetwork(q.Network), q.Country == "BR"
	for _, t := range tries {
		if t.PaymentID == q.PaymentID {
			l.payment = append(l.payment, t)
		}
		if l.sameCard(t) {
			l.card = append(l.card, t)
			// What one report does not say of the card, another may.
			l.network = cmp.Or(l.network, ledgerNetwork(t.Network))
			l.brazil = l.brazil || t.Country == "BR"
		}
	}
	return l
}

// sameCard tells whether a try was, or may have been, made with the card in question. An attempt that does not say its
// card may have been any of its payment's.
func (l *ledger) sameCard(t Try) bool {
	switch {
	case t.ID == l.q.ID, t.Card != "" && t.Card == l.q.Card, t.MethodID != "" && t.MethodID == l.q.MethodID:
		return true
	}
	return t.PaymentID == l.q.PaymentID && (t.Card == "" || l.q.Card == "")
}

func (l *ledger) sameNetwork(t Try) bool {
	return t.Network == "" || ledgerNetwork(t.Network) == l.network
}

func (l *ledger) sameAmount(t Try) bool {
	return t.Amount == l.q.Amount && strings.EqualFold(t.Currency, l.q.Currency)
}

// look reads every limit as it stands, or will stand, at a moment.
func (l *ledger) look(at time.Time) []finding {
	out := make([]finding, 0, 16)
	caps := CapsAt("stripe", at)
	if l.network != "" && l.network != "stripe" && l.network != brazilCaps {
		caps = append(caps, CapsAt(l.network, at)...)
		if l.brazil || l.network == "elo" {
			caps = append(caps, CapsAt(brazilCaps, at)...)
		}
	}
	for _, c := range caps {
		if f, ok := l.read(c, at); ok {
			out = append(out, f)
		}
	}
	if f, ok := l.once(); ok {
		out = append(out, f)
	}
	if f, ok := l.waiting(at); ok {
		out = append(out, f)
	}
	if !l.since.IsZero() && l.since.After(at.Add(-Lookback())) {
		out = append(out, finding{RuleUse: RuleUse{
			Name: "rebound:card_tried_too_often", Used: len(l.card), Max: len(l.card), Window: Lookback(), Scope: scopeCard, Limiting: true, Until: l.since.Add(Lookback()),
			Meaning: "More failed attempts on this card than are counted one by one: no retry until those that are not seen have left every window",
		}})
	}
	return out
}

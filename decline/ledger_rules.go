package decline

import (
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	brazilCaps = "abecs-brazil"

	scopeCharge     = "charge"
	scopeCard       = "card"
	scopeCardAmount = "card_amount"

	category1    = "category_1"
	irreversible = "irreversible"
	rateLimited  = "card_decline_rate_limit_exceeded"
)

// hardCodes are Stripe's nine (docs.stripe.com/billing/revenue-recovery/smart-retries, 2026-09-18). Those marked true
// are about the card, and hold on every payment; the others are about one attempt at one payment. Each counts beside a
// more specific code too: authentication_required often comes with authentication_not_handled.
var hardCodes = map[string]bool{
	"incorrect_number": true, "lost_card": true, "pickup_card": true, "stolen_card": true, "revocation_of_authorization": true,
	"revocation_of_all_authorizations": true, "transaction_not_allowed": true,
	"authentication_required": false, "highest_risk_level": false,
}

// Lookback is how far back attempts on a card can matter to a limit that has a window: the longest of them.
func Lookback() time.Duration { return longestWindow() }

var longestWindow = sync.OnceValue(func() time.Duration {
	var longest time.Duration
	for _, c := range known.caps {
		longest = max(longest, c.Window)
	}
	return longest
})

// BarringCodes are the decline codes of a network after which a card is never tried again, however long ago: Visa's
// category 1, and what ABECS calls irreversible. An empty network means all networks.
func BarringCodes(network string) []string {
	network = ledgerNetwork(network)
	var out []string
	for _, r := range known.rows {
		if r.table == NetworkDeclineCodes && (network == "" || r.network == network) && (r.group == category1 || r.group == irreversible) &&
			!slices.Contains(out, r.code) {
			out = append(out, r.code)
		}
	}
	return out
}

// read looks at one cap of the catalog. It is not ok where the cap is not about this attempt.
func (l *ledger) read(c Cap, at time.Time) (f finding, ok bool) {
	f.RuleUse = RuleUse{Name: c.Network + ":" + c.Rule, Max: c.Max, Window: c.Window, Scope: c.Scope,
		Meaning: c.Meaning, Sources: c.Sources, Edition: c.Edition, Status: c.Status}
	rule := c.Rule
	if c.Network == brazilCaps {
		brand, rest, branded := strings.Cut(rule, "_")
		switch {
		case branded && brand == l.network:
			rule = rest
		case rule != irreversible:
			return f, false // of another brand, or irreversible again
		}
	}
	switch {
	case c.Network == "stripe" && rule == "max_retries_per_charge":
		f.Max, f.Used = l.rules.maxRetries(), max(l.q.Retry.AttemptsUsed, len(l.payment))
		if f.Used >= f.Max {
			f.Limiting, f.verdict = true, l.otherMethod()
		}
		return f, true
	case c.Network == "stripe" && rule == "hard_decline_code":
		return l.barred(f, at, AfterCustomerAction, func(t Try) bool {
			for code, ofCard := range hardCodes {
				if t.says(code) && (ofCard || t.PaymentID == l.q.PaymentID) {
					return true
				}
			}
			return false
		})
	case c.Network == "stripe" && rule == rateLimited:
		return l.barred(f, at, "", func(t Try) bool { return t.says(rateLimited) })
	case rule == "reinitiations":
		for _, t := range l.card {
			if t.PaymentID == l.q.PaymentID {
				f.Used++
			}
		}
		if f.Used >= f.Max {
			f.Limiting, f.verdict = true, l.otherMethod()
		}
		return f, true
	case c.Network == "stripe":
		return f, false // the older page's number and Billing's own policy are settings of max_retries_per_charge
	case rule == category1:
		return l.barred(f, at, l.ofCredential(), func(t Try) bool {
			return l.sameNetwork(t) && NetworkGroup(l.network, t.NetworkDeclineCode) == category1
		})
	case rule == "stop_payment_service":
		return l.barred(f, at, l.ofCredential(), func(t Try) bool {
			return l.sameNetwork(t) && slices.Contains([]string{"R0", "R1", "R3"}, t.NetworkDeclineCode)
		})
	case rule == irreversible:
		return l.barred(f, at, l.ofCredential(), func(t Try) bool {
			return l.sameNetwork(t) && NetworkGroup(l.network, t.NetworkDeclineCode) == irreversible
		})
	case rule == "mac_03_21":
		return l.barred(f, at, l.ofCredential(), func(t Try) bool {
			return l.sameNetwork(t) && (t.NetworkAdviceCode == "03" || t.NetworkAdviceCode == "21")
		})
	case l.network == "visa" && strings.HasPrefix(rule, "category_") && !strings.HasSuffix(rule, "_older") && rule != l.visaCategory():
		return f, false // one count; it is named by the category of this decline
	case c.Max > 0 && c.Window > 0:
		f = l.counted(f, at, countsApart(c))
		if !c.Until.IsZero() && f.Until.After(c.Until) {
			f.Until = c.Until // another limit follows, and is looked at then
		}
		return f, true
	}
	return f, false
}

// BankNetwork names the network whose limits bind debits of a type of payment method; empty where there is none.
func BankNetwork(methodType string) string {
	switch methodType {
	case "us_bank_account", "ach_debit", "ach", "bank_account":
		return "ach"
	}
	return ""
}

// ledgerNetwork brings the spellings of a network in stored rows to the catalog's.
func ledgerNetwork(s string) string { return networkName(strings.ToLower(s)) }

// countsApart tells whether a cap counts customer- and merchant-initiated attempts apart: Visa's, since 2025-05-25.
func countsApart(c Cap) bool { return c.Network == "visa" && !c.Since.IsZero() }

// visaCategory is the category that names Visa's count: category 4 is every code that no other has.
func (l *ledger) visaCategory() string {
	switch g := NetworkGroup("visa", l.q.NetworkDeclineCode); g {
	case "category_2", "category_3":
		return g
	}
	return "category_4"
}

// ofCredential is a network's never: it is about the details as they were sent, so after a data error the customer may
// still bring new ones.
func (l *ledger) ofCredential() RetryVerdict {
	if l.q.Category == DataError {
		return AfterCustomerAction
	}
	return RetryNever
}

// otherMethod is the verdict when this payment method is used up.
func (l *ledger) otherMethod() RetryVerdict {
	if l.q.Category == IntegrationError || l.q.NextStep == NoCustomerAction || l.q.NextStep == CheckExistingPayment {
		return RetryNever
	}
	return AfterCustomerAction
}

func (t Try) says(code string) bool {
	return t.Code == code || t.ErrorCode == code || t.FailureCode == code || t.DeclineCode == code
}

// barred reads a rule that one attempt on the card sets off: for its window, or for ever. With a verdict that is the
// verdict; without one a retry only waits.
func (l *ledger) barred(f finding, at time.Time, v RetryVerdict, setsOff func(Try) bool) (finding, bool) {
	for _, t := range l.card { // newest first
		if !setsOff(t) || f.Window > 0 && !t.At.After(at.Add(-f.Window)) {
			continue
		}
		f.Used++
		f.Limiting, f.verdict = true, v
		if end := t.At.Add(f.Window); v == "" && end.After(f.Until) {
			f.Until = end
		}
	}
	return f, true
}

// counted reads a rule of so many attempts within a window.
func (l *ledger) counted(f finding, at time.Time, apart bool) finding {
	read := func(other Initiator) {
		var within []time.Time
		for _, t := range l.card {
			if l.sameNetwork(t) && t.At.After(at.Add(-f.Window)) && (f.Scope != scopeCardAmount || l.sameAmount(t)) &&
				(other == ByUnknown || t.By != other) {
				within = append(within, t.At)
			}
		}
		f.Used = max(f.Used, len(within))
		if len(within) < f.Max {
			return
		}
		f.Limiting = true
		if end := within[f.Max-1].Add(f.Window); end.After(f.Until) {
			f.Until = end
		}
	}
	switch {
	case !apart:
		read(ByUnknown)
	case l.q.By == ByMerchant:
		read(ByCustomer)
	default: // either may make the next attempt
		read(ByCustomer)
		read(ByMerchant)
	}
	return f
}

// once reads the codes that allow so many retries of their own, such as do_not_honor. It counts on this payment and
// card, from the decline on; the rule that is nearest to its end, or furthest beyond, is the one that is told.
func (l *ledger) once() (f finding, ok bool) {
	retries := -1
	for _, t := range l.card { // newest first
		if t.PaymentID != l.q.PaymentID {
			continue
		}
		retries++
		r := codeBounds().most[t.Code]
		if r == nil || ok && retries-r.max <= f.Used-f.Max {
			continue
		}
		f, ok = finding{RuleUse: RuleUse{Name: r.rule, Max: r.max, Used: retries, Scope: scopeCharge, Limiting: retries >= r.max,
			Meaning: "Retries after " + t.Code, Sources: r.source, Edition: r.edition}}, true
		if f.Limiting {
			f.verdict = l.otherMethod()
		}
	}
	return f, ok
}

// waiting reads the waits that codes and the networks' advice ask for, such as Mastercard's MAC 24 to 30. They hold for
// the card and amount, and for the payment. The longest is the one that is told.
func (l *ledger) waiting(at time.Time) (f finding, ok bool) {
	for _, t := range l.card {
		if t.PaymentID != l.q.PaymentID && !l.sameAmount(t) {
			continue
		}
		for _, r := range []*row{known.networkAdvice[key{ledgerNetwork(t.Network), t.NetworkAdviceCode}], codeBounds().wait[t.Code]} {
			if r == nil || r.wait == 0 {
				continue
			}
			end := t.At.Add(r.wait)
			if !end.After(at) || ok && !end.After(f.Until) {
				continue
			}
			f, ok = finding{RuleUse: RuleUse{Name: r.rule, Used: 1, Window: r.wait, Scope: scopeCardAmount, Limiting: true, Until: end,
				Meaning: r.meaning, Sources: r.source, Edition: r.edition}}, true
		}
	}
	return f, ok
}

// bounds are the rows that bound retries after a code, by the code as a verdict names it: the strictest of each.
type bounds struct{ most, wait map[string]*row }

var codeBounds = sync.OnceValue(func() bounds {
	b := bounds{most: map[string]*row{unknownRow.names: unknownRow}, wait: map[string]*row{}}
	for _, r := range known.rows {
		if r.network != "" {
			continue
		}
		if old := b.most[r.names]; r.max > 0 && (old == nil || r.max < old.max) {
			b.most[r.names] = r
		}
		if old := b.wait[r.names]; r.wait > 0 && (old == nil || r.wait > old.wait) {
			b.wait[r.names] = r
		}
	}
	return b
})

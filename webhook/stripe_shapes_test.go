package webhook

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
	"rebound/store"
)

// told is one failed attempt as a charge's event tells it, an intent's, or both. Its payment's account is acct_1.
type told struct {
	charge, intent, invoice string // '': there is none
	method, methodType      string
	failureCode             string
	outcome                 tree
	code, declineCode       string // of the intent's error
	codes                   tree   // advice and network codes, on both
	created                 int64
	events                  string // what ends its events' ids
	stale                   *told  // whose charge is its intent's latest
	want                    string // the code that it comes to
}

func declined(reason string, codes tree) told {
	return told{
		charge: "ch_1", intent: "pi_1", method: "pm_1", methodType: "card", failureCode: "card_declined", code: "card_declined", declineCode: reason,
		outcome: tree{"type": "issuer_declined", "reason": reason, "network_status": "declined_by_network", "risk_level": "normal"},
		codes:   codes, created: 1772366400, want: reason,
	}
}

func but(f told, change func(*told)) told {
	change(&f)
	return f
}

var toldFailures = map[string]told{
	"a decline": declined("insufficient_funds", tree{"advice_code": "try_again_later", "network_decline_code": "51"}),
	"a renewal": but(declined("do_not_honor", tree{"network_decline_code": "05"}), func(f *told) { f.invoice = "in_1" }),
	"codes that disagree": but(declined("authentication_required", tree{"network_decline_code": "1A"}), func(f *told) {
		f.failureCode, f.code, f.declineCode, f.want = "authentication_required", "authentication_required", "authentication_not_handled", "authentication_not_handled"
	}),
	"a block": but(declined("fraudulent", nil), func(f *told) {
		f.want = "highest_risk_level"
		f.outcome = tree{"type": "blocked", "reason": "highest_risk_level", "network_status": "not_sent_to_network", "risk_level": "highest"}
	}),
	"an authentication failure": but(declined("", nil), func(f *told) {
		f.charge, f.code, f.want = "", "payment_intent_authentication_failure", "payment_intent_authentication_failure"
	}),
	"a bank debit": but(declined("", nil), func(f *told) {
		f.charge, f.methodType, f.outcome, f.failureCode, f.code = "py_1", "sepa_debit", nil, "insufficient_funds", "payment_intent_payment_attempt_failed"
		f.want = "insufficient_funds"
	}),
	"a charge without an intent": but(declined("expired_card", nil), func(f *told) { f.intent, f.invoice = "", "in_1" }),
}

var shapeVersions = []any{
	nil, "2011-06-21", "2012-02-23", "2013-08-13", "2015-02-18", "2016-07-06", "2018-02-28", "2018-11-08", "2019-02-11", "2020-08-27",
	"2022-11-15", "2024-06-20", "2024-12-18.acacia", "2025-03-31.basil", "2025-10-29.clover", "2026-08-26.dahlia",
}

// shapes draws in which version and shape an event tells of a failure. A full one says all that its version has; others
// leave out what some versions and shapes do.
type shapes struct {
	*rand.Rand
	full bool
}

func (s shapes) coin() bool { return s.IntN(2) == 0 }

// ref is null, an id, or the object that has it.
func (s shapes) ref(id string, object tree) any {
	switch {
	case id == "":
		return nil
	case s.coin():
		return id
	}
	object = maps.Clone(object)
	object["id"] = id
	return object
}

func (s shapes) event(t testing.TB, f told, ofCharge bool) []byte {
	version := shapeVersions[s.IntN(len(shapeVersions))]
	v, _ := version.(string)
	e := tree{"object": "event", "api_version": version, "created": f.created, "livemode": true, "request": "req_1"}
	if ofCharge {
		e["id"], e["type"], e["data"] = "evt_charge"+f.events, "charge.failed", tree{"object": s.charge(f, v)}
	} else {
		e["id"], e["type"], e["data"] = "evt_intent"+f.events, "payment_intent.payment_failed", tree{"object": s.intent(f, v)}
	}
	if s.coin() {
		e["request"] = tree{"id": "req_1", "idempotency_key": nil}
	}
	account := s.IntN(3)
	e[[]string{"account", "user_id", "context"}[account]] = []string{"acct_1", "acct_1", "org_1/acct_1"}[account]
	return render(t, e)
}

func (s shapes) instrument(f told) tree {
	if f.methodType != "card" {
		return tree{"last4": "3000", "country": "DE", "fingerprint": "fp_1"}
	}
	return tree{"brand": "visa", "last4": "9995", "country": "DE", "fingerprint": "fp_1", "funding": "credit", "exp_month": 4, "exp_year": 2031}
}

func (s shapes) paymentMethod(f told) tree {
	return tree{
		"id": f.method, "object": "payment_method", "type": f.methodType, "created": 1700000000, "customer": s.ref("cus_1", tree{}), f.methodType: s.instrument(f),
	}
}

func (s shapes) oldCard(f told) tree {
	c := s.instrument(f)
	delete(c, "brand")
	c["id"], c["object"], c["customer"], c[[]string{"brand", "type"}[s.IntN(2)]] = f.method, "card", "cus_1", "Visa"
	return c
}

func (s shapes) charge(f told, version string) tree {
	c := tree{
		"id": f.charge, "object": "charge", "amount": 5400, "currency": "eur", "created": f.created - 2, "livemode": true, "status": "failed",
		"failure_code": f.failureCode, "customer": s.ref("cus_1", tree{"object": "customer", "email": "other@example.com"}), "metadata": tree{}, "fraud_details": tree{},
		"payment_intent": s.ref(f.intent, tree{"object": "payment_intent", "amount": 1, "latest_charge": "ch_9", "customer": "cus_9"}),
	}
	if version < "2025-03-31" || f.intent == "" && s.full {
		c["invoice"] = s.ref(f.invoice, tree{"object": "invoice", "amount_due": 9})
	}
	if f.outcome != nil && (s.full || s.coin()) {
		o := maps.Clone(f.outcome)
		maps.Copy(o, f.codes)
		c["outcome"] = o
		if f.outcome["type"] == "blocked" {
			c["fraud_details"] = tree{"stripe_report": "fraudulent"}
		}
	} else if !s.full && s.coin() {
		c["outcome"], c["failure_code"], c["fraud_details"], c["metadata"] = nil, nil, []any{}, []any{}
	}
	switch {
	case !s.full && s.IntN(4) == 0: // nothing tells with what
	case f.methodType == "card" && version < "2015-02-18" && !s.full:
		c["card"] = s.oldCard(f)
	case f.methodType == "card" && version < "2018-11" && !s.full:
		c["source"] = s.oldCard(f)
	default:
		c["payment_method"] = s.ref(f.method, s.paymentMethod(f))
		c["payment_method_details"] = tree{"type": f.methodType, f.methodType: s.instrument(f)}
	}
	return c
}

func (s shapes) intent(f told, version string) tree {
	e := tree{"type": "card_error", "code": f.code, "payment_method": s.paymentMethod(f)}
	if f.declineCode != "" {
		e["decline_code"] = f.declineCode
	}
	maps.Copy(e, f.codes)
	o := tree{
		"id": f.intent, "object": "payment_intent", "amount": 5400, "currency": "eur", "created": f.created - 10, "livemode": true,
		"customer": s.ref("cus_1", tree{"object": "customer"}), "status": "requires_payment_method", "payment_method": nil, "last_payment_error": e, "metadata": tree{},
	}
	if version < "2025-03-31" {
		o["invoice"] = s.ref(f.invoice, tree{"object": "invoice"})
	} else {
		o["payment_details"] = tree{"order_reference": f.invoice}
	}
	latest := f
	if f.stale != nil {
		latest = *f.stale
	}
	if latest.charge != "" {
		if version < "2022-11-15" {
			o["charges"] = tree{"object": "list", "data": []any{s.charge(latest, version)}}
		} else {
			o["latest_charge"] = s.ref(latest.charge, s.charge(latest, version))
		}
	}
	if f.charge != "" && s.coin() {
		e["charge"] = s.ref(f.charge, tree{"object": "charge"})
	}
	if !s.full && f.methodType == "card" && s.coin() {
		delete(e, "payment_method")
		e["source"] = s.oldCard(f)
	}
	return o
}

// heard decodes an event that it draws, and keeps one rendering in each version, as the store does; a full one for choice.
func (s shapes) heard(t testing.TB, facts []handler.Fact, f told, ofCharge bool) []handler.Fact {
	got := onlyFact(t, s.event(t, f, ofCharge))
	got.ReceivedAt = testNow
	same := func(o handler.Fact) bool { return o.EventID == got.EventID && o.APIVersion == got.APIVersion }
	if s.full {
		facts = slices.DeleteFunc(facts, same)
	}
	if !slices.ContainsFunc(facts, same) {
		facts = append(facts, got)
	}
	s.Shuffle(len(facts), func(i, j int) { facts[i], facts[j] = facts[j], facts[i] })
	return facts
}

func attemptsOf(facts []handler.Fact) []store.Attempt {
	return handler.Derive(facts[0].PaymentKey, facts, nil, decline.Rules{}).Attempts
}

// However many renderings of its two events come, a failure is one record; and what a full one of each says is all that the
// record says, whatever others leave out.
func TestAFailureInAnyShapesIsOneRecord(t *testing.T) {
	t.Parallel()
	for name, f := range toldFailures {
		var whole store.Attempt
		for seed := range uint64(300) {
			s := shapes{Rand: rand.New(rand.NewPCG(seed, 1))}
			var facts []handler.Fact
			for range s.IntN(5) {
				facts = s.heard(t, facts, f, f.intent == "" || f.charge != "" && s.coin())
				require.Len(t, attemptsOf(facts), 1, "%s, seed %d", name, seed)
			}
			s.full = true
			if f.charge != "" {
				facts = s.heard(t, facts, f, true)
			}
			if f.intent != "" {
				facts = s.heard(t, facts, f, false)
			}
			attempts := attemptsOf(facts)
			require.Len(t, attempts, 1, "%s, seed %d", name, seed)
			if seed == 0 {
				whole = attempts[0]
				require.Equal(t, f.want, whole.Code, name)
				require.Equal(t, f.method, whole.MethodID, name)
				require.Equal(t, f.invoice, whole.Invoice, name)
			}
			require.Equal(t, whole, attempts[0], "%s, seed %d", name, seed)
		}
	}
}

// The second attempt of a payment is none of the first's, although its intent may still name the first's charge.
func TestTwoFailuresInAnyShapesAreTwoRecords(t *testing.T) {
	t.Parallel()
	first := declined("insufficient_funds", nil)
	later := func(charge, code string) told {
		return but(declined("", nil), func(f *told) {
			f.charge, f.method, f.code, f.failureCode, f.events = charge, "pm_2", code, code, "_later"
			if f.outcome = nil; charge == "" {
				f.stale = &first
			}
		})
	}
	for name, second := range map[string]told{
		"with a charge":               later("ch_2", "expired_card"),
		"without, of its own code":    later("", "payment_intent_authentication_failure"),
		"without, of another's codes": later("", "payment_method_provider_decline"),
	} {
		for seed := range uint64(600) {
			s := shapes{Rand: rand.New(rand.NewPCG(seed, 2))}
			second.created = first.created + s.Int64N(100)
			var facts []handler.Fact
			for range 1 + s.IntN(4) {
				facts = s.heard(t, facts, first, s.coin())
			}
			for range 1 + s.IntN(4) {
				facts = s.heard(t, facts, second, second.charge != "" && s.coin())
			}
			if !slices.ContainsFunc(facts, func(f handler.Fact) bool { return f.MethodID == first.method }) {
				continue // no word of it tells them apart
			}
			attempts := attemptsOf(facts)
			require.Len(t, attempts, 2, "%s, seed %d", name, seed)
			require.NotContains(t, attempts[0].Events, "evt_intent_later", "%s, seed %d", name, seed)
			require.NotContains(t, attempts[1].Events, "evt_intent", "%s, seed %d", name, seed)
		}
	}
}

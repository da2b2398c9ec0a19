package handler

import (
	"strings"
	"time"

	"rebound/store"
)

// The verdicts on where the customer was.
const (
	OnSession  = "on_session"
	OffSession = "off_session"
	InPerson   = "in_person"
	Unseen     = "unknown"
)

// absentAfter is how long after a failure its first event may arrive and the customer still be thought to be there.
const absentAfter = 10 * time.Minute

// freshMethod is how long before the failure a payment method was made, at most, to show that a person had just typed it.
const freshMethod = 10 * 60 // seconds

// bankDebits fail days after the customer has gone.
var bankDebits = map[string]bool{
	"acss_debit": true, "au_becs_debit": true, "bacs_debit": true, "nz_bank_account": true, "sepa_debit": true,
	"us_bank_account": true, "ach": true, "ach_debit": true, "bank_account": true, "ach_credit_transfer": true,
}

// vouchers are paid at a shop, at a machine or with the bank's app within days: when one expires, the page that showed it was left
// long ago. A Pix code lasts a day unless the merchant says otherwise, ten seconds at least.
var vouchers = map[string]bool{"boleto": true, "konbini": true, "multibanco": true, "oxxo": true, "pix": true}

// mandateCodes say that a recurring authority failed, which only happens where the merchant charged on its own.
var mandateCodes = map[string]bool{
	"payment_intent_mandate_invalid":           true,
	"billing_invalid_mandate":                  true,
	"india_recurring_payment_mandate_canceled": true,
	"transaction_not_approved":                 true,
}

// offCycles are the billing reasons of invoices that Stripe makes on its own.
var offCycles = map[string]bool{
	"subscription_cycle": true, "subscription_threshold": true, "automatic_pending_invoice_item_invoice": true, "subscription": true,
}

// telling is what the facts of a payment, all together, say of where the customer was. It is gathered once: a card tester's
// payment has thousands of attempts, and each would go through the facts of all.
type telling struct {
	session   string  // the merchant's own word, on any event of the payment; the newest stands
	acted     []int64 // when the intent asked for the customer's action
	page      bool    // it is paid on a page of Stripe's
	offCycle  bool    // an invoice that Stripe made on its own
	futureUse bool    // the intent keeps its method for later
}

// tell takes facts in their order, and the order reference that they come to name.
func tell(facts []*Fact, orderReference string) (t telling) {
	t.page = strings.HasPrefix(orderReference, "cs_")
	for _, f := range facts {
		if f.Session == OnSession || f.Session == OffSession {
			t.session = f.Session
		}
		if f.EventType == "payment_intent.requires_action" {
			t.acted = append(t.acted, f.Created)
		}
		t.offCycle = t.offCycle || offCycles[f.BillingReason]
		t.futureUse = t.futureUse || f.Object == "payment_intent" && f.SetupFutureUsage != ""
	}
	return t
}

// presence climbs the evidence ladder for one attempt; the first rung that bears decides. invoiceID is the invoice that the
// payment belongs to, if any, and invoice its state, if known.
func presence(a *attempt, all telling, invoiceID string, invoice *store.Invoice) (verdict string, evidence []string) {
	says := func(verdict, rung, weight string) (string, []string) {
		return verdict, []string{rung + "=" + weight}
	}

	// 1.
	if all.session != "" {
		return says(all.session, "metadata", "strong")
	}
	any := func(test func(*Fact) bool) bool {
		for _, f := range a.facts {
			if test(f) {
				return true
			}
		}
		return false
	}
	code := func(codes ...string) bool {
		return any(func(f *Fact) bool {
			for _, c := range codes {
				if f.ErrorCode == c || f.DeclineCode == c || f.FailureCode == c || f.OutcomeReason == c {
					return true
				}
			}
			return false
		})
	}
	linked := invoiceID != ""

	// 2.
	if any(func(f *Fact) bool { return f.MethodType == "card_present" || f.MethodType == "interac_present" }) {
		return says(InPerson, "in_person", "strong")
	}
	// 3. Nobody is there when a debit bounces or a voucher expires days later, nor when the news is old.
	if any(func(f *Fact) bool { return bankDebits[f.MethodType] }) {
		return says(OffSession, "bank_debit", "strong")
	}
	if !actedBefore(a, all.acted) && any(func(f *Fact) bool {
		return vouchers[f.MethodType] && strings.HasSuffix(f.ErrorCode, "_attempt_expired")
	}) {
		return says(OffSession, "voucher", "strong")
	}
	if late(a.facts) {
		return says(OffSession, "late_event", "strong")
	}
	if isFrame(a.facts[0]) { // its objects say no more than this
		if any(func(f *Fact) bool { return f.Agreement }) {
			return says(OffSession, "billing_agreement", "strong")
		}
		return Unseen, nil
	}
	if any(func(f *Fact) bool { return f.Moto }) {
		return says(OffSession, "moto", "strong") // typed by staff; the customer is on the telephone at best
	}
	// 4. Something that only a person at a page brings about.
	switch {
	case code("payment_intent_authentication_failure"):
		return says(OnSession, "authentication_failure", "strong")
	case any(func(f *Fact) bool {
		return strings.HasPrefix(f.ThreeDSecure, "failed") || f.ThreeDSecureFlow == "challenge"
	}):
		return says(OnSession, "three_d_secure", "strong")
	case !linked && actedBefore(a, all.acted):
		return says(OnSession, "requires_action", "strong")
	case code("payment_method_customer_decline"), any(func(f *Fact) bool { return strings.HasSuffix(f.ErrorCode, "_attempt_expired") }):
		return says(OnSession, "redirect_left", "strong")
	case all.page:
		return says(OnSession, "checkout_session", "strong")
	}
	// 5.
	if all.offCycle || invoice != nil && offCycles[invoice.BillingReason] {
		return says(OffSession, "invoice_cycle", "strong")
	}
	// 6. Stripe acted by itself.
	if any(func(f *Fact) bool { return f.RequestOrigin == "none" }) {
		return says(OffSession, "request_none", "strong")
	}
	// 7.
	if any(func(f *Fact) bool {
		return mandateCodes[f.ErrorCode] || mandateCodes[f.DeclineCode] || mandateCodes[f.FailureCode]
	}) {
		return says(OffSession, "mandate", "strong")
	}
	// 8. off_session=true gives this code where the issuer wants the customer there.
	if code("authentication_required") && !any(func(f *Fact) bool { return f.ThreeDSecure != "" }) {
		return says(OffSession, "authentication_required", "strong")
	}
	// 9. Stripe refuses off_session=true together with setup_future_usage; billing's own intents carry it too.
	// An attempt that has only its charge's facts is told of by the intent's own.
	if !linked && (all.futureUse || any(func(f *Fact) bool { return f.SetupFutureUsage != "" })) {
		return says(OnSession, "setup_future_usage", "strong")
	}
	// 10. A method nobody kept, or one made just now, or a security code that somebody typed.
	switch {
	case any(func(f *Fact) bool { return f.MethodSaved == "no" }):
		return says(OnSession, "unsaved_method", "strong")
	case any(func(f *Fact) bool {
		return f.MethodCreated > 0 && f.Created-f.MethodCreated >= 0 && f.Created-f.MethodCreated <= freshMethod
	}):
		return says(OnSession, "fresh_method", "strong")
	case any(func(f *Fact) bool { return rank(f) == 0 && cvcGiven(f.CVCCheck) }):
		return says(OnSession, "cvc_check", "strong")
	}
	// 11. A kept method, charged without a security code: one-click checkout looks the same, so it is weak.
	if any(func(f *Fact) bool { return f.MethodSaved == "yes" || f.Customer != "" && f.MethodID != "" }) &&
		any(func(f *Fact) bool { return f.Customer != "" }) &&
		any(func(f *Fact) bool { return rank(f) == 0 }) &&
		!any(func(f *Fact) bool { return f.Wallet != "" }) {
		return says(OffSession, "saved_method", "weak")
	}
	return Unseen, nil
}

// cvcGiven tells whether a check result shows that a security code was entered in this attempt.
func cvcGiven(check string) bool { return check == "pass" || check == "fail" || check == "unavailable" }

// late tells whether even the first event of the attempt reached us long after it was made.
func late(facts []*Fact) bool {
	for _, f := range facts {
		if f.ReceivedAt.Sub(time.Unix(f.Created, 0)) <= absentAfter {
			return false
		}
	}
	return true
}

// actedBefore tells whether the intent asked for the customer's action shortly before the attempt failed.
func actedBefore(a *attempt, acted []int64) bool {
	for _, at := range acted {
		if at <= a.created && a.created-at <= int64(absentAfter/time.Second) {
			return true
		}
	}
	return false
}

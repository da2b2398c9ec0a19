package sample

import (
	"maps"
	"time"
)

func issuer(reason, failureCode, advice, issuerCode string) outcome {
	return outcome{
		failureCode: failureCode, message: "The bank declined this payment.", typ: "issuer_declined", reason: reason,
		network: "declined_by_network", risk: "normal", score: 14, advice: advice, issuerCode: issuerCode,
		errorType: "card_error", code: failureCode, decline: reason, text: "The bank declined this payment.",
	}
}

// buildPair is a guest at checkout. setup_future_usage "off_session" on an intent without invoice proves that the
// customer was there: Stripe refuses it together with off_session=true.
func buildPair(p *Payment, now time.Time) {
	p.Charge = p.id("ch_3")
	p.useCard(card{
		brand: "visa", last4: "9995", country: "US", cvc: "pass", created: now.Add(-20 * time.Second),
		email: p.Email, name: "Ada Sample",
	})
	o := issuer("insufficient_funds", "card_declined", "try_again_later", "51")
	request := p.id("req_")
	p.add("charge.failed", now, request, p.charge(o, now, billing(p.Email, "Ada Sample", "US")))
	pi := p.intent(o, now.Add(-30*time.Second))
	pi["setup_future_usage"] = "off_session"
	p.add("payment_intent.payment_failed", now, request, pi)
}

// buildBlock is a card that Radar took for stolen. The intent says fraudulent, the charge only card_declined.
func buildBlock(p *Payment, now time.Time) {
	p.version = "2026-07-29.dahlia"
	p.Charge = p.id("ch_3")
	p.invoice = "cs_test_" + p.letters(30) // of a Checkout session, not an invoice; it stands in the same member
	p.useCard(card{
		brand: "visa", last4: "0019", country: "US", cvc: "unavailable", created: now.Add(-15 * time.Second),
		email: p.Email,
	})
	o := outcome{
		failureCode: "card_declined", message: "Your card was declined.", typ: "blocked",
		reason: "highest_risk_level", network: "not_sent_to_network", risk: "highest", score: 92, fraud: true,
		advice: "do_not_try_again", errorType: "card_error", code: "card_declined", decline: "fraudulent",
		text: "Your card was declined.",
	}
	request := p.id("req_")
	p.add("charge.failed", now, request, p.charge(o, now, billing(p.Email, "", "US")))
	o.advice = "" // the intent does not repeat it
	p.add("payment_intent.payment_failed", now, request, p.intent(o, now.Add(-25*time.Second)))
}

// buildAuthentication is a saved card charged while the customer is away. The two events disagree on the code, the
// error does not name the charge, its message is written for developers, and the intent's event comes in two API
// versions under one id, as when one delivery came by webhook and the other by API.
func buildAuthentication(p *Payment, now time.Time) {
	p.Charge = p.id("ch_3")
	p.Customer = p.id("cus_")[:18]
	p.useCard(card{
		brand: "visa", last4: "3220", country: "IE", saved: true, created: now.Add(-60 * 24 * time.Hour),
		email: p.Email, name: "Mairead Sample",
	})
	o := issuer("authentication_required", "authentication_required", "", "")
	o.message = "This card needs authentication."
	o.decline = "authentication_not_handled"
	o.noCharge = true
	o.text = "Developer text: error_on_requires_action was set and the card needs an action of the customer."
	request := p.id("req_")
	billed := billing(p.Email, "Mairead Sample", "IE")
	p.add("charge.failed", now, request, p.charge(o, now, billed))
	id := p.id("evt_3")
	created := now.Add(-time.Second)
	p.version = "2020-08-27"
	old := p.intent(o, created)
	old["charges"] = object{
		"object": "list", "data": []object{p.charge(o, now, billed)}, "has_more": false, "total_count": 1,
		"url": "/v1/charges?payment_intent=" + p.Intent,
	}
	p.addVersion(id, p.version, "payment_intent.payment_failed", now, request, old)
	p.version = "2025-04-30.basil"
	p.addVersion(id, p.version, "payment_intent.payment_failed", now, request, p.intent(o, created))
}

// buildThreeDSecure is a customer who failed the bank's challenge. No charge was made, so only the intent tells.
func buildThreeDSecure(p *Payment, now time.Time) {
	p.useCard(card{
		brand: "visa", last4: "3220", country: "US", cvc: "unchecked", created: now.Add(-time.Minute),
	})
	o := outcome{
		errorType: "invalid_request_error", code: "payment_intent_authentication_failure",
		text: "The provided payment method failed authentication.",
	}
	p.add("payment_intent.payment_failed", now, p.id("req_"), p.intent(o, now.Add(-90*time.Second)))
}

// buildChargeOnly is the old Charges API with a saved card object. The decline code stands in outcome.reason alone.
func buildChargeOnly(p *Payment, now time.Time) {
	p.Intent, p.ClientSecret = "", ""
	p.Charge = p.id("ch_1")
	p.Customer = p.id("cus_")[:18]
	p.useCard(card{brand: "visa", last4: "0069", country: "US", saved: true, created: now.Add(-900 * 24 * time.Hour)})
	p.method["id"] = p.id("card_1")
	o := issuer("expired_card", "expired_card", "confirm_card_data", "54")
	o.message = "Your card has expired."
	c := p.charge(o, now, billing("", "", "US"))
	c["receipt_email"] = p.Email
	c["source"] = object{
		"id": p.method["id"], "object": "card", "brand": "Visa", "last4": "0069", "exp_month": 4, "exp_year": 2024,
		"customer": p.Customer,
	}
	if details, ok := p.details["card"].(object); ok {
		details["exp_month"], details["exp_year"] = 4, 2024
	}
	p.add("charge.failed", now, p.id("req_"), c)
}

// buildSEPA is a bank debit returned after four days: a py_ id, no outcome, no request, and two codes.
func buildSEPA(p *Payment, now time.Time) {
	made := now.Add(-4 * 24 * time.Hour)
	p.Currency = "eur"
	p.Charge = p.id("py_3")
	p.Customer = p.id("cus_")[:18]
	debit := object{
		"bank_code": "19043", "branch_code": "", "country": "AT", "fingerprint": p.letters(16), "last4": "3202",
	}
	p.method = object{
		"id": p.id("pm_1"), "object": "payment_method", "type": "sepa_debit",
		"created": made.Add(-15 * 24 * time.Hour).Unix(), "customer": p.Customer, "livemode": false,
		"metadata": object{}, "allow_redisplay": "unspecified",
		"billing_details": billing(p.Email, "Jonas Sample", "AT"), "sepa_debit": debit,
	}
	withMandate := object{"mandate": p.id("mandate_1")}
	maps.Copy(withMandate, debit)
	p.details = object{"type": "sepa_debit", "sepa_debit": withMandate}
	o := outcome{
		failureCode: "incorrect_account_holder_name", message: "The account holder's name is wrong.",
		errorType: "invalid_request_error", code: "payment_intent_payment_attempt_failed",
		text: "The payment attempt failed.",
	}
	c := p.charge(o, made, billing(p.Email, "Jonas Sample", "AT"))
	c["failure_balance_transaction"] = p.id("txn_3")
	p.add("charge.failed", now, "", c)
	p.add("payment_intent.payment_failed", now, "", p.intent(o, made.Add(-10*time.Second)))
}

// buildRenewal is Stripe Billing renewing a subscription by itself. setup_future_usage proves nothing here.
func buildRenewal(p *Payment, now time.Time) {
	p.version = "2026-07-29.dahlia"
	p.Charge = p.id("ch_3")
	p.Customer = p.id("cus_")[:18]
	p.invoice = p.id("in_1")
	p.useCard(card{
		brand: "mastercard", last4: "0341", country: "US", saved: true, created: now.Add(-200 * 24 * time.Hour),
	})
	o := issuer("do_not_honor", "card_declined", "try_again_later", "05")
	o.macCode = "02"
	c := p.charge(o, now, billing("", "", "US"))
	c["description"] = "Subscription update"
	p.add("charge.failed", now, "", c)
	pi := p.intent(o, now.Add(-time.Hour))
	pi["description"] = "Subscription update"
	pi["setup_future_usage"] = "off_session"
	pi["receipt_email"] = p.Email
	p.add("payment_intent.payment_failed", now, "", pi)
}

// buildConnect is a charge on a connected account that Stripe did not send to the network because approval was
// unlikely: a block, but no fraud.
func buildConnect(p *Payment, now time.Time) {
	p.version = "2026-07-29.dahlia"
	p.Account = p.id("acct_1")[:21]
	p.Charge = p.id("ch_3")
	p.Customer = p.id("cus_")[:18]
	p.useCard(card{brand: "visa", last4: "4242", country: "US", saved: true, created: now.Add(-90 * 24 * time.Hour)})
	o := outcome{
		failureCode: "card_declined", message: "Your card was declined.", typ: "blocked",
		reason: "low_probability_of_authorization", network: "not_sent_to_network", risk: "normal",
		advice: "do_not_try_again",
	}
	c := p.charge(o, now, billing("", "", "US"))
	c["receipt_email"] = p.Email
	p.add("charge.failed", now, p.id("req_"), c)
}

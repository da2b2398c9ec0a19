package sample

import "time"

// object is a JSON object of a sample event.
type object = map[string]any

// outcome is why an attempt failed, as the two events of the attempt say it.
type outcome struct {
	failureCode string // charge.failure_code
	message     string // meant for the merchant
	typ         string // charge.outcome.type; empty: no outcome at all
	reason      string
	network     string // charge.outcome.network_status
	risk        string
	score       int
	fraud       bool   // Radar reports the charge as fraudulent
	advice      string // advice_code
	macCode     string // network_advice_code
	issuerCode  string // network_decline_code

	errorType string // last_payment_error.type
	code      string // last_payment_error.code
	decline   string // last_payment_error.decline_code
	noCharge  bool   // last_payment_error does not name the charge
	text      string // last_payment_error.message
}

// orNull is a JSON string, or null for an empty one.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func address(country string) object {
	return object{"city": nil, "country": orNull(country), "line1": nil, "line2": nil, "postal_code": nil, "state": nil}
}

func billing(email, name, country string) object {
	return object{"address": address(country), "email": orNull(email), "name": orNull(name), "phone": nil, "tax_id": nil}
}

// card describes the card that is used in a case.
type card struct {
	brand, last4, country string
	cvc                   string // cvc_check of the charge: the customer typed one in for this attempt
	saved                 bool   // attached to the customer
	created               time.Time
	email, name           string // billing details
}

// useCard fills in the payment's method in both shapes: as the intent's error carries it and as the charge does.
func (p *Payment) useCard(c card) {
	fingerprint := p.letters(16)
	checks := func(cvc string) object {
		return object{"address_line1_check": nil, "address_postal_code_check": nil, "cvc_check": orNull(cvc)}
	}
	customer := ""
	oldCVC := c.cvc
	if c.saved {
		customer = p.Customer
		oldCVC = "pass" // from when it was saved: it says nothing of this attempt
	}
	p.method = object{
		"id": p.id("pm_1"), "object": "payment_method", "type": "card", "created": c.created.Unix(),
		"customer": orNull(customer), "livemode": false, "metadata": object{}, "allow_redisplay": "unspecified",
		"billing_details": billing(c.email, c.name, c.country),
		"card": object{
			"brand": c.brand, "display_brand": c.brand, "checks": checks(oldCVC), "country": c.country,
			"exp_month": 8, "exp_year": 2031, "fingerprint": fingerprint, "funding": "credit",
			"generated_from": nil, "last4": c.last4, "networks": object{"available": []string{c.brand}, "preferred": nil},
			"three_d_secure_usage": object{"supported": true}, "wallet": nil,
		},
	}
	p.details = object{
		"type": "card",
		"card": object{
			"amount_authorized": nil, "authorization_code": nil, "brand": c.brand, "checks": checks(c.cvc),
			"country": c.country, "exp_month": 8, "exp_year": 2031, "fingerprint": fingerprint, "funding": "credit",
			"installments": nil, "last4": c.last4, "mandate": nil, "network": c.brand,
			"network_token": object{"used": false}, "network_transaction_id": nil, "regulated_status": "unregulated",
			"three_d_secure": nil, "wallet": nil,
		},
	}
}

// charge is the failed charge of one attempt.
func (p *Payment) charge(o outcome, created time.Time, billed object) object {
	c := object{
		"id": p.Charge, "object": "charge", "amount": p.Amount, "amount_captured": 0, "amount_refunded": 0,
		"application": nil, "application_fee": nil, "application_fee_amount": nil, "balance_transaction": nil,
		"billing_details": billed, "calculated_statement_descriptor": "DEMO SHOP", "captured": false,
		"created": created.Unix(), "currency": p.Currency, "customer": orNull(p.Customer), "description": nil,
		"disputed": false, "failure_balance_transaction": nil, "failure_code": o.failureCode,
		"failure_message": o.message, "fraud_details": object{}, "livemode": false, "metadata": object{},
		"on_behalf_of": nil, "outcome": nil, "paid": false, "payment_intent": orNull(p.Intent),
		"payment_method": p.method["id"], "payment_method_details": p.details, "radar_options": object{},
		"receipt_email": nil, "receipt_number": nil, "receipt_url": nil, "refunded": false, "review": nil,
		"shipping": nil, "source": nil, "source_transfer": nil, "statement_descriptor": nil,
		"statement_descriptor_suffix": nil, "status": "failed", "transfer_data": nil, "transfer_group": nil,
	}
	if o.typ != "" {
		out := object{
			"type": o.typ, "reason": o.reason, "network_status": o.network, "risk_level": o.risk,
			"seller_message": "The payment did not go through (" + o.reason + ").",
			"advice_code":    orNull(o.advice), "network_advice_code": orNull(o.macCode),
			"network_decline_code": orNull(o.issuerCode),
		}
		if o.score > 0 {
			out["risk_score"] = o.score
		}
		c["outcome"] = out
	}
	if o.fraud {
		c["fraud_details"] = object{"stripe_report": "fraudulent"}
	}
	if !newShape(p.version) {
		c["invoice"] = nil
	}
	return c
}

// intent is the payment intent after a failed attempt.
func (p *Payment) intent(o outcome, created time.Time) object {
	failure := object{
		"type": o.errorType, "code": o.code, "message": o.text, "payment_method": p.method,
		"doc_url": "https://stripe.com/docs/error-codes/" + hyphenated(o.code),
	}
	// Members of this object that have no value are left out, not null.
	for key, value := range map[string]string{
		"decline_code": o.decline, "advice_code": o.advice, "network_advice_code": o.macCode,
		"network_decline_code": o.issuerCode,
	} {
		if value != "" {
			failure[key] = value
		}
	}
	if p.Charge != "" && !o.noCharge {
		failure["charge"] = p.Charge
	}
	pi := p.bareIntent("requires_payment_method", created)
	pi["last_payment_error"] = failure
	pi["latest_charge"] = orNull(p.Charge)
	return pi
}

func (p *Payment) bareIntent(status string, created time.Time) object {
	methodType, _ := p.method["type"].(string)
	pi := object{
		"id": p.Intent, "object": "payment_intent", "amount": p.Amount, "amount_capturable": 0,
		"amount_details": object{"tip": object{}}, "amount_received": 0, "application": nil,
		"application_fee_amount": nil, "automatic_payment_methods": nil, "canceled_at": nil,
		"cancellation_reason": nil, "capture_method": "automatic_async", "client_secret": orNull(p.ClientSecret),
		"confirmation_method": "automatic", "created": created.Unix(), "currency": p.Currency,
		"customer": orNull(p.Customer), "description": nil, "last_payment_error": nil, "latest_charge": nil,
		"livemode": false, "metadata": object{}, "next_action": nil, "on_behalf_of": nil, "payment_method": nil,
		"payment_method_configuration_details": nil, "payment_method_options": object{},
		"payment_method_types": []string{methodType}, "processing": nil, "receipt_email": nil, "review": nil,
		"setup_future_usage": nil, "shipping": nil, "source": nil, "statement_descriptor": nil,
		"statement_descriptor_suffix": nil, "status": status, "transfer_data": nil, "transfer_group": nil,
	}
	if methodType == "card" {
		pi["payment_method_options"] = object{"card": object{
			"installments": nil, "mandate_options": nil, "network": nil, "request_three_d_secure": "automatic",
		}}
	}
	if newShape(p.version) {
		pi["customer_account"] = nil
		pi["excluded_payment_method_types"] = nil
		pi["payment_details"] = object{"customer_reference": nil, "order_reference": orNull(p.invoice)}
	} else {
		pi["invoice"] = orNull(p.invoice)
	}
	return pi
}

// newShape tells whether a version's objects have lost the invoice field (2025-03-31 removed it).
func newShape(version string) bool { return version >= "2025-03-31" }

func hyphenated(code string) string {
	b := []byte(code)
	for i := range b {
		if b[i] == '_' {
			b[i] = '-'
		}
	}
	return string(b)
}

package sample

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Result is one way in which a try to pay at the demo shop can end.
type Result struct {
	Name  string
	Title string // what a visitor of the shop picks
	Card  string // last four digits of the test card that does the same at Stripe
	fails func() outcome
}

var results = []Result{
	{"insufficient-funds", "Not enough money on the card", "9995", func() outcome {
		return issuer("insufficient_funds", "card_declined", "try_again_later", "51")
	}},
	{"expired-card", "Expired card", "0069", func() outcome {
		return issuer("expired_card", "expired_card", "confirm_card_data", "54")
	}},
	{"wrong-cvc", "Wrong security code", "0127", func() outcome {
		return issuer("incorrect_cvc", "incorrect_cvc", "confirm_card_data", "N7")
	}},
	{"stolen-card", "Stolen card (the customer reads only: declined)", "9979", func() outcome {
		return issuer("stolen_card", "card_declined", "do_not_try_again", "43")
	}},
	{"three-d-secure", "The bank's 3-D Secure check fails", "3220", func() outcome {
		return outcome{
			errorType: "invalid_request_error", code: "payment_intent_authentication_failure",
			text: "The provided payment method failed authentication.",
		}
	}},
	{"success", "The payment goes through", "4242", nil},
}

// Results lists how a try to pay at the demo shop can end. The last one is success.
func Results() []Result { return slices.Clone(results) }

// Checkout opens a payment at the demo shop: a guest's payment intent, not tried yet and without events.
func Checkout(p Params) *Payment {
	return newPayment("checkout", p)
}

// Try makes the events of one more attempt on a payment opened by Checkout, with the named result, and returns only
// those. It returns none for a name that Results does not list.
func (p *Payment) Try(result string, now time.Time) []Event {
	i := slices.IndexFunc(results, func(r Result) bool { return r.Name == result })
	if i < 0 {
		return nil
	}
	// Attempts of one second have no order that events could tell; a person is not that quick.
	if next := p.lastTry.Add(time.Second); now.Before(next) {
		now = next
	}
	p.lastTry = now.Truncate(time.Second)
	r := results[i]
	cvc := "pass"
	if r.Name == "wrong-cvc" {
		cvc = "fail"
	}
	p.useCard(card{
		brand: "visa", last4: r.Card, country: "US", cvc: cvc, created: now.Add(-5 * time.Second),
		email: p.Email, name: "Robin Sample",
	})
	if r.fails == nil {
		return p.Succeed(now)
	}
	before := len(p.Events)
	request := p.id("req_")
	o := r.fails()
	p.Charge = ""
	if o.failureCode != "" {
		p.Charge = p.id("ch_3")
		p.add("charge.failed", now, request, p.charge(o, now, billing(p.Email, "Robin Sample", "US")))
	}
	p.add("payment_intent.payment_failed", now, request, p.intent(o, now.Add(-30*time.Second)))
	return p.Events[before:]
}

// Resume stands for a payment that is known by its id and price alone, such as one that an earlier run has made, so
// that Succeed can recover it.
func Resume(paymentID string, amount int64, currency, customer string, p Params) *Payment {
	payment := newPayment("resume/"+paymentID, p)
	payment.Intent, payment.ClientSecret = "", "" // the real one is not known, and some intents carry none
	if strings.HasPrefix(paymentID, "pi_") {
		payment.Intent = paymentID
	} else {
		payment.Charge = paymentID
	}
	payment.Amount, payment.Currency, payment.Customer = amount, currency, customer
	return payment
}

// Succeed makes the events of an attempt that goes through with a new card, and returns only those: they recover the
// payment. A payment without intent gets the success of its own charge.
func (p *Payment) Succeed(now time.Time) []Event {
	before := len(p.Events)
	request := p.id("req_")
	p.useCard(card{
		brand: "visa", last4: "4242", country: "US", cvc: "pass", created: now.Add(-5 * time.Second), email: p.Email,
	})
	if p.Intent != "" {
		p.Charge = p.id("ch_3")
	}
	c := p.charge(outcome{
		typ: "authorized", network: "approved_by_network", risk: "normal", score: 9,
	}, now, billing(p.Email, "", "US"))
	maps.Copy(c, object{
		"status": "succeeded", "paid": true, "captured": true, "amount_captured": p.Amount,
		"balance_transaction": p.id("txn_3"), "failure_code": nil, "failure_message": nil,
	})
	if out, ok := c["outcome"].(object); ok {
		out["reason"] = nil
		out["seller_message"] = "Payment complete."
	}
	p.add("charge.succeeded", now, request, c)
	if p.Intent == "" {
		return p.Events[before:]
	}
	pi := p.bareIntent("succeeded", now.Add(-30*time.Second))
	pi["amount_received"] = p.Amount
	pi["latest_charge"] = p.Charge
	pi["payment_method"] = p.method["id"]
	p.add("payment_intent.succeeded", now, request, pi)
	return p.Events[before:]
}

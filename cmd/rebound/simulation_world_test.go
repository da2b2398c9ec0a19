package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// worldEvent is one event of a simulated provider.
type worldEvent struct {
	name    string // for the log, and part of the id
	payment string // what the ids of its payment end in, or go on from
	frame   bool
	created int64
	body    []byte
}

type fields = map[string]any

// world makes the events of a few payments. Which payments, attempts and ends there are, and what is told of them, is
// drawn from the seed.
type world struct {
	rng     *rand.Rand
	now     int64
	payment string
	live    bool // the payment is of the mode in which nobody is to be told
	events  []worldEvent
}

func newWorld(rng *rand.Rand, base int64) []worldEvent {
	w := &world{rng: rng}
	for i := range 3 + rng.IntN(4) {
		w.now, w.payment, w.live = base+int64(rng.IntN(3)), fmt.Sprintf("p%d", i), w.sometimes(6)
		if w.sometimes(7) {
			w.framePayment(w.payment)
		} else {
			w.stripePayment(w.payment)
		}
	}
	return w.events
}

// sometimes is true once in n times.
func (w *world) sometimes(n int) bool { return w.rng.IntN(n) == 0 }

func (w *world) pick(of ...string) string { return of[w.rng.IntN(len(of))] }

// later moves the world's time; events of one second are common.
func (w *world) later() { w.now += int64(w.rng.IntN(3)) }

// add makes an event; version is empty for Frame, whose data is the object itself.
func (w *world) add(name, version, eventType string, request any, object fields) {
	event := fields{"id": "evt_" + name, "object": "event", "created": w.now, "livemode": w.live, "type": eventType, "data": object}
	if version != "" {
		event["api_version"], event["request"], event["data"] = version, fields{"id": request}, fields{"object": object}
	}
	body, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	w.events = append(w.events, worldEvent{name: name, payment: w.payment, frame: version == "", created: w.now, body: body})
}

func (w *world) stripePayment(p string) {
	chargeOnly, version := w.sometimes(6), "2024-06-20"
	if w.sometimes(5) {
		version = "2025-04-30.basil"
	}
	customer, address, invoice, amount := "cus_"+p, p+"@example.com", "", 1000+w.rng.IntN(9000)
	if w.sometimes(3) {
		customer, amount = "cus_shared", 4200 // a success of one supersedes the mail of another
	}
	if w.sometimes(4) { // nothing but the customer's own event tells the address
		w.add("cus"+p, version, "customer.updated", nil, fields{"id": customer, "object": "customer", "email": address})
		address = ""
	}
	if !chargeOnly && w.sometimes(4) {
		invoice, version = "in_"+p, "2024-06-20"
	}
	atPage := w.sometimes(6) || w.live && w.sometimes(2)
	var request any // null: nobody was there
	if w.sometimes(4) {
		request = "req_" + p
	}
	object := func(kind, id string) fields {
		f := fields{"id": id, "object": kind, "amount": amount, "currency": "usd", "created": w.now, "customer": customer}
		if address != "" {
			f["receipt_email"] = address
		}
		if invoice != "" {
			f["invoice"] = invoice
		}
		said := fields{}
		if atPage {
			said["session"] = "on_session"
		}
		if w.sometimes(3) { // not each of the payment's events says it
			said["locale"] = w.pick("de", "fr")
		}
		f["metadata"] = said
		return f
	}
	intent := func() fields { return object("payment_intent", "pi_"+p) }
	for n := range 1 + w.rng.IntN(3) {
		if customer != "cus_shared" {
			amount += 100 // the basket grows between attempts: events do not agree on all that they say of a payment
		}
		name := fmt.Sprintf("%s_%d", p, n)
		code := w.pick("insufficient_funds", "do_not_honor", "expired_card", "stolen_card", "authentication_required")
		method := fields{"id": "pm_" + name, "object": "payment_method", "type": "card", "customer": customer, "created": w.now - 90000}
		if !chargeOnly && w.sometimes(8) { // the bank's challenge was failed, so there is no charge
			i := intent()
			i["last_payment_error"] = fields{"type": "invalid_request_error", "code": "payment_intent_authentication_failure", "payment_method": method}
			w.add("3ds"+name, version, "payment_intent.payment_failed", request, i)
			w.later()
			continue
		}
		told := w.rng.IntN(5) // 0: the charge alone, 1: the intent alone, else both
		if chargeOnly || told != 1 {
			c := object("charge", "ch_"+name)
			c["payment_method"], c["failure_code"] = method["id"], "card_declined"
			c["outcome"] = fields{"type": "issuer_declined", "reason": code, "network_decline_code": w.pick("05", "51")}
			c["payment_method_details"] = fields{"type": "card", "card": fields{"brand": "visa", "last4": "4242"}}
			if !chargeOnly {
				c["payment_intent"] = "pi_" + p
			}
			w.add("c"+name, version, "charge.failed", request, c)
		}
		if !chargeOnly && told != 0 {
			failure := fields{"type": "card_error", "code": "card_declined", "decline_code": code, "payment_method": method}
			if w.sometimes(2) {
				failure["charge"] = "ch_" + name
			}
			i := intent()
			i["last_payment_error"], i["latest_charge"] = failure, "ch_"+name
			w.add("i"+name, version, "payment_intent.payment_failed", request, i)
			if w.sometimes(5) { // the same event in another version
				delete(i, "latest_charge")
				w.add("i"+name, "2020-08-27", "payment_intent.payment_failed", request, i)
			}
		}
		w.later()
		if !chargeOnly && w.sometimes(4) { // the customer tries again, and the bank asks who that is
			i := intent()
			i["status"] = "requires_action"
			w.add("ask"+name, version, "payment_intent.requires_action", request, i)
			w.later()
		}
	}
	if invoice != "" {
		in := fields{"id": invoice, "object": "invoice", "payment_intent": "pi_" + p, "billing_reason": "subscription_cycle", "status": "open", "customer": customer}
		w.add("in"+p, version, "invoice.payment_failed", nil, in)
		if w.sometimes(3) {
			in["status"] = w.pick("paid", "void")
			w.later()
			w.add("inend"+p, version, map[any]string{"paid": "invoice.paid", "void": "invoice.voided"}[in["status"]], nil, in)
		}
	}
	if chargeOnly {
		return
	}
	i := intent()
	switch w.rng.IntN(8) {
	case 0, 1, 2:
		i["status"], i["latest_charge"] = "succeeded", "ch_"+p+"_ok"
		w.add("ok"+p, version, "payment_intent.succeeded", nil, i)
		if w.sometimes(2) {
			c := object("charge", "ch_"+p+"_ok")
			c["payment_intent"], c["status"], c["paid"] = "pi_"+p, "succeeded", true
			w.add("okc"+p, version, "charge.succeeded", nil, c)
		}
	case 3:
		i["status"] = "canceled"
		w.add("end"+p, version, "payment_intent.canceled", nil, i)
	case 4:
		i["status"] = "requires_action"
		w.add("wait"+p, version, "payment_intent.requires_action", nil, i)
	}
}

// framePayment is a payment at Frame, told by its charge, its transfer and its intent, or by some of them.
func (w *world) framePayment(p string) {
	object := func(kind, id, status string) fields {
		return fields{
			"id": id, "object": kind, "amount": 900, "currency": "usd", "status": status, "created": w.now,
			"metadata": fields{"session": "off_session", "email": p + "@example.com"},
		}
	}
	intent := func(status string) fields {
		i := object("charge_intent", "ci_"+p, status)
		i["customer"] = fields{"id": "cus_" + p, "object": "customer", "email": p + "@example.com"}
		return i
	}
	if !w.sometimes(4) {
		c := object("charge", "fch_"+p, "failed")
		c["charge_intent"], c["customer"], c["failure_code"] = "ci_"+p, "cus_"+p, w.pick("insufficient_funds", "do_not_honor", "stolen_card")
		w.add("fc"+p, "", "charge.failed", nil, c)
		w.later()
	}
	if !w.sometimes(3) {
		t := object("transfer", "ftr_"+p, "failed")
		t["charge_intent"] = "ci_" + p
		w.add("ft"+p, "", "transfer.failed", nil, t)
		w.later()
	}
	w.add("fi"+p, "", "charge_intent.payment_failed", nil, intent("incomplete"))
	w.later()
	if w.sometimes(3) {
		w.add("fok"+p, "", "charge_intent.succeeded", nil, intent("succeeded"))
	}
}

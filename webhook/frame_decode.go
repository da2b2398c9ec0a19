package webhook

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"rebound/handler"
)

const sourceFrame = "frame"

// frameEnd is what an event says of the attempt that it tells of.
type frameEnd int

const (
	frameOther frameEnd = iota // it waits for the customer, or was given up
	frameFailed
	frameSucceeded
)

// frameTypes are the event types that are used. There is no complete public list of Frame's types; the others that are
// known (created, pending, refunded, disputes, customers, invoices…) say nothing that Rebound acts on.
var frameTypes = map[string]frameEnd{
	"charge.failed":                         frameFailed,
	"transfer.failed":                       frameFailed, // also of a payout, which is told apart by its object
	"charge_intent.payment_failed":          frameFailed,
	"charge_intent.requires_action":         frameOther,
	"charge_intent.payment_action_required": frameOther,
	"charge.succeeded":                      frameSucceeded,
	"charge.captured":                       frameSucceeded,
	"charge_intent.succeeded":               frameSucceeded,
	"transfer.succeeded":                    frameSucceeded,
	"transfer.completed":                    frameSucceeded, // its older name
	"charge_intent.canceled":                frameOther,
	"charge_intent.expired":                 frameOther,
}

// frameResource is the resource that a type is about, if it is one of the three that make up a payment:
// charge.dispute.created is not about a charge.
func frameResource(eventType string) string {
	resource, action, _ := strings.Cut(eventType, ".")
	if strings.Contains(action, ".") {
		return ""
	}
	switch resource {
	case "charge", "transfer", "charge_intent":
		return resource
	}
	return ""
}

// fraudStatus says that a status is a fraud signal: fraud_declined, fraud_review, and what may be added beside them.
func fraudStatus(status string) bool { return strings.HasPrefix(status, "fraud_") }

// maxAhead is how far ahead of our clock an event's time may lie. One further ahead would be the newest of its payment
// until then.
const maxAhead = 24 * time.Hour

// DecodeFrame reduces a Frame event, in any of its known envelopes, to what Rebound keeps. An event gives one fact if its
// type is used, or if its charge, transfer or intent has a fraud status, whatever its type; otherwise it gives nothing.
// One of a used type whose body has no usable object comes to a quarantined copy without its secrets. The mode is the
// envelope's, else the object's, else that of the charge or method inside it, else livemode. The error is ErrUnreadable,
// wrapped. Nothing returned shares memory with body.
func DecodeFrame(body []byte, opts DecodeOptions, livemode bool) (handler.Delivery, Outcome, error) {
	r := newReader(body)
	defer r.release()
	r.keyed = opts.HashClientSecret

	var e frameEvent
	e.read(r, metadataKeys{session: opts.SessionKey, email: opts.EmailKey, locale: opts.LocaleKey})
	if err := r.end(); err != nil {
		// The parser's own words may quote the body.
		return handler.Delivery{}, Outcome{}, fmt.Errorf("%w: it is not one JSON document", ErrUnreadable)
	}
	if e.id == "" || e.eventType == "" {
		return handler.Delivery{}, Outcome{}, fmt.Errorf("%w: it has no id or no type", ErrUnreadable)
	}
	e.settle(opts, livemode)

	out := Outcome{
		EventID: e.id, EventType: e.eventType, Livemode: e.livemode.is, Created: e.created, ObjectID: e.object.id,
		Use: Ignored, Masked: r.masked,
	}
	end, used := frameTypes[e.eventType]
	if !used && (frameResource(e.eventType) == "" || !fraudStatus(e.object.status)) {
		return handler.Delivery{}, out, nil
	}
	out.Misfits = r.misfits

	switch {
	case !e.hasObject:
		out.Reason = "no_object"
	case e.object.id == "":
		out.Reason = "no_object_id"
	}
	if out.Reason != "" {
		q := handler.Quarantined{Source: sourceFrame, EventID: e.id, EventType: e.eventType, Reason: out.Reason}
		q.Body, out.Masked = withoutSecrets(body)
		out.Use = Quarantined
		return handler.Delivery{Quarantine: &q}, out, nil
	}

	f := e.fact(end)
	if !used && f.Status != "fraud_declined" { // that one is a refusal, whatever the event is called
		f = screened(f)
	} else if s := e.object.clientSecret; s != "" && f.Object != "payout" && opts.HashClientSecret != nil {
		f.ClientSecretHash = opts.HashClientSecret(s)
	}
	out.PaymentID, out.Use = f.PaymentID, Used
	return handler.Delivery{Facts: []handler.Fact{f}}, out, nil
}

// screened is what is kept of an event that is read for its fraud status alone and reports no failure: a recipient, a
// language or a sign of presence that it has besides would be known of screened payments only.
func screened(f handler.Fact) handler.Fact {
	return handler.Fact{
		PaymentKey: f.PaymentKey, EventID: f.EventID, EventType: f.EventType, Created: f.Created,
		Object: f.Object, ObjectID: f.ObjectID, Status: f.Status, PaymentIntent: f.PaymentIntent, Charge: f.Charge, Transfer: f.Transfer,
	}
}

// frameEvent is the envelope with its object.
type frameEvent struct {
	id, eventType        string
	created, createdAtom int64 // created, created_at
	livemode             mode
	object               frameObject
	hasObject            bool
}

func (e *frameEvent) read(r *reader, keys metadataKeys) {
	r.object("event", func(member []byte) {
		switch string(member) {
		case "id":
			r.id("event.id", &e.id)
		case "type":
			r.id("event.type", &e.eventType)
		case "created":
			r.time("event.created", &e.created)
		case "created_at":
			r.time("event.created_at", &e.createdAtom)
		case "livemode":
			e.livemode.read(r, "event.livemode")
		case "data":
			e.hasObject = keys.frameObject(r, "event.data", &e.object, frameData)
		default:
			r.skip()
		}
	})
}

// settle decides what the envelope left open.
func (e *frameEvent) settle(opts DecodeOptions, livemode bool) {
	o := &e.object
	for _, m := range []mode{o.livemode, o.anyCharge().livemode, o.details.livemode, o.source.livemode, o.method.livemode, {true, livemode}} {
		if !e.livemode.said {
			e.livemode = m
		}
	}
	now := time.Now
	if opts.Now != nil {
		now = opts.Now
	}
	e.created = cmp.Or(e.created, e.createdAtom)
	if e.created == 0 || e.created > now().Add(maxAhead).Unix() {
		e.created = now().Unix()
	}
}

// fact is what the event says. An account is the payer, not a connected account: it stands in for the customer, and never
// files the payment.
func (e *frameEvent) fact(end frameEnd) handler.Fact {
	o := &e.object
	f := handler.Fact{
		PaymentKey: handler.PaymentKey{Source: sourceFrame, Livemode: e.livemode.is},
		EventID:    e.id, EventType: e.eventType, Created: e.created,
		Object: frameResource(e.eventType), ObjectID: o.id, Status: o.status,
		Amount: o.amount, Currency: o.currency, Agreement: o.agreement,
		Session: o.session, Locale: o.metaLocale,
	}
	inside := o.anyCharge()
	f.Customer = cmp.Or(o.customer.id, o.customerID, inside.customer.id, inside.customerID,
		o.account.id, o.accountID, inside.account.id, inside.accountID)
	f.Addresses = addresses(handler.Contact{
		Metadata: o.metaEmail, Customer: cmp.Or(o.customer.email, inside.customer.email, o.account.email),
	})
	if f.Object == "transfer" && o.outgoing() {
		f.Object, f.PaymentID, f.Transfer = "payout", o.id, o.id
		f.ErrorMessage = o.failureReason
		return f
	}

	switch f.Object {
	case "charge":
		f.PaymentIntent, f.Charge = o.intentID(), o.id
		f.FailureCode = o.failureCode
	case "transfer":
		f.PaymentIntent, f.Transfer = cmp.Or(o.intentID(), inside.intentID()), o.id
	case "charge_intent":
		f.PaymentIntent = o.id
	}
	failure := end == frameFailed || fraudStatus(o.status)
	if f.Object != "charge" && !inside.contradicts(end) {
		f.Charge = o.chargeID()
		if failure {
			f.FailureCode = cmp.Or(o.failureCode, inside.failureCode)
		}
		if failure || end == frameSucceeded {
			inside.methodOf(&f)
		}
	}
	if failure || f.Object == "charge" {
		f.ErrorMessage = cmp.Or(o.failureMessage, o.failureReason, o.failureDescription)
		if !inside.contradicts(end) {
			f.ErrorMessage = cmp.Or(f.ErrorMessage, inside.failureMessage)
		}
	}
	o.methodOf(&f)
	f.PaymentID = cmp.Or(f.PaymentIntent, f.Charge, f.Transfer)
	return f
}

// outgoing says that a transfer is money on its way to a payee, and so nobody's declined payment: nothing is taken from a
// method, and there is a payout, or a method that it goes to and no intent to charge anybody.
func (o *frameObject) outgoing() bool {
	return o.source == (frameMethod{}) && (o.payout || o.destination && o.intentID() == "")
}

// contradicts says that a charge found inside another object is not the one that the event is about: an intent's newest
// charge may be that of an earlier attempt.
func (o *frameObject) contradicts(end frameEnd) bool {
	return end == frameFailed && o.status == "succeeded" || end == frameSucceeded && o.status == "failed"
}

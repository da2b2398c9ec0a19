package webhook

import (
	"cmp"
	"strings"

	"rebound/handler"
)

// frameObject is the allow-list: every member of a Frame charge, transfer or charge intent that Rebound looks at. An
// event's type comes after its object in some envelopes, so one shape serves all. Ids are opaque: bare UUIDs in some
// sources, prefixed in others.
type frameObject struct {
	id, status string
	livemode   mode
	amount     int64
	currency   string

	intent, intentAlias     frameRef // charge_intent, charge_intent_id
	latest, charge          frameRef // latest_charge, charge
	chargeAlias             frameRef // charge_id
	customer, account       frameParty
	customerID, accountID   string
	method, details, source frameMethod // payment_method, payment_method_details, source_payment_method
	payout, destination     bool        // set: payout, destination_payment_method
	agreement               bool        // set: billing_agreement
	failureCode             string
	failureMessage          string // of a charge
	failureReason           string // of a transfer
	failureDescription      string // of an intent
	clientSecret            string
	session, metaEmail      string
	metaLocale              string
	wrapped                 *frameObject
}

// mode is a livemode, which not every object has.
type mode struct{ said, is bool }

func (m *mode) read(r *reader, name string) {
	m.said = r.kind() == 't' || r.kind() == 'f'
	r.flag(name, &m.is)
}

// frameRef is a reference: an id, or the object itself, expanded.
type frameRef struct {
	id     string
	object *frameObject
}

// frameParty is a customer or an account: an id, or the object itself.
type frameParty struct{ id, email string }

// frameMethod is a payment method: its id alone, or the object. Frame gives nothing that stays the same when a card is
// saved twice, so there is no fingerprint.
type frameMethod struct {
	id, kind, brand, last4     string
	created, expMonth, expYear int64
	livemode                   mode
}

// Where an object stands: as an event's data, as the object inside it that older envelopes had, or inside another object,
// where no further one is looked for.
type frameDepth int

const (
	frameData frameDepth = iota
	frameWrapped
	frameInside
)

func (k metadataKeys) frameObject(r *reader, name string, o *frameObject, depth frameDepth) bool {
	*o = frameObject{}
	ok := r.object(name, func(member []byte) {
		switch string(member) {
		case "id":
			r.id("id", &o.id)
		case "object":
			k.unwrap(r, o, depth)
		case "status":
			r.text("status", maxShort, &o.status)
		case "livemode":
			o.livemode.read(r, "livemode")
		case "amount":
			r.integer("amount", 0, maxAmount, &o.amount)
		case "currency":
			r.text("currency", maxShort, &o.currency)
			o.currency = strings.ToLower(o.currency) // a transfer's is in upper case
		case "charge_intent":
			k.ref(r, "charge_intent", &o.intent, frameInside)
		case "charge_intent_id":
			k.ref(r, "charge_intent_id", &o.intentAlias, frameInside)
		case "latest_charge":
			k.ref(r, "latest_charge", &o.latest, depth)
		case "charge":
			k.ref(r, "charge", &o.charge, depth)
		case "charge_id":
			k.ref(r, "charge_id", &o.chargeAlias, depth)
		case "customer":
			o.customer.read(r, "customer")
		case "customer_id":
			r.id("customer_id", &o.customerID)
		case "account":
			o.account.read(r, "account")
		case "account_id":
			r.id("account_id", &o.accountID)
		case "payment_method":
			o.method.read(r, "payment_method")
		case "payment_method_details":
			o.details.read(r, "payment_method_details")
		case "source_payment_method":
			o.source.read(r, "source_payment_method")
		case "destination_payment_method":
			o.destination = isSet(r, "destination_payment_method")
		case "payout":
			o.payout = isSet(r, "payout")
		case "billing_agreement":
			o.agreement = isSet(r, "billing_agreement")
		case "failure_code":
			r.code("failure_code", &o.failureCode)
		case "failure_message":
			r.message("failure_message", &o.failureMessage)
		case "failure_reason":
			r.message("failure_reason", &o.failureReason)
		case "failure_description":
			r.message("failure_description", &o.failureDescription)
		case "client_secret":
			o.clientSecret, _ = r.rawText("client_secret")
		case "metadata":
			k.read(r, &o.session, &o.metaEmail, &o.metaLocale)
		default:
			r.skip()
		}
	})
	if o.wrapped != nil {
		*o = *o.wrapped
	}
	return ok
}

// unwrap reads the member object: the resource's name, or, in an older envelope, the resource.
func (k metadataKeys) unwrap(r *reader, o *frameObject, depth frameDepth) {
	if depth != frameData || r.kind() != '{' {
		var name string
		r.text("object", maxShort, &name)
		return
	}
	var inner frameObject
	o.wrapped = nil
	if k.frameObject(r, "event.data.object", &inner, frameWrapped) && inner.id != "" {
		o.wrapped = &inner
	}
}

// ref reads an id, or an object that has one.
func (k metadataKeys) ref(r *reader, name string, to *frameRef, depth frameDepth) {
	*to = frameRef{}
	if depth == frameInside || r.kind() != '{' {
		r.ref(name, &to.id)
		return
	}
	var o frameObject
	switch {
	case !k.frameObject(r, name, &o, frameInside):
	case o.id == "":
		r.misfits = append(r.misfits, name)
	default:
		*to = frameRef{o.id, &o}
	}
}

// chargeID is the charge that a transfer or an intent wraps, if it says so. An intent has latest_charge. No source names
// the field of a transfer, although one says that its event refers to the charge, so all three are looked at.
func (o *frameObject) chargeID() string { return cmp.Or(o.latest.id, o.charge.id, o.chargeAlias.id) }

// anyCharge is that charge itself where it is expanded, else an empty one.
func (o *frameObject) anyCharge() *frameObject {
	for _, ref := range []frameRef{o.latest, o.charge, o.chargeAlias} {
		if ref.object != nil && ref.id == o.chargeID() {
			return ref.object
		}
	}
	return &frameObject{}
}

func (o *frameObject) intentID() string { return cmp.Or(o.intent.id, o.intentAlias.id) }

// methodOf sets what f does not have yet of the method that o was paid with.
func (o *frameObject) methodOf(f *handler.Fact) {
	for _, m := range []*frameMethod{&o.details, &o.source, &o.method} {
		f.MethodID = cmp.Or(f.MethodID, m.id)
		if f.MethodID != m.id && m.id != "" {
			continue // another method's card
		}
		f.MethodType = cmp.Or(f.MethodType, m.kind)
		f.MethodCreated = cmp.Or(f.MethodCreated, m.created)
		f.Brand, f.Last4 = cmp.Or(f.Brand, m.brand), cmp.Or(f.Last4, m.last4)
		f.ExpMonth, f.ExpYear = cmp.Or(f.ExpMonth, m.expMonth), cmp.Or(f.ExpYear, m.expYear)
	}
}

func (p *frameParty) read(r *reader, name string) {
	*p = frameParty{}
	if r.kind() != '{' {
		r.id(name, &p.id)
		return
	}
	r.object(name, func(member []byte) {
		switch string(member) {
		case "id":
			r.id(name, &p.id)
		case "email":
			r.address(name+".email", &p.email)
		default:
			r.skip()
		}
	})
}

func (m *frameMethod) read(r *reader, name string) {
	*m = frameMethod{}
	if r.kind() == '"' {
		r.id(name, &m.id)
		return
	}
	r.object(name, func(member []byte) {
		switch string(member) {
		case "id":
			r.id(name, &m.id)
		case "type":
			r.text(name+".type", maxShort, &m.kind)
		case "created":
			r.time(name+".created", &m.created)
		case "livemode":
			m.livemode.read(r, name+".livemode")
		case "card", "ach": // a bank account has numbers that are not kept, and its last four digits
			r.object(name, func(member []byte) { m.instrument(r, name, member) })
		default:
			r.skip()
		}
	})
	m.brand = brandName(m.brand)
}

func (m *frameMethod) instrument(r *reader, name string, member []byte) {
	switch string(member) {
	case "brand":
		r.text(name+".brand", maxShort, &m.brand)
	case "last_four":
		r.text(name+".last_four", maxShort, &m.last4)
	case "exp_month":
		r.integer(name+".exp_month", 0, 12, &m.expMonth)
	case "exp_year":
		r.integer(name+".exp_year", 0, 9999, &m.expYear)
		if 0 < m.expYear && m.expYear < 100 {
			m.expYear += 2000
		}
	default:
		r.skip()
	}
}

// isSet says whether there is a reference at all: an id, or an object.
func isSet(r *reader, name string) bool {
	if r.kind() != '{' {
		var id string
		r.id(name, &id)
		return id != ""
	}
	return r.object(name, func([]byte) { r.skip() })
}

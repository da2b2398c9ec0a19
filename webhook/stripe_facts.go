package webhook

import (
	"cmp"
	"regexp"

	"rebound/handler"
)

// stripeTypes says what an event of each used type gives; every other type gives nothing. The type decides, also where
// the object contradicts it: sample events do.
var stripeTypes = map[string]func(*stripeEvent) handler.Delivery{
	"charge.failed":    chargeFacts,
	"charge.succeeded": chargeFacts,

	"payment_intent.payment_failed":            intentFacts,
	"payment_intent.succeeded":                 intentFacts,
	"payment_intent.canceled":                  intentFacts,
	"payment_intent.requires_action":           intentFacts,
	"payment_intent.processing":                intentFacts,
	"payment_intent.amount_capturable_updated": intentFacts,

	"invoice.payment_failed":          invoiceFacts,
	"invoice.payment_action_required": invoiceFacts,
	"invoice.paid":                    invoiceFacts,
	"invoice.payment_succeeded":       invoiceFacts,
	"invoice.voided":                  invoiceFacts,
	"invoice.marked_uncollectible":    invoiceFacts,
	"invoice_payment.paid":            invoicePaymentFacts,

	"checkout.session.completed":            sessionFacts,
	"checkout.session.expired":              sessionFacts,
	"checkout.session.async_payment_failed": sessionFacts,

	"customer.created": customerRecord,
	"customer.updated": customerRecord,
	"customer.deleted": customerRecord,
}

// invoiceStatus is what an invoice event means for the invoice's state, whatever the object in it says.
var invoiceStatus = map[string]string{
	"invoice.payment_failed":          "open",
	"invoice.payment_action_required": "open",
	"invoice.paid":                    "paid",
	"invoice.payment_succeeded":       "paid",
	"invoice.voided":                  "void",
	"invoice.marked_uncollectible":    "uncollectible",
}

// fact is what every object of the event says, filed under payment.
func (e *stripeEvent) fact(object, payment string) handler.Fact {
	o := &e.object
	return handler.Fact{
		PaymentKey: handler.PaymentKey{
			PaymentID: payment, Source: sourceStripe, Account: e.account, Livemode: e.livemode,
		},
		EventID: e.id, APIVersion: e.apiVersion, EventType: e.eventType, Created: e.created,
		RequestOrigin: e.requestOrigin,
		Object:        object, ObjectID: o.id, Status: o.status,
		Customer: o.customer, Amount: o.amount, Currency: o.currency,
		Session: o.session, Locale: o.metaLocale,
	}
}

// addresses is nil where there are none, so that nothing is sealed.
func addresses(c handler.Contact) *handler.Contact {
	if c == (handler.Contact{}) {
		return nil
	}
	return &c
}

func chargeFacts(e *stripeEvent) handler.Delivery {
	o := &e.object
	f := e.fact("charge", cmp.Or(o.paymentIntent, o.id))
	f.PaymentIntent, f.Charge = o.paymentIntent, o.id
	o.invoiceOf(&f)
	f.FailureCode, f.ErrorMessage = o.failureCode, o.failureMessage
	o.outcomeOf(&f)
	o.methodOf(&f)
	f.Addresses = addresses(handler.Contact{
		Metadata: o.metaEmail, Receipt: o.receiptEmail, Billing: cmp.Or(o.billingEmail, o.method.email, o.source.email),
	})
	return handler.Delivery{Facts: []handler.Fact{f}}
}

func intentFacts(e *stripeEvent) handler.Delivery {
	o := &e.object
	f := e.fact("payment_intent", o.id)
	f.PaymentIntent, f.LatestCharge = o.id, o.latestCharge
	o.invoiceOf(&f)
	f.SetupFutureUsage = cmp.Or(o.setupFutureUsage, o.optionSetupFutureUsage)

	to := handler.Contact{Metadata: o.metaEmail, Receipt: o.receiptEmail}
	if c := o.embedded; c != nil {
		f.LatestCharge = cmp.Or(f.LatestCharge, c.id)
		f.Invoice = cmp.Or(f.Invoice, c.invoice)
		to.Receipt = cmp.Or(to.Receipt, c.receiptEmail)
		if o.describedBy(c, e) {
			f.FailureCode = c.failureCode
			c.outcomeOf(&f)
			c.methodOf(&f)
			f.ErrorMessage = c.failureMessage
			to.Billing = cmp.Or(c.billingEmail, c.method.email, c.source.email)
		}
	}
	// On any other event an error is one of an earlier attempt.
	if x := o.lastError; x != nil && e.eventType == "payment_intent.payment_failed" {
		f.Charge = x.charge
		f.ErrorCode, f.DeclineCode, f.ErrorType = x.code, x.declineCode, x.kind
		f.ErrorMessage = cmp.Or(x.message, f.ErrorMessage)
		f.ErrorParam, f.ErrorDocURL, f.ErrorMethodType, f.ErrorLogURL = x.param, x.docURL, x.methodType, x.logURL
		f.AdviceCode = cmp.Or(x.adviceCode, f.AdviceCode)
		f.NetworkAdviceCode = cmp.Or(x.networkAdviceCode, f.NetworkAdviceCode)
		f.NetworkDeclineCode = cmp.Or(x.networkDeclineCode, f.NetworkDeclineCode)
		for _, m := range []*stripeMethod{&x.method, &x.source} {
			m.fill(&f)
			f.MethodSaved = cmp.Or(f.MethodSaved, m.saved)
			to.Billing = cmp.Or(to.Billing, m.email)
		}
	}
	// A failure detaches the method from its intent; the one on the intent is then the next to be tried, or none.
	if f.MethodID == "" {
		o.method.fill(&f)
		o.source.fill(&f)
	}
	f.Addresses = addresses(to)
	return handler.Delivery{Facts: []handler.Fact{f}}
}

// describedBy says whether the charge c, found inside the intent, is the attempt that the event is about. The newest
// charge may belong to an earlier attempt if this one failed before it had a charge.
func (o *stripeObject) describedBy(c *stripeObject, e *stripeEvent) bool {
	switch {
	case o.latestCharge != "" && o.latestCharge != c.id:
		return false
	case e.eventType == "payment_intent.succeeded":
		return c.status != "failed"
	case e.eventType != "payment_intent.payment_failed":
		return false
	case o.lastError == nil:
		return true
	case o.lastError.charge != "":
		return o.lastError.charge == c.id
	case handler.NeverTwin(o.lastError.code):
		return false
	}
	apart := e.created - c.created
	m := cmp.Or(c.method.id, c.source.id)
	return m != "" && m == cmp.Or(o.lastError.method.id, o.lastError.source.id) && -handler.TwinWindow <= apart && apart <= handler.TwinWindow
}

// invoiceOf sets the invoice: a field until 2025-03-31, since then at most an order reference, which also a merchant may
// set to anything.
func (o *stripeObject) invoiceOf(f *handler.Fact) {
	f.Invoice, f.OrderReference = o.invoice, o.orderReference
	if f.Invoice == "" && invoiceID.MatchString(o.orderReference) && !inWord.MatchString(o.orderReference) {
		f.Invoice = o.orderReference
	}
}

// invoiceID is what an invoice's id may look like, and inWord what is none: a merchant's own "in_store" on every payment would
// make them all one invoice's.
var (
	invoiceID = regexp.MustCompile(`^in_[A-Za-z0-9]+$`)
	inWord    = regexp.MustCompile(`^in_([A-Z]?[a-z]+)+$|^in_[A-Z]{2,}$`)
)

func (o *stripeObject) outcomeOf(f *handler.Fact) {
	f.OutcomeType, f.OutcomeReason, f.NetworkStatus, f.RiskLevel = o.outcomeType, o.outcomeReason, o.networkStatus, o.riskLevel
	f.AdviceCode, f.NetworkAdviceCode, f.NetworkDeclineCode = o.adviceCode, o.networkAdviceCode, o.networkDeclineCode
	f.StripeReport = o.stripeReport
}

// methodOf sets what a charge was paid with, from the four places where charges have had it.
func (o *stripeObject) methodOf(f *handler.Fact) {
	o.details.fill(f)
	f.MethodID = o.method.id
	f.CVCCheck = o.details.cvcCheck
	f.Moto = o.details.moto
	f.ThreeDSecure, f.ThreeDSecureFlow = o.details.threeDSecure, o.details.threeDSecureFlow
	for _, m := range []*stripeMethod{&o.method, &o.source, &o.card} {
		m.fill(f)
	}
}

// fill sets what f does not have yet. It takes no CVC result: every copy but that in a charge's own details is old.
func (m *stripeMethod) fill(f *handler.Fact) {
	f.MethodID = cmp.Or(f.MethodID, m.id)
	f.MethodType = cmp.Or(f.MethodType, m.kind)
	f.MethodCreated = cmp.Or(f.MethodCreated, m.created)
	f.Brand, f.Network = cmp.Or(f.Brand, m.brand), cmp.Or(f.Network, m.network)
	f.Last4, f.Country, f.Funding = cmp.Or(f.Last4, m.last4), cmp.Or(f.Country, m.country), cmp.Or(f.Funding, m.funding)
	f.ExpMonth, f.ExpYear = cmp.Or(f.ExpMonth, m.expMonth), cmp.Or(f.ExpYear, m.expYear)
	f.Fingerprint, f.Wallet = cmp.Or(f.Fingerprint, m.fingerprint), cmp.Or(f.Wallet, m.wallet)
	f.PostalCheck, f.AddressCheck = cmp.Or(f.PostalCheck, m.postalCheck), cmp.Or(f.AddressCheck, m.addressCheck)
}

// invoiceFacts files what an invoice's event says under the invoice and, where it names one, under the payment too.
func invoiceFacts(e *stripeEvent) handler.Delivery {
	o := &e.object
	f := e.fact("invoice", o.id)
	f.Status = invoiceStatus[e.eventType]
	f.Invoice, f.BillingReason = o.id, o.billingReason
	f.PaymentIntent, f.Charge = o.paymentIntent, o.charge
	f.Amount = o.amountDue
	f.Addresses = addresses(handler.Contact{Metadata: o.metaEmail, Customer: o.customerEmail})
	return underPaymentToo(f)
}

// invoicePaymentFacts says the same from the other end: since 2025-03-31 these events tie an invoice to what paid it.
func invoicePaymentFacts(e *stripeEvent) handler.Delivery {
	o := &e.object
	if o.invoice == "" {
		return handler.Delivery{}
	}
	f := e.fact("invoice", o.invoice)
	f.Status = "paid"
	f.Invoice = o.invoice
	f.PaymentIntent, f.Charge = o.paidIntent, o.paidByCharge
	f.Amount = o.amountPaid
	return underPaymentToo(f)
}

func underPaymentToo(f handler.Fact) handler.Delivery {
	facts := []handler.Fact{f}
	if payment := cmp.Or(f.PaymentIntent, f.Charge); payment != "" {
		f.PaymentID = payment
		facts = append(facts, f)
	}
	return handler.Delivery{Facts: facts}
}

// sessionFacts: a Checkout Session knows the customer's address and language. One without a payment intent (a trial, a
// set-up, a subscription, whose invoice speaks for itself) gives nothing.
func sessionFacts(e *stripeEvent) handler.Delivery {
	o := &e.object
	if o.paymentIntent == "" {
		return handler.Delivery{}
	}
	f := e.fact("checkout_session", o.paymentIntent)
	f.PaymentIntent = o.paymentIntent
	f.Invoice = o.invoice
	f.SessionLocale = sessionLocale(o.locale)
	f.Addresses = addresses(handler.Contact{Metadata: o.metaEmail, Customer: cmp.Or(o.detailEmail, o.customerEmail)})
	return handler.Delivery{Facts: []handler.Fact{f}}
}

// sessionLocale is empty for auto: the browser decided, and the session does not say how.
func sessionLocale(s string) string {
	if s == "auto" {
		return ""
	}
	return s
}

func customerRecord(e *stripeEvent) handler.Delivery {
	return handler.Delivery{Customer: &handler.Customer{
		CustomerID: e.object.id, Source: sourceStripe, Account: e.account, Livemode: e.livemode,
		Created: e.object.created, RecordCreated: e.created, RecordEvent: e.id,
		Deleted: e.eventType == "customer.deleted" || e.object.deleted,
		Email:   e.object.email, Locale: e.object.preferredLocales,
	}}
}

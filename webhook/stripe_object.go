package webhook

import "strings"

// Bounds of the numbers that are kept; what lies outside is a misfit. Stripe's amounts have at most 12 digits, and a time
// beyond 2100 would be the newest of its payment for ever.
const (
	maxAmount = 1_000_000_000_000_000
	maxTime   = 4_102_444_800
)

// stripeObject is the allow-list: every member of any Stripe object that Rebound looks at, whatever the object is, in
// any API version. An event's type comes after its object, so one shape serves all.
type stripeObject struct {
	id, object, status string
	livemode           bool
	created            int64
	amount, amountDue  int64
	amountPaid         int64
	currency           string

	customer, paymentIntent, charge, invoice, latestCharge string

	embedded *stripeObject // latest_charge when expanded, else charges.data[0], which is the newest

	failureCode, failureMessage                            string
	outcomeType, outcomeReason, networkStatus, riskLevel   string
	adviceCode, networkAdviceCode, networkDeclineCode      string
	stripeReport                                           string
	lastError                                              *stripeError
	method, details, source, card                          stripeMethod // payment_method, payment_method_details, source, card
	billingEmail, receiptEmail, customerEmail, detailEmail string
	clientSecret, orderReference                           string
	setupFutureUsage, optionSetupFutureUsage               string
	session, metaEmail, metaLocale                         string

	billingReason, locale    string // invoice; checkout session
	email, preferredLocales  string // customer
	deleted, paid            bool   // customer; an invoice before 2018
	paidIntent, paidByCharge string // invoice_payment.payment
}

// stripeError is an intent's last_payment_error.
type stripeError struct {
	code, declineCode, kind, message, param, docURL, methodType, logURL string
	adviceCode, networkAdviceCode, networkDeclineCode                   string
	charge                                                              string
	method, source                                                      stripeMethod
}

// stripeMethod is what was paid with: a payment method, a source, a card, or the copy of them in a charge.
type stripeMethod struct {
	id, object, kind string
	created          int64
	saved            string // yes, no, or '' where the object does not say
	email            string

	brand, network, last4, country, funding, fingerprint string
	expMonth, expYear                                    int64
	wallet                                               string
	cvcCheck, postalCheck, addressCheck                  string
	threeDSecure, threeDSecureFlow                       string
	moto                                                 bool
}

// metadataKeys are the merchant's metadata keys that are read; no other metadata is.
type metadataKeys struct{ session, email, locale string }

// object reads any Stripe object. nested says that it is inside another, where no further one is looked for.
func (k metadataKeys) object(r *reader, name string, o *stripeObject, nested bool) bool {
	*o = stripeObject{}
	return r.object(name, func(member []byte) {
		switch string(member) {
		case "id":
			r.id("id", &o.id)
		case "object":
			r.text("object", maxShort, &o.object)
		case "status":
			r.text("status", maxShort, &o.status)
		case "livemode":
			r.flag("livemode", &o.livemode)
		case "created":
			r.integer("created", 0, maxTime, &o.created)
		case "amount":
			r.integer("amount", 0, maxAmount, &o.amount)
		case "amount_due":
			r.integer("amount_due", 0, maxAmount, &o.amountDue)
		case "amount_paid":
			r.integer("amount_paid", 0, maxAmount, &o.amountPaid)
		case "currency":
			r.text("currency", maxShort, &o.currency)
			o.currency = strings.ToLower(o.currency)
		case "customer":
			r.ref("customer", &o.customer)
		case "payment_intent":
			r.ref("payment_intent", &o.paymentIntent)
		case "charge":
			r.ref("charge", &o.charge)
		case "invoice":
			r.ref("invoice", &o.invoice)
		case "latest_charge":
			k.latestCharge(r, o, nested)
		case "charges":
			k.charges(r, o, nested)
		case "failure_code":
			r.code("failure_code", &o.failureCode)
		case "failure_message":
			r.message("failure_message", &o.failureMessage)
		case "outcome":
			o.readOutcome(r)
		case "fraud_details":
			r.codes("fraud_details", &o.stripeReport, func(member []byte) {
				if string(member) == "stripe_report" {
					r.code("stripe_report", &o.stripeReport)
				} else {
					r.skip()
				}
			})
		case "last_payment_error":
			var e stripeError
			o.lastError = nil
			if e.read(r) {
				o.lastError = &e
			}
		case "payment_method":
			o.method.read(r, "payment_method")
		case "payment_method_details":
			o.details.read(r, "payment_method_details")
		case "source":
			o.source.read(r, "source")
		case "card":
			o.card.read(r, "card")
		case "billing_details":
			readEmail(r, "billing_details", &o.billingEmail)
		case "customer_details":
			readEmail(r, "customer_details", &o.detailEmail)
		case "receipt_email":
			r.address("receipt_email", &o.receiptEmail)
		case "customer_email":
			r.address("customer_email", &o.customerEmail)
		case "email":
			r.address("email", &o.email)
		case "client_secret":
			o.clientSecret, _ = r.rawText("client_secret")
		case "payment_details":
			r.object("payment_details", func(member []byte) {
				if string(member) == "order_reference" {
					r.id("order_reference", &o.orderReference)
				} else {
					r.skip()
				}
			})
		case "setup_future_usage":
			r.text("setup_future_usage", maxShort, &o.setupFutureUsage)
		case "payment_method_options":
			o.readMethodOptions(r)
		case "metadata":
			k.read(r, &o.session, &o.metaEmail, &o.metaLocale)
		case "billing_reason":
			r.text("billing_reason", maxCode, &o.billingReason)
		case "paid":
			r.flag("paid", &o.paid)
		case "deleted":
			r.flag("deleted", &o.deleted)
		case "locale":
			r.text("locale", maxShort, &o.locale)
		case "preferred_locales":
			var locales []string
			r.list("preferred_locales", func(int) {
				if len(locales) == maxLocales {
					r.skip()
					return
				}
				var locale string
				if r.text("preferred_locales", maxShort, &locale); locale != "" {
					locales = append(locales, locale)
				}
			})
			o.preferredLocales = strings.Join(locales, ",")
		case "payment":
			o.readPayment(r)
		default:
			r.skip()
		}
	})
}

// read takes the named keys, and them alone.
func (k metadataKeys) read(r *reader, session, email, locale *string) {
	*session, *email, *locale = "", "", ""
	r.object("metadata", func(member []byte) {
		switch {
		case len(member) == 0:
			r.skip()
		case string(member) == k.session:
			r.text("metadata.session", maxCode, session)
		case string(member) == k.email:
			r.address("metadata.email", email)
		case string(member) == k.locale:
			r.text("metadata.locale", maxShort, locale)
		default:
			r.skip()
		}
	})
	if *session != "on_session" && *session != "off_session" {
		*session = ""
	}
}

func (k metadataKeys) latestCharge(r *reader, o *stripeObject, nested bool) {
	if nested || r.kind() != '{' {
		r.ref("latest_charge", &o.latestCharge)
		return
	}
	var c stripeObject
	if k.object(r, "latest_charge", &c, true) && c.id != "" {
		o.latestCharge, o.embedded = c.id, &c
	}
}

// charges reads the list that intents carried until 2022-11-15; the newest charge comes first.
func (k metadataKeys) charges(r *reader, o *stripeObject, nested bool) {
	if nested {
		r.skip()
		return
	}
	r.object("charges", func(member []byte) {
		if string(member) != "data" {
			r.skip()
			return
		}
		r.list("charges", func(i int) {
			var c stripeObject
			switch {
			case i > 0:
				r.skip()
			case k.object(r, "charges", &c, true) && c.id != "" && o.embedded == nil:
				o.embedded = &c
			}
		})
	})
}

func (o *stripeObject) readOutcome(r *reader) {
	r.codes("outcome", &o.outcomeType, func(member []byte) {
		switch string(member) {
		case "type":
			r.code("outcome.type", &o.outcomeType)
		case "reason":
			r.code("outcome.reason", &o.outcomeReason)
		case "network_status":
			r.text("outcome.network_status", maxCode, &o.networkStatus)
		case "risk_level":
			r.text("outcome.risk_level", maxCode, &o.riskLevel)
		case "advice_code":
			r.text("outcome.advice_code", maxCode, &o.adviceCode)
		case "network_advice_code":
			r.text("outcome.network_advice_code", maxCode, &o.networkAdviceCode)
		case "network_decline_code":
			r.text("outcome.network_decline_code", maxCode, &o.networkDeclineCode)
		default:
			r.skip()
		}
	})
}

// readMethodOptions takes setup_future_usage from whichever method's options have it.
func (o *stripeObject) readMethodOptions(r *reader) {
	r.object("payment_method_options", func([]byte) {
		r.object("payment_method_options", func(member []byte) {
			if string(member) != "setup_future_usage" {
				r.skip()
				return
			}
			var usage string
			r.text("payment_method_options.setup_future_usage", maxShort, &usage)
			if usage != "" && usage != "none" {
				o.optionSetupFutureUsage = usage
			}
		})
	})
}

// readPayment reads what paid an invoice_payment.
func (o *stripeObject) readPayment(r *reader) {
	r.object("payment", func(member []byte) {
		switch string(member) {
		case "payment_intent":
			r.ref("payment.payment_intent", &o.paidIntent)
		case "charge":
			r.ref("payment.charge", &o.paidByCharge)
		default:
			r.skip()
		}
	})
}

func (e *stripeError) read(r *reader) bool {
	return r.object("last_payment_error", func(member []byte) {
		switch string(member) {
		case "code":
			r.code("last_payment_error.code", &e.code)
		case "decline_code":
			r.code("last_payment_error.decline_code", &e.declineCode)
		case "type":
			r.text("last_payment_error.type", maxCode, &e.kind)
		case "message":
			r.message("last_payment_error.message", &e.message)
		case "param":
			r.text("last_payment_error.param", maxCode, &e.param)
		case "doc_url":
			r.text("last_payment_error.doc_url", maxText, &e.docURL)
		case "payment_method_type":
			r.text("last_payment_error.payment_method_type", maxShort, &e.methodType)
		case "request_log_url":
			r.text("last_payment_error.request_log_url", maxText, &e.logURL)
		case "advice_code":
			r.text("last_payment_error.advice_code", maxCode, &e.adviceCode)
		case "network_advice_code":
			r.text("last_payment_error.network_advice_code", maxCode, &e.networkAdviceCode)
		case "network_decline_code":
			r.text("last_payment_error.network_decline_code", maxCode, &e.networkDeclineCode)
		case "charge":
			r.ref("last_payment_error.charge", &e.charge)
		case "payment_method":
			e.method.read(r, "last_payment_error.payment_method")
		case "source":
			e.source.read(r, "last_payment_error.source")
		default:
			r.skip()
		}
	})
}

// read reads a method: its id alone, or an object. The instrument's data lie in a member named as the type (card,
// card_present, sepa_debit…), or, in the oldest shapes, in the object itself.
func (m *stripeMethod) read(r *reader, name string) {
	*m = stripeMethod{}
	if r.kind() == '"' {
		r.id(name, &m.id)
		return
	}
	r.object(name, func(member []byte) {
		switch string(member) {
		case "id":
			r.id(name, &m.id)
		case "object":
			r.text(name, maxShort, &m.object)
		case "type":
			r.text(name, maxShort, &m.kind)
		case "created":
			r.integer(name, 0, maxTime, &m.created)
		case "customer":
			if r.kind() == 'n' {
				m.saved = "no"
			}
			var id string
			if r.ref(name, &id) && id != "" {
				m.saved = "yes"
			}
		case "billing_details", "owner":
			readEmail(r, name, &m.email)
		case "metadata", "radar_options":
			r.skip()
		default:
			if r.kind() == '{' || string(member) == "card" {
				m.readCard(r, name)
			} else {
				m.instrument(r, name, member)
			}
		}
	})
	switch {
	case m.object == "card": // a card on its own, whose type was its brand in 2012
		if m.brand == "" {
			m.brand = m.kind
		}
		m.kind = "card"
	case m.object == "bank_account":
		m.kind = "ach_debit"
	}
	m.brand = brandName(m.brand)
}

// readCard reads a card, a bank account or a wallet.
func (m *stripeMethod) readCard(r *reader, name string) {
	r.object(name, func(member []byte) { m.instrument(r, name, member) })
}

// instrument reads one member of one.
func (m *stripeMethod) instrument(r *reader, name string, member []byte) {
	switch string(member) {
	case "brand":
		r.text(name, maxShort, &m.brand)
	case "network":
		r.text(name, maxShort, &m.network)
	case "last4":
		r.text(name, maxShort, &m.last4)
	case "exp_month":
		r.integer(name, 0, 12, &m.expMonth)
	case "exp_year":
		r.integer(name, 0, 9999, &m.expYear)
	case "country":
		r.text(name, maxShort, &m.country)
	case "funding": // a wallet's is the card behind it: amazon_pay, revolut_pay
		if r.kind() != '{' {
			r.text(name, maxShort, &m.funding)
			return
		}
		r.object(name, func(member []byte) {
			if string(member) == "card" {
				m.readCard(r, name)
			} else {
				r.skip()
			}
		})
	case "card": // behind mobilepay; a source of 3-D Secure has an id there
		if r.kind() != '{' {
			r.skip()
			return
		}
		m.readCard(r, name)
	case "fingerprint":
		r.text(name, maxCode, &m.fingerprint)
	case "moto":
		r.flag(name, &m.moto)
	case "tokenization_method":
		r.text(name, maxShort, &m.wallet)
	case "wallet":
		r.object(name, func(member []byte) {
			if string(member) == "type" {
				r.text(name, maxShort, &m.wallet)
			} else {
				r.skip()
			}
		})
	case "checks":
		r.object(name, func(member []byte) { m.check(r, name, member) })
	case "three_d_secure":
		m.readThreeDSecure(r, name)
	default:
		m.check(r, name, member)
	}
}

func (m *stripeMethod) check(r *reader, name string, member []byte) {
	switch string(member) {
	case "cvc_check":
		r.text(name, maxShort, &m.cvcCheck)
	case "address_postal_code_check", "address_zip_check":
		r.text(name, maxShort, &m.postalCheck)
	case "address_line1_check":
		r.text(name, maxShort, &m.addressCheck)
	default:
		r.skip()
	}
}

// readThreeDSecure reads the outcome of 3-D Secure: result and, where one is given, its reason. Before 2019 it was a
// boolean, and on a source it is a word that says what the card supports, which is no outcome.
func (m *stripeMethod) readThreeDSecure(r *reader, name string) {
	m.threeDSecure, m.threeDSecureFlow = "", ""
	if r.kind() == '"' {
		r.skip()
		return
	}
	var result, reason, old string
	r.object(name, func(member []byte) {
		switch string(member) {
		case "result":
			r.text(name, maxShort, &result)
		case "result_reason":
			r.text(name, maxShort, &reason)
		case "authentication_flow":
			r.text(name, maxShort, &m.threeDSecureFlow)
		case "succeeded":
			switch r.kind() {
			case 't':
				old = "authenticated"
			case 'f':
				old = "failed"
			}
			r.skip()
		default:
			r.skip()
		}
	})
	switch {
	case result == "":
		m.threeDSecure = old
	case reason == "":
		m.threeDSecure = result
	default:
		m.threeDSecure = result + ":" + reason
	}
}

func readEmail(r *reader, name string, to *string) {
	*to = ""
	r.object(name, func(member []byte) {
		if string(member) == "email" {
			r.address(name+".email", to)
		} else {
			r.skip()
		}
	})
}

// brandName turns a brand as a card object has it ("American Express") into the name that payment methods use.
func brandName(s string) string {
	switch s = strings.ToLower(s); s {
	case "american express":
		return "amex"
	case "diners club":
		return "diners"
	case "union pay":
		return "unionpay"
	default:
		return strings.ReplaceAll(s, " ", "_")
	}
}

package handler

import (
	"slices"
	"strings"
	"time"

	"rebound/decline"
	"rebound/store"
)

// Policy is the merchant's settings that decide who is told, and when.
type Policy struct {
	Rules           decline.Rules
	Livemode        bool            // MODE: only events of this mode may reach a customer
	Hold            time.Duration   // NOTIFY_HOLD
	HoldWeak        time.Duration   // NOTIFY_HOLD_WEAK
	UnknownToInbox  bool            // NOTIFY_UNKNOWN=inbox: no mail where presence is unknown
	MaxAge          time.Duration   // NOTIFY_MAX_AGE
	MailsInvoices   bool            // BILLING_NOTIFICATIONS=ours
	SMTPConfigured  bool            // without, mail is held, not dropped
	LooksUp         bool            // STRIPE_API_KEY is set
	Profiles        map[string]bool // connected accounts that have a profile
	MessageIDDomain string          // right-hand side of Message-IDs
	NotificationID  func(k PaymentKey, channel, template, scope string) string
	AttemptID       func(prefix string, k PaymentKey, attemptKey string) string
}

// The reasons of decisions not to tell, or not yet.
const (
	ReasonRecovered       = "recovered"
	ReasonPaymentCanceled = "payment_canceled"
	ReasonSuperseded      = string(store.Superseded)
	ReasonWrongMode       = "wrong_mode"
	ReasonNoContact       = store.ReasonNoContact
	ReasonInPerson        = "in_person"
	ReasonOnSession       = "on_session"
	ReasonStripeBilling   = store.ReasonStripeBilling
	ReasonNoProfile       = store.ReasonNoProfile
	ReasonGuest           = "guest"
	ReasonPresenceUnknown = "presence_unknown"
	ReasonTooOld          = store.ReasonTooOld
	ReasonPaymentPending  = "payment_pending"
	ReasonInvoiceUnknown  = "awaits_intent"
)

// invoiceWait is how long a lone charge of a version that does not name its invoice waits for the event that does.
const invoiceWait = time.Hour

// invoiceGoneVersion is the first API version whose charges and intents have no invoice member.
const invoiceGoneVersion = "2025-03-31"

// TemplateFirst names a payment's one first message on a channel, TemplateAttempt a message of each attempt.
const (
	TemplateFirst   = "first"
	TemplateAttempt = "attempt"
)

// Decide says who is told of a payment's failures, on which channel and when: the first rule that matches decides. It is a function
// of what was derived alone; rows that are claimed or over are not touched by its result (store sees to that).
func (p Policy) Decide(d Derived, now time.Time) []store.Notification {
	if len(d.Failed) == 0 {
		return nil
	}
	newest := d.Failed[len(d.Failed)-1]
	out := make([]store.Notification, 0, 2) // as a rule
	for _, a := range d.Failed {
		if a.row.Presence == OnSession {
			out = append(out, p.checkoutNotice(d, a, now))
		}
	}
	for i := len(d.Failed) - 1; i >= 0; i-- {
		if a := d.Failed[i]; a.row.Presence != OnSession {
			if notice, ok := p.inboxNotice(d, a, now); ok {
				out = append(out, notice)
			}
			break
		}
	}
	return append(out, p.mail(d, newest, now))
}

func (p Policy) notice(d Derived, a *attempt, channel, template, scope string, now time.Time) store.Notification {
	k := d.Payment.PaymentKey
	n := store.Notification{
		ID: p.NotificationID(k, channel, template, scope), PaymentKey: k, FailureID: p.AttemptID("fl_", k, a.key),
		Channel: channel, Template: template, DueAt: now, Customer: d.Payment.Customer, Locale: a.row.Locale,
		ShownCode: a.row.PublicCode, CreatedAt: now, UpdatedAt: now,
	}
	if channel == store.ChannelEmail {
		n.MessageID = n.ID + "@" + p.MessageIDDomain
	}
	return n
}

// end is why nothing more is said of the payment; "" while it goes on.
func (d Derived) end() string {
	switch {
	case d.Payment.Status == Recovered:
		return ReasonRecovered
	case d.Payment.Status == Canceled:
		return ReasonPaymentCanceled
	case d.settled:
		return ReasonSuperseded
	}
	return ""
}

// noContact tells whether the bank has said of any attempt with an attempt's payment method that nobody is there to read of it:
// what another attempt failed for does not take that back.
func (d Derived) noContact(a *attempt) bool {
	return slices.ContainsFunc(d.Failed, func(o *attempt) bool {
		return o.verdict.NoContact && (o.row.MethodID == a.row.MethodID || o.row.MethodID == "" || a.row.MethodID == "")
	})
}

// checkoutNotice is the message on the page where the customer is. It is out at commit: whoever has a stream open gets
// it, and a late stream gets the current state first.
func (p Policy) checkoutNotice(d Derived, a *attempt, now time.Time) store.Notification {
	n := p.notice(d, a, store.ChannelCheckout, TemplateAttempt, a.key, now)
	n.DueAt = a.row.ReceivedAt
	n.ShownCode, n.Locale = "", "" // the stream writes down what it has shown
	if d.Payment.Livemode != p.Livemode {
		n.Status, n.Reason = store.Suppressed, ReasonWrongMode
		return n
	}
	n.Status, n.SentAt = store.Sent, &n.DueAt
	return n
}

// inboxNotice is for the merchant's own app; only a known customer has an inbox. It tells of the newest attempt in the customer's
// absence, and stays when they have tried at a page since, in vain. A payment that recovered takes its notice back, and one that
// may succeed by itself for as long: whoever reads it would pay twice. One that waits for the customer leaves it there.
func (p Policy) inboxNotice(d Derived, a *attempt, now time.Time) (store.Notification, bool) {
	if d.Payment.Customer == "" || d.Payment.Livemode != p.Livemode || d.noContact(a) {
		return store.Notification{}, false
	}
	n := p.notice(d, a, store.ChannelInbox, TemplateFirst, "", now)
	n.DueAt = *d.Payment.FailedReceivedAt
	switch end := d.end(); {
	case end != "":
		n.Status, n.Reason = store.Canceled, end
	case d.Payment.Status == Pending && !d.awaitsAction: // not held: nobody waits for it, and addresses would be kept for it
		n.Status, n.Reason = store.Suppressed, ReasonPaymentPending
	default:
		n.Status, n.SentAt = store.Delivered, &n.DueAt
	}
	return n, true
}

// bars is why the payment gets no mail at all, reminders included, wherever its customer was: one of the reasons that
// bar reminders in store, or that it is of the other mode.
func (p Policy) bars(d Derived, newest *attempt) string {
	if d.noContact(newest) {
		return ReasonNoContact
	}
	return p.Barred(d.Payment)
}

// Barred is why the settings give a payment no mail at all. Who sends asks too: a mail may have been held under other settings,
// as a database is that was copied from live to try something out.
func (p Policy) Barred(pay store.Payment) string {
	switch {
	case pay.Livemode != p.Livemode:
		return ReasonWrongMode
	case pay.Invoice != "" && !p.MailsInvoices:
		return ReasonStripeBilling
	case pay.Account != "" && !p.Profiles[pay.Account]:
		return ReasonNoProfile
	}
	return ""
}

// mail decides on the payment's one first mail.
func (p Policy) mail(d Derived, a *attempt, now time.Time) store.Notification {
	n := p.notice(d, a, store.ChannelEmail, TemplateFirst, "", now)
	first := *d.Payment.FailedReceivedAt
	n.DueAt = first.Add(p.Hold)
	pay, row := d.Payment, a.row
	is := func(status, reason string) store.Notification {
		n.Status, n.Reason = status, reason
		return n
	}
	barred := p.bars(d, a)
	switch {
	case pay.Livemode != p.Livemode:
		return is(store.Suppressed, ReasonWrongMode)
	case barred == ReasonNoContact:
		return is(store.Suppressed, barred)
	case row.Presence == InPerson:
		return is(store.Suppressed, ReasonInPerson)
	case row.Presence == OnSession:
		return is(store.Suppressed, ReasonOnSession)
	case barred != "":
		return is(store.Suppressed, barred)
	case row.ReceivedAt.Sub(row.OccurredAt) > p.MaxAge:
		return is(store.Suppressed, ReasonTooOld)
	case pay.Customer == "" && !(row.Presence == OffSession && bankDebits[row.MethodType]):
		return is(store.Suppressed, ReasonGuest)
	case row.Presence == Unseen && p.UnknownToInbox:
		return is(store.Suppressed, ReasonPresenceUnknown)
	}
	if row.Presence == Unseen || weak(row.Evidence) {
		n.DueAt = first.Add(max(p.HoldWeak, p.Hold))
	}
	n.Status = store.Held
	switch {
	case d.end() != "":
		return is(store.Canceled, d.end())
	case pay.Status == Pending:
		n.Reason = ReasonPaymentPending
	case d.invoiceUnsaid:
		n.Reason = ReasonInvoiceUnknown
		n.DueAt = later(n.DueAt, first.Add(invoiceWait))
	case !p.SMTPConfigured:
		n.Reason = store.ReasonSMTPNotConfigured
	}
	return n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func weak(evidence []string) bool {
	for _, e := range evidence {
		if strings.HasSuffix(e, "=strong") {
			return false
		}
	}
	return true
}

// invoiceUnsaid tells whether only charges are known, of API versions that no longer say if they belong to an invoice. Any
// word of the intent, a read of it by API too, settles it.
func invoiceUnsaid(facts []*Fact) bool {
	charge := false
	for _, f := range facts {
		if f.Object != "charge" || f.Invoice != "" || f.APIVersion < invoiceGoneVersion {
			return false
		}
		charge = charge || f.PaymentIntent != ""
	}
	return charge
}

// deriveInvoice works out an invoice's state from its facts: the newest word stands, and what is settled stays settled.
func deriveInvoice(k PaymentKey, facts []*Fact) store.Invoice {
	inv := store.Invoice{PaymentKey: k}
	for _, f := range inOrder(facts) {
		set(&inv.BillingReason, f.BillingReason)
		set(&inv.Status, f.Status)
		switch f.EventType {
		case "invoice.paid", "invoice.payment_succeeded", "invoice.voided", "invoice.marked_uncollectible", "invoice_payment.paid":
			inv.SettledCreated = max(inv.SettledCreated, f.Created)
		}
	}
	return inv
}

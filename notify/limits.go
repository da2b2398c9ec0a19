package notify

import (
	"time"

	"rebound/store"
)

// Limits bound the mails that go out; 0 allows none, -1 is no limit. Basis: judgement, Stripe's four retries, and the
// bulk-sender marks of the large mailbox providers.
type Limits struct {
	PerPayment24h, PerPayment   int // first mail and reminders of one payment
	PerMailbox24h, PerMailbox7d int // by normalised mailbox, and by customer
	// NewMailboxesPerHour is the fuse against card testers: mailboxes that nobody knew an hour before, whole service.
	NewMailboxesPerHour int
	// PerDay bounds the whole service. Unknown mailboxes and reminders yield first: known customers' first mails are
	// counted on their own, so that a storm cannot use up their share.
	PerDay int
}

// judge says what a mail over a limit becomes: suppressed over one of its own, held over one of the service, and "" where
// it may go out.
func (l Limits) judge(u store.Use, first bool) (status, reason string) {
	switch {
	case u.Suppressed != "":
		return store.Suppressed, u.Suppressed
	case over(u.PaymentDay, l.PerPayment24h), over(u.PaymentEver, l.PerPayment):
		return store.Suppressed, store.ReasonPaymentLimit
	case over(u.MailboxDay, l.PerMailbox24h), over(u.MailboxWeek, l.PerMailbox7d):
		return store.Suppressed, store.ReasonMailboxLimit
	case !u.Known && over(u.NewMailboxesHour+u.StormBefore, l.NewMailboxesPerHour): // who has waited longer takes the place that comes free
		return store.Held, store.ReasonMailStorm
	case u.Known && first && over(u.KnownDay, l.PerDay), !(u.Known && first) && over(u.AllDay, l.PerDay):
		return store.Held, store.ReasonDailyLimit
	}
	return "", ""
}

// lateness is what a mail may have been late by: the queue's time, a server's "not now".
const lateness = time.Hour

// soon tells when a mail is within its payment's day, which it only misses because the one before was late: reminders a day apart
// are to go out, each.
func (l Limits) soon(u store.Use, now time.Time) (time.Time, bool) {
	wait := u.PaymentDayOver.Sub(now)
	return u.PaymentDayOver, u.Suppressed == "" && over(u.PaymentDay, l.PerPayment24h) && l.PerPayment24h != 0 && !over(u.PaymentEver, l.PerPayment) &&
		wait > 0 && wait <= lateness
}

func over(count, limit int) bool { return limit >= 0 && count >= limit }

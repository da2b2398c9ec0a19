// Package job holds the arguments of River jobs. They are stored in clear, so they hold ids, never addresses.
package job

import "time"

// DeliverMail sends one notification by mail if it is still due, which the claim decides, not the job.
type DeliverMail struct {
	NotificationID string `json:"notification_id"`
}

// Kind names the job in the queue.
func (DeliverMail) Kind() string { return "deliver_mail" }

// duePeriod is how far apart the moments are at which mails that are due become jobs: what a mail may be late by,
// beside the queue's own five, and what failures by the hundred a second share.
const duePeriod = 2 * time.Second

// DeliverDue makes a DeliverMail for each mail that became due in the two seconds up to a moment, and is still held then.
type DeliverDue struct {
	Until time.Time `json:"until"`
}

// Kind names the job in the queue.
func (DeliverDue) Kind() string { return "deliver_due" }

// DueWith is the job that all mails of about this moment share.
func DueWith(dueAt time.Time) DeliverDue {
	until := dueAt.UTC().Truncate(duePeriod)
	if until.Before(dueAt) {
		until = until.Add(duePeriod)
	}
	return DeliverDue{Until: until}
}

// After is the moment before the first at which a mail of the job may be due.
func (j DeliverDue) After() time.Time { return j.Until.Add(-duePeriod) }

// LookUpContact asks the provider's API for what the events of a payment do not say: the customer's address and
// language, the invoice.
type LookUpContact struct {
	PaymentID string `json:"payment_id"`
	Source    string `json:"source"`
	Account   string `json:"account,omitempty"`
	Livemode  bool   `json:"livemode"`
	Customer  string `json:"customer,omitempty"`
	Invoice   string `json:"invoice,omitempty"`
	Intent    string `json:"intent,omitempty"`
}

// Kind names the job in the queue.
func (LookUpContact) Kind() string { return "look_up_contact" }

// WakeHeld looks for held mails whose reason has gone, and ends those held for too long. It runs every minute, once
// over all replicas.
type WakeHeld struct{}

// Kind names the job in the queue.
func (WakeHeld) Kind() string { return "wake_held" }

// Sweep takes away what is older than the retention allows. It runs every SWEEP_INTERVAL, once over all replicas.
type Sweep struct{}

// Kind names the job in the queue.
func (Sweep) Kind() string { return "sweep" }

// Queue names. Look-ups and sweeps have their own, so that a slow provider API or a long sweep never delays a mail.
const (
	QueueMail   = "mail"
	QueueLookUp = "look_up"
	QueueSweep  = "sweep"
)

// Package notify carries a notification through its life: claim, render, send, mark. It owns when and whether a mail goes
// out; the packages below it own how each channel speaks.
package notify

import (
	"context"
	"time"

	"rebound/decline"
)

// Letter is one mail before it is written. It holds all that may go into it, and nothing that could betray more.
type Letter struct {
	To        string // plain address; never logged
	Account   string // connected account whose profile writes; '' for our own
	Locale    string // supported by package decline
	Template  string // first, reminder_1, …
	Public    decline.Public
	Amount    int64 // minor units
	Currency  string
	Link      string // where the customer fixes the payment
	MessageID string // without angle brackets
	Date      time.Time
	// BeforeDot is asked before the server is given the mail for good; an error abandons it.
	BeforeDot func(context.Context) error
}

// Result says what became of one attempt to hand a mail to the server.
type Result string

// The results. Only Accepted and Undecided may have left a mail with the server.
const (
	// Accepted: the server answered 250 to the final dot; whatever happened afterwards does not matter.
	Accepted Result = "accepted"
	// RejectedAddress: the recipient's mailbox does not exist or is closed (5.1.x or 5.2.1 at RCPT): suppress it.
	RejectedAddress Result = "rejected_address"
	// RejectedMail: another 5xx from MAIL on. It concerns this mail only; several in a row mean us.
	RejectedMail Result = "rejected_mail"
	// Deferred: a 4xx, or the connection failed or timed out before the final dot. The server holds nothing.
	Deferred Result = "deferred"
	// Undecided: the final dot may have been sent, and no reply code came back. The server may hold the mail.
	Undecided Result = "undecided"
	// Paused: the server will not talk to us at all (421, refused greeting, log-in or TLS). It says nothing of the
	// mail or its recipient: stop sending for a while. The server holds nothing.
	Paused Result = "paused"
	// Abandoned: BeforeDot refused, or the context ended before the final dot. The server holds nothing.
	Abandoned Result = "abandoned"
)

// Outcome is what one delivery came to. Reason is one line without addresses, fit to be stored and logged.
type Outcome struct {
	Result Result
	Code   int // SMTP reply code; 0 without one
	Reason string
}

// Mailer writes and sends letters.
type Mailer interface {
	// Deliver sends one letter and waits for its fate.
	Deliver(ctx context.Context, l Letter) Outcome
	// Mailbox checks an address and normalises it for limits; ok is false for what is no plain address.
	Mailbox(address string) (normalised string, ok bool)
	// MaxDuration is how long Deliver may take at most.
	MaxDuration() time.Duration
}

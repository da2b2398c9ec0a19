package console

import (
	"cmp"
	"context"
	"slices"
	"time"

	"rebound/decline"
	"rebound/store"
)

type paymentJSON struct {
	ID            string          `json:"id"`
	Object        string          `json:"object"`
	Source        string          `json:"source"`
	Account       *string         `json:"account"`
	Livemode      bool            `json:"livemode"`
	PaymentIntent *string         `json:"payment_intent"`
	Customer      *string         `json:"customer"`
	Invoice       *string         `json:"invoice"`
	Amount        int64           `json:"amount"`
	Currency      *string         `json:"currency"`
	Status        string          `json:"status"`
	Attempts      []any           `json:"attempts"` // failedJSON and succeededJSON, oldest first
	Timeline      []timelineEntry `json:"timeline"`
}

// failedJSON is a failure in a payment's list of attempts, where result tells it from a success.
type failedJSON struct {
	failureJSON
	Result string `json:"result"`
}

type succeededJSON struct {
	ID            string     `json:"id"`
	Object        string     `json:"object"`
	Source        string     `json:"source"`
	Account       *string    `json:"account"`
	Livemode      bool       `json:"livemode"`
	PaymentID     string     `json:"payment_id"`
	PaymentIntent *string    `json:"payment_intent"`
	Charge        *string    `json:"charge"`
	Customer      *string    `json:"customer"`
	Invoice       *string    `json:"invoice"`
	Amount        int64      `json:"amount"`
	Currency      *string    `json:"currency"`
	SucceededAt   time.Time  `json:"succeeded_at"`
	PaymentMethod methodJSON `json:"payment_method"`
	PaymentStatus string     `json:"payment_status"`
	Events        []string   `json:"events"`
	Result        string     `json:"result"`
}

// timelineEntry is one thing that happened: an event of the provider, or a step in the life of a notification.
type timelineEntry struct {
	At   time.Time `json:"at"`
	Type string    `json:"type"` // event, notification
	ID   string    `json:"id"`   // evt_…, nt_…
	// Step is an event's type, or what became of a notification: created, or one of its statuses, or read.
	Step       string     `json:"step"`
	ObjectID   *string    `json:"object_id"`   // events: what it is about
	APIVersion *string    `json:"api_version"` // events
	ReceivedAt *time.Time `json:"received_at"` // events
	Failure    *string    `json:"failure"`     // notifications: the attempt that it tells of
	Channel    *string    `json:"channel"`     // notifications
	Template   *string    `json:"template"`    // notifications
	Reason     *string    `json:"reason"`      // notifications: why it stands as it does
}

func (s *server) paymentOf(h store.PaymentHistory, locale string) paymentJSON {
	p := h.Payment
	out := paymentJSON{
		ID: p.PaymentID, Object: "payment", Source: p.Source, Account: text(p.Account), Livemode: p.Livemode,
		PaymentIntent: text(p.PaymentIntent), Customer: text(p.Customer), Invoice: text(p.Invoice), Amount: p.Amount, Currency: text(p.Currency),
		Status: p.Status, Attempts: make([]any, len(h.Attempts)), Timeline: timelineOf(h),
	}
	for i, a := range h.Attempts {
		if a.Result != "succeeded" {
			out.Attempts[i] = failedJSON{s.failureOf(a, locale), "failed"}
			continue
		}
		out.Attempts[i] = succeededJSON{
			ID: a.ID, Object: "attempt", Source: a.Source, Account: text(a.Account), Livemode: a.Livemode, PaymentID: a.PaymentID,
			PaymentIntent: text(a.PaymentIntent), Charge: text(a.Charge), Customer: text(a.Customer), Invoice: text(a.Invoice),
			Amount: a.Amount, Currency: text(a.Currency), SucceededAt: a.OccurredAt.UTC(), PaymentMethod: methodOf(a.Attempt),
			PaymentStatus: a.PaymentStatus, Events: listed(a.Events), Result: "succeeded",
		}
	}
	return out
}

// timelineOf puts events and notifications in the order in which they happened.
func timelineOf(h store.PaymentHistory) []timelineEntry {
	entries := make([]timelineEntry, 0, len(h.Events)+2*len(h.Notifications))
	for _, e := range h.Events {
		received := e.ReceivedAt.UTC()
		entries = append(entries, timelineEntry{
			At: time.Unix(e.Created, 0).UTC(), Type: "event", ID: e.EventID, Step: e.EventType,
			ObjectID: text(e.ObjectID), APIVersion: text(e.APIVersion), ReceivedAt: &received,
		})
	}
	for _, n := range h.Notifications {
		add := func(at time.Time, step string, reason *string) {
			if at.Before(n.CreatedAt) { // what is delivered at once counts from its event's receipt, before there was a row
				at = n.CreatedAt
			}
			entries = append(entries, timelineEntry{At: at.UTC(), Type: "notification", ID: n.ID, Step: step,
				Failure: text(n.FailureID), Channel: text(n.Channel), Template: text(n.Template), Reason: reason})
		}
		ended := n.Status != store.Held
		if !ended || n.SentAt != nil || n.UpdatedAt.After(n.CreatedAt) {
			var why *string
			if !ended {
				why = text(n.Reason)
			}
			add(n.CreatedAt, "created", why)
		}
		switch {
		case n.SentAt != nil:
			add(*n.SentAt, n.Status, text(n.Reason))
		case ended && n.ReadAt != nil: // then the last change may have been the reading
			add(n.CreatedAt, n.Status, text(n.Reason))
		case ended:
			add(n.UpdatedAt, n.Status, text(n.Reason))
		}
		if n.ReadAt != nil {
			add(*n.ReadAt, "read", nil)
		}
	}
	slices.SortStableFunc(entries, func(a, b timelineEntry) int { return a.At.Compare(b.At) })
	return entries
}

// retryDecision is whether a payment may be tried again at this moment. It bounds what is allowed; it asks for nothing.
type retryDecision struct {
	Object        string     `json:"object"`
	PaymentID     string     `json:"payment_id"`
	Source        string     `json:"source"`
	Account       *string    `json:"account"`
	Livemode      bool       `json:"livemode"`
	PaymentStatus string     `json:"payment_status"`
	Failure       *string    `json:"failure"`       // the newest failed attempt
	Allowed       bool       `json:"allowed"`       // now, with the same payment method, without the customer
	RetryAllowed  bool       `json:"retry_allowed"` // the same
	Verdict       string     `json:"verdict"`
	NotBefore     *time.Time `json:"not_before"`
	LimitedBy     *string    `json:"limited_by"` // the rule; a payment's own state as payment:recovered, …
	DecidedBy     *string    `json:"decided_by"`
	AttemptsUsed  int64      `json:"attempts_used"`
	AttemptsLeft  int64      `json:"attempts_left"`
	Rules         []ruleJSON `json:"rules"` // every limit that was looked at
}

// retryDecision decides about the newest failed attempt. A payment that no longer fails is not to be tried again, whatever
// comes out.
func (s *server) retryDecision(ctx context.Context, h store.PaymentHistory) (retryDecision, error) {
	p := h.Payment
	d := retryDecision{Object: "retry_decision", PaymentID: p.PaymentID, Source: p.Source, Account: text(p.Account), Livemode: p.Livemode,
		PaymentStatus: p.Status, Verdict: string(decline.RetryNever), LimitedBy: text("payment:" + p.Status), Rules: []ruleJSON{}}
	newest := -1
	for i := range h.Attempts {
		if h.Attempts[i].Result == "failed" {
			newest = i
		}
	}
	if newest < 0 {
		return d, nil
	}
	// It alone: a card tester's payment has thousands, and to decide about all of them takes longer than anybody waits.
	decisions, err := s.advise(ctx, h.Attempts[newest:newest+1])
	if err != nil {
		return d, err
	}
	f, advice := h.Attempts[newest], decisions[0]
	d.Failure, d.DecidedBy, d.Rules = text(f.ID), text(f.DecidedBy), rulesOf(advice)
	d.AttemptsUsed, d.AttemptsLeft = int64(advice.AttemptsUsed), int64(advice.AttemptsLeft)
	if p.Status != "failing" {
		return d, nil
	}
	d.Allowed, d.RetryAllowed = advice.Allowed, advice.Allowed
	d.Verdict, d.NotBefore, d.LimitedBy = string(advice.Verdict), momentOf(advice.NotBefore), text(advice.LimitedBy)
	if advice.Verdict == decline.RetryLater && (advice.NotBefore.IsZero() || !advice.Allowed && advice.From.After(advice.NotBefore)) {
		d.NotBefore = momentOf(advice.From)
		d.LimitedBy = text(cmp.Or(advice.LimitedBy, "rebound:default_wait"))
	}
	return d, nil
}

// noticeJSON is an in-app notice for the merchant's own app. Everything in it may be shown to the customer.
type noticeJSON struct {
	ID            string      `json:"id"`
	Object        string      `json:"object"`
	Source        string      `json:"source"`
	Account       *string     `json:"account"`
	Livemode      bool        `json:"livemode"`
	Customer      string      `json:"customer"`
	PaymentID     string      `json:"payment_id"`
	PaymentStatus string      `json:"payment_status"`
	Amount        int64       `json:"amount"`
	Currency      *string     `json:"currency"`
	Title         string      `json:"title"`
	Message       messageJSON `json:"message"`
	NextStep      *string     `json:"next_step"`
	CreatedAt     time.Time   `json:"created_at"`
	ReadAt        *time.Time  `json:"read_at"`
}

func (s *server) noticeOf(n store.Notice, locale string) noticeJSON {
	public := publicOf(n.PublicCode, n.PublicNextStep, n.PublicField, n.PublicRetry)
	if n.AwaitsCharge && n.AttemptAt != nil && s.Now().Before(n.AttemptAt.Add(decline.ChargeWindow)) {
		public = decline.Generic()
	}
	m := messageOf(public, locale, n.Locale, s.AccountLocales[n.Account])
	phrases := decline.PhrasesFor(m.Locale)
	title := phrases.Heading
	if decline.MoneyKnown(n.Amount, n.Currency) {
		title = decline.Fill(phrases.InboxTitle, "", decline.FormatMoney(n.Amount, n.Currency, m.Locale), "")
	}
	return noticeJSON{
		ID: n.ID, Object: "notice", Source: n.Source, Account: text(n.Account), Livemode: n.Livemode, Customer: n.Customer,
		PaymentID: n.PaymentID, PaymentStatus: n.PaymentStatus, Amount: n.Amount, Currency: text(n.Currency),
		Title: title, Message: m, NextStep: text(string(public.NextStep)),
		CreatedAt: n.CreatedAt.UTC(), ReadAt: moment(n.ReadAt),
	}
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"

	"rebound/handler"
	"rebound/notify/checkout"
	"rebound/notify/link"
	"rebound/store"
	"rebound/store/job"
	"rebound/webhook"
)

// The rooms of the house do not know each other; what follows lets one speak to another.

// checkoutRows is the checkout stream's view of the store.
type checkoutRows struct{ *store.Store }

func checkoutKey(k store.PaymentKey) checkout.Key { return checkout.Key(k) }

func paymentKey(k checkout.Key) store.PaymentKey { return store.PaymentKey(k) }

func mapped[A, B any](list []A, f func(A) B) []B {
	out := make([]B, 0, len(list))
	for _, a := range list {
		out = append(out, f(a))
	}
	return out
}

// Secrets reads the hashes of client secrets.
func (r checkoutRows) Secrets(ctx context.Context, paymentIDs []string) ([]checkout.Secret, error) {
	found, err := r.ClientSecrets(ctx, paymentIDs)
	return mapped(found, func(s store.ClientSecret) checkout.Secret {
		return checkout.Secret{Key: checkoutKey(s.PaymentKey), Hash: s.Hash}
	}), err
}

// States reads what a page may be told of.
func (r checkoutRows) States(ctx context.Context, keys []checkout.Key) ([]checkout.State, error) {
	found, err := r.CheckoutStates(ctx, mapped(keys, paymentKey))
	return mapped(found, func(s store.CheckoutState) checkout.State {
		return checkout.State{
			Key: checkoutKey(s.PaymentKey), Status: s.Status, PaymentIntent: s.PaymentIntent, AttemptID: s.AttemptID,
			Public: s.Public, AwaitsCharge: s.AwaitsCharge, Age: r.Now().Sub(s.ReceivedAt), Locale: s.Locale,
		}
	}), err
}

// Keep writes the heartbeats of streams.
func (r checkoutRows) Keep(ctx context.Context, streams []checkout.Presence) error {
	return r.KeepCheckoutStreams(ctx, mapped(streams, func(p checkout.Presence) store.CheckoutStream {
		return store.CheckoutStream{ID: p.ID, PaymentKey: paymentKey(p.Key)}
	}))
}

// Drop removes streams that have ended.
func (r checkoutRows) Drop(ctx context.Context, ids []string) error {
	return r.DropCheckoutStreams(ctx, ids)
}

// Sweep removes streams without a heartbeat.
func (r checkoutRows) Sweep(ctx context.Context, age time.Duration) error {
	return r.SweepCheckoutStreams(ctx, age)
}

// MarkShown records what was shown.
func (r checkoutRows) MarkShown(ctx context.Context, shown []checkout.Shown) error {
	return r.MarkCheckoutShown(ctx, mapped(shown, func(s checkout.Shown) store.CheckoutShown {
		return store.CheckoutShown{
			PaymentKey: paymentKey(s.Key), AttemptID: s.AttemptID, Code: s.Code, Locale: s.Locale, At: s.At,
		}
	}))
}

// mailLinks resolves the tokens of mails.
type mailLinks struct {
	store  *store.Store
	config *config
}

// ResolvePayment finds what a payment link leads to.
func (l mailLinks) ResolvePayment(ctx context.Context, token string) (link.Target, error) {
	found, target, err := l.find(ctx, token)
	if err != nil {
		return link.Target{}, err
	}
	switch {
	case found.PaymentStatus == "recovered":
		target.State = link.Recovered
	case found.PaymentStatus == "canceled":
		target.State = link.Canceled
	case !l.store.Now().Before(found.ExpiresAt):
		target.State = link.Expired
	case target.PaymentURL == "" && found.Account != "":
		return link.Target{}, link.ErrUnknown // the account's profile was taken away: nowhere to lead to
	default:
		target.State = link.Open
	}
	return target, nil
}

// ResolveUnsubscribe finds whom a preference link speaks for. It works for as long as the notification is kept: a wish
// to hear no more does not expire with the payment page.
func (l mailLinks) ResolveUnsubscribe(ctx context.Context, token string) (link.Target, error) {
	_, target, err := l.find(ctx, token)
	return target, err
}

// Unsubscribe stops mail to the mailbox that the token was sent to.
func (l mailLinks) Unsubscribe(ctx context.Context, token string) error {
	found, _, err := l.find(ctx, token)
	if err != nil {
		return err
	}
	if len(found.Mailbox) == 0 {
		return link.ErrUnknown // its mail has not been sent, so nobody can have the token from it
	}
	return l.store.Suppress(ctx, found.Mailbox, store.ReasonUnsubscribed)
}

func (l mailLinks) find(ctx context.Context, token string) (store.Link, link.Target, error) {
	found, err := l.store.Link(ctx, token)
	if errors.Is(err, store.ErrNoLink) {
		return found, link.Target{}, link.ErrUnknown
	}
	if err != nil {
		return found, link.Target{}, err
	}
	target := link.Target{PaymentID: found.PaymentID, Locale: found.Locale}
	if found.Account == "" {
		target.PaymentURL, target.MerchantName = l.config.PaymentURL, l.config.MerchantName
		target.SupportEmail = l.config.SupportEmail
		return found, target, nil
	}
	// Without a profile any more the platform answers for what was sent.
	p := l.config.profiles[found.Account]
	target.PaymentURL, target.MerchantName, target.SupportEmail = p.PaymentURL, cmp.Or(p.MerchantName, l.config.MerchantName), p.SupportEmail
	return found, target, nil
}

// lookUpWorker asks the provider's API for what the events of a payment do not say, and records the answer as it records
// an event.
type lookUpWorker struct {
	river.WorkerDefaults[job.LookUpContact]
	api      *webhook.StripeAPI // nil: no key
	recorder webhook.Recorder
}

// Work does one look-up. What was found is recorded also when something else was not.
func (w *lookUpWorker) Work(ctx context.Context, j *river.Job[job.LookUpContact]) error {
	if w.api == nil {
		return river.JobCancel(errors.New("STRIPE_API_KEY is not set"))
	}
	found, lookUpErr := w.api.LookUp(ctx, j.Args)
	if err := w.recorder.Record(ctx, found); err != nil {
		return errors.Join(fmt.Errorf("recording the look-up for payment %s: %w", j.Args.PaymentID, err), lookUpErr)
	}
	switch {
	case lookUpErr == nil:
		return nil
	case !webhook.Retryable(lookUpErr):
		return river.JobCancel(lookUpErr)
	}
	if after := webhook.RetryAfter(lookUpErr); after > 0 {
		return river.JobSnooze(after)
	}
	return lookUpErr
}

// Timeout covers the calls of one look-up, four at most.
func (w *lookUpWorker) Timeout(*river.Job[job.LookUpContact]) time.Duration { return time.Minute }

// policy is the part of the configuration that decides who is told.
func (c *config) policy() handler.Policy {
	profiles := make(map[string]bool, len(c.profiles))
	for account := range c.profiles {
		profiles[account] = true
	}
	p := handler.Policy{
		Livemode: c.Mode == "live", Hold: c.NotifyHold, HoldWeak: c.NotifyHoldWeak,
		UnknownToInbox: c.NotifyUnknown == "inbox", MaxAge: c.NotifyMaxAge, MailsInvoices: c.BillingNotifications == "ours",
		SMTPConfigured: c.SMTPURL != "", LooksUp: c.StripeAPIKey != "", Profiles: profiles,
		MessageIDDomain: cmp.Or(domainOf(c.from), "rebound.invalid"),
	}
	p.Rules.MaxRetriesPerCharge, p.Rules.Overrides = c.MaxRetriesPerCharge, c.overrides
	return p
}

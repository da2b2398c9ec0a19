package webhook

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/stripe/stripe-go/v79"
	"go.uber.org/zap"

	"rebound/handler"
	"rebound/store/job"
)

// APIConfig is what the Stripe API look-ups need. Key is required.
type APIConfig struct {
	Key       string            // secret or restricted key; it needs to read customers, invoices, payment intents and Checkout Sessions
	Base      string            // '' means Stripe's own
	Timeout   time.Duration     // of one call; 0 means 10 s
	Transport http.RoundTripper // nil means http.DefaultTransport
	Decode    DecodeOptions
	// BreakerAfter failures in a row stop all calls for BreakerDelay, then one is tried. 0 means 5, and 30 s.
	BreakerAfter uint
	BreakerDelay time.Duration
	Now          func() time.Time // nil means time.Now
	Log          *zap.Logger      // nil means none
}

// StripeAPI asks Stripe for what events do not say. It never retries by itself: the job that calls it does.
type StripeAPI struct {
	key     string
	backend stripe.Backend
	breaker circuitbreaker.CircuitBreaker[[]byte]
	calls   failsafe.Executor[[]byte]
	keys    metadataKeys
	keyed   func(string) []byte // a keyed hash; nil: none
	now     func() time.Time
	log     *zap.Logger
}

// NewStripeAPI returns look-ups for one key.
func NewStripeAPI(c APIConfig) (*StripeAPI, error) {
	if c.Key == "" {
		return nil, errors.New("the Stripe API needs a key")
	}
	base := cmp.Or(c.Base, stripe.APIURL)
	if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("the base of the Stripe API is not an http or https URL")
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	a := &StripeAPI{
		key: c.Key, now: c.Now, log: c.Log,
		keys: metadataKeys{session: c.Decode.SessionKey, email: c.Decode.EmailKey, locale: c.Decode.LocaleKey}, keyed: c.Decode.HashClientSecret,
		backend: stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
			URL: stripe.String(base),
			HTTPClient: &http.Client{
				Timeout:   cmp.Or(c.Timeout, 10*time.Second),
				Transport: answers{c.Transport},
			},
			EnableTelemetry:   stripe.Bool(false),
			MaxNetworkRetries: stripe.Int64(0),
			// Its lines quote answers.
			LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
		}),
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = zap.NewNop()
	}
	a.breaker = circuitbreaker.NewBuilder[[]byte]().
		WithFailureThreshold(cmp.Or(c.BreakerAfter, 5)).
		WithSuccessThreshold(1).
		WithDelay(cmp.Or(c.BreakerDelay, 30*time.Second)).
		HandleIf(func(_ []byte, err error) bool { return outage(err) }).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			a.log.Warn("stripe_api.breaker", zap.Stringer("state", e.NewState))
		}).
		Build()
	a.calls = failsafe.With[[]byte](a.breaker)
	return a, nil
}

// outage says whether an error means that the API is in trouble, rather than that this call was refused, found its
// object locked, or was given up by its caller.
func outage(err error) bool {
	if e, ok := errors.AsType[*APIError](err); ok && e.Status == http.StatusConflict {
		return false
	}
	return err != nil && !errors.Is(err, context.Canceled) && Retryable(asAPIError(err, "", nil))
}

// LookUp asks for what a payment's events do not say: the payment intent, for its invoice, if none is known; the invoice;
// the customer; and, if none of them has an address, the Checkout Session. What it found is returned also beside an
// error, and is worth recording. An object that is not there, or that the key may not read, is an error that Retryable
// refuses; the other objects are asked for all the same. Anything retryable ends the look-up at once.
func (a *StripeAPI) LookUp(ctx context.Context, ask job.LookUpContact) (handler.Delivery, error) {
	var d handler.Delivery
	if ask.Source != sourceStripe {
		return d, fmt.Errorf("looking up payment %s: source %q is not Stripe", ask.PaymentID, ask.Source)
	}
	start := a.now()
	l := &lookUp{api: a, ask: ask}
	for _, step := range []func(context.Context) error{l.intent, l.invoice, l.customer, l.session} {
		if err := step(ctx); err != nil {
			if Retryable(err) {
				l.errs = append([]error{err}, l.errs...) // first, since what can still be had decides what to do next
				break
			}
			l.errs = append(l.errs, err)
		}
	}
	err := errors.Join(l.errs...)
	if err != nil {
		err = fmt.Errorf("looking up payment %s: %w", ask.PaymentID, err)
	}
	a.log.Info("stripe_api.looked_up", zap.String("payment", ask.PaymentID), zap.String("account", ask.Account),
		zap.Int("facts", len(l.found.Facts)), zap.Bool("customer", l.found.Customer != nil), zap.Bool("address", l.address),
		zap.Duration("duration", a.now().Sub(start)), zap.Error(err))
	return l.found, err
}

// lookUp is one look-up under way.
type lookUp struct {
	api     *StripeAPI
	ask     job.LookUpContact
	asked   time.Time // when the last question was asked: what is made after it is newer than the answer
	found   handler.Delivery
	address bool
	errs    []error
}

// The event types of facts that were read, not received. What an invoice's state means is said by its events' types.
const (
	readIntent  = "payment_intent.read"
	readInvoice = "invoice.read"
	readSession = "checkout.session.read"
)

// event stands in for the event that would have brought o. Its id is the same whenever the same state is read again.
func (l *lookUp) event(eventType string, o stripeObject) *stripeEvent {
	return &stripeEvent{
		id: "api:" + o.id + ":" + o.status, eventType: eventType, apiVersion: stripe.APIVersion,
		account: l.ask.Account, livemode: l.ask.Livemode, created: l.asked.Unix(), object: o,
	}
}

// intent reads the invoice that a charge's events have not named since 2025-03-31; read in our own API version, which is
// older, the intent still does.
func (l *lookUp) intent(ctx context.Context) error {
	if l.ask.Invoice != "" || l.ask.Intent == "" {
		return nil
	}
	var o stripeObject
	if err := l.get(ctx, "payment intent", stripe.FormatURLPath("/v1/payment_intents/%s", l.ask.Intent), &o); err != nil {
		return err
	}
	eventType := readIntent
	switch o.status { // what has ended is not to be written about
	case "succeeded":
		eventType = "payment_intent.succeeded"
	case "canceled":
		eventType = "payment_intent.canceled"
	}
	f := l.event(eventType, o).fact("payment_intent", l.ask.PaymentID)
	f.PaymentIntent, f.LatestCharge = o.id, o.latestCharge
	o.invoiceOf(&f)
	f.Addresses = addresses(handler.Contact{Metadata: o.metaEmail, Receipt: o.receiptEmail})
	l.add(f)
	l.ask.Invoice, l.ask.Customer = f.Invoice, cmp.Or(l.ask.Customer, f.Customer)
	return nil
}

func (l *lookUp) invoice(ctx context.Context) error {
	if l.ask.Invoice == "" {
		return nil
	}
	var o stripeObject
	if err := l.get(ctx, "invoice", stripe.FormatURLPath("/v1/invoices/%s", l.ask.Invoice), &o); err != nil {
		return err
	}
	eventType := readInvoice
	switch o.status {
	case "paid":
		eventType = "invoice.paid"
	case "void":
		eventType = "invoice.voided"
	case "uncollectible":
		eventType = "invoice.marked_uncollectible"
	}
	d := invoiceFacts(l.event(eventType, o))
	for i := range d.Facts {
		d.Facts[i].Status = o.status
	}
	// The payment asked for belongs to the invoice even if a later one is now named there.
	f := d.Facts[0]
	f.PaymentID, f.PaymentIntent, f.Charge = l.ask.PaymentID, l.ask.Intent, ""
	l.add(d.Facts[0])
	l.add(f)
	l.ask.Customer = cmp.Or(l.ask.Customer, o.customer)
	return nil
}

func (l *lookUp) customer(ctx context.Context) error {
	if l.ask.Customer == "" {
		return nil
	}
	var o stripeObject
	if err := l.get(ctx, "customer", stripe.FormatURLPath("/v1/customers/%s", l.ask.Customer), &o); err != nil {
		return err
	}
	l.found.Customer = &handler.Customer{
		CustomerID: o.id, Source: sourceStripe, Account: l.ask.Account, Livemode: l.ask.Livemode,
		Created: o.created, RecordCreated: l.asked.Unix(), RecordEvent: "api",
		Deleted: o.deleted, Email: o.email, Locale: o.preferredLocales,
	}
	// A deleted customer is not to be written to, whatever the session says.
	l.address = l.address || o.email != "" || o.deleted
	return nil
}

func (l *lookUp) session(ctx context.Context) error {
	if l.ask.Intent == "" || l.address {
		return nil
	}
	params := &stripe.Params{}
	params.AddExtra("payment_intent", l.ask.Intent)
	params.AddExtra("limit", "1")
	var o stripeObject
	if err := l.getFirst(ctx, "Checkout Session", "/v1/checkout/sessions", params, &o); err != nil || o.id == "" {
		return err
	}
	e := l.event(readSession, o)
	e.object.paymentIntent = l.ask.Intent
	for _, f := range sessionFacts(e).Facts {
		f.PaymentID = l.ask.PaymentID
		l.add(f)
	}
	return nil
}

func (l *lookUp) add(f handler.Fact) {
	if c := f.Addresses; c != nil && l.api.keyed != nil {
		// An address that has come since is news, though the state is the same; keyed, so that nobody can guess it.
		f.EventID += ":" + hex.EncodeToString(l.api.keyed(c.Metadata + "\n" + c.Receipt + "\n" + c.Customer)[:4])
	}
	l.found.Facts = append(l.found.Facts, f)
	l.address = l.address || f.Addresses != nil
}

// call makes one call and returns the answer as it is: an object of a shape that stripe-go does not know must not fail
// the look-up.
func (l *lookUp) call(ctx context.Context, what, path string, params *stripe.Params) ([]byte, error) {
	params.Context = ctx
	l.asked = l.api.now()
	if l.ask.Account != "" {
		params.SetStripeAccount(l.ask.Account)
	}
	body, err := l.api.calls.GetWithExecution(func(failsafe.Execution[[]byte]) ([]byte, error) {
		var answer stripe.APIResource
		err := l.api.backend.Call(http.MethodGet, path, l.api.key, params, &answer)
		switch {
		case err == nil:
			return answer.LastResponse.RawJSON, nil
		case unread(err):
			return nil, errUnreadableAnswer // stripe-go's own words quote the answer
		}
		return nil, err
	})
	if err != nil {
		return nil, asAPIError(err, l.named(what), l.api.breaker)
	}
	return body, nil
}

func (l *lookUp) named(what string) string { return "the " + what + " of payment " + l.ask.PaymentID }

// get asks for one object.
func (l *lookUp) get(ctx context.Context, what, path string, o *stripeObject) error {
	body, err := l.call(ctx, what, path, &stripe.Params{})
	if err != nil {
		return err
	}
	r := newReader(body)
	defer r.release()
	r.keyed = l.api.keyed
	l.api.keys.object(r, "answer", o, false)
	if r.end() != nil || o.id == "" {
		return &APIError{Call: l.named(what), Cause: errUnreadableAnswer}
	}
	return l.sameMode(what, o)
}

// getFirst asks for a list and reads its first object; o has no id if there is none.
func (l *lookUp) getFirst(ctx context.Context, what, path string, params *stripe.Params, o *stripeObject) error {
	body, err := l.call(ctx, what, path, params)
	if err != nil {
		return err
	}
	r := newReader(body)
	defer r.release()
	r.keyed = l.api.keyed
	r.object("answer", func(member []byte) {
		if string(member) != "data" {
			r.skip()
			return
		}
		r.list("answer.data", func(i int) {
			if i == 0 {
				l.api.keys.object(r, "answer.data", o, false)
			} else {
				r.skip()
			}
		})
	})
	if r.end() != nil {
		return &APIError{Call: l.named(what), Cause: errUnreadableAnswer}
	}
	return l.sameMode(what, o)
}

func (l *lookUp) sameMode(what string, o *stripeObject) error {
	if o.id != "" && !o.deleted && o.livemode != l.ask.Livemode {
		return &APIError{Call: l.named(what), Cause: ErrOtherMode}
	}
	return nil
}

// unread says whether err came from reading an answer, not from getting it.
func unread(err error) bool {
	_, refused := errors.AsType[*APIError](err)
	_, unsent := errors.AsType[*url.Error](err)
	return !refused && !unsent && !errors.Is(err, context.Canceled)
}

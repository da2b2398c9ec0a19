// Package sample makes signed webhook events of invented payments, in the shapes that Stripe sends: one case for each
// kind of failure that a reader of such events must get right. Every id, name and text is made up here; the same seed
// gives the same payment.
package sample

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v79/webhook"
)

// Case is one kind of failed payment.
type Case struct {
	Name  string // as simulate's --case takes it
	Title string // one line for people
}

// Event is one webhook event, unsigned.
type Event struct {
	ID   string
	Type string
	Body []byte
}

// Params say which payment of a case is made.
type Params struct {
	Seed   uint64    // the same seed gives the same ids
	Now    time.Time // when the failure happens; every time in the events is moved accordingly
	Email  string    // the customer's address; empty: one at example.com that follows from the seed
	Amount int64     // minor units; 0: the case's own
}

// Payment is one invented payment, with the events that tell of its failure.
type Payment struct {
	Case         string
	Intent       string // pi_…; empty for a charge without one
	Charge       string // ch_… or py_…; empty when the failure came before a charge
	Customer     string // cus_…; empty for a guest
	Account      string // acct_… of a Connect account; empty for the platform's own
	ClientSecret string // of the intent
	Email        string
	Amount       int64
	Currency     string
	Events       []Event // in the order in which Stripe usually sends them

	version string // API version of its events
	method  object // the payment method as it stands on the intent
	details object // payment_method_details of its charge
	invoice string
	now     time.Time
	rng     *rand.Rand
	lastTry time.Time // of Try
}

// PaymentID is what names the payment at Stripe: the payment intent, else the charge.
func (p *Payment) PaymentID() string {
	if p.Intent != "" {
		return p.Intent
	}
	return p.Charge
}

var cases = []struct {
	Case
	build func(*Payment, time.Time)
}{
	{Case{"pair", "insufficient funds at checkout: charge and payment intent tell of one attempt"}, buildPair},
	{Case{"block", "blocked by Radar in Checkout: the reason must stay hidden"}, buildBlock},
	{Case{"authentication", "off-session charge that needs 3-D Secure; one event in two API versions"}, buildAuthentication},
	{Case{"three-d-secure", "3-D Secure failed at checkout: no charge exists"}, buildThreeDSecure},
	{Case{"charge-only", "legacy charge without a payment intent: expired card"}, buildChargeOnly},
	{Case{"sepa", "bank debit that fails days later"}, buildSEPA},
	{Case{"renewal", "subscription renewal: the invoice shows only as an order reference"}, buildRenewal},
	{Case{"connect", "blocked on a connected account, for cost and not for fraud"}, buildConnect},
}

// Cases lists the cases in a fixed order.
func Cases() []Case {
	list := make([]Case, 0, len(cases))
	for _, c := range cases {
		list = append(list, c.Case)
	}
	return list
}

// ErrUnknownCase is returned for a case that Cases does not list.
var ErrUnknownCase = errors.New("unknown case")

// Build makes one failed payment of the named case.
func Build(name string, p Params) (*Payment, error) {
	i := slices.IndexFunc(cases, func(c struct {
		Case
		build func(*Payment, time.Time)
	}) bool {
		return c.Name == name
	})
	if i < 0 {
		names := make([]string, 0, len(cases))
		for _, c := range cases {
			names = append(names, c.Name)
		}
		return nil, fmt.Errorf("%w %q; there are %s", ErrUnknownCase, name, strings.Join(names, ", "))
	}
	payment := newPayment(name, p)
	cases[i].build(payment, p.Now)
	return payment, nil
}

// Sign returns the Stripe-Signature header for a body, made at the given time with the endpoint's secret.
func Sign(body []byte, secret string, at time.Time) string {
	return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{
		Payload: body, Secret: secret, Timestamp: at,
	}).Header
}

func newPayment(name string, p Params) *Payment {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	payment := &Payment{
		Case:     name,
		Amount:   4200,
		Currency: "usd",
		Email:    p.Email,
		version:  "2024-06-20",
		now:      p.Now,
		rng:      rand.New(rand.NewPCG(p.Seed, h.Sum64())), //nolint:gosec // invented ids, not secrets
	}
	if p.Amount > 0 {
		payment.Amount = p.Amount
	}
	if payment.Email == "" {
		payment.Email = fmt.Sprintf("customer-%04d@example.com", payment.rng.IntN(10000))
	}
	payment.Intent = payment.id("pi_3")
	payment.ClientSecret = payment.Intent + "_secret_" + payment.letters(25)
	return payment
}

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func (p *Payment) letters(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[p.rng.IntN(len(alphabet))]
	}
	return string(b)
}

// id invents an id as Stripe's are: after the digit come the seconds since mid-2012 and the account's own letters.
func (p *Payment) id(prefix string) string {
	if strings.HasSuffix(prefix, "_") {
		return prefix + p.letters(23)
	}
	var stamp [5]byte
	for i, rest := len(stamp)-1, max(0, p.now.Unix()-1_343_000_000); i >= 0; i-- {
		stamp[i], rest = alphabet[rest%62], rest/62
	}
	return prefix + string(stamp[:]) + "DemoShopAc" + p.letters(8)
}

// add wraps an object into an event of the payment's API version.
func (p *Payment) add(eventType string, created time.Time, request string, obj object) {
	p.addVersion(p.id("evt_3"), p.version, eventType, created, request, obj)
}

// addVersion renders an event that may exist in several versions under one id. An empty request means that Stripe
// acted by itself.
func (p *Payment) addVersion(id, version, eventType string, created time.Time, request string, obj object) {
	event := object{
		"id": id, "object": "event", "api_version": version, "created": created.Unix(), "type": eventType,
		"livemode": false, "pending_webhooks": 1, "data": object{"object": obj},
		"request": object{"id": nil, "idempotency_key": nil},
	}
	if request != "" {
		event["request"] = object{"id": request, "idempotency_key": "order-" + p.PaymentID()}
	}
	if p.Account != "" {
		event["account"] = p.Account
	}
	body, err := json.MarshalIndent(event, "", "  ")
	if err != nil {
		panic("sample: encoding an event: " + err.Error()) // maps of plain values always encode
	}
	p.Events = append(p.Events, Event{ID: id, Type: eventType, Body: body})
}

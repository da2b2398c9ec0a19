package sample_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/webhook"

	"rebound/cmd/rebound/internal/sample"
)

const secret = "whsec_test_0123456789abcdef"

// decode reads an event as a Stripe integrator would: signature, envelope, object.
func decode(t *testing.T, e sample.Event, at time.Time) stripe.Event {
	t.Helper()
	event, err := webhook.ConstructEventWithOptions(e.Body, sample.Sign(e.Body, secret, at), secret,
		webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
	require.NoError(t, err)
	require.Equal(t, e.ID, event.ID)
	require.EqualValues(t, e.Type, event.Type)
	require.False(t, event.Livemode)
	return event
}

func TestEveryCaseDecodesWithStripeGo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	want := map[string]struct {
		events   int
		charge   string // failure_code
		decline  string // of the intent, else its code
		reason   string // outcome.reason
		customer bool
		account  bool
	}{
		"pair":           {2, "card_declined", "insufficient_funds", "insufficient_funds", false, false},
		"block":          {2, "card_declined", "fraudulent", "highest_risk_level", false, false},
		"authentication": {3, "authentication_required", "authentication_not_handled", "authentication_required", true, false},
		"three-d-secure": {1, "", "payment_intent_authentication_failure", "", false, false},
		"charge-only":    {1, "expired_card", "", "expired_card", true, false},
		"sepa":           {2, "incorrect_account_holder_name", "payment_intent_payment_attempt_failed", "", true, false},
		"renewal":        {2, "card_declined", "do_not_honor", "do_not_honor", true, false},
		"connect":        {1, "card_declined", "", "low_probability_of_authorization", true, true},
	}
	require.Len(t, sample.Cases(), len(want))
	for _, c := range sample.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			w := want[c.Name]
			p, err := sample.Build(c.Name, sample.Params{Seed: 7, Now: now, Email: "someone@example.org", Amount: 1234})
			require.NoError(t, err)
			require.Len(t, p.Events, w.events)
			var charge, decline, reason string
			for _, e := range p.Events {
				event := decode(t, e, now)
				require.InDelta(t, now.Unix(), event.Created, 1, "moved to now")
				require.Equal(t, w.account, event.Account != "")
				switch event.Type {
				case "charge.failed":
					var ch stripe.Charge
					require.NoError(t, json.Unmarshal(event.Data.Raw, &ch))
					require.Equal(t, p.Charge, ch.ID)
					require.EqualValues(t, 1234, ch.Amount)
					require.Equal(t, w.customer, ch.Customer != nil)
					charge = ch.FailureCode
					if ch.Outcome != nil {
						reason = ch.Outcome.Reason
					}
				case "payment_intent.payment_failed":
					var pi stripe.PaymentIntent
					require.NoError(t, json.Unmarshal(event.Data.Raw, &pi))
					require.Equal(t, p.Intent, pi.ID)
					require.Equal(t, p.ClientSecret, pi.ClientSecret)
					require.EqualValues(t, 1234, pi.Amount)
					require.NotNil(t, pi.LastPaymentError)
					if decline = string(pi.LastPaymentError.DeclineCode); decline == "" {
						decline = string(pi.LastPaymentError.Code)
					}
				default:
					require.Fail(t, "unexpected type", event.Type)
				}
			}
			require.Equal(t, []string{w.charge, w.decline, w.reason}, []string{charge, decline, reason})
		})
	}
}

func TestTheTwinRenderingsShareOneIDAndDifferInVersion(t *testing.T) {
	t.Parallel()
	p, err := sample.Build("authentication", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	one, two := decode(t, p.Events[1], time.Now()), decode(t, p.Events[2], time.Now())
	require.Equal(t, one.ID, two.ID)
	require.NotEqual(t, one.APIVersion, two.APIVersion)
	require.NotEqual(t, one.ID, p.Events[0].ID)
}

func TestTheSameSeedMakesTheSamePaymentAndAnotherDoesNot(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_790_000_000, 0)
	build := func(seed uint64) *sample.Payment {
		p, err := sample.Build("pair", sample.Params{Seed: seed, Now: now})
		require.NoError(t, err)
		return p
	}
	require.Equal(t, build(3).Events, build(3).Events)
	require.NotEqual(t, build(3).Intent, build(4).Intent)
	require.NotEqual(t, build(3).Events[0].ID, build(4).Events[0].ID)
}

func TestAnUnknownCaseNamesTheKnownOnes(t *testing.T) {
	t.Parallel()
	_, err := sample.Build("nonsense", sample.Params{})
	require.ErrorIs(t, err, sample.ErrUnknownCase)
	require.ErrorContains(t, err, "three-d-secure")
}

func TestEveryResultOfTheShopDecodesAndSuccessRecovers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := sample.Checkout(sample.Params{Seed: 5, Now: now, Amount: 990})
	require.Empty(t, p.Events)
	require.True(t, strings.HasPrefix(p.ClientSecret, p.Intent+"_secret_"))
	charges := map[string]bool{}
	for _, r := range sample.Results() {
		events := p.Try(r.Name, now)
		require.NotEmpty(t, events, r.Name)
		last := decode(t, events[len(events)-1], now)
		var pi stripe.PaymentIntent
		require.NoError(t, json.Unmarshal(last.Data.Raw, &pi))
		require.Equal(t, p.Intent, pi.ID)
		require.Equal(t, r.Name == "success", pi.Status == stripe.PaymentIntentStatusSucceeded)
		if pi.LatestCharge != nil {
			require.False(t, charges[pi.LatestCharge.ID], "every attempt has a charge of its own")
			charges[pi.LatestCharge.ID] = true
		}
	}
	require.Len(t, charges, len(sample.Results())-1, "all but the 3-D Secure failure have a charge")
	require.Nil(t, p.Try("nonsense", now))
}

func TestSuccessNamesTheFailedPayment(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range sample.Cases() {
		p, err := sample.Build(c.Name, sample.Params{Seed: 9, Now: now})
		require.NoError(t, err)
		id := p.PaymentID()
		for _, e := range p.Succeed(now) {
			require.Contains(t, string(decode(t, e, now).Data.Raw), `"`+id+`"`)
		}
		require.Equal(t, id, p.PaymentID())
	}
	for _, id := range []string{"pi_3abc", "ch_3abc", "py_3abc"} {
		p := sample.Resume(id, 4200, "eur", "", sample.Params{Seed: 9})
		require.Equal(t, id, p.PaymentID())
		for _, e := range p.Succeed(now) {
			raw := string(decode(t, e, now).Data.Raw)
			require.Contains(t, raw, `"`+id+`"`)
			require.Contains(t, raw, `"eur"`)
			require.NotContains(t, raw, "_secret_")
		}
	}
}

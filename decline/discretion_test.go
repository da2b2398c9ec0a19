package decline_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rebound/decline"
)

// companions are facts that on their own would be disclosed, or would shape what a customer sees.
var companions = []decline.Facts{
	{Source: decline.Stripe},
	{Source: decline.Frame},
	{Source: decline.Stripe, DeclineCode: "insufficient_funds", ErrorCode: "card_declined", OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds", FailureCode: "card_declined"},
	{Source: decline.Stripe, DeclineCode: "incorrect_cvc", ErrorCode: "incorrect_cvc", CVCCheck: "fail", AdviceCode: "confirm_card_data"},
	{Source: decline.Stripe, DeclineCode: "try_again_later", AdviceCode: "try_again_later", AttemptsUsed: 4},
	{Source: decline.Stripe, ErrorCode: "expired_card", FailureCode: "expired_card", MethodType: "klarna", Network: "visa", NetworkDeclineCode: "54"},
	{Source: decline.Stripe, ErrorCode: "insufficient_funds", MethodType: "sepa_debit", FailureCode: "insufficient_funds"},
	{Source: decline.Stripe, DeclineCode: "authentication_required", Network: "mastercard", NetworkAdviceCode: "24", AttemptsUsed: 2},
	{Source: decline.Frame, FailureCode: "incorrect_zip", Status: "failed"},
}

// codeFacts are the fields that a decline code can arrive in.
var codeFacts = map[string]func(*decline.Facts, string){
	"decline_code":   func(f *decline.Facts, c string) { f.DeclineCode = c },
	"error_code":     func(f *decline.Facts, c string) { f.ErrorCode = c },
	"failure_code":   func(f *decline.Facts, c string) { f.FailureCode = c },
	"outcome.reason": func(f *decline.Facts, c string) { f.OutcomeReason = c },
}

func requireSilent(t *testing.T, f decline.Facts) {
	t.Helper()
	v := decline.Rules{}.Classify(f)
	require.True(t, v.Hidden)
	require.False(t, v.Disclosable)
	require.Equal(t, generic(), v.Public)
	require.GreaterOrEqual(t, order[v.Retry.Verdict], 2, "never automatic")
}

func TestEveryFraudSignalIsSilentWhereverItArrives(t *testing.T) {
	t.Parallel()
	signals := map[string]bool{}
	// Named here too, so that the rule does not rest on the catalog's own marks.
	for _, c := range []string{
		"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card", "security_violation",
		"invalid_business_account", "partner_high_risk_customer", "compliance_violation", "payment_disputed", "partner_payment_not_found",
		"highest_risk_level", "rule", "blocklist", "requested_block", "requested_block_on_incorrect_cvc",
		"requested_block_on_incorrect_zip", "low_probability_of_authorization", "previously_declined_do_not_retry",
		"partner_fraudulent", "partner_stolen_card",
	} {
		signals[c] = true
	}
	for _, e := range decline.All() {
		switch e.Table {
		case decline.StripeDeclineCodes, decline.StripeLocalDeclineCodes, decline.StripeErrorCodes, decline.StripeOutcomeReasons, decline.FrameDeclineCodes:
			if e.Secret {
				signals[e.Code] = true
			}
		}
	}
	for code := range signals {
		for where, put := range codeFacts {
			for _, f := range companions {
				put(&f, code)
				t.Run(code+" in "+where, func(t *testing.T) { requireSilent(t, f) })
			}
		}
	}
}

func TestEverySignalThatIsNoCodeIsSilent(t *testing.T) {
	t.Parallel()
	put := map[string]func(*decline.Facts){
		"outcome blocked":         func(f *decline.Facts) { f.OutcomeType = "blocked" },
		"outcome invalid":         func(f *decline.Facts) { f.OutcomeType = "invalid" },
		"stripe report":           func(f *decline.Facts) { f.StripeReport = "fraudulent" },
		"highest risk":            func(f *decline.Facts) { f.RiskLevel = "highest" },
		"reversed after approval": func(f *decline.Facts) { f.NetworkStatus = "reversed_after_approval" },
		"fraud_declined":          func(f *decline.Facts) { f.Status = "fraud_declined" },
		"fraud_review":            func(f *decline.Facts) { f.Status = "fraud_review" },
		"a newer fraud state":     func(f *decline.Facts) { f.Status = "fraud_held" },
		"sanctions score":         func(f *decline.Facts) { f.Network, f.NetworkAdviceCode = "mastercard", "42" },
	}
	for _, e := range decline.All() {
		if e.Table == decline.NetworkDeclineCodes && e.Secret {
			put[e.Network+" "+e.Code] = func(f *decline.Facts) { f.Network, f.NetworkDeclineCode = e.Network, e.Code }
		}
	}
	require.Greater(t, len(put), 20)
	for name, set := range put {
		for _, f := range companions {
			set(&f)
			t.Run(name, func(t *testing.T) { requireSilent(t, f) })
		}
	}
}

func TestWhatIsNotClassedIsSilent(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]decline.Facts{
		"a decline code":    {DeclineCode: "brand_new", ErrorCode: "expired_card"},
		"an outcome reason": {OutcomeType: "issuer_declined", OutcomeReason: "brand_new", DeclineCode: "expired_card"},
		"an outcome type":   {OutcomeType: "brand_new", DeclineCode: "expired_card"},
		"held by Stripe":    {NetworkStatus: "not_sent_to_network", DeclineCode: "expired_card"},
		"a Frame code":      {Source: decline.Frame, FailureCode: "brand_new"},
	} {
		v := decline.Rules{}.Classify(f)
		require.True(t, v.Hidden, name)
		require.False(t, v.Disclosable, name)
		require.Equal(t, generic(), v.Public, name)
	}
}

// The generic view has one value: neither advice nor counts nor checks may give one generic decline away from another.
func TestTheGenericViewNeverVaries(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		v := decline.Rules{}.Classify(f)
		if v.Public.Code == decline.GenericDecline {
			require.Equal(t, generic(), v.Public)
		}
		require.NotContains(t, []string{"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card", "security_violation"}, v.Public.Code)
	})
}

// A signal may come with any event of the attempt; whichever facts it is merged into, the result is silent.
func TestASignalSilencesAnyFacts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		where := rapid.SampledFrom([]string{"decline_code", "error_code", "failure_code", "outcome.reason"}).Draw(t, "where")
		codeFacts[where](&f, rapid.SampledFrom([]string{"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card", "security_violation"}).Draw(t, "signal"))
		require.Equal(t, generic(), decline.Rules{}.Classify(f).Public)
	})
}

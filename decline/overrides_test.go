package decline_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

func loadOverrides(t *testing.T, text string) decline.Rules {
	t.Helper()
	o, err := decline.LoadOverrides(strings.NewReader(text))
	require.NoError(t, err)
	return decline.Rules{Overrides: o}
}

func TestAnOverrideChangesOneCode(t *testing.T) {
	t.Parallel()
	r := loadOverrides(t, `{"do_not_honor": {"severity": "hard", "retry": "never", "next_step": "use_another_payment_method"},
		"incorrect_cvc": {"disclosable": false}, "insufficient_funds": {"retry": "after_customer_action"}}`)
	require.Equal(t, 3, r.Overrides.Len())
	v := r.Classify(decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "do_not_honor", AttemptsUsed: 1})
	require.Equal(t, decline.Hard, v.Severity)
	require.Equal(t, decline.RetryNever, v.Retry.Verdict)
	require.Equal(t, "override:merchant", v.Retry.LimitedBy)
	require.Equal(t, "override:merchant", v.DecidedBy)
	require.Equal(t, decline.Public{Code: "do_not_honor", NextStep: decline.UseAnotherMethod}, v.Public)

	v = r.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: "incorrect_cvc"})
	require.False(t, v.Disclosable)
	require.Equal(t, generic(), v.Public)

	partner := r.Classify(decline.Facts{Source: decline.Stripe, OutcomeReason: "partner_insufficient_funds"})
	require.Equal(t, decline.AfterCustomerAction, partner.Retry.Verdict)

	other := decline.Facts{Source: decline.Stripe, DeclineCode: "expired_card"}
	require.Equal(t, decline.Rules{}.Classify(other), r.Classify(other))
}

func TestAnOverrideDoesNotLoosenWhatOthersDemand(t *testing.T) {
	t.Parallel()
	r := loadOverrides(t, `{"insufficient_funds": {"retry": "retry_now"}, "generic_decline": {"next_step": "try_again"}, "expired_card": {"retry": "retry_later"}}`)
	v := r.Classify(decline.Facts{DeclineCode: "insufficient_funds", AdviceCode: "do_not_try_again"})
	require.Equal(t, decline.RetryNever, v.Retry.Verdict)
	require.Equal(t, decline.RetryNow, r.Classify(decline.Facts{DeclineCode: "insufficient_funds"}).Retry.Verdict)
	require.Equal(t, decline.RetryLater, r.Classify(decline.Facts{DeclineCode: "expired_card"}).Retry.Verdict)
	require.Equal(t, "visa:category_3", r.Classify(decline.Facts{DeclineCode: "expired_card", Network: "visa", NetworkDeclineCode: "54"}).Retry.LimitedBy)
	require.Equal(t, generic(), r.Classify(decline.Facts{DeclineCode: "generic_decline"}).Public, "the generic view has one value")
	require.Equal(t, generic(), r.Classify(decline.Facts{DeclineCode: "insufficient_funds", OutcomeType: "blocked"}).Public)
}

func TestAnOverrideOfACodeIsNotOneOfTheAdviceOrNumberOfItsName(t *testing.T) {
	t.Parallel()
	r := loadOverrides(t, `{"try_again_later": {"retry": "never"}, "insufficient_funds": {"retry": "never"}}`)
	for name, f := range map[string]decline.Facts{
		"try_again_later of Stripe's advice": {DeclineCode: "processing_error", AdviceCode: "try_again_later"},
		"insufficient_funds, as Visa's 51":   {DeclineCode: "processing_error", Network: "visa", NetworkDeclineCode: "51"},
	} {
		require.Equal(t, decline.RetryLater, r.Classify(f).Retry.Verdict, name)
	}
	require.Equal(t, decline.RetryNever, r.Classify(decline.Facts{DeclineCode: "try_again_later"}).Retry.Verdict)
}

// What the file may say of severity and retry counts: it is the verdict of the code alone.
func TestAnAcceptedSeverityOrRetryIsApplied(t *testing.T) {
	t.Parallel()
	accepted := 0
	for _, e := range decline.All() {
		f := decline.Facts{Source: e.Source, AttemptsUsed: 1}
		switch e.Table {
		case decline.StripeDeclineCodes:
			f.DeclineCode = e.Code
		case decline.FrameDeclineCodes:
			f.FailureCode = e.Code
		default:
			continue
		}
		for member, words := range map[string][]string{"severity": {"soft", "hard"}, "retry": {"retry_now", "retry_later", "after_customer_action", "never"}} {
			for _, word := range words {
				o, err := decline.LoadOverrides(strings.NewReader(`{"` + e.Code + `": {"` + member + `": "` + word + `"}}`))
				if err != nil {
					continue
				}
				accepted++
				v := decline.Rules{Overrides: o}.Classify(f)
				require.Equal(t, word, map[string]string{"severity": string(v.Severity), "retry": string(v.Retry.Verdict)}[member], e.Code)
				require.Equal(t, "override:merchant", v.DecidedBy)
			}
		}
	}
	require.NotZero(t, accepted)
}

func TestABadOverrideIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, says string }{
		"a fraud signal made visible":       {`{"fraudulent": {"disclosable": true}}`, "never disclosed"},
		"a block made visible":              {`{"highest_risk_level": {"disclosable": true}}`, "never disclosed"},
		"an integration error made visible": {`{"parameter_unknown": {"disclosable": true}}`, "never disclosed"},
		"a never loosened":                  {`{"card_not_supported": {"retry": "retry_later"}}`, "looser"},
		"a fraud signal loosened":           {`{"requested_block_on_incorrect_cvc": {"retry": "retry_later"}}`, "looser"},
		"a hard code loosened":              {`{"authentication_required": {"retry": "retry_later"}}`, "stripe:hard_decline_code"},
		"a wait loosened":                   {`{"card_decline_rate_limit_exceeded": {"retry": "retry_now"}}`, "looser"},
		"a typo in a code":                  {`{"do_not_honour": {}}`, "did you mean do_not_honor"},
		"no such code":                      {`{"zzzzzzzzzzzzzzzzzzz": {}}`, "no such code"},
		"a network's number":                {`{"51": {}}`, "no such code"},
		"a network's advice":                {`{"03": {"retry": "never"}}`, "no such code"},
		"Stripe's advice":                   {`{"confirm_card_data": {"retry": "never"}}`, "no such code"},
		"what has no code":                  {`{"unknown": {"severity": "hard"}}`, "no such code"},
		"an unknown member":                 {`{"do_not_honor": {"disclose": false}}`, "no such member"},
		"an unknown severity":               {`{"do_not_honor": {"severity": "medium"}}`, "soft or hard"},
		"an unknown step":                   {`{"do_not_honor": {"next_step": "dance"}}`, "none of"},
		"an unknown verdict":                {`{"do_not_honor": {"retry": "sometimes"}}`, "none of"},
		"a number for a word":               {`{"do_not_honor": {"severity": 1}}`, "has to be a word"},
		"null for a truth":                  {`{"do_not_honor": {"disclosable": null}}`, "true or false"},
		"a code twice":                      {`{"do_not_honor": {}, "do_not_honor": {}}`, "twice"},
		"a member twice":                    {`{"do_not_honor": {"disclosable": false, "disclosable": true}}`, "twice"},
		"no object":                         {`[]`, "not a JSON object"},
		"an empty file":                     {``, "not a JSON object"},
		"something behind it":               {`{} {}`, "follows"},
		"cut short":                         {`{"do_not_honor": {`, "reading"},
		"too large":                         {"{" + strings.Repeat(" ", 1<<20) + "}", "larger"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decline.LoadOverrides(strings.NewReader(tc.text))
			require.ErrorContains(t, err, tc.says)
		})
	}
	_, err := decline.LoadOverrides(strings.NewReader(`{"fraudulent": {"disclosable": true}, "nope_nope": {}}`))
	require.ErrorContains(t, err, "fraudulent")
	require.ErrorContains(t, err, "nope_nope", "all faults at once")
}

// No override file that loads can make any secret code visible.
func TestNoOverrideDisclosesASecret(t *testing.T) {
	t.Parallel()
	for _, e := range decline.All() {
		if !e.Secret || e.Network != "" {
			continue
		}
		_, err := decline.LoadOverrides(strings.NewReader(`{"` + e.Verdict.Code + `": {"disclosable": true}}`))
		require.Error(t, err, e.Code)
		if o, err := decline.LoadOverrides(strings.NewReader(`{"` + e.Code + `": {"next_step": "try_again", "severity": "soft"}}`)); err == nil {
			v := decline.Rules{Overrides: o}.Classify(decline.Facts{Source: e.Source, DeclineCode: e.Code})
			require.Equal(t, generic(), v.Public, e.Code)
		}
	}
}

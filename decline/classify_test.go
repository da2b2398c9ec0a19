package decline_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rebound/decline"
)

var failedAt = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

func TestTheSourcesAreReadRightByHand(t *testing.T) {
	t.Parallel()
	type want struct {
		typ     decline.Type
		code    string
		cat     decline.Category
		sev     decline.Severity
		open    bool
		next    decline.NextStep
		field   decline.Field
		retry   decline.RetryVerdict
		limited string
		by      string
	}
	tests := map[string]struct {
		facts decline.Facts
		want  want
	}{
		"an issuer's insufficient funds may be retried later": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "insufficient_funds", FailureCode: "card_declined",
				OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds", AdviceCode: "try_again_later", Network: "visa", NetworkDeclineCode: "51"},
			want{decline.IssuerDeclined, "insufficient_funds", decline.InsufficientFunds, decline.Soft, true, decline.UseAnotherMethod, "", decline.RetryLater, "", "decline_code:stripe"},
		},
		"a charge alone reads its outcome's reason, its failure code is an envelope": {
			decline.Facts{Source: decline.Stripe, FailureCode: "card_declined", OutcomeType: "issuer_declined", OutcomeReason: "transaction_not_allowed"},
			want{decline.IssuerDeclined, "transaction_not_allowed", decline.CardState, decline.Hard, true, decline.ContactIssuer, "", decline.RetryNever, "stripe:hard_decline_code", "outcome_reason:stripe"},
		},
		"a real card under test keys fails for that, and again each time": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "test_mode_live_card"},
			want{decline.Invalid, "test_mode_live_card", decline.TestMode, decline.Hard, false, decline.NoCustomerAction, "", decline.RetryNever, "", "decline_code:stripe"},
		},
		"as its charge says, whose outcome is that of a wrong request": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "test_mode_live_card", FailureCode: "card_declined",
				OutcomeType: "invalid", OutcomeReason: "test_mode_live_card", NetworkStatus: "not_sent_to_network"},
			want{decline.Invalid, "test_mode_live_card", decline.TestMode, decline.Hard, false, decline.NoCustomerAction, "", decline.RetryNever, "", "outcome_reason:stripe"},
		},
		"a test card under live keys as well": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "live_mode_test_card"},
			want{decline.IssuerDeclined, "live_mode_test_card", decline.TestMode, decline.Hard, true, decline.UseAnotherMethod, "", decline.RetryNever, "", "decline_code:stripe"},
		},
		"a Radar block is fraud and silent": {
			decline.Facts{Source: decline.Stripe, FailureCode: "card_declined", OutcomeType: "blocked", OutcomeReason: "highest_risk_level", StripeReport: "fraudulent", RiskLevel: "highest", DeclineCode: "fraudulent"},
			want{decline.Blocked, "highest_risk_level", decline.FraudRisk, decline.Hard, false, decline.UseAnotherMethod, "", decline.RetryNever, "stripe:hard_decline_code", "outcome_reason:stripe"},
		},
		"an Adaptive Acceptance block is not fraud and still silent": {
			decline.Facts{Source: decline.Stripe, FailureCode: "card_declined", OutcomeType: "blocked", OutcomeReason: "low_probability_of_authorization", RiskLevel: "normal", DeclineCode: "generic_decline", NetworkStatus: "not_sent_to_network"},
			want{decline.Blocked, "low_probability_of_authorization", decline.IssuerUnknown, decline.Soft, false, decline.UseAnotherMethod, "", decline.AfterCustomerAction, "stripe:adaptive_acceptance", "outcome_reason:stripe"},
		},
		"a block for an unstated reason is silent whatever the decline code": {
			decline.Facts{Source: decline.Stripe, OutcomeType: "blocked", DeclineCode: "insufficient_funds"},
			want{decline.Blocked, "insufficient_funds", decline.FraudRisk, decline.Hard, false, decline.UseAnotherMethod, "", decline.RetryNever, "rebound:block", "outcome_type:stripe"},
		},
		"a report of Stripe's that nobody knows yet is taken for fraud": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "insufficient_funds", StripeReport: "brand_new_report"},
			want{decline.Blocked, "insufficient_funds", decline.FraudRisk, decline.Hard, false, decline.UseAnotherMethod, "", decline.RetryNever, "rebound:block", "stripe_report:stripe"},
		},
		"a report that a payment is safe is none": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "insufficient_funds", StripeReport: "safe"},
			want{decline.IssuerDeclined, "insufficient_funds", decline.InsufficientFunds, decline.Soft, true, decline.UseAnotherMethod, "", decline.RetryLater, "", "decline_code:stripe"},
		},
		"an invalid request is the merchant's to mend": {
			decline.Facts{Source: decline.Stripe, OutcomeType: "invalid", ErrorCode: "invalid_number"},
			want{decline.Invalid, "invalid_number", decline.IntegrationError, decline.Hard, false, decline.NoCustomerAction, "", decline.RetryNever, "", "outcome_type:stripe"},
		},
		"intent and charge disagree on authentication: the decline code wins": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "authentication_required", DeclineCode: "authentication_not_handled", FailureCode: "authentication_required", OutcomeType: "issuer_declined", OutcomeReason: "authentication_required"},
			want{decline.IssuerDeclined, "authentication_not_handled", decline.AuthenticationRequired, decline.Soft, true, decline.Authenticate, "", decline.AfterCustomerAction, "stripe:hard_decline_code", "decline_code:stripe"},
		},
		"a generic intent loses to the charge's reason": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "payment_intent_authentication_failure", DeclineCode: "generic_decline", OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds"},
			want{decline.IssuerDeclined, "insufficient_funds", decline.InsufficientFunds, decline.Soft, true, decline.UseAnotherMethod, "", decline.AfterCustomerAction, "", "outcome_reason:stripe"},
		},
		"a SEPA charge is more telling than its intent": {
			decline.Facts{Source: decline.Stripe, MethodType: "sepa_debit", ErrorCode: "payment_intent_payment_attempt_failed", FailureCode: "incorrect_account_holder_name"},
			want{decline.IssuerDeclined, "incorrect_account_holder_name", decline.DataError, decline.Soft, true, decline.CorrectDetails, decline.FieldName, decline.AfterCustomerAction, "", "failure_code:stripe"},
		},
		"a failed 3-D Secure has no charge": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "payment_intent_authentication_failure"},
			want{decline.AuthenticationFailed, "payment_intent_authentication_failure", decline.AuthenticationRequired, decline.Soft, true, decline.Authenticate, "", decline.AfterCustomerAction, "", "error_code:stripe"},
		},
		"a partner reason is the plain code of a provider": {
			decline.Facts{Source: decline.Stripe, MethodType: "cashapp", FailureCode: "card_declined", OutcomeType: "issuer_declined", OutcomeReason: "partner_insufficient_funds"},
			want{decline.ProviderDeclined, "insufficient_funds", decline.InsufficientFunds, decline.Soft, true, decline.UseAnotherMethod, "", decline.RetryLater, "", "outcome_reason:stripe"},
		},
		"a risk verdict of a partner is silent": {
			decline.Facts{Source: decline.Stripe, MethodType: "klarna", DeclineCode: "partner_high_risk_customer"},
			want{decline.ProviderDeclined, "partner_high_risk_customer", decline.FraudRisk, decline.Hard, false, decline.UseAnotherMethod, "", decline.RetryNever, "rebound:fraud_signal", "decline_code:stripe"},
		},
		"a provider's refusal": {
			decline.Facts{Source: decline.Stripe, MethodType: "klarna", ErrorCode: "payment_method_provider_decline"},
			want{decline.ProviderDeclined, "payment_method_provider_decline", decline.IssuerUnknown, decline.Soft, true, decline.UseAnotherMethod, "", decline.AfterCustomerAction, "", "error_code:stripe"},
		},
		"Frame's failure code is the code itself": {
			decline.Facts{Source: decline.Frame, FailureCode: "cardholder_name_mismatch"},
			want{decline.IssuerDeclined, "cardholder_name_mismatch", decline.DataError, decline.Soft, true, decline.CorrectDetails, decline.FieldName, decline.AfterCustomerAction, "", "failure_code:frame"},
		},
		"Frame's fraud state silences a harmless code": {
			decline.Facts{Source: decline.Frame, FailureCode: "expired_card", Status: "fraud_review"},
			want{decline.Blocked, "expired_card", decline.FraudRisk, decline.Hard, false, decline.UseAnotherMethod, "", decline.RetryNever, "rebound:block", "status:frame"},
		},
		"Visa's category 1 is named before Stripe's hard codes": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "transaction_not_allowed", Network: "visa", NetworkDeclineCode: "57"},
			want{decline.IssuerDeclined, "transaction_not_allowed", decline.CardState, decline.Hard, true, decline.ContactIssuer, "", decline.RetryNever, "visa:category_1", "decline_code:stripe"},
		},
		"a network's never leaves new data open after a data error": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "incorrect_number", Network: "visa", NetworkDeclineCode: "14"},
			want{decline.IssuerDeclined, "incorrect_number", decline.DataError, decline.Soft, true, decline.CorrectDetails, decline.FieldNumber, decline.AfterCustomerAction, "visa:category_1", "decline_code:stripe"},
		},
		"Mastercard's advice 03 stops what the code would allow": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "insufficient_funds", Network: "mastercard", NetworkDeclineCode: "51", NetworkAdviceCode: "03"},
			want{decline.IssuerDeclined, "insufficient_funds", decline.InsufficientFunds, decline.Soft, true, decline.UseAnotherMethod, "", decline.RetryNever, "mastercard:mac_03", "decline_code:stripe"},
		},
		"the number 82 is another thing at Visa than at Elo": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "do_not_honor", Network: "visa", NetworkDeclineCode: "82"},
			want{decline.IssuerDeclined, "do_not_honor", decline.IssuerUnknown, decline.Soft, true, decline.ContactIssuer, "", decline.AfterCustomerAction, "visa:category_3", "decline_code:stripe"},
		},
		"advice to stop outranks the code": {
			decline.Facts{Source: decline.Stripe, DeclineCode: "try_again_later", AdviceCode: "do_not_try_again"},
			want{decline.IssuerDeclined, "try_again_later", decline.IssuerUnknown, decline.Soft, true, decline.UseAnotherMethod, "", decline.RetryNever, "stripe:advice_do_not_try_again", "decline_code:stripe"},
		},
		"with only an envelope the network's own code speaks": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", Network: "mastercard", NetworkDeclineCode: "83"},
			want{decline.IssuerDeclined, "security_violation", decline.FraudRisk, decline.Hard, false, decline.ContactIssuer, "", decline.AfterCustomerAction, "mastercard:83", "network_decline_code:mastercard"},
		},
		"an unknown code is generic, soft and silent": {
			decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: "brand_new_code", OutcomeType: "issuer_declined"},
			want{decline.IssuerDeclined, "unknown", decline.IssuerUnknown, decline.Soft, false, decline.ContactIssuer, "", decline.RetryLater, "", "outcome_type:stripe"},
		},
		"an error type decides when there is no code": {
			decline.Facts{Source: decline.Stripe, ProviderType: "invalid_request_error"},
			want{decline.Invalid, "invalid_request_error", decline.IntegrationError, decline.Hard, false, decline.NoCustomerAction, "", decline.RetryNever, "", "error_type:stripe"},
		},
		"no facts at all": {
			decline.Facts{},
			want{decline.UnknownType, "unknown", decline.IssuerUnknown, decline.Soft, false, decline.ContactIssuer, "", decline.RetryLater, "", "unknown:rebound"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.facts.AttemptsUsed = 1
			v := decline.Rules{}.Classify(tc.facts)
			got := want{v.Type, v.Code, v.Category, v.Severity, v.Disclosable, v.NextStep, v.Public.Field, v.Retry.Verdict, v.Retry.LimitedBy, v.DecidedBy}
			require.Equal(t, tc.want, got)
			require.NotEmpty(t, v.MerchantNextStep)
		})
	}
}

func TestWaitsCountFromTheFailure(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		facts   decline.Facts
		wait    time.Duration
		limited string
	}{
		"Mastercard's advice 24 is an hour":     {decline.Facts{DeclineCode: "insufficient_funds", Network: "mastercard", NetworkAdviceCode: "24"}, time.Hour, "mastercard:mac_24"},
		"Mastercard's advice 30 is ten days":    {decline.Facts{DeclineCode: "insufficient_funds", Network: "mastercard", NetworkAdviceCode: "30"}, 240 * time.Hour, "mastercard:mac_30"},
		"a card declined too often waits a day": {decline.Facts{ErrorCode: "card_decline_rate_limit_exceeded"}, 24 * time.Hour, "stripe:card_decline_rate_limit_exceeded"},
		"the longest wait wins":                 {decline.Facts{DeclineCode: "card_velocity_exceeded", Network: "mastercard", NetworkAdviceCode: "26"}, 48 * time.Hour, "mastercard:mac_26"},
		"the longest wait wins, reversed":       {decline.Facts{DeclineCode: "card_velocity_exceeded", Network: "mastercard", NetworkAdviceCode: "24"}, 24 * time.Hour, "networks:velocity_wait"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.facts.FailedAt, tc.facts.AttemptsUsed = failedAt, 1
			r := decline.Rules{}.Classify(tc.facts).Retry
			require.Equal(t, decline.Retry{Verdict: decline.RetryLater, AttemptsUsed: 1, AttemptsLeft: 3, NotBefore: failedAt.Add(tc.wait), Wait: tc.wait, LimitedBy: tc.limited}, r)
		})
	}
}

func TestARetryThatNobodyGrantsHasNoTime(t *testing.T) {
	t.Parallel()
	f := decline.Facts{DeclineCode: "stolen_card", Network: "mastercard", NetworkAdviceCode: "26", FailedAt: failedAt, AttemptsUsed: 1}
	require.Zero(t, decline.Rules{}.Classify(f).Retry.NotBefore)
}

func TestAttemptsRunOut(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		code    string
		used    int
		most    int
		left    int
		verdict decline.RetryVerdict
		limited string
	}{
		"three of four leave one":                              {"insufficient_funds", 3, 0, 1, decline.RetryLater, ""},
		"four of four leave the customer":                      {"insufficient_funds", 4, 0, 0, decline.AfterCustomerAction, "stripe:max_retries_per_charge"},
		"more than allowed is not less than none":              {"insufficient_funds", 9, 0, 0, decline.AfterCustomerAction, "stripe:max_retries_per_charge"},
		"eight is the highest setting":                         {"insufficient_funds", 8, 100, 0, decline.AfterCustomerAction, "stripe:max_retries_per_charge"},
		"seven of eight leave one":                             {"insufficient_funds", 7, 8, 1, decline.RetryLater, ""},
		"do_not_honor is retried once":                         {"do_not_honor", 1, 0, 3, decline.RetryLater, ""},
		"do_not_honor is not retried twice":                    {"do_not_honor", 2, 0, 2, decline.AfterCustomerAction, "frame:one_retry"},
		"a duplicate helps nobody by another method":           {"duplicate_transaction", 4, 0, 0, decline.RetryNever, "stripe:max_retries_per_charge"},
		"a request that failed four times ends":                {"lock_timeout", 4, 0, 0, decline.RetryNever, "stripe:max_retries_per_charge"},
		"a never keeps its own reason when attempts run out":   {"stolen_card", 4, 0, 0, decline.RetryNever, "stripe:hard_decline_code"},
		"a stricter rule keeps its name when attempts run out": {"incorrect_number", 4, 0, 0, decline.AfterCustomerAction, "stripe:hard_decline_code"},
		"one is the lowest setting":                            {"insufficient_funds", 1, 1, 0, decline.AfterCustomerAction, "stripe:max_retries_per_charge"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := decline.Rules{MaxRetriesPerCharge: tc.most}.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: tc.code, AttemptsUsed: tc.used})
			require.Equal(t, decline.Retry{Verdict: tc.verdict, AttemptsUsed: tc.used, AttemptsLeft: tc.left, LimitedBy: tc.limited}, v.Retry)
		})
	}
}

func TestTheCustomerIsNotAskedForWhatTheRetryForbids(t *testing.T) {
	t.Parallel()
	public := func(code, advice string, used int) decline.Public {
		return decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: code, AdviceCode: advice, AttemptsUsed: used}).Public
	}
	other := func(code string) decline.Public {
		return decline.Public{Code: code, NextStep: decline.UseAnotherMethod}
	}
	require.Equal(t, decline.Public{Code: "processing_error", NextStep: decline.TryAgain, RetrySameMethod: true}, public("processing_error", "", 1))
	require.Equal(t, other("processing_error"), public("processing_error", "", 4))
	require.Equal(t, other("processing_error"), public("processing_error", "do_not_try_again", 1))
	for code, next := range map[string]decline.NextStep{"authentication_required": decline.Authenticate, "incorrect_cvc": decline.CorrectDetails} {
		require.Equal(t, next, public(code, "", 1).NextStep)
		require.Equal(t, decline.UseAnotherMethod, public(code, "do_not_try_again", 1).NextStep, "what is never to be tried again is not to be mended")
	}
	again := other("insufficient_funds")
	again.RetrySameMethod = true
	require.Equal(t, again, public("insufficient_funds", "", 1), "there may be money on the card tomorrow")
	require.Equal(t, other("insufficient_funds"), public("insufficient_funds", "", 4))
}

func TestStaffLearnOfFailedChecksAndPendingAmounts(t *testing.T) {
	t.Parallel()
	advice := func(f decline.Facts) string { return decline.Rules{}.Classify(f).MerchantNextStep }
	require.Contains(t, advice(decline.Facts{DeclineCode: "generic_decline", CVCCheck: "fail"}), "security code check failed")
	require.Contains(t, advice(decline.Facts{DeclineCode: "generic_decline", PostalCheck: "fail"}), "postal code or address check failed")
	require.Contains(t, advice(decline.Facts{DeclineCode: "generic_decline"}), "card country")
	require.NotContains(t, advice(decline.Facts{DeclineCode: "stolen_card", CVCCheck: "fail"}), "security code")
	require.Contains(t, advice(decline.Facts{OutcomeType: "blocked", OutcomeReason: "rule", NetworkStatus: "reversed_after_approval"}), "pending for some days")
	require.Contains(t, advice(decline.Facts{OutcomeType: "blocked", OutcomeReason: "highest_risk_level"}), "allow list")
}

func TestOpinionsOfTheOthersAreKept(t *testing.T) {
	t.Parallel()
	require.Equal(t, []decline.Opinion{{Source: "hyperswitch", Verdict: "retryable"}, {Source: "frame", Verdict: "hard"}},
		decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: "fraudulent"}).Opinions)
	require.Equal(t, []decline.Opinion{{Source: "hyperswitch", Verdict: "retryable"}, {Source: "hyperswitch_recovery", Verdict: "step_up_retry"}, {Source: "stripe", Verdict: "soft"}},
		decline.Rules{}.Classify(decline.Facts{Source: decline.Frame, FailureCode: "authentication_required"}).Opinions)
}

func TestNobodyWritesToTheDead(t *testing.T) {
	t.Parallel()
	v := decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, MethodType: "sepa_debit", ErrorCode: "payment_intent_payment_attempt_failed", FailureCode: "recipient_deceased"})
	require.True(t, v.NoContact)
	require.Equal(t, generic(), v.Public)
	require.True(t, decline.Rules{}.Classify(decline.Facts{DeclineCode: "insufficient_funds", FailureCode: "recipient_deceased"}).NoContact)
	require.False(t, decline.Rules{}.Classify(decline.Facts{FailureCode: "account_closed"}).NoContact)
}

func TestUnknownCodesAreReported(t *testing.T) {
	t.Parallel()
	v := decline.Rules{}.Classify(decline.Facts{DeclineCode: "brand_new", ErrorCode: "expired_card"})
	require.Equal(t, "brand_new", v.Unrecognized)
	require.Equal(t, "expired_card", v.Code)
	require.False(t, v.Disclosable, "a code nobody has classed may be a fraud signal")
	require.Empty(t, decline.Rules{}.Classify(decline.Facts{DeclineCode: "expired_card"}).Unrecognized)
}

var allCodes = func() (out []string) {
	for _, e := range decline.All() {
		out = append(out, e.Code)
	}
	return out
}()

// drawFacts mixes real codes of every kind with arbitrary text.
func drawFacts(t *rapid.T) decline.Facts {
	word := rapid.OneOf(rapid.Just(""), rapid.SampledFrom(allCodes), rapid.String())
	networks := rapid.OneOf(rapid.SampledFrom([]string{"", "visa", "mastercard", "amex", "elo", "discover", "American Express"}), rapid.String())
	s := func(name string) string { return word.Draw(t, name) }
	return decline.Facts{
		Source:      rapid.SampledFrom([]decline.Source{decline.Stripe, decline.Frame, "", "other"}).Draw(t, "source"),
		FailureCode: s("failure_code"), ErrorCode: s("error_code"), DeclineCode: s("decline_code"), OutcomeType: s("type"),
		OutcomeReason: s("reason"), NetworkStatus: s("network_status"), RiskLevel: s("risk"), StripeReport: s("report"),
		AdviceCode: s("advice"), NetworkAdviceCode: s("network_advice"), NetworkDeclineCode: s("network_decline"),
		Network: networks.Draw(t, "network"), MethodType: rapid.OneOf(rapid.SampledFrom([]string{"card", "klarna", "sepa_debit"}), rapid.String()).Draw(t, "method"),
		Status: s("status"), AttemptsUsed: rapid.IntRange(-3, 30).Draw(t, "used"), FailedAt: failedAt,
	}
}

var order = map[decline.RetryVerdict]int{decline.RetryNow: 0, decline.RetryLater: 1, decline.AfterCustomerAction: 2, decline.RetryNever: 3}

func TestAnyFactsGetAWholeVerdict(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		most := rapid.IntRange(-1, 12).Draw(t, "most")
		v := decline.Rules{MaxRetriesPerCharge: most}.Classify(f)
		require.Equal(t, v, decline.Rules{MaxRetriesPerCharge: most}.Classify(f))
		require.NotEmpty(t, v.Type)
		require.NotEmpty(t, v.Code)
		require.NotEmpty(t, v.Category)
		require.Contains(t, []decline.Severity{decline.Soft, decline.Hard}, v.Severity)
		require.NotEmpty(t, v.NextStep)
		require.NotEmpty(t, v.MerchantNextStep)
		require.NotEmpty(t, v.DecidedBy)
		require.Contains(t, order, v.Retry.Verdict)
		require.GreaterOrEqual(t, v.Retry.AttemptsLeft, 0)
		if v.Retry.AttemptsLeft == 0 {
			require.GreaterOrEqual(t, order[v.Retry.Verdict], 2, "no attempt is left to grant")
		}
		if !v.Disclosable {
			require.Equal(t, generic(), v.Public)
		}
	})
}

// More evidence may only make a verdict stricter: advice and network codes never loosen a retry.
func TestMoreAdviceNeverLoosensARetry(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		bare := f
		bare.AdviceCode = ""
		require.GreaterOrEqual(t, order[decline.Rules{}.Classify(f).Retry.Verdict], order[decline.Rules{}.Classify(bare).Retry.Verdict])
	})
}

func generic() decline.Public {
	return decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: "generic_decline"}).Public
}

func BenchmarkClassify(b *testing.B) {
	f := decline.Facts{
		Source: decline.Stripe, DeclineCode: "insufficient_funds", ErrorCode: "card_declined", FailureCode: "card_declined",
		OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds", NetworkStatus: "declined_by_network",
		RiskLevel: "normal", AdviceCode: "try_again_later", Network: "mastercard", NetworkDeclineCode: "51",
		NetworkAdviceCode: "26", MethodType: "card", AttemptsUsed: 1, FailedAt: failedAt,
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = decline.Rules{}.Classify(f)
	}
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	f := decline.Facts{Source: decline.Stripe, DeclineCode: "partner_insufficient_funds", ErrorCode: "card_declined", Network: "visa", NetworkDeclineCode: "51"}
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = decline.Rules{}.Classify(f) }))
}

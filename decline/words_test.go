package decline_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

var nextSteps = []decline.NextStep{
	decline.Authenticate, decline.CorrectDetails, decline.UseAnotherMethod, decline.ContactIssuer, decline.TryAgain,
	decline.TryAgainLater, decline.RenewAuthorization, decline.CheckExistingPayment, decline.ResumeCheckout,
	decline.NoCustomerAction,
}

var fields = []decline.Field{
	decline.NoField, decline.FieldNumber, decline.FieldCVC, decline.FieldExpiry, decline.FieldPostalCode,
	decline.FieldName, decline.FieldAmount,
}

func TestGenericDeclineReadsTheSameWhateverElseIsSet(t *testing.T) {
	t.Parallel()
	for _, locale := range decline.Locales() {
		want := decline.Public{Code: decline.GenericDecline}.Message(locale)
		require.Equal(t, decline.GenericDecline, want.Code)
		for _, step := range append(nextSteps, "", "a_step_to_come") {
			for _, field := range fields {
				for _, retry := range []bool{false, true} {
					p := decline.Public{Code: decline.GenericDecline, NextStep: step, Field: field, RetrySameMethod: retry}
					require.Equal(t, want, p.Message(locale))
				}
			}
		}
		unknown := decline.Public{Code: "a_code_to_come", NextStep: "a_step_to_come"}.Message(locale)
		require.Equal(t, want.Text, unknown.Text)
		require.Equal(t, want.Text, decline.Public{}.Message(locale).Text)
	}
}

func TestEveryNextStepAndFieldHasATextOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, locale := range decline.Locales() {
		seen := map[string]string{}
		for _, step := range nextSteps {
			for _, field := range fields {
				if field != decline.NoField && step != decline.CorrectDetails {
					continue
				}
				what := fmt.Sprint(step, " ", field)
				text := decline.Public{Code: "some_code", NextStep: step, Field: field}.Message(locale).Text
				require.Empty(t, seen[text], "%s: %s reads like another step", locale, what)
				seen[text] = what
			}
		}
	}
}

func TestAMessageFitsItsLanguageAndItsLimit(t *testing.T) {
	t.Parallel()
	codes := []string{
		"insufficient_funds", "expired_card", "incorrect_cvc", "incorrect_zip", "incorrect_address", "incorrect_pin",
		"authentication_required", "payment_intent_authentication_failure", "processing_error", "issuer_not_available",
		"card_velocity_exceeded", "card_decline_rate_limit_exceeded", "pin_try_exceeded", "currency_not_supported",
		"card_not_supported", "payment_intent_mandate_invalid", "account_closed", "duplicate_transaction",
		"payment_method_customer_decline", "payment_intent_payment_attempt_expired", "offline_pin_required",
		"new_account_information_available", "expired_payment_information", "payment_method_provider_timeout",
		"do_not_honor", "partner_generic_decline", "some_code",
	}
	for _, locale := range decline.Locales() {
		longest := 0
		for _, code := range codes {
			for _, step := range nextSteps {
				for _, field := range fields {
					if field != decline.NoField && step != decline.CorrectDetails {
						continue
					}
					m := decline.Public{Code: code, NextStep: step, Field: field}.Message(locale)
					require.Equal(t, code, m.Code)
					require.Equal(t, locale, m.Locale)
					require.NotContains(t, m.Text, "{")
					require.NotContains(t, m.Text, code)
					longest = max(longest, utf8.RuneCountInString(m.Text))
				}
			}
		}
		require.LessOrEqual(t, longest, 200, locale)
	}
}

func TestAReasonIsNamedWhereTheCodeAddsSomething(t *testing.T) {
	t.Parallel()
	vague := decline.Public{Code: "do_not_honor", NextStep: decline.UseAnotherMethod}.Message("en").Text
	require.Equal(t, "Your payment did not go through. Please use another payment method.", vague)
	for code, want := range map[string]string{
		"insufficient_funds":         "There was not enough money available for this payment.",
		"partner_insufficient_funds": "There was not enough money available for this payment.",
		"expired_card":               "This card has expired.",
		"duplicate_transaction":      "It looks like the same payment was made a moment ago.",
		"currency_not_supported":     "This payment method does not support the currency of this payment.",
		"account_closed":             "This bank account cannot be used for this payment.",
	} {
		got := decline.Public{Code: code, NextStep: decline.UseAnotherMethod}.Message("en").Text
		require.Equal(t, want+" Please use another payment method.", got)
	}
	require.Equal(t, "Some of the payment details could not be confirmed. Please check the security code (CVC) and try again.",
		decline.Public{Code: "incorrect_cvc", NextStep: decline.CorrectDetails, Field: decline.FieldCVC}.Message("en").Text)
	require.Equal(t, "Your payment did not go through. Please insert the card and enter the PIN.",
		decline.Public{Code: "offline_pin_required", NextStep: decline.Authenticate}.Message("en").Text)
	require.Equal(t, "Some of the payment details could not be confirmed. Please check the billing address and try again.",
		decline.Public{Code: "incorrect_address", NextStep: decline.CorrectDetails, Field: decline.FieldPostalCode}.Message("en").Text)
}

func TestSentencesAreJoinedAsTheScriptAsks(t *testing.T) {
	t.Parallel()
	p := decline.Public{Code: "expired_card", NextStep: decline.TryAgain}
	require.Equal(t, "此卡已过期。请重试。", p.Message("zh-CN").Text)
	require.Equal(t, "Diese Karte ist abgelaufen. Bitte versuchen Sie es noch einmal.", p.Message("de-AT").Text)
}

func TestPhrasesComeInTheLanguageAskedFor(t *testing.T) {
	t.Parallel()
	for _, locale := range decline.Locales() {
		p := decline.PhrasesFor(locale)
		require.Equal(t, locale, p.Locale)
		require.Equal(t, locale == "ar" || locale == "he", p.RightToLeft)
	}
	require.Equal(t, "en", decline.PhrasesFor("tlh").Locale)
	require.Equal(t, "nb", decline.PhrasesFor("nn-NO").Locale)
}

func TestFillReplacesOncePerPlaceholder(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a {amount} b 5 € c help@shop.example <b>",
		decline.Fill("a {merchant} b {amount} c {support} <b>", "{amount}", "5 €", "help@shop.example"))
	for _, locale := range decline.Locales() {
		p := decline.PhrasesFor(locale)
		got := decline.Fill(p.Intro, "Shop", "5 €", "")
		require.Contains(t, got, "Shop")
		require.Contains(t, got, "5 €")
		require.False(t, strings.ContainsAny(got, "{}"), got)
	}
}

func TestAMerchantsNameThatEndsInAFullStopEndsItsSentence(t *testing.T) {
	t.Parallel()
	for phrase, want := range map[string]string{
		"Your payment of {amount} to {merchant}.": "Your payment of $20.00 to Maple Inc.",
		"{merchant}. {merchant} wrote.":           "Maple Inc. Maple Inc. wrote.",
		"Stop mails from {merchant}?":             "Stop mails from Maple Inc.?",
	} {
		require.Equal(t, want, decline.Fill(phrase, "Maple Inc.", "$20.00", ""))
	}
	require.Equal(t, "x \u2068Maple Inc.\u2069", decline.Fill("x {merchant}.", "\u2068Maple Inc.\u2069", "", ""), "isolated in a right-to-left sentence")
	require.Equal(t, "to Maple.", decline.Fill("to {merchant}.", "Maple", "", ""))
}

func TestATestCardReadsTheSameByEitherOfItsCodes(t *testing.T) {
	t.Parallel()
	message := func(code string) decline.Message {
		return decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: code}).Public.Message("en")
	}
	require.Equal(t, message("testmode_decline").Text, message("live_mode_test_card").Text)
}

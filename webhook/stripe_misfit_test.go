package webhook

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
)

// leaves lists the path of every member of v that is not an object, and of every object but the two that hold all.
func leaves(v tree, prefix string) []string {
	var paths []string
	for name, value := range v {
		path := prefix + name
		inner, isObject := value.(tree)
		if isObject {
			paths = append(paths, leaves(inner, path+".")...)
		}
		if path != "data" && path != "data.object" {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// changed lists the fields in which two facts differ.
func changed(a, b handler.Fact) []string {
	var names []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for _, f := range reflect.VisibleFields(va.Type()) {
		if !f.Anonymous && !reflect.DeepEqual(va.FieldByIndex(f.Index).Interface(), vb.FieldByIndex(f.Index).Interface()) {
			names = append(names, f.Name)
		}
	}
	return names
}

// One member of the wrong kind costs what it says itself and nothing else, whichever member it is.
func TestAMisfitCostsOnlyItself(t *testing.T) {
	t.Parallel()
	// What may change when a member is lost: the fields it fills. A lost object costs what is in it.
	costs := map[string][]string{
		"object": {}, "pending_webhooks": {}, "livemode": {}, // the object's own livemode stands in
		"api_version": {"APIVersion"}, "created": {"Created"}, "request": {"RequestOrigin"}, "request.id": {"RequestOrigin"},

		"data.object.object": {}, "data.object.livemode": {}, "data.object.paid": {}, "data.object.status": {"Status"},
		"data.object.amount": {"Amount"}, "data.object.currency": {"Currency"}, "data.object.created": {},
		"data.object.customer": {"Customer"}, "data.object.invoice": {"Invoice"}, "data.object.failure_code": {"FailureCode"},
		"data.object.failure_message": {"ErrorMessage"}, "data.object.payment_intent": {"PaymentID", "PaymentIntent"},
		"data.object.fraud_details": {"StripeReport"}, "data.object.fraud_details.stripe_report": {"StripeReport"},
		"data.object.receipt_email": {"Addresses"}, "data.object.billing_details": {"Addresses"}, "data.object.billing_details.email": {"Addresses"},
		"data.object.metadata": {"Addresses", "Session", "Locale"}, "data.object.metadata.email": {"Addresses"},
		"data.object.metadata.session": {"Session"}, "data.object.metadata.locale": {"Locale"},
		"data.object.outcome":      {"OutcomeType", "OutcomeReason", "NetworkStatus", "RiskLevel", "AdviceCode", "NetworkAdviceCode", "NetworkDeclineCode"},
		"data.object.outcome.type": {"OutcomeType"}, "data.object.outcome.reason": {"OutcomeReason"},
		"data.object.outcome.network_status": {"NetworkStatus"}, "data.object.outcome.risk_level": {"RiskLevel"},
		"data.object.outcome.advice_code": {"AdviceCode"}, "data.object.outcome.network_advice_code": {"NetworkAdviceCode"},
		"data.object.outcome.network_decline_code": {"NetworkDeclineCode"},
		"data.object.payment_method":               {"MethodID"},
		"data.object.payment_method_details": {"MethodType", "Brand", "Network", "Last4", "ExpMonth", "ExpYear", "Country", "Funding",
			"Fingerprint", "Wallet", "CVCCheck", "PostalCheck", "AddressCheck", "ThreeDSecure", "ThreeDSecureFlow", "Moto"},
		"data.object.payment_method_details.type": {"MethodType"},
		"data.object.payment_method_details.card": {"Brand", "Network", "Last4", "ExpMonth", "ExpYear", "Country", "Funding",
			"Fingerprint", "Wallet", "CVCCheck", "PostalCheck", "AddressCheck", "ThreeDSecure", "ThreeDSecureFlow", "Moto"},
		"data.object.payment_method_details.card.brand":                              {"Brand"},
		"data.object.payment_method_details.card.network":                            {"Network"},
		"data.object.payment_method_details.card.last4":                              {"Last4"},
		"data.object.payment_method_details.card.exp_month":                          {"ExpMonth"},
		"data.object.payment_method_details.card.exp_year":                           {"ExpYear"},
		"data.object.payment_method_details.card.country":                            {"Country"},
		"data.object.payment_method_details.card.funding":                            {"Funding"},
		"data.object.payment_method_details.card.fingerprint":                        {"Fingerprint"},
		"data.object.payment_method_details.card.moto":                               {"Moto"},
		"data.object.payment_method_details.card.wallet":                             {"Wallet"},
		"data.object.payment_method_details.card.wallet.type":                        {"Wallet"},
		"data.object.payment_method_details.card.checks":                             {"CVCCheck", "PostalCheck", "AddressCheck"},
		"data.object.payment_method_details.card.checks.cvc_check":                   {"CVCCheck"},
		"data.object.payment_method_details.card.checks.address_postal_code_check":   {"PostalCheck"},
		"data.object.payment_method_details.card.checks.address_line1_check":         {"AddressCheck"},
		"data.object.payment_method_details.card.three_d_secure":                     {"ThreeDSecure", "ThreeDSecureFlow"},
		"data.object.payment_method_details.card.three_d_secure.result":              {"ThreeDSecure"},
		"data.object.payment_method_details.card.three_d_secure.result_reason":       {"ThreeDSecure"},
		"data.object.payment_method_details.card.three_d_secure.authentication_flow": {"ThreeDSecureFlow"},
	}
	intentCosts := map[string][]string{
		"api_version": {"APIVersion"}, "created": {"Created"}, "request": {"RequestOrigin"}, "request.id": {"RequestOrigin"},
		"data.object.amount": {"Amount"}, "data.object.currency": {"Currency"}, "data.object.created": {}, "data.object.status": {"Status"},
		"data.object.customer": {"Customer"}, "data.object.latest_charge": {"LatestCharge"}, "data.object.client_secret": {"ClientSecretHash"},
		"data.object.receipt_email": {"Addresses"}, "data.object.metadata": {"Addresses", "Session", "Locale"},
		"data.object.metadata.email": {"Addresses"}, "data.object.metadata.session": {"Session"}, "data.object.metadata.locale": {"Locale"},
		"data.object.payment_details": {"Invoice", "OrderReference"}, "data.object.payment_details.order_reference": {"Invoice", "OrderReference"},
		"data.object.invoice": {"Invoice"}, "data.object.setup_future_usage": {"SetupFutureUsage"}, "data.object.payment_method": {"MethodID"},
		"data.object.last_payment_error": {"Charge", "ErrorCode", "DeclineCode", "AdviceCode", "NetworkAdviceCode", "NetworkDeclineCode",
			"ErrorType", "ErrorMessage", "ErrorParam", "ErrorDocURL", "ErrorMethodType", "ErrorLogURL", "MethodID", "MethodType", "MethodCreated",
			"MethodSaved", "Brand", "Last4", "ExpMonth", "ExpYear", "Country", "Funding", "Fingerprint", "PostalCheck", "AddressCheck", "Addresses"},
		"data.object.last_payment_error.charge": {"Charge"}, "data.object.last_payment_error.code": {"ErrorCode"},
		"data.object.last_payment_error.decline_code": {"DeclineCode"}, "data.object.last_payment_error.advice_code": {"AdviceCode"},
		"data.object.last_payment_error.network_advice_code":  {"NetworkAdviceCode"},
		"data.object.last_payment_error.network_decline_code": {"NetworkDeclineCode"},
		"data.object.last_payment_error.type":                 {"ErrorType"}, "data.object.last_payment_error.message": {"ErrorMessage"},
		"data.object.last_payment_error.param": {"ErrorParam"}, "data.object.last_payment_error.doc_url": {"ErrorDocURL"},
		"data.object.last_payment_error.payment_method_type": {"ErrorMethodType"}, "data.object.last_payment_error.request_log_url": {"ErrorLogURL"},
		"data.object.last_payment_error.payment_method": {"MethodID", "MethodType", "MethodCreated", "MethodSaved", "Brand", "Last4", "ExpMonth",
			"ExpYear", "Country", "Funding", "Fingerprint", "PostalCheck", "AddressCheck", "Addresses"},
		"data.object.last_payment_error.payment_method.id": {"MethodID"}, "data.object.last_payment_error.payment_method.type": {"MethodType"},
		"data.object.last_payment_error.payment_method.created": {"MethodCreated"}, "data.object.last_payment_error.payment_method.customer": {"MethodSaved"},
		"data.object.last_payment_error.payment_method.billing_details":       {"Addresses"},
		"data.object.last_payment_error.payment_method.billing_details.email": {"Addresses"},
		"data.object.last_payment_error.payment_method.card": {"Brand", "Last4", "ExpMonth", "ExpYear", "Country", "Funding", "Fingerprint",
			"PostalCheck", "AddressCheck"},
		"data.object.last_payment_error.payment_method.card.checks": {"PostalCheck", "AddressCheck"},
	}
	// The card's own members cost the same in a payment method.
	for path, fields := range costs {
		if member, ok := strings.CutPrefix(path, "data.object.payment_method_details.card."); ok && intentCosts["data.object.last_payment_error.payment_method.card."+member] == nil {
			intentCosts["data.object.last_payment_error.payment_method.card."+member] = fields
		}
	}
	// These say what the event is and whose: without them it is refused or kept aside, not guessed at.
	key := map[string]bool{"id": true, "type": true, "account": true, "data.object.id": true}

	for body, costs := range map[string]map[string][]string{failedCharge: costs, failedIntent: intentCosts} {
		want := onlyFact(t, []byte(body))
		read := 0
		for _, path := range leaves(parse(t, body), "") {
			if key[path] {
				continue
			}
			for _, wrong := range []string{`"wrong \ud800 text"`, `7.5`, `-1`, `true`, `[1]`, `["a",{"id":"x"}]`, `{"a":{"b":[]}}`, `[]`, `{}`, `null`, `1e999`} {
				d, out, err := DecodeStripe(with(t, body, path, json.RawMessage(wrong)), testOptions())
				require.NoError(t, err, "%s = %s", path, wrong)
				require.Equal(t, Used, out.Use, "%s = %s", path, wrong)
				require.Len(t, d.Facts, 1)
				lost := changed(want, d.Facts[0])
				require.Subset(t, append(costs[path], "nothing"), lost, "%s = %s", path, wrong)
				if wrong == "7.5" && len(costs[path]) > 0 && len(lost) > 0 {
					read++
					require.NotEmpty(t, out.Misfits, "%s = %s", path, wrong)
				}
			}
		}
		require.Greater(t, read, 40, "the table reaches the fields")
	}
}

func TestACodeThatCannotBeReadIsNotKnownToBeHarmless(t *testing.T) {
	t.Parallel()
	charge := with(t, failedCharge, "data.object.fraud_details", tree{})
	charge = with(t, string(charge), "data.object.failure_code", "incorrect_cvc")
	charge = with(t, string(charge), "data.object.outcome", tree{"type": "issuer_declined", "reason": "incorrect_cvc", "network_status": "declined_by_network"})
	intent := with(t, failedIntent, "data.object.last_payment_error.code", "incorrect_cvc")
	intent = with(t, string(intent), "data.object.last_payment_error.decline_code", "incorrect_cvc")
	disclosed := func(body []byte) bool {
		d, _ := decode(t, body)
		return handler.Derive(d.Facts[0].PaymentKey, d.Facts, nil, decline.Rules{}).Attempts[0].Disclosable
	}
	const object = "data.object."
	for body, paths := range map[string][]string{
		string(charge): {"outcome", "outcome.type", "outcome.reason", "fraud_details", "fraud_details.stripe_report", "failure_code"},
		string(intent): {"last_payment_error.code", "last_payment_error.decline_code"},
	} {
		require.True(t, disclosed([]byte(body)))
		for _, path := range paths {
			require.False(t, disclosed(with(t, body, object+path, json.RawMessage(`[{"code":"fraudulent"}]`))), path)
			require.True(t, disclosed(with(t, body, object+path, nil)), "none is no code: %s", path)
		}
	}
	require.True(t, disclosed(with(t, string(charge), "data.object.outcome", json.RawMessage(`[]`))), "data that went through PHP")
}

func TestOneOddCardOfAListCostsNothingElse(t *testing.T) {
	t.Parallel()
	for _, charges := range []string{`7`, `[]`, `{"data":7}`, `{"data":[7,"x"]}`, `{"data":[]}`, `{"data":[{"id":7}]}`, `{"data":[{}, {"id":"ch_0"}]}`, `null`} {
		d, out := decode(t, with(t, failedIntent, "data.object.charges", json.RawMessage(charges)))
		require.Equal(t, Used, out.Use)
		require.Equal(t, onlyFact(t, []byte(failedIntent)), d.Facts[0], charges)
	}
}

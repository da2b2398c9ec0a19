package webhook

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// One member of the wrong kind costs what it says itself and nothing else, whichever member it is.
func TestAFrameMisfitCostsOnlyItself(t *testing.T) {
	t.Parallel()
	method := []string{"MethodID", "MethodType", "MethodCreated", "Brand", "Last4", "ExpMonth", "ExpYear"}
	card := []string{"Brand", "Last4", "ExpMonth", "ExpYear"}
	methodOf := func(costs map[string][]string, at string) {
		costs[at] = method
		costs[at+".id"], costs[at+".type"], costs[at+".created"] = []string{"MethodID"}, []string{"MethodType"}, []string{"MethodCreated"}
		costs[at+".card"], costs[at+".card.brand"], costs[at+".card.last_four"] = card, []string{"Brand"}, []string{"Last4"}
		costs[at+".card.exp_month"], costs[at+".card.exp_year"] = []string{"ExpMonth"}, []string{"ExpYear"}
	}
	charge := map[string][]string{
		"livemode": {"Livemode"}, "data.charge_intent": {"PaymentID", "PaymentIntent"}, // a text is another id; else charge_intent_id stands in
		"created": {"Created"}, "data.status": {"Status"}, "data.amount": {"Amount"}, "data.currency": {"Currency"},
		"data.failure_code": {"FailureCode"}, "data.failure_message": {"ErrorMessage"}, "data.account": {"Customer"}, "data.customer": {"Customer", "Addresses"},
	}
	methodOf(charge, "data.payment_method_details")
	transfer := map[string][]string{
		"livemode": {"Livemode"}, "created": {"Created"}, "data.status": {"Status"}, "data.amount": {"Amount"}, "data.currency": {"Currency"},
		"data.charge_intent": {"PaymentID", "PaymentIntent"}, "data.client_secret": {"ClientSecretHash"}, "data.failure_reason": {"ErrorMessage"},
		"data.billing_agreement": {"Agreement"}, "data.metadata": {"Session", "Locale", "Addresses"}, "data.metadata.session": {"Session"},
		"data.metadata.email": {"Addresses"}, "data.metadata.locale": {"Locale"}, "data.account": {"Customer"},
	}
	methodOf(transfer, "data.source_payment_method")
	intent := map[string][]string{
		"livemode": {"Livemode"}, "created": {"Created"}, "data.status": {"Status"}, "data.amount": {"Amount"}, "data.currency": {"Currency"},
		"data.client_secret": {"ClientSecretHash"}, "data.failure_description": {"ErrorMessage"},
		"data.customer": {"Customer", "Addresses"}, "data.customer.id": {"Customer"}, "data.customer.email": {"Addresses"},
		"data.metadata": {"Session", "Locale", "Addresses"}, "data.metadata.session": {"Session"}, "data.metadata.email": {"Addresses"},
		"data.metadata.locale":            {"Locale"},
		"data.latest_charge":              {"Charge", "FailureCode", "MethodType", "MethodCreated", "Brand", "Last4", "ExpMonth", "ExpYear"},
		"data.latest_charge.id":           {"Charge", "FailureCode", "MethodType", "MethodCreated", "Brand", "Last4", "ExpMonth", "ExpYear"},
		"data.latest_charge.failure_code": {"FailureCode"},
	}
	methodOf(intent, "data.latest_charge.payment_method_details")
	// These say what the event is: without them it is refused or kept aside, not guessed at.
	key := map[string]bool{"id": true, "type": true, "data.id": true}
	// These say whether money comes or goes. What cannot be read is taken for absent.
	direction := map[string]bool{"data.payout": true, "data.destination_payment_method": true, "data.source_payment_method": true}

	for body, costs := range map[string]map[string][]string{frameCharge: charge, frameTransfer: transfer, frameIntent: intent} {
		want := onlyFrameFact(t, []byte(body))
		read := 0
		for _, path := range leaves(parse(t, body), "") {
			if key[path] {
				continue
			}
			for _, wrong := range []string{`"wrong \ud800 text"`, `7.5`, `-1`, `true`, `[1]`, `["a",{"id":"x"}]`, `{"a":{"b":[]}}`, `[]`, `{}`, `null`, `1e999`} {
				d, out, err := DecodeFrame(with(t, body, path, json.RawMessage(wrong)), testOptions(), false)
				require.NoError(t, err, "%s = %s", path, wrong)
				require.Equal(t, Used, out.Use, "%s = %s", path, wrong)
				require.Len(t, d.Facts, 1)
				f := d.Facts[0]
				if direction[path] {
					require.Equal(t, want.Object, f.Object, "%s = %s", path, wrong)
				}
				lost := changed(want, f)
				require.Subset(t, append(costs[path], "nothing"), lost, "%s = %s", path, wrong)
				if wrong == "7.5" && len(costs[path]) > 0 && len(lost) > 0 {
					read++
					require.NotEmpty(t, out.Misfits, "%s = %s", path, wrong)
				}
			}
		}
		require.Greater(t, read, 14, "the table reaches the fields")
	}
}

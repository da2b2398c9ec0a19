package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
)

func decodeFrame(t testing.TB, body []byte) (handler.Delivery, Outcome) {
	t.Helper()
	d, out, err := DecodeFrame(body, testOptions(), false)
	require.NoError(t, err)
	return d, out
}

// onlyFrameFact decodes body, which gives one fact and no misfit.
func onlyFrameFact(t testing.TB, body []byte) handler.Fact {
	t.Helper()
	d, out := decodeFrame(t, body)
	require.Equal(t, Used, out.Use)
	require.Empty(t, out.Misfits)
	require.Len(t, d.Facts, 1)
	require.Equal(t, d.Facts[0].PaymentID, out.PaymentID)
	return d.Facts[0]
}

const (
	demoIntent   = "9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02"
	demoCharge   = "4b0c7c1e-0d7a-4f43-9d1e-2f6f2d3b9a01"
	demoTransfer = "07d3c5b2-91ee-4a68-b3f4-1c2d9e8a7f05"
	demoAccount  = "c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03"
	demoMethod   = "e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04"
)

func TestAFailedFrameChargeGivesOneFactUnderItsIntent(t *testing.T) {
	t.Parallel()
	require.Equal(t, handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: demoIntent, Source: "frame"},
		EventID:    "evt_demo_0001", EventType: "charge.failed", Created: 1767225600,
		Object: "charge", ObjectID: demoCharge, Status: "failed",
		PaymentIntent: demoIntent, Charge: demoCharge, Customer: demoAccount, Amount: 4200, Currency: "usd",
		FailureCode: "insufficient_funds", ErrorMessage: "Demo text from the processor.",
		MethodID: demoMethod, MethodType: "card", MethodCreated: 1767220000, Brand: "visa", Last4: "6186", ExpMonth: 8, ExpYear: 2031,
	}, onlyFrameFact(t, []byte(frameCharge)))
}

func TestAFailedFrameTransferGivesOneFactWithoutACode(t *testing.T) {
	t.Parallel()
	require.Equal(t, handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: demoIntent, Source: "frame"},
		EventID:    "evt_demo_0002", EventType: "transfer.failed", Created: 1767225601,
		Object: "transfer", ObjectID: demoTransfer, Status: "failed",
		PaymentIntent: demoIntent, Transfer: demoTransfer, Customer: demoAccount, Amount: 4200, Currency: "usd",
		ErrorMessage: "Demo free text.",
		MethodID:     demoMethod, MethodType: "card", Brand: "visa", Last4: "6186", ExpMonth: 8, ExpYear: 2031,
		Session: "off_session", Locale: "de-AT", ClientSecretHash: testOptions().HashClientSecret("ci_demo_secret_SENTINEL"),
		Addresses: &handler.Contact{Metadata: "meta@example.com"},
	}, onlyFrameFact(t, []byte(frameTransfer)))
}

func TestAFailedFrameIntentGivesOneFactWithItsChargesCode(t *testing.T) {
	t.Parallel()
	require.Equal(t, handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: demoIntent, Source: "frame"},
		EventID:    "evt_demo_0003", EventType: "charge_intent.payment_failed", Created: 1767225602,
		Object: "charge_intent", ObjectID: demoIntent, Status: "incomplete",
		PaymentIntent: demoIntent, Charge: demoCharge, Customer: "cus_demo_1", Amount: 4200, Currency: "usd",
		FailureCode: "insufficient_funds", ErrorMessage: "Demo description.",
		MethodID: demoMethod, MethodType: "card", MethodCreated: 1767220000, Brand: "visa", Last4: "6186", ExpMonth: 8, ExpYear: 2031,
		Session: "off_session", Locale: "de-AT", ClientSecretHash: testOptions().HashClientSecret("ci_demo_secret_SENTINEL"),
		Addresses: &handler.Contact{Metadata: "meta@example.com", Customer: "payer@example.com"},
	}, onlyFrameFact(t, []byte(frameIntent)))
}

func TestAFailedPayoutIsNobodysDeclinedPayment(t *testing.T) {
	t.Parallel()
	want := handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: "7c11d0c4-66c2-4f0c-9a70-0d5a2b8e1f06", Source: "frame", Livemode: true},
		EventID:    "evt_demo_0004", EventType: "transfer.failed", Created: 1767225603,
		Object: "payout", ObjectID: "7c11d0c4-66c2-4f0c-9a70-0d5a2b8e1f06", Status: "failed",
		Transfer: "7c11d0c4-66c2-4f0c-9a70-0d5a2b8e1f06", Customer: "5d0f3c1b-8e2a-4b7d-9c6f-1a2b3c4d5e07",
		Amount: 90000, Currency: "usd", ErrorMessage: "Account closed.",
	}
	require.Equal(t, want, onlyFrameFact(t, []byte(framePayout)))
	require.Equal(t, want, onlyFrameFact(t, with(t, framePayout, "data.payout", tree{"id": "po_demo_1", "object": "payout"})), "expanded")
	require.Equal(t, want, onlyFrameFact(t, with(t, framePayout, "data.payout", nil)), "a destination and no source is the same")
	require.Equal(t, want, onlyFrameFact(t, with(t, framePayout, "data.destination_payment_method", nil)))

	succeeded := with(t, framePayout, "type", "transfer.succeeded")
	require.Equal(t, "payout", onlyFrameFact(t, succeeded).Object, "one that arrives is no recovered payment either")

	incoming := onlyFrameFact(t, with(t, framePayout, "data.source_payment_method", tree{"id": "pm_demo", "type": "card"}))
	require.Equal(t, "transfer", incoming.Object, "money that is taken from a method is a payment, wherever it goes on to")
	v := parse(t, frameTransfer)
	v["data"].(tree)["destination_payment_method"], v["data"].(tree)["source_payment_method"] = "pm_shop", 7
	d, _ := decodeFrame(t, render(t, v))
	require.Equal(t, "transfer", d.Facts[0].Object, "so is money that an intent charges somebody, though its method cannot be read")
	require.Equal(t, "transfer", onlyFrameFact(t, with(t, frameTransfer, "data.source_payment_method", nil)).Object)
}

// frameSuccesses are the success counterparts, by type.
func frameSuccesses(t testing.TB) map[string][]byte {
	t.Helper()
	charge, transfer, intent := parse(t, frameCharge), parse(t, frameTransfer), parse(t, frameIntent)
	for _, v := range []tree{charge, transfer, intent} {
		v["id"] = v["id"].(string) + "_success"
		v["created"] = v["created"].(float64) + 600
		data := v["data"].(tree)
		data["status"], data["failure_code"], data["failure_message"] = "succeeded", nil, nil
		data["failure_reason"], data["failure_description"] = nil, nil
	}
	charge["data"].(tree)["captured"] = true
	charge["data"].(tree)["id"] = "ch_second"
	latest := intent["data"].(tree)["latest_charge"].(tree)
	latest["id"], latest["status"], latest["failure_code"], latest["failure_message"] = "ch_second", "succeeded", nil, nil
	as := func(v tree, eventType string) []byte { v["type"] = eventType; return render(t, v) }
	return map[string][]byte{
		"charge.succeeded": as(charge, "charge.succeeded"), "charge.captured": as(charge, "charge.captured"),
		"transfer.succeeded": as(transfer, "transfer.succeeded"), "transfer.completed": as(transfer, "transfer.completed"),
		"charge_intent.succeeded": as(intent, "charge_intent.succeeded"),
	}
}

func TestFrameSuccessesGiveFactsUnderTheSameIntent(t *testing.T) {
	t.Parallel()
	for eventType, body := range frameSuccesses(t) {
		f := onlyFrameFact(t, body)
		require.Equal(t, eventType, f.EventType, "verbatim")
		require.Equal(t, demoIntent, f.PaymentID)
		require.Equal(t, "succeeded", f.Status)
		require.Empty(t, f.FailureCode)
		require.Empty(t, f.ErrorMessage)
		require.Equal(t, "6186", f.Last4, eventType)
		switch f.Object {
		case "charge", "charge_intent":
			require.Equal(t, "ch_second", f.Charge)
			require.Empty(t, f.Transfer)
		case "transfer":
			require.Equal(t, demoTransfer, f.Transfer)
			require.Empty(t, f.Charge)
		default:
			require.Fail(t, f.Object)
		}
	}
}

func TestOtherFrameIntentEventsSayNothingOfAnEarlierFailure(t *testing.T) {
	t.Parallel()
	for _, eventType := range []string{
		"charge_intent.requires_action", "charge_intent.payment_action_required", "charge_intent.canceled", "charge_intent.expired",
	} {
		f := onlyFrameFact(t, with(t, frameIntent, "type", eventType))
		require.Equal(t, eventType, f.EventType)
		require.Equal(t, "charge_intent", f.Object)
		require.Equal(t, demoIntent, f.PaymentID)
		require.Equal(t, demoCharge, f.Charge)
		require.Equal(t, "incomplete", f.Status)
		require.Empty(t, f.FailureCode)
		require.Empty(t, f.ErrorMessage)
		require.Empty(t, f.Last4, "the card of an earlier attempt")
		require.Equal(t, demoMethod, f.MethodID, "the intent's own")
		require.NotNil(t, f.ClientSecretHash)
		require.Equal(t, "payer@example.com", f.Addresses.Customer)
	}
}

func TestAnotherAttemptsChargeIsNotTaken(t *testing.T) {
	t.Parallel()
	for name, body := range map[string][]byte{
		"a failure whose newest charge succeeded": with(t, frameIntent, "data.latest_charge.status", "succeeded"),
		"a success whose newest charge failed":    with(t, frameIntent, "type", "charge_intent.succeeded"),
	} {
		f := onlyFrameFact(t, body)
		require.Empty(t, f.Charge, name)
		require.Empty(t, f.FailureCode, name)
		require.Empty(t, f.Last4, name)
	}
	for _, eventType := range []string{"transfer.succeeded", "transfer.completed"} {
		v := parse(t, frameTransfer)
		v["type"], v["data"].(tree)["charge"] = eventType, tree{"id": demoCharge, "status": "failed"}
		require.Empty(t, onlyFrameFact(t, render(t, v)).Charge, eventType)
	}
}

func TestTwoMethodsOfOneFrameEventAreNotMixed(t *testing.T) {
	t.Parallel()
	v := parse(t, frameCharge)
	v["data"].(tree)["payment_method_details"] = tree{"id": "pm_a", "type": "card"}
	v["data"].(tree)["payment_method"] = tree{"id": "pm_b", "type": "card", "card": tree{"brand": "amex", "last_four": "0005"}}
	f := onlyFrameFact(t, render(t, v))
	require.Equal(t, []string{"pm_a", "card", "", ""}, []string{f.MethodID, f.MethodType, f.Brand, f.Last4})
}

func TestFraudStatesAreKeptWhateverTheType(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"fraud_declined", "fraud_review"} {
		for body, types := range map[string][]string{
			frameTransfer: {"transfer.failed", "transfer.created", "transfer.fraud_declined", "transfer.updated"},
			frameIntent:   {"charge_intent.payment_failed", "charge_intent.fraud_review", "charge_intent.created"},
			frameCharge:   {"charge.failed", "charge.pending"},
		} {
			for _, eventType := range types {
				v := parse(t, body)
				v["type"] = eventType
				v["data"].(tree)["status"] = status
				f := onlyFrameFact(t, render(t, v))
				require.Equal(t, status, f.Status)
				require.Equal(t, eventType, f.EventType)
				require.Equal(t, demoIntent, f.PaymentID)
			}
		}
		dispute := parse(t, frameCharge)
		dispute["type"] = "charge.dispute.created"
		dispute["data"].(tree)["status"] = status
		_, out := decodeFrame(t, render(t, dispute))
		require.Equal(t, Ignored, out.Use)
	}
}

func TestFrameTypesThatGiveNothing(t *testing.T) {
	t.Parallel()
	for _, eventType := range []string{
		"transfer.created", "charge.pending", "charge.expired", "charge.refunded", "charge_intent.created", "charge.dispute.created",
		"charge.dispute.updated", "refund.failed", "customer.updated", "account.created", "capability.updated", "invoice.paid",
		"customer.subscription.updated", "payout.failed", "charge", "charge.", ".failed", "transfer_failed", "CHARGE.FAILED",
	} {
		d, out := decodeFrame(t, with(t, frameCharge, "type", eventType))
		require.Equal(t, Ignored, out.Use, eventType)
		require.Empty(t, d)
		require.Empty(t, out.Misfits)
	}
}

func TestEitherSpellingOfTheIntentFilesAFrameCharge(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]string{"charge_intent": "charge_intent_id", "charge_intent_id": "charge_intent"} {
		for _, value := range []any{nil, ""} {
			require.Equal(t, demoIntent, onlyFrameFact(t, with(t, frameCharge, "data."+drop, value)).PaymentID, name)
		}
		v := parse(t, frameCharge)
		delete(v["data"].(tree), drop)
		require.Equal(t, demoIntent, onlyFrameFact(t, render(t, v)).PaymentID)
		v["data"].(tree)[name] = tree{"id": demoIntent, "object": "charge_intent"}
		require.Equal(t, demoIntent, onlyFrameFact(t, render(t, v)).PaymentID, "expanded")
		v["data"].(tree)[name] = nil
		f := onlyFrameFact(t, render(t, v))
		require.Equal(t, demoCharge, f.PaymentID, "without an intent the charge files itself")
		require.Empty(t, f.PaymentIntent)
	}
	alone := parse(t, frameTransfer)
	alone["data"].(tree)["charge_intent"] = nil
	require.Equal(t, demoTransfer, onlyFrameFact(t, render(t, alone)).PaymentID, "so does a transfer")
	alone["data"].(tree)["charge"] = demoCharge
	require.Equal(t, demoCharge, onlyFrameFact(t, render(t, alone)).PaymentID, "under its charge where it names one")
}

func TestATransferMayReferToItsCharge(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"charge", "latest_charge", "charge_id"} {
		f := onlyFrameFact(t, with(t, frameTransfer, "data."+name, demoCharge))
		require.Equal(t, demoCharge, f.Charge, name)
		require.Empty(t, f.FailureCode)
		f = onlyFrameFact(t, with(t, frameTransfer, "data."+name, tree{
			"id": demoCharge, "object": "charge", "status": "failed", "failure_code": "stolen_card", "failure_message": "Stolen.",
			"livemode": true, "charge_intent": demoIntent,
		}))
		require.Equal(t, demoCharge, f.Charge, name)
		require.Equal(t, "stolen_card", f.FailureCode, "its charge has the code")
		require.Equal(t, "Demo free text.", f.ErrorMessage)
		require.Equal(t, demoIntent, f.PaymentID)
		require.False(t, f.Livemode, "the transfer's own word stands")

		v := parse(t, frameTransfer)
		v["data"].(tree)["charge_intent"], v["data"].(tree)[name] = nil, tree{"id": demoCharge, "charge_intent_id": demoIntent}
		require.Equal(t, demoIntent, onlyFrameFact(t, render(t, v)).PaymentID, "its charge names the intent")
	}
	own := onlyFrameFact(t, with(t, frameTransfer, "data.failure_code", "lost_card"))
	require.Equal(t, "lost_card", own.FailureCode, "no source has it there, but it would be the word for it")
}

func TestFrameEnvelopes(t *testing.T) {
	t.Parallel()
	want := onlyFrameFact(t, []byte(frameCharge))
	envelope := func(change func(event, data tree)) []byte {
		v := parse(t, frameCharge)
		change(v, v["data"].(tree))
		return render(t, v)
	}
	for name, change := range map[string]func(event, data tree){
		"created_at, RFC 3339": func(e, _ tree) { delete(e, "created"); e["created_at"] = "2026-01-01T00:00:00Z" },
		"created, RFC 3339":    func(e, _ tree) { e["created"] = "2026-01-01T01:00:00.000+01:00" },
		"created_at, a number": func(e, _ tree) { delete(e, "created"); e["created_at"] = 1767225600 },
		"no object member":     func(e, _ tree) { delete(e, "object") },
		"no livemode":          func(e, _ tree) { delete(e, "livemode") },
		"previous_attributes":  func(e, _ tree) { e["previous_attributes"] = tree{"status": "pending"} },
		"a field of tomorrow":  func(e, d tree) { e["x"], d["y"] = tree{"z": 1}, []any{1, tree{}} },
		"an object in data":    func(e, d tree) { e["data"] = tree{"object": d} },
		"and something beside": func(e, d tree) { e["data"] = tree{"a": 1, "object": d, "id": "other", "amount": 7} },
		"an empty object":      func(_, d tree) { d["object"] = tree{} },
		"no object in data":    func(_, d tree) { delete(d, "object") },
	} {
		require.Equal(t, want, onlyFrameFact(t, envelope(change)), name)
	}
}

func TestTheModeOfAFrameEvent(t *testing.T) {
	t.Parallel()
	modes := func(envelope, object, inside any, otherwise bool) bool {
		v := parse(t, frameCharge)
		data := v["data"].(tree)
		v["livemode"], data["livemode"], data["payment_method_details"].(tree)["livemode"] = envelope, object, inside
		d, _, err := DecodeFrame(render(t, v), testOptions(), otherwise)
		require.NoError(t, err)
		return d.Facts[0].Livemode
	}
	require.True(t, modes(true, false, false, false), "the envelope's word comes first")
	require.False(t, modes(false, true, true, true))
	require.True(t, modes(nil, true, false, false), "then the object's")
	require.False(t, modes(nil, false, true, true))
	require.True(t, modes("true", true, false, false), "a text is no word")
	require.True(t, modes(nil, nil, true, false), "then that of what is inside")
	require.False(t, modes(nil, nil, false, true))
	require.True(t, modes(nil, nil, nil, true), "then the endpoint's")
	require.False(t, modes(nil, nil, nil, false))

	intent := parse(t, frameIntent)
	delete(intent, "livemode")
	intent["data"].(tree)["latest_charge"].(tree)["livemode"] = true
	require.True(t, onlyFrameFact(t, render(t, intent)).Livemode)
	intent["data"].(tree)["livemode"] = false
	require.False(t, onlyFrameFact(t, render(t, intent)).Livemode)
}

func TestAFrameTimeThatCannotBeTrueBecomesNow(t *testing.T) {
	t.Parallel()
	for _, created := range []string{`0`, `-1`, `null`, `1e13`, `1767225600000`, `4102444801`, `"yesterday"`, `""`, `{}`, `"9999-01-01T00:00:00Z"`,
		fmt.Sprint(testNow.Add(24*time.Hour).Unix() + 1)} {
		d, _ := decodeFrame(t, with(t, frameCharge, "created", json.RawMessage(created)))
		require.Equal(t, testNow.Unix(), d.Facts[0].Created, created)
	}
	near := testNow.Add(24 * time.Hour).Unix()
	require.Equal(t, near, onlyFrameFact(t, with(t, frameCharge, "created", near)).Created, "a clock may be off")
	require.EqualValues(t, 1, onlyFrameFact(t, with(t, frameCharge, "created", 1)).Created, "Frame delivers old events on request")
	require.EqualValues(t, 1767225600, onlyFrameFact(t, with(t, frameCharge, "created", "1767225600")).Created)
	require.EqualValues(t, 4200, onlyFrameFact(t, with(t, frameCharge, "data.amount", "4200")).Amount)
}

func TestExpiryDates(t *testing.T) {
	t.Parallel()
	for given, want := range map[string][2]int64{
		`"08","exp_year":"31"`: {8, 2031}, `"12","exp_year":"2031"`: {12, 2031}, `8,"exp_year":31`: {8, 2031}, `8,"exp_year":2031`: {8, 2031},
		`null,"exp_year":null`: {}, `"0","exp_year":"0"`: {},
	} {
		body := strings.Replace(frameTransfer, `"08","exp_year":"31"`, given, 1)
		f := onlyFrameFact(t, []byte(body))
		require.Equal(t, want, [2]int64{f.ExpMonth, f.ExpYear}, given)
	}
	for _, given := range []string{`"13","exp_year":"31"`, `"","exp_year":"31"`, `"-1","exp_year":"31"`, `"8.0","exp_year":"31"`} {
		d, out := decodeFrame(t, []byte(strings.Replace(frameTransfer, `"08","exp_year":"31"`, given, 1)))
		require.Zero(t, d.Facts[0].ExpMonth)
		require.EqualValues(t, 2031, d.Facts[0].ExpYear)
		require.Equal(t, []string{"source_payment_method.exp_month"}, out.Misfits)
	}
}

func TestWhoPaysByFrame(t *testing.T) {
	t.Parallel()
	set := func(changes tree) handler.Fact {
		v := parse(t, frameIntent)
		for name, value := range changes {
			v["data"].(tree)[name] = value
		}
		return onlyFrameFact(t, render(t, v))
	}
	require.Equal(t, "cus_1", set(tree{"customer": "cus_1"}).Customer)
	require.Equal(t, "cus_2", set(tree{"customer": nil, "customer_id": "cus_2"}).Customer)
	require.Equal(t, demoAccount, set(tree{"customer": nil}).Customer, "the account is the payer")
	require.Equal(t, "acc_1", set(tree{"customer": nil, "account": nil, "account_id": "acc_1"}).Customer)
	require.Empty(t, set(tree{"customer": nil, "account": nil}).Customer, "a guest")
	require.Empty(t, set(tree{}).Account, "it is no connected account")

	expanded := set(tree{"customer": nil, "account": tree{"id": "acc_2", "email": "holder@example.com"}})
	require.Equal(t, "acc_2", expanded.Customer)
	require.Equal(t, "holder@example.com", expanded.Addresses.Customer)
	guest := set(tree{"customer": tree{"email": "guest@example.com"}, "account": nil})
	require.Empty(t, guest.Customer)
	require.Equal(t, "guest@example.com", guest.Addresses.Customer)
}

func TestABillingAgreementIsNoted(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{`null`: false, `""`: false, `"ba_1"`: true, `{"id":"ba_1"}`: true, `{}`: true} {
		require.Equal(t, want, onlyFrameFact(t, with(t, frameTransfer, "data.billing_agreement", json.RawMessage(value))).Agreement, value)
	}
}

func TestAnACHMethodKeepsItsLastFourDigitsAlone(t *testing.T) {
	t.Parallel()
	d, out := decodeFrame(t, with(t, frameTransfer, "data.source_payment_method", tree{
		"id": "pm_ach", "type": "ach", "ach": tree{"account_type": "checking", "account_number": "SENTINEL", "routing_number": "SENTINEL",
			"bank_name": "SENTINEL", "last_four": "1111"},
	}))
	require.Empty(t, out.Misfits)
	f := d.Facts[0]
	require.Equal(t, []string{"pm_ach", "ach", "1111", ""}, []string{f.MethodID, f.MethodType, f.Last4, f.Brand})
	require.NotContains(t, fmt.Sprintf("%+v", f), "SENTINEL")
}

func TestNothingForbiddenSurvivesAFrameEvent(t *testing.T) {
	t.Parallel()
	bodies := [][]byte{[]byte(frameCharge), []byte(frameTransfer), []byte(frameIntent), []byte(framePayout)}
	for _, body := range frameSuccesses(t) {
		bodies = append(bodies, body)
	}
	for _, body := range bodies {
		require.Contains(t, string(body), "SENTINEL")
		d, out := decodeFrame(t, body)
		require.Equal(t, Used, out.Use)
		require.NotContains(t, fmt.Sprintf("%+v %+v", d, out), "SENTINEL")
		kept, err := json.Marshal(d)
		require.NoError(t, err)
		require.NotContains(t, string(kept), "SENTINEL")
	}
}

func TestFrameEventsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for body, reason := range map[string]string{
		`{"id":"evt_1","type":"charge.failed"}`:                                             "no_object",
		`{"id":"evt_1","type":"charge.failed","data":null}`:                                 "no_object",
		`{"id":"evt_1","type":"charge.failed","data":"x"}`:                                  "no_object",
		`{"id":"evt_1","type":"charge.failed","data":[]}`:                                   "no_object",
		`{"id":"evt_1","type":"charge.failed","data":{}}`:                                   "no_object_id",
		`{"id":"evt_1","type":"charge.failed","data":{"object":{}}}`:                        "no_object_id",
		`{"id":"evt_1","type":"charge.failed","data":{"id":7}}`:                             "no_object_id",
		`{"id":"evt_1","type":"transfer.failed","data":{"status":"failed","payout":"po"}}`:  "no_object_id",
		`{"data":{"latest_charge":{"id":"ch"}},"type":"charge_intent.canceled","id":"evt"}`: "no_object_id",
	} {
		d, out := decodeFrame(t, []byte(body))
		require.Equal(t, Quarantined, out.Use, body)
		require.Equal(t, reason, out.Reason, body)
		require.Empty(t, d.Facts)
		require.Equal(t, body, string(d.Quarantine.Body))
		require.Equal(t, "frame", d.Quarantine.Source)
	}
	for _, body := range []string{``, `null`, `{}`, `[]`, `7`, `"x"`, `{"id":"evt_1"}`, `{"type":"charge.failed"}`, `{"id":7,"type":"charge.failed"}`,
		`{"id":"","type":"charge.failed"}`, frameCharge[:600], frameCharge + "x"} {
		_, _, err := DecodeFrame([]byte(body), testOptions(), false)
		require.ErrorIs(t, err, ErrUnreadable, body)
	}
}

func TestAnAddressThatFrameQuotesIsNotKeptInClear(t *testing.T) {
	t.Parallel()
	for body, path := range map[string]string{
		frameCharge: "data.failure_message", frameTransfer: "data.failure_reason", frameIntent: "data.failure_description",
	} {
		f := onlyFrameFact(t, with(t, body, path, "Receipt to <payer@example.com> refused"))
		require.Equal(t, "Receipt to <…> refused", f.ErrorMessage)
	}
}

func TestAFrameCodeThatCannotBeReadIsNotKnownToBeHarmless(t *testing.T) {
	t.Parallel()
	intent := with(t, frameIntent, "data.failure_code", "incorrect_cvc")
	disclosed := func(charge []byte) bool {
		of, _ := decodeFrame(t, charge)
		its, _ := decodeFrame(t, intent)
		d := handler.Derive(of.Facts[0].PaymentKey, append(of.Facts, its.Facts...), nil, decline.Rules{})
		require.Len(t, d.Attempts, 1)
		return d.Attempts[0].Disclosable
	}
	require.True(t, disclosed(with(t, frameCharge, "data.failure_code", "incorrect_cvc")))
	require.True(t, disclosed(with(t, frameCharge, "data.failure_code", nil)))
	require.False(t, disclosed(with(t, frameCharge, "data.failure_code", json.RawMessage(`[{"code":"fraudulent"}]`))))
}

func TestAQuarantinedFrameEventIsKeptWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	v := parse(t, frameIntent)
	delete(v["data"].(tree), "id")
	d, out := decodeFrame(t, render(t, v))
	require.Equal(t, Quarantined, out.Use)
	kept := string(d.Quarantine.Body)
	require.NotContains(t, kept, "ci_demo_secret")
	require.NotContains(t, kept, "SENTINEL-source")
	require.Contains(t, kept, `"client_secret":null`)
	require.Contains(t, kept, "insufficient_funds", "all else is there for whoever looks into it")
}

func TestSecretsAreTakenOutOfADocument(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		`{"client_secret":"s","a":1}`:                               `{"client_secret":null,"a":1}`,
		` { "a" : [ { "client_secret" :  {"x":["s"]} , "b":2 } ] }`: ` { "a" : [ { "client_secret" :  null , "b":2 } ] }`,
		`{"next_action":{"use_frame_sdk":{"source":"s"}}}`:          `{"next_action":null}`,
		`{"client\u005fsecret":"s"}`:                                `{"client\u005fsecret":null}`,
		`{"a":"client_secret","b":"next_action"}`:                   `{"a":"client_secret","b":"next_action"}`,
		`["client_secret","kept"]`:                                  `["client_secret","kept"]`,
		`{"client_secret":"s","client_secret":"t"}`:                 `{"client_secret":null,"client_secret":null}`,
		`7`: `7`,
		"{\"\xff\":1,\"client_secret\":\"\xff\"}\n": "{\"\xff\":1,\"client_secret\":null}\n",
	} {
		got, masked := withoutSecrets([]byte(given))
		require.Equal(t, want, string(got))
		require.Zero(t, masked)
	}
	got, masked := withoutSecrets([]byte(`{"id":"evt_4242424242424242","description":"\u0034242 4242 4242 4242 12/29","created":4242424242424242,` +
		`"email":"8613800138002@mail.example","next_source_action":{"value":{"url":"s"}},"metadata":{"5555555555554444":["4242424242424242"]}}`))
	require.Equal(t, `{"id":"evt_4242424242424242","description":"**** **** **** 4242 12/29","created":4242424242424242,`+
		`"email":"8613800138002@mail.example","next_source_action":null,"metadata":{"************4444":["************4242"]}}`, string(got))
	require.Equal(t, 3, masked)

	got, _ = withoutSecrets([]byte(`{"source":{"redirect":{"url":"https://hooks.stripe.com/redirect/authenticate/src_1?client_secret=src_client_secret_Abc9&x=1"}},` +
		`"note":"pi_1_secret_Def8 and \u0070i_2_secret_Ghi7"}`))
	require.Equal(t, `{"source":{"redirect":{"url":"https://hooks.stripe.com/redirect/authenticate/src_1?client_secret=…&x=1"}},"note":"… and …"}`, string(got))
}

func TestAUUIDIsNoCardNumber(t *testing.T) {
	t.Parallel()
	const id = "0b1c2d3e-4f5a-4242-4242-424242424242" // the last three groups pass for a card number
	f := onlyFrameFact(t, with(t, frameCharge, "data.id", id))
	require.Equal(t, id, f.Charge)
	require.Regexp(t, `^\*{12}4242~[0-9a-f]{32}$`, onlyFrameFact(t, with(t, frameCharge, "data.id", "4242424242424242")).Charge)
	for _, no := range []string{"", "0b1c2d3e-4f5a-4242-4242-42424242424", "0b1c2d3e-4f5a-4242-4242-42424242424g", "0b1c2d3e04f5a-4242-4242-424242424242"} {
		require.False(t, uuid(no), no)
	}
	require.True(t, uuid(strings.ToUpper(id)))
}

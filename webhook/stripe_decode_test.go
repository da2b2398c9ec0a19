package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
)

func TestAFailedChargeGivesOneFactUnderItsIntent(t *testing.T) {
	t.Parallel()
	require.Equal(t, handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: "pi_1", Source: "stripe", Account: "acct_shop", Livemode: true},
		EventID:    "evt_charge", APIVersion: "2024-06-20", EventType: "charge.failed", Created: 1772366400,
		Object: "charge", ObjectID: "ch_1", Status: "failed",
		PaymentIntent: "pi_1", Charge: "ch_1", Customer: "cus_1", Invoice: "in_1", Amount: 5400, Currency: "eur",
		FailureCode: "card_declined", OutcomeType: "issuer_declined", OutcomeReason: "insufficient_funds",
		NetworkStatus: "declined_by_network", RiskLevel: "normal", StripeReport: "fraudulent", AdviceCode: "try_again_later",
		NetworkAdviceCode: "02", NetworkDeclineCode: "51", ErrorMessage: "The card has not enough money.",
		MethodID: "pm_1", MethodType: "card", Brand: "visa", Network: "visa", Last4: "9995", ExpMonth: 4, ExpYear: 2031,
		Country: "DE", Funding: "credit", Fingerprint: "fp_1", Wallet: "apple_pay", CVCCheck: "pass", PostalCheck: "fail",
		AddressCheck: "unchecked", RequestOrigin: "api", Session: "off_session", ThreeDSecure: "failed:abandoned",
		ThreeDSecureFlow: "challenge", Moto: true, Locale: "de-AT",
		Addresses: &handler.Contact{Metadata: "meta@example.com", Receipt: "receipt@example.com", Billing: "payer@example.com"},
	}, onlyFact(t, []byte(failedCharge)))
}

func TestAFailedIntentGivesOneFact(t *testing.T) {
	t.Parallel()
	require.Equal(t, handler.Fact{
		PaymentKey: handler.PaymentKey{PaymentID: "pi_1", Source: "stripe", Account: "acct_shop", Livemode: true},
		EventID:    "evt_intent", APIVersion: "2024-06-20", EventType: "payment_intent.payment_failed", Created: 1772366400,
		Object: "payment_intent", ObjectID: "pi_1", Status: "requires_payment_method",
		PaymentIntent: "pi_1", Charge: "ch_1", LatestCharge: "ch_1", Customer: "cus_1", Invoice: "in_7", OrderReference: "in_7",
		Amount: 5400, Currency: "eur", ErrorCode: "card_declined", DeclineCode: "insufficient_funds", AdviceCode: "try_again_later",
		NetworkAdviceCode: "02", NetworkDeclineCode: "51", ErrorType: "card_error", ErrorMessage: "The card has not enough money.",
		ErrorParam: "number", ErrorDocURL: "https://stripe.com/docs/error-codes/card-declined", ErrorMethodType: "card",
		ErrorLogURL: "https://dashboard.stripe.com/logs/req_1", MethodID: "pm_1", MethodType: "card", MethodCreated: 1772000000,
		MethodSaved: "yes", Brand: "visa", Last4: "9995", ExpMonth: 4, ExpYear: 2031, Country: "DE", Funding: "credit",
		Fingerprint: "fp_1", PostalCheck: "fail", AddressCheck: "unchecked", RequestOrigin: "none", Session: "off_session",
		SetupFutureUsage: "off_session", Locale: "de-AT", ClientSecretHash: testOptions().HashClientSecret("pi_1_secret_SENTINEL"),
		Addresses: &handler.Contact{Metadata: "meta@example.com", Receipt: "receipt@example.com", Billing: "payer@example.com"},
	}, onlyFact(t, []byte(failedIntent)))
}

func TestNothingForbiddenSurvives(t *testing.T) {
	t.Parallel()
	for _, body := range []string{failedCharge, failedIntent, paidInvoice, expiredSession, updatedCustomer} {
		require.Contains(t, body, "SENTINEL")
		d, out := decode(t, []byte(body))
		require.Equal(t, Used, out.Use)
		require.NotContains(t, fmt.Sprintf("%+v %+v", d, out), "SENTINEL")
		kept, err := json.Marshal(d)
		require.NoError(t, err)
		require.NotContains(t, string(kept), "SENTINEL")
	}
}

const paidInvoice = `{"id":"evt_inv","type":"invoice.paid","created":1772366400,"livemode":true,"data":{"object":{
 "id":"in_1","object":"invoice","status":"paid","billing_reason":"subscription_cycle","customer":"cus_1","amount_due":900,"currency":"usd",
 "customer_email":"buyer@example.com","customer_name":"SENTINEL","hosted_invoice_url":"https://SENTINEL","payment_intent":"pi_1","charge":"ch_1"}}}`

const expiredSession = `{"id":"evt_cs","type":"checkout.session.expired","created":1772366400,"livemode":true,"data":{"object":{
 "id":"cs_1","object":"checkout.session","status":"expired","payment_intent":"pi_1","customer":null,"locale":"fr","url":"https://SENTINEL",
 "client_secret":"cs_SENTINEL","customer_details":{"email":"visitor@example.com","name":"SENTINEL"}}}}`

const updatedCustomer = `{"id":"evt_cus","type":"customer.updated","created":1772366400,"livemode":true,"data":{"object":{
 "id":"cus_1","object":"customer","created":1600000000,"email":"buyer@example.com","name":"SENTINEL","phone":"SENTINEL","preferred_locales":["pl","en"],
 "shipping":{"name":"SENTINEL"},"metadata":{"note":"SENTINEL"}},"previous_attributes":{"email":"SENTINEL"}}}`

// There may be no texts in the language that a customer likes best.
func TestACustomersNextLanguageIsKnownToo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ locales, wish, read string }{
		{`["ca","es-ES","fr"]`, "ca,es-ES,fr", "es"},
		{`["pt-BR"]`, "pt-BR", "pt-BR"},
		{`["",null,7,"de"]`, "de", "de"},
		{`[]`, "", "en"},
		{`null`, "", "en"},
		{`["xx","` + strings.Repeat("x", 300) + `"` + strings.Repeat(`,"yy"`, 1000) + `]`, "xx," + strings.Repeat("x", maxShort) + strings.Repeat(",yy", maxLocales-2), "en"},
	} {
		d, _ := decode(t, []byte(strings.Replace(updatedCustomer, `["pl","en"]`, c.locales, 1)))
		require.Equal(t, c.wish, d.Customer.Locale)
		require.Equal(t, c.read, decline.MatchLocale(d.Customer.Locale))
	}
}

func TestAnInvoiceSpeaksForItselfAndForItsPayment(t *testing.T) {
	t.Parallel()
	d, _ := decode(t, []byte(paidInvoice))
	require.Len(t, d.Facts, 2)
	own, payment := d.Facts[0], d.Facts[1]
	require.Equal(t, "in_1", own.PaymentID)
	require.Equal(t, "pi_1", payment.PaymentID)
	payment.PaymentID = own.PaymentID
	require.Equal(t, own, payment)
	require.Equal(t, "invoice", own.Object)
	require.Equal(t, "in_1", own.Invoice)
	require.Equal(t, "paid", own.Status)
	require.Equal(t, "subscription_cycle", own.BillingReason)
	require.Equal(t, "pi_1", own.PaymentIntent)
	require.Equal(t, &handler.Contact{Customer: "buyer@example.com"}, own.Addresses)

	for eventType, status := range invoiceStatus {
		d, _ := decode(t, with(t, paidInvoice, "type", eventType))
		require.Equal(t, status, d.Facts[0].Status, "the type decides, whatever the object says")
	}
	d, _ = decode(t, with(t, paidInvoice, "data.object.payment_intent", nil))
	require.Equal(t, "ch_1", d.Facts[1].PaymentID)
}

func TestAnInvoicePaymentTiesInvoiceAndPayment(t *testing.T) {
	t.Parallel()
	d, out := decode(t, []byte(`{"id":"evt_ip","type":"invoice_payment.paid","created":1772366400,"data":{"object":{"id":"inpay_1",
	 "invoice":"in_1","status":"paid","amount_paid":700,"currency":"usd","payment":{"type":"payment_intent","payment_intent":"pi_1"}}}}`))
	require.Equal(t, Used, out.Use)
	require.Len(t, d.Facts, 2)
	require.Equal(t, []string{"in_1", "pi_1"}, []string{d.Facts[0].PaymentID, d.Facts[1].PaymentID})
	require.Equal(t, []string{"in_1", "in_1"}, []string{d.Facts[0].Invoice, d.Facts[1].Invoice})
	require.Equal(t, "invoice", d.Facts[0].Object)
	require.Equal(t, "paid", d.Facts[0].Status)
}

func TestACheckoutSessionKnowsAddressAndLanguage(t *testing.T) {
	t.Parallel()
	f := onlyFact(t, []byte(expiredSession))
	require.Equal(t, "pi_1", f.PaymentID)
	require.Equal(t, "checkout_session", f.Object)
	require.Equal(t, "fr", f.SessionLocale)
	require.Empty(t, f.Locale, "which is the merchant's own word")
	require.Equal(t, &handler.Contact{Customer: "visitor@example.com"}, f.Addresses)
	require.Nil(t, f.ClientSecretHash, "a session's secret is no intent's")

	d, out := decode(t, with(t, expiredSession, "data.object.payment_intent", nil))
	require.Equal(t, Ignored, out.Use)
	require.Empty(t, d)
}

func TestACustomerEventGivesARecord(t *testing.T) {
	t.Parallel()
	d, _ := decode(t, []byte(updatedCustomer))
	want := &handler.Customer{CustomerID: "cus_1", Source: "stripe", Livemode: true, Created: 1600000000, RecordCreated: 1772366400,
		RecordEvent: "evt_cus", Email: "buyer@example.com", Locale: "pl,en"}
	require.Equal(t, want, d.Customer)
	require.Empty(t, d.Facts)
	d, _ = decode(t, with(t, updatedCustomer, "type", "customer.deleted"))
	want.Deleted = true
	require.Equal(t, want, d.Customer)
}

func TestEnvelopesOfEveryAge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, path string
		value      any
		check      func(*testing.T, handler.Fact)
	}{
		{"request is an id until 2017", "request", "iar_1", func(t *testing.T, f handler.Fact) { require.Equal(t, "api", f.RequestOrigin) }},
		{"request is null", "request", nil, func(t *testing.T, f handler.Fact) { require.Equal(t, "none", f.RequestOrigin) }},
		{"request has a null id", "request", tree{"id": nil}, func(t *testing.T, f handler.Fact) { require.Equal(t, "none", f.RequestOrigin) }},
		{"request has an empty id", "request", tree{"id": ""}, func(t *testing.T, f handler.Fact) { require.Equal(t, "none", f.RequestOrigin) }},
		{"account is null", "account", nil, func(t *testing.T, f handler.Fact) { require.Empty(t, f.Account) }},
		{"account is expanded", "account", tree{"id": "acct_2"}, func(t *testing.T, f handler.Fact) { require.Equal(t, "acct_2", f.Account) }},
		{"version has a suffix", "api_version", "2016-03-07; orders_beta=v3", func(t *testing.T, f handler.Fact) { require.Equal(t, "2016-03-07; orders_beta=v3", f.APIVersion) }},
		{"version is null", "api_version", nil, func(t *testing.T, f handler.Fact) { require.Empty(t, f.APIVersion) }},
		{"created is a whole number in another spelling", "created", json.RawMessage("1.7723664e9"), func(t *testing.T, f handler.Fact) { require.EqualValues(t, 1772366400, f.Created) }},
		{"created is RFC 3339", "created", "2026-03-01T12:00:00.5Z", func(t *testing.T, f handler.Fact) { require.EqualValues(t, 1772366400, f.Created) }},
		{"created is null: now", "created", nil, func(t *testing.T, f handler.Fact) { require.Equal(t, testNow.Unix(), f.Created) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := onlyFact(t, with(t, failedCharge, c.path, c.value))
			c.check(t, f)
			require.Equal(t, "insufficient_funds", f.OutcomeReason)
		})
	}
	without := func(member string) handler.Fact {
		v := parse(t, failedCharge)
		delete(v, member)
		return onlyFact(t, render(t, v))
	}
	require.Empty(t, without("request").RequestOrigin, "the envelope does not say")
	require.Empty(t, onlyFact(t, with(t, failedCharge, "request", tree{"idempotency_key": nil})).RequestOrigin)
	d, out := decode(t, with(t, failedCharge, "request.id", 7))
	require.Empty(t, d.Facts[0].RequestOrigin, "an id of the wrong kind does not say that Stripe acted by itself")
	require.Equal(t, []string{"event.request"}, out.Misfits)
	require.Empty(t, without("account").Account)
	require.True(t, without("livemode").Livemode, "the object says it too")
	require.Equal(t, "ch_1", without("object").Charge)
	old := parse(t, failedCharge)
	delete(old, "account")
	old["user_id"] = "acct_old"
	require.Equal(t, "acct_old", onlyFact(t, render(t, old)).Account)
}

func TestAnOrganizationsEventIsOfTheAccountInItsContext(t *testing.T) {
	t.Parallel()
	account := func(account, context any) string {
		v := parse(t, failedCharge)
		v["account"], v["context"] = account, context
		return onlyFact(t, render(t, v)).Account
	}
	require.Equal(t, "acct_shop", account(nil, "acct_shop"), "or it would be written for in another shop's name")
	require.Equal(t, "acct_child", account(nil, "acct_shop/acct_child"))
	require.Equal(t, "acct_child", account("acct_child", "acct_shop"), "an account is what it says")
	require.Empty(t, account(nil, nil))
	require.Empty(t, account(nil, "org_1"))

	v := parse(t, failedCharge)
	v["account"], v["context"] = nil, 7
	_, out := decode(t, render(t, v))
	require.Equal(t, "unreadable_account", out.Reason)
}

func TestUnreadableBodiesAreErrors(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty": "", "null": "null", "no members": "{}", "list": "[]", "text": `"evt_1"`, "number": "1", "not JSON": "hello",
		"cut off": failedCharge[:len(failedCharge)-3], "two documents": failedCharge + failedCharge, "no id": `{"type":"charge.failed","data":{}}`,
		"no type": `{"id":"evt_1","data":{}}`, "id of the wrong kind": `{"id":7,"type":"charge.failed"}`, "other case": `{"ID":"evt_1","TYPE":"charge.failed"}`,
		"byte order mark": "\ufeff" + failedCharge, "deep": `{"id":"evt_1","type":"x","data":` + strings.Repeat("[", 20000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _, err := DecodeStripe([]byte(body), testOptions())
			require.ErrorIs(t, err, ErrUnreadable)
			require.Empty(t, d)
		})
	}
}

func TestAUsedTypeWithoutItsObjectIsQuarantined(t *testing.T) {
	t.Parallel()
	for reason, body := range map[string][]byte{
		"no_object":          []byte(`{"id":"evt_1","type":"charge.failed","created":1}`),
		"no_object_id":       with(t, failedCharge, "data.object.id", 7),
		"unreadable_account": with(t, failedCharge, "account", 7),
	} {
		d, out := decode(t, body)
		require.Equal(t, Quarantined, out.Use)
		require.Equal(t, reason, out.Reason)
		require.Empty(t, d.Facts)
		require.Equal(t, &handler.Quarantined{Source: "stripe", EventID: out.EventID, EventType: "charge.failed", Reason: reason, Body: body}, d.Quarantine)
	}
	body := []byte(`{"id":"evt_1","type":"charge.failed","data":{"object":null}}`)
	d, _ := decode(t, body)
	copy(body, bytes.Repeat([]byte("x"), len(body)))
	require.Contains(t, string(d.Quarantine.Body), "evt_1", "the body's buffer is used again")
}

func TestOtherTypesAreIgnored(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"id":"evt_1","type":"ping"}`,
		`{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","created":"2026-03-01T12:00:00Z","related_object":{"id":"mtr_1"}}`,
		`{"id":"evt_1","type":"charge.pending","created":1,"data":{"object":{"id":"ch_1"}}}`,
		`{"id":"evt_1","type":"setup_intent.setup_failed","data":{"object":{"id":7,"amount":"x"}}}`,
		`{"id":"evt_1","type":"Charge.Failed","data":{"object":{"id":"ch_1"}}}`,
	} {
		d, out := decode(t, []byte(body))
		require.Equal(t, Ignored, out.Use)
		require.Empty(t, d)
		require.Empty(t, out.Misfits)
		require.Equal(t, "evt_1", out.EventID)
	}
}

func TestTheTypeDecidesNotTheObject(t *testing.T) {
	t.Parallel()
	f := onlyFact(t, with(t, failedCharge, "data.object.status", "succeeded"))
	require.Equal(t, "charge.failed", f.EventType)
	require.Equal(t, "ch_1", f.Charge)

	for _, eventType := range []string{"payment_intent.requires_action", "payment_intent.processing", "payment_intent.canceled", "payment_intent.amount_capturable_updated"} {
		f := onlyFact(t, with(t, failedIntent, "type", eventType))
		require.Equal(t, eventType, f.EventType)
		require.Empty(t, f.ErrorCode+f.DeclineCode+f.Charge+f.ErrorMessage, "the error is an earlier attempt's")
		require.NotNil(t, f.ClientSecretHash)
	}
}

func TestCardDataIsFoundInEachOfItsPlaces(t *testing.T) {
	t.Parallel()
	charge := func(members string) []byte {
		return []byte(`{"id":"evt_1","type":"charge.failed","created":1772366400,"data":{"object":{"id":"ch_1",` + members + `}}}`)
	}
	f := onlyFact(t, charge(`"card":{"object":"card","type":"American Express","last4":"0005","exp_month":9,"exp_year":2013,"cvc_check":"pass","country":"US","fingerprint":"fp_2012"}`))
	require.Equal(t, []string{"ch_1", "card", "amex", "0005", "US", "fp_2012", ""},
		[]string{f.PaymentID, f.MethodType, f.Brand, f.Last4, f.Country, f.Fingerprint, f.CVCCheck}, "a card of 2012; its CVC result is old")

	f = onlyFact(t, charge(`"payment_intent":null,"source":{"id":"card_1","object":"card","brand":"MasterCard","last4":"4444","funding":"debit","address_zip_check":"fail","tokenization_method":"android_pay","customer":"cus_1"}`))
	require.Equal(t, []string{"card_1", "card", "mastercard", "4444", "debit", "fail", "android_pay"},
		[]string{f.MethodID, f.MethodType, f.Brand, f.Last4, f.Funding, f.PostalCheck, f.Wallet})

	f = onlyFact(t, charge(`"source":{"id":"src_1","object":"source","type":"sepa_debit","owner":{"email":"o@example.com"},"sepa_debit":{"last4":"3000","country":"DE","fingerprint":"fp_s"}}`))
	require.Equal(t, []string{"src_1", "sepa_debit", "3000", "DE", "fp_s", "o@example.com"},
		[]string{f.MethodID, f.MethodType, f.Last4, f.Country, f.Fingerprint, f.Addresses.Billing})

	f = onlyFact(t, charge(`"payment_method_details":{"type":"card_present","card_present":{"brand":"visa","last4":"1111"}},"payment_method":{"id":"pm_x","type":"card_present","billing_details":{"email":"b@example.com"}}`))
	require.Equal(t, []string{"pm_x", "card_present", "visa", "1111", "b@example.com"}, []string{f.MethodID, f.MethodType, f.Brand, f.Last4, f.Addresses.Billing})

	f = onlyFact(t, charge(`"source":{"id":"src_3","object":"source","type":"three_d_secure","three_d_secure":{"card":"src_1","brand":"Visa","last4":"3063","three_d_secure":"required"}}`))
	require.Equal(t, []string{"src_3", "three_d_secure", "visa", "3063", ""}, []string{f.MethodID, f.MethodType, f.Brand, f.Last4, f.ThreeDSecure})

	f = onlyFact(t, charge(`"source":"src_2","fraud_details":[],"metadata":[],"refunds":[],"payment_method_details":{"type":"card","card":{"three_d_secure":{"authenticated":false,"succeeded":false,"version":"1.0.2"}}}`))
	require.Equal(t, []string{"src_2", "failed"}, []string{f.MethodID, f.ThreeDSecure}, "empty lists for objects: data that went through PHP")
}

func TestTheCardBehindAWalletIsRead(t *testing.T) {
	t.Parallel()
	const card = `{"brand":"visa","country":"US","exp_month":4,"exp_year":2031,"funding":"credit","last4":"4242"}`
	for kind, wallet := range map[string]string{
		"amazon_pay":  `{"funding":{"card":` + card + `,"type":"card"},"transaction_id":"t"}`,
		"revolut_pay": `{"funding":{"type":"card","card":` + card + `}}`,
		"mobilepay":   `{"card":` + card + `}`,
	} {
		f := onlyFact(t, with(t, failedCharge, "data.object.payment_method_details", json.RawMessage(`{"type":"`+kind+`","`+kind+`":`+wallet+`}`)))
		require.Equal(t, []any{kind, "visa", "US", "4242", "credit", int64(4), int64(2031)},
			[]any{f.MethodType, f.Brand, f.Country, f.Last4, f.Funding, f.ExpMonth, f.ExpYear})
	}
	f := onlyFact(t, with(t, failedCharge, "data.object.payment_method_details", json.RawMessage(`{"type":"naver_pay","naver_pay":{"funding":"points"}}`)))
	require.Equal(t, []string{"naver_pay", "points", ""}, []string{f.MethodType, f.Funding, f.Last4})
	f = onlyFact(t, with(t, failedCharge, "data.object.payment_method_details", json.RawMessage(`{"type":"amazon_pay","amazon_pay":{"funding":{"card":null,"type":null}}}`)))
	require.Equal(t, []string{"amazon_pay", "", ""}, []string{f.MethodType, f.Funding, f.Last4})
}

func TestAnIntentTakesWhatItsOwnChargeSays(t *testing.T) {
	t.Parallel()
	const inner = `{"id":"ch_1","created":1772366399,"status":"failed","payment_method":"pm_1","invoice":"in_9","failure_code":"card_declined","receipt_email":"r@example.com",
	 "billing_details":{"email":"b@example.com"},"outcome":{"type":"blocked","reason":"highest_risk_level"},
	 "payment_method_details":{"type":"card","card":{"last4":"0019","checks":{"cvc_check":"fail"}}}}`
	intent := func(eventType, members string) handler.Fact {
		return onlyFact(t, []byte(`{"id":"evt_1","type":"`+eventType+`","created":1772366400,"data":{"object":{"id":"pi_1",`+members+`}}}`))
	}
	const failed = "payment_intent.payment_failed"
	list := `"charges":{"object":"list","data":[` + inner + `,{"id":"ch_0"}]}`

	for name, c := range map[string]struct {
		fact handler.Fact
		own  bool
	}{
		"named by the error":            {intent(failed, list+`,"last_payment_error":{"code":"card_declined","charge":"ch_1"}`), true},
		"expanded latest charge":        {intent(failed, `"latest_charge":`+inner+`,"last_payment_error":{"charge":{"id":"ch_1"}}`), true},
		"same method, same minute":      {intent(failed, list+`,"last_payment_error":{"code":"card_declined","payment_method":{"id":"pm_1","customer":null}}`), true},
		"no error at all":               {intent(failed, list+`,"last_payment_error":null`), true},
		"another charge named":          {intent(failed, list+`,"last_payment_error":{"charge":"ch_2"}`), false},
		"another method":                {intent(failed, list+`,"last_payment_error":{"code":"card_declined","payment_method":{"id":"pm_2"}}`), false},
		"failed before a charge":        {intent(failed, list+`,"last_payment_error":{"code":"payment_intent_authentication_failure","payment_method":{"id":"pm_1"}}`), false},
		"an older charge listed":        {intent(failed, `"latest_charge":"ch_5",`+list), false},
		"the intent waits":              {intent("payment_intent.requires_action", list), false},
		"succeeded with a later charge": {intent("payment_intent.succeeded", `"latest_charge":"ch_5",`+list), false},
	} {
		if c.own {
			require.Equal(t, []string{"highest_risk_level", "0019", "fail", "b@example.com"},
				[]string{c.fact.OutcomeReason, c.fact.Last4, c.fact.CVCCheck, c.fact.Addresses.Billing}, name)
		} else {
			require.Empty(t, c.fact.OutcomeType+c.fact.Last4+c.fact.CVCCheck, name)
		}
		require.NotEmpty(t, c.fact.LatestCharge, name)
	}
	saved := func(customer string) string {
		return intent(failed, `"last_payment_error":{"payment_method":{"id":"pm_1"`+customer+`}}`).MethodSaved
	}
	require.Equal(t, []string{"yes", "no", ""}, []string{saved(`,"customer":"cus_1"`), saved(`,"customer":null`), saved("")})

	f := intent(failed, `"last_payment_error":{"code":"card_declined","source":{"id":"card_1","object":"card","brand":"Visa","last4":"0002","customer":null}}`)
	require.Equal(t, []string{"card_1", "visa", "0002", "no", ""}, []string{f.MethodID, f.Brand, f.Last4, f.MethodSaved, f.Charge}, "2018")
	f = intent("payment_intent.succeeded", `"charges":{"data":[{"id":"ch_1","status":"succeeded","payment_method_details":{"card":{"last4":"4242"}}}]},"payment_method":"pm_1"`)
	require.Equal(t, []string{"ch_1", "4242", "pm_1"}, []string{f.LatestCharge, f.Last4, f.MethodID})
}

func TestOrderReferencesThatAreNoInvoice(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{"cs_test_1", "order 7", "invoice_in_1"} {
		f := onlyFact(t, with(t, failedIntent, "data.object.payment_details.order_reference", ref))
		require.Empty(t, f.Invoice)
		require.Equal(t, strings.ReplaceAll(ref, " ", "_"), f.OrderReference)
	}
	f := onlyFact(t, with(t, failedIntent, "data.object.payment_details.order_reference", "pay_by 4242 4242 4242 4242"))
	require.Regexp(t, `^pay_by_\*{4}_\*{4}_\*{4}_4242~[0-9a-f]{32}$`, f.OrderReference, "a merchant may write anything there")
}

func TestNamesAreReadExactlyAndTheLastOfEqualOnesWins(t *testing.T) {
	t.Parallel()
	f := onlyFact(t, []byte(`{"id":"evt_0","ID":"evt_9","\u0069d":"evt_1","type":"charge.failed","created":5,"data":{"object":{"id":"ch_0","Id":"ch_9","id":"ch_1","Amount":9,"amount":7}}}`))
	require.Equal(t, "evt_1", f.EventID)
	require.Equal(t, "ch_1", f.Charge)
	require.EqualValues(t, 7, f.Amount)
}

func TestTextsAreMadeSafe(t *testing.T) {
	t.Parallel()
	message := func(raw string) (string, Outcome) {
		d, out := decode(t, []byte(strings.Replace(failedCharge, `"The card has not enough money."`, raw, 1)))
		return d.Facts[0].ErrorMessage, out
	}
	for raw, want := range map[string]string{
		`"a\u0000b"`:        "a\uFFFDb",
		`"a\ud800b"`:        "a\uFFFDb",
		"\"a\xffb\"":        "a\uFFFDb",
		`"a\r\n\tb"`:        "a   b",
		`"zażółć"`:          "zażółć",
		`"\ud83d\ude00 ok"`: "😀 ok",
	} {
		got, out := message(raw)
		require.Equal(t, want, got)
		require.Empty(t, out.Misfits)
	}
	long, _ := message(`"` + strings.Repeat("é", 600) + `"`)
	require.Equal(t, strings.Repeat("é", 250), long)

	got, out := message(`"Invalid email address: bob.o'hara+1@mail.example.com. It\u0040is@wrong"`)
	require.Equal(t, "Invalid email address: … …", got, "addresses are kept sealed or not at all")
	got, _ = message(`"No such payment_intent: pi_1_secret_Abc9."`)
	require.Equal(t, "No such payment_intent: ….", got)
	require.Empty(t, out.Misfits)

	got, out = message(`"card 4242 4242 4242 4242 of 5555555555554444, order 4242424242424243"`)
	require.Equal(t, "card **** **** **** 4242 of ************4444, order 4242424242424243", got)
	require.Equal(t, 2, out.Masked)
	got, _ = message(`"4242424242424242 99"`)
	require.Equal(t, "************4242 99", got, "beside another number")
	for raw, want := range map[string]string{
		"4242 4242 4242 4242 12/29 123":           "**** **** **** 4242 12/29 123",
		"7 4242-4242-4242-4242 123":               "7 ****-****-****-4242 123",
		"3782 822463 10005 09/27":                 "**** ****** *0005 09/27",
		"4242 4242 4242 4242 5555 5555 5555 4444": "**** **** **** 4242 **** **** **** 4444",
		"order 2026 1001 77":                      "order 2026 1001 77",
		"4242\u00a04242\u202f4242\u20094242":      "****\u00a0****\u202f****\u20094242",
		"4222222222222 014":                       "************2 014",
		"4242\u20134242\u20114242\u22124242":      "****\u2013****\u2011****\u22124242",
		"order 103 5555 5555 5555 4444":           "order *** **** **** **** 4444",
	} {
		got, _ = message(`"` + raw + `"`)
		require.Equal(t, want, got, "what follows or precedes a card number does not hide it")
	}
	got, _ = message(`"0000000000000000"`)
	require.Equal(t, "0000000000000000", got, "no card number begins with 0")
}

func TestAnAddressIsNotMadeSomebodyElses(t *testing.T) {
	t.Parallel()
	const phone = "8613800138002@mail.example" // passes for a card number
	require.True(t, cardNumber(phone[:13], 13))
	body := with(t, failedCharge, "data.object.receipt_email", phone)
	body = with(t, string(body), "data.object.billing_details.email", phone)
	f := onlyFact(t, with(t, string(body), "data.object.metadata.email", phone))
	require.Equal(t, &handler.Contact{Metadata: phone, Receipt: phone, Billing: phone}, f.Addresses)
	d, _ := decode(t, with(t, updatedCustomer, "data.object.email", phone))
	require.Equal(t, phone, d.Customer.Email)
}

func TestIdsStayDistinctAndWhole(t *testing.T) {
	t.Parallel()
	id := func(s string) string {
		return onlyFact(t, with(t, failedCharge, "id", s)).EventID
	}
	require.Equal(t, "evt_00000000000000", id("evt_00000000000000"))
	require.Equal(t, "evt_4242424242424242", id("evt_4242424242424242"))
	require.Regexp(t, `^\*{12}4242~[0-9a-f]{32}$`, id("4242424242424242"))
	require.Equal(t, "evt_a_b", id("evt_a\nb"))
	a, b := id("evt_"+strings.Repeat("a", 3000)+"1"), id("evt_"+strings.Repeat("a", 3000)+"2")
	require.NotEqual(t, a, b)
	require.LessOrEqual(t, len(a), maxID)
	require.True(t, strings.HasPrefix(a, "evt_aaa"))
}

// A success under an order reference withdraws what would be mailed of a failure under the same.
func TestOrdersWhoseNumbersLookLikeCardNumbersStayApart(t *testing.T) {
	t.Parallel()
	reference := func(s string) string {
		return onlyFact(t, with(t, failedIntent, "data.object.payment_details.order_reference", s)).OrderReference
	}
	one, other := "1772366400003", "1773316800003" // moments in milliseconds
	for _, order := range []string{one, other} {
		require.True(t, cardNumber(order, len(order)))
		require.NotContains(t, reference(order), order)
		require.Equal(t, reference(order), reference(order))
	}
	require.NotEqual(t, reference(one), reference(other))
}

func TestNumbersOutOfBoundsAreMisfits(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"-1", "1.5", "1e400", "1e200000", "9223372036854775808", "99999999999999999999", "2000000000000000", "1e16"} {
		d, out := decode(t, with(t, failedCharge, "data.object.amount", json.RawMessage(raw)))
		require.Zero(t, d.Facts[0].Amount)
		require.Equal(t, []string{"amount"}, out.Misfits)
	}
	for raw, want := range map[string]int64{"5e1": 50, "5.0": 5, "-0": 0, "0.5e1": 5, "999999999999": 999999999999} {
		require.Equal(t, want, onlyFact(t, with(t, failedCharge, "data.object.amount", json.RawMessage(raw))).Amount)
	}
	for raw, want := range map[string]int64{`"5400"`: 5400, `"0"`: 0} {
		require.Equal(t, want, onlyFact(t, with(t, failedCharge, "data.object.amount", json.RawMessage(raw))).Amount, "written as a text")
	}
	for _, raw := range []string{`"54.00"`, `"5,400"`, `"5e3"`, `" 5400"`, `"-1"`, `"99999999999999999999"`, `""`, `"\u0665"`} {
		d, out := decode(t, with(t, failedCharge, "data.object.amount", json.RawMessage(raw)))
		require.Zero(t, d.Facts[0].Amount, raw)
		require.Equal(t, []string{"amount"}, out.Misfits, raw)
	}
	require.EqualValues(t, 1772366400, onlyFact(t, with(t, failedCharge, "created", "1772366400")).Created)
	for _, created := range []any{json.RawMessage("1e13"), -5, json.RawMessage("4102444801"), "soon", "4102444801", "-5"} {
		d, out := decode(t, with(t, failedCharge, "created", created))
		require.Equal(t, testNow.Unix(), d.Facts[0].Created)
		require.Equal(t, []string{"event.created"}, out.Misfits)
	}
}

func BenchmarkDecodeStripe(b *testing.B) {
	// As long as Stripe writes it: indented, with the members that we skip.
	v := parse(b, failedIntent)
	in, _ := at(b, v, "data.object.id")
	for i := range 30 {
		in[fmt.Sprintf("unused_member_%d", i)] = nil
	}
	body, err := json.MarshalIndent(v, "", "  ")
	require.NoError(b, err)
	b.SetBytes(int64(len(body)))
	opts := testOptions()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeStripe(body, opts); err != nil {
			b.Fatal(err)
		}
	}
}

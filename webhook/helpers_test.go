package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	stripewebhook "github.com/stripe/stripe-go/v79/webhook"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/handler"
)

const testSecret = "whsec_a_secret_of_this_test_only"

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions() DecodeOptions {
	return DecodeOptions{
		SessionKey: "session", EmailKey: "email", LocaleKey: "locale",
		HashClientSecret: func(s string) []byte { h := sha256.Sum256([]byte("key" + s)); return h[:] },
		Now:              func() time.Time { return testNow },
	}
}

// recorded is a Recorder that remembers, or fails as it is told.
type recorded struct {
	mu         sync.Mutex
	deliveries []handler.Delivery
	fail       func(ctx context.Context) error
}

func (r *recorded) Record(ctx context.Context, d handler.Delivery) error {
	if r.fail != nil {
		if err := r.fail(ctx); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, d)
	return nil
}

func (r *recorded) all() []handler.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]handler.Delivery(nil), r.deliveries...)
}

// door is an endpoint mounted on a real Echo behind a real HTTP server with our limits.
type door struct {
	url      string
	stripe   *Stripe
	recorder *recorded
	metrics  *prometheus.Registry
	logs     *observer.ObservedLogs
}

func openDoor(t *testing.T, change ...func(*StripeConfig)) *door {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	d := &door{recorder: &recorded{}, metrics: prometheus.NewRegistry(), logs: logs}
	c := StripeConfig{
		Secrets: []string{testSecret}, Recorder: d.recorder, Decode: testOptions(),
		Now: func() time.Time { return testNow }, Log: zap.New(core), Metrics: d.metrics,
	}
	for _, f := range change {
		f(&c)
	}
	s, err := NewStripe(c)
	require.NoError(t, err)
	e := echo.New()
	s.Register(e)
	server := httptest.NewUnstartedServer(e)
	ServerLimits(server.Config)
	server.Start()
	t.Cleanup(server.Close)
	d.url, d.stripe = server.URL+StripePath, s
	return d
}

func sign(body []byte, at time.Time, secret string) string {
	return stripewebhook.GenerateTestSignedPayload(&stripewebhook.UnsignedPayload{Payload: body, Secret: secret, Timestamp: at}).Header
}

// tree is a JSON document that a test may change before it is written.
type tree = map[string]any

func parse(t testing.TB, s string) tree {
	t.Helper()
	var v tree
	require.NoError(t, json.Unmarshal([]byte(s), &v))
	return v
}

func render(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// at finds the object that holds the last part of path, and that part's name.
func at(t testing.TB, v tree, path string) (tree, string) {
	t.Helper()
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := v[p].(tree)
		require.True(t, ok, "no object at %s of %s", p, path)
		v = next
	}
	return v, parts[len(parts)-1]
}

func with(t testing.TB, s, path string, value any) []byte {
	t.Helper()
	v := parse(t, s)
	in, name := at(t, v, path)
	in[name] = value
	return render(t, v)
}

func decode(t testing.TB, body []byte) (handler.Delivery, Outcome) {
	t.Helper()
	d, out, err := DecodeStripe(body, testOptions())
	require.NoError(t, err)
	return d, out
}

// onlyFact decodes body, which gives one fact and no misfit.
func onlyFact(t testing.TB, body []byte) handler.Fact {
	t.Helper()
	d, out := decode(t, body)
	require.Equal(t, Used, out.Use)
	require.Empty(t, out.Misfits)
	require.Len(t, d.Facts, 1)
	return d.Facts[0]
}

// failedCharge is a card decline as a version of 2024 reports it.
const failedCharge = `{
 "id":"evt_charge","object":"event","api_version":"2024-06-20","created":1772366400,"livemode":true,"account":"acct_shop",
 "pending_webhooks":1,"request":{"id":"req_1","idempotency_key":"SENTINEL-idempotency"},"type":"charge.failed",
 "data":{"object":{
  "id":"ch_1","object":"charge","amount":5400,"amount_captured":0,"created":1772366398,"currency":"EUR","customer":"cus_1",
  "description":"SENTINEL-description","invoice":"in_1","livemode":true,"paid":false,"status":"failed",
  "failure_code":"card_declined","failure_message":"The card has not enough money.",
  "fraud_details":{"stripe_report":"fraudulent"},
  "billing_details":{"email":"payer@example.com","name":"SENTINEL-name","phone":"SENTINEL-phone","address":{"line1":"SENTINEL-street","country":"DE"}},
  "receipt_email":"receipt@example.com","receipt_url":"https://SENTINEL-receipt",
  "metadata":{"session":"off_session","email":"meta@example.com","locale":"de-AT","note":"SENTINEL-metadata"},
  "outcome":{"type":"issuer_declined","reason":"insufficient_funds","network_status":"declined_by_network","risk_level":"normal",
   "risk_score":17,"rule":{"id":"SENTINEL-rule"},"seller_message":"SENTINEL-seller","advice_code":"try_again_later",
   "network_advice_code":"02","network_decline_code":"51"},
  "payment_intent":"pi_1","payment_method":"pm_1",
  "payment_method_details":{"type":"card","card":{"brand":"visa","network":"visa","country":"DE","exp_month":4,"exp_year":2031,
   "fingerprint":"fp_1","funding":"credit","last4":"9995","moto":true,"iin":"SENTINEL-iin","authorization_code":"SENTINEL-auth",
   "network_transaction_id":"SENTINEL-nti","wallet":{"type":"apple_pay","dynamic_last4":"SENTINEL-dynamic"},
   "checks":{"cvc_check":"pass","address_postal_code_check":"fail","address_line1_check":"unchecked"},
   "three_d_secure":{"result":"failed","result_reason":"abandoned","authentication_flow":"challenge","transaction_id":"SENTINEL-3ds"}}},
  "shipping":{"name":"SENTINEL-shipping","address":{"line1":"SENTINEL-ship-street"}},"source":null
 }}}`

// failedIntent is the same decline as its intent reports it.
const failedIntent = `{
 "id":"evt_intent","object":"event","api_version":"2024-06-20","created":1772366400,"livemode":true,"account":"acct_shop",
 "request":{"id":null,"idempotency_key":null},"type":"payment_intent.payment_failed",
 "data":{"object":{
  "id":"pi_1","object":"payment_intent","amount":5400,"client_secret":"pi_1_secret_SENTINEL","created":1772366390,"currency":"eur",
  "customer":"cus_1","description":"SENTINEL-description","invoice":null,"latest_charge":"ch_1","livemode":true,
  "last_payment_error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds","charge":"ch_1",
   "advice_code":"try_again_later","network_advice_code":"02","network_decline_code":"51","param":"number",
   "message":"The card has not enough money.","doc_url":"https://stripe.com/docs/error-codes/card-declined",
   "request_log_url":"https://dashboard.stripe.com/logs/req_1","payment_method_type":"card","user_message":"SENTINEL-user-message",
   "payment_method":{"id":"pm_1","object":"payment_method","type":"card","created":1772000000,"customer":"cus_1",
    "billing_details":{"email":"payer@example.com","name":"SENTINEL-name","phone":null,"address":{"line1":"SENTINEL-street"}},
    "metadata":{"last4":"SENTINEL-last4"},
    "card":{"brand":"visa","country":"DE","exp_month":4,"exp_year":2031,"fingerprint":"fp_1","funding":"credit","last4":"9995",
     "checks":{"cvc_check":"pass","address_postal_code_check":"fail","address_line1_check":"unchecked"},"wallet":null}}},
  "metadata":{"session":"off_session","email":"meta@example.com","locale":"de-AT","note":"SENTINEL-metadata"},
  "next_action":{"type":"redirect_to_url","redirect_to_url":{"url":"https://SENTINEL-next-action"}},
  "payment_details":{"order_reference":"in_7","customer_reference":"SENTINEL-reference"},
  "payment_method":null,"payment_method_options":{"card":{"setup_future_usage":"on_session","request_three_d_secure":"automatic"}},
  "receipt_email":"receipt@example.com","setup_future_usage":"off_session",
  "shipping":{"name":"SENTINEL-shipping"},"statement_descriptor":"SENTINEL-descriptor","status":"requires_payment_method"
 }}}`

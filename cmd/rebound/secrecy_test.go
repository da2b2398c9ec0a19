package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/notify/email/smtptest"
	"rebound/store/storetest"
)

// indiscreetEvents are of a failed payment whose every member that may not be kept says FORBIDDEN, with a card number here and
// there, and addresses of hidden.example.
func indiscreetEvents(n int, now int64) [][]byte {
	method := fmt.Sprintf(`{"id":"pm_%[1]d","object":"payment_method","type":"card","created":1700000000,"customer":"cus_%[1]d",
	 "billing_details":{"email":"billing@hidden.example","name":"FORBIDDEN","phone":"FORBIDDEN","address":{"line1":"FORBIDDEN","postal_code":"FORBIDDEN"},"tax_id":"FORBIDDEN"},
	 "metadata":{"x":"FORBIDDEN"},"card":{"brand":"visa","last4":"0341","exp_month":4,"exp_year":2031,"fingerprint":"fp_%[1]d","country":"US","funding":"credit",
	 "iin":"FORBIDDEN","description":"FORBIDDEN","issuer":"FORBIDDEN","checks":{"cvc_check":null},"wallet":null,"generated_from":{"charge":"FORBIDDEN"}}}`, n)
	charge := fmt.Sprintf(`{"id":"ch_%[1]d","object":"charge","amount":5400,"currency":"eur","created":%[2]d,"customer":"cus_%[1]d","livemode":false,"status":"failed",
	 "authorization_code":"FORBIDDEN","calculated_statement_descriptor":"FORBIDDEN","description":"FORBIDDEN 4242 4242 4242 4242 12/29","statement_descriptor":"FORBIDDEN",
	 "failure_code":"card_declined","failure_message":"The card 4242424242424242 of payer@hidden.example was declined.",
	 "billing_details":{"email":"billing@hidden.example","name":"FORBIDDEN","phone":"FORBIDDEN","address":{"line1":"FORBIDDEN"}},
	 "receipt_email":"receipt@hidden.example","receipt_url":"https://FORBIDDEN","receipt_number":"FORBIDDEN","fraud_details":{"user_report":"FORBIDDEN"},
	 "metadata":{"note":"FORBIDDEN","email":"metadata@hidden.example"},"transfer_group":"FORBIDDEN","shipping":{"name":"FORBIDDEN","address":{"line1":"FORBIDDEN"}},
	 "outcome":{"type":"issuer_declined","reason":"insufficient_funds","network_status":"declined_by_network","risk_level":"normal","risk_score":7,
	  "rule":{"id":"FORBIDDEN","predicate":"FORBIDDEN"},"seller_message":"FORBIDDEN"},
	 "payment_intent":"pi_%[1]d","payment_method":"pm_%[1]d","payment_method_details":{"type":"card","card":{"brand":"visa","network":"visa","last4":"0341","exp_month":4,"exp_year":2031,
	  "fingerprint":"fp_%[1]d","country":"US","funding":"credit","iin":"FORBIDDEN","authorization_code":"FORBIDDEN","network_transaction_id":"FORBIDDEN",
	  "three_d_secure":{"transaction_id":"FORBIDDEN","cryptogram":"FORBIDDEN"},"network_token":{"used":true,"token":"FORBIDDEN"},"wallet":null}}}`, n, now)
	intent := fmt.Sprintf(`{"id":"pi_%[1]d","object":"payment_intent","amount":5400,"currency":"eur","created":%[2]d,"customer":"cus_%[1]d","livemode":false,
	 "status":"requires_payment_method","client_secret":"pi_%[1]d_secret_FORBIDDEN","description":"FORBIDDEN","latest_charge":"ch_%[1]d",
	 "charges":{"data":[%[4]s],"url":"/v1/FORBIDDEN"},"next_action":{"type":"redirect_to_url","redirect_to_url":{"url":"https://FORBIDDEN"}},
	 "last_payment_error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds","charge":"ch_%[1]d","user_message":"FORBIDDEN",
	  "message":"Your card 4242 4242 4242 4242 12/29 has insufficient funds, payer@hidden.example.","doc_url":"https://stripe.com/docs/error-codes/card-declined",
	  "payment_intent":{"client_secret":"FORBIDDEN"},"payment_method":%[3]s},
	 "metadata":{"note":"FORBIDDEN","email":"metadata@hidden.example"},"receipt_email":"receipt@hidden.example","shipping":{"name":"FORBIDDEN","phone":"FORBIDDEN"},
	 "payment_details":{"order_reference":"pay_by 4242 4242 4242 4242","customer_reference":"FORBIDDEN"},"statement_descriptor":"FORBIDDEN","transfer_group":"FORBIDDEN"}`,
		n, now, method, charge)
	event := func(kind, eventType, object string) []byte {
		return fmt.Appendf(nil, `{"id":"evt_%s_%d","object":"event","api_version":"2026-07-29.dahlia","created":%d,"livemode":false,"pending_webhooks":1,
		 "request":{"id":null,"idempotency_key":"FORBIDDEN"},"type":"%s","data":{"object":%s,"previous_attributes":{"email":"FORBIDDEN"}}}`, kind, n, now, eventType, object)
	}
	return [][]byte{
		event("charge", "charge.failed", charge), event("intent", "payment_intent.payment_failed", intent),
		event("customer", "customer.updated", fmt.Sprintf(`{"id":"cus_%d","object":"customer","email":"customer@hidden.example","name":"FORBIDDEN","phone":"FORBIDDEN",
		 "address":{"line1":"FORBIDDEN"},"description":"FORBIDDEN","shipping":{"name":"FORBIDDEN"},"metadata":{"note":"FORBIDDEN"},"preferred_locales":["de"],"livemode":false}`, n)),
	}
}

// everything is all that a database holds, as text; bytes in hexadecimal.
func everything(t *testing.T, dsn string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(t.Context(), `SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "facts")
	var all strings.Builder
	for _, table := range tables {
		rows, err := conn.Query(t.Context(), `SELECT t::text FROM `+table+` t`)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, line := range lines {
			all.WriteString(table + ": " + line + "\n")
		}
	}
	return all.String()
}

func TestWhatMayNotBeKeptIsNowhere(t *testing.T) {
	t.Parallel()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/customers/") {
			w.WriteHeader(http.StatusInternalServerError)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, `{"error":{"code":"resource_missing","message":"FORBIDDEN customer@hidden.example","param":"FORBIDDEN"}}`)
	}))
	t.Cleanup(api.Close)
	peer := smtptest.New(t, smtptest.Options{})
	peer.SetFaults(smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.7.1 <metadata@hidden.example>: no"})
	dsn := storetest.New(t)
	r := boot(t, serveEnv(dsn, newKey(), peer, setting{"STRIPE_API_KEY", "sk_test_FORBIDDEN"}, setting{"STRIPE_API_BASE", api.URL}, setting{"LOG_LEVEL", "debug"}))
	now := time.Now().Unix()
	for n := range 3 {
		for _, body := range indiscreetEvents(n, now) {
			require.Equal(t, http.StatusOK, r.post(t, body))
			aside := bytes.Replace(body, []byte(`"data":{"object":{"id":`), []byte(`"data":{"object":{"di":`), 1)
			aside = bytes.Replace(aside, []byte(`"id":"evt_`), []byte(`"id":"evt_aside_`), 1)
			require.Equal(t, http.StatusOK, r.post(t, aside))
			require.Equal(t, http.StatusBadRequest, r.post(t, body[:len(body)-2]))
		}
	}
	require.Eventually(t, func() bool {
		var list struct{ Data []apiFailure }
		r.get(t, "/v1/failures", &list)
		for _, f := range list.Data {
			if f.told()["email"] == "held" {
				return false
			}
		}
		return len(list.Data) == 3
	}, 30*time.Second, 50*time.Millisecond)

	r.log.wait(t, "stripe_api.looked_up")
	req, err := http.NewRequest(http.MethodGet, r.admin+"/metrics", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+e2eToken)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	metrics, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	r.stop()
	r.log.mu.Lock()
	lines, err := json.Marshal(r.log.lines)
	r.log.mu.Unlock()
	require.NoError(t, err)
	stored := everything(t, dsn)
	require.Contains(t, stored, "no_object_id", "bodies are kept aside")
	require.Contains(t, stored, "status 500 resource_missing", "a look-up that failed says why")
	for where, all := range map[string]string{"the database": stored, "the log": string(lines), "the metrics": string(metrics)} {
		for _, secret := range []string{"FORBIDDEN", "hidden.example", "4242424242424242", "4242 4242", e2eSecret} {
			for _, form := range []string{secret, hex.EncodeToString([]byte(secret))} {
				if i := strings.Index(all, form); i >= 0 {
					t.Errorf("%s holds %s: …%s…", where, secret, all[max(0, i-200):min(len(all), i+200)])
				}
			}
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store/storetest"
)

// fixtures lists public Stripe bodies kept beside the checkout, where there are any. They are other people's data, read
// and never copied.
func fixtures(t *testing.T) []string {
	t.Helper()
	root := filepath.Join("..", "..", "..", "shared", "fixtures", "stripe")
	if _, err := os.Stat(root); err != nil {
		t.Skip("the folder of public Stripe bodies is not here")
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// asEvent returns a fixture as an event: a bare object is wrapped, as failed when it says so.
func asEvent(t *testing.T, file string) (event map[string]any, body []byte) {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &event))
	folder := filepath.Base(filepath.Dir(file))
	kind, bare := strings.CutPrefix(folder, "object.")
	if !bare && folder != "api-error" {
		return event, raw
	}
	object := event
	eventType := kind + ".updated"
	switch {
	case folder == "api-error":
		eventType = "api_error.seen"
	case kind == "charge" && event["status"] == "failed":
		eventType = "charge.failed"
	case kind == "charge":
		eventType = "charge.succeeded"
	case kind == "payment_intent" && event["last_payment_error"] != nil:
		eventType = "payment_intent.payment_failed"
	case kind == "payment_intent" && event["status"] == "succeeded":
		eventType = "payment_intent.succeeded"
	case kind == "invoice":
		eventType = "invoice.payment_failed"
	}
	event = map[string]any{
		"id": "evt_wrapped_" + strings.TrimSuffix(filepath.Base(file), ".json"), "object": "event", "type": eventType,
		"created": 1790000000, "livemode": object["livemode"] == true, "data": map[string]any{"object": object},
	}
	body, err = json.Marshal(event)
	require.NoError(t, err)
	return event, body
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any:
		s, _ := v["id"].(string)
		return s
	}
	return ""
}

func TestEveryPublicBodyIsAcceptedAndEachFailureReadsBack(t *testing.T) {
	t.Parallel()
	files := fixtures(t)
	r := boot(t, serveEnv(storetest.New(t), newKey(), nil))
	failed := 0
	for _, file := range files {
		_, body := asEvent(t, file)
		require.Equal(t, http.StatusOK, r.post(t, body), file)
	}
	for _, file := range files {
		event, _ := asEvent(t, file)
		eventType := text(event["type"])
		if eventType != "charge.failed" && eventType != "payment_intent.payment_failed" {
			continue
		}
		failed++
		object := event["data"].(map[string]any)["object"].(map[string]any)
		payment := text(object["id"])
		if intent := text(object["payment_intent"]); eventType == "charge.failed" && intent != "" {
			payment = intent
		}
		var found *apiFailure
		for _, f := range r.failures(t, payment) {
			for _, id := range f.Events {
				if id == text(event["id"]) {
					found = &f
				}
			}
		}
		require.NotNil(t, found, "%s: no failure of payment %s names the event", file, payment)
		if eventType == "charge.failed" {
			require.NotNil(t, found.Charge, file)
			require.Equal(t, text(object["id"]), *found.Charge, file)
		}
		if amount, ok := object["amount"].(float64); ok && strings.Count(payment, "0") < 10 { // template ids are shared by several bodies
			require.Equal(t, int64(amount), found.Amount, file)
			require.Equal(t, text(object["currency"]), found.Currency, file)
		}
		require.NotEmpty(t, found.Decline.Type, file)
		if code := expectedCode(object); code != "" && strings.Count(payment, "0") < 10 {
			require.Equal(t, code, found.Decline.Code, "%s: %s", file, fmt.Sprint(found.Decline))
		}
	}
	require.Greater(t, failed, 20)
	t.Logf("%d bodies, %d of them failures", len(files), failed)
	require.Empty(t, r.log.errors())
}

// expectedCode reads the most specific code straight from an object, where only one is said.
func expectedCode(object map[string]any) string {
	if e, ok := object["last_payment_error"].(map[string]any); ok {
		if code := text(e["decline_code"]); code != "" {
			return code
		}
		return text(e["code"])
	}
	if outcome, ok := object["outcome"].(map[string]any); ok && text(outcome["reason"]) != "" {
		return text(outcome["reason"])
	}
	return text(object["failure_code"])
}

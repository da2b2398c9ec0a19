package webhook

import (
	"cmp"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fixtures are recorded bodies from public sources, kept beside the repository; they are not part of it.
const fixtures = "../../shared/fixtures/stripe"

// eventOf makes the event that a fixture stands for: itself, or an envelope around an object.
func eventOf(t *testing.T, kind string, raw []byte) tree {
	t.Helper()
	v := parse(t, strings.NewReplacer("{{type}}", kind, "{{id}}", "pi_filled_in").Replace(string(raw)))
	bare, isObject := strings.CutPrefix(kind, "object.")
	if !isObject && kind != "api-error" {
		return v
	}
	object, eventType := v, bare+".read"
	switch bare {
	case "charge":
		eventType = "charge.succeeded"
		if v["status"] == "failed" {
			eventType = "charge.failed"
		}
	case "payment_intent":
		eventType = "payment_intent.processing"
		if v["last_payment_error"] != nil {
			eventType = "payment_intent.payment_failed"
		} else if v["status"] == "succeeded" {
			eventType = "payment_intent.succeeded"
		}
	case "invoice":
		eventType = "invoice.payment_failed"
	case "api-error":
		e, _ := v["error"].(tree)
		if pi, ok := e["payment_intent"].(tree); ok {
			object, eventType = pi, "payment_intent.payment_failed"
		}
	}
	return tree{"id": "evt_wrapped", "object": "event", "created": 1600000000, "livemode": false, "type": eventType, "data": tree{"object": object}}
}

// str reads the text at path of v, ” where there is none.
func str(v tree, path ...string) string {
	for i, p := range path {
		if i == len(path)-1 {
			s, _ := v[p].(string)
			return s
		}
		v, _ = v[p].(tree)
	}
	return ""
}

func TestEveryRecordedBodyIsAcceptedAndReadRight(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(fixtures, "*", "*.json"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("the recorded bodies are not on this machine")
	}
	require.Greater(t, len(files), 150)
	d := openDoor(t)
	failures := 0
	for _, file := range files {
		kind := filepath.Base(filepath.Dir(file))
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		event := eventOf(t, kind, raw)
		body := render(t, event)

		before := len(d.recorder.all())
		got := d.signed(t, body)
		require.Equal(t, http.StatusOK, got.status, file)
		_, out := decode(t, body)
		if strings.HasSuffix(out.EventType, "failed") {
			require.Empty(t, out.Misfits, file)
		}
		require.NotEqual(t, Quarantined, out.Use, file)
		all := d.recorder.all()[before:]

		object, _ := event["data"].(tree)["object"].(tree)
		eventType := str(event, "type")
		switch eventType {
		case "charge.failed":
			failures++
			f := all[0].Facts[0]
			require.Equal(t, eventType, f.EventType, file)
			require.Equal(t, str(event, "id"), f.EventID, file)
			require.Equal(t, str(object, "id"), f.Charge, file)
			require.Equal(t, str(object, "payment_intent"), f.PaymentIntent, file)
			require.Equal(t, cmp.Or(f.PaymentIntent, f.Charge), f.PaymentID, file)
			require.Equal(t, str(object, "customer"), f.Customer, file)
			require.EqualValues(t, object["amount"], f.Amount, file)
			require.Equal(t, str(object, "currency"), f.Currency, file)
			require.Equal(t, str(object, "failure_code"), f.FailureCode, file)
			require.Equal(t, str(object, "outcome", "reason"), f.OutcomeReason, file)
			require.Equal(t, str(object, "outcome", "type"), f.OutcomeType, file)
			require.NotEmpty(t, f.Last4+f.MethodID, file)
		case "payment_intent.payment_failed":
			failures++
			f := all[0].Facts[0]
			require.Equal(t, eventType, f.EventType, file)
			require.Equal(t, str(object, "id"), f.PaymentID, file)
			require.Equal(t, str(object, "id"), f.PaymentIntent, file)
			require.EqualValues(t, object["amount"], f.Amount, file)
			require.Equal(t, str(object, "currency"), f.Currency, file)
			require.Equal(t, str(object, "last_payment_error", "code"), f.ErrorCode, file)
			require.Equal(t, str(object, "last_payment_error", "decline_code"), f.DeclineCode, file)
			require.Equal(t, str(object, "last_payment_error", "charge"), f.Charge, file)
			if s := str(object, "latest_charge"); s != "" {
				require.Equal(t, s, f.LatestCharge, file)
			}
			require.Equal(t, str(object, "client_secret") != "", f.ClientSecretHash != nil, file)
		case "charge.succeeded", "payment_intent.succeeded", "payment_intent.canceled", "payment_intent.processing":
			require.Len(t, all, 1, file)
			require.Len(t, all[0].Facts, 1, file)
		}
		kept, err := json.Marshal(all)
		require.NoError(t, err)
		if s := str(object, "client_secret"); strings.Contains(s, "_secret_") {
			require.NotContains(t, string(kept), s, file)
		}
		if s := str(object, "billing_details", "name"); len(s) > 4 {
			require.NotContains(t, string(kept), s, file)
		}
	}
	require.Greater(t, failures, 25)
	for _, line := range d.logs.All() {
		require.LessOrEqual(t, line.Level.String(), "info", line.Message)
	}
	t.Logf("%d bodies, %d of them failed charges or intents", len(files), failures)
}

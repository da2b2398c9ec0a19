package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"rebound/handler"
)

// keepable checks what every delivery owes to the store, whatever came in.
func keepable(t *testing.T, d handler.Delivery, out Outcome) {
	t.Helper()
	kept, err := json.Marshal([]any{d.Facts, d.Customer})
	require.NoError(t, err)
	require.True(t, utf8.Valid(kept))
	require.NotContains(t, string(kept), `\u0000`)
	require.Less(t, len(kept), 64<<10)
	ids := []string{out.EventID, out.EventType, out.ObjectID, out.PaymentID, out.Account}
	for _, f := range d.Facts {
		require.NotEmpty(t, f.PaymentID)
		require.NotEmpty(t, f.ObjectID)
		require.NotEmpty(t, f.EventID)
		require.Positive(t, f.Created)
		require.LessOrEqual(t, f.Created, int64(maxTime))
		require.GreaterOrEqual(t, f.Amount, int64(0))
		ids = append(ids, f.PaymentID, f.ObjectID, f.Charge, f.LatestCharge, f.Customer, f.Invoice, f.MethodID, f.OrderReference)
	}
	for _, id := range ids {
		require.LessOrEqual(t, len(id), maxID)
		require.Equal(t, -1, strings.IndexFunc(id, unicode.IsSpace), "%q", id)
		require.True(t, utf8.ValidString(id))
	}
	if d.Quarantine != nil {
		require.Empty(t, d.Facts)
	}
}

func FuzzDecodeStripe(f *testing.F) {
	for _, s := range []string{
		failedCharge, failedIntent, paidInvoice, expiredSession, updatedCustomer, "null", "{}", `{"id":"evt_1","type":"charge.failed"}`,
		`{"id":"evt_1","type":"invoice_payment.paid","data":{"object":{"id":"i","invoice":"in_1","payment":{"charge":"ch_1"}}}}`,
		`{"id":"evt_1","type":"payment_intent.payment_failed","data":{"object":{"id":"pi","charges":{"data":[{"id":"ch"}]},"latest_charge":{"id":"ch"}}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		d, out, err := DecodeStripe(body, testOptions())
		require.Equal(t, before, body, "the body is not changed")
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			require.Empty(t, d)
			return
		}
		keepable(t, d, out)
		again, _, err := DecodeStripe(body, testOptions())
		require.NoError(t, err)
		require.Equal(t, d, again, "the same body gives the same facts")
	})
}

// FuzzEnvelope puts any JSON at all where the envelope's own members stand.
func FuzzEnvelope(f *testing.F) {
	f.Add(`"evt_1"`, `"charge.failed"`, `1`, `"acct_1"`, `{"id":null}`, `{"object":{"id":"ch_1"}}`)
	f.Add(`"evt_1"`, `"ping"`, `"2026-03-01T12:00:00Z"`, `null`, `"iar_1"`, `null`)
	f.Add(`7`, `{}`, `1e13`, `[]`, `true`, `[{"object":1}]`)
	f.Fuzz(func(t *testing.T, id, eventType, created, account, request, data string) {
		body := fmt.Sprintf(`{"id":%s,"type":%s,"created":%s,"account":%s,"request":%s,"data":%s}`, id, eventType, created, account, request, data)
		d, out, err := DecodeStripe([]byte(body), testOptions())
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.NotEmpty(t, out.EventID)
		require.NotEmpty(t, out.EventType)
		keepable(t, d, out)
	})
}

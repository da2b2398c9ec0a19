package webhook

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzDecodeFrame(f *testing.F) {
	for _, s := range []string{
		frameCharge, frameTransfer, frameIntent, framePayout, frameVector, "null", "{}", `{"id":"evt_1","type":"charge.failed"}`,
		`{"id":"e","type":"transfer.updated","data":{"object":{"id":"tr","status":"fraud_review","charge":{"id":"ch","latest_charge":{"id":"x"}}}}}`,
		`{"id":"e","type":"charge_intent.payment_failed","created_at":"2026-03-01T12:00:00Z","data":{"id":"ci","latest_charge":"ch","next_action":{}}}`,
		`{"id":"e","type":"transfer.failed","data":{"client_secret":"SENTINEL","next_action":{"a":["SENTINEL"]}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		d, out, err := DecodeFrame(body, testOptions(), true)
		require.Equal(t, before, body, "the body is not changed")
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			require.Empty(t, d)
			return
		}
		keepable(t, d, out)
		for _, fact := range d.Facts {
			require.Equal(t, "frame", fact.Source)
			require.Empty(t, fact.Account)
			require.Equal(t, strings.ToLower(fact.Currency), fact.Currency)
			require.Contains(t, []string{"charge", "transfer", "charge_intent", "payout"}, fact.Object)
		}
		if d.Quarantine != nil {
			again, outAgain, err := DecodeFrame(d.Quarantine.Body, testOptions(), true)
			require.NoError(t, err, "what is kept aside can be read again")
			require.Equal(t, out.Reason, outAgain.Reason)
			require.Equal(t, d.Quarantine.Body, again.Quarantine.Body)
		}
		again, _, err := DecodeFrame(body, testOptions(), true)
		require.NoError(t, err)
		require.Equal(t, d, again, "the same body gives the same facts")
	})
}

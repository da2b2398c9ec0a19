package handler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/store"
)

// factSize is how many bytes make a fact.
const factSize = 8

// factsFrom makes a set of facts of one payment. Each field is one of a few values, so that facts of one event, one charge,
// one second and one method are common.
func factsFrom(data []byte) []Fact {
	if len(data) == 0 {
		return nil
	}
	source, kinds := "stripe", [][2]string{
		{"charge.failed", "charge"}, {"payment_intent.payment_failed", "payment_intent"}, {"payment_intent.succeeded", "payment_intent"},
		{"charge.succeeded", "charge"}, {"payment_intent.requires_action", "payment_intent"}, {"payment_intent.processing", "payment_intent"},
		{"payment_intent.canceled", "payment_intent"}, {"invoice.payment_failed", "invoice"},
	}
	if data[0]%3 == 0 {
		source, kinds = "frame", [][2]string{
			{"charge.failed", "charge"}, {"charge_intent.payment_failed", "charge_intent"}, {"transfer.failed", "transfer"},
			{"charge.succeeded", "charge"}, {"charge_intent.succeeded", "charge_intent"}, {"transfer.completed", "transfer"},
			{"charge_intent.canceled", "charge_intent"}, {"charge.updated", "charge"},
		}
	}
	of := func(b byte, values ...string) string { return values[int(b)%len(values)] }
	codes := []string{"", "insufficient_funds", "stolen_card", "do_not_honor", "payment_intent_authentication_failure", "payment_method_customer_decline", "mystery"}
	var facts []Fact
	seen := make(map[[3]string]bool)
	for b := range slices.Chunk(data[1:], factSize) {
		if len(b) < factSize || len(facts) == 12 {
			break
		}
		kind := kinds[int(b[0])%len(kinds)]
		f := Fact{
			PaymentKey: PaymentKey{PaymentID: "pi_1", Source: source}, PaymentIntent: "pi_1", Currency: "usd", EventType: kind[0], Object: kind[1],
			ObjectID: kind[1], EventID: fmt.Sprintf("evt_%d", b[1]%6), APIVersion: of(b[1]>>4, "2020-08-27", "2024-06-20", "2025-04-30.basil"),
			Created:    1_790_000_000 + int64(b[2]%4)*int64(1+b[2]>>6*40),
			ReceivedAt: time.Unix(1_790_000_100+int64(b[3]%3)*700, 0).UTC(),
			Charge:     of(b[4], "", "ch_1", "ch_2", "ch_3"), MethodID: of(b[4]>>2, "", "pm_1", "pm_2"), MethodType: of(b[4]>>4, "card", "card", "sepa_debit", ""),
			ErrorCode: codes[int(b[5])%len(codes)], DeclineCode: codes[int(b[5]>>3)%len(codes)],
			Customer: of(b[6], "cus_1", "", "cus_2"), Amount: int64(b[6]>>2%3) * 100, Invoice: of(b[6]>>4, "", "", "in_1"),
			Session: of(b[7], "", "", "on_session", "off_session"), RequestOrigin: of(b[7]>>2, "", "api", "none"), Status: of(b[7]>>4, "", "fraud_review", "fraud_declined"),
		}
		switch kind[1] {
		case "charge":
			f.OutcomeReason, f.FailureCode = f.DeclineCode, f.ErrorCode
			f.ErrorCode, f.DeclineCode = "", ""
			if f.Charge == "" {
				f.Charge = "ch_1" // a charge's event names it
			}
		case "payment_intent", "charge_intent":
			f.LatestCharge = of(b[3]>>4, "", "ch_1", "ch_2")
		}
		// The store keeps one row per event, type and version.
		if key := [3]string{f.EventID, f.EventType, f.APIVersion}; !seen[key] {
			seen[key] = true
			facts = append(facts, f)
		}
	}
	return facts
}

// FuzzMerge checks that what is derived, and what is decided from it, is a function of the set of facts: of no order and
// of no repetition.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{1, 0, 0x10, 0, 0, 0x15, 1, 0, 4, 1, 0x11, 0, 0x10, 0x10, 8, 0, 4})                             // a charge and its intent
	f.Add([]byte{1, 0, 0x10, 0, 0, 0x15, 2, 0, 4, 1, 0x11, 0, 0x10, 0x10, 8, 0, 4, 2, 0x12, 1, 0, 0, 0, 0, 0})  // a fraud signal and a success
	f.Add([]byte{1, 1, 0x01, 0, 0, 0x10, 8, 0, 0, 1, 0x11, 0, 1, 0x11, 16, 0, 0, 1, 0x21, 0, 2, 0x12, 0, 0, 0}) // one event in three versions
	f.Add([]byte{1, 0, 0x10, 3, 0, 1, 1, 0x20, 0, 4, 0x11, 3, 0, 0, 0, 0, 0, 7, 0x12, 0, 0, 0, 0, 0x20, 0})     // pending, with an invoice
	f.Add([]byte{0, 0, 0x10, 0, 0, 1, 1, 0, 3, 1, 0x11, 1, 0, 0, 0, 0, 3, 2, 0x12, 2, 0, 0, 0, 0, 0x10})        // Frame's three, one screened
	f.Add([]byte{0, 0, 0x10, 0, 0, 1, 1, 0, 0, 0, 0x11, 0xc3, 0, 2, 2, 0, 0, 2, 0x12, 1, 0, 0, 0, 0, 0, 5, 0x13, 2, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 0, 0x05, 1, 0, 4, 0, 1, 0, 0, 0x09, 1, 0, 4, 1, 2, 0, 0x10, 0x04, 8, 0, 4}) // a charge whose reports name two methods
	f.Fuzz(func(t *testing.T, data []byte) {
		facts := factsFrom(data)
		if len(facts) == 0 {
			return
		}
		invoice := &store.Invoice{BillingReason: "subscription_cycle"}
		derived := func(facts []Fact) (Derived, []store.Notification) {
			d := Derive(facts[0].PaymentKey, facts, invoice, decline.Rules{})
			return d, testPolicy().Decide(d, testNow)
		}
		want, wantSaid := derived(facts)
		mails := 0
		for _, n := range wantSaid {
			if n.Channel == store.ChannelEmail {
				mails++
			}
		}
		require.LessOrEqual(t, mails, 1)
		rng := rand.New(rand.NewPCG(uint64(len(data)), uint64(data[0])))
		reversed := slices.Clone(facts)
		slices.Reverse(reversed)
		shuffled := slices.Concat(facts, facts[:rng.IntN(len(facts)+1)])
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for name, again := range map[string][]Fact{"reversed": reversed, "doubled": slices.Concat(facts, facts), "shuffled, some twice": shuffled} {
			got, said := derived(again)
			require.Equal(t, want.Payment, got.Payment, name)
			require.Equal(t, want.Attempts, got.Attempts, name)
			require.Equal(t, wantSaid, said, name)
		}
		// An erasure gives each method another name, and repeats come after it: which attempts there are may not rest on names.
		renamed := slices.Clone(facts)
		for i := range renamed {
			renamed[i].MethodID = map[string]string{"pm_1": "pm_b", "pm_2": "pm_a"}[renamed[i].MethodID]
		}
		got, _ := derived(renamed)
		require.Len(t, got.Failed, len(want.Failed))
		for i, a := range got.Failed {
			require.Equal(t, want.Failed[i].row.Events, a.row.Events, "renamed")
		}
	})
}

package webhook

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
	"rebound/store"
)

// arrangements calls each for every ordered choice, of one or more, from n things.
func arrangements(n int, each func(order []int)) int {
	count := 0
	var extend func(order []int, used int)
	extend = func(order []int, used int) {
		for i := range n {
			if used&(1<<i) == 0 {
				next := append(order[:len(order):len(order)], i)
				each(next)
				count++
				extend(next, used|1<<i)
			}
		}
	}
	extend(nil, 0)
	return count
}

// deriveFrame decodes bodies in the order in which they come, keeps each event once, as the store does, and derives.
func deriveFrame(t testing.TB, bodies ...[]byte) handler.Derived {
	t.Helper()
	var facts []handler.Fact
	stored := make(map[string]bool)
	for _, body := range bodies {
		f := onlyFrameFact(t, body)
		require.Equal(t, demoIntent, f.PaymentID, "all of them meet")
		f.ReceivedAt = testNow
		if !stored[f.EventID] {
			stored[f.EventID] = true
			facts = append(facts, f)
		}
	}
	return handler.Derive(facts[0].PaymentKey, facts, nil, decline.Rules{})
}

func split(d handler.Derived) (failed, succeeded []store.Attempt) {
	for _, a := range d.Attempts {
		if a.Result == handler.AttemptFailed {
			failed = append(failed, a)
		} else {
			succeeded = append(succeeded, a)
		}
	}
	return failed, succeeded
}

// A charge and its transfer both tell of one failure; a success and repeats of either may come anywhere among them.
func TestEveryArrangementOfAFramePairIsOneFailure(t *testing.T) {
	t.Parallel()
	for successType, success := range frameSuccesses(t) {
		bodies := [][]byte{[]byte(frameCharge), []byte(frameTransfer), success, []byte(frameCharge), []byte(frameTransfer)}
		n := arrangements(len(bodies), func(order []int) {
			var chosen [][]byte
			var charge, transfer, recovered bool
			for _, i := range order {
				chosen = append(chosen, bodies[i])
				charge, transfer, recovered = charge || i == 0 || i == 3, transfer || i == 1 || i == 4, recovered || i == 2
			}
			d := deriveFrame(t, chosen...)
			failed, succeeded := split(d)
			switch {
			case recovered:
				require.Equal(t, handler.Recovered, d.Payment.Status, "%s %v", successType, order)
				require.Len(t, succeeded, 1)
			default:
				require.Equal(t, handler.Failing, d.Payment.Status, "%v", order)
				require.Empty(t, succeeded)
			}
			if !charge && !transfer {
				require.Empty(t, failed)
				return
			}
			require.Len(t, failed, 1, "%s %v", successType, order)
			require.Equal(t, "6186", failed[0].Last4)
			if charge {
				require.Equal(t, demoCharge, failed[0].Charge)
				require.Equal(t, "insufficient_funds", failed[0].Code)
			}
		})
		require.Equal(t, 325, n)
	}
}

// All three events of a failure, and both of a success that name its charge, are one failure and one success.
func TestEverythingFrameSaysOfOnePaymentIsOneFailureAndOneSuccess(t *testing.T) {
	t.Parallel()
	successes := frameSuccesses(t)
	bodies := [][]byte{
		[]byte(frameCharge), []byte(frameTransfer), []byte(frameIntent),
		successes["charge.succeeded"], successes["charge_intent.succeeded"], successes["transfer.succeeded"],
	}
	arrangements(len(bodies), func(order []int) {
		if len(order) < len(bodies) {
			return
		}
		var chosen [][]byte
		for _, i := range order {
			chosen = append(chosen, bodies[i])
		}
		d := deriveFrame(t, chosen...)
		failed, succeeded := split(d)
		require.Equal(t, handler.Recovered, d.Payment.Status)
		require.Len(t, failed, 1)
		require.Equal(t, demoCharge, failed[0].Charge)
		require.Len(t, succeeded, 1)
		require.Equal(t, "ch_second", succeeded[0].Charge)
	})
}

func TestAFraudSignalOfAnyFrameEventSilencesTheFailure(t *testing.T) {
	t.Parallel()
	codes := with(t, frameCharge, "data.failure_code", "stolen_card")
	state := with(t, frameTransfer, "data.status", "fraud_review")
	for _, bodies := range [][][]byte{{codes}, {state}, {codes, []byte(frameTransfer)}, {state, []byte(frameCharge)}, {[]byte(frameCharge), state}} {
		failed, _ := split(deriveFrame(t, bodies...))
		require.Len(t, failed, 1)
		require.False(t, failed[0].Disclosable)
		require.Equal(t, "generic_decline", failed[0].PublicCode)
		require.Equal(t, "fraud_risk", failed[0].Category)
	}
}

// A transfer names an account alone, a charge may, and an intent also the customer: whoever a payment is of, its failure, its
// notices and its recipient are of the same, whichever of its events is the newest.
func TestAFramePaymentAndItsFailureAreOfOneCustomer(t *testing.T) {
	t.Parallel()
	bodies := []string{frameCharge, frameTransfer, frameIntent}
	arrangements(len(bodies), func(order []int) {
		var chosen [][]byte
		want := demoAccount
		for n, i := range order {
			chosen = append(chosen, with(t, bodies[i], "created", 1767225600+n))
			if bodies[i] == frameIntent {
				want = "cus_demo_1"
			}
		}
		d := deriveFrame(t, chosen...)
		require.Equal(t, want, d.Payment.Customer, order)
		require.Equal(t, want, d.Attempts[0].Customer, order)
	})
}

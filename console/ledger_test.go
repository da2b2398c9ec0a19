package console

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

func retryOfObject(o any) map[string]any { return o.(map[string]any)["retry"].(map[string]any) }

func TestACardBarredOnOnePaymentIsBarredOnAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(change(failed("fl_lost", "pi_lost"), func(a *store.Attempt) {
		a.OccurredAt, a.NetworkDeclineCode, a.RetryVerdict, a.RetryLimitedBy = start.AddDate(-1, 0, 0), "04", "never", "visa:category_1"
	}), failed("fl_same", "pi_same"), change(failed("fl_other", "pi_other"), func(a *store.Attempt) { a.Fingerprint, a.MethodID = "fp_2", "pm_2" }))

	for _, o := range []any{b.get("/v1/failures/fl_same").json(t), b.get("/v1/failures", "payment_id", "pi_same").json(t)["data"].([]any)[0],
		b.get("/v1/payments/pi_same").json(t)["attempts"].([]any)[0]} {
		require.Equal(t, "never", retryOfObject(o)["verdict"])
		require.Equal(t, "visa:category_1", retryOfObject(o)["limited_by"])
	}
	m := b.get("/v1/payments/pi_same/retry-decision").json(t)
	require.Equal(t, []any{false, false, "never", "visa:category_1"}, []any{m["allowed"], m["retry_allowed"], m["verdict"], m["limited_by"]})
	require.Equal(t, "retry_later", retryOfObject(b.get("/v1/failures/fl_other").json(t))["verdict"])
	require.Contains(t, b.page("/console/failures/fl_same", b.session(allToken)).body, "visa:category_1")
}

func TestARollingWindowSaysWhenItLetsGo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 20 {
		b.add(change(failed(fmt.Sprintf("fl_%02d", i), fmt.Sprintf("pi_%02d", i)), func(a *store.Attempt) {
			a.OccurredAt, a.RetryVerdict = start.Add(-time.Duration(i+1)*24*time.Hour), "retry_now"
		}))
	}
	m := b.get("/v1/payments/pi_00/retry-decision").json(t)
	free := start.Add(10 * 24 * time.Hour).Format(time.RFC3339)
	require.Equal(t, []any{false, "retry_later", "visa:category_2", free}, []any{m["allowed"], m["verdict"], m["limited_by"], m["not_before"]})
	var rule map[string]any
	for _, r := range m["rules"].([]any) {
		if r.(map[string]any)["rule"] == "visa:category_2" {
			rule = r.(map[string]any)
		}
	}
	require.Equal(t, map[string]any{"rule": "visa:category_2", "limit": 20.0, "used": 20.0, "window_seconds": 2592000.0, "scope": "card_amount", "limiting": true,
		"until": free, "meaning": rule["meaning"], "status": nil, "source": "Visa Core Rules, table 7-2", "edition": "2026-04-18"}, rule)
	for _, o := range b.get("/v1/failures", "limit", "100").json(t)["data"].([]any) {
		require.Equal(t, free, retryOfObject(o)["not_before"])
	}
}

func TestAnOlderFailureKnowsWhatCameAfterIt(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.MaxRetriesPerCharge = 3 })
	for i := range 3 {
		b.add(change(failed(fmt.Sprintf("fl_%d", i), "pi_1"), func(a *store.Attempt) {
			a.OccurredAt, a.AttemptsUsed, a.AttemptsLeft, a.RetryVerdict = start.Add(time.Duration(i-5)*time.Hour), int64(i+1), int64(2-i), "retry_now"
		}))
	}
	for _, o := range b.get("/v1/payments/pi_1").json(t)["attempts"].([]any) {
		require.Equal(t, map[string]any{"verdict": "after_customer_action", "attempts_used": 3.0, "attempts_left": 0.0, "not_before": nil,
			"limited_by": "stripe:max_retries_per_charge"}, retryOfObject(o))
	}
}

func TestAnotherAccountsUseOfACardIsNotTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(change(failed("fl_theirs", "pi_theirs"), func(a *store.Attempt) { a.Account, a.NetworkDeclineCode = "acct_other", "04" }),
		change(failed("fl_own", "pi_own"), func(a *store.Attempt) { a.Account = ownAccount }))
	b.token = accountToken
	m := b.get("/v1/payments/pi_own/retry-decision")
	require.Equal(t, http.StatusOK, m.status)
	require.Equal(t, "retry_later", m.json(t)["verdict"])
}

// A merchant's own program asks this before each retry. No other test may run meanwhile: what is counted is all memory.
func TestWhetherAPaymentUnderAttackMayBeRetriedTakesLittleMemory(t *testing.T) {
	b := setup(t)
	attacked := make([]store.Attempt, 1000)
	for i := range attacked {
		attacked[i] = change(failed(fmt.Sprintf("fl_%04d", i), "pi_1"), func(a *store.Attempt) {
			a.OccurredAt, a.Fingerprint, a.PaymentStatus = start.Add(time.Duration(i-len(attacked))*time.Second), fmt.Sprint("fp_", i%5), "failing"
		})
	}
	b.save(store.Changes{Payments: []store.Payment{payment("pi_1")}})
	b.save(store.Changes{Attempts: attacked})
	session := b.session(allToken)
	for _, ask := range []func() answer{
		func() answer { return b.get("/v1/payments/pi_1/retry-decision") },
		func() answer { return b.page("/console/failures/fl_0999", session) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.Equal(t, http.StatusOK, ask().status)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
	}
}

func TestABankDebitIsBoundByItsOwnNetwork(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]string{"us_bank_account": "ach:reinitiations", "ach": "ach:reinitiations", "sepa_debit": ""} {
		b := setup(t)
		for i := range 3 {
			b.add(change(failed(fmt.Sprintf("fl_%d", i), "pi_1"), func(a *store.Attempt) {
				a.MethodType, a.Brand, a.Network, a.Country = method, "", "", ""
				a.OccurredAt, a.AttemptsUsed, a.AttemptsLeft, a.RetryVerdict = start.Add(time.Duration(i-5)*24*time.Hour), int64(i+1), int64(3-i), "retry_now"
			}))
		}
		m := b.get("/v1/payments/pi_1/retry-decision").json(t)
		require.Equal(t, want == "", m["allowed"], method)
		if want != "" {
			require.Equal(t, []any{"after_customer_action", want}, []any{m["verdict"], m["limited_by"]}, method)
		}
	}
}

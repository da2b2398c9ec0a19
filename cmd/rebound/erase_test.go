package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/store/storetest"
)

func TestErasingSaysHowMuchThereWasAndNeverWhose(t *testing.T) {
	t.Parallel()
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	env := serveEnv(storetest.New(t), newKey(), nil, setting{"NOTIFY_HOLD", "1h"}, setting{"NOTIFY_HOLD_WEAK", "1h"})
	r := boot(t, env)
	for _, e := range p.Events {
		require.Equal(t, http.StatusOK, r.post(t, e.Body))
	}
	var before, after struct{ Data []struct{ Customer string } }
	list := "/v1/failures?payment_id=" + p.PaymentID()
	require.Equal(t, http.StatusOK, r.get(t, list, &before))
	customer := before.Data[0].Customer
	require.True(t, strings.HasPrefix(customer, "cus_"), customer)

	for i, want := range []string{"1 payments and invoices made anonymous\n0 records of addresses deleted\n1 waiting mails canceled\n", "0 payments and invoices made anonymous\n"} {
		stdout, stderr, err := call(t, env, "erase", "--customer", " "+customer+"\n", "--no-download")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(stdout, want), "%d: %s", i, stdout)
		require.NotContains(t, stdout+stderr, customer)
		require.Contains(t, stderr, "customer.erased")
	}
	require.Equal(t, http.StatusOK, r.get(t, list, &after))
	require.True(t, strings.HasPrefix(after.Data[0].Customer, "erased_"), after.Data[0].Customer)
	require.Equal(t, "canceled:erased", r.failures(t, p.PaymentID())[0].told()["email"])
	require.Empty(t, r.log.errors())
}

func TestErasingNobodyIsAFault(t *testing.T) {
	t.Parallel()
	env := []string{"DATABASE_URL=postgres://nobody@127.0.0.1:1/none", "ENCRYPTION_KEY=" + newKey()}
	for _, args := range [][]string{
		{}, {"--customer="}, {"--customer", " "}, {"--email="}, {"--email", "jenny"}, {"--customer", "cus_1", "--email", "jenny@example.com"},
	} {
		_, _, err := call(t, env, append([]string{"erase", "--no-download"}, args...)...)
		require.Equal(t, 2, exitCode(err), "%v: %v", args, err)
		if err != nil {
			require.NotContains(t, err.Error(), "jenny")
		}
	}
}

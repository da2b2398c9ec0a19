package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/notify/email/smtptest"
	"rebound/store/storetest"
)

// Who goes live with the database of a trial must not write to those of the trial, nor who turns a setting back to those before.
func TestMailsHeldUnderOtherSettingsAreNotSentAgainstThoseOfNow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind        string
		before, now []setting
		want        string
	}{
		"held in test, sent in live": {"charge-only", nil, []setting{{"MODE", "live"}}, "suppressed:wrong_mode"},
		"renewals are Stripe's again": {
			"renewal", []setting{{"BILLING_NOTIFICATIONS", "ours"}}, []setting{{"BILLING_NOTIFICATIONS", "stripe"}}, "suppressed:billing_by_stripe",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := smtptest.New(t, smtptest.Options{})
			dsn, key := storetest.New(t), newKey()
			p, err := sample.Build(c.kind, sample.Params{Seed: 1, Now: time.Now(), Email: fmt.Sprintf("%s@example.com", c.kind)})
			require.NoError(t, err)
			holding := boot(t, serveEnv(dsn, key, nil, c.before...)) // without SMTP_URL all mail is held
			for _, e := range p.Events {
				require.Equal(t, http.StatusOK, holding.post(t, e.Body))
			}
			id := holding.failures(t, p.PaymentID())[0].ID
			require.Eventually(t, func() bool { return holding.told(t, id)["email"] == "held:smtp_not_configured" }, 30*time.Second, 50*time.Millisecond)
			holding.stop()

			r := boot(t, serveEnv(dsn, key, peer, c.now...))
			require.Eventually(t, func() bool { return r.told(t, id)["email"] == c.want }, 30*time.Second, 50*time.Millisecond)
			require.Empty(t, peer.Held())
		})
	}
}

// Whoever drops a key that addresses are still sealed with must be able to find out why no mail goes out.
func TestAMailWhoseAddressNoKeyOpensIsTold(t *testing.T) {
	t.Parallel()
	dsn, old, next := storetest.New(t), newKey(), newKey()
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now(), Email: "sealed@example.com"})
	require.NoError(t, err)
	holding := boot(t, serveEnv(dsn, old, nil))
	for _, e := range p.Events {
		require.Equal(t, http.StatusOK, holding.post(t, e.Body))
	}
	id := holding.failures(t, p.PaymentID())[0].ID
	require.Eventually(t, func() bool { return holding.told(t, id)["email"] == "held:smtp_not_configured" }, 30*time.Second, 50*time.Millisecond)
	holding.stop()
	boot(t, serveEnv(dsn, next+","+old, nil)).stop()

	peer := smtptest.New(t, smtptest.Options{})
	line := boot(t, serveEnv(dsn, next, peer)).log.wait(t, "job.failed")
	require.Equal(t, "deliver_mail", line["kind"])
	require.Contains(t, line["error"], "sealed with a key that is not configured")
	require.NotContains(t, fmt.Sprint(line), "sealed@example.com")
	require.Empty(t, peer.Held())
}

func (r *replica) told(t *testing.T, failure string) map[string]string {
	t.Helper()
	var f apiFailure
	require.Equal(t, http.StatusOK, r.get(t, "/v1/failures/"+failure, &f))
	return f.told()
}

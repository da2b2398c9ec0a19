package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/store/storetest"
)

func TestAServerSweepsAwayWhatIsTooOld(t *testing.T) {
	t.Parallel()
	dsn, key := storetest.New(t), newKey()
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	keeping := boot(t, serveEnv(dsn, key, nil, setting{"SWEEP_INTERVAL", "1s"}))
	for _, e := range p.Events {
		require.Equal(t, http.StatusOK, keeping.post(t, e.Body))
	}
	id := keeping.failures(t, p.PaymentID())[0].ID
	keeping.stop()

	r := boot(t, serveEnv(dsn, key, nil, setting{"RETENTION_FAILURES", "1s"}, setting{"SWEEP_INTERVAL", "1s"}))
	require.Eventually(t, func() bool { return r.get(t, "/v1/failures/"+id, nil) == http.StatusNotFound }, 30*time.Second, 50*time.Millisecond)
	require.EqualValues(t, 1, r.log.wait(t, "retention.swept")["payments"])
	require.Empty(t, r.log.errors())
}

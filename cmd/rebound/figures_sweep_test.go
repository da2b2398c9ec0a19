//go:build figures

package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/store"
	"rebound/store/seal"
)

// 200,000 failures are swept away while others are taken in:
//
//	go test -tags figures -run TestFigureSweep -v -timeout 30m ./cmd/rebound
//
// A batch holds its locks at most as long as it takes, from its first statement to its commit.
func TestFigureSweep(t *testing.T) {
	const failures, templates = 200_000, 500
	ctx := context.Background()
	a := newArena(t)
	address, _, leave := a.enter("rebound", "RETENTION_FAILURES=1000000h")
	defer leave()
	blast(t, address, requests(t, 1, 2*templates))
	// Copies of what was taken in, made old.
	a.exec(`DO $$
		DECLARE target text;
		BEGIN
			FOREACH target IN ARRAY ARRAY['facts', 'payments', 'attempts', 'notifications'] LOOP
				EXECUTE format('INSERT INTO %1$I SELECT (jsonb_populate_record(t, jsonb_build_object(
					''payment_id'', t.payment_id || i, ''received_at'', now() - interval ''500 days'', ''created_at'', now() - interval ''500 days'')
					|| CASE WHEN to_jsonb(t) ? ''id'' THEN jsonb_build_object(''id'', to_jsonb(t)->>''id'' || i) ELSE ''{}'' END)).*
					FROM %1$I t, generate_series(1, 400) i', target);
			END LOOP;
		END $$`)
	keys, err := seal.ParseKeys(a.key)
	require.NoError(t, err)
	core, batches := observer.New(zapcore.DebugLevel)
	s, err := store.Open(ctx, store.Config{DSN: a.dsn, Keys: keys, MaxConns: 2, Log: zap.New(core)})
	require.NoError(t, err)
	defer s.Close()
	alone := blast(t, address, requests(t, rand.Uint64()>>33, 20_000))

	var swept store.Swept
	done := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(done)
		swept, err = s.Sweep(ctx, store.Retention{Failures: 400 * 24 * time.Hour, Addresses: 400 * 24 * time.Hour, Quarantine: 400 * 24 * time.Hour})
	}()
	var beside []float64
	for sweeping := true; sweeping; {
		beside = append(beside, blast(t, address, requests(t, rand.Uint64()>>33, 10_000)))
		select {
		case <-done:
			sweeping = false
		default:
		}
	}
	took := time.Since(begun)
	require.NoError(t, err)
	require.Equal(t, failures, swept.Payments)
	var times []time.Duration
	for _, line := range batches.FilterMessage("sweep.batch").All() {
		times = append(times, line.ContextMap()["took"].(time.Duration))
	}
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(100 * time.Microsecond)
	}
	t.Logf("%d failures in %d batches and %v; a batch held its locks for %v (median), %v (p99), %v (p99.9), %v (longest)",
		failures, len(times), took.Round(time.Second), at(0.5), at(0.99), at(0.999), at(1))
	t.Logf("ingest %.0f events/s alone, %.0f (median) beside the sweep", alone, median(beside))
	require.Less(t, at(0.999), 100*time.Millisecond)
}

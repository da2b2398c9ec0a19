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

// TestFigureSweep has many failures swept away while others are taken in: first their addresses, then all of them.
//
//	go test -tags figures -run TestFigureSweep -v -timeout 30m ./cmd/rebound
//
// FAILURES (200000) sets the size. A batch holds its locks at most as long as it takes, from its first statement to its
// commit.
func TestFigureSweep(t *testing.T) {
	ctx := context.Background()
	a := newArena(t)
	failures := number(t, "FAILURES", 200_000)
	a.fill(failures)
	failures += originals
	for _, sql := range []string{"ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()", "CHECKPOINT"} {
		a.exec(sql)
	}
	// To the sweep it is still now, and all that was filled in is too old; what comes in from here on is not.
	filled := time.Now()
	address, _, leave := a.enter("rebound", "RETENTION_FAILURES=1000000h")
	defer leave()
	keys, err := seal.ParseKeys(a.key)
	require.NoError(t, err)
	core, batches := observer.New(zapcore.DebugLevel)
	s, err := store.Open(ctx, store.Config{DSN: a.dsn, Keys: keys, MaxConns: 2, Log: zap.New(core), Now: func() time.Time { return filled }})
	require.NoError(t, err)
	defer s.Close()
	alone := blast(t, address, requests(t, rand.Uint64()>>33, 20_000))

	const never = 1000 * 24 * time.Hour
	var addresses, all store.Swept
	done := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(done)
		if addresses, err = s.Sweep(ctx, store.Retention{Failures: never}); err == nil {
			all, err = s.Sweep(ctx, store.Retention{})
		}
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
	require.Equal(t, failures, all.Payments)
	var times []time.Duration
	for _, line := range batches.FilterMessage("sweep.batch").All() {
		times = append(times, line.ContextMap()["took"].(time.Duration))
	}
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(100 * time.Microsecond)
	}
	t.Logf("%d addresses and %d failures in %d batches and %v; a batch held its locks for %v (median), %v (p99), %v (p99.9), %v (longest)",
		addresses.Addresses, failures, len(times), took.Round(time.Second), at(0.5), at(0.99), at(0.999), at(1))
	t.Logf("ingest %.0f events/s alone, %.0f (median) beside the sweep", alone, median(beside))
	require.Less(t, at(0.999), 100*time.Millisecond)
}

//go:build figures

package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store/localpg"
)

// TestFigureStops stops Postgres at once, as pg_ctl stop -m immediate does, again and again while failures come in, and
// starts it anew. Nobody touches the serving process:
//
//	go test -tags figures -run TestFigureStops -v -timeout 20m ./cmd/rebound
//
// STOPS (20), FAILURES (10000) and EVERY (4 seconds for each stop) set the size; SEED repeats a run's failures and the
// moments of its stops.
func TestFigureStops(t *testing.T) {
	stops, count := number(t, "STOPS", 20), number(t, "FAILURES", 10_000)
	every := time.Duration(number(t, "EVERY", 4)) * time.Second
	random, seed := dice(t)
	a := newArena(t)
	r, cmd := spawn(t, serveEnv(a.dsn, a.key, nil))
	load := &posting{urls: []string{r.public}}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	go func() {
		_ = cmd.Wait() // nobody kills it: it should outlive the run
		cancel()
	}()
	t.Cleanup(func() {
		if errors := r.log.errors(); t.Failed() {
			t.Log("its last errors:")
			for _, line := range errors[max(0, len(errors)-40):] {
				t.Log(line)
			}
		}
	})

	payments := mailedFailures(t, seed, count)
	config := localpg.Config{DataDir: filepath.Dir(filepath.Dir(a.pg.DataDir()))}
	pg := a.pg
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	begun := time.Now()
	for k := range stops {
		posted := make(chan error, 1)
		share := eventsOf(payments[k*count/stops : (k+1)*count/stops])
		go func() { posted <- load.spread(ctx, share, every) }()
		require.True(t, wait(ctx, time.Duration(random.Int64N(int64(every)))))
		postmaster, err := os.FindProcess(pg.PID())
		require.NoError(t, err)
		require.NoError(t, postmaster.Signal(syscall.SIGQUIT))
		<-pg.Done()
		require.NoError(t, pg.Stop(ctx)) // it has ended; this gives its directory back
		again, err := localpg.Start(ctx, config)
		require.NoError(t, err)
		pg = again
		require.NoError(t, <-posted)
	}
	took := time.Since(begun)

	// The first to use a reader's connection that the last stop broke is told so.
	require.Eventually(t, func() bool { return r.get(t, "/v1/failures?limit=1", nil) == http.StatusOK }, 10*time.Second, 50*time.Millisecond)
	events, failures := eventsOf(payments), everyFailure(t, r)
	lost := missing(events, failures)
	t.Logf("\n| immediate stops | failures | tries to post / acknowledged | acknowledged events missing |\n|---|---|---|---|\n| %d in %.0f s | %d | %d / %d | %d |",
		stops, took.Seconds(), len(failures), load.tries.Load(), load.acked.Load(), len(lost))
	require.EqualValues(t, len(events), load.acked.Load())
	require.Empty(t, lost)
	require.Len(t, failures, count)
}

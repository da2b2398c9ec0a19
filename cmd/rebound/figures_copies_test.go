//go:build figures

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
)

// TestFigureCopies posts many copies of each event at the same moment, to two processes on one Postgres in turn:
//
//	go test -tags figures -run TestFigureCopies -v -timeout 10m ./cmd/rebound
//
// EVENTS (1000) and COPIES (32) set the size, TOGETHER (8) how many events, those of one payment among them, start at
// once. An answer of 503 is not sent again: it counts as a miss.
func TestFigureCopies(t *testing.T) {
	count, copies, together := number(t, "EVENTS", 1000), number(t, "COPIES", 32), number(t, "TOGETHER", 8)
	_, seed := dice(t)
	a := newArena(t)
	addresses := [2]string{freeAddress(t), freeAddress(t)}
	one, _ := spawn(t, serveEnv(a.dsn, a.key, nil, setting{"LISTEN_ADDR", addresses[0]}))
	two, _ := spawn(t, serveEnv(a.dsn, a.key, nil, setting{"LISTEN_ADDR", addresses[1]}))
	urls := [2]string{one.public, two.public}

	var events []sample.Event
	failures := 0
	for i := uint64(0); len(events) < count; i++ {
		p, err := sample.Build(sample.Cases()[i%uint64(len(sample.Cases()))].Name, sample.Params{Seed: seed + i, Now: time.Now()})
		require.NoError(t, err)
		failures++
		for _, e := range p.Events {
			if len(events) < count {
				events = append(events, e)
			}
		}
	}

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: copies * together}}
	defer client.CloseIdleConnections()
	statuses := make(map[string]int)
	var mu sync.Mutex
	begun := time.Now()
	for from := 0; from < count; from += together {
		start := make(chan struct{})
		var posts sync.WaitGroup
		for _, e := range events[from:min(from+together, count)] {
			signature := sample.Sign(e.Body, e2eSecret, time.Now())
			for copied := range copies {
				posts.Go(func() {
					req, err := http.NewRequest(http.MethodPost, urls[copied%2]+"/webhooks/stripe", bytes.NewReader(e.Body))
					if err == nil {
						req.Header.Set("Stripe-Signature", signature)
					}
					<-start
					answer := "no answer"
					if resp, err := client.Do(req); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						answer = fmt.Sprintf("%dxx", resp.StatusCode/100)
						if resp.StatusCode == http.StatusServiceUnavailable {
							answer = "503"
						}
					}
					mu.Lock()
					statuses[answer]++
					mu.Unlock()
				})
			}
		}
		close(start)
		posts.Wait()
	}
	took := time.Since(begun)

	db, err := pgx.Connect(t.Context(), a.dsn)
	require.NoError(t, err)
	defer db.Close(t.Context())
	var rows, deadlocks int
	require.NoError(t, db.QueryRow(t.Context(), `SELECT count(*) FROM facts`).Scan(&rows))
	require.NoError(t, db.QueryRow(t.Context(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&deadlocks))
	log, err := os.ReadFile(filepath.Join(filepath.Dir(a.pg.DataDir()), "server.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "ready to accept connections", "the log is elsewhere")
	logged := bytes.Count(log, []byte("deadlock detected"))
	stored := everyFailure(t, one)
	t.Logf("\n| events × copies | answers | took | rows of events | failures (payments posted) | deadlocks in the log | in Postgres' count |\n|---|---|---|---|---|---|---|\n| %d × %d | %v | %.1f s | %d | %d (%d) | %d | %d |",
		count, copies, statuses, took.Seconds(), rows, len(stored), failures, logged, deadlocks)

	require.Equal(t, map[string]int{"2xx": count * copies}, statuses)
	require.Equal(t, count, rows)
	require.Len(t, stored, failures)
	require.Empty(t, missing(events, stored))
	require.Zero(t, logged)
	require.Zero(t, deadlocks)
}

//go:build figures

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
)

// number is a size of a figure: the bar's, unless the environment says otherwise.
func number(t *testing.T, variable string, bar int) int {
	t.Helper()
	given := os.Getenv(variable)
	if given == "" {
		return bar
	}
	n, err := strconv.Atoi(given)
	require.NoError(t, err, variable)
	require.Positive(t, n, variable)
	return n
}

// dice draws everything that is random in a figure, from SEED or else from a new seed. The log says which.
func dice(t *testing.T) (*rand.Rand, uint64) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err, "SEED")
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0)), seed //nolint:gosec // it is to be repeatable
}

// mailedFailures makes n payments that failed while their customers were away, each with a mailbox of its own.
func mailedFailures(t *testing.T, seed uint64, n int) []*sample.Payment {
	t.Helper()
	cases := []string{"charge-only", "authentication", "sepa"}
	all := make([]*sample.Payment, n)
	for i := range all {
		p, err := sample.Build(cases[i%len(cases)], sample.Params{Seed: seed + uint64(i), Now: time.Now(), Email: fmt.Sprintf("customer-%d@example.com", i)})
		require.NoError(t, err)
		all[i] = p
	}
	return all
}

func eventsOf(payments []*sample.Payment) (events []sample.Event) {
	for _, p := range payments {
		events = append(events, p.Events...)
	}
	return events
}

// posting is load: every event is due at its instant, and what is not acknowledged is sent again, as Stripe does.
type posting struct {
	urls  []string // tried in turn
	tries atomic.Int64
	acked atomic.Int64
}

// spread posts events evenly over a time, and returns once all are acknowledged.
func (p *posting) spread(ctx context.Context, events []sample.Event, over time.Duration) error {
	const connections = 32
	begun := time.Now()
	var next atomic.Int64
	var posts sync.WaitGroup
	for range connections {
		posts.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(events) || !wait(ctx, time.Until(begun.Add(over*time.Duration(i)/time.Duration(len(events))))) {
					return
				}
				for try := i; ; try++ {
					p.tries.Add(1)
					status, err := postTo(p.urls[try%len(p.urls)], events[i].Body)
					if err == nil && status == http.StatusOK {
						p.acked.Add(1)
						break
					}
					if !wait(ctx, 200*time.Millisecond) {
						return
					}
				}
			}
		})
	}
	posts.Wait()
	return ctx.Err()
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// everyFailure reads all failures back over the merchant API.
func everyFailure(t *testing.T, r *replica) (all []apiFailure) {
	t.Helper()
	for query := "/v1/failures?limit=100"; ; {
		var page struct {
			Data    []apiFailure
			HasMore bool `json:"has_more"`
		}
		require.Equal(t, http.StatusOK, r.get(t, query, &page))
		all = append(all, page.Data...)
		if !page.HasMore {
			return all
		}
		query = "/v1/failures?limit=100&starting_after=" + all[len(all)-1].ID
	}
}

// missing lists the events that no failure names.
func missing(events []sample.Event, failures []apiFailure) (ids []string) {
	stored := make(map[string]bool)
	for _, f := range failures {
		for _, id := range f.Events {
			stored[id] = true
		}
	}
	for _, e := range events {
		if !stored[e.ID] {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// kill ends a process as kill -9 does, and returns when.
func kill(t *testing.T, cmd *exec.Cmd) time.Time {
	t.Helper()
	at := time.Now()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return at
}

//go:build figures

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFigureMemory watches the resident memory of a server under load:
//
//	go test -tags figures -run TestFigureMemory -v -timeout 30m ./cmd/rebound
//
// EVENTS (500000) sets the size.
func TestFigureMemory(t *testing.T) {
	const parts, mib = 10, 1 << 20
	events := number(t, "EVENTS", 500_000)
	if residentOf(os.Getpid(), "VmRSS") == 0 {
		t.Skip("there is no /proc here to read resident memory from")
	}
	a := newArena(t)
	address, pid, leave := a.enter("rebound")
	defer leave()
	atRest := residentOf(pid, "VmRSS")

	var table strings.Builder
	fmt.Fprintf(&table, "\n| events | events/s | resident MiB, median (highest) | CPU per event |\n|---|---|---|---|\n| 0 | – | %.0f | – |\n", float64(atRest)/mib)
	var medians []float64
	for part := range parts {
		all := requests(t, rand.Uint64()>>33, events/parts)
		var rate float64
		var samples []float64
		each := a.spent(pid, len(all), func() {
			samples = sampled(200*time.Millisecond, func() float64 { return float64(residentOf(pid, "VmRSS")) / mib },
				func() { rate = blast(t, address, all) })
		})
		medians = append(medians, median(samples))
		fmt.Fprintf(&table, "| %d | %.0f | %.0f (%.0f) | %s |\n", (part+1)*len(all), rate, median(samples), slices.Max(samples), each)
	}
	peak := float64(residentOf(pid, "VmHWM")) / mib
	// The first fifth warms up.
	early, late := median(medians[parts/5:2*parts/5]), median(medians[parts-parts/5:])
	fmt.Fprintf(&table, "\nhighest ever %.0f MiB; the last fifth beside the second: %.2f ×", peak, late/early)
	t.Log(table.String())
	require.LessOrEqual(t, peak, 150.0, "MiB")
	require.LessOrEqual(t, late, 1.1*early, "it grows")
}

// sampled runs work and reads a value at its beginning, its end, and in between.
func sampled(every time.Duration, read func() float64, work func()) []float64 {
	done, all := make(chan struct{}), make(chan []float64)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		values := []float64{read()}
		for {
			select {
			case <-tick.C:
				values = append(values, read())
			case <-done:
				all <- append(values, read())
				return
			}
		}
	}()
	work()
	close(done)
	return <-all
}

// residentOf reads a size, in bytes, from what Linux tells of a process. It is zero where there is none.
func residentOf(pid int, name string) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), name+":")
	line, _, _ := strings.Cut(rest, "kB")
	kib, _ := strconv.Atoi(strings.TrimSpace(line))
	return kib << 10
}

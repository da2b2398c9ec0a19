//go:build figures

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFigureLatency sends events at random instants, 500 in a second, whether or not the ones before are answered, and
// counts from the instant at which each was due: what a queue adds is counted too.
//
//	go test -tags figures -run TestFigureLatency -v -timeout 60m ./cmd/rebound
//
// RATE (500), SECONDS (25, of each turn) and ROUNDS (5) set the size; CONTESTANTS names those that take part.
func TestFigureLatency(t *testing.T) {
	rate, seconds, rounds := number(t, "RATE", 500), number(t, "SECONDS", 25), number(t, "ROUNDS", 5)
	a := newArena(t)
	order := contestants("null", "pgbench", "naive", "rebound")
	turns := make(map[string][]turn)
	for round := range rounds {
		for _, name := range order {
			var took turn
			if name == "pgbench" {
				took = a.pgbenchAt(rate, seconds)
			} else {
				address, pid, leave := a.enter(name)
				blast(t, address, requests(t, rand.Uint64()>>33, 2000))
				all := requests(t, rand.Uint64()>>33, rate*seconds)
				took.cpu = a.spent(pid, len(all), func() { took.latencies = openLoop(t, address, all, rate) })
				leave()
			}
			// The beginning is not counted: connections and caches are cold, pgbench's too.
			took.latencies = took.latencies[len(took.latencies)/10:]
			slices.Sort(took.latencies)
			turns[name] = append(turns[name], took)
			t.Logf("round %d %-8s p50 %s p99 %s p99.9 %s ms; %s", round+1, name, ms(took.at(0.5)), ms(took.at(0.99)), ms(took.at(0.999)), took.cpu)
		}
	}
	over := func(name string) (ratios []float64) {
		for i, took := range turns["rebound"] {
			ratios = append(ratios, took.at(0.99)/turns[name][i].at(0.99))
		}
		return ratios
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n| at %d events/s, medians of %d | p50 ms | p99 ms (lowest–highest) | p99.9 ms | CPU per event | rebound's p99 is |\n|---|---|---|---|---|---|\n", rate, rounds)
	for _, name := range order {
		all := func(of func(turn) float64) (values []float64) {
			for _, took := range turns[name] {
				values = append(values, of(took))
			}
			return values
		}
		p99 := all(func(u turn) float64 { return u.at(0.99) })
		fmt.Fprintf(&table, "| %s | %s | %s (%s–%s) | %s | %s | %.2f × (%.2f–%.2f) |\n", name, ms(median(all(func(u turn) float64 { return u.at(0.5) }))), ms(median(p99)), ms(slices.Min(p99)), ms(slices.Max(p99)),
			ms(median(all(func(u turn) float64 { return u.at(0.999) }))),
			cpu{
				server:   time.Duration(median(all(func(u turn) float64 { return float64(u.cpu.server) }))),
				postgres: time.Duration(median(all(func(u turn) float64 { return float64(u.cpu.postgres) }))),
			},
			median(over(name)), slices.Min(over(name)), slices.Max(over(name)))
	}
	t.Log(table.String())
	for name, most := range map[string]float64{"pgbench": 1.5, "naive": 0.5} {
		if slices.Contains(order, name) && median(over(name)) > most {
			t.Errorf("its p99 is more than %.1f × that of %s", most, name)
		}
	}
}

// turn is what one contestant did in one round.
type turn struct {
	latencies []time.Duration // sorted
	cpu       cpu
}

// at is a quantile of the latencies, in seconds.
func (u turn) at(q float64) float64 {
	return u.latencies[int(q*float64(len(u.latencies)))].Seconds()
}

func ms(seconds float64) string { return strconv.FormatFloat(1000*seconds, 'f', 2, 64) }

// openLoop sends the requests at random instants and returns how long after its instant each was answered, in that order.
func openLoop(t *testing.T, address string, all [][]byte, perSecond int) []time.Duration {
	t.Helper()
	type due struct {
		event int
		at    time.Time
	}
	latencies := make([]time.Duration, len(all))
	work := make(chan due, len(all)) // when all connections wait, lateness counts, and the schedule goes on
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		c, err := dial(address)
		require.NoError(t, err)
		wg.Go(func() {
			defer c.conn.Close()
			for d := range work {
				if c.do(all[d.event]) != nil {
					failed.Add(1)
				}
				latencies[d.event] = time.Since(d.at)
			}
		})
	}
	at := time.Now()
	for i := range all {
		at = at.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(perSecond)))
		// An idle Go program wakes from time.Sleep up to a millisecond late, the system's sleep does not.
		for left := time.Until(at); left > 0; left = time.Until(at) {
			rest := syscall.NsecToTimespec(left.Nanoseconds())
			_ = syscall.Nanosleep(&rest, nil)
		}
		work <- due{i, at}
	}
	close(work)
	wg.Wait()
	require.Zero(t, failed.Load(), "%s refused", address)
	return latencies
}

// pgbenchAt is pgbench's own open loop, which counts from the scheduled instant too.
func (a *arena) pgbenchAt(perSecond, seconds int) (took turn) {
	a.t.Helper()
	prefix := filepath.Join(a.t.TempDir(), "log")
	took.cpu = a.spent(0, perSecond*seconds, func() {
		a.pgbench("-R", strconv.Itoa(perSecond), "-c", "16", "-j", "2", "-T", strconv.Itoa(seconds), "-l", "--log-prefix="+prefix)
	})
	type transaction struct{ ended, latency int } // µs
	var all []transaction
	files, err := filepath.Glob(prefix + ".*")
	require.NoError(a.t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(a.t, err)
		lines := bufio.NewScanner(bytes.NewReader(content))
		for lines.Scan() {
			// client, transaction, latency, script, end in seconds, its µs, lag
			var n [6]int
			for i, f := range strings.Fields(lines.Text())[:len(n)] {
				n[i], err = strconv.Atoi(f)
				require.NoError(a.t, err, lines.Text())
			}
			all = append(all, transaction{ended: n[4]*1e6 + n[5], latency: n[2]})
		}
	}
	require.NotEmpty(a.t, all)
	slices.SortFunc(all, func(x, y transaction) int { return cmp.Compare(x.ended, y.ended) })
	for _, x := range all {
		took.latencies = append(took.latencies, time.Duration(x.latency)*time.Microsecond)
	}
	return took
}

// cpu is the processor time that an event took. It tells more than rates do on a machine with other work.
type cpu struct{ server, postgres time.Duration }

func (c cpu) String() string {
	return fmt.Sprintf("server %d µs, Postgres %d µs", c.server.Microseconds(), c.postgres.Microseconds())
}

// spent runs work and returns the processor time that each of its events took.
func (a *arena) spent(pid, events int, work func()) cpu {
	server, postgres := cpuOf(pid), cpuOf(a.pg.PID())
	work()
	each := func(d time.Duration) time.Duration { return d / time.Duration(events) }
	return cpu{each(cpuOf(pid) - server), each(cpuOf(a.pg.PID()) - postgres)}
}

// cpuOf is the processor time of a process and of its children, those included that have ended. It is zero where there is
// no /proc.
func cpuOf(pid int) (total time.Duration) {
	const tick = 10 * time.Millisecond
	if pid == 0 {
		return 0 // none: the system's first processes are nobody's children
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		content, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		// After the name: state, parent, …; from the 12th on user and system time, and the same of ended children.
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		times := fields[11:13]
		switch strconv.Itoa(pid) {
		case filepath.Base(dir):
			times = fields[11:15]
		case fields[1]:
		default:
			continue
		}
		for _, f := range times {
			n, _ := strconv.Atoi(f)
			total += time.Duration(n) * tick
		}
	}
	return total
}

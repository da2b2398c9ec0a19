package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
	"rebound/store/seal"
	"rebound/store/storetest"
	"rebound/webhook"
)

// The simulation runs the real recorder, sender and watch of up to three processes on a real Postgres, against a provider,
// a mail server, clocks and faults that are drawn from one seed. Every request to Postgres and every step of a mail is a
// point where a process stands until the simulation lets it go on: so transactions of two processes interleave, break off
// and lose their answers in an order that the seed determines, and a seed that fails does so again. (Two at a time: of
// several that wait for one lock, Postgres alone decides who is next.)
//
//	SEEDS=1000 go test ./cmd/rebound -run TestSimulationOf -timeout 1h    many seeds, from SEED or 1 on
//	SEED=17 go test ./cmd/rebound -run TestSimulationOf -v                one, with all that happened

// simulationStart lies ahead of the wall clock: what River dates by itself is due at once.
var simulationStart = time.Date(2099, 3, 1, 12, 0, 0, 0, time.UTC)

func TestSimulationOfFaultsEndsInTheTruth(t *testing.T) {
	t.Parallel()
	first, seeds := wantedSeeds(t)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			log := simulate(t, seed)
			if seeds == 1 {
				t.Log("\n" + strings.Join(log, "\n"))
			}
		})
	}
}

func TestSimulationIsDeterminedByItsSeed(t *testing.T) {
	t.Parallel()
	require.Equal(t, simulate(t, 1), simulate(t, 1))
}

// The simulation cannot see an order of arrival that the facts carry: its truth gets every event at the time when it came
// first.
func TestWhichEventCameFirstDecidesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		facts := make(map[handler.PaymentKey][]handler.Fact)
		for _, e := range newWorld(rng, simulationStart.Unix()-5) {
			for _, f := range e.decode(t, webhook.DecodeOptions{Now: func() time.Time { return simulationStart }}).Facts {
				facts[f.PaymentKey] = append(facts[f.PaymentKey], f)
			}
		}
		for key, of := range facts {
			var first handler.Derived
			for try := range 4 {
				for i, at := range rng.Perm(len(of)) {
					of[i].ReceivedAt = simulationStart.Add(time.Duration(at) * time.Second)
				}
				d := handler.Derive(key, of, nil, decline.Rules{MaxRetriesPerCharge: 4})
				d.Payment.FailedReceivedAt = nil
				for i := range d.Attempts {
					d.Attempts[i].ReceivedAt = time.Time{}
				}
				if try == 0 {
					first = d
				}
				require.Equal(t, first.Payment, d.Payment, "seed %d", seed)
				require.Equal(t, first.Attempts, d.Attempts, "seed %d", seed)
			}
		}
	}
}

// wantedSeeds are SEED and those after it, SEEDS in all; where nothing is asked for, a few that another test does not run
// anyway.
func wantedSeeds(t *testing.T) (first, n uint64) {
	read := func(name string, otherwise uint64) uint64 {
		if os.Getenv(name) == "" {
			return otherwise
		}
		given, err := strconv.ParseUint(os.Getenv(name), 10, 64)
		require.NoError(t, err, name)
		return given
	}
	if os.Getenv("SEED") != "" {
		return read("SEED", 1), read("SEEDS", 1)
	}
	if os.Getenv("SEEDS") != "" {
		return 1, read("SEEDS", 1)
	}
	return 3, 2
}

// history is one seed's run.
type history struct {
	gaps    int // mailInGap's
	t       *testing.T
	ctx     context.Context
	db      *pgxpool.Pool // of the simulation itself: it sees all, and meets no faults
	keys    []seal.Key
	rng     *rand.Rand
	now     atomic.Int64 // Unix microseconds
	atMost  bool
	atPeace bool

	events       []worldEvent
	acknowledged map[int]bool
	processes    []*process
	launched     int
	sink         sink

	claims   map[string]bool   // mails that some process has ever claimed
	statuses map[string]string // of payments, as of the step before
	open     map[string]bool   // claims as of the step before

	steps int
	log   []string
}

// simulate runs one seed, checks what must hold in the end, and returns all that happened.
func simulate(t *testing.T, seed uint64) []string {
	s := newHistory(t, seed)
	defer func() {
		if t.Failed() {
			t.Logf("SEED=%d go test ./cmd/rebound -run TestSimulationOf repeats it", seed)
		}
	}()
	s.events = newWorld(s.rng, simulationStart.Unix()-5)
	s.atMost = s.rng.IntN(3) == 0
	s.note("%d events, at most once: %v", len(s.events), s.atMost)
	for range 2 + s.rng.IntN(2) {
		s.launch()
	}
	s.disorder()
	s.calm()
	s.check()
	return s.log
}

func newHistory(t *testing.T, seed uint64) *history {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	s := &history{t: t, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 0x7265626f756e64)), acknowledged: make(map[int]bool)}
	s.newDatabase()
	s.begin()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("\n" + strings.Join(s.log, "\n"))
		}
		s.killAll()
		cancel()
	})
	return s
}

// begin is the state of things before the first event.
func (s *history) begin() {
	s.set(simulationStart)
	s.sink = sink{taken: make(map[string]int), excused: make(map[string]int), names: make(map[string]string)}
	s.claims, s.statuses, s.open = make(map[string]bool), make(map[string]string), nil
}

// newDatabase gives the simulation an empty database. Its keys are fixed, so that ids are the same in every run.
func (s *history) newDatabase() {
	const wrapped = "AVg8AMlYiR0Fp/1oBR34Zgt7cS0ruEK0CwU0wTcZdWwYdsW22lbtzUyyqE2PKrWnhHs53aPrWq3n/azZxj5H6UY="
	var err error
	s.keys, err = seal.ParseKeys(base64.StdEncoding.EncodeToString([]byte("thirty-two bytes of a simulation")))
	require.NoError(s.t, err)
	s.db, err = pgxpool.New(s.ctx, storetest.New(s.t))
	require.NoError(s.t, err)
	s.t.Cleanup(s.db.Close)
	s.exec(`INSERT INTO keys (name, wrapped) VALUES ('hash', decode($1, 'base64'))`, wrapped)
}

// empty leaves of the database what newDatabase made, which takes a hundred times as long.
func (s *history) empty() {
	for _, table := range rows(s, pgx.RowTo[string], `SELECT tablename FROM pg_tables WHERE schemaname = 'public'
		AND tablename NOT IN ('keys', 'goose_db_version', 'river_migration')`) {
		s.exec(`DELETE FROM ` + pgx.Identifier{table}.Sanitize())
	}
}

// disorder delivers the events, some of them again, while everything fails that can. How often that is, is the seed's: a
// mail has so many steps that few would arrive if much failed at each. So is how long the events keep coming: mails that
// are due meet only those that are late.
func (s *history) disorder() {
	undelivered := s.rng.Perm(len(s.events))
	rate, eager := 10+s.rng.IntN(60), 1+s.rng.IntN(32)
	for range 500 + s.rng.IntN(1000) {
		p := s.processes[s.rng.IntN(len(s.processes))]
		if p.frozen > 0 {
			p.frozen--
			continue
		}
		switch chance := s.rng.IntN(100); {
		case chance < 6:
			s.advance([]time.Duration{time.Second, 6 * time.Second, 21 * time.Second, 61 * time.Second}[s.rng.IntN(4)])
		case chance < 12:
			s.jump()
		case p.held != "" && s.rng.IntN(rate) == 0, p.decisive() && s.rng.IntN(rate) < 4:
			s.fault(p)
		case p.decisive() && chance < 24: // so that another gets through a whole mail, now and then
			s.freeze(p, 100)
		case p.held != "" && chance < 24: // or a transaction
			s.freeze(p, 20)
		case p.held != "":
			s.release(p, answer{outcome: s.drawOutcome()})
		case p.task != nil || s.busy() == 2: // it waits for another's lock, or has to
		case chance < 18:
			s.deliver(p, s.rng.IntN(len(s.events)))
		case chance < 18+eager && len(undelivered) > 0:
			if i := slices.IndexFunc(undelivered, s.mailAtWork); i > 0 && s.rng.IntN(2) == 0 {
				undelivered[0], undelivered[i] = undelivered[i], undelivered[0]
			}
			n := 1 + s.rng.IntN(min(2, len(undelivered)))
			s.deliver(p, undelivered[:n]...)
			undelivered = undelivered[n:]
		case chance < 74:
			s.mail(p)
		case chance < 95:
			s.watch(p)
		case chance < 98:
			s.wake(p)
		default:
			s.crash(p, false)
		}
	}
}

// mailAtWork tells whether somebody works on a mail of the payment that an event is about.
func (s *history) mailAtWork(event int) bool {
	return slices.ContainsFunc(s.processes, func(p *process) bool {
		return p.task != nil && strings.Contains(p.task.name, "_"+s.events[event].payment)
	})
}

// fault does something to a process that stands at a point.
func (s *history) fault(p *process) {
	switch kind := s.rng.IntN(7); kind {
	case 0, 1:
		s.crash(p, kind == 1)
	case 2:
		s.release(p, answer{verdict: cutBefore, outcome: s.drawOutcome()})
	case 3:
		s.release(p, answer{verdict: cutAfter, outcome: s.drawOutcome()})
	case 4:
		s.loseOwner(p)
	case 5:
		s.loseOwner(p)
		s.freeze(p, 100)
	case 6:
		s.freeze(p, 100)
	}
}

// freeze lets a process stand still, up to so many turns.
func (s *history) freeze(p *process, most int) {
	p.frozen = s.rng.IntN(most)
	s.note("%s stands still", p.name)
}

// calm lets all go on without faults: what was not acknowledged is delivered again, and every mail has its time.
func (s *history) calm() {
	s.note("calm")
	s.atPeace = true
	s.finishAll()
	for i := range s.events {
		for tries := 0; !s.acknowledged[i]; tries++ {
			require.Less(s.t, tries, 3, "event %s is refused without a fault", s.events[i].name)
			s.deliver(s.processes[0], i)
			s.finishAll()
		}
	}
	for quiet, round := 0, 0; quiet < 4; round++ {
		require.Less(s.t, round, 400, "mails do not come to rest")
		s.advance(31 * time.Second)
		for _, p := range s.processes {
			s.watch(p)
			s.finishAll()
			s.wake(p)
			s.finishAll()
		}
		quiet++
		for s.mail(s.processes[s.rng.IntN(len(s.processes))]) {
			s.finishAll()
			quiet = 0
		}
		if len(s.open) > 0 || value[int](s, `SELECT count(*) FROM river_job WHERE kind LIKE 'deliver_%' AND state <> 'running'`) > 0 {
			quiet = 0
		}
		s.jump()
	}
}

// jump moves the clock to the next job. It returns false where there is none.
func (s *history) jump() bool {
	at := value[*time.Time](s, `SELECT min(scheduled_at) FROM river_job WHERE kind LIKE 'deliver_%' AND state <> 'running'`)
	if at != nil && at.After(s.time()) {
		s.advance(at.Sub(s.time()))
	}
	return at != nil
}

func (s *history) advance(d time.Duration) {
	s.set(s.time().Add(d))
	s.note("clock +%s", d)
}

func (s *history) time() time.Time  { return time.UnixMicro(s.now.Load()).UTC() }
func (s *history) set(at time.Time) { s.now.Store(at.UnixMicro()) }

func (s *history) step(format string, args ...any) {
	s.steps++
	s.note(format, args...)
}

func (s *history) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%4d %s  ", s.steps, s.time().Format("15:04:05"))+fmt.Sprintf(format, args...))
}

func (s *history) killAll() {
	for len(s.processes) > 0 {
		s.kill(s.processes[0])
	}
}

func (s *history) exec(sql string, args ...any) {
	_, err := s.db.Exec(s.ctx, sql, args...)
	require.NoError(s.t, err, sql)
}

func rows[T any](s *history, read pgx.RowToFunc[T], sql string, args ...any) []T {
	found, _ := s.db.Query(s.ctx, sql, args...)
	all, err := pgx.CollectRows(found, read) // reports Query's error too
	require.NoError(s.t, err, sql)
	return all
}

func value[T any](s *history, sql string, args ...any) T {
	return rows(s, pgx.RowTo[T], sql, args...)[0]
}

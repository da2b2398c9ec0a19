package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/handler"
	"rebound/notify"
	"rebound/store"
	"rebound/store/job"
	"rebound/webhook"
)

// process is one replica: the recorder, the sender and the watch that `serve` runs, on connections of its own.
type process struct {
	name     string
	skew     time.Duration // of its clock
	wire     *wire
	store    *store.Store
	recorder *handler.Recorder
	sender   *notify.Sender
	look     func(context.Context)

	free    atomic.Bool // it does not stop at points: it starts, or serves as the oracle
	points  chan string // where its task comes to
	answers chan answer // how it goes on from there
	done    chan bool   // whether it went well
	dead    chan struct{}

	task    *task
	held    string // the point where its task stands
	frozen  int    // how often it is still passed over
	blocked bool   // its task waits for a lock of another's
	mail    string // the notification that it works on
	sending string // the one that the mail server has and the database does not know of yet
}

type task struct {
	name   string
	finish func(ok bool)
}

type answer struct {
	verdict verdict
	outcome smtpOutcome
}

var errDead = errors.New("the process is dead")

// decisive tells whether what the process is about to do cannot be undone: there a fault hurts the most.
func (p *process) decisive() bool {
	return strings.EqualFold(p.held, "commit") || strings.Contains(p.held, "@")
}

// stop waits at a point.
func (p *process) stop(what string) (answer, error) {
	if p.free.Load() {
		return answer{}, nil
	}
	select {
	case p.points <- what:
	case <-p.dead:
		return answer{verdict: cutBefore}, errDead
	}
	select {
	case a := <-p.answers:
		return a, nil
	case <-p.dead:
		return answer{verdict: cutBefore}, errDead
	}
}

// launch starts a process.
func (s *history) launch() *process {
	db := s.db.Config().ConnConfig
	s.launched++
	p := &process{
		name: fmt.Sprintf("P%d", s.launched), skew: time.Duration(s.rng.IntN(181)-90) * time.Second,
		points: make(chan string), answers: make(chan answer), done: make(chan bool, 1), dead: make(chan struct{}),
	}
	p.free.Store(true)
	defer p.free.Store(false)
	var err error
	p.wire, err = newWire(db, func(pid uint32) { _ = s.gone(`pid = $1`, int64(pid)) }, func(sql string) verdict {
		words := strings.Fields(sql)
		a, _ := p.stop(strings.Join(words[:min(5, len(words))], " "))
		return a.verdict
	})
	require.NoError(s.t, err)
	p.store, err = store.Open(s.ctx, store.Config{
		DSN: p.wire.dsn(db, p.name), Keys: s.keys, MaxConns: 3, Now: func() time.Time { return s.time().Add(p.skew) },
	})
	require.NoError(s.t, err)
	policy := handler.Policy{
		Rules: decline.Rules{MaxRetriesPerCharge: 4}, Hold: time.Minute, HoldWeak: 10 * time.Minute, MaxAge: 30 * 24 * time.Hour,
		MailsInvoices: true, SMTPConfigured: true, MessageIDDomain: "rebound.test",
	}
	p.recorder = handler.NewRecorder(p.store, policy, zap.NewNop(), prometheus.NewRegistry())
	p.sender = notify.NewSender(notify.Config{
		Store: p.store, Mailer: simulatedMailer{s, p}, Log: zap.NewNop(), PublicURL: "https://rebound.test", MaxAge: policy.MaxAge,
		Reminders: []time.Duration{2 * time.Hour}, AtMost: s.atMost,
		Limits:  notify.Limits{PerPayment24h: -1, PerPayment: -1, PerMailbox24h: -1, PerMailbox7d: -1, NewMailboxesPerHour: -1, PerDay: -1},
		Jitter:  func(time.Duration) time.Duration { return 0 },
		Metrics: prometheus.NewRegistry(),
	})
	p.look = p.sender.Watcher()
	s.processes = append(s.processes, p)
	return p
}

// gone ends sessions and waits until Postgres has cleaned up behind them.
func (s *history) gone(where string, arg any) error {
	poll := time.NewTicker(3 * time.Millisecond)
	defer poll.Stop()
	for ; ; <-poll.C {
		var left int
		if err := s.db.QueryRow(s.ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND `+where, arg).
			Scan(&left); err != nil || left == 0 {
			return err
		}
	}
}

// kill ends a process as SIGKILL does: nothing that it still tries reaches anybody.
func (s *history) kill(p *process) {
	close(p.dead)
	p.wire.kill()
	p.sender.Stop(context.Background())
	if p.task != nil {
		<-p.done
	}
	p.recorder.Close()
	p.store.Close()
	s.processes = slices.DeleteFunc(s.processes, func(other *process) bool { return other == p })
}

// crash kills a process, after its present request when that is to reach Postgres, and starts another in its place.
func (s *history) crash(p *process, after bool) {
	if after {
		s.release(p, answer{verdict: cutAfter, outcome: s.drawOutcome()})
	}
	s.step("%s is killed", p.name)
	s.excuse(p)
	s.kill(p)
	require.NoError(s.t, s.gone(`application_name = $1`, p.name))
	s.launch()
	s.settle()
}

// loseOwner ends the session that a process's claims rest on; the process lives on.
func (s *history) loseOwner(p *process) {
	s.step("%s loses its lock", p.name)
	s.excuse(p)
	require.NoError(s.t, s.gone(`application_name = $1 AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2)`, p.name))
	s.settle()
}

// start gives a process something to do, and waits until it stands still.
func (s *history) start(p *process, t task, run func(context.Context) error) {
	s.step("%s %s", p.name, t.name)
	p.task = &t
	go func() { p.done <- run(s.ctx) == nil }()
	s.settle()
}

// release lets a task go on to its next point.
func (s *history) release(p *process, a answer) {
	s.step("%s   %s%s", p.name, p.held, [...]string{proceed: "", cutBefore: " (cut before)", cutAfter: " (answer lost)"}[a.verdict])
	p.held = ""
	p.answers <- a
	s.settle()
}

// settle waits until every task stands at a point, waits for another's lock, or is over; then what must always hold is
// checked.
func (s *history) settle() {
	for changed := true; changed; {
		changed = false
		for _, p := range s.processes {
			if p.task == nil || p.held != "" {
				continue
			}
			was := p.blocked
			s.await(p)
			changed = changed || !p.blocked || !was
		}
	}
	s.inspect()
}

func (s *history) await(p *process) {
	poll := time.NewTicker(3 * time.Millisecond)
	defer poll.Stop()
	for p.blocked = false; !p.blocked; {
		select {
		case p.held = <-p.points:
			return
		case ok := <-p.done: // the error's text may hold a port, so nothing is said of it
			t := p.task
			p.task, p.sending = nil, ""
			s.note("%s   done, %s: %t", p.name, t.name, ok)
			if t.finish != nil {
				t.finish(ok)
			}
			return
		case <-poll.C:
			p.blocked = value[bool](s, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity a, unnest(pg_blocking_pids(a.pid)) AS b
				JOIN pg_stat_activity o ON o.pid = b WHERE a.application_name = $1 AND a.datname = current_database()
				AND a.wait_event_type = 'Lock' AND o.application_name <> $1 AND o.datname = a.datname)`, p.name)
		}
	}
}

// finishAll lets every task run to its end.
func (s *history) finishAll() {
	for s.busy() > 0 {
		require.NoError(s.t, s.ctx.Err(), "a task hangs")
		for _, p := range s.processes {
			if p.held != "" {
				s.release(p, answer{})
			}
		}
	}
}

// busy counts the processes that are at work.
func (s *history) busy() (n int) {
	for _, p := range s.processes {
		if p.task != nil {
			n++
		}
	}
	return n
}

// deliver hands events to a process as one delivery, as events that arrive together share a transaction.
func (s *history) deliver(p *process, which ...int) {
	var d handler.Delivery
	var names []string
	for _, i := range which {
		of := s.decode(p, s.events[i])
		if of.Customer != nil && d.Customer != nil {
			s.deliver(p, i) // a delivery has room for one; the other comes again
			return
		}
		d.Facts = append(d.Facts, of.Facts...)
		if of.Customer != nil {
			d.Customer = of.Customer
		}
		names = append(names, s.events[i].name)
	}
	s.start(p, task{name: "deliver " + strings.Join(names, " + "), finish: func(ok bool) {
		if !ok {
			return
		}
		for _, i := range which {
			s.acknowledged[i] = true
		}
		s.stored(d)
	}}, func(ctx context.Context) error { return p.recorder.Record(ctx, d) })
}

func (s *history) decode(p *process, e worldEvent) handler.Delivery {
	return e.decode(s.t, webhook.DecodeOptions{HashClientSecret: p.store.HashClientSecret, Now: p.store.Now})
}

func (e worldEvent) decode(t *testing.T, o webhook.DecodeOptions) (d handler.Delivery) {
	o.SessionKey, o.EmailKey, o.LocaleKey = "session", "email", "locale"
	var err error
	if e.frame {
		d, _, err = webhook.DecodeFrame(e.body, o, false)
	} else {
		d, _, err = webhook.DecodeStripe(e.body, o)
	}
	require.NoError(t, err, e.name)
	require.Nil(t, d.Quarantine, e.name)
	return d
}

// mail lets a process work a job that is due, as River's workers do. It returns false where there is none; so it does,
// among disorder, at times where there is one. Then it may also be a job that another works on: River takes one that is at
// work for long to be stuck, and has it done again.
func (s *history) mail(p *process) bool {
	skip, stuck := 0, false
	if !s.atPeace {
		skip, stuck = s.rng.IntN(3), s.rng.IntN(4) == 0
	}
	type fetched struct {
		ID   int64
		Args []byte
	}
	jobs := rows(s, pgx.RowToStructByPos[fetched], `UPDATE river_job SET state = 'running', attempt = attempt + 1 WHERE id = (
		SELECT id FROM river_job WHERE kind LIKE 'deliver_%' AND (state IN ('available', 'scheduled', 'retryable') OR state = 'running' AND $3)
		AND scheduled_at <= $1 ORDER BY args::text, id OFFSET $2 LIMIT 1) RETURNING id, args`, s.time(), skip, stuck)
	if len(jobs) == 0 {
		return false
	}
	var args struct {
		ID string `json:"notification_id"`
		job.DeliverDue
	}
	require.NoError(s.t, json.Unmarshal(jobs[0].Args, &args))
	name := value[string](s, `SELECT 'mail ' || coalesce(string_agg(template || ' of ' || payment_id, ', ' ORDER BY id), '') FROM notifications
		WHERE id = $1 OR channel = 'email' AND due_at > $2 AND due_at <= $3`, args.ID, args.After(), args.Until)
	due := rows(s, pgx.RowTo[string], `SELECT id FROM notifications WHERE channel = 'email' AND due_at > $1 AND due_at <= $2`, args.After(), args.Until)
	p.mail = args.ID
	var again time.Duration
	s.start(p, task{name: name, finish: func(ok bool) {
		if !ok {
			again = time.Second // River's first wait
		}
		if again > 0 {
			s.exec(`UPDATE river_job SET state = 'retryable', scheduled_at = $2 WHERE id = $1`, jobs[0].ID, s.time().Add(again))
		} else {
			s.exec(`DELETE FROM river_job WHERE id = $1`, jobs[0].ID)
		}
		if ok {
			require.Empty(s.t, rows(s, pgx.RowTo[string], `SELECT id FROM notifications n WHERE id = ANY($1) AND status = 'held' AND owner = 0
				AND due_at > $2 AND due_at <= $3 -- later events may put it off to another moment, which has its own job
				AND NOT EXISTS (SELECT FROM river_job WHERE args->>'notification_id' = n.id)`, due, args.After(), args.Until), "I6: mails that nothing would send in time")
		}
	}}, func(ctx context.Context) (err error) {
		if args.ID == "" {
			return p.store.QueueDue(ctx, args.DeliverDue)
		}
		again, err = p.sender.Deliver(ctx, args.ID)
		return err
	})
	return true
}

func (s *history) watch(p *process) {
	s.start(p, task{name: "watch"}, func(ctx context.Context) error { p.look(ctx); return nil })
}

func (s *history) wake(p *process) { s.start(p, task{name: "wake"}, p.sender.Wake) }

// smtpOutcome is what the mail server makes of a mail.
type smtpOutcome int

const (
	taken          smtpOutcome = iota
	notNow                     // 451
	refused                    // 550 after the data
	noSuchMailbox              // 550 5.1.1 at RCPT
	closing                    // 421
	lostAfterDot               // it has taken the mail, but we cannot know
	lostBeforeDone             // it has not, and we cannot know
)

func (s *history) drawOutcome() smtpOutcome {
	if n := smtpOutcome(s.rng.IntN(20)); n <= lostBeforeDone {
		return n
	}
	return taken
}

// sink is the mail server's side of the story. One process at a time is there.
type sink struct {
	taken   map[string]int    // copies, by notification
	excused map[string]int    // how many more than one there may be
	names   map[string]string // the Message-ID, of different ones all
	bounces bool
}

// excuse allows one more copy of the mail that a process has at hand: it, or the session that its claims rest on, ends
// between the server's word and the database's.
func (s *history) excuse(p *process) {
	if value[bool](s, `SELECT EXISTS (SELECT 1 FROM notifications WHERE id = $1 AND owner <> 0)`, p.sending) {
		s.sink.excused[p.sending]++
	}
}

type simulatedMailer struct {
	*history
	process *process
}

func (m simulatedMailer) Mailbox(address string) (string, bool) {
	return strings.ToLower(address), strings.Contains(address, "@")
}

func (m simulatedMailer) MaxDuration() time.Duration { return time.Minute }

func (m simulatedMailer) Deliver(ctx context.Context, l notify.Letter) notify.Outcome {
	abandoned := notify.Outcome{Result: notify.Abandoned}
	a, err := m.process.stop("smtp to " + l.To)
	if err != nil {
		return abandoned
	}
	switch a.outcome {
	case notNow:
		return notify.Outcome{Result: notify.Deferred, Code: 451}
	case noSuchMailbox:
		m.sink.bounces = true
		return notify.Outcome{Result: notify.RejectedAddress, Code: 550}
	case closing:
		return notify.Outcome{Result: notify.Paused, Code: 421}
	}
	if l.BeforeDot(ctx) != nil {
		return abandoned
	}
	id := m.process.mail
	switch a.outcome {
	case refused:
		return notify.Outcome{Result: notify.RejectedMail, Code: 550}
	case lostBeforeDone:
		return notify.Outcome{Result: notify.Undecided}
	case lostAfterDot:
		m.sink.excused[id]++
	}
	m.sink.taken[id]++
	if name := m.sink.names[id]; name != l.MessageID {
		m.sink.names[id] = name + l.MessageID
	}
	m.process.sending = id
	if _, err := m.process.stop("250 for " + l.To); err != nil {
		return abandoned
	}
	if a.outcome == lostAfterDot {
		return notify.Outcome{Result: notify.Undecided}
	}
	return notify.Outcome{Result: notify.Accepted, Code: 250}
}

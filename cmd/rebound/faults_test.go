package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/notify/email/smtptest"
	"rebound/store"
	"rebound/store/localpg"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// load posts one event after another, each of a payment of its own, and keeps what came of each.
type load struct {
	public string
	client *http.Client

	seed                   atomic.Uint64
	acknowledged, refusals atomic.Int64
	mu                     sync.Mutex
	stored                 map[string]bool   // payments whose event was acknowledged
	refused                map[string][]byte // events answered 503, by payment
	odd                    []string          // answers that no fault excuses
	slowest                time.Duration     // of the refusals

	ending chan struct{}
	posts  sync.WaitGroup
}

func newLoad(t *testing.T, public string, clients int) *load {
	t.Helper()
	l := &load{
		// Five seconds, and some for a busy machine.
		public: public, client: &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: clients}},
		stored: make(map[string]bool), refused: make(map[string][]byte), ending: make(chan struct{}),
	}
	for range clients {
		l.posts.Go(func() {
			pace := time.NewTicker(100 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-l.ending:
					return
				case <-pace.C:
					l.post()
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	select {
	case <-l.ending:
	default:
		close(l.ending)
	}
	l.posts.Wait()
	l.client.CloseIdleConnections()
}

func (l *load) post() {
	p, err := sample.Build("three-d-secure", sample.Params{Seed: l.seed.Add(1), Now: time.Now()})
	if err != nil {
		panic(err) // the case exists
	}
	body, began := p.Events[0].Body, time.Now()
	resp, err := l.client.Do(signed(l.public, body))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.odd = append(l.odd, err.Error())
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		l.stored[p.PaymentID()] = true
		l.acknowledged.Add(1)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		l.refused[p.PaymentID()] = body
		l.slowest = max(l.slowest, time.Since(began))
		l.refusals.Add(1)
	default:
		l.odd = append(l.odd, resp.Status)
	}
}

func signed(public string, body []byte) *http.Request {
	req, err := http.NewRequest(http.MethodPost, public+"/webhooks/stripe", bytes.NewReader(body))
	if err != nil {
		panic(err) // the URL is a listener's
	}
	req.Header.Set("Stripe-Signature", sample.Sign(body, e2eSecret, time.Now()))
	return req
}

// payments are the ids of all payments that the merchant API lists.
func (r *replica) payments(t *testing.T) map[string]bool {
	t.Helper()
	ids := make(map[string]bool)
	for after := ""; ; {
		var page struct {
			Data    []apiFailure
			HasMore bool `json:"has_more"`
		}
		require.Equal(t, http.StatusOK, r.get(t, "/v1/failures?limit=100"+after, &page))
		for _, f := range page.Data {
			ids[f.Payment] = true
			after = "&starting_after=" + f.ID
		}
		if !page.HasMore {
			return ids
		}
	}
}

// metric reads a value without labels.
func (r *replica) metric(t *testing.T, name string) float64 {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.admin+"/metrics", http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+e2eToken)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, found := strings.CutPrefix(lines.Text(), name+" "); found {
			value, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			return value
		}
	}
	require.Failf(t, "no such metric", "%s: %v", name, lines.Err())
	return 0
}

// lab is a Postgres to be hurt, and a way round what lies between it and the program.
type lab struct {
	test    *testing.T // of the whole, not of one fault
	config  localpg.Config
	pg      *localpg.Server
	control *pgx.Conn // to another database of the same server
	proxy   *tcpProxy
	dsn     string // of the program's database, past the proxy
	through string // the same through the proxy
	small   string // a directory of little space that holds the program's tables; empty where none can be mounted
}

const labDatabase = "lab"

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := dataDirectory(t)
	require.NoError(t, os.Chmod(dir, 0o755)) // as root the server runs as another user, who must get in
	l := &lab{test: t, config: localpg.Config{DataDir: dir, Settings: map[string]string{"max_connections": "40", "fsync": "off"}}}
	l.small = smallDirectory(t)
	l.startPostgres()
	space := ""
	if l.small != "" {
		info, err := os.Stat(l.pg.DataDir())
		require.NoError(t, err)
		owner, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		require.NoError(t, os.Chown(l.small, int(owner.Uid), int(owner.Gid)))
		l.exec(t, `CREATE TABLESPACE small LOCATION '`+l.small+`'`)
		space = " TABLESPACE small"
	}
	l.exec(t, `CREATE DATABASE `+labDatabase+` TEMPLATE template0`+space)
	l.dsn = l.pg.DSN(labDatabase)
	require.NoError(t, store.Migrate(context.Background(), l.dsn))
	l.proxy, l.through = proxied(t, l.dsn)
	return l
}

func (l *lab) startPostgres() {
	l.test.Helper()
	pg, err := localpg.Start(context.Background(), l.config)
	require.NoError(l.test, err)
	l.test.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = pg.Stop(ctx)
	})
	l.pg = pg
	l.control, err = l.connect()
	require.NoError(l.test, err)
}

// connect makes a session that is none of the program's, and that nobody has made read-only.
func (l *lab) connect() (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(l.pg.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["default_transaction_read_only"] = "off"
	return pgx.ConnectConfig(context.Background(), config)
}

func (l *lab) exec(t *testing.T, sql string) {
	t.Helper()
	_, err := l.control.Exec(context.Background(), sql)
	require.NoError(t, err)
}

// smallDirectory mounts a file system of little space, where that is allowed.
func smallDirectory(t *testing.T) string {
	t.Helper()
	dir := dataDirectory(t)
	if err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", dir).Run(); err != nil {
		return ""
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", dir).Run()) })
	return dir
}

// fault hurts Postgres and returns what undoes it.
type fault struct {
	name    string
	inflict func(t *testing.T, l *lab) (heal func())
	ready   bool // Postgres still answers, so readiness has nothing to tell
}

func TestEveryFaultOfPostgresIsRefusedToldAndOutlived(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	peer := smtptest.New(t, smtptest.Options{})
	r, cmd := spawn(t, serveEnv(l.through, newKey(), peer))
	posts := newLoad(t, r.public, 10)
	grown := func(n *atomic.Int64, by int64) func() bool {
		from := n.Load()
		return func() bool { return n.Load() >= from+by }
	}
	ready := func(status int) func() bool {
		return func() bool { return r.get(t, "/readyz", nil) == status }
	}
	require.Eventually(t, grown(&posts.acknowledged, 20), 30*time.Second, 10*time.Millisecond)
	goroutines := r.metric(t, "go_goroutines")
	for _, f := range []fault{
		{"frozen", freeze, false},
		{"black-holed", func(_ *testing.T, l *lab) func() { l.proxy.hold(); return l.proxy.release }, false},
		{"out of connections", takeAllConnections, false},
		{"made read-only under open connections", makeReadOnly, false},
		{"replaced by a read-only one", replaceByReadOnly, false},
		{"disk full", fillDisk, true},
		{"stopped at once and recovering", crash, false},
	} {
		t.Run(f.name, func(t *testing.T) {
			began := time.Now()
			refused := grown(&posts.refusals, 10)
			heal := f.inflict(t, l)
			require.Eventually(t, refused, 30*time.Second, 10*time.Millisecond)
			require.Equal(t, http.StatusOK, r.get(t, "/healthz", nil))
			if !f.ready {
				require.Eventually(t, ready(http.StatusServiceUnavailable), 10*time.Second, 50*time.Millisecond)
			}
			during := r.metric(t, "go_goroutines")
			heal()
			require.Eventually(t, grown(&posts.acknowledged, 50), 30*time.Second, 10*time.Millisecond, "it recovers by itself")
			require.Eventually(t, ready(http.StatusOK), 10*time.Second, 50*time.Millisecond)
			require.Less(t, during, goroutines+150)
			t.Logf("%.1f s; %.0f goroutines before, %.0f during", time.Since(began).Seconds(), goroutines, during)
		})
	}

	// The mails' part of the program has lost its session several times.
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
	posts.end()
	require.Empty(t, posts.odd, "nothing but 200, or 503 with Retry-After")
	for payment, body := range posts.refused { // the provider sends again what was refused
		require.Equal(t, http.StatusOK, r.post(t, body))
		posts.stored[payment] = true
	}
	listed := r.payments(t)
	for payment := range posts.stored {
		require.True(t, listed[payment], payment)
	}
	require.Len(t, listed, len(posts.stored)+1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = peer.WaitHeld(ctx, 1)
	require.NoError(t, err)
	t.Logf("%d acknowledged, %d refused first, the slowest after %.1f s; all %d are there",
		posts.acknowledged.Load(), posts.refusals.Load(), posts.slowest.Seconds(), len(listed))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}

// freeze stops every process of the server.
func freeze(t *testing.T, l *lab) func() {
	t.Helper()
	// The postmaster first, so that there are no new ones.
	pids := []int{l.pg.PID()}
	require.NoError(t, syscall.Kill(l.pg.PID(), syscall.SIGSTOP))
	thaw := sync.OnceFunc(func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // a backend may have ended
		}
	})
	t.Cleanup(thaw)
	rows, err := l.control.Query(context.Background(), `SELECT pid FROM pg_stat_activity`)
	require.NoError(t, err)
	children, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	for _, pid := range children {
		pids = append(pids, pid)
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	return thaw
}

const programsSessions = `FROM pg_stat_activity WHERE datname = '` + labDatabase + `' AND pid <> pg_backend_pid()`

// takeAllConnections opens sessions in the program's place until it has none.
func takeAllConnections(t *testing.T, l *lab) func() {
	t.Helper()
	var taken []*pgx.Conn
	heal := func() {
		for _, conn := range taken {
			_ = conn.Close(context.Background())
		}
		taken = nil
	}
	t.Cleanup(heal)
	require.Eventually(t, func() bool {
		l.exec(t, `SELECT pg_terminate_backend(pid) `+programsSessions)
		for {
			conn, err := l.connect()
			if err != nil {
				break
			}
			taken = append(taken, conn)
		}
		var left int
		require.NoError(t, l.control.QueryRow(context.Background(), `SELECT count(*) `+programsSessions).Scan(&left))
		return left == 0
	}, 30*time.Second, 5*time.Millisecond)
	return heal
}

func makeReadOnly(t *testing.T, l *lab) func() {
	t.Helper()
	l.exec(t, `ALTER SYSTEM SET default_transaction_read_only = on`)
	l.exec(t, `SELECT pg_reload_conf()`)
	return func() {
		l.exec(t, `ALTER SYSTEM RESET default_transaction_read_only`)
		l.exec(t, `SELECT pg_reload_conf()`)
	}
}

// replaceByReadOnly is a failover to a server that is not to be written to: sessions end, and new ones cannot write
// however long they live.
func replaceByReadOnly(t *testing.T, l *lab) func() {
	t.Helper()
	l.exec(t, `ALTER DATABASE `+labDatabase+` SET default_transaction_read_only = on`)
	l.exec(t, `SELECT pg_terminate_backend(pid) `+programsSessions)
	return func() { l.exec(t, `ALTER DATABASE `+labDatabase+` RESET default_transaction_read_only`) }
}

func fillDisk(t *testing.T, l *lab) func() {
	t.Helper()
	if l.small == "" {
		t.Skip("a file system of little space cannot be mounted here")
	}
	path := filepath.Join(l.small, "ballast")
	ballast, err := os.Create(path)
	require.NoError(t, err)
	defer ballast.Close()
	chunk := make([]byte, 4096)
	for err == nil {
		_, err = ballast.Write(chunk)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	return func() { require.NoError(t, os.Remove(path)) }
}

func crash(t *testing.T, l *lab) func() {
	t.Helper()
	require.NoError(t, syscall.Kill(l.pg.PID(), syscall.SIGQUIT))
	<-l.pg.Done()
	return func() {
		_ = l.pg.Stop(context.Background()) // it has ended; its directory is given back
		l.startPostgres()
	}
}

func TestACommitWhoseAnswerIsLostIsOneFailureAndOneMail(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	proxy, through := proxied(t, storetest.New(t))
	r := boot(t, serveEnv(through, newKey(), peer))
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	proxy.loseCommit(p.Events[0].ID) // only what is saved names it
	require.Equal(t, http.StatusServiceUnavailable, r.post(t, p.Events[0].Body))
	require.Equal(t, 1, proxy.lostAnswers())
	require.Len(t, r.failures(t, p.PaymentID()), 1, "the commit itself was not lost")
	require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = peer.WaitHeld(ctx, 1)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		f := r.failures(t, p.PaymentID())
		return len(f) == 1 && f[0].told()["email"] == "sent"
	}, 30*time.Second, 50*time.Millisecond)
	require.Len(t, peer.Held(), 1)
}

func TestSIGTERMUnderLoadAnswersEveryRequestThatCameIn(t *testing.T) {
	t.Parallel()
	const inFlight = 40
	dsn, key := storetest.New(t), newKey()
	r, cmd := spawn(t, serveEnv(dsn, key, nil, setting{"SHUTDOWN_TIMEOUT", "20s"}))
	ctx := context.Background()
	db, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	defer db.Close(ctx)
	tx, err := db.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `LOCK TABLE payments`) // no commit comes through, so all are in flight at once
	require.NoError(t, err)

	var posts, written sync.WaitGroup
	written.Add(inFlight)
	answers := make([]int, inFlight)
	payments := make([]string, inFlight)
	// A request has come in once its handler asks for the body: what the server has not read by then it may drop.
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	trace := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { written.Done() }})
	for i := range inFlight {
		p, err := sample.Build("three-d-secure", sample.Params{Seed: uint64(i), Now: time.Now()})
		require.NoError(t, err)
		payments[i] = p.PaymentID()
		posts.Go(func() {
			req := signed(r.public, p.Events[0].Body).WithContext(trace)
			req.Header.Set("Expect", "100-continue")
			resp, err := client.Do(req)
			if err == nil {
				answers[i] = resp.StatusCode
				_ = resp.Body.Close()
			}
		})
	}
	written.Wait()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	r.log.wait(t, "server.stopping")
	require.Eventually(t, func() bool {
		_, err := postTo(r.public, []byte("{}"))
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "no new request is taken")
	require.NoError(t, tx.Rollback(ctx))
	posts.Wait()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err, "exit code 0")
	case <-time.After(20 * time.Second):
		require.Fail(t, "it outlives SHUTDOWN_TIMEOUT")
	}
	require.NotContains(t, answers, 0, "every request that came in has its answer")
	require.Contains(t, answers, http.StatusOK)
	listed := boot(t, serveEnv(dsn, key, nil)).payments(t)
	for i, payment := range payments {
		require.Equal(t, answers[i] == http.StatusOK, listed[payment], "%s: %d", payment, answers[i])
	}
}

func TestAFrozenReplicaThatLostItsSessionSendsNothingWhenItWakes(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	slow := newTCPProxy(t, "tcp", peer.Addr)
	slow.hold()
	dsn, key := storetest.New(t), newKey()
	frozen, cmd := spawn(t, serveEnv(dsn, key, peer, setting{"PGAPPNAME", "frozen"}, setting{"SMTP_URL", "smtp://" + slow.address + "?tls=none"}))
	p, err := sample.Build("charge-only", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, frozen.post(t, p.Events[0].Body))
	ctx := context.Background()
	db, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	defer db.Close(ctx)
	var owner int64
	require.Eventually(t, func() bool {
		return slow.open() == 1
	}, 30*time.Second, 10*time.Millisecond, "it has claimed the mail, and waits for the mail server's greeting")
	require.NoError(t, db.QueryRow(ctx, `SELECT owner FROM notifications WHERE owner <> 0`).Scan(&owner))
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	_, err = db.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'frozen'`)
	require.NoError(t, err)

	// The other replica takes over after two looks 20 s apart; here the test does it in its stead, for within that time
	// the time limits of SMTP would run out for the frozen one, and its last look before the dot would never come.
	keys, err := seal.ParseKeys(key)
	require.NoError(t, err)
	s, err := store.Open(ctx, store.Config{DSN: dsn, Keys: keys, MaxConns: 2})
	require.NoError(t, err)
	defer s.Close()
	require.Eventually(t, func() bool {
		ids, err := s.TakeOver(ctx, owner, true, 4)
		return err == nil && len(ids) == 1
	}, 10*time.Second, 10*time.Millisecond)
	awake := boot(t, serveEnv(dsn, key, peer))
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = peer.WaitHeld(waiting, 1)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return awake.failures(t, p.PaymentID())[0].told()["email"] == "sent" }, 30*time.Second, 20*time.Millisecond)

	slow.release()
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	line := frozen.log.wait(t, "notification.held")
	require.Equal(t, "abandoned", line["result"])
	require.Equal(t, false, line["settled"])
	require.Equal(t, 2, peer.Reached(smtptest.Data), "the frozen one had come as far as the dot")
	require.Len(t, peer.Held(), 1)
	require.Equal(t, "sent", awake.failures(t, p.PaymentID())[0].told()["email"])
}

// The function stands in for a clock that is off, which no process can have for itself.
func TestAReplicaWhoseClockIsOffHoldsMailsByPostgresClock(t *testing.T) {
	t.Parallel()
	const ahead = 100 * time.Second
	dsn := storetest.New(t)
	db, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	_, err = db.Exec(t.Context(), `CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		RETURN pg_catalog.clock_timestamp() + interval '100 s'`)
	require.NoError(t, err)
	r := boot(t, serveEnv(dsn+"&search_path=public,pg_catalog", newKey(), smtptest.New(t, smtptest.Options{}),
		setting{"NOTIFY_HOLD", "1h"}, setting{"NOTIFY_HOLD_WEAK", "1h"}))
	behind, err := time.ParseDuration(r.log.wait(t, "clock.set")["behind_postgres"].(string))
	require.NoError(t, err)
	require.InDelta(t, ahead.Seconds(), behind.Seconds(), 30)
	said := func(message string) int {
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		return slices.IndexFunc(r.log.lines, func(line map[string]any) bool { return line["msg"] == message })
	}
	require.Less(t, said("clock.set"), said("server.listening"), "nothing is dated before")
	require.Equal(t, http.StatusOK, r.get(t, "/readyz", nil), "it is less than a clock may be off")
	p, err := sample.Build("charge-only", sample.Params{Now: time.Now(), Email: "late@example.com"})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
	var held float64
	require.NoError(t, db.QueryRow(t.Context(), `SELECT extract(epoch FROM due_at - now())::float8 FROM notifications WHERE channel = 'email'`).Scan(&held))
	require.InDelta(t, (time.Hour + ahead).Seconds(), held, 30)
}

// Mails are jobs, which River's leader makes ready by its own clock and which are fetched by Postgres'.
func TestAReplicaWhoseClockIsBehindSendsMailsWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	db, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	for _, function := range []string{"clock_timestamp", "now"} {
		_, err = db.Exec(t.Context(), `CREATE FUNCTION public.`+function+`() RETURNS timestamptz LANGUAGE sql
			RETURN pg_catalog.clock_timestamp() + interval '100 s'`)
		require.NoError(t, err)
	}
	peer := smtptest.New(t, smtptest.Options{})
	r := boot(t, serveEnv(dsn+"&search_path=public,pg_catalog", newKey(), peer, setting{"NOTIFY_HOLD", "1s"}, setting{"NOTIFY_HOLD_WEAK", "1s"}))
	p, err := sample.Build("charge-only", sample.Params{Now: time.Now(), Email: "late@example.com"})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
	require.Eventually(t, func() bool { return len(peer.Held()) == 1 }, 40*time.Second, 20*time.Millisecond)
}

func TestAHangingMailServerHoldsNoConnectionAndSlowsNoWebhook(t *testing.T) {
	t.Parallel()
	const workers = 8
	peer := smtptest.New(t, smtptest.Options{Faults: []smtptest.Fault{{At: smtptest.Greeting, Hang: true}}})
	c, err := loadConfig(serveEnv(storetest.New(t), newKey(), peer, setting{"SHUTDOWN_TIMEOUT", "1s"}), forServing)
	require.NoError(t, err)
	log := newLogLines()
	logger, err := newLogger(log, c.LogLevel, c.LogFormat)
	require.NoError(t, err)
	public, admin, err := listen(c)
	require.NoError(t, err)
	started := make(chan *server, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, c, serveOptions{
			role: "all", db: &database{dsn: c.DatabaseURL}, public: public, admin: admin, log: logger,
			ready: func(s *server) { started <- s },
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	s := <-started
	r := &replica{public: urlOf(public), admin: urlOf(admin), log: log}
	post := func(seed int) {
		p, err := sample.Build("charge-only", sample.Params{Seed: uint64(seed), Now: time.Now(), Email: fmt.Sprintf("hang-%d@example.com", seed)})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.post(t, p.Events[0].Body))
	}
	for i := range workers + 4 {
		post(i)
	}
	require.Eventually(t, func() bool { return peer.Reached(smtptest.Greeting) == workers }, 30*time.Second, 10*time.Millisecond,
		"every worker waits for the mail server")
	// Others of the program come and go on the pool.
	require.Eventually(t, func() bool { return s.store.Pool().Stat().AcquiredConns() == 0 }, 10*time.Second, time.Millisecond)
	for i := range 50 {
		post(100 + i)
	}
	require.Equal(t, workers, peer.Reached(smtptest.Greeting), "they still wait")
	require.Equal(t, http.StatusOK, r.get(t, "/readyz", nil))
}

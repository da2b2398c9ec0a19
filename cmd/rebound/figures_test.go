//go:build figures

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/webhook"

	"rebound/cmd/rebound/internal/sample"
	"rebound/store"
	"rebound/store/localpg"
)

// The figures of the README. They measure, so they are not part of the tests:
//
//	go test -tags figures -run TestFigureIngest -v -timeout 30m ./cmd/rebound
//
// Every contestant runs in a process of its own against one private Postgres with fsync and synchronous_commit on, one
// after the other in each round: only ratios within one run mean anything. SHARED_BUFFERS (1GB) is that Postgres' setting.

const contestant = "REBOUND_FIGURES_CONTESTANT"

func init() {
	switch os.Getenv(contestant) {
	case "null":
		serveContestant(func(e *echo.Echo) error {
			e.POST("/webhooks/stripe", func(c echo.Context) error {
				if _, err := io.ReadAll(c.Request().Body); err != nil {
					return err
				}
				return c.NoContent(http.StatusNoContent)
			})
			return nil
		})
	case "naive":
		serveContestant(naive)
	}
}

func serveContestant(routes func(*echo.Echo) error) {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	if err := routes(e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, `{"level":"info","msg":"server.listening","listen_addr":%q,"admin_addr":"none:0"}`+"\n", l.Addr())
	_ = http.Serve(l, e) //nolint:gosec // a benchmark's opponent on loopback
	os.Exit(0)
}

// naive is the handler that most people write: verify and decode with stripe-go, then event, failure and job in one
// transaction.
func naive(e *echo.Echo) error {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	e.POST("/webhooks/stripe", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		event, err := webhook.ConstructEventWithOptions(body, c.Request().Header.Get("Stripe-Signature"), e2eSecret,
			webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
		if err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		ctx := c.Request().Context()
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO naive_events VALUES ($1, $2, $3, $4, $5)`, event.ID, string(event.Type), event.APIVersion, event.Created, body); err != nil {
				return err
			}
			f, err := naiveOf(event)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, naiveInsert, append([]any{event.ID}, append(f.values(), time.Now())...)...); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `INSERT INTO naive_jobs (event_id, kind, args, run_at) VALUES ($1, 'mail', '{}', now() + interval '1 minute')`, event.ID)
			return err
		})
		if err != nil {
			return c.NoContent(http.StatusServiceUnavailable)
		}
		return c.NoContent(http.StatusOK)
	})
	return nil
}

type naiveFailure struct {
	payment, charge, customer, currency, code, decline, outcome, reason, network, risk string
	brand, last4, country, funding, fingerprint, account                               string
	amount, expMonth, expYear                                                          int64
	livemode                                                                           bool
}

func naiveOf(event stripe.Event) (f naiveFailure, err error) {
	switch event.Type {
	case "charge.failed":
		var ch stripe.Charge
		if err = json.Unmarshal(event.Data.Raw, &ch); err != nil {
			return f, err
		}
		f = naiveOfCharge(&ch)
	default:
		var pi stripe.PaymentIntent
		if err = json.Unmarshal(event.Data.Raw, &pi); err != nil {
			return f, err
		}
		f = naiveFailure{payment: pi.ID, amount: pi.Amount, currency: string(pi.Currency)}
		if pi.LastPaymentError != nil {
			f.code, f.decline = string(pi.LastPaymentError.Code), string(pi.LastPaymentError.DeclineCode)
		}
	}
	f.livemode, f.account = event.Livemode, event.Account
	return f, nil
}

func naiveOfCharge(ch *stripe.Charge) naiveFailure {
	f := naiveFailure{charge: ch.ID, amount: ch.Amount, currency: string(ch.Currency), code: ch.FailureCode}
	if ch.PaymentIntent != nil {
		f.payment = ch.PaymentIntent.ID
	}
	if ch.Customer != nil {
		f.customer = ch.Customer.ID
	}
	if o := ch.Outcome; o != nil {
		f.outcome, f.reason, f.network, f.risk = o.Type, o.Reason, o.NetworkStatus, o.RiskLevel
	}
	if d := ch.PaymentMethodDetails; d != nil && d.Card != nil {
		f.brand, f.last4, f.country, f.funding = string(d.Card.Brand), d.Card.Last4, d.Card.Country, string(d.Card.Funding)
		f.fingerprint, f.expMonth, f.expYear = d.Card.Fingerprint, d.Card.ExpMonth, d.Card.ExpYear
	}
	return f
}

// values are the columns of naive_failures between the event's id and the time.
func (f naiveFailure) values() []any {
	return []any{f.payment, f.charge, f.customer, f.amount, f.currency, f.code, f.decline, f.outcome, f.reason, f.network, f.risk,
		f.brand, f.last4, f.country, f.funding, f.fingerprint, f.expMonth, f.expYear, f.livemode, f.account, "soft", "issuer"}
}

const naiveSchema = `
CREATE TABLE naive_events (id text PRIMARY KEY, type text, api_version text, created bigint, body bytea);
CREATE TABLE naive_failures (event_id text PRIMARY KEY, payment text, charge text, customer text, amount bigint, currency text, code text, decline text,
	outcome text, reason text, network text, risk text, brand text, last4 text, country text, funding text, fingerprint text, exp_month bigint, exp_year bigint,
	livemode boolean, account text, severity text, category text, at timestamptz);
CREATE INDEX ON naive_failures (customer);
CREATE TABLE naive_jobs (id bigserial PRIMARY KEY, event_id text, kind text, args jsonb, run_at timestamptz);
CREATE INDEX ON naive_jobs (run_at);`

const naiveInsert = `INSERT INTO naive_failures VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24)`

// pgbenchScript writes the naive handler's rows of an event without HTTP, signature or JSON. The body is the event's own: one of
// equal bytes would be no row of that handler, since Postgres compresses it to nearly nothing.
func pgbenchScript(t *testing.T, body []byte) string {
	t.Helper()
	var event stripe.Event
	require.NoError(t, json.Unmarshal(body, &event))
	f, err := naiveOf(event)
	require.NoError(t, err)
	text := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	bytea := text(strings.NewReplacer(`\`, `\\`, ":", `\072`).Replace(string(body))) // a colon begins a variable of pgbench's
	const id = `md5(:n::text || :client_id::text || clock_timestamp()::text)`
	values := []string{id}
	for _, v := range f.values() {
		switch v := v.(type) {
		case string:
			if strings.HasPrefix(v, "pi_") || strings.HasPrefix(v, "ch_") || strings.HasPrefix(v, "cus_") {
				values = append(values, text(v[:len(v)-10])+` || lpad(:n::text, 10, '0')`) // each its own, as long as it was
				continue
			}
			values = append(values, text(v))
		default:
			values = append(values, fmt.Sprint(v))
		}
	}
	return fmt.Sprintf(`\set n random(1, 2000000000)
BEGIN;
INSERT INTO naive_events VALUES (%s, %s, %s, %d, %s);
INSERT INTO naive_failures VALUES (%s, now());
INSERT INTO naive_jobs (event_id, kind, args, run_at) VALUES (%s, 'mail', '{}', now() + interval '1 minute');
COMMIT;
`, id, text(string(event.Type)), text(event.APIVersion), event.Created, bytea, strings.Join(values, ", "), id)
}

// arena is the private Postgres of a run.
type arena struct {
	t   *testing.T
	pg  *localpg.Server
	dsn string
	key string // ENCRYPTION_KEY: the same for every start on this database
}

func newArena(t *testing.T) *arena {
	t.Helper()
	dir, err := os.MkdirTemp("", "rebound-figures")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	pg, err := localpg.Start(context.Background(), localpg.Config{DataDir: dir, Settings: map[string]string{"max_wal_size": "4GB", "checkpoint_timeout": "15min", "shared_buffers": cmp.Or(os.Getenv("SHARED_BUFFERS"), "1GB")}})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = pg.Stop(context.Background())
		_ = os.RemoveAll(dir)
	})
	a := &arena{t: t, pg: pg, dsn: pg.DSN("postgres"), key: newKey()}
	require.NoError(t, store.Migrate(context.Background(), a.dsn))
	a.exec(naiveSchema)
	return a
}

func (a *arena) exec(sql string) {
	a.t.Helper()
	db, err := pgx.Connect(context.Background(), a.dsn)
	require.NoError(a.t, err)
	defer db.Close(context.Background())
	_, err = db.Exec(context.Background(), sql)
	require.NoError(a.t, err)
}

// enter starts a contestant and returns its address and how to end it.
func (a *arena) enter(name string, env ...string) (address string, pid int, leave func()) {
	a.t.Helper()
	log := newLogLines()
	cmd := exec.Command(os.Args[0], "serve")
	cmd.Stderr = log
	switch name {
	case "rebound":
		// It logs as it does by default, to a file: reading the lines would be the generator's work.
		lines, err := os.OpenFile(filepath.Join(filepath.Dir(a.pg.DataDir()), "rebound.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(a.t, err)
		defer lines.Close()
		cmd.Stderr = lines
		address = freeAddress(a.t)
		cmd.Env = append(serveEnv(a.dsn, a.key, nil, setting{"NOTIFY_HOLD", "24h"}, setting{"NOTIFY_HOLD_WEAK", "24h"},
			setting{"LISTEN_ADDR", address}), asProgram+"=yes")
	default:
		cmd.Env = append(os.Environ(), contestant+"="+name, "DATABASE_URL="+a.dsn)
	}
	cmd.Env = append(cmd.Env, env...)
	require.NoError(a.t, cmd.Start())
	if address == "" {
		address = log.wait(a.t, "server.listening")["listen_addr"].(string)
	}
	require.Eventually(a.t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	return address, cmd.Process.Pid, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// bodies are those of the two events that tell of a failed payment, 3.3 and 3.9 KB, indented as Stripe sends them.
func bodies(t *testing.T, seed uint64, now time.Time) (two [][]byte) {
	t.Helper()
	p, err := sample.Build("authentication", sample.Params{Seed: seed, Now: now})
	require.NoError(t, err)
	for _, e := range []sample.Event{p.Events[0], p.Events[2]} {
		two = append(two, e.Body)
	}
	return two
}

// requests are signed requests, ready to be written to a connection.
func requests(t *testing.T, seed uint64, n int) [][]byte {
	t.Helper()
	out := make([][]byte, 0, n)
	now := time.Now()
	for i := uint64(0); len(out) < n; i++ {
		for _, body := range bodies(t, seed<<32+i, now) {
			req, err := http.NewRequest(http.MethodPost, "http://rebound.test/webhooks/stripe", bytes.NewReader(body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json; charset=utf-8")
			req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
			req.Header.Set("Stripe-Signature", sample.Sign(body, e2eSecret, now))
			raw, err := httputil.DumpRequestOut(req, true)
			require.NoError(t, err)
			out = append(out, bytes.Replace(raw, []byte("Accept-Encoding: gzip\r\n"), nil, 1))
		}
	}
	return out[:n]
}

// client is one keep-alive connection: a raw one, so that the generator costs little of the two processors.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(address string) (*client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 4096)}, nil
}

var errRefused = errors.New("not 2xx")

func (c *client) do(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := len(status) > 9 && status[9] == '2'
	length := 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if rest, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	if _, err := c.in.Discard(length); err != nil {
		return err
	}
	if !ok {
		return errRefused
	}
	return nil
}

// blast sends all requests over 64 connections, closed loop, and returns the rate.
func blast(t *testing.T, address string, all [][]byte) (perSecond float64) {
	t.Helper()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	begun := time.Now()
	for range 64 {
		c, err := dial(address)
		require.NoError(t, err)
		wg.Go(func() {
			defer c.conn.Close()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				if c.do(all[i]) != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	require.Zero(t, failed.Load(), "%s refused", address)
	return float64(len(all)) / took.Seconds()
}

var pgbenchTPS = regexp.MustCompile(`tps = ([\d.]+) \(without`)

func (a *arena) pgbench(args ...string) string {
	a.t.Helper()
	path, err := exec.LookPath("pgbench")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
		if len(found) == 0 {
			a.t.Skip("there is no pgbench here to compare with")
		}
		path = found[len(found)-1]
	}
	args = append([]string{"-n"}, args...)
	for i, body := range bodies(a.t, rand.Uint64()>>33, time.Now()) {
		script := filepath.Join(a.t.TempDir(), fmt.Sprint("rows", i, ".sql"))
		require.NoError(a.t, os.WriteFile(script, []byte(pgbenchScript(a.t, body)), 0o644))
		args = append(args, "-f", script)
	}
	cmd := exec.Command(path, append(args, a.dsn)...)
	out, err := cmd.CombinedOutput()
	require.NoError(a.t, err, string(out))
	return string(out)
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// contestants are those that take part, in turn: CONTESTANTS, rebound among them, else all.
func contestants(all ...string) []string {
	if only := os.Getenv("CONTESTANTS"); only != "" {
		return strings.Split(only, ",")
	}
	return all
}

// TestFigureIngest has the contestants take events as fast as they can, 64 connections each; CONTESTANTS names those that take
// part, ROUNDS (3) how often each does.
func TestFigureIngest(t *testing.T) {
	rounds := number(t, "ROUNDS", 3)
	a := newArena(t)
	rates := make(map[string][]float64)
	costs := make(map[string]cpu) // of the last round
	order := contestants("null", "naive", "pgbench", "rebound")
	for round := range rounds {
		for _, name := range order {
			var rate float64
			if name == "pgbench" {
				out := a.pgbench("-c", "32", "-j", "2", "-T", "6")
				m := pgbenchTPS.FindStringSubmatch(out)
				require.NotNil(t, m, out)
				rate, _ = strconv.ParseFloat(m[1], 64)
			} else {
				n := map[string]int{"null": 120_000, "naive": 9_000, "rebound": 40_000}[name]
				address, pid, leave := a.enter(name)
				warm := requests(t, rand.Uint64()>>33, 2000)
				blast(t, address, warm)
				load := requests(t, rand.Uint64()>>33, n)
				costs[name] = a.spent(pid, n, func() { rate = blast(t, address, load) })
				leave()
			}
			rates[name] = append(rates[name], rate)
			t.Logf("round %d %-8s %8.0f events/s", round+1, name, rate)
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n| contestant | events/s (median of %d) | lowest–highest | rebound is | CPU per event |\n|---|---|---|---|---|\n", rounds)
	for _, name := range order {
		var ratios []float64
		for i := range rates[name] {
			ratios = append(ratios, rates["rebound"][i]/rates[name][i])
		}
		fmt.Fprintf(&table, "| %s | %.0f | %.0f–%.0f | %.2f × (%.2f–%.2f) | %s |\n", name, median(rates[name]), slices.Min(rates[name]), slices.Max(rates[name]),
			median(ratios), slices.Min(ratios), slices.Max(ratios), costs[name])
	}
	t.Log(table.String())
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v79/webhook"

	"rebound/cmd/rebound/internal/sample"
	"rebound/notify/email/smtptest"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// call runs a command to its end.
func call(t *testing.T, environ []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	err = run(t.Context(), args, environ, &out, &log)
	return out.String(), log.String(), err
}

func TestExplainNeedsNoDatabaseAndHidesWhatCustomersMustNotLearn(t *testing.T) {
	t.Parallel()
	out, _, err := call(t, nil, "explain", "stolen_card", "--json")
	require.NoError(t, err)
	var said struct {
		explained
		Object string
		Also   []explained
	}
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	require.Equal(t, "decline_code", said.Object)
	require.True(t, said.Known)
	require.False(t, said.Disclosable)
	require.Equal(t, "generic_decline", said.Message.Code)
	require.NotContains(t, said.Message.Text, "stolen")

	german, _, err := call(t, nil, "explain", "insufficient_funds", "--source", "stripe", "--locale", "de", "--json")
	require.NoError(t, err)
	require.Contains(t, german, `"locale": "`)
	table, _, err := call(t, nil, "explain", "Insufficient Funds")
	require.NoError(t, err)
	require.Contains(t, table, "customer may know  yes")
	network, _, err := call(t, nil, "explain", "visa:51")
	require.NoError(t, err)
	require.Contains(t, network, "network_decline_codes visa")
	catalog, err := os.ReadFile(filepath.Join("..", "..", "decline", "CATALOG.md"))
	require.NoError(t, err)
	reference, _, err := call(t, nil, "explain", "--all")
	require.NoError(t, err)
	require.Equal(t, string(catalog), reference, "the reference and the command say the same")
	all, _, err := call(t, nil, "explain", "--all", "--source", "stripe")
	require.NoError(t, err)
	require.Contains(t, all, "insufficient_funds")
}

func TestAnUnknownCodeHasAVerdictToo(t *testing.T) {
	t.Parallel()
	out, _, err := call(t, nil, "explain", "insuficient_funds")
	require.NoError(t, err)
	require.Contains(t, out, "Spelled alike: insufficient_funds")
	require.Contains(t, out, "customer may know  no")
}

func TestABadCommandLineEndsWithTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"explain"}, {"explain", "x", "--all"}, {"serve", "--role", "boss"}, {"nonsense"}, {},
		{"simulate", "--url", "nowhere", "--secret", "x"}, {"simulate", "--case", "nonsense", "--secret", "x"}, {"simulate", "--url", "https://rebound.example"},
		{"dev", "--shop", "0.0.0.0:8082"},
	} {
		_, _, err := call(t, nil, args...)
		require.Equal(t, 2, exitCode(err), "%v: %v", args, err)
	}
	_, _, err := call(t, nil, "--help")
	require.Equal(t, 0, exitCode(err))
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { panic("broken") }

func TestAPanicIsNotTakenForSuccess(t *testing.T) {
	t.Parallel()
	require.PanicsWithValue(t, "broken", func() {
		_ = run(t.Context(), []string{"explain", "stolen_card", "--json"}, nil, brokenWriter{}, io.Discard)
	})
}

func fileWith(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "value")
	require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

// endpoint is a provider's view of a server: it verifies, counts and answers.
type endpointDouble struct {
	*httptest.Server
	mu     sync.Mutex
	types  map[string]int
	ids    map[string]bool
	forged int
}

func newEndpoint(t *testing.T, status int) *endpointDouble {
	t.Helper()
	e := &endpointDouble{types: map[string]int{}, ids: map[string]bool{}}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var event struct{ ID, Type string }
		e.mu.Lock()
		defer e.mu.Unlock()
		if err != nil || r.URL.Path != "/webhooks/stripe" || json.Unmarshal(body, &event) != nil ||
			webhook.ValidatePayload(body, r.Header.Get("Stripe-Signature"), goodSecret) != nil {
			e.forged++
		}
		e.types[event.Type]++
		e.ids[event.ID] = true
		w.WriteHeader(status)
	}))
	t.Cleanup(e.Close)
	return e
}

func TestSimulatePostsSignedEventsAndReportsTheAnswers(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, http.StatusOK)
	out, errors, err := call(t, []string{"STRIPE_WEBHOOK_SECRET=" + goodSecret + ", other"}, "simulate", "--url", e.URL)
	require.NoError(t, err)
	require.Zero(t, e.forged)
	require.Equal(t, map[string]int{"charge.failed": 7, "payment_intent.payment_failed": 7}, e.types, "one payment of each case")
	require.Contains(t, out, "14      200 OK")
	require.Empty(t, errors, "the bar is for terminals")

	e = newEndpoint(t, http.StatusOK)
	_, _, err = call(t, nil, "simulate", "--url", e.URL, "--secret", goodSecret, "--case", "pair", "--count", "5", "--recover", "--rate", "1000")
	require.NoError(t, err)
	require.Zero(t, e.forged)
	require.Len(t, e.ids, 20, "ids differ from payment to payment")
	require.Equal(t, 5, e.types["charge.succeeded"])
}

func TestSimulateKnowsTheSecretOfADevOnThisMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, devSecretsFile), []byte(`{"webhook_secret":"`+goodSecret+`"}`), 0o600))
	e := newEndpoint(t, http.StatusOK)
	_, _, err := call(t, []string{"DATA_DIR=" + dir}, "simulate", "--url", e.URL, "--case", "sepa")
	require.NoError(t, err)
	_, _, err = call(t, []string{"DATA_DIR_FILE=" + fileWith(t, dir)}, "simulate", "--url", e.URL, "--case", "sepa")
	require.NoError(t, err)
	require.Zero(t, e.forged)
}

func TestSimulateFailsWhenTheServerRefuses(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, http.StatusServiceUnavailable)
	out, _, err := call(t, nil, "simulate", "--url", e.URL, "--secret", goodSecret, "--case", "pair")
	require.ErrorContains(t, err, "2 events were not answered with 2xx")
	require.Equal(t, 1, exitCode(err))
	require.Contains(t, out, "503 Service Unavailable")
	e.Close()
	out, _, err = call(t, nil, "simulate", "--url", e.URL, "--secret", goodSecret, "--case", "pair")
	require.Equal(t, 1, exitCode(err))
	require.Contains(t, out, "no answer: ")
	require.NotContains(t, out, "127.0.0.1:", "equal causes count together")
}

func TestARateIsKept(t *testing.T) {
	t.Parallel()
	p := newPace(100)
	first := p.next
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no waiting here: only the places in the queue matter
	for range 50 {
		_ = p.wait(ctx)
	}
	require.Equal(t, 500*time.Millisecond, p.next.Sub(first))
}

func TestMigrateGoesUpTellsAndGoesDown(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=" + storetest.NewEmpty(t)}
	out, _, err := call(t, environ, "migrate", "status")
	require.NoError(t, err)
	require.Regexp(t, `00001\S* +pending`, out)
	require.Contains(t, out, "river")
	out, _, err = call(t, environ, "migrate", "up")
	require.NoError(t, err)
	require.Regexp(t, `00001\S* +applied 20`, out)
	require.NotContains(t, out, " pending\n")
	out, _, err = call(t, environ, "migrate", "down")
	require.NoError(t, err)
	require.Contains(t, out, " pending\n")
	_, _, err = call(t, environ, "migrate", "up")
	require.NoError(t, err, "up again after down")
}

func TestAKeyOfAnotherDatabaseIsAFaultOfTheConfiguration(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	_, _, err := call(t, []string{"DATABASE_URL=" + dsn, "ENCRYPTION_KEY=" + seal.GenerateKey()}, "erase", "--customer", "cus_1")
	require.NoError(t, err, "the first key is the database's")
	for _, command := range [][]string{{"serve"}, {"erase", "--customer", "cus_1"}} {
		_, log, err := call(t, complete("DATABASE_URL="+dsn, "ENCRYPTION_KEY="+seal.GenerateKey()), command...)
		require.Equal(t, 2, exitCode(err), "%v: %v", command, err)
		var faults configFaults
		require.ErrorAs(t, err, &faults)
		require.Len(t, faults, 1)
		require.Contains(t, faults[0], "ENCRYPTION_KEY: no key fits this database")
		require.NotContains(t, log, "server.listening")
	}
}

func TestServeRefusesASchemaThatIsBehindUnlessToldToMigrate(t *testing.T) {
	t.Parallel()
	environ := []string{
		"DATABASE_URL=" + storetest.NewEmpty(t), "ENCRYPTION_KEY=" + seal.GenerateKey(), "STRIPE_WEBHOOK_SECRET=" + goodSecret,
		"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0",
	}
	_, log, err := call(t, environ, "serve")
	require.ErrorContains(t, err, "rebound migrate up")
	require.Equal(t, 1, exitCode(err))
	require.NotContains(t, log, "server.listening")

	c := start(t, append(environ, "MIGRATE_ON_START=true"), "serve")
	c.stderr.find(t, `"(server.listening)"`, c.done)
	c.cancel()
	<-c.done
	require.NoError(t, c.err)
}

func TestAnOlderProgramServesOnTheSchemaOfANewerOne(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `WITH ours AS (INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true))
		INSERT INTO river_migration (line, version) VALUES ('main', 9999)`)
	require.NoError(t, err)
	key := seal.GenerateKey()
	for _, migrates := range []string{"false", "true"} {
		c := start(t, []string{
			"DATABASE_URL=" + dsn, "ENCRYPTION_KEY=" + key, "STRIPE_WEBHOOK_SECRET=" + goodSecret,
			"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "MIGRATE_ON_START=" + migrates,
		}, "serve")
		c.stderr.find(t, `"(server.listening)"`, c.done)
		c.cancel()
		<-c.done
		require.NoError(t, c.err)
	}
}

func TestARoleServesItsOwnRoutes(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	environ := []string{
		"DATABASE_URL=" + dsn, "ENCRYPTION_KEY=" + seal.GenerateKey(), "STRIPE_WEBHOOK_SECRET=" + goodSecret,
		"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0",
	}
	for role, webhookStatus := range map[string]int{"ingest": http.StatusBadRequest, "work": http.StatusNotFound} {
		c := start(t, environ, "serve", "--role", role)
		public := "http://" + c.stderr.find(t, `"server.listening","listen_addr":"([^"]+)"`, c.done)
		admin := "http://" + c.stderr.find(t, `"admin_addr":"([^"]+)","public_url":"[^"]*","role"`, c.done)
		status := func(method, url string) int {
			request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
			require.NoError(t, err)
			answer, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			_ = answer.Body.Close()
			return answer.StatusCode
		}
		require.Equal(t, http.StatusOK, status(http.MethodGet, public+"/healthz"), role)
		require.Equal(t, http.StatusOK, status(http.MethodGet, public+"/readyz"), role)
		require.Equal(t, http.StatusOK, status(http.MethodGet, admin+"/readyz"), role)
		for _, url := range []string{public + "/healthz", public + "/readyz", admin + "/healthz", admin + "/readyz"} {
			require.Equal(t, http.StatusOK, status(http.MethodHead, url), "%s HEAD %s", role, url)
		}
		require.Equal(t, http.StatusOK, status(http.MethodGet, admin+"/metrics"), role)
		require.Equal(t, webhookStatus, status(http.MethodPost, public+"/webhooks/stripe"), role)
		require.Equal(t, http.StatusNotFound, status(http.MethodGet, public+"/v1/failures"), "the merchant API is the admin listener's")
		c.cancel()
		<-c.done
		require.NoError(t, c.err, role)
		require.NotContains(t, c.stderr.String(), `"level":"error"`, role)
	}
}

func TestAnOpenCheckoutStreamDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	c := start(t, []string{
		"DATABASE_URL=" + storetest.New(t), "ENCRYPTION_KEY=" + seal.GenerateKey(), "STRIPE_WEBHOOK_SECRET=" + goodSecret,
		"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "SHUTDOWN_TIMEOUT=10s",
	}, "serve")
	public := "http://" + c.stderr.find(t, `"server.listening","listen_addr":"([^"]+)"`, c.done)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, public+"/v1/checkout/events", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer pi_1_secret_2")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	c.cancel()
	_, _ = io.ReadAll(answer.Body) // the server ends the stream
	<-c.done
	require.NoError(t, c.err)
	require.Contains(t, c.stderr.String(), `"reason":"shutdown"`, "ended, not cut off at the time limit")
	require.NotContains(t, c.stderr.String(), "_secret_")
}

func TestAServerThatIsToldToEndWhileItWaitsForItsNumbersLockEnds(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	const class = `'owner_numbers'::regclass::oid` // of the locks on processes' numbers
	_, err = conn.Exec(t.Context(), `SELECT pg_advisory_lock(`+class+`::int, 1)`)
	require.NoError(t, err)
	c := start(t, complete("DATABASE_URL="+dsn, "LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "LOG_FORMAT=json"), "serve")
	require.Eventually(t, func() bool {
		var waits bool
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = `+class+` AND NOT granted)`).Scan(&waits)
		return err == nil && waits
	}, 30*time.Second, 10*time.Millisecond)
	c.cancel()
	select {
	case <-c.done:
		require.NoError(t, c.err)
	case <-time.After(30 * time.Second):
		require.NoError(t, conn.Close(t.Context()))
		require.Fail(t, "it still waits")
	}
}

func TestAServerThatIsToldToEndWhilePostgresIsSilentEndsAtOnce(t *testing.T) {
	t.Parallel()
	dsn := storetest.New(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for _, table := range []string{"goose_db_version", "keys"} { // the first that the check of the schema, and the store, ask for
		proxy, through := proxied(t, dsn)
		_, err = conn.Exec(t.Context(), `BEGIN; LOCK TABLE `+table)
		require.NoError(t, err)
		c := start(t, complete("DATABASE_URL="+through, "LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "LOG_FORMAT=json"), "serve")
		require.Eventually(t, func() bool {
			var waits bool
			err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)`, table).Scan(&waits)
			return err == nil && waits
		}, 30*time.Second, 10*time.Millisecond)
		proxy.hold()
		c.cancel()
		select {
		case <-c.done:
			require.NoError(t, c.err)
		case <-time.After(10 * time.Second):
			proxy.release()
			require.Fail(t, "it waits for Postgres", table)
		}
		proxy.release()
		_, err = conn.Exec(t.Context(), `ROLLBACK`)
		require.NoError(t, err)
	}
}

func TestAServerThatIsToldToEndBeforeItHasPostgresHasNotFailed(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	environ := complete("DATA_DIR="+dataDirectory(t), "LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "LOG_FORMAT=json")
	for _, args := range [][]string{{"serve"}, {"dev", "--shop", "127.0.0.1:0"}} {
		c := start(t, append(environ, "DATABASE_URL=postgres://u:p@"+closed.Addr().String()+"/db?sslmode=disable"), args...)
		c.stderr.find(t, `(postgres.unreachable)`, c.done)
		c.cancel()
		<-c.done
		require.NoError(t, c.err, args)

		c = start(t, append(environ, "DATABASE_URL=postgres://u:p@"+silent.Addr().String()+"/db?sslmode=disable"), args...)
		connection, err := silent.Accept()
		require.NoError(t, err)
		c.cancel()
		<-c.done
		require.NoError(t, c.err, args)
		_ = connection.Close()
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"serve", "--no-download"}, {"dev", "--no-download", "--shop", "127.0.0.1:0"}} {
		require.NoError(t, run(ended, args, environ, io.Discard, io.Discard), "%v with a private Postgres", args)
	}
	err = run(ended, []string{"simulate", "--secret", goodSecret}, nil, io.Discard, io.Discard)
	require.ErrorIs(t, err, context.Canceled, "a simulation that was cut short is not a success")
}

func TestASecondSignalEndsTheProgramAtOnce(t *testing.T) {
	t.Parallel()
	r, cmd := spawn(t, serveEnv(storetest.New(t), newKey(), nil, setting{"SHUTDOWN_TIMEOUT", "60s"}))
	half, err := net.Dial("tcp", strings.TrimPrefix(r.public, "http://"))
	require.NoError(t, err)
	defer half.Close()
	_, err = io.WriteString(half, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n") // holds up the end
	require.NoError(t, err)
	_, err = bufio.NewReader(half).ReadString('\n') // its handler waits for the body
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	r.log.wait(t, "server.stopping")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			require.ErrorContains(t, err, "terminated", "killed by the signal, not ended by itself")
			return
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}
}

// A mail server that never answers the final dot may take ten minutes; the program must not.
func TestAMailWithoutAnAnswerDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{Faults: []smtptest.Fault{{At: smtptest.Dot, Hang: true}}})
	dsn := storetest.New(t)
	c := start(t, []string{
		"DATABASE_URL=" + dsn, "ENCRYPTION_KEY=" + seal.GenerateKey(), "STRIPE_WEBHOOK_SECRET=" + goodSecret,
		"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "MODE=test", "NOTIFY_HOLD=0s", "SMTP_URL=" + peer.URL(),
		"MAIL_FROM=pay@shop.example", "MAIL_REPLY_TO=help@shop.example", "MERCHANT_NAME=Shop", "PAYMENT_URL=https://shop.example/", "SHUTDOWN_TIMEOUT=4s",
	}, "serve")
	public := "http://" + c.stderr.find(t, `"server.listening","listen_addr":"([^"]+)"`, c.done)
	payment, err := sample.Build("authentication", sample.Params{Seed: 1, Now: time.Now()})
	require.NoError(t, err)
	for _, e := range payment.Events {
		_, ok := postEvent(t.Context(), http.DefaultClient, public+"/webhooks/stripe", goodSecret, e)
		require.True(t, ok)
	}
	_, err = peer.WaitHeld(t.Context(), 1)
	require.NoError(t, err)
	c.cancel()
	<-c.done
	require.NoError(t, c.err)
	require.Contains(t, c.stderr.String(), "server.stopped")
	require.Len(t, peer.Held(), 1, "nothing is sent while it ends")
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/notify/email/smtptest"
	"rebound/store"
	"rebound/store/localpg"
	"rebound/store/storetest"
)

// spawn starts the program as a process of its own.
func spawn(t *testing.T, env []string) (*replica, *exec.Cmd) {
	t.Helper()
	r := &replica{log: newLogLines()}
	cmd := exec.Command(os.Args[0], "serve")
	cmd.Env, cmd.Stderr = append(env, asProgram+"=yes"), r.log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line := r.log.wait(t, "server.listening")
	r.public, r.admin = "http://"+line["listen_addr"].(string), "http://"+line["admin_addr"].(string)
	return r, cmd
}

func TestMailsHeldAtAKillGoOutExactlyOnceAfterARestart(t *testing.T) {
	t.Parallel()
	const payments = 20
	peer := smtptest.New(t, smtptest.Options{})
	env := serveEnv(storetest.New(t), newKey(), peer, setting{"NOTIFY_HOLD", "31s"}, setting{"NOTIFY_HOLD_WEAK", "31s"}) // long enough to share a job
	r, cmd := spawn(t, env)
	for i := range payments {
		p, err := sample.Build("charge-only", sample.Params{Seed: uint64(i), Now: time.Now(), Email: fmt.Sprintf("held-%d@example.com", i)})
		require.NoError(t, err)
		for _, e := range p.Events {
			require.Equal(t, http.StatusOK, r.post(t, e.Body))
		}
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	before := len(peer.Held())

	r, _ = spawn(t, env)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	_, err := peer.WaitHeld(ctx, payments)
	require.NoError(t, err, "%d mails before the kill", before)
	require.Eventually(t, func() bool {
		var list struct{ Data []apiFailure }
		r.get(t, "/v1/failures?limit=100", &list)
		sent := 0
		for _, f := range list.Data {
			if f.told()["email"] == "sent" {
				sent++
			}
		}
		return sent == payments
	}, 60*time.Second, 100*time.Millisecond)
	to := make(map[string]int)
	for _, m := range peer.Held() {
		to[m.To]++
	}
	require.Len(t, to, payments)
	for address, n := range to {
		require.Equal(t, 1, n, address)
	}
}

func TestNothingIsAcknowledgedThatPostgresDoesNotHold(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "rebound-outage")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755)) // as root the server runs as another user, who must get in
	config := localpg.Config{DataDir: dir}
	pg, err := localpg.Start(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	dsn := pg.DSN("postgres")
	require.NoError(t, store.Migrate(ctx, dsn))
	r := boot(t, serveEnv(dsn, newKey(), nil))

	var acknowledged, refused sync.Map
	var stopping atomic.Bool
	var posts sync.WaitGroup
	client := func(worker int) {
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for i := 0; !stopping.Load(); i++ {
			<-pace.C
			p, err := sample.Build("charge-only", sample.Params{Seed: uint64(worker*1_000_000 + i), Now: time.Now()})
			if err != nil {
				return
			}
			status, err := postTo(r.public, p.Events[0].Body)
			if err == nil && status == http.StatusOK {
				acknowledged.Store(p.Charge, true)
			} else {
				refused.Store(p.Charge, p.Events[0].Body)
			}
		}
	}
	for worker := range 4 {
		posts.Go(func() { client(worker) })
	}
	size := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	require.Eventually(t, func() bool { return size(&acknowledged) > 20 }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, pg.Stop(ctx))
	if length, err := time.ParseDuration(os.Getenv("OUTAGE")); err == nil {
		<-time.After(length) // OUTAGE=20s makes it a long one
	}
	require.Eventually(t, func() bool { return size(&refused) > 8 }, 60*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return r.get(t, "/readyz", nil) == http.StatusServiceUnavailable }, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, http.StatusOK, r.get(t, "/healthz", nil))
	again, err := localpg.Start(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = again.Stop(context.Background()) })
	held := size(&acknowledged)
	require.Eventually(t, func() bool { return size(&acknowledged) > held+20 }, 60*time.Second, 10*time.Millisecond, "it recovers by itself")
	stopping.Store(true)
	posts.Wait()

	// The provider sends again what was refused.
	refused.Range(func(charge, body any) bool {
		require.Equal(t, http.StatusOK, r.post(t, body.([]byte)))
		acknowledged.Store(charge, true)
		return true
	})
	db, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	defer db.Close(ctx)
	var charges []string
	acknowledged.Range(func(charge, _ any) bool { charges = append(charges, charge.(string)); return true })
	var stored int
	require.NoError(t, db.QueryRow(ctx, `SELECT count(*) FROM attempts WHERE charge = ANY($1)`, charges).Scan(&stored))
	require.Equal(t, len(charges), stored)
	t.Logf("%d acknowledged, %d of them refused at first and sent again, %d stored", len(charges), size(&refused), stored)
}

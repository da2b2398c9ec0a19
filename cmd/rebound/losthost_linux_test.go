package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// vanish is the end of a host without a word: nothing that is sent on a connection is acknowledged any more, and none is
// closed. New connections lead to whoever has taken its place.
func (p *tcpProxy) vanish(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, near := range p.conns {
		if !near {
			continue
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // no packet comes in
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
		}))
		require.NoError(t, err)
		p.gone[c] = true
	}
	for c, near := range p.conns {
		if !near {
			_ = c.Close()
		}
	}
}

func TestAConnectionWhoseHostIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	proxy, through := proxied(t, storetest.New(t))
	keys, err := seal.ParseKeys(newKey())
	require.NoError(t, err)
	ctx := context.Background() // the job queue asks without a time limit
	s, err := store.Open(ctx, store.Config{DSN: through, Keys: keys, MaxConns: 8})
	require.NoError(t, err)
	defer s.Close()
	var taken []*pgxpool.Conn
	for range 8 {
		conn, err := s.Pool().Acquire(ctx)
		require.NoError(t, err)
		taken = append(taken, conn)
	}
	answered := make(chan struct{}, 2) // with or without an error
	go func() {
		_, _ = taken[0].Exec(ctx, `SELECT pg_sleep(600)`)
		taken[0].Release()
		answered <- struct{}{}
	}()
	for _, conn := range taken[1:] {
		conn.Release()
	}
	var asked bool
	require.Eventually(t, func() bool {
		return s.Pool().QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND wait_event = 'PgSleep')`).
			Scan(&asked) == nil && asked
	}, 30*time.Second, 10*time.Millisecond)

	proxy.vanish(t)
	go func() {
		_, _ = s.Pool().Exec(ctx, `SELECT 1`) // on a connection that had been at rest
		answered <- struct{}{}
	}()
	for range 2 {
		select {
		case <-answered:
		case <-time.After(90 * time.Second):
			require.Fail(t, "it still waits for the host that is gone")
		}
	}
	for range 8 { // one is lost at each, at most
		if _, err = s.Pool().Exec(ctx, `SELECT 1`); err == nil {
			break
		}
	}
	require.NoError(t, err)
}

package main

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// tcpProxy stands between a program and a server of its own, and fails as networks do.
type tcpProxy struct {
	address         string
	network, target string

	mu     sync.Mutex
	gate   chan struct{}     // closed while bytes flow
	marker []byte            // the COMMIT that comes with it loses its answer; nil: none
	lost   int               // answers lost
	conns  map[net.Conn]bool // true: the program's end
	gone   map[net.Conn]bool // ends that are to stay as they are
}

func newTCPProxy(t *testing.T, network, target string) *tcpProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tcpProxy{
		address: listener.Addr().String(), network: network, target: target,
		gate: make(chan struct{}), conns: make(map[net.Conn]bool), gone: make(map[net.Conn]bool),
	}
	close(p.gate)
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			pumps.Go(func() { p.carry(near) })
		}
	})
	t.Cleanup(func() {
		p.release()
		_ = listener.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		pumps.Wait()
	})
	return p
}

// proxied is a proxy before the Postgres of dsn, and the connection string that leads through it.
func proxied(t *testing.T, dsn string) (p *tcpProxy, through string) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	network, target := pgconn.NetworkAddress(config.Host, config.Port)
	p = newTCPProxy(t, network, target)
	u := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password), Host: p.address, Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	return p, u.String()
}

// hold keeps every byte back, as a network that loses all packets does: connections stay open, and what was sent arrives
// after release.
func (p *tcpProxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

func (p *tcpProxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

func (p *tcpProxy) pass() {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	<-gate
}

// loseCommit cuts the connection that carries marker once Postgres has committed, before the answer arrives.
func (p *tcpProxy) loseCommit(marker string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marker = []byte(marker)
}

func (p *tcpProxy) lostAnswers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// open counts the connections, each with both its ends once it is carried.
func (p *tcpProxy) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *tcpProxy) keep(c net.Conn, near bool) (forget func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = near
	return func() {
		if p.end(c) {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, c)
		}
	}
}

// end closes a connection, unless its host has vanished.
func (p *tcpProxy) end(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone[c] {
		return false
	}
	_ = c.Close()
	return true
}

func (p *tcpProxy) carry(near net.Conn) {
	defer p.keep(near, true)()
	p.pass()
	far, err := net.Dial(p.network, p.target)
	if err != nil {
		return
	}
	defer p.keep(far, false)()
	marked := false // its answer is not to arrive
	up := func(b []byte) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.marker != nil && bytes.Contains(b, p.marker) {
			marked, p.marker = true, nil
		}
		return true
	}
	var withheld []byte
	down := func(b []byte) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !marked {
			return true
		}
		withheld = append(withheld, b...)
		if !bytes.Contains(withheld, []byte("COMMIT\x00")) {
			return true
		}
		p.lost++
		return false
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(far, near, up) })
	pumps.Go(func() { p.pump(near, far, down) })
	pumps.Wait()
}

// pump copies until either side ends; then both do.
func (p *tcpProxy) pump(to, from net.Conn, look func([]byte) bool) {
	defer p.end(to)
	defer p.end(from)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.pass()
		if n > 0 && !look(buf[:n]) {
			return
		}
		if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

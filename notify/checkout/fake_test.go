package checkout_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/notify/checkout"
)

// memory is a Store for tests that move the clock: a real database lives outside of a synctest bubble.
type memory struct {
	mu       sync.Mutex
	secrets  map[string][]checkout.Secret
	states   map[checkout.Key]checkout.State
	received map[string]time.Time // by attempt
	rows     map[string]checkout.Presence
	shown    []checkout.Shown
	lookUps  int
	away     bool // every call fails
	onNotify func(string)
	onListen func()
}

var errAway = errors.New("the database is away")

func newMemory() *memory {
	return &memory{
		secrets:  map[string][]checkout.Secret{},
		states:   map[checkout.Key]checkout.State{},
		received: map[string]time.Time{},
		rows:     map[string]checkout.Presence{},
	}
}

func (m *memory) call(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	f()
	return nil
}

func (m *memory) Secrets(_ context.Context, ids []string) (found []checkout.Secret, err error) {
	err = m.call(func() {
		m.lookUps++
		for _, id := range ids {
			found = append(found, m.secrets[id]...)
		}
	})
	return found, err
}

func (m *memory) States(_ context.Context, keys []checkout.Key) (found []checkout.State, err error) {
	err = m.call(func() {
		for _, k := range keys {
			if s, ok := m.states[k]; ok {
				s.Age += time.Since(m.received[s.AttemptID])
				found = append(found, s)
			}
		}
	})
	return found, err
}

func (m *memory) Keep(_ context.Context, streams []checkout.Presence) error {
	return m.call(func() {
		for _, s := range streams {
			m.rows[s.ID] = s
		}
	})
}

func (m *memory) Drop(_ context.Context, ids []string) error {
	return m.call(func() {
		for _, id := range ids {
			delete(m.rows, id)
		}
	})
}

func (m *memory) Sweep(context.Context, time.Duration) error { return m.call(func() {}) }

func (m *memory) MarkShown(_ context.Context, shown []checkout.Shown) error {
	return m.call(func() { m.shown = append(m.shown, shown...) })
}

func (m *memory) Listen(ctx context.Context, onNotify func(string), onListening func()) {
	m.mu.Lock()
	m.onNotify, m.onListen = onNotify, onListening
	m.mu.Unlock()
	onListening()
	<-ctx.Done()
}

// confirm records the client secret of a payment, as a payment intent event does.
func (m *memory) confirm(k checkout.Key, secret string) {
	_ = m.call(func() {
		m.secrets[k.PaymentID] = append(m.secrets[k.PaymentID], checkout.Secret{Key: k, Hash: hash(secret)})
	})
}

// set records a state without telling anybody.
func (m *memory) set(s checkout.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states[s.Key] = s
	if _, known := m.received[s.AttemptID]; !known {
		m.received[s.AttemptID] = time.Now()
	}
}

// tell records a state and notifies.
func (m *memory) tell(s checkout.State) {
	m.set(s)
	m.mu.Lock()
	notify := m.onNotify
	m.mu.Unlock()
	notify(s.PaymentID)
}

func (m *memory) presence() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

func (m *memory) askedFor() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lookUps
}

func (m *memory) setAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

func hash(secret string) []byte { return []byte("hash of " + secret) }

const (
	secret      = "pi_1_secret_a"
	shopOrigin  = "https://shop.example"
	serverLimit = 5 * time.Second // shorter than the interval of pings
)

var payment = checkout.Key{PaymentID: "pi_1", Source: "stripe", Livemode: true}

// world is a hub behind a real HTTP server, whose connections are pipes so that it can live in a bubble.
type world struct {
	t      *testing.T
	store  *memory
	hub    *checkout.Hub
	client *http.Client
	stop   func() // the hub alone, as a shutdown does
}

type option func(*checkout.Config)

// bubble runs a test in fake time.
func bubble(t *testing.T, test func(t *testing.T, w *world), options ...option) {
	t.Helper()
	bubbleOver(t, false, test, options...)
}

func bubbleOver(t *testing.T, http2 bool, test func(t *testing.T, w *world), options ...option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var protocols http.Protocols
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		config := checkout.Config{Store: m, Hash: hash, Origins: []string{shopOrigin}, Now: time.Now, Log: zap.NewNop()}
		for _, o := range options {
			o(&config)
		}
		hub := checkout.New(config)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { hub.Run(ctx) })
		e := echo.New()
		hub.Register(e)
		l := newPipes()
		server := &http.Server{Handler: e, Protocols: &protocols, ReadTimeout: serverLimit, WriteTimeout: serverLimit, ReadHeaderTimeout: serverLimit}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		transport := &http.Transport{DialContext: l.dial, Protocols: &protocols, DisableKeepAlives: true}
		w := &world{t: t, store: m, hub: hub, client: &http.Client{Transport: transport}, stop: cancel}
		defer func() {
			cancel()
			running.Wait()
			require.NoError(t, server.Shutdown(context.WithoutCancel(t.Context())))
			require.ErrorIs(t, <-served, http.ErrServerClosed)
			transport.CloseIdleConnections()
		}()
		test(t, w)
	})
}

// pass lets time go by, and everything happen that it brings.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (w *world) request(method, path string, headers ...string) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://rebound.test"+path, nil)
	require.NoError(w.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := w.client.Do(req)
	require.NoError(w.t, err)
	return res
}

// listen opens a stream with the secret and reads it in the background.
func (w *world) listen(clientSecret string, headers ...string) *reader {
	w.t.Helper()
	res := w.request(http.MethodGet, checkout.EventsPath, append(headers, "Authorization", "Bearer "+clientSecret)...)
	require.Equal(w.t, http.StatusOK, res.StatusCode)
	return read(res)
}

// event is one message as a client gets it.
type event struct {
	ID, Event, Data string
}

// reader collects what a stream says.
type reader struct {
	res *http.Response

	mu     sync.Mutex
	events []event
	pings  int
	raw    strings.Builder // every line, with the time at which it came
	ended  bool
	news   chan event
}

func read(res *http.Response) *reader {
	r := &reader{res: res, news: make(chan event, 1000)}
	began := time.Now()
	go func() {
		defer func() {
			r.mu.Lock()
			r.ended = true
			r.mu.Unlock()
			close(r.news)
		}()
		lines := bufio.NewScanner(res.Body)
		var e event
		for lines.Scan() {
			r.mu.Lock()
			fmt.Fprintf(&r.raw, "%v %s\n", time.Since(began), lines.Text())
			name, content, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "":
				if content == "ping" {
					r.pings++
				} else if e.Event != "" {
					r.events = append(r.events, e)
					r.news <- e
					e = event{}
				}
			case "id":
				e.ID = content
			case "event":
				e.Event = content
			case "data":
				e.Data = content
			}
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *reader) all() []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event(nil), r.events...)
}

func (r *reader) transcript() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw.String()
}

func (r *reader) pinged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pings
}

func (r *reader) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

func (r *reader) close() { _ = r.res.Body.Close() }

// failing is the state of the payment after a failed attempt with this decline code.
func failing(attempt, declineCode string) checkout.State {
	verdict := decline.Rules{}.Classify(decline.Facts{
		Source: decline.Stripe, ErrorCode: "card_declined", DeclineCode: declineCode, AttemptsUsed: 1, MethodType: "card",
	})
	return checkout.State{
		Key: payment, Status: "failing", PaymentIntent: payment.PaymentID, AttemptID: attempt,
		Public: verdict.Public,
	}
}

func awaiting(s checkout.State) checkout.State {
	s.AwaitsCharge = true
	return s
}

// pipes is a listener whose connections are in memory and hold no bytes: a write lasts until it is read.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

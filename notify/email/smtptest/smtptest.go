// Package smtptest runs a real SMTP server (emersion/go-smtp) inside a test, keeps what it receives and fails where a
// test wants it to fail.
package smtptest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// Stage is a point of the dialogue at which the peer is about to answer.
type Stage string

// The stages.
const (
	Greeting Stage = "greeting"
	Hello    Stage = "ehlo"
	Auth     Stage = "auth"
	MailFrom Stage = "mail"
	Rcpt     Stage = "rcpt"
	Data     Stage = "data" // the answer to DATA
	Dot      Stage = "dot"  // the answer to the final dot
)

// Fault is what the peer does at a stage instead of answering well. Exactly one of Reply, Hang, Drop and DropAfter is
// meaningful. Faults act on connections without TLS only.
type Fault struct {
	At        Stage
	Reply     string // this line, e.g. "550 5.1.1 no such user"
	Hang      bool   // never answer
	Drop      bool   // close instead of answering
	DropAfter bool   // answer well, then close
	// MessageID limits a fault at Dot to the mail with this Message-ID, without angle brackets.
	MessageID string
	// Times is how often the fault acts; 0 means always.
	Times int
}

// Mail is a mail that reached its final dot.
type Mail struct {
	From, To  string // envelope; To is the first recipient
	Rcpts     []string
	Raw       []byte
	MessageID string // without angle brackets
	At        time.Time
	// Held tells whether a server may have kept the mail: it answered 250, or nothing at all (RFC 1047).
	Held bool
}

// Options set a peer up.
type Options struct {
	User, Password string // a log-in to insist on (PLAIN)
	TLS            bool   // offer STARTTLS
	ImplicitTLS    bool   // speak TLS from the start
	// RejectRepeats refuses a Message-ID that was accepted before.
	RejectRepeats bool
	Faults        []Fault
}

// Peer is a running server.
type Peer struct {
	Addr string
	// Roots trusts the peer's certificate.
	Roots *x509.CertPool

	opts    Options
	mu      sync.Mutex
	faults  []Fault
	mails   []Mail
	known   map[string]bool // the Message-IDs of held mails
	arrived chan struct{}   // closed and replaced at each mail
	closed  chan struct{}
	stages  map[Stage]int
}

// New starts a peer on a free loopback port. It stops when the test ends.
func New(t testing.TB, opts Options) *Peer {
	t.Helper()
	p := &Peer{
		Roots: x509.NewCertPool(), opts: opts, faults: append([]Fault(nil), opts.Faults...),
		known: make(map[string]bool), arrived: make(chan struct{}), closed: make(chan struct{}), stages: make(map[Stage]int),
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.Addr = listener.Addr().String()

	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{peer: p, conn: c}, nil
	}))
	server.Domain = "peer.test"
	server.AllowInsecureAuth = true
	server.ErrorLog = log.New(io.Discard, "", 0)
	var wrapped net.Listener = &faultyListener{Listener: listener, peer: p}
	if opts.TLS || opts.ImplicitTLS {
		certificate := p.certificate(t)
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
	if opts.ImplicitTLS {
		wrapped = tls.NewListener(wrapped, server.TLSConfig)
	}
	served := make(chan struct{})
	go func() {
		_ = server.Serve(wrapped) // it ends by Close, with an error that says so
		close(served)
	}()
	t.Cleanup(func() {
		close(p.closed)
		_ = server.Close()
		_ = listener.Close() // the server does not know it yet when it stops before its first turn
		<-served
	})
	return p
}

// URL is the SMTP_URL of a peer that was set up without TLS.
func (p *Peer) URL() string {
	if p.opts.User != "" {
		return "smtp://" + p.opts.User + ":" + p.opts.Password + "@" + p.Addr + "?tls=none"
	}
	return "smtp://" + p.Addr + "?tls=none"
}

// SetFaults replaces the faults.
func (p *Peer) SetFaults(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append([]Fault(nil), faults...)
}

// Held lists the mails that a server may have kept, oldest first. Two with one Message-ID are two physical mails.
func (p *Peer) Held() []Mail { return p.list(true) }

// Refused lists the mails that were refused after their final dot.
func (p *Peer) Refused() []Mail { return p.list(false) }

func (p *Peer) list(held bool) []Mail {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Mail
	for _, m := range p.mails {
		if m.Held == held {
			out = append(out, m)
		}
	}
	return out
}

// Reached counts how often the peer was about to answer at a stage.
func (p *Peer) Reached(at Stage) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stages[at]
}

// WaitHeld waits until n mails are held and returns them, or ends with ctx's error.
func (p *Peer) WaitHeld(ctx context.Context, n int) ([]Mail, error) {
	for {
		p.mu.Lock()
		arrived := p.arrived
		p.mu.Unlock()
		if held := p.Held(); len(held) >= n {
			return held, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return p.Held(), ctx.Err()
		}
	}
}

// reach notes that the dialogue is at a stage and picks the fault that acts there.
func (p *Peer) reach(at Stage, messageID string) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stages[at]++
	for i, f := range p.faults {
		if f.At != at || f.MessageID != "" && f.MessageID != messageID {
			continue
		}
		if f.Times == 1 {
			p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
		} else if f.Times > 1 {
			p.faults[i].Times--
		}
		return f, true
	}
	return Fault{}, false
}

func (p *Peer) certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	p.Roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// session is one connection's mail transaction.
type session struct {
	peer  *Peer
	conn  *smtp.Conn
	authd bool
	from  string
	rcpts []string
}

func (s *session) AuthMechanisms() []string {
	if s.peer.opts.User == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != s.peer.opts.User || password != s.peer.opts.Password {
			return smtp.ErrAuthFailed
		}
		s.authd = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.peer.opts.User != "" && !s.authd {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}
	}
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.rcpts = append(s.rcpts, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err // the connection ended before the dot
	}
	m := Mail{From: s.from, To: s.rcpts[0], Rcpts: append([]string(nil), s.rcpts...), Raw: raw, At: time.Now(), Held: true}
	if parsed, err := mail.ReadMessage(bytes.NewReader(raw)); err == nil {
		m.MessageID = strings.Trim(parsed.Header.Get("Message-ID"), "<>")
	}
	fault, faulty := s.peer.reach(Dot, m.MessageID)
	if faulty && fault.Reply != "" && !strings.HasPrefix(fault.Reply, "250") {
		m.Held = false
	}
	s.peer.mu.Lock()
	repeated := s.peer.opts.RejectRepeats && s.peer.known[m.MessageID]
	m.Held = m.Held && !repeated
	if m.Held {
		s.peer.known[m.MessageID] = true
	}
	s.peer.mails = append(s.peer.mails, m)
	close(s.peer.arrived)
	s.peer.arrived = make(chan struct{})
	s.peer.mu.Unlock()
	if c, ok := s.conn.Conn().(*faultyConn); ok {
		c.dot(fault, faulty)
	}
	if repeated {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "this Message-ID was accepted before"}
	}
	return nil
}

func (s *session) Reset()        { s.from, s.rcpts = "", nil }
func (s *session) Logout() error { return nil }

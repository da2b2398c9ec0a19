package smtptest

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"sync"
)

var errFault = errors.New("fault of the test")

// faultyListener gives each connection the peer's faults.
type faultyListener struct {
	net.Listener
	peer *Peer
}

func (l *faultyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &faultyConn{Conn: conn, peer: l.peer}
	if !l.peer.opts.ImplicitTLS {
		c.arm(Greeting)
	}
	return c, nil
}

// faultyConn follows the client's commands and bends the server's next answer. go-smtp answers each command with one
// write or more; the fault replaces the first and swallows the rest.
type faultyConn struct {
	net.Conn
	peer *Peer

	mu     sync.Mutex
	inBody bool
	fault  Fault
	armed  bool // fault acts on the next answer
	mute   bool // the rest of a replaced answer
}

var commands = map[string]Stage{
	"EHLO": Hello, "HELO": Hello, "AUTH": Auth, "MAIL": MailFrom, "RCPT": Rcpt, "DATA": Data,
}

func (c *faultyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n >= 4 {
		c.mu.Lock()
		inBody := c.inBody
		c.mute = c.mute && inBody
		c.mu.Unlock()
		word, _, _ := bytes.Cut(p[:n], []byte(" "))
		stage, known := commands[strings.ToUpper(strings.TrimSpace(string(word)))]
		if known && !inBody {
			c.arm(stage)
		}
	}
	return n, err
}

// arm prepares for the answer at a stage.
func (c *faultyConn) arm(stage Stage) {
	fault, ok := c.peer.reach(stage, "")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault, c.armed, c.inBody = fault, ok, stage == Data
}

// dot prepares for the answer to the final dot.
func (c *faultyConn) dot(fault Fault, faulty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault, c.armed, c.inBody = fault, faulty, false
}

func (c *faultyConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	fault, armed, mute := c.fault, c.armed, c.mute
	c.armed = false
	c.mu.Unlock()
	if mute {
		return len(p), nil
	}
	if !armed {
		return c.Conn.Write(p)
	}
	switch {
	case fault.Hang:
		<-c.peer.closed
		return 0, errFault
	case fault.Drop:
		_ = c.Close()
		return 0, errFault
	case fault.DropAfter:
		_, _ = c.Conn.Write(p)
		_ = c.Close()
		return 0, errFault
	default:
		c.mu.Lock()
		c.mute, c.inBody = true, false
		c.mu.Unlock()
		if _, err := c.Conn.Write([]byte(fault.Reply + "\r\n")); err != nil {
			return 0, err
		}
		return len(p), nil
	}
}

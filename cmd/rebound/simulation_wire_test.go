package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// verdict is what the simulation lets happen at a point where a process stands.
type verdict int

const (
	proceed   verdict = iota
	cutBefore         // the connection breaks before Postgres has the request
	cutAfter          // Postgres does as it is told, and the connection breaks before the answer
)

// wire stands between one process and Postgres. It knows where a request ends, and asks before each whether Postgres may
// have it; so a process can be stopped, and cut off, at any step of its transactions.
type wire struct {
	listener        net.Listener
	network, target string
	ask             func(sql string) verdict
	ended           func(pid uint32) // returns when Postgres has done with a session that was cut

	mu    sync.Mutex
	conns map[net.Conn]bool
	dead  bool
}

func newWire(db *pgx.ConnConfig, ended func(pid uint32), ask func(sql string) verdict) (*wire, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: listener, ask: ask, ended: ended, conns: make(map[net.Conn]bool)}
	w.network, w.target = pgconn.NetworkAddress(db.Host, db.Port)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(near)
		}
	}()
	return w, nil
}

// dsn leads through the wire; the name tells the process's sessions from others'.
func (w *wire) dsn(db *pgx.ConnConfig, name string) string {
	host, port, _ := net.SplitHostPort(w.listener.Addr().String())
	password := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(db.Password)
	// A process that stands still would lose its transaction by the real clock, which no seed determines.
	return fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=%s sslmode=disable application_name=%s idle_in_transaction_session_timeout=0",
		host, port, db.User, password, db.Database, name)
}

// kill breaks all connections and lets no more be made.
func (w *wire) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	_ = w.listener.Close()
	for c := range w.conns {
		_ = c.Close()
	}
}

// alive tells whether a connection may go on, and notes it for kill.
func (w *wire) alive(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
	return !w.dead
}

func (w *wire) drop(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// carry relays one connection: a request as a whole, then its answer as a whole.
func (w *wire) carry(near net.Conn) {
	defer w.drop(near)
	far, err := net.Dial(w.network, w.target)
	if err != nil {
		return
	}
	defer w.drop(far)
	if !w.alive(near) || !w.alive(far) {
		return
	}
	pid, err := greet(near, far)
	if err != nil {
		return
	}
	statements := make(map[string]string)
	for {
		request, sql, err := readRequest(near, statements)
		if err != nil {
			return
		}
		v := proceed
		// Preparing changes nothing. Whether a pool pings depends on the wall clock, and so does whether River tells of a
		// job: not twice within some milliseconds.
		if sql != "" && !strings.HasPrefix(sql, "-- ping") && !strings.HasPrefix(sql, "-- name: PGNotifyMany") {
			v = w.ask(sql)
		}
		if v != cutBefore {
			to := io.Writer(near)
			if v == cutAfter {
				to = io.Discard
			}
			if _, err = far.Write(request); err == nil {
				err = relayAnswer(to, far)
			}
		}
		if v != proceed {
			_ = far.Close()
			w.ended(pid) // before the process learns of it: what Postgres still does must not race with what comes next
		}
		if v != proceed || err != nil {
			return
		}
	}
}

// greet relays what comes before the first request. A request to cancel another ends here.
func greet(near, far net.Conn) (pid uint32, err error) {
	var length [4]byte
	if _, err = io.ReadFull(near, length[:]); err != nil {
		return 0, err
	}
	if _, err = far.Write(length[:]); err != nil {
		return 0, err
	}
	if _, err = io.CopyN(far, near, int64(binary.BigEndian.Uint32(length[:]))-4); err != nil {
		return 0, err
	}
	for {
		kind, message, err := readMessage(far)
		if err != nil {
			return 0, err
		}
		if _, err := near.Write(message); err != nil {
			return 0, err
		}
		switch kind {
		case 'R': // authentication: all but "ok" and "the last of SASL" want a reply
			if code := binary.BigEndian.Uint32(message[5:]); code != 0 && code != 12 {
				if _, message, err = readMessage(near); err == nil {
					_, err = far.Write(message)
				}
				if err != nil {
					return 0, err
				}
			}
		case 'K': // the key of the session
			pid = binary.BigEndian.Uint32(message[5:])
		case 'Z': // ready
			return pid, nil
		}
	}
}

func readMessage(r io.Reader) (kind byte, whole []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	whole = make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(whole, head[:])
	_, err = io.ReadFull(r, whole[5:])
	return head[0], whole, err
}

// readRequest reads up to where Postgres is to answer. It tells the last statement that is run, by what was prepared.
func readRequest(near net.Conn, statements map[string]string) (request []byte, sql string, err error) {
	for {
		kind, message, err := readMessage(near)
		if err != nil {
			return nil, "", err
		}
		request = append(request, message...)
		parts := strings.SplitN(string(message[5:]), "\x00", 3)
		switch kind {
		case 'P': // Parse: a name, and what it stands for
			statements[parts[0]] = parts[1]
		case 'B': // Bind: a portal, and a name
			sql = statements[parts[1]]
		case 'Q': // Query
			return request, parts[0], nil
		case 'S', 'c', 'f': // Sync, or the end of a copy
			return request, sql, nil
		case 'X': // good-bye
			return nil, "", io.EOF
		}
	}
}

func relayAnswer(near io.Writer, far io.Reader) error {
	for {
		kind, message, err := readMessage(far)
		if err != nil {
			return err
		}
		if _, err := near.Write(message); err != nil || kind == 'Z' || kind == 'G' { // ready, or it waits for what is to be copied
			return err
		}
	}
}

package checkout

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"rebound/decline"
)

// Why a stream ended, for the log.
const (
	endClient   = "client_left"
	endWrite    = "write_failed"
	endMismatch = "secret_mismatch"
	endReplaced = "replaced"
	endShutdown = "shutdown"
)

// stream is one open request.
type stream struct {
	id        string
	paymentID string
	hash      []byte
	states    chan State // holds the newest state only

	// The hub's, under its lock.
	key       Key
	confirmed bool

	done   chan struct{}
	once   sync.Once
	reason string // set before done is closed
}

// end makes the request return. It does not wait.
func (st *stream) end(reason string) {
	st.once.Do(func() {
		st.reason = reason
		close(st.done)
	})
}

// offer replaces the state that has not been taken yet, so that a slow reader holds nobody up. Only the hub's one
// goroutine calls it.
func (st *stream) offer(s State) {
	select {
	case <-st.states:
	default:
	}
	st.states <- s
}

// serve writes the stream until either side ends it. It returns how many messages were sent, and why it ended.
func (h *Hub) serve(ctx context.Context, st *stream, out *writer, acceptLanguage, lastID string) (sent int, reason string) {
	if out.write([]byte(": ping\n\n")) != nil {
		return 0, endWrite
	}
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	again := time.NewTimer(time.Hour)
	again.Stop()
	defer again.Stop()
	var awaited string // the attempt that awaits its charge, and when it may be told specifically
	var sharp time.Time
	looks := furtherLooks[:]
	for {
		select {
		case <-ctx.Done():
			return sent, endClient
		case <-st.done:
			return sent, st.reason
		case <-ping.C:
			if out.write([]byte(": ping\n\n")) != nil {
				return sent, endWrite
			}
		case <-again.C:
			looks = looks[min(1, len(looks)):]
			h.refresh(st.paymentID)
		case s := <-st.states:
			now := h.now()
			if awaited != s.AttemptID {
				awaited = s.AttemptID
				sharp = now.Add(decline.ChargeWindow - max(s.Age, 0)) // below 0: the database's clock was set back
			}
			m, news := messageOf(s, acceptLanguage, now, sharp)
			if news && m.id != lastID {
				if out.write(m.frame()) != nil {
					return sent, endWrite
				}
				lastID = m.id
				sent++
				h.log.Info("checkout.sent", zap.String("payment_id", st.paymentID), zap.String("stream", st.id),
					zap.String("event", m.event), zap.String("failure", m.shown.AttemptID),
					zap.String("code", m.shown.Code), zap.String("locale", m.shown.Locale))
				if m.shown.AttemptID != "" {
					h.markShown(m.shown)
				}
			}
			wait := time.Duration(0)
			if s.AwaitsCharge && s.Status == "failing" && now.Before(sharp) {
				wait = sharp.Sub(now)
			}
			if len(looks) > 0 && (wait == 0 || wait > looks[0]) {
				wait = looks[0]
			}
			if wait > 0 {
				again.Reset(wait)
			}
		}
	}
}

// writer writes to one response, each write within its own deadline: the server's own would end every stream, and none
// at all would let a reader that has stopped reading hold the stream for ever.
type writer struct {
	response *echo.Response
	control  *http.ResponseController
}

func newWriter(response *echo.Response) (*writer, error) {
	// Not of the echo.Response: its Flush keeps errors to itself.
	w := &writer{response: response, control: http.NewResponseController(response.Writer)}
	if err := w.control.SetWriteDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clearing the write deadline: %w", err)
	}
	return w, nil
}

func (w *writer) write(b []byte) error {
	// The kernel's clock decides here, not ours.
	if err := w.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("setting the write deadline: %w", err)
	}
	if _, err := w.response.Write(b); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := w.control.Flush(); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	// HTTP/2 resets a stream whose deadline passes even while nothing is being written.
	if err := w.control.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clearing the write deadline: %w", err)
	}
	return nil
}

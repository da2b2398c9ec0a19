package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"rebound/store"
)

const (
	readyTimeout = 2 * time.Second
	readyCached  = 2 * time.Second
	// maxSkew is the clock difference over which signatures of honest events begin to look stale.
	maxSkew = 120 * time.Second
)

// notReady is a reason that may be told to strangers.
type notReady string

// Error implements error.
func (n notReady) Error() string { return string(n) }

// The reasons for which a replica is not ready; any other error of a check reads postgres_unreachable.
const (
	reasonPostgres = notReady("postgres_unreachable")
	reasonReadOnly = notReady("postgres_read_only")
	reasonSchema   = notReady("schema_behind")
	reasonClock    = notReady("clock_skew")
)

// Ready checks that Postgres answers, takes writes, has the schema of this program, and agrees with this machine's clock
// within 120 s.
func Ready(s *store.Store) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := s.Readiness(ctx)
		switch {
		case err != nil:
			return err
		case r.SchemaBehind:
			return fmt.Errorf("%w: run `rebound migrate up`", reasonSchema)
		case r.Skew.Abs() > maxSkew:
			return fmt.Errorf("%w: Postgres is %s ahead of this machine", reasonClock, r.Skew.Round(time.Second))
		}
		readOnly, err := s.ReadOnly(ctx)
		if err == nil && readOnly {
			return reasonReadOnly
		}
		return err
	}
}

// Health answers /healthz and /readyz, on both listeners.
type Health struct {
	ready func(context.Context) error
	now   func() time.Time
	log   *zap.Logger

	mu      sync.Mutex
	checked time.Time
	failure error
}

// NewHealth makes a Health from a check, which is asked at most once in 2 s and given 2 s to answer. A nil now is
// time.Now, a nil log silent.
func NewHealth(ready func(context.Context) error, now func() time.Time, log *zap.Logger) *Health {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Health{ready: ready, now: now, log: log}
}

// Healthz answers that the process lives.
func (h *Health) Healthz(w http.ResponseWriter, _ *http.Request) {
	writeHealth(w, http.StatusOK, "ok", "")
}

// Readyz answers whether this replica can do its work: 200, or 503 with the reason.
func (h *Health) Readyz(w http.ResponseWriter, r *http.Request) {
	err := h.check(r.Context())
	if err == nil {
		writeHealth(w, http.StatusOK, "ok", "")
		return
	}
	reason := reasonPostgres
	errors.As(err, &reason)
	w.Header().Set("Retry-After", "2")
	writeHealth(w, http.StatusServiceUnavailable, "unavailable", string(reason))
}

// check asks at most once in readyCached: whoever comes meanwhile gets the same answer, or waits for the one question.
func (h *Health) check(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age := h.now().Sub(h.checked); !h.checked.IsZero() && age >= 0 && age < readyCached {
		return h.failure
	}
	// The answer is for everyone, so a caller that goes away must not spoil it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	err := h.ready(ctx)
	if (err == nil) != (h.failure == nil) {
		if err != nil {
			h.log.Warn("readiness.lost", zap.Error(err))
		} else {
			h.log.Info("readiness.regained")
		}
	}
	h.checked, h.failure = h.now(), err // not when it was asked: a silent Postgres takes as long as an answer holds
	return err
}

func writeHealth(w http.ResponseWriter, status int, text, reason string) {
	body, err := json.Marshal(struct {
		Status string `json:"status"`
		Reason string `json:"reason,omitempty"`
	}{text, reason})
	if err != nil {
		panic(err) // two strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a prober that is gone needs no answer
}

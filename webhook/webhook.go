// Package webhook is the door: it takes a provider's raw request, verifies its signature, reduces the event to facts,
// hands them over, and answers only when they are durable. The Stripe API look-ups live here too, since what they bring
// home is the same facts.
package webhook

import (
	"context"
	"net/http"
	"time"

	"rebound/handler"
)

// Recorder makes a delivery durable. A nil error means that it is committed, or was before; handler.ErrBusy and every
// other error mean that it may not be, and the sender is asked to come again. Record returns soon after ctx has ended,
// because the sender waits for the answer. It may keep the delivery and what it points to.
type Recorder interface {
	Record(ctx context.Context, d handler.Delivery) error
}

// ServerLimits sets the limits of a server on s. Echo sets none of them by itself, and without them one slow client holds a
// connection for ever. A webhook body is read in a moment and its commit takes at most recordTimeout, so WriteTimeout, which
// net/http counts from the end of the request's header, covers both; a stream must clear it for itself with
// http.ResponseController.
func ServerLimits(s *http.Server) {
	s.ReadHeaderTimeout = 5 * time.Second
	s.ReadTimeout = 10 * time.Second
	s.WriteTimeout = 20 * time.Second
	s.IdleTimeout = 120 * time.Second
	s.MaxHeaderBytes = 28 << 10 // net/http adds 4 KiB of slack: 431 is answered above 32 KiB in all
}

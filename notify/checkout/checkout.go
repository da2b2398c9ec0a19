// Package checkout tells the page on which a customer pays what became of the payment, over Server-Sent Events. One Hub
// per process holds the open streams. A stream opens on any well-formed client secret, but it says nothing and counts
// as nobody's presence until a payment intent event has confirmed the secret's hash. From then on it has a row that any
// replica can see, and whoever records news of its payment notifies the replicas, which read the present state anew:
// what is told depends on the state alone, never on which notification came.
package checkout

import (
	"context"
	"time"

	"go.uber.org/zap"

	"rebound/decline"
)

// Key names a payment as the store files it.
type Key struct {
	PaymentID string
	Source    string
	Account   string
	Livemode  bool
}

// Secret is the keyed hash of a payment's client secret, as a payment intent event gave it.
type Secret struct {
	Key
	Hash []byte
}

// Presence is one open, confirmed stream: the row by which every replica knows of it.
type Presence struct {
	ID string // unique over all replicas
	Key
}

// State is all that a stream's message may depend on. It holds the customer's view alone, so that nothing else of a
// verdict can reach a page.
type State struct {
	Key
	Status        string // failing, pending, recovered, canceled
	PaymentIntent string
	AttemptID     string // the newest failed attempt; "" when there is none, and then all below is empty
	Public        decline.Public
	AwaitsCharge  bool          // the attempt has a charge whose event has not come
	Age           time.Duration // of the attempt since its first receipt, by the clock that dated that
	Locale        string        // the merchant's own choice of language, if any
}

// Shown is one payment_failed message that was written to a stream.
type Shown struct {
	Key
	AttemptID string
	Code      string // customer-safe
	Locale    string
	At        time.Time
}

// Store is what the hub asks of the database. Every call takes a batch of at most 1,000 and ends with its context.
type Store interface {
	// Secrets reads the known client secrets of payments by id alone. A payment without one is left out.
	Secrets(ctx context.Context, paymentIDs []string) ([]Secret, error)
	// States reads the present state. A payment that is not there is left out.
	States(ctx context.Context, keys []Key) ([]State, error)
	// Keep writes heartbeats, and the row of a stream that has none.
	Keep(ctx context.Context, streams []Presence) error
	// Drop removes the rows of ended streams.
	Drop(ctx context.Context, ids []string) error
	// Sweep removes the rows that have had no heartbeat for age.
	Sweep(ctx context.Context, age time.Duration) error
	// MarkShown records what was shown.
	MarkShown(ctx context.Context, shown []Shown) error
	// Listen hands on the id of every payment that has news for an open stream, until ctx ends. It calls onListening each
	// time that it has begun to listen, the first included.
	Listen(ctx context.Context, onNews func(paymentID string), onListening func())
}

// Config is what a Hub needs.
type Config struct {
	Store Store
	// Hash is the keyed hash under which client secrets are kept.
	Hash func(secret string) []byte
	// Origins are the origins of the pages that may use the stream, as browsers write them
	// (https://shop.example, no path). A request without an Origin is not a cross-origin page and needs none.
	Origins []string
	// Livemode is the only mode whose payments are told and count as presence; the secret of a payment of the other mode
	// is never confirmed. Nil means both.
	Livemode *bool
	// MaxStreams is the number of open streams at which this process answers 503; 0 means 10,000.
	MaxStreams int
	// MaxPerSecret is the number of open streams of one client secret; one more ends the oldest of them. 0 means 8.
	MaxPerSecret int
	Now          func() time.Time
	Log          *zap.Logger
}

// The times of the stream. Nobody sets them: tests move the clock instead.
const (
	pingInterval   = 15 * time.Second       // contract: comments that keep proxies from closing an idle stream
	lookUpInterval = 500 * time.Millisecond // between two look-ups of unconfirmed secrets
	heartbeat      = 10 * time.Second       // of the rows, and of a re-read that heals whatever was missed
	presenceLife   = time.Minute            // a row without a heartbeat for this long belongs to a replica that is gone
	writeTimeout   = 10 * time.Second       // a reader that takes no bytes for this long is dropped
	queryTimeout   = 5 * time.Second
	maxBatch       = 1000
)

// furtherLooks are the waits between a stream's first looks. A transaction that looked for streams just before ours had its row
// will not notify; it has committed by the first as a rule, and by the last if it took as long as the recorder lets it.
var furtherLooks = [...]time.Duration{time.Second, 4 * time.Second}

package checkout

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Hub holds the open streams of one process. Run must be running for it to tell anything.
type Hub struct {
	store        Store
	hash         func(string) []byte
	origins      map[string]bool
	livemode     *bool
	maxStreams   int
	maxPerSecret int
	now          func() time.Time
	log          *zap.Logger
	wake         chan struct{} // holds one: there is work

	mu         sync.Mutex
	closed     bool
	streams    map[*stream]struct{}
	pending    map[*stream]struct{}            // secret not confirmed yet
	byPayment  map[string]map[*stream]struct{} // confirmed, by payment id
	bySecret   map[string][]*stream            // by hash, oldest first
	dirty      map[string]struct{}             // payment ids whose state is to be read
	dropped    []string                        // rows to remove
	shown      []Shown
	allDirty   bool
	heal       []string // payment ids to read when there is time
	nextLookUp time.Time
	retryAt    time.Time // zero: the last work succeeded
	failing    bool      // the last query failed
}

// New returns a Hub without streams.
func New(c Config) *Hub {
	h := &Hub{
		store: c.Store, hash: c.Hash, origins: map[string]bool{},
		livemode: c.Livemode, maxStreams: c.MaxStreams, maxPerSecret: c.MaxPerSecret, now: c.Now, log: c.Log,
		wake:      make(chan struct{}, 1),
		streams:   map[*stream]struct{}{},
		pending:   map[*stream]struct{}{},
		byPayment: map[string]map[*stream]struct{}{},
		bySecret:  map[string][]*stream{},
		dirty:     map[string]struct{}{},
	}
	for _, o := range c.Origins {
		h.origins[strings.ToLower(strings.TrimRight(strings.TrimSpace(o), "/"))] = true
	}
	if h.maxStreams == 0 {
		h.maxStreams = 10_000
	}
	if h.maxPerSecret == 0 {
		h.maxPerSecret = 8
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	return h
}

// Run serves the streams until ctx ends; then it ends every stream, takes no new ones and removes their rows. A server
// that shuts down must end ctx first: it would wait for the streams.
func (h *Hub) Run(ctx context.Context) {
	var others sync.WaitGroup
	others.Go(func() { h.store.Listen(ctx, h.notified, h.listening) })
	others.Go(func() { h.beats(ctx) })
	for {
		timer := time.NewTimer(h.pause())
		select {
		case <-ctx.Done():
			timer.Stop()
			others.Wait() // a heartbeat under way would bring rows back
			h.close(ctx)
			return
		case <-h.wake:
		case <-timer.C:
		}
		timer.Stop()
		h.work(ctx)
	}
}

// pause is the time until something is due that no signal will announce.
func (h *Hub) pause() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	due := h.retryAt
	if len(h.pending) > 0 && (due.IsZero() || h.nextLookUp.Before(due)) {
		due = h.nextLookUp
	}
	if due.IsZero() {
		return time.Hour
	}
	return max(due.Sub(h.now()), 0)
}

func (h *Hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hub) notified(paymentID string) {
	h.mu.Lock()
	if _, ours := h.byPayment[paymentID]; ours {
		h.dirty[paymentID] = struct{}{}
		h.mu.Unlock()
		h.signal()
		return
	}
	h.mu.Unlock()
}

// listening marks everything as unread: what was notified while nobody listened is lost.
func (h *Hub) listening() {
	h.mu.Lock()
	h.allDirty = true
	h.mu.Unlock()
	h.signal()
}

// refresh has the state of one payment read again.
func (h *Hub) refresh(paymentID string) {
	h.mu.Lock()
	h.dirty[paymentID] = struct{}{}
	h.mu.Unlock()
	h.signal()
}

func (h *Hub) markShown(s Shown) {
	h.mu.Lock()
	h.shown = append(h.shown, s)
	closed := h.closed
	h.mu.Unlock()
	if closed {
		h.record(context.Background()) // no work comes any more
		return
	}
	h.signal()
}

// work does all that is due. Messages to pages come first, and before each batch of what can wait.
func (h *Hub) work(ctx context.Context) {
	ok := h.read(ctx)
	ok = h.lookUp(ctx) && ok
	ok = h.drop(ctx) && ok
	ok = h.record(ctx) && ok
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retryAt = time.Time{}
	if !ok {
		h.retryAt = h.now().Add(lookUpInterval)
	}
	n := min(len(h.heal), maxBatch)
	for _, id := range h.heal[:n] {
		h.dirty[id] = struct{}{}
	}
	if h.heal = h.heal[n:]; n > 0 {
		h.signal()
	}
}

// try runs one step within the time that a query may take, and tells whether it succeeded. Of several failures in a row
// the first is logged.
func (h *Hub) try(ctx context.Context, doing string, step func(context.Context) error) bool {
	query, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := step(query)
	if err != nil && ctx.Err() != nil {
		return false // we are going, nothing has failed
	}
	h.mu.Lock()
	failed := h.failing
	h.failing = err != nil
	h.mu.Unlock()
	switch {
	case err != nil && !failed:
		h.log.Warn("checkout.failing", zap.String("doing", doing), zap.Error(err))
	case err == nil && failed:
		h.log.Info("checkout.recovered", zap.String("doing", doing))
	}
	return err == nil
}

// lookUp asks for the secrets of all unconfirmed streams at once, at most every lookUpInterval, and for no more than a
// fifth of the time: there may be thousands of them, since many a page is left before its payment's first event.
func (h *Hub) lookUp(ctx context.Context) bool {
	h.mu.Lock()
	now := h.now()
	if len(h.pending) == 0 || now.Before(h.nextLookUp) {
		h.mu.Unlock()
		return true
	}
	h.nextLookUp = now.Add(lookUpInterval)
	defer func() {
		end := h.now()
		h.mu.Lock()
		defer h.mu.Unlock()
		if rested := end.Add(4 * end.Sub(now)); rested.After(h.nextLookUp) {
			h.nextLookUp = rested
		}
	}()
	asked := map[string][]*stream{}
	for st := range h.pending {
		asked[st.paymentID] = append(asked[st.paymentID], st)
	}
	h.mu.Unlock()
	ids := make([]string, 0, len(asked))
	for id := range asked {
		ids = append(ids, id)
	}
	return batches(ids, func(ids []string) bool {
		var known []Secret
		if !h.try(ctx, "looking up client secrets", func(ctx context.Context) (err error) {
			known, err = h.store.Secrets(ctx, ids)
			return err
		}) {
			return false
		}
		return h.settle(ctx, asked, known) && h.read(ctx)
	})
}

// settle ends the streams whose secret is wrong and gives a row to those whose secret is confirmed.
func (h *Hub) settle(ctx context.Context, asked map[string][]*stream, known []Secret) bool {
	verdict := map[*stream]bool{}
	keys := map[*stream]Key{}
	for _, secret := range known {
		if h.livemode != nil && secret.Livemode != *h.livemode {
			continue
		}
		for _, st := range asked[secret.PaymentID] {
			match := subtle.ConstantTimeCompare(st.hash, secret.Hash) == 1
			verdict[st] = verdict[st] || match
			if match {
				keys[st] = secret.Key
			}
		}
	}
	var confirmed []*stream
	var rows []Presence
	for st, match := range verdict {
		if !match {
			st.end(endMismatch)
			continue
		}
		confirmed = append(confirmed, st)
		rows = append(rows, Presence{ID: st.id, Key: keys[st]})
	}
	if !h.keep(ctx, rows) {
		return false // they stay unconfirmed until their presence can be seen
	}
	h.confirm(confirmed, keys)
	return true
}

func (h *Hub) confirm(streams []*stream, keys map[*stream]Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, st := range streams {
		if _, waits := h.pending[st]; !waits { // it ended meanwhile
			h.dropped = append(h.dropped, st.id)
			continue
		}
		delete(h.pending, st)
		st.key = keys[st]
		st.confirmed = true
		if h.byPayment[st.paymentID] == nil {
			h.byPayment[st.paymentID] = map[*stream]struct{}{}
		}
		h.byPayment[st.paymentID][st] = struct{}{}
		h.dirty[st.paymentID] = struct{}{}
	}
}

func (h *Hub) keep(ctx context.Context, rows []Presence) bool {
	return batches(rows, func(rows []Presence) bool {
		return h.try(ctx, "keeping streams", func(ctx context.Context) error { return h.store.Keep(ctx, rows) })
	})
}

// read hands each stream of the marked payments the present state.
func (h *Hub) read(ctx context.Context) bool {
	h.mu.Lock()
	if h.allDirty {
		h.allDirty = false
		for id := range h.byPayment {
			h.dirty[id] = struct{}{}
		}
	}
	wanted := map[Key]struct{}{}
	for id := range h.dirty {
		for st := range h.byPayment[id] {
			wanted[st.key] = struct{}{}
		}
	}
	clear(h.dirty)
	h.mu.Unlock()
	keys := make([]Key, 0, len(wanted))
	for k := range wanted {
		keys = append(keys, k)
	}
	return batches(keys, func(keys []Key) bool {
		var states []State
		ok := h.try(ctx, "reading states", func(ctx context.Context) (err error) {
			states, err = h.store.States(ctx, keys)
			return err
		})
		h.mu.Lock()
		defer h.mu.Unlock()
		if !ok {
			for _, k := range keys {
				h.dirty[k.PaymentID] = struct{}{}
			}
			return false
		}
		for _, s := range states {
			for st := range h.byPayment[s.PaymentID] {
				if st.key == s.Key {
					st.offer(s)
				}
			}
		}
		return true
	})
}

func (h *Hub) drop(ctx context.Context) bool {
	h.mu.Lock()
	ids := h.dropped
	h.dropped = nil
	h.mu.Unlock()
	return batches(ids, func(ids []string) bool {
		if h.try(ctx, "removing streams", func(ctx context.Context) error { return h.store.Drop(ctx, ids) }) {
			return true
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.dropped = append(h.dropped, ids...)
		return false
	})
}

func (h *Hub) record(ctx context.Context) bool {
	h.mu.Lock()
	shown := h.shown
	h.shown = nil
	h.mu.Unlock()
	return batches(shown, func(shown []Shown) bool {
		if h.try(ctx, "recording messages", func(ctx context.Context) error { return h.store.MarkShown(ctx, shown) }) {
			return true
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.shown = append(shown, h.shown...)
		return false
	})
}

// beats writes the heartbeats of confirmed streams, has all states read again, and removes what dead replicas left. It
// runs beside work, which must not wait for it.
func (h *Hub) beats(ctx context.Context) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var sweepAt time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
		h.beat(ctx)
		if now := h.now(); now.After(sweepAt) {
			sweepAt = now.Add(presenceLife)
			h.try(ctx, "sweeping", func(ctx context.Context) error { return h.store.Sweep(ctx, presenceLife) })
		}
	}
}

func (h *Hub) beat(ctx context.Context) {
	h.mu.Lock()
	var rows []Presence
	for st := range h.streams {
		if st.confirmed {
			rows = append(rows, Presence{ID: st.id, Key: st.key})
		}
	}
	h.heal = h.heal[:0]
	for id := range h.byPayment {
		h.heal = append(h.heal, id)
	}
	h.mu.Unlock()
	h.keep(ctx, rows)
	// A stream that ended while its heartbeat was being written may have got its row back.
	h.mu.Lock()
	open := make(map[string]bool, len(h.streams))
	for st := range h.streams {
		open[st.id] = true
	}
	for _, r := range rows {
		if !open[r.ID] {
			h.dropped = append(h.dropped, r.ID)
		}
	}
	h.mu.Unlock()
	h.signal()
}

// close ends every stream and removes their rows, so that a mail need not wait for this process's heartbeats to age.
func (h *Hub) close(ctx context.Context) {
	h.mu.Lock()
	h.closed = true
	for st := range h.streams {
		st.end(endShutdown)
		if st.confirmed {
			h.dropped = append(h.dropped, st.id)
		}
	}
	h.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	h.drop(ctx)
	h.record(ctx)
}

// errFull and errClosed are why a stream cannot be opened here now.
var (
	errFull   = errors.New("too many open streams")
	errClosed = errors.New("shutting down")
)

// open makes a stream of one client secret. Beyond maxPerSecret the oldest stream of that secret ends: on a network
// that comes and goes it is most likely a connection whose other end is gone.
func (h *Hub) open(paymentID, secret string) (*stream, error) {
	st := &stream{
		id:        "cs_" + rand.Text(),
		paymentID: paymentID,
		hash:      h.hash(secret),
		states:    make(chan State, 1),
		done:      make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	same := h.bySecret[string(st.hash)]
	switch {
	case h.closed:
		return nil, errClosed
	case len(h.streams) >= h.maxStreams:
		return nil, errFull
	case len(same) >= h.maxPerSecret:
		same[0].end(endReplaced)
		h.remove(same[0])
	}
	h.streams[st] = struct{}{}
	h.pending[st] = struct{}{}
	h.bySecret[string(st.hash)] = append(h.bySecret[string(st.hash)], st)
	h.signal()
	return st, nil
}

// leave forgets a stream that has ended.
func (h *Hub) leave(st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(st)
}

func (h *Hub) remove(st *stream) {
	if _, open := h.streams[st]; !open {
		return
	}
	delete(h.streams, st)
	delete(h.pending, st)
	if of := h.byPayment[st.paymentID]; of != nil {
		delete(of, st)
		if len(of) == 0 {
			delete(h.byPayment, st.paymentID)
		}
	}
	var rest []*stream
	for _, other := range h.bySecret[string(st.hash)] {
		if other != st {
			rest = append(rest, other)
		}
	}
	if h.bySecret[string(st.hash)] = rest; len(rest) == 0 {
		delete(h.bySecret, string(st.hash))
	}
	if st.confirmed && !h.closed {
		h.dropped = append(h.dropped, st.id)
		h.signal()
	}
}

// batches calls step with at most maxBatch items at a time and tells whether all of them succeeded.
func batches[T any](items []T, step func([]T) bool) bool {
	ok := true
	for len(items) > 0 {
		n := min(len(items), maxBatch)
		ok = step(items[:n:n]) && ok
		items = items[n:]
	}
	return ok
}

package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/store"
	"rebound/store/job"
)

const (
	// maxGroup is how many deliveries share a transaction at most: enough that a commit costs little each, few enough
	// that one group stays well under commitTimeout.
	maxGroup = 128
	// maxWaiting is how many deliveries may wait; beyond it the sender is told to come back.
	maxWaiting = 2048
	// committers is how many groups are in the making at a time: while Postgres writes one, the next is derived. The
	// second begins only with aside or more deliveries: a group costs nearly as much for one as for a few.
	committers = 2
	aside      = 8
	// soon is how near a mail's moment must be for it to get a job of its own: a shared one may be over before the group is
	// committed, or by the clock of the replica that does it. The look for lost jobs finds mails that come later still.
	soon = 30 * time.Second
	// maxRings bounds what is remembered of shared jobs; who forgets one only asks for it again.
	maxRings = 4096
	// commitTimeout bounds one group's transaction, so that a sender has its answer within 5 s whatever Postgres does.
	commitTimeout = 4 * time.Second
)

// Recorder turns deliveries into rows. Deliveries that wait at the same moment share one transaction, and each is
// answered only after its commit; when nothing waits, a delivery is committed at once.
type Recorder struct {
	store  *store.Store
	policy Policy
	log    *zap.Logger
	done   sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // a group may begin, or the recorder closes
	queue   []*waiting
	flying  int                 // deliveries that are being committed
	busy    map[PaymentKey]bool // payments and invoices that those touch
	rings   map[time.Time]bool  // moments for which a job to send the mails that are due then is known to be stored
	closing bool

	failures  *prometheus.CounterVec
	unknown   *prometheus.CounterVec
	left      prometheus.Counter
	groupSize prometheus.Histogram
}

type waiting struct {
	delivery Delivery // the caller's again once it is answered
	touches  []PaymentKey
	answer   chan error
}

// NewRecorder starts the committers. Close ends them after what waits has been answered.
func NewRecorder(s *store.Store, policy Policy, log *zap.Logger, metrics prometheus.Registerer) *Recorder {
	r := &Recorder{
		store: s, policy: policy, log: log, busy: make(map[PaymentKey]bool), rings: make(map[time.Time]bool),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_failures_total", Help: "Failed attempts derived for the first time, by source, category and severity.",
		}, []string{"source", "category", "severity"}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_unknown_codes_total", Help: "Failed attempts whose code the catalog does not know.",
		}, []string{"source"}),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rebound_mails_left_to_stripe_total", Help: "First mails about invoices that BILLING_NOTIFICATIONS=stripe leaves to Stripe.",
		}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rebound_group_size", Help: "Deliveries that shared one transaction.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128},
		}),
	}
	r.policy.NotificationID, r.policy.AttemptID = s.NotificationID, s.AttemptID
	metrics.MustRegister(r.failures, r.unknown, r.left, r.groupSize)
	r.changed.L = &r.mu
	for range committers {
		r.done.Go(r.commitGroups)
	}
	return r
}

// Record stores a delivery and returns nil once it is durable. ErrBusy means that too many wait. A context that ends
// stops the waiting, not the storing.
func (r *Recorder) Record(ctx context.Context, d Delivery) error {
	if len(d.Facts) == 0 && d.Customer == nil && d.Quarantine == nil {
		return nil
	}
	w := &waiting{delivery: d, touches: touches(d), answer: make(chan error, 1)}
	if !r.enqueue(w) {
		return ErrBusy
	}
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the commit: %w", ctx.Err())
	}
}

func (r *Recorder) enqueue(w *waiting) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing || len(r.queue) >= maxWaiting {
		return false
	}
	r.queue = append(r.queue, w)
	if r.ready() {
		r.changed.Signal()
	}
	return true
}

// Close answers what waits and ends the committers. Deliveries that come after it get ErrBusy.
func (r *Recorder) Close() {
	r.mu.Lock()
	r.closing = true
	r.changed.Broadcast()
	r.mu.Unlock()
	r.done.Wait()
}

func (r *Recorder) commitGroups() {
	for {
		group := r.next()
		if len(group) == 0 {
			return
		}
		r.groupSize.Observe(float64(len(group)))
		ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
		r.commit(ctx, group)
		cancel()
		r.landed(group)
		if len(group) < aside {
			runtime.Gosched() // the few who wait have their answers before the next group is derived, not after
		}
	}
}

// next waits for a group and marks it as flying; an empty one means the end.
func (r *Recorder) next() (group []*waiting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.ready() {
			if group = r.take(); len(group) > 0 {
				if r.ready() {
					r.changed.Signal() // for what is left
				}
				return group
			}
		}
		if r.closing && len(r.queue) == 0 {
			return nil
		}
		r.changed.Wait()
	}
}

// ready tells whether a group may begin: while one is flying, the next begins once as many wait, or when it has landed.
// Sooner, it would be small, and small groups cost more than they save; only a recorder that closes does not mind. Whoever has
// landed a group looks by itself, so nobody is woken for that.
func (r *Recorder) ready() bool {
	return len(r.queue) > 0 && (r.flying == 0 || len(r.queue) >= max(r.flying, aside) || r.closing)
}

// take removes a group from the queue. What touches a payment that is being committed stays: it would only wait for its
// lock.
func (r *Recorder) take() (group []*waiting) {
	var left []*waiting
	var keys []PaymentKey
	for i, w := range r.queue {
		if len(group) == maxGroup {
			left = append(left, r.queue[i:]...)
			break
		}
		if slices.ContainsFunc(w.touches, func(k PaymentKey) bool { return r.busy[k] }) {
			left = append(left, w)
			continue
		}
		group = append(group, w)
		keys = append(keys, w.touches...)
	}
	for _, k := range keys {
		r.busy[k] = true
	}
	r.queue = left
	r.flying += len(group)
	return group
}

func (r *Recorder) landed(group []*waiting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flying -= len(group)
	for _, w := range group {
		for _, k := range w.touches {
			delete(r.busy, k)
		}
	}
	if r.closing {
		r.changed.Broadcast() // what waits may have waited for these payments
	}
}

// touches lists the payments and invoices that a delivery is about.
func touches(d Delivery) (keys []PaymentKey) {
	for i := range d.Facts {
		f := &d.Facts[i]
		keys = append(keys, f.PaymentKey)
		if f.Invoice != "" {
			k := f.PaymentKey
			k.PaymentID = f.Invoice
			keys = append(keys, k)
		}
	}
	return keys
}

// commit stores a group and answers each. Rows that Postgres refuses must not fail their neighbours: the group is halved
// until the one is alone, and that one is kept in quarantine. So is one that meets a defect of ours: a panic would end the
// process, and again at each of the delivery's repeats.
func (r *Recorder) commit(ctx context.Context, group []*waiting) {
	var out *outcome
	run := func(doubtful bool) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w with a %T\n%s", errPanicked, p, debug.Stack()) // its text may quote the delivery
			}
		}()
		return r.store.InIngest(ctx, func(in *store.Ingest) (err error) {
			in.Doubtful = doubtful
			out, err = r.record(ctx, in, group)
			return err
		})
	}
	err := run(false)
	if store.IsRetryable(err) {
		r.log.Warn("recording.repeated", zap.Int("deliveries", len(group)), zap.Error(err))
		err = run(true)
	}
	switch {
	case err == nil || !store.IsDataError(err) && !errors.Is(err, errPanicked):
		if err != nil {
			r.log.Error("recording.failed", zap.Int("deliveries", len(group)), zap.Error(err))
		} else {
			r.recorded(out)
		}
		for _, w := range group {
			w.answer <- err
		}
	case len(group) > 1:
		r.commit(ctx, group[:len(group)/2])
		r.commit(ctx, group[len(group)/2:])
	default:
		r.quarantine(ctx, group[0], err)
	}
}

var errPanicked = errors.New("a panic")

func (r *Recorder) quarantine(ctx context.Context, w *waiting, cause error) {
	q := Quarantined{Reason: "refused by Postgres"}
	if errors.Is(cause, errPanicked) {
		q.Reason = "not understood"
	}
	switch d := w.delivery; {
	case len(d.Facts) > 0:
		q.Source, q.EventID, q.EventType = d.Facts[0].Source, d.Facts[0].EventID, d.Facts[0].EventType
	case d.Customer != nil:
		q.Source, q.EventID, q.EventType = d.Customer.Source, d.Customer.RecordEvent, "customer"
	case d.Quarantine != nil:
		q.Source, q.EventID, q.EventType = d.Quarantine.Source, d.Quarantine.EventID, d.Quarantine.EventType
	}
	q.Source, q.EventID, q.EventType = storable(q.Source), storable(q.EventID), storable(q.EventType)
	// The door keeps no bodies; what it made of this one is kept, sealed, so that nothing is lost.
	if body, err := json.Marshal(w.delivery); err == nil {
		q.Body = body
	}
	r.log.Error("delivery.quarantined", zap.String("event", q.EventID), zap.String("type", q.EventType), zap.Error(cause))
	w.answer <- r.store.InIngest(ctx, func(in *store.Ingest) error {
		return in.Save(ctx, store.Changes{Quarantined: []Quarantined{q}})
	})
}

// storable makes a text that may be what Postgres refused fit to be stored.
func storable(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	return strings.ToValidUTF8(s[:min(len(s), 255)], "")
}

// record derives what a group comes to, and saves it.
func (r *Recorder) record(ctx context.Context, in *store.Ingest, group []*waiting) (*outcome, error) {
	out := &outcome{}
	var facts []*Fact
	payments, invoices := make(map[PaymentKey]bool), make(map[PaymentKey]bool)
	for _, w := range group {
		for i := range w.delivery.Facts {
			f := &w.delivery.Facts[i]
			facts = append(facts, f)
			if filedUnderInvoice(f) {
				invoices[f.PaymentKey] = true
				continue
			}
			payments[f.PaymentKey] = true
			if f.Invoice != "" {
				k := f.PaymentKey
				k.PaymentID = f.Invoice
				invoices[k] = true
			}
		}
		if c := w.delivery.Customer; c != nil {
			out.Customers = append(out.Customers, *c)
		}
		if q := w.delivery.Quarantine; q != nil {
			out.Quarantined = append(out.Quarantined, *q)
		}
	}
	slices.SortFunc(out.Customers, func(a, b Customer) int {
		return customerKey(a).Compare(customerKey(b))
	})
	if len(facts) > 0 {
		if err := r.derive(ctx, in, facts, payments, invoices, out); err != nil {
			return nil, err
		}
	}
	return out, in.Save(ctx, out.Changes)
}

// send has a held mail sent when it is due. Most mails will be over by then, and a job for each would cost more than its
// notification: those of about one moment share one, whoever wrote it.
func (r *Recorder) send(n *store.Notification, now time.Time, out *outcome) {
	if n.DueAt.Sub(now) < soon {
		out.Jobs = append(out.Jobs, store.Job{Queue: job.QueueMail, At: n.DueAt, Args: job.DeliverMail{NotificationID: n.ID}})
		return
	}
	due := job.DueWith(n.DueAt)
	r.mu.Lock()
	known := r.rings[due.Until]
	r.mu.Unlock()
	if !known && !slices.Contains(out.Due, due) {
		out.Due = append(out.Due, due)
	}
}

// outcome is what a group comes to.
type outcome struct {
	store.Changes
	recorded []recordedFailure
	left     int // mails that Stripe is to send in our place
}

// filedUnderInvoice tells whether a fact is an invoice's own, not a payment's.
func filedUnderInvoice(f *Fact) bool { return f.Object == "invoice" && f.PaymentID == f.Invoice }

// recordedFailure is a failed attempt that was not known before.
type recordedFailure struct {
	attempt      *store.Attempt
	unrecognized bool // the catalog does not know its code
}

func (r *Recorder) derive(ctx context.Context, in *store.Ingest, facts []*Fact, payments, invoices map[PaymentKey]bool,
	out *outcome) error {
	invoiceKeys := slices.Collect(maps.Keys(invoices))
	linked, err := in.LockInvoices(ctx, invoiceKeys)
	if err != nil {
		return err
	}
	for _, k := range linked {
		payments[k] = true
	}
	loaded, err := in.Load(ctx, slices.Collect(maps.Keys(payments)), invoiceKeys, facts, r.policy.LooksUp)
	if err != nil {
		return err
	}
	out.Facts = loaded.NewFacts
	for k, of := range loaded.InvoiceFacts {
		inv := deriveInvoice(k, of)
		loaded.Invoices[k] = &inv
		out.Invoices = append(out.Invoices, inv)
	}
	keys := slices.SortedFunc(maps.Keys(loaded.Payments), PaymentKey.Compare)
	// Most payments have one attempt, and a mail and a page or an inbox to tell of it. Rows are large: lists that grew would
	// copy them again and again.
	out.Payments, out.Attempts = make([]store.Payment, 0, len(keys)), make([]store.Attempt, 0, len(keys))
	out.Notifications = make([]store.Notification, 0, 2*len(keys))
	for _, k := range keys {
		r.derivePayment(loaded.Payments[k], loaded, out)
	}
	return nil
}

// derivePayment works out a payment anew. Each that has facts gets a row, since by it Load finds them.
func (r *Recorder) derivePayment(p *store.LoadedPayment, loaded *store.Loaded, out *outcome) {
	if len(p.Facts) == 0 {
		return // of events that had their effect before what they told of was dropped
	}
	now := r.store.Now()
	k := p.Payment.PaymentKey
	d := deriveFacts(k, p.Facts, func(id string) *store.Invoice {
		of := k
		of.PaymentID = id
		return loaded.Invoices[of]
	}, r.policy.Rules)
	d.Payment.CreatedAt = p.Payment.CreatedAt
	out.Payments = append(out.Payments, d.Payment)

	kept := make(map[string]bool)
	known := make(map[string]bool)
	for _, id := range p.AttemptIDs {
		known[id] = true
	}
	unrecognized := make(map[string]bool)
	for _, a := range d.Failed {
		unrecognized[a.key] = a.verdict.Unrecognized != ""
	}
	for i := range d.Attempts {
		a := &d.Attempts[i]
		prefix := "fl_"
		if a.Result == AttemptSucceeded {
			prefix = "at_"
		}
		a.ID, a.PaymentStatus, a.PaymentTries = r.policy.AttemptID(prefix, k, a.AttemptKey), d.Payment.Status, int64(min(len(d.Failed), 2))
		kept[a.ID] = true
		out.Attempts = append(out.Attempts, *a)
		if a.Result == AttemptFailed && !known[a.ID] {
			out.recorded = append(out.recorded, recordedFailure{a, unrecognized[a.AttemptKey]})
		}
	}
	for _, id := range p.AttemptIDs {
		if !kept[id] {
			out.StaleAttempts = append(out.StaleAttempts, id)
		}
	}
	if p.Streams {
		out.News = append(out.News, k.PaymentID)
	}
	r.notifications(p, d, loaded, now, out)
}

// notifications compares what is due with what stands, and saves the difference and the jobs that it needs.
func (r *Recorder) notifications(p *store.LoadedPayment, d Derived, loaded *store.Loaded, now time.Time, out *outcome) {
	standing := make(map[string]store.Notification, len(p.Notifications))
	for _, n := range p.Notifications {
		standing[n.ID] = n
	}
	decided := r.policy.Decide(d, now)
	barred := "" // why what follows the first mail is not to go out
	if len(d.Failed) > 0 {
		barred = r.policy.bars(d, d.Failed[len(d.Failed)-1])
	}
	for i := range decided {
		n := &decided[i]
		old, known := standing[n.ID]
		delete(standing, n.ID)
		if known && (over(old) || r.senderDecided(old, *n, p.Payment, d, now)) {
			continue
		}
		if known {
			carry(old, n)
		}
		mail := n.Channel == store.ChannelEmail && n.Status == store.Held && old.Owner == 0
		held := known && old.Status == store.Held
		if mail && (!held || p.Payment.Customer != d.Payment.Customer && saysWhose(p.Facts)) && r.looksUp(d, loaded) {
			out.Jobs = append(out.Jobs, lookUp(d.Payment, now))
		}
		if known && sameNotice(old, *n) {
			continue
		}
		out.Notifications = append(out.Notifications, *n)
		if n.Reason == ReasonStripeBilling && old.Reason != n.Reason {
			out.left++
		}
		if mail && d.Payment.Status == Failing && (!held || !old.DueAt.Equal(n.DueAt) || p.Payment.Status != Failing) {
			r.send(n, now, out)
		}
	}
	for _, n := range standing {
		switch {
		case n.Channel != store.ChannelEmail:
			// The facts no longer bear it out: a provisional attempt was absorbed, or the evidence changed.
			out.StaleNotifications = append(out.StaleNotifications, n.ID)
		case n.Status == store.Held && d.end() != "":
			n.Status, n.Reason, n.UpdatedAt = store.Canceled, d.end(), now
			out.Notifications = append(out.Notifications, n)
		case n.Status == store.Held && barred != "":
			n.Status, n.Reason, n.UpdatedAt = store.Suppressed, barred, now
			out.Notifications = append(out.Notifications, n)
		}
	}
}

// carry keeps what was found out outside the facts: why a due mail is still held, and what a page has shown.
func carry(old store.Notification, n *store.Notification) {
	switch {
	case n.Channel == store.ChannelCheckout && n.Status == store.Sent && old.Status == store.Sent:
		n.ShownCode, n.Locale, n.SentAt = old.ShownCode, old.Locale, old.SentAt
	case n.Channel == store.ChannelEmail && n.Status == store.Held && n.Reason == "" && old.Status == store.Held:
		switch old.Reason {
		case store.ReasonNoAddress, store.ReasonMailStorm, store.ReasonDailyLimit:
			n.Reason = old.Reason
		}
	}
}

// senderDecided tells whether a mail was ended when it was due, for a reason that a repeat or a further event of the
// same payment does not take away. What superseded it was found by what the payment named then.
func (r *Recorder) senderDecided(old, n store.Notification, then store.Payment, d Derived, at time.Time) bool {
	now := d.Payment
	if n.Channel != store.ChannelEmail || n.Status != store.Held {
		return false
	}
	switch old.Status {
	case store.Canceled:
		return old.Reason == store.ReasonErased || old.Reason == ReasonSuperseded && then.Customer == now.Customer && then.Invoice == now.Invoice &&
			then.OrderReference == now.OrderReference && then.Amount == now.Amount && then.Currency == now.Currency
	case store.Suppressed:
		switch old.Reason {
		case store.ReasonUnsubscribed, store.ReasonBounced, store.ReasonCustomerDeleted, store.ReasonInvalidAddress,
			store.ReasonMailboxLimit, store.ReasonPaymentLimit:
			return true
		case ReasonTooOld:
			// The sender says it once a mail's time is over; before, it was the facts that said it, and they now say otherwise.
			useful := later(n.DueAt, d.Failed[len(d.Failed)-1].row.ReceivedAt)
			return old.FailureID == n.FailureID && at.Sub(useful) > r.policy.MaxAge
		case store.ReasonNoAddress, store.ReasonMailStorm, store.ReasonDailyLimit, store.ReasonSMTPNotConfigured:
			return old.FailureID == n.FailureID // a new failure has a time of its own
		}
	}
	return false
}

// over tells whether a notification has left the hands of those who decide. One that is claimed has not: its try may end
// in "not now".
func over(n store.Notification) bool {
	switch n.Status {
	case store.Held, store.Suppressed, store.Canceled:
		return false
	}
	return n.Channel == store.ChannelEmail
}

func sameNotice(a, b store.Notification) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.DueAt.Equal(b.DueAt) && a.FailureID == b.FailureID &&
		a.ShownCode == b.ShownCode && a.Locale == b.Locale && a.Customer == b.Customer
}

// looksUp tells whether the provider's API may know what the events do not say: an address, or whose the payment is.
func (r *Recorder) looksUp(d Derived, loaded *store.Loaded) bool {
	p := d.Payment
	if !r.policy.LooksUp || p.Source != string(decline.Stripe) || store.IsPseudonym(p.Customer) {
		return false
	}
	if d.invoiceUnsaid {
		return true
	}
	if p.Customer == "" && p.Invoice == "" {
		return false
	}
	return !loaded.KnownCustomer[PaymentKey{PaymentID: p.Customer, Source: p.Source, Account: p.Account, Livemode: p.Livemode}]
}

// saysWhose tells whether an event says whose the payment is, not only an answer to our own question.
func saysWhose(facts []*Fact) bool {
	return slices.ContainsFunc(facts, func(f *Fact) bool { return f.Customer != "" && !wasRead(f) })
}

func lookUp(p store.Payment, now time.Time) store.Job {
	return store.Job{
		Queue: job.QueueLookUp, At: now,
		Args: job.LookUpContact{
			PaymentID: p.PaymentID, Source: p.Source, Account: p.Account, Livemode: p.Livemode,
			Customer: p.Customer, Invoice: p.Invoice, Intent: p.PaymentIntent,
		},
	}
}

// recorded tells of what is committed.
func (r *Recorder) recorded(out *outcome) {
	for _, f := range out.recorded {
		r.told(f)
	}
	r.left.Add(float64(out.left))
	if len(out.Due) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rings) >= maxRings {
		clear(r.rings)
	}
	for _, due := range out.Due {
		r.rings[due.Until] = true
	}
}

// told is the one line, and the counts, of a failure that was not known before.
func (r *Recorder) told(f recordedFailure) {
	a := f.attempt
	r.failures.WithLabelValues(a.Source, a.Category, a.Severity).Inc()
	if f.unrecognized {
		r.unknown.WithLabelValues(a.Source).Inc()
	}
	r.log.Info("failure.recorded",
		zap.String("failure", a.ID), zap.String("source", a.Source), zap.String("account", a.Account), zap.Bool("livemode", a.Livemode),
		zap.String("payment", a.PaymentID), zap.String("charge", a.Charge), zap.String("code", a.Code), zap.String("type", a.Type),
		zap.String("category", a.Category), zap.String("severity", a.Severity), zap.String("presence", a.Presence),
		zap.String("retry", a.RetryVerdict), zap.Time("failed_at", a.OccurredAt))
}

func customerKey(c Customer) PaymentKey {
	return PaymentKey{PaymentID: c.CustomerID, Source: c.Source, Account: c.Account, Livemode: c.Livemode}
}

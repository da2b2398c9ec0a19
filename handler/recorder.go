package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
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
	// deepQueue is how many must wait behind a commit before a second begins: small groups cost more than they save.
	deepQueue = 24
	// commitTimeout bounds one group's transaction, so that a sender has its answer within 5 s whatever Postgres does.
	commitTimeout = 4 * time.Second
)

// Recorder turns deliveries into rows. Deliveries that wait at the same moment share one transaction, and each is
// answered only after its commit; when nothing waits, a delivery is committed at once.
type Recorder struct {
	store   *store.Store
	policy  Policy
	log     *zap.Logger
	queue   chan *waiting
	deep    chan struct{} // wakes the second committer
	closing chan struct{}
	done    sync.WaitGroup

	failures  *prometheus.CounterVec
	unknown   *prometheus.CounterVec
	groupSize prometheus.Histogram
}

type waiting struct {
	delivery Delivery
	answer   chan error
}

// NewRecorder starts the committer. Close ends it after what waits has been answered.
func NewRecorder(s *store.Store, policy Policy, log *zap.Logger, metrics prometheus.Registerer) *Recorder {
	r := &Recorder{
		store: s, policy: policy, log: log,
		queue:   make(chan *waiting, maxWaiting),
		deep:    make(chan struct{}),
		closing: make(chan struct{}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_failures_total", Help: "Failed attempts derived for the first time, by source, category and severity.",
		}, []string{"source", "category", "severity"}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_unknown_codes_total", Help: "Failed attempts whose code the catalog does not know.",
		}, []string{"source"}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rebound_group_size", Help: "Deliveries that shared one transaction.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128},
		}),
	}
	r.policy.NotificationID, r.policy.AttemptID = s.NotificationID, s.AttemptID
	metrics.MustRegister(r.failures, r.unknown, r.groupSize)
	r.done.Go(r.commitGroups)
	r.done.Go(r.commitOverflow)
	return r
}

// Record stores a delivery and returns nil once it is durable. ErrBusy means that too many wait. A context that ends
// stops the waiting, not the storing.
func (r *Recorder) Record(ctx context.Context, d Delivery) error {
	if len(d.Facts) == 0 && d.Customer == nil && d.Quarantine == nil {
		return nil
	}
	w := &waiting{delivery: d, answer: make(chan error, 1)}
	select {
	case <-r.closing:
		return ErrBusy
	default:
	}
	select {
	case r.queue <- w:
	default:
		return ErrBusy
	}
	if len(r.queue) >= deepQueue {
		select {
		case r.deep <- struct{}{}:
		default: // it is at work already
		}
	}
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the commit: %w", ctx.Err())
	}
}

// Close answers what waits and ends the committer. Deliveries that come after it get ErrBusy.
func (r *Recorder) Close() {
	close(r.closing)
	r.done.Wait()
}

func (r *Recorder) commitGroups() {
	for {
		select {
		case w := <-r.queue:
			r.commitGroup(w)
		case <-r.closing:
			for {
				select {
				case w := <-r.queue:
					r.commitGroup(w)
				default:
					return
				}
			}
		}
	}
}

// commitOverflow is the second committer: it takes one group whenever many wait behind the first.
func (r *Recorder) commitOverflow() {
	for {
		select {
		case <-r.deep:
			select {
			case w := <-r.queue:
				r.commitGroup(w)
			default:
			}
		case <-r.closing:
			return
		}
	}
}

// commitGroup commits first together with all that wait behind it now.
func (r *Recorder) commitGroup(first *waiting) {
	group := []*waiting{first}
	for len(group) < maxGroup {
		select {
		case w := <-r.queue:
			group = append(group, w)
			continue
		default:
		}
		break
	}
	r.groupSize.Observe(float64(len(group)))
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	r.commit(ctx, group)
}

// commit stores a group and answers each. Rows that Postgres refuses must not fail their neighbours: the group is halved
// until the one is alone, and that one is kept in quarantine.
func (r *Recorder) commit(ctx context.Context, group []*waiting) {
	var recorded []recordedFailure
	run := func() error {
		recorded = recorded[:0]
		return r.store.InIngest(ctx, func(in *store.Ingest) error { return r.record(ctx, in, group, &recorded) })
	}
	err := run()
	if store.IsRetryable(err) {
		err = run()
	}
	switch {
	case err == nil || !store.IsDataError(err):
		if err != nil {
			r.log.Error("recording.failed", zap.Int("deliveries", len(group)), zap.Error(err))
			recorded = nil // it was rolled back, as far as anybody knows
		}
		for _, f := range recorded {
			r.told(f)
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

func (r *Recorder) quarantine(ctx context.Context, w *waiting, cause error) {
	q := Quarantined{Reason: "refused by Postgres"}
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
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	return s[:min(len(s), 255)]
}

// record derives what a group comes to, and saves it.
func (r *Recorder) record(ctx context.Context, in *store.Ingest, group []*waiting, recorded *[]recordedFailure) error {
	var changes store.Changes
	var facts []Fact
	payments, invoices := make(map[PaymentKey]bool), make(map[PaymentKey]bool)
	for _, w := range group {
		for _, f := range w.delivery.Facts {
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
			changes.Customers = append(changes.Customers, *c)
		}
		if q := w.delivery.Quarantine; q != nil {
			changes.Quarantined = append(changes.Quarantined, *q)
		}
	}
	slices.SortFunc(changes.Customers, func(a, b Customer) int {
		return customerKey(a).Compare(customerKey(b))
	})
	if len(facts) > 0 {
		if err := r.derive(ctx, in, facts, payments, invoices, &changes, recorded); err != nil {
			return err
		}
	}
	return in.Save(ctx, changes)
}

// filedUnderInvoice tells whether a fact is an invoice's own, not a payment's.
func filedUnderInvoice(f Fact) bool { return f.Object == "invoice" && f.PaymentID == f.Invoice }

// recordedFailure is a failed attempt that was not known before.
type recordedFailure struct {
	attempt      store.Attempt
	unrecognized bool // the catalog does not know its code
}

func (r *Recorder) derive(ctx context.Context, in *store.Ingest, facts []Fact, payments, invoices map[PaymentKey]bool,
	changes *store.Changes, recorded *[]recordedFailure) error {
	invoiceKeys := slices.Collect(maps.Keys(invoices))
	linked, err := in.LockInvoices(ctx, invoiceKeys)
	if err != nil {
		return err
	}
	for _, k := range linked {
		payments[k] = true
	}
	loaded, err := in.Load(ctx, slices.Collect(maps.Keys(payments)), invoiceKeys, facts)
	if err != nil {
		return err
	}
	changes.Facts = loaded.NewFacts
	for k, of := range loaded.InvoiceFacts {
		inv := deriveInvoice(k, of)
		loaded.Invoices[k] = &inv
		changes.Invoices = append(changes.Invoices, inv)
	}
	keys := slices.SortedFunc(maps.Keys(loaded.Payments), PaymentKey.Compare)
	for _, k := range keys {
		r.derivePayment(loaded.Payments[k], loaded, changes, recorded)
	}
	return nil
}

func (r *Recorder) derivePayment(p *store.LoadedPayment, loaded *store.Loaded, changes *store.Changes, recorded *[]recordedFailure) {
	now := r.store.Now()
	k := p.Payment.PaymentKey
	d := Derive(k, p.Facts, r.invoiceOf(p, loaded), r.policy.Rules)
	d.Payment.CreatedAt, d.Payment.UpdatedAt = p.Payment.CreatedAt, now
	changes.Payments = append(changes.Payments, d.Payment)

	kept := make(map[string]bool)
	known := make(map[string]bool)
	for _, id := range p.AttemptIDs {
		known[id] = true
	}
	unrecognized := make(map[string]bool)
	for _, a := range d.Failed {
		unrecognized[a.key] = a.verdict.Unrecognized != ""
	}
	for _, a := range d.Attempts {
		prefix := "fl_"
		if a.Result == AttemptSucceeded {
			prefix = "at_"
		}
		a.ID = r.policy.AttemptID(prefix, k, a.AttemptKey)
		kept[a.ID] = true
		changes.Attempts = append(changes.Attempts, a)
		if a.Result == AttemptFailed && !known[a.ID] {
			*recorded = append(*recorded, recordedFailure{a, unrecognized[a.AttemptKey]})
		}
	}
	for _, id := range p.AttemptIDs {
		if !kept[id] {
			changes.StaleAttempts = append(changes.StaleAttempts, id)
		}
	}
	if p.Streams {
		changes.News = append(changes.News, k.PaymentID)
	}
	r.notifications(p, d, loaded, now, changes)
}

// invoiceOf finds the invoice that any fact of the payment names.
func (r *Recorder) invoiceOf(p *store.LoadedPayment, loaded *store.Loaded) *store.Invoice {
	for _, f := range p.Facts {
		if f.Invoice == "" {
			continue
		}
		k := p.Payment.PaymentKey
		k.PaymentID = f.Invoice
		if inv := loaded.Invoices[k]; inv != nil {
			return inv
		}
	}
	return nil
}

// notifications compares what is due with what stands, and saves the difference and the jobs that it needs.
func (r *Recorder) notifications(p *store.LoadedPayment, d Derived, loaded *store.Loaded, now time.Time, changes *store.Changes) {
	standing := make(map[string]store.Notification, len(p.Notifications))
	for _, n := range p.Notifications {
		standing[n.ID] = n
	}
	decided := r.policy.Decide(d, now)
	for i := range decided {
		n := &decided[i]
		old, known := standing[n.ID]
		delete(standing, n.ID)
		if known && (over(old) || senderDecided(old, *n)) {
			continue
		}
		if known {
			carry(old, n)
		}
		if known && sameNotice(old, *n) {
			continue
		}
		changes.Notifications = append(changes.Notifications, *n)
		if n.Channel != store.ChannelEmail || n.Status != store.Held {
			continue
		}
		held := known && old.Status == store.Held
		if d.Payment.Status == Failing && (!held || !old.DueAt.Equal(n.DueAt) || p.Payment.Status != Failing) {
			changes.Jobs = append(changes.Jobs, river.InsertManyParams{
				Args:       job.DeliverMail{NotificationID: n.ID},
				InsertOpts: &river.InsertOpts{Queue: job.QueueMail, ScheduledAt: n.DueAt},
			})
		}
		if !held && r.looksUp(d, loaded) {
			changes.Jobs = append(changes.Jobs, lookUp(d.Payment))
		}
	}
	for _, n := range standing {
		switch {
		case n.Channel != store.ChannelEmail:
			// The facts no longer bear it out: a provisional attempt was absorbed, or the evidence changed.
			changes.StaleNotifications = append(changes.StaleNotifications, n.ID)
		case n.Status == store.Held && n.Owner == 0 && d.end() != "":
			n.Status, n.Reason, n.UpdatedAt = store.Canceled, d.end(), now
			changes.Notifications = append(changes.Notifications, n)
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
// same payment does not take away.
func senderDecided(old, n store.Notification) bool {
	if n.Channel != store.ChannelEmail || n.Status != store.Held {
		return false
	}
	switch old.Status {
	case store.Canceled:
		return old.Reason == ReasonSuperseded
	case store.Suppressed:
		switch old.Reason {
		case "unsubscribed", "bounced", "customer_deleted", "invalid_address", "mailbox_limit", "payment_limit":
			return true
		case ReasonTooOld, store.ReasonNoAddress, store.ReasonMailStorm, store.ReasonDailyLimit, store.ReasonSMTPNotConfigured:
			return old.FailureID == n.FailureID // a new failure has a time of its own
		}
	}
	return false
}

// over tells whether a notification has left the hands of those who decide: claimed, sent or ended.
func over(n store.Notification) bool {
	if n.Owner != 0 {
		return true
	}
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
	if !r.policy.LooksUp || p.Source != string(decline.Stripe) {
		return false
	}
	if d.invoiceUnsaid && p.PaymentIntent != "" {
		return true
	}
	if p.Customer == "" && p.Invoice == "" {
		return false
	}
	return !loaded.KnownCustomer[PaymentKey{PaymentID: p.Customer, Source: p.Source, Account: p.Account, Livemode: p.Livemode}]
}

func lookUp(p store.Payment) river.InsertManyParams {
	return river.InsertManyParams{
		Args: job.LookUpContact{
			PaymentID: p.PaymentID, Source: p.Source, Account: p.Account, Livemode: p.Livemode,
			Customer: p.Customer, Invoice: p.Invoice, Intent: p.PaymentIntent,
		},
		InsertOpts: &river.InsertOpts{Queue: job.QueueLookUp},
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

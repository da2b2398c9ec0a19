package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rebound/decline"
	"rebound/store"
)

// Config is what a Sender needs.
type Config struct {
	Store  *store.Store
	Mailer Mailer // nil: mail is held with the reason smtp_not_configured
	Log    *zap.Logger

	PublicURL string        // how the world reaches this server; links in mails start with it
	MaxAge    time.Duration // NOTIFY_MAX_AGE: how long after it is due a mail stays useful
	Reminders []time.Duration
	AtMost    bool // MAIL_DELIVERY=at-most-once
	// Barred is why the settings give a payment no mail, '' where they give it one; nil: they do.
	Barred func(store.Payment) string

	Limits Limits
	Jitter func(most time.Duration) time.Duration // what a second try waits longer; nil: at random

	AccountLocales map[string]string // the default of a connected account, by acct_…
	Metrics        prometheus.Registerer
}

// Sender sends mails that are due. Any number of processes may have one: which of them sends a mail is decided by the
// claim in the database, and a claim is the property of a process for as long as that lives.
type Sender struct {
	Config
	sent    *prometheus.CounterVec
	limited *prometheus.CounterVec
	// unspoken counts wishes for a language that there are no texts in.
	unspoken prometheus.Counter

	stopping chan struct{} // closed by Stop

	taking sync.Mutex // held by who asks for a number

	mu          sync.Mutex
	owner       *store.Owner
	unsettled   map[*store.Owner]int // mails whose outcome only this process knows, or will know
	atWork      map[string]bool
	pausedUntil time.Time
	refusals    int // mails refused one after another
}

// templateFirst names a payment's first mail; all others are reminders.
const templateFirst = "first"

const (
	streamRetry    = 15 * time.Second // while the customer is at the checkout page
	firstRetry     = 30 * time.Second // after a temporary refusal; doubles, with jitter
	longestRetry   = time.Hour
	linkLife       = 30 * 24 * time.Hour
	refusalsInARow = 5 // as many refusals on end mean us, not the customers
	refusalPause   = 10 * time.Minute
	busyPause      = time.Minute // after 421 and its like
)

// NewSender makes a Sender. It claims nothing before Start.
func NewSender(c Config) *Sender {
	s := &Sender{
		Config: c, stopping: make(chan struct{}), unsettled: make(map[*store.Owner]int), atWork: make(map[string]bool),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_mails_total", Help: "Mails by what became of one attempt to send them.",
		}, []string{"result"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebound_mails_limited_total", Help: "Times that a mail was held or suppressed by a limit, by its reason.",
		}, []string{"reason"}),
		unspoken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rebound_unknown_locales_total", Help: "Mails whose reader wished for a language that there are no texts in.",
		}),
	}
	c.Metrics.MustRegister(s.sent, s.limited, s.unspoken)
	return s
}

// Start takes this process's number and lock.
func (s *Sender) Start(ctx context.Context) error {
	_, err := s.current(ctx)
	return err
}

// Stop gives the numbers back. What is still claimed then is taken over by another process.
func (s *Sender) Stop(ctx context.Context) {
	s.mu.Lock()
	select {
	case <-s.stopping:
	default:
		close(s.stopping)
	}
	owners := slices.Collect(maps.Keys(s.unsettled))
	if s.owner != nil {
		owners = append(owners, s.owner)
		s.owner = nil
	}
	s.mu.Unlock()
	for _, o := range owners {
		o.Close(ctx)
	}
}

// current returns the owner, a new one when the old lock was lost: claims made under it belong to whoever finds them.
func (s *Sender) current(ctx context.Context) (*store.Owner, error) {
	s.taking.Lock() // not mu: Postgres may be long in answering, and keep must not wait for that
	defer s.taking.Unlock()
	s.mu.Lock()
	owner := s.owner
	s.mu.Unlock()
	if owner != nil {
		if owner.Check(ctx) == nil {
			return owner, nil
		}
		s.Log.Warn("owner.lost", zap.Int64("owner", owner.Number))
	}
	owner, err := s.Store.NewOwner(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = owner
	return owner, err
}

// Deliver sends one notification if it is still due. It returns how long to wait before asking again (0: never by this
// job), and an error only where the database failed: what SMTP says is settled on the notification.
func (s *Sender) Deliver(ctx context.Context, id string) (again time.Duration, err error) {
	if s.Mailer == nil {
		return 0, s.Store.HoldFor(ctx, id, store.ReasonSMTPNotConfigured)
	}
	if wait := s.paused(); wait > 0 {
		return wait, nil
	}
	if !s.begin(id) {
		return 0, nil // by a job of this process already
	}
	defer s.end(id)
	owner, err := s.current(ctx)
	if err != nil {
		return 0, err
	}
	defer s.hold(owner)()
	claimed, refusal, err := s.Store.Claim(ctx, owner.Number, id)
	if err != nil {
		// Perhaps only the answer was lost: a claim that its own process does not know of would stay open until that ends.
		return 0, errors.Join(err, s.insist(context.WithoutCancel(ctx), id, func(ctx context.Context) error {
			return s.Store.Release(ctx, owner.Number, id)
		}))
	}
	if claimed == nil {
		s.Log.Debug("notification.not_claimed", zap.String("notification", id), zap.String("refusal", string(refusal)))
		if refusal == store.StreamOpen {
			return streamRetry, nil
		}
		return 0, nil
	}
	// From here on the claim must be settled, also when the job's context ends.
	x, outcome, err := s.send(ctx, owner, claimed)
	if err != nil {
		// Nothing was sent: give the claim back and let the job come again.
		x = store.Settlement{Notification: claimed.Notification}
		x.Notification.Tries--         // no server was asked
		x.Notification.NextTryAt = nil // it has passed, and the job comes again by itself
	}
	settled, settleErr := s.settle(context.WithoutCancel(ctx), owner.Number, x)
	if err = errors.Join(err, settleErr); err != nil {
		return 0, err
	}
	s.tell(x.Notification, claimed, outcome, settled)
	return 0, nil
}

// begin tells whether this process may work on a mail: one job at a time does, so that what one gives back is not what
// another has just claimed.
func (s *Sender) begin(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.atWork[id] {
		return false
	}
	s.atWork[id] = true
	return true
}

func (s *Sender) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.atWork, id)
}

func (s *Sender) settle(ctx context.Context, owner int64, x store.Settlement) (settled bool, err error) {
	err = s.insist(ctx, x.Notification.ID, func(ctx context.Context) (err error) {
		settled, err = s.Store.Settle(ctx, owner, x)
		return err
	})
	return settled, err
}

// insist tries until the database has taken what became of a claim: nobody else knows it, and a claim that stays open
// would be taken over and sent again.
func (s *Sender) insist(ctx context.Context, id string, write func(context.Context) error) error {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := write(try)
		cancel()
		if err == nil {
			return nil
		}
		s.Log.Warn("notification.unsettled", zap.String("notification", id), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-s.stopping:
			return err
		}
	}
}

// send finds the recipient, sends, and says what is to become of the claim.
func (s *Sender) send(ctx context.Context, owner *store.Owner, c *store.Claimed) (x store.Settlement, outcome Outcome, err error) {
	n := c.Notification
	now := s.Store.Now()
	end := func(status, reason string) (store.Settlement, Outcome, error) {
		n.Status, n.Reason, n.NextTryAt = status, reason, nil
		n.Tries-- // no server was asked
		return store.Settlement{Notification: n}, outcome, nil
	}
	if s.Barred != nil {
		if reason := s.Barred(c.Payment); reason != "" {
			return end(store.Suppressed, reason)
		}
	}
	if n.Template != templateFirst && !s.reminds(n.Template) {
		return end(store.Suppressed, "no_reminder") // REMINDERS has become shorter since
	}
	useful := n.DueAt
	if c.Attempt.ReceivedAt.After(useful) {
		useful = c.Attempt.ReceivedAt // the mail speaks of this attempt
	}
	if now.Sub(useful) > s.MaxAge {
		return end(store.Suppressed, store.ReasonTooOld)
	}
	// Both events of an attempt may be awaited, the charge's for what it tells, the intent's for where the customer was: of the
	// first attempt within the hold, which never restarts, of a later one here.
	wait := decline.ChargeWindow
	if first := c.Payment.FailedReceivedAt; !c.Attempt.AwaitsCharge && first != nil {
		wait = min(wait, n.DueAt.Sub(*first))
	}
	if told := c.Attempt.ReceivedAt.Add(wait); now.Before(told) {
		x, outcome, err = end(store.Held, "")
		x.Notification.NextTryAt = &told
		return x, outcome, err
	}
	to, err := s.Store.Recipient(ctx, c.Payment.PaymentKey, c.Payment.Customer)
	if err != nil {
		return x, outcome, err
	}
	if to.Gone {
		return end(store.Suppressed, store.ReasonCustomerDeleted)
	}
	if len(to.Emails) == 0 {
		return end(store.Held, store.ReasonNoAddress)
	}
	var address, mailbox string
	usable := false
	for _, address = range to.Emails {
		if mailbox, usable = s.Mailer.Mailbox(address); usable {
			break
		}
	}
	if !usable {
		return end(store.Suppressed, store.ReasonInvalidAddress)
	}
	n.Mailbox = s.Store.HashMailbox(mailbox)
	var status, reason string
	var used store.Use
	err = s.Store.Budget(ctx, owner.Number, &n, func(u store.Use) bool {
		used = u
		if status, reason = s.Limits.judge(u, n.Template == templateFirst); status == "" {
			n.Locale = s.localeFor(cmp.Or(to.Locale, n.Locale), n.Account)
		}
		return status == ""
	})
	if err != nil {
		return x, outcome, err
	}
	if free, ok := s.Limits.soon(used, now); ok && status != "" {
		unbook(&n)
		x, outcome, err = end(store.Held, "")
		x.Notification.NextTryAt = &free
		return x, outcome, err
	}
	if status != "" {
		unbook(&n)
		s.limited.WithLabelValues(reason).Inc()
		return end(status, reason)
	}
	token, err := s.Store.NewLink(ctx, n.ID, now.Add(linkLife))
	if err != nil {
		return x, outcome, err
	}
	outcome = s.hand(ctx, Letter{
		To: address, Account: c.Payment.Account, Locale: n.Locale, Template: n.Template,
		Public: decline.Public{
			Code: c.Attempt.PublicCode, NextStep: decline.NextStep(c.Attempt.PublicNextStep),
			Field: decline.Field(c.Attempt.PublicField), RetrySameMethod: c.Attempt.PublicRetry,
		},
		Amount: c.Payment.Amount, Currency: c.Payment.Currency, Link: s.PublicURL + "/pay/" + token,
		MessageID: n.MessageID, Date: now, BeforeDot: owner.Check,
	})
	s.sent.WithLabelValues(string(outcome.Result)).Inc()
	s.judge(&n, outcome)
	x.Notification = n
	if outcome.Result == RejectedAddress {
		x.Suppress = store.ReasonBounced
	}
	if n.Status == store.Sent && n.Template == templateFirst {
		x.FollowUps = s.reminders(n)
	}
	return x, outcome, nil
}

// hand gives a letter to the mailer. A panic there tells as little as a server that does not answer; it may not end the job, whose
// claim would stay open for as long as the process lives.
func (s *Sender) hand(ctx context.Context, l Letter) (o Outcome) {
	defer func() {
		if p := recover(); p != nil { // its text may quote the mail
			s.Log.Error("mailer.panicked", zap.String("message_id", l.MessageID), zap.String("with", fmt.Sprintf("%T", p)), zap.Stack("stack"))
			o = Outcome{Result: Undecided, Reason: "panic"}
		}
	}()
	return s.Mailer.Deliver(ctx, l)
}

// localeFor picks the language of a mail: the customer's wish, else the account's, else the language of last resort. A wish that
// no text exists for is counted, so that somebody can tell which language is missing.
func (s *Sender) localeFor(wish, account string) string {
	locale := decline.MatchLocale(wish, s.AccountLocales[account])
	// A wish that can be met leaves the next preference without a say.
	if wish != "" && decline.MatchLocale(wish, "de") != decline.MatchLocale(wish, "fr") {
		s.unspoken.Inc()
	}
	return locale
}

// judge turns an outcome into the notification's next state; one that is to be tried again has a time for that.
func (s *Sender) judge(n *store.Notification, o Outcome) {
	now := s.Store.Now()
	reason := string(o.Result)
	if o.Code != 0 {
		reason += ":" + strconv.Itoa(o.Code)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Result != RejectedMail {
		s.refusals = 0
	}
	n.NextTryAt = nil
	switch o.Result {
	case Accepted:
		n.Status, n.Reason, n.SentAt = store.Sent, "", &now
		return
	case RejectedAddress:
		n.Status, n.Reason = store.Failed, reason
		return
	case RejectedMail:
		n.Status, n.Reason = store.Failed, reason
		if o.Code == 0 {
			return // it could not be written: no server has refused anything
		}
		if s.refusals++; s.refusals >= refusalsInARow {
			s.pausedUntil = now.Add(refusalPause)
			s.Log.Error("sending.paused", zap.String("why", "the mail server refuses one mail after another"), zap.Duration("for", refusalPause))
		}
		return
	case Undecided:
		if n.Undecided++; s.AtMost || n.Undecided >= mostUndecided {
			n.Status, n.Reason = store.Unknown, reason
			return
		}
	case Paused:
		s.pausedUntil = now.Add(busyPause)
		s.Log.Warn("sending.paused", zap.String("why", o.Reason), zap.Duration("for", busyPause))
	case Deferred, Abandoned:
	}
	next := now.Add(s.backoff(n.Tries))
	n.Status, n.Reason, n.NextTryAt = store.Held, "", &next
	unbook(n)
}

// mostUndecided is after how many tries a mail of which no server says whether it has it is not sent again: each may have
// arrived. They are as many as a payment's mails by default.
const mostUndecided = 4

// unbook takes a mail's mailbox back, unless somebody may already have the mail: its links are to work.
func unbook(n *store.Notification) {
	if n.Undecided == 0 {
		n.Mailbox, n.NewMailbox = nil, false
	}
}

// backoff doubles from 30 s to an hour; the jitter only ever adds, so that nobody comes back early.
func (s *Sender) backoff(tries int64) time.Duration {
	d := firstRetry << min(max(tries-1, 0), 7)
	d = min(d, longestRetry)
	if s.Jitter != nil {
		return d + s.Jitter(d/4)
	}
	return d + time.Duration(rand.Int64N(int64(d/4)+1))
}

func (s *Sender) paused() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := s.pausedUntil.Sub(s.Store.Now())
	if wait > refusalPause { // no pause is as long: the clock was set back
		s.pausedUntil = time.Time{} // for it comes there again
		return 0
	}
	return max(0, wait)
}

func reminderTemplate(i int) string { return fmt.Sprintf("reminder_%d", i+1) }

// reminds tells whether a template is one of the reminders that the settings plan.
func (s *Sender) reminds(template string) bool {
	for i := range s.Reminders {
		if template == reminderTemplate(i) {
			return true
		}
	}
	return false
}

// reminders are the mails that follow a first one; each re-reads the payment when it is due.
func (s *Sender) reminders(first store.Notification) []store.Notification {
	var reminders []store.Notification
	for i, after := range s.Reminders {
		n := first
		n.Template = reminderTemplate(i)
		n.ID = s.Store.NotificationID(n.PaymentKey, store.ChannelEmail, n.Template, "")
		n.Status, n.Reason, n.DueAt, n.NextTryAt, n.SentAt = store.Held, "", first.SentAt.Add(after), nil, nil
		n.Owner, n.Tries, n.Undecided, n.Mailbox, n.NewMailbox = 0, 0, 0, nil, false
		n.MessageID = n.ID + first.MessageID[len(first.ID):]
		n.CreatedAt, n.UpdatedAt = *first.SentAt, *first.SentAt
		reminders = append(reminders, n)
	}
	return reminders
}

// tell is the one line of an attempt to notify.
func (s *Sender) tell(n store.Notification, c *store.Claimed, o Outcome, settled bool) {
	fields := []zap.Field{
		zap.String("notification", n.ID), zap.String("channel", n.Channel), zap.String("template", n.Template),
		zap.String("payment", n.PaymentID), zap.String("source", n.Source), zap.String("account", n.Account),
		zap.String("failure", n.FailureID), zap.String("status", n.Status), zap.String("reason", n.Reason),
		zap.String("result", string(o.Result)), zap.Int("smtp_code", o.Code), zap.String("smtp_reason", o.Reason),
		zap.String("locale", n.Locale), zap.Int64("try", c.Notification.Tries), zap.Bool("settled", settled),
	}
	if n.Status == store.Failed || n.Status == store.Unknown || !settled {
		s.Log.Warn("notification."+n.Status, fields...)
		return
	}
	s.Log.Info("notification."+n.Status, fields...)
}

// hold keeps a number from being taken for a dead process's, by this one or, with keep, by others, while a claim of it may
// be open.
func (s *Sender) hold(owner *store.Owner) (release func()) {
	s.mu.Lock()
	s.unsettled[owner]++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		if s.unsettled[owner]--; s.unsettled[owner] == 0 {
			delete(s.unsettled, owner)
		}
		s.mu.Unlock()
		s.closeUnused(owner)
	}
}

// keep makes sure that the numbers with claims open are locked: where a session was lost, Postgres has freed its lock, and
// to others this process is dead.
func (s *Sender) keep(ctx context.Context) (err error) {
	s.mu.Lock()
	owners := slices.Collect(maps.Keys(s.unsettled))
	s.mu.Unlock()
	for _, o := range owners {
		err = errors.Join(err, o.Keep(ctx))
		s.closeUnused(o) // its last mail may have been settled meanwhile
	}
	return err
}

// closeUnused ends a session that keep took, once nothing rests on it.
func (s *Sender) closeUnused(owner *store.Owner) {
	s.mu.Lock()
	used := s.unsettled[owner] > 0
	s.mu.Unlock()
	if used || !owner.Lost() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	owner.Close(ctx)
}

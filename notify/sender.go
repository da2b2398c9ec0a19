package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	Limits Limits

	DefaultLocale  string
	AccountLocales map[string]string // the default of a connected account, by acct_…
	Metrics        prometheus.Registerer
}

// Sender sends mails that are due. Any number of processes may have one: which of them sends a mail is decided by the
// claim in the database, and a claim is the property of a process for as long as that lives.
type Sender struct {
	Config
	sent *prometheus.CounterVec

	mu          sync.Mutex
	owner       *store.Owner
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
	s := &Sender{Config: c, sent: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rebound_mails_total", Help: "Mails by what became of one attempt to send them.",
	}, []string{"result"})}
	c.Metrics.MustRegister(s.sent)
	return s
}

// Start takes this process's number and lock.
func (s *Sender) Start(ctx context.Context) error {
	_, err := s.current(ctx)
	return err
}

// Stop gives the number back. What is still claimed then is taken over by another process.
func (s *Sender) Stop(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != nil {
		s.owner.Close(ctx)
		s.owner = nil
	}
}

// current returns the owner, a new one when the old lock was lost: claims made under it belong to whoever finds them.
func (s *Sender) current(ctx context.Context) (*store.Owner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != nil {
		err := s.owner.Check(ctx)
		if err == nil {
			return s.owner, nil
		}
		s.Log.Warn("owner.lost", zap.Int64("owner", s.owner.Number))
		s.owner = nil
	}
	owner, err := s.Store.NewOwner(ctx)
	if err != nil {
		return nil, err
	}
	s.owner = owner
	return owner, nil
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
	owner, err := s.current(ctx)
	if err != nil {
		return 0, err
	}
	claimed, refusal, err := s.Store.Claim(ctx, owner.Number, id)
	if err != nil {
		return 0, err
	}
	if claimed == nil {
		s.Log.Debug("notification.not_claimed", zap.String("notification", id), zap.String("refusal", string(refusal)))
		if refusal == store.StreamOpen {
			return streamRetry, nil
		}
		return 0, nil
	}
	// From here on the claim must be settled, also when the job's context ends.
	settleCtx := context.WithoutCancel(ctx)
	n, later, outcome, err := s.send(ctx, owner, claimed)
	if err != nil {
		// Nothing was sent: give the claim back and let the job come again.
		n = claimed.Notification
		_, settleErr := s.Store.Settle(settleCtx, owner.Number, n, false)
		return 0, errors.Join(err, settleErr)
	}
	settled, err := s.Store.Settle(settleCtx, owner.Number, n, later)
	if err != nil {
		return 0, err
	}
	s.tell(n, claimed, outcome, settled)
	if settled && n.Status == store.Sent && n.Template == templateFirst {
		return 0, s.remind(settleCtx, n)
	}
	return 0, nil
}

// send finds the recipient, sends, and says what the notification is to become.
func (s *Sender) send(ctx context.Context, owner *store.Owner, c *store.Claimed) (n store.Notification, later bool, outcome Outcome, err error) {
	n = c.Notification
	now := s.Store.Now()
	end := func(status, reason string) (store.Notification, bool, Outcome, error) {
		n.Status, n.Reason = status, reason
		return n, false, outcome, nil
	}
	if now.Sub(n.DueAt) > s.MaxAge {
		return end(store.Suppressed, "too_old")
	}
	to, err := s.Store.Recipient(ctx, c.Payment.PaymentKey, c.Payment.Customer)
	if err != nil {
		return n, false, outcome, err
	}
	if to.Gone {
		return end(store.Suppressed, "customer_deleted")
	}
	if to.Email == "" {
		return end(store.Held, store.ReasonNoAddress)
	}
	mailbox, ok := s.Mailer.Mailbox(to.Email)
	if !ok {
		return end(store.Suppressed, "invalid_address")
	}
	n.Mailbox = s.Store.HashMailbox(mailbox)
	var status, reason string
	err = s.Store.Budget(ctx, owner.Number, &n, func(u store.Use) bool {
		status, reason = s.Limits.judge(u, n.Template == templateFirst)
		return status == ""
	})
	if err != nil {
		return n, false, outcome, err
	}
	if status != "" {
		n.Mailbox = nil
		if status == store.Held {
			s.Log.Error("sending.limited", zap.String("limit", reason), zap.String("notification", n.ID))
		}
		return end(status, reason)
	}
	n.Locale = decline.MatchLocale(cmp.Or(to.Locale, n.Locale), s.AccountLocales[n.Account], s.DefaultLocale)
	token, err := s.Store.NewLink(ctx, n.ID, now.Add(linkLife))
	if err != nil {
		return n, false, outcome, err
	}
	outcome = s.Mailer.Deliver(ctx, Letter{
		To: to.Email, Account: c.Payment.Account, Locale: n.Locale, Template: n.Template,
		Public: decline.Public{
			Code: c.Attempt.PublicCode, NextStep: decline.NextStep(c.Attempt.PublicNextStep),
			Field: decline.Field(c.Attempt.PublicField), RetrySameMethod: c.Attempt.PublicRetry,
		},
		Amount: c.Payment.Amount, Currency: c.Payment.Currency, Link: s.PublicURL + "/pay/" + token,
		MessageID: n.MessageID, Date: now, BeforeDot: owner.Check,
	})
	s.sent.WithLabelValues(string(outcome.Result)).Inc()
	later = s.judge(&n, outcome)
	return n, later, outcome, nil
}

// judge turns an outcome into the notification's next state, and tells whether it is to be tried again at DueAt.
func (s *Sender) judge(n *store.Notification, o Outcome) (later bool) {
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
	switch o.Result {
	case Accepted:
		n.Status, n.Reason, n.SentAt = store.Sent, "", &now
		return false
	case RejectedAddress:
		n.Status, n.Reason = store.Failed, reason
		return false
	case RejectedMail:
		n.Status, n.Reason = store.Failed, reason
		if s.refusals++; s.refusals >= refusalsInARow {
			s.pausedUntil = now.Add(refusalPause)
			s.Log.Error("sending.paused", zap.String("why", "the mail server refuses one mail after another"), zap.Duration("for", refusalPause))
		}
		return false
	case Undecided:
		if s.AtMost {
			n.Status, n.Reason = store.Unknown, reason
			return false
		}
	case Paused:
		s.pausedUntil = now.Add(busyPause)
		s.Log.Warn("sending.paused", zap.String("why", o.Reason), zap.Duration("for", busyPause))
	case Deferred, Abandoned:
	}
	n.Status, n.Reason, n.DueAt = store.Held, "", now.Add(backoff(n.Tries))
	n.Mailbox, n.NewMailbox = nil, false
	return true
}

// backoff doubles from 30 s to an hour; the jitter only ever adds, so that nobody comes back early.
func backoff(tries int64) time.Duration {
	d := firstRetry << min(max(tries-1, 0), 7)
	d = min(d, longestRetry)
	return d + time.Duration(rand.Int64N(int64(d/4)+1))
}

func (s *Sender) paused() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.pausedUntil.Sub(s.Store.Now()))
}

// remind schedules the reminders that follow a first mail; each re-reads the payment when it is due.
func (s *Sender) remind(ctx context.Context, first store.Notification) error {
	var reminders []store.Notification
	for i, after := range s.Reminders {
		n := first
		n.Template = fmt.Sprintf("reminder_%d", i+1)
		n.ID = s.Store.NotificationID(n.PaymentKey, store.ChannelEmail, n.Template, "")
		n.Status, n.Reason, n.DueAt, n.SentAt = store.Held, "", first.SentAt.Add(after), nil
		n.Owner, n.Tries, n.Mailbox = 0, 0, nil
		n.MessageID = n.ID + first.MessageID[len(first.ID):]
		n.CreatedAt, n.UpdatedAt = *first.SentAt, *first.SentAt
		reminders = append(reminders, n)
	}
	return s.Store.Schedule(ctx, reminders)
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

package demo

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"rebound/cmd/rebound/internal/sample"
)

// Shop sells one thing. Its payments exist here alone: what the provider would do, it does itself, and it tells by
// signed webhook events, some moments later, as the provider would.
type Shop struct {
	post  func(context.Context, sample.Event) error
	log   *zap.Logger
	delay time.Duration

	ctx     context.Context //nolint:containedctx // ends what runs after an answer
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	payments map[string]*shopPayment
	order    []string // ids, oldest first
}

type shopPayment struct {
	*sample.Payment
	paid bool
}

// mostPayments bounds what a shop remembers; older ones are forgotten first.
const mostPayments = 500

// ErrNoPayment is returned for a payment that the shop has not opened, or has forgotten.
var ErrNoPayment = errors.New("no such payment")

// ErrPaid is returned for a try on a payment that has succeeded.
var ErrPaid = errors.New("payment has succeeded already")

// NewShop makes a shop that posts its events by the given function. Events follow a try after the delay.
func NewShop(post func(context.Context, sample.Event) error, delay time.Duration, log *zap.Logger) *Shop {
	ctx, cancel := context.WithCancel(context.Background())
	return &Shop{post: post, delay: delay, log: log, ctx: ctx, cancel: cancel, payments: map[string]*shopPayment{}}
}

// Close ends what is still to be posted.
func (s *Shop) Close() {
	s.cancel()
	s.running.Wait()
}

// Know tells the shop of payments that were made elsewhere, so that its payment page can take money for them.
func (s *Shop) Know(payments ...*sample.Payment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range payments {
		s.remember(p)
	}
}

func (s *Shop) remember(p *sample.Payment) {
	id := p.PaymentID()
	if _, known := s.payments[id]; !known {
		s.order = append(s.order, id)
	}
	s.payments[id] = &shopPayment{Payment: p}
	for len(s.order) > mostPayments {
		delete(s.payments, s.order[0])
		s.order = s.order[1:]
	}
}

// Checkout opens a payment, as a merchant's server does when its payment page is asked for.
func (s *Shop) Checkout() *sample.Payment {
	p := sample.Checkout(sample.Params{Seed: rand.Uint64(), Now: time.Now(), Amount: price}) //nolint:gosec // invented ids
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(p)
	return p
}

// price of the one thing on sale, in cents.
const price = 4200

// Try lets the customer try to pay, with the given result of sample.Results. The events follow.
func (s *Shop) Try(paymentID, result string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.payments[paymentID]
	switch {
	case p == nil || p.Intent == "":
		return ErrNoPayment
	case p.paid:
		return ErrPaid
	}
	events := p.Try(result, time.Now())
	if events == nil {
		return ErrNoPayment
	}
	p.paid = result == "success"
	s.tell(events)
	return nil
}

// Pay takes the money for a payment by another card: what the link in a mail leads to. Payments that an earlier run has
// made are known by their id alone.
func (s *Shop) Pay(paymentID string) error {
	if !validPaymentID(paymentID) {
		return ErrNoPayment
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.payments[paymentID]
	if p == nil {
		s.remember(sample.Resume(paymentID, price, "usd", "", sample.Params{Seed: rand.Uint64()})) //nolint:gosec // invented ids
		p = s.payments[paymentID]
	}
	if p.paid {
		return ErrPaid
	}
	p.paid = true
	s.tell(p.Succeed(time.Now()))
	return nil
}

func validPaymentID(id string) bool {
	known := strings.HasPrefix(id, "pi_") || strings.HasPrefix(id, "ch_") || strings.HasPrefix(id, "py_")
	return known && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// tell posts events after the delay, each until it is taken, a few times.
func (s *Shop) tell(events []sample.Event) {
	if s.ctx.Err() != nil {
		return
	}
	s.running.Go(func() {
		for _, e := range events {
			wait := s.delay
			for try := 1; ; try++ {
				if !s.pause(wait) {
					return
				}
				err := s.post(s.ctx, e)
				if err == nil {
					break
				}
				if try == 5 {
					s.log.Warn("shop.event_not_taken", zap.String("event_id", e.ID), zap.Error(err))
					break
				}
				wait = time.Duration(try) * time.Second
			}
		}
	})
}

func (s *Shop) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

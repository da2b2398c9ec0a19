package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

// Where a seed would have to be lucky: all of a delivery in each gap between the steps of a mail, and all of a mail in
// each gap between those of a delivery.
func TestAMailAndADeliveryAtOnceSpoilNothing(t *testing.T) {
	t.Parallel()
	for _, later := range []string{"stolen_card", "recipient_deceased", "processing", "succeeded"} {
		t.Run(later, func(t *testing.T) {
			t.Parallel()
			s := newHistory(t, 1)
			s.atPeace, s.events = true, failureAnd(later)
			a, b := s.launch(), s.launch()
			a.skew, b.skew = 0, 0 // whose clock is behind leaves a mail to the look for lost ones
			mail := func(p *process) { require.True(t, s.mail(p), "no mail is due") }
			deliver := func(p *process) { s.deliver(p, 1) }
			// The reminder is due when all is known.
			reminded := map[string]string{"stolen_card": store.Sent, "processing": store.Held}[later]
			for gap := 1; s.mailInGap(gap, a, mail, b, deliver, reminded); gap++ {
			}
			for gap := 1; s.mailInGap(gap, a, deliver, b, mail, reminded); gap++ {
			}
		})
	}
}

// mailInGap lets a and b work at once where a mail is due, and checks what comes of that and of its reminder; "" is to be over
// without having been sent. It returns false where a has no such gap.
func (s *history) mailInGap(gap int, a *process, works func(*process), b *process, intrudes func(*process), reminded string) bool {
	s.empty()
	s.begin()
	s.gaps++
	s.advance(time.Duration(s.gaps) * time.Minute) // a moment that no process remembers
	a.free.Store(true)
	s.deliver(a, 0)
	s.advance(time.Hour)
	require.True(s.t, s.mail(a), "no moment has come") // its job makes the mail's own
	a.free.Store(false)
	if !s.inGap(gap, a, works, b, intrudes) {
		return false
	}
	b.free.Store(true)
	defer b.free.Store(false)
	for s.jump() {
		s.mail(b)
	}
	for key, m := range s.truth().mails {
		require.LessOrEqual(s.t, s.sink.taken[m.ID], 1, "copies of the mail %s", key)
		require.Equal(s.t, s.sink.taken[m.ID] == 1, m.Status == store.Sent, "the mail %s: %+v", key, m)
		if !strings.HasSuffix(key, " first") {
			got := m.Status
			if got == store.Canceled || got == store.Suppressed {
				got = ""
			}
			require.Equal(s.t, reminded, got, "the mail %s: %+v", key, m)
		}
	}
	return true
}

// inGap lets b do all of its work after so many steps of a's, save where it has to wait for a. It returns false where a has
// no such step.
func (s *history) inGap(gap int, a *process, works func(*process), b *process, intrudes func(*process)) bool {
	s.note("gap %d", gap)
	works(a)
	for range gap {
		s.release(a, answer{})
		if a.task == nil {
			return false
		}
	}
	intrudes(b)
	for b.task != nil {
		if b.held != "" {
			s.release(b, answer{})
		} else {
			s.release(a, answer{})
		}
	}
	s.finishAll()
	return true
}

func TestTwoDeliveriesAtOnceComeToTheSame(t *testing.T) {
	t.Parallel()
	for _, later := range []string{"stolen_card", "succeeded"} {
		t.Run(later, func(t *testing.T) {
			t.Parallel()
			s := newHistory(t, 1)
			s.events = failureAnd(later)
			a, b := s.launch(), s.launch()
			a.skew, b.skew = 0, 0
			deliver := func(event int) func(*process) { return func(p *process) { s.deliver(p, event) } }
			for event := range s.events {
				deliver(event)(a)
				s.finishAll()
			}
			want := s.truth()
			for _, events := range [][2]int{{0, 1}, {1, 0}} {
				for gap, more := 0, true; more; gap++ {
					s.empty()
					s.begin()
					if more = s.inGap(gap, a, deliver(events[0]), b, deliver(events[1])); more {
						require.Equal(t, want, s.truth(), "gap %d of event %d", gap, events[0])
					}
				}
			}
		})
	}
}

// failureAnd are a failure that is to be mailed, and what is told later of the same payment: a code or a status.
func failureAnd(later string) []worldEvent {
	w := &world{rng: rand.New(rand.NewPCG(1, 1)), now: simulationStart.Unix() - 5, payment: "p0"}
	intent := fields{
		"id": "pi_p0", "object": "payment_intent", "amount": 4200, "currency": "usd", "created": w.now,
		"customer": "cus_p0", "receipt_email": "p0@example.com", "latest_charge": "ch_p0",
	}
	failure := fields{"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "charge": "ch_p0"}
	intent["last_payment_error"] = failure
	w.add("failed", "2024-06-20", "payment_intent.payment_failed", nil, intent)
	eventType := "payment_intent." + later
	if later == "stolen_card" || later == "recipient_deceased" {
		failure["decline_code"], eventType = later, "payment_intent.payment_failed"
	} else if later == "payment_intent_authentication_failure" {
		intent["last_payment_error"] = fields{"type": "invalid_request_error", "code": later}
		delete(intent, "latest_charge")
		w.now += int64(time.Hour / time.Second)
		eventType = "payment_intent.payment_failed"
	} else {
		intent["status"] = later
	}
	w.add("later", "2024-06-20", eventType, nil, intent)
	return w.events
}

// What is decided while a mail is claimed must hold once it is tried again: here that the customer is at the page.
func TestADecisionThatComesWhileAMailIsClaimedIsNotLost(t *testing.T) {
	s := newHistory(t, 1)
	s.atPeace, s.events = true, failureAnd("payment_intent_authentication_failure")
	a, b := s.launch(), s.launch()
	s.deliver(a, 0)
	s.finishAll()
	s.advance(time.Hour)
	require.True(t, s.mail(a)) // the moment's job, which makes the mail's own
	s.finishAll()
	require.True(t, s.mail(a))
	for !strings.HasPrefix(a.held, "smtp to") {
		s.release(a, answer{})
	}
	s.deliver(b, 1)
	for b.task != nil {
		s.release(b, answer{})
	}
	s.release(a, answer{outcome: notNow})
	s.finishAll()
	s.advance(time.Hour)
	for s.jump() {
		s.mail(b)
		s.finishAll()
	}
	for key, m := range s.truth().mails {
		require.Equal(t, [2]string{"suppressed", "on_session"}, [2]string{m.Status, m.Reason}, "%s: %+v, taken %d", key, m, s.sink.taken[m.ID])
	}
}

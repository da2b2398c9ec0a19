package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
	"rebound/notify/checkout"
	"rebound/store"
)

// nameless is a state without ids.
func nameless(s checkout.State) checkout.State {
	s.Key.PaymentID, s.PaymentIntent, s.AttemptID = "pi_1", "pi_1", "fl_1"
	return s
}

// states are what the checkout streams of the bystanders get from the store.
func (s *silence) states() func(b *bystander) string {
	s.t.Helper()
	out := map[string]string{}
	keys := make([]checkout.Key, 0, len(s.all))
	for _, b := range s.all {
		keys = append(keys, checkoutKey(b.key))
	}
	found, err := checkoutRows{s.store}.States(s.t.Context(), keys)
	require.NoError(s.t, err)
	for _, state := range found {
		out[state.PaymentID] = fmt.Sprintf("%+v", nameless(state))
	}
	return func(b *bystander) string { return out[b.key.PaymentID] }
}

// checkoutFake is the stream's store for one payment, in a bubble where a database cannot live.
type checkoutFake struct {
	key checkout.Key

	mu       sync.Mutex
	state    *checkout.State
	told     time.Time
	onNotify func(string)
}

func (f *checkoutFake) Secrets(context.Context, []string) ([]checkout.Secret, error) {
	return []checkout.Secret{{Key: f.key, Hash: []byte("pi_1_secret_a")}}, nil
}

func (f *checkoutFake) States(context.Context, []checkout.Key) ([]checkout.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == nil {
		return nil, nil
	}
	s := *f.state
	s.Age = time.Since(f.told)
	return []checkout.State{s}, nil
}

func (f *checkoutFake) Keep(context.Context, []checkout.Presence) error   { return nil }
func (f *checkoutFake) Drop(context.Context, []string) error              { return nil }
func (f *checkoutFake) Sweep(context.Context, time.Duration) error        { return nil }
func (f *checkoutFake) MarkShown(context.Context, []checkout.Shown) error { return nil }

func (f *checkoutFake) Listen(ctx context.Context, onNotify func(string), onListening func()) {
	f.mu.Lock()
	f.onNotify = onNotify
	f.mu.Unlock()
	onListening()
	<-ctx.Done()
}

func (f *checkoutFake) tell(s checkout.State) {
	f.mu.Lock()
	f.state, f.told = &s, time.Now()
	notify := f.onNotify
	f.mu.Unlock()
	notify(f.key.PaymentID)
}

// tape is a response that notes when each byte was written.
type tape struct {
	*httptest.ResponseRecorder
	began time.Time
	raw   *bytes.Buffer
}

func (w tape) Write(b []byte) (int, error) {
	fmt.Fprintf(w.raw, "%v: %s", time.Since(w.began), b)
	return len(b), nil
}

func (w tape) SetWriteDeadline(time.Time) error { return nil }

// transcript is all that one stream says, when, and under which headers, while the payment's state is first one and two
// seconds later the next.
func transcript(t *testing.T, acceptLanguage string, states ...checkout.State) (said string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake := &checkoutFake{key: states[0].Key}
		hub := checkout.New(checkout.Config{Store: fake, Hash: func(s string) []byte { return []byte(s) }})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { hub.Run(ctx) })
		e := echo.New()
		hub.Register(e)
		w := tape{httptest.NewRecorder(), time.Now(), &bytes.Buffer{}}
		req := httptest.NewRequest(http.MethodGet, checkout.EventsPath, nil).WithContext(ctx)
		req.Header.Set("Authorization", "Bearer pi_1_secret_a")
		req.Header.Set("Accept-Language", acceptLanguage)
		running.Go(func() { e.ServeHTTP(w, req) })
		for _, s := range states {
			<-time.After(2 * time.Second)
			fake.tell(s)
		}
		<-time.After(20 * time.Second)
		stop()
		running.Wait()
		said = fmt.Sprint(w.Code, w.Header(), w.raw)
	})
	return said
}

// A page that is open while the two events of an attempt come, in either order, hears the same of a signal in any of
// them, in every language and at the same moments, as of a generic decline.
func TestNoCheckoutStreamTellsAFraudSignalFromAGenericDecline(t *testing.T) {
	t.Parallel()
	var twins []store.Fact
	for _, sc := range scenes(t) {
		if sc.name == "pair" {
			twins = sc.facts
		}
	}
	require.Len(t, twins, 2)
	// The states that a page sees, after each event: of a plain decline, then of every signal in every field.
	sequence := func(intentFirst bool, with companion, c *clue, only int) []checkout.State {
		facts := []store.Fact{twins[0], twins[1]}
		for i := range facts {
			with.say(&facts[i], false)
			facts[i].ReceivedAt = time.Unix(facts[i].Created, 0)
			if c != nil && c.network != "" {
				facts[i].Network, facts[i].Brand = c.network, c.network
			}
		}
		if c != nil && !c.put(&facts[only]) {
			return nil
		}
		if intentFirst {
			facts[0], facts[1] = facts[1], facts[0]
		}
		var out []checkout.State
		for n := 1; n <= 2; n++ {
			d := handler.Derive(facts[0].PaymentKey, facts[:n], nil, decline.Rules{})
			require.Len(t, d.Attempts, 1)
			a := d.Attempts[0]
			out = append(out, nameless(checkout.State{
				Key: checkoutKey(a.PaymentKey), Status: d.Payment.Status, AwaitsCharge: a.AwaitsCharge,
				Public: decline.Public{Code: a.PublicCode, NextStep: decline.NextStep(a.PublicNextStep), Field: decline.Field(a.PublicField), RetrySameMethod: a.PublicRetry},
			}))
		}
		return out
	}
	for _, intentFirst := range []bool{true, false} {
		plain := sequence(intentFirst, plainDecline, nil, 0)
		distinct := map[[2]checkout.State]string{}
		for _, c := range clues(t) {
			for only := range twins {
				for _, with := range companions {
					got := sequence(intentFirst, with, &c, only)
					// The charge's own event tells at once: with it first, a signal of the intent comes too late to hide it.
					if got != nil && (intentFirst || only == 0 || with.name == plainDecline.name) {
						distinct[[2]checkout.State(got)] = fmt.Sprintf("%s in fact %d, beside %s", c.name, only, with.name)
					}
				}
			}
		}
		require.NotEmpty(t, distinct)
		for _, locale := range decline.Locales() {
			want := transcript(t, locale, plain...)
			require.Contains(t, want, `"locale":"`+locale+`"`)
			for states, of := range distinct {
				require.Equal(t, want, transcript(t, locale, states[:]...), "%s, intent first: %v", of, intentFirst)
			}
			require.NotEqual(t, want, transcript(t, locale, sequence(intentFirst, companions[1], nil, 0)...))
		}
	}
}

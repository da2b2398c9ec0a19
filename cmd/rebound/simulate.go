package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/cmd/rebound/internal/sample"
)

type simulateCommand struct {
	URL     string   `name:"url" default:"http://127.0.0.1:8080" help:"Server, or its webhook's full address."`
	Secret  string   `help:"The endpoint's signing secret; default: the first of STRIPE_WEBHOOK_SECRET, else that of a dev on this machine."`
	Case    []string `help:"Case of failure, may be repeated: ${sample_cases}, or all." default:"all"`
	Count   int      `help:"Number of sample payments; 0: one of each case." default:"0"`
	Rate    float64  `help:"Events a second; 0: as fast as the server answers." default:"0"`
	Seed    uint64   `help:"Makes the same ids again; 0: new ones each time." default:"0"`
	Email   string   `help:"Address of the customers; empty: invented ones at example.com."`
	Recover bool     `help:"Let every payment succeed afterwards."`
}

// senders is how many requests may be under way at once.
const senders = 16

// Run posts the events and reports the answers. An answer other than 2xx, or none, makes the command fail.
func (s *simulateCommand) Run(ctx context.Context, p *program) error {
	target, err := webhookURL(s.URL)
	if err != nil {
		return usageError{err}
	}
	secret, err := s.secret(p)
	if err != nil {
		return err
	}
	names, err := s.cases()
	if err != nil {
		return usageError{err}
	}
	if s.Count < 0 || s.Rate < 0 {
		return usageError{errors.New("--count and --rate cannot be negative")}
	}
	count := s.Count
	if count == 0 {
		count = len(names)
	}
	seed := s.Seed
	if seed == 0 {
		seed = rand.Uint64() //nolint:gosec // invented ids, not secrets
	}

	report := &simulation{statuses: map[string]int{}, bar: newBar(p.stderr, "payments", count)}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	pace := newPace(s.Rate)
	started := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(senders)
	for i := range count {
		if groupCtx.Err() != nil {
			group.Go(func() error { return fmt.Errorf("posting sample events: %w", groupCtx.Err()) })
			break
		}
		group.Go(func() error {
			defer report.bar.add(1)
			payment, err := sample.Build(names[i%len(names)], sample.Params{
				Seed: seed + uint64(i), Now: time.Now(), Email: s.Email, //nolint:gosec // not negative
			})
			if err != nil {
				return err
			}
			if err := report.post(groupCtx, client, pace, target, secret, payment.Events); err != nil || !s.Recover {
				return err
			}
			return report.post(groupCtx, client, pace, target, secret, payment.Succeed(time.Now()))
		})
	}
	err = group.Wait()
	report.bar.done()
	report.print(p.stdout, time.Since(started))
	if err != nil {
		return err
	}
	if bad := report.bad.Load(); bad > 0 {
		return fmt.Errorf("%d events were not answered with 2xx", bad)
	}
	return nil
}

func (s *simulateCommand) secret(p *program) (string, error) {
	if s.Secret != "" {
		return s.Secret, nil
	}
	vars := readEnviron(p.environ)
	f := &faults{}
	readFiles(vars, []string{"STRIPE_WEBHOOK_SECRET", "DATA_DIR"}, f)
	if len(f.lines) > 0 {
		return "", configFaults(f.lines)
	}
	if secret := splitList(vars["STRIPE_WEBHOOK_SECRET"])[0]; secret != "" {
		return secret, nil
	}
	// A dev on this machine keeps its secret where we can read it, if we are its user.
	if u, err := url.Parse(s.URL); err == nil && loopback(u.Host) {
		if dir, err := dataDir(vars); err == nil {
			var kept devSecrets
			if content, err := os.ReadFile(filepath.Join(dir, devSecretsFile)); err == nil && json.Unmarshal(content, &kept) == nil && kept.WebhookSecret != "" {
				return kept.WebhookSecret, nil
			}
		}
	}
	return "", usageError{errors.New("give --secret, or set STRIPE_WEBHOOK_SECRET")}
}

func (s *simulateCommand) cases() ([]string, error) {
	all := caseNames()
	var names []string
	for _, name := range s.Case {
		switch {
		case name == "all":
			names = append(names, all...)
		case slices.Contains(all, name):
			names = append(names, name)
		default:
			return nil, fmt.Errorf("unknown case %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return names, nil
}

func caseNames() (names []string) {
	for _, c := range sample.Cases() {
		names = append(names, c.Name)
	}
	return names
}

// webhookURL completes a server's address by the route of Stripe's webhook.
func webhookURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q is not a web address such as http://127.0.0.1:8080", text)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/webhooks/stripe"
	}
	return u.String(), nil
}

// simulation counts answers.
type simulation struct {
	mu       sync.Mutex
	statuses map[string]int
	events   atomic.Int64
	bad      atomic.Int64
	bar      *bar
}

func (r *simulation) post(ctx context.Context, client *http.Client, pace *pace, target, secret string, events []sample.Event) error {
	for _, e := range events {
		if err := pace.wait(ctx); err != nil {
			return err
		}
		status, ok := postEvent(ctx, client, target, secret, e)
		if ctx.Err() != nil {
			return fmt.Errorf("posting sample events: %w", ctx.Err())
		}
		r.events.Add(1)
		if !ok {
			r.bad.Add(1)
		}
		r.mu.Lock()
		r.statuses[status]++
		r.mu.Unlock()
	}
	return nil
}

// postEvent signs and posts one event as the provider would. The status is the answer's, or why there was none.
func postEvent(ctx context.Context, client *http.Client, target, secret string, e sample.Event) (status string, ok bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(e.Body))
	if err != nil {
		return "request not made", false
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Stripe-Signature", sample.Sign(e.Body, secret, time.Now()))
	answer, err := client.Do(request)
	if err != nil {
		// Without addresses and ports, so that equal causes count together.
		var failure *url.Error
		if errors.As(err, &failure) {
			err = failure.Err
		}
		var network *net.OpError
		if errors.As(err, &network) {
			err = network.Err
		}
		return "no answer: " + err.Error(), false
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16))
	_ = answer.Body.Close()
	return answer.Status, answer.StatusCode/100 == 2
}

func (r *simulation) print(w io.Writer, took time.Duration) {
	statuses := make([]string, 0, len(r.statuses))
	for status := range r.statuses {
		statuses = append(statuses, status)
	}
	slices.Sort(statuses)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EVENTS\tANSWER")
	for _, status := range statuses {
		fmt.Fprintf(table, "%d\t%s\n", r.statuses[status], status)
	}
	_ = table.Flush()
	fmt.Fprintf(w, "%d events in %.1f s (%.0f a second)\n", r.events.Load(), took.Seconds(),
		float64(r.events.Load())/max(took.Seconds(), 1e-3))
}

// pace spaces events evenly over all senders.
type pace struct {
	mu    sync.Mutex
	every time.Duration
	next  time.Time
}

func newPace(rate float64) *pace {
	if rate <= 0 {
		return &pace{}
	}
	return &pace{every: time.Duration(float64(time.Second) / rate), next: time.Now()}
}

func (p *pace) wait(ctx context.Context) error {
	if p.every == 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	at := p.next
	p.next = p.next.Add(p.every)
	p.mu.Unlock()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

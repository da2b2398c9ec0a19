package console

import (
	"context"
	"time"

	"rebound/decline"
	"rebound/store"
)

// advise counts the use made so far of each failure's card and payment, and decides about each. It returns a decision per
// row; a success has none.
func (s *server) advise(ctx context.Context, rows []store.Failure) ([]decline.Decision, error) {
	var failed []store.Attempt
	var at []int
	for i, row := range rows {
		if row.Result == "failed" {
			failed, at = append(failed, row.Attempt), append(at, i)
		}
	}
	now := s.Now()
	uses, err := s.Store.CardUses(ctx, failed, now)
	if err != nil {
		return nil, err
	}
	decisions := make([]decline.Decision, len(rows))
	for n, i := range at {
		decisions[i] = s.decide(&rows[i].Attempt, uses(n), now)
	}
	return decisions, nil
}

// decide makes a failure's retry members what holds at this moment: a stored verdict only knows its own attempt.
func (s *server) decide(a *store.Attempt, use decline.Use, now time.Time) decline.Decision {
	d := decline.Rules{MaxRetriesPerCharge: s.MaxRetriesPerCharge}.Decide(a.RetryQuestion(), use, now)
	a.RetryVerdict, a.RetryLimitedBy = string(d.Verdict), d.LimitedBy
	a.AttemptsUsed, a.AttemptsLeft = int64(d.AttemptsUsed), int64(d.AttemptsLeft)
	a.RetryNotBefore = momentOf(d.NotBefore)
	return d
}

// ruleJSON is one limit on retries and the use made of it.
type ruleJSON struct {
	Rule     string     `json:"rule"`
	Limit    int        `json:"limit"`          // 0: none after an attempt that sets the rule off
	Used     int        `json:"used"`           // failed attempts that count
	Window   *int64     `json:"window_seconds"` // null: no end
	Scope    string     `json:"scope"`
	Limiting bool       `json:"limiting"` // it stands against a retry now
	Until    *time.Time `json:"until"`    // when it lets go; null also where it never does
	Meaning  *string    `json:"meaning"`
	Status   *string    `json:"status"` // default: a careful choice, not a published rule
	Source   *string    `json:"source"`
	Edition  *string    `json:"edition"`
}

func rulesOf(d decline.Decision) []ruleJSON {
	out := make([]ruleJSON, len(d.Rules))
	for i, r := range d.Rules {
		out[i] = ruleJSON{Rule: r.Name, Limit: r.Max, Used: r.Used, Window: number(int64(r.Window / time.Second)), Scope: r.Scope, Limiting: r.Limiting,
			Until: momentOf(r.Until), Meaning: text(r.Meaning), Status: text(r.Status), Source: text(r.Sources), Edition: text(r.Edition)}
	}
	return out
}

// momentOf is null for no time.
func momentOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return moment(&t)
}

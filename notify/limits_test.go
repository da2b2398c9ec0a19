package notify

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

func TestAStormOfUnknownMailboxesStopsAtTheFuseAndKnownCustomersStillGetTheirs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 2 })
	known := b.failing(t, "pi_known", "known@example.com")
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_known', 'stripe', '', false, $1, 'evt_c', false, NULL, '')`, start.Add(-2*time.Hour).Unix())
	justMade := b.failing(t, "pi_new", "new@example.com")
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_new', 'stripe', '', false, $1, 'evt_d', false, NULL, '')`, start.Unix())
	storm := []string{b.failing(t, "pi_1", "a@example.com"), b.failing(t, "pi_2", "b@example.com"), b.failing(t, "pi_3", "c@example.com")}
	b.clock.forward(time.Minute)
	for _, id := range append(storm, known, justMade) {
		_, err := s.Deliver(t.Context(), id)
		require.NoError(t, err)
	}
	require.Equal(t, store.Sent, b.notification(t, storm[1]).Status)
	for _, id := range []string{storm[2], justMade} {
		n := b.notification(t, id)
		require.Equal(t, store.Held, n.Status, "held, never dropped")
		require.Equal(t, store.ReasonMailStorm, n.Reason)
	}
	require.Equal(t, store.Sent, b.notification(t, known).Status)

	b.clock.forward(time.Hour)
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM river_job`))
	_, err := s.Deliver(t.Context(), storm[2])
	require.NoError(t, err)
	require.Equal(t, store.Sent, b.notification(t, storm[2]).Status)
}

func TestLimitsJudge(t *testing.T) {
	t.Parallel()
	limits := Limits{PerPayment24h: 1, PerPayment: 4, PerMailbox24h: 2, PerMailbox7d: 4, NewMailboxesPerHour: 50, PerDay: 4000}
	cases := map[string]struct {
		use      store.Use
		reminder bool
		limits   Limits
		status   string
		reason   string
	}{
		"nothing sent yet":                          {limits: limits},
		"the payment's mail of the day is out":      {use: store.Use{PaymentDay: 1}, limits: limits, status: store.Suppressed, reason: "payment_limit"},
		"the payment has had its four":              {use: store.Use{PaymentEver: 4}, limits: limits, status: store.Suppressed, reason: "payment_limit"},
		"two to the mailbox today":                  {use: store.Use{MailboxDay: 2}, limits: limits, status: store.Suppressed, reason: "mailbox_limit"},
		"four to the mailbox this week":             {use: store.Use{MailboxWeek: 4}, limits: limits, status: store.Suppressed, reason: "mailbox_limit"},
		"unsubscribed":                              {use: store.Use{Suppressed: "unsubscribed"}, limits: limits, status: store.Suppressed, reason: "unsubscribed"},
		"fifty unknown mailboxes this hour":         {use: store.Use{NewMailboxesHour: 50}, limits: limits, status: store.Held, reason: store.ReasonMailStorm},
		"the same for a known customer":             {use: store.Use{NewMailboxesHour: 50, Known: true}, limits: limits},
		"the day is full for unknown mailboxes":     {use: store.Use{AllDay: 4000}, limits: limits, status: store.Held, reason: store.ReasonDailyLimit},
		"the day is full for reminders":             {use: store.Use{AllDay: 4000, Known: true}, reminder: true, limits: limits, status: store.Held, reason: store.ReasonDailyLimit},
		"known customers have a share of their own": {use: store.Use{AllDay: 9000, KnownDay: 3999, Known: true}, limits: limits},
		"which ends too":                            {use: store.Use{KnownDay: 4000, Known: true}, limits: limits, status: store.Held, reason: store.ReasonDailyLimit},
		"zero allows none":                          {limits: Limits{PerPayment: 0, PerPayment24h: -1}, status: store.Suppressed, reason: "payment_limit"},
		"minus one is no limit":                     {use: store.Use{PaymentDay: 9, PaymentEver: 9, MailboxDay: 9, MailboxWeek: 9, NewMailboxesHour: 99, AllDay: 9999}, limits: Limits{-1, -1, -1, -1, -1, -1}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, reason := c.limits.judge(c.use, !c.reminder)
			require.Equal(t, c.status, status)
			require.Equal(t, c.reason, reason)
		})
	}
}

package notify

import (
	"context"
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
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_known', 'stripe', '', false, $1, 'evt_c', false, NULL, '', $1)`, start.Add(-2*time.Hour).Unix())
	justMade := b.failing(t, "pi_new", "new@example.com")
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_new', 'stripe', '', false, $1, 'evt_d', false, NULL, '', $1)`, start.Unix())
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

func TestACustomerOfYearsIsKnownThoughTheRecordIsNew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 0 })
	long := start.Add(-3 * 365 * 24 * time.Hour).Unix()
	// A renewal that fails makes its customer delinquent, which is an update.
	renewed := func(p, event string) store.Customer {
		return store.Customer{CustomerID: "cus_" + p, Source: "stripe", RecordCreated: b.clock.now().Unix(), RecordEvent: event}
	}
	said := renewed("pi_said", "evt_1")
	said.Created = long
	early := renewed("pi_seen", "evt_2")
	early.RecordCreated = long
	for name, records := range map[string][]store.Customer{
		"pi_said": {said}, "pi_seen": {early, renewed("pi_seen", "evt_3")}, "pi_late": {renewed("pi_late", "evt_3"), {CustomerID: "cus_pi_late",
			Source: "stripe", RecordCreated: long, RecordEvent: "evt_2"}},
	} {
		id := b.failing(t, name, name+"@example.com")
		for _, r := range records {
			require.NoError(t, b.store.InIngest(t.Context(), func(in *store.Ingest) error {
				return in.Save(t.Context(), store.Changes{Customers: []store.Customer{r}})
			}))
		}
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		require.Equal(t, store.Sent, b.notification(t, id).Status, name)
	}
}

func TestAStormsOwnCustomersDoNotBecomeKnownByWaiting(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 2 })
	var storm []string
	for _, p := range []string{"pi_1", "pi_2", "pi_3", "pi_4", "pi_5", "pi_6"} {
		storm = append(storm, b.failing(t, p, p+"@example.com"))
		b.exec(t, `INSERT INTO customers VALUES ($1, 'stripe', '', false, $2, 'evt_1', false, NULL, '', $2)`, "cus_"+p, start.Unix())
	}
	b.clock.forward(time.Minute)
	for hour := range 3 {
		for _, id := range storm {
			deliver(t, s, id)
		}
		require.Equal(t, 2*(hour+1), b.post.count(), "two an hour, and no more")
		b.clock.forward(time.Hour)
	}
}

func TestKnownCustomersHeldForTheDayAreLookedAtBeforeWhatYields(t *testing.T) {
	t.Parallel()
	b := setup(t)
	full := b.sender(t, func(c *Config) { c.Limits.PerDay = 0 })
	stranger := b.failing(t, "pi_1", "a@example.com")
	b.clock.forward(time.Minute)
	deliver(t, full, stranger)
	b.copies(t, stranger, wakeAtOnce)
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_known', 'stripe', '', false, 1, 'evt_1', false, NULL, '', 1)`)
	known := b.failing(t, "pi_known", "known@example.com")
	b.clock.forward(time.Minute)
	deliver(t, full, known)
	require.Equal(t, store.ReasonDailyLimit, b.notification(t, known).Reason)
	require.NoError(t, b.sender(t).Wake(t.Context()))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, known))
}

func TestWhoHasBecomeKnownIsLookedAtBeforeTheStorm(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 1 })
	for _, p := range []string{"pi_1", "pi_2", "pi_3"} {
		id := b.failing(t, p, p+"@example.com")
		b.clock.forward(time.Minute)
		deliver(t, s, id)
	}
	require.NoError(t, b.store.PutContact(t.Context(), store.CustomerKey{CustomerID: "cus_pi_3", Source: "stripe"}, "pi_3@example.com", "", ""))
	require.NoError(t, s.Wake(t.Context()))
	third := b.store.NotificationID(store.PaymentKey{PaymentID: "pi_3", Source: "stripe"}, store.ChannelEmail, "first", "")
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, third))
}

func TestWhoCameFirstGetsThePlaceThatComesFreeInAStorm(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 1 })
	at := func(p string) string {
		id := b.failing(t, p, p+"@example.com")
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		return id
	}
	at("pi_1")
	honest := at("pi_2")
	b.clock.forward(time.Hour)
	late := at("pi_3")
	require.Equal(t, store.ReasonMailStorm, b.notification(t, late).Reason, "the storm goes on")
	require.NoError(t, s.Wake(t.Context()))
	deliver(t, s, honest)
	require.Equal(t, store.Sent, b.notification(t, honest).Status)
}

// storm is three mails to mailboxes that nobody knows, all due.
func (b *bench) storm(t *testing.T) (ids []string) {
	t.Helper()
	for _, p := range []string{"pi_1", "pi_2", "pi_3"} {
		ids = append(ids, b.failing(t, p, p+"@example.com"))
	}
	b.clock.forward(time.Minute)
	return ids
}

func TestMailsThatMayHaveArrivedCountAgainstTheFuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 2 })
	storm := b.storm(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Undecided} }
	for _, id := range storm {
		deliver(t, s, id)
	}
	require.Equal(t, store.ReasonMailStorm, b.notification(t, storm[2]).Reason)
	b.clock.forward(time.Minute)
	b.post.answer = nil
	for _, id := range storm[:2] {
		deliver(t, s, id)
		require.Equal(t, store.Sent, b.notification(t, id).Status, "their own places are theirs")
	}
}

func TestMailsThatMayHaveArrivedCountAgainstTheirMailboxesWeek(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(string) string{
		"one mailbox":  func(string) string { return "buyer@example.com" },
		"one customer": func(p string) string { return p + "@example.com" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			s := b.sender(t, func(c *Config) { c.AtMost = true })
			b.post.answer = func(Letter) Outcome { return Outcome{Result: Undecided} }
			send := func(p string) string {
				id := b.failing(t, p, address(p))
				if name == "one customer" {
					b.exec(t, `UPDATE notifications SET customer = 'cus_1'`)
				}
				b.clock.forward(time.Minute)
				deliver(t, s, id)
				return b.notification(t, id).Reason
			}
			for _, p := range []string{"pi_1", "pi_2", "pi_3", "pi_4"} {
				require.Equal(t, string(Undecided), send(p))
				b.clock.forward(25 * time.Hour)
			}
			require.Equal(t, "mailbox_limit", send("pi_5"))
			b.clock.forward(3 * 24 * time.Hour)
			require.Equal(t, string(Undecided), send("pi_6"), "the first is a week ago")
		})
	}
}

func TestMailsThatMayHaveArrivedCountAgainstTheirPaymentsTotal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) {
		c.AtMost, c.Reminders, c.Limits.PerPayment = true, []time.Duration{48 * time.Hour, 96 * time.Hour}, 2
	})
	first := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, first)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Undecided} }
	remind := func(template string) string {
		b.clock.forward(48 * time.Hour)
		id := b.store.NotificationID(store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}, store.ChannelEmail, template, "")
		deliver(t, s, id)
		return b.notification(t, id).Reason
	}
	require.Equal(t, string(Undecided), remind("reminder_1"))
	require.Equal(t, "payment_limit", remind("reminder_2"))
}

func TestRefusedMailsOfKnownCustomersUseNoPlaceOfTheFuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 1 })
	storm := b.storm(t)
	require.NoError(t, b.store.PutContact(t.Context(), store.CustomerKey{CustomerID: "cus_pi_1", Source: "stripe"}, "pi_1@example.com", "", ""))
	b.post.answer = func(Letter) Outcome { return Outcome{Result: RejectedAddress, Code: 550} }
	for _, id := range storm {
		deliver(t, s, id)
	}
	require.Equal(t, store.Failed, b.notification(t, storm[1]).Status)
	require.Equal(t, store.ReasonMailStorm, b.notification(t, storm[2]).Reason)
}

func TestAMailboxIsKnownAnHourAfterItsFirstMail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour, c.Limits.PerMailbox24h = 1, 9 })
	send := func(p string) string {
		id := b.failing(t, p, "buyer@example.com")
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		return b.notification(t, id).Status
	}
	require.Equal(t, store.Sent, send("pi_1"))
	require.Equal(t, store.Held, send("pi_2"))
	b.clock.forward(58 * time.Minute)
	require.Equal(t, store.Sent, send("pi_3"))
	require.Equal(t, store.Sent, send("pi_4"))
}

func TestASuccessOfTheCustomersOwnAnHourBeforeMakesThemKnown(t *testing.T) {
	t.Parallel()
	of := func(member string, value any) map[string]any {
		return map[string]any{"succeeded_created": start.Add(-time.Hour).Unix(), member: value}
	}
	for name, c := range map[string]struct {
		success map[string]any
		want    string
	}{
		"an hour before":           {of("account", ""), store.Sent},
		"a second less":            {of("succeeded_created", start.Add(-time.Hour+time.Second).Unix()), store.Held},
		"in the other mode":        {of("livemode", true), store.Held},
		"of another account":       {of("account", "acct_1"), store.Held},
		"of another provider":      {of("source", "frame"), store.Held},
		"of another customer":      {of("customer", "cus_2"), store.Held},
		"which has not come about": {of("succeeded_created", 0), store.Held},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 0 })
			id := b.failing(t, "pi_1", "buyer@example.com")
			c.success["payment_id"] = "pi_2"
			b.exec(t, `INSERT INTO payments SELECT (jsonb_populate_record(p, $1)).* FROM payments p`, c.success)
			b.clock.forward(time.Minute)
			deliver(t, s, id)
			require.Equal(t, c.want, b.notification(t, id).Status)
		})
	}
}

func TestOfOneIdInTwoAccountsEachCustomerHasLimits(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]time.Duration{"today": time.Hour, "this week": 72 * time.Hour} {
		b := setup(t)
		s := b.sender(t)
		id := b.failing(t, "pi_1", "buyer@example.com")
		b.exec(t, `INSERT INTO notifications SELECT (jsonb_populate_record(n, jsonb_build_object('id', 'nt_' || i, 'payment_id', 'pi_other',
			'account', 'acct_1', 'status', 'sent', 'mailbox', '\x00', 'sent_at', $1::timestamptz))).* FROM notifications n, generate_series(1, 4) i`,
			b.clock.now().Add(-sent))
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		require.Equal(t, store.Sent, b.notification(t, id).Status, name)
	}
}

// Two senders must not both take the last place.
func TestMailsAreCountedOneAfterAnother(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	counting, err := b.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = counting.Rollback(t.Context()) }() // else a failure hangs
	_, err = counting.Exec(t.Context(), `SELECT pg_advisory_xact_lock($1)`, int64(0x62756467))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Deliver(context.Background(), id)
		done <- err
	}()
	for b.count(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 0 {
		require.Empty(t, done, "it waits for nobody")
	}
	require.Zero(t, b.post.count())
	require.NoError(t, counting.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, 1, b.post.count())
}

func TestAMailIsBookedForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	owner, claimed := b.claims(t, id)
	defer owner.Close(t.Context())
	n := claimed.Notification
	n.Mailbox = []byte("somebody's")
	book := func(owner int64) int {
		require.NoError(t, b.store.Budget(t.Context(), owner, &n, func(store.Use) bool { return true }))
		return b.count(t, `SELECT count(*) FROM notifications WHERE mailbox = $1`, n.Mailbox)
	}
	require.Zero(t, book(owner.Number+1))
	require.Equal(t, 1, book(owner.Number))
}

func TestDailyRemindersAllGoOutThoughOneIsLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{24 * time.Hour, 48 * time.Hour, 49 * time.Hour} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	reminder := func(name string) string {
		return b.store.NotificationID(store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}, store.ChannelEmail, name, "")
	}
	b.clock.forward(24*time.Hour + 7*time.Second) // the queue's own time
	deliver(t, s, reminder("reminder_1"))
	require.Equal(t, 2, b.post.count())

	b.clock.forward(24*time.Hour - 4*time.Second)
	deliver(t, s, reminder("reminder_2"))
	n := b.notification(t, reminder("reminder_2"))
	require.Equal(t, store.Held, n.Status, "the payment's day is over in four seconds")
	require.Equal(t, b.clock.now().Add(4*time.Second), n.NextTryAt.UTC())
	b.clock.forward(4 * time.Second)
	deliver(t, s, reminder("reminder_2"))
	require.Equal(t, 3, b.post.count())

	b.clock.forward(time.Hour)
	deliver(t, s, reminder("reminder_3"))
	require.Equal(t, "payment_limit", b.notification(t, reminder("reminder_3")).Reason, "that is no lateness")
}

func TestAStormToInventedMailboxesStopsAtTheFuseToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 2 })
	storm := b.storm(t)
	b.post.answer = func(Letter) Outcome { return Outcome{Result: RejectedAddress, Code: 550} }
	for _, id := range storm {
		deliver(t, s, id)
	}
	require.Equal(t, 2, b.post.count())
	require.Equal(t, store.ReasonMailStorm, b.notification(t, storm[2]).Reason)
	b.clock.forward(time.Hour)
	deliver(t, s, storm[2])
	require.Equal(t, 3, b.post.count())
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
		"those who wait have the places":            {use: store.Use{NewMailboxesHour: 20, StormBefore: 30}, limits: limits, status: store.Held, reason: store.ReasonMailStorm},
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

func TestAMailWaitsForTheEndOfItsPaymentsDayOnlyWhereThatLetsItGoOut(t *testing.T) {
	t.Parallel()
	limits := Limits{PerPayment24h: 1, PerPayment: 4}
	end := start.Add(time.Minute)
	for name, c := range map[string]struct {
		use    store.Use
		limits Limits
		want   bool
	}{
		"the day ends in a minute":     {store.Use{PaymentDay: 1, PaymentDayOver: end}, limits, true},
		"in an hour":                   {store.Use{PaymentDay: 1, PaymentDayOver: start.Add(time.Hour)}, limits, true},
		"in more than an hour":         {store.Use{PaymentDay: 1, PaymentDayOver: start.Add(time.Hour + 1)}, limits, false},
		"it is over":                   {store.Use{PaymentDay: 1, PaymentDayOver: start}, limits, false},
		"nothing was sent in it":       {store.Use{PaymentDayOver: end}, limits, false},
		"the payment has had its four": {store.Use{PaymentDay: 1, PaymentEver: 4, PaymentDayOver: end}, limits, false},
		"unsubscribed":                 {store.Use{PaymentDay: 1, Suppressed: "unsubscribed", PaymentDayOver: end}, limits, false},
		"none is allowed in any":       {store.Use{PaymentDay: 1, PaymentDayOver: end}, Limits{PerPayment: 4}, false},
	} {
		at, ok := c.limits.soon(c.use, start)
		require.Equal(t, c.want, ok, name)
		require.Equal(t, c.use.PaymentDayOver, at, name)
	}
}

func TestAStormsMailsGoOutOnceTheFuseIsLifted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	shut := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 0 })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, shut, id)
	require.Equal(t, store.ReasonMailStorm, b.notification(t, id).Reason)

	lifted := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = -1 })
	require.NoError(t, lifted.Wake(t.Context()))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id))
	deliver(t, lifted, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestThoseWhoHaveBecomeKnownAreLookedAtThoughTheFuseLetsNobodyThrough(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 0 })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job WHERE args->>'notification_id' = $1`, id))
}

// whileUnderWay has the first mail's server deliver another mail before it answers.
func (b *bench) whileUnderWay(t *testing.T, s *Sender, other string) {
	t.Helper()
	b.post.answer = func(Letter) Outcome {
		b.post.answer = nil
		deliver(t, s, other)
		return Outcome{Result: Accepted, Code: 250}
	}
}

func TestAPaymentsMailUnderWayCountsAgainstItsDay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour, 80 * time.Hour} })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	b.clock.forward(81 * time.Hour) // nothing was sent for some hours: both reminders wait
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	second := b.store.NotificationID(k, store.ChannelEmail, "reminder_2", "")
	b.whileUnderWay(t, s, second)
	deliver(t, s, b.store.NotificationID(k, store.ChannelEmail, "reminder_1", ""))
	require.Equal(t, 2, b.post.count(), "the first mail and one reminder")
	require.Equal(t, "payment_limit", b.notification(t, second).Reason)
}

func TestAPaymentsMailUnderWayCountsAgainstAllItsMails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) {
		c.Reminders = []time.Duration{72 * time.Hour, 80 * time.Hour}
		c.Limits.PerPayment24h, c.Limits.PerPayment = -1, 2
	})
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	b.clock.forward(81 * time.Hour)
	k := store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}
	b.whileUnderWay(t, s, b.store.NotificationID(k, store.ChannelEmail, "reminder_2", ""))
	deliver(t, s, b.store.NotificationID(k, store.ChannelEmail, "reminder_1", ""))
	require.Equal(t, 2, b.post.count())
}

func TestAMailUnderWayCountsAgainstItsMailboxsWeek(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t)
	for _, p := range []string{"pi_1", "pi_2", "pi_3"} {
		id := b.failing(t, p, "buyer@example.com")
		b.clock.forward(time.Minute)
		deliver(t, s, id)
		b.clock.forward(25 * time.Hour)
	}
	fourth, fifth := b.failing(t, "pi_4", "buyer@example.com"), b.failing(t, "pi_5", "buyer@example.com")
	b.clock.forward(time.Minute)
	b.whileUnderWay(t, s, fifth)
	deliver(t, s, fourth)
	require.Equal(t, 4, b.post.count())
	require.Equal(t, "mailbox_limit", b.notification(t, fifth).Reason)
}

func TestAMailUnderWayToAnUnknownMailboxCountsAgainstTheFuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.NewMailboxesPerHour = 1 })
	first, second := b.failing(t, "pi_1", "a@example.com"), b.failing(t, "pi_2", "b@example.com")
	b.clock.forward(time.Minute)
	b.whileUnderWay(t, s, second)
	deliver(t, s, first)
	require.Equal(t, store.ReasonMailStorm, b.notification(t, second).Reason)
}

func TestAStormDoesNotUseUpTheFirstMailsOfKnownCustomers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.PerDay = 2 })
	b.exec(t, `INSERT INTO customers VALUES ('cus_pi_known', 'stripe', '', false, 1, 'evt_1', false, NULL, '', 1)`)
	storm := []string{b.failing(t, "pi_1", "a@example.com"), b.failing(t, "pi_2", "b@example.com"), b.failing(t, "pi_3", "c@example.com")}
	known := b.failing(t, "pi_known", "known@example.com")
	b.clock.forward(time.Minute)
	for _, id := range append(storm, known) {
		deliver(t, s, id)
	}
	require.Equal(t, store.ReasonDailyLimit, b.notification(t, storm[2]).Reason)
	require.Equal(t, store.Sent, b.notification(t, known).Status)
}

func TestRemindersDoNotUseUpTheFirstMailsOfKnownCustomers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Reminders = []time.Duration{72 * time.Hour}; c.Limits.PerDay = 2 })
	payments := []string{"pi_1", "pi_2", "pi_3"}
	for _, p := range payments {
		b.exec(t, `INSERT INTO customers VALUES ($1, 'stripe', '', false, 1, 'evt_1', false, NULL, '', 1)`, "cus_"+p)
	}
	for _, p := range payments[:2] {
		id := b.failing(t, p, p+"@example.com")
		b.clock.forward(time.Minute)
		deliver(t, s, id)
	}
	b.clock.forward(73 * time.Hour)
	for _, p := range payments[:2] {
		deliver(t, s, b.store.NotificationID(store.PaymentKey{PaymentID: p, Source: "stripe"}, store.ChannelEmail, "reminder_1", ""))
	}
	require.Equal(t, 4, b.post.count(), "two first mails and their reminders")
	id := b.failing(t, payments[2], "pi_3@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	require.Equal(t, store.Sent, b.notification(t, id).Status)
}

func TestWakingMakesNoJobsWhileSendingIsPaused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.sender(t, func(c *Config) { c.Limits.PerDay = 0 })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	deliver(t, s, id)
	require.Equal(t, store.ReasonDailyLimit, b.notification(t, id).Reason)
	s.pausedUntil = b.clock.now().Add(refusalPause)
	require.NoError(t, s.Wake(t.Context()))
	require.Zero(t, b.count(t, `SELECT count(*) FROM river_job`), "nobody would take it before the next is made")
	b.clock.forward(refusalPause)
	require.NoError(t, s.Wake(t.Context()))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM river_job`))
}

func TestAMailThatOnlyWaitedForALimitStartsWithAShortRetry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	full := b.sender(t, func(c *Config) { c.Limits.PerDay = 0 })
	id := b.failing(t, "pi_1", "buyer@example.com")
	b.clock.forward(time.Minute)
	for range 10 {
		deliver(t, full, id)
		b.clock.forward(time.Minute)
	}
	b.post.answer = func(Letter) Outcome { return Outcome{Result: Deferred, Code: 451} }
	deliver(t, b.sender(t), id)
	require.WithinDuration(t, b.clock.now().Add(firstRetry), *b.notification(t, id).NextTryAt, firstRetry)
}

package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/handler"
	"rebound/store"
)

// The invariants, by their numbers in the state machine's description:
//
//	I1  what is acknowledged is stored: stored, at every acknowledgement
//	I2  the final state is a function of the set of events: check, against the same events delivered once, in order
//	I3  a payment has one notice per channel and template, with one Message-ID: check, by the comparison of I2
//	I4  no claim commits after the payment has recovered: inspect, after every step
//	I5  mails taken are at most one more than there were excuses, or at most one: check
//	I6  a payment that fails and is to be mailed is mailed, or its mail has a final state: check; nothing stays claimed

// inspect checks what must hold after every step.
func (s *history) inspect() {
	type payment struct {
		ID, Status string
		Claimed    []string
	}
	open := make(map[string]bool)
	for _, p := range rows(s, pgx.RowToStructByPos[payment], `SELECT p.payment_id, p.status, coalesce(array_agg(n.id) FILTER (WHERE n.owner <> 0), '{}')
		FROM payments p LEFT JOIN notifications n USING (payment_id, source, account, livemode) GROUP BY 1, 2`) {
		for _, id := range p.Claimed {
			open[id], s.claims[id] = true, true
			if !s.open[id] && s.statuses[p.ID] != "failing" {
				require.FailNowf(s.t, "I4", "a mail of payment %s was claimed, which is %s and was %q", p.ID, p.Status, s.statuses[p.ID])
			}
		}
		s.statuses[p.ID] = p.Status
	}
	s.open = open
}

// stored checks that what was acknowledged is in the database.
func (s *history) stored(d handler.Delivery) {
	for _, f := range d.Facts {
		require.True(s.t, value[bool](s, `SELECT EXISTS (SELECT 1 FROM facts WHERE payment_id = $1 AND event_id = $2 AND api_version = $3)
			AND EXISTS (SELECT 1 FROM payments WHERE payment_id = $1 UNION ALL SELECT 1 FROM invoices WHERE invoice_id = $1)`,
			f.PaymentID, f.EventID, f.APIVersion), "I1: event %s was acknowledged and is not stored", f.EventID)
	}
}

// check compares what the simulation has come to with what a process comes to that got every event once, in order, at the
// time when the simulation first stored it, and whose mails all went out at once.
func (s *history) check() {
	require.Empty(s.t, s.open, "I6: mails stay claimed")
	for id, n := range s.sink.taken {
		most := 1
		if !s.atMost {
			most += s.sink.excused[id]
		}
		require.LessOrEqual(s.t, n, most, "I5: copies of mail %s", id)
	}
	got := s.truth()
	for key, m := range got.mails {
		switch m.Status {
		case store.Sent:
			require.Equal(s.t, m.MessageID, s.sink.names[m.ID], "I3, I6: what was taken of the mail %s, which counts as sent", key)
		case store.Unknown:
			require.True(s.t, s.atMost, "I6: the mail %s was given up", key)
		}
	}
	want := s.oracle()
	require.Equal(s.t, strings.Join(want.rows, "\n"), strings.Join(got.rows, "\n"), "I2: the state is not that of the events in order")
	for _, key := range slices.Sorted(maps.Keys(want.mails)) {
		s.compare(key, got.mails[key], want.mails[key])
	}
	for key, m := range got.mails {
		if _, known := want.mails[key]; !known {
			payment, reminder := strings.CutSuffix(key, " reminder_1")
			require.True(s.t, reminder && s.claims[got.mails[payment+" first"].ID], "I3: the mail %s is not borne out by the events: %+v", key, m)
		}
	}
}

// compare checks one mail. One that was claimed may have gone out before later events had their say; all others stand
// where the events put them.
func (s *history) compare(key string, got, want mailState) {
	reminder := !strings.HasSuffix(key, " first")
	if reminder && got.ID == "" {
		return // the first mail did not go out
	}
	require.Equal(s.t, [2]string{want.ID, want.MessageID}, [2]string{got.ID, got.MessageID}, "I3: the mail %s", key)
	claimed := s.claims[got.ID]
	switch {
	case claimed && slices.Contains([]string{store.Sent, store.Failed, store.Unknown}, got.Status):
	case got.Reason == string(store.Superseded) && want.Reason == handler.ReasonPaymentPending: // it was over before the payment waited
	case s.sink.bounces && got.Reason == "bounced":
	case reminder && got.Status != store.Held:
	default:
		if reminder || claimed || got.Reason == string(store.Superseded) {
			got.Spoken = want.Spoken // one that a sender has ended speaks of the attempt that was the newest then
		}
		require.Equal(s.t, want, got, "I2, I6: the mail %s", key)
	}
}

// truth is all that a database says of its payments, without what depends on when and how it learned of them.
type truth struct {
	rows  []string
	mails map[string]mailState // by payment and template
}

type mailState struct{ Key, ID, MessageID, Status, Reason, Spoken string }

func (s *history) truth() truth {
	t := truth{mails: make(map[string]mailState)}
	// Of all times, those that the derivation makes of first receipts are the same however the events came.
	t.rows = rows(s, pgx.RowTo[string], `
		WITH arrival AS (SELECT array_agg(DISTINCT column_name::text) AS columns FROM information_schema.columns
			WHERE table_schema = 'public' AND data_type = 'timestamp with time zone'
			AND column_name NOT IN ('received_at', 'failed_received_at', 'occurred_at', 'due_at'))
		SELECT kind || ' ' || (said - 'contact' - arrival.columns)::text FROM arrival, (
			SELECT 'fact' AS kind, to_jsonb(f) AS said FROM facts f
			UNION ALL SELECT 'payment', to_jsonb(p) FROM payments p
			UNION ALL SELECT 'invoice', to_jsonb(i) FROM invoices i
			UNION ALL SELECT 'attempt', to_jsonb(a) FROM attempts a
			UNION ALL SELECT 'customer', to_jsonb(c) FROM customers c
			UNION ALL SELECT 'notice', to_jsonb(n) FROM notifications n WHERE n.channel <> 'email') AS everything
		ORDER BY 1`)
	for _, m := range rows(s, pgx.RowToStructByPos[mailState], `SELECT payment_id || ' ' || template, id, message_id, status, reason,
		failure_id || ' ' || shown_code || ' ' || due_at FROM notifications WHERE channel = 'email'`) {
		t.mails[m.Key] = m
	}
	return t
}

// oracle fills the database anew, by one process without faults. Its mails go out by their jobs alone: nothing gets lost
// that somebody would have to look for.
func (s *history) oracle() truth {
	end, received := s.time(), make(map[string]time.Time)
	type receipt struct {
		Event string
		At    time.Time
	}
	for _, r := range rows(s, pgx.RowToStructByPos[receipt], `SELECT event_id || api_version, min(received_at) FROM facts GROUP BY 1`) {
		received[r.Event] = r.At
	}
	s.killAll()
	s.empty()
	p := s.launch()
	p.skew = 0
	p.free.Store(true)
	events := slices.Clone(s.events)
	slices.SortStableFunc(events, func(a, b worldEvent) int { return cmp.Compare(a.created, b.created) })
	for _, e := range events {
		d := s.decode(p, e)
		for _, f := range d.Facts {
			s.set(received[f.EventID+f.APIVersion])
		}
		require.NoError(s.t, p.recorder.Record(s.ctx, d))
	}
	s.set(end)
	require.NoError(s.t, p.sender.Wake(s.ctx))
	for s.jump() {
		s.mail(p)
	}
	return s.truth()
}

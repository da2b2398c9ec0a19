package console

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/store"
)

func fact(k store.PaymentKey, event, kind, object string, created time.Time) store.Fact {
	return store.Fact{PaymentKey: k, EventID: event, APIVersion: "2024-06-20", EventType: kind, ObjectID: object, Created: created.Unix(), ReceivedAt: created.Add(2 * time.Second)}
}

func TestAPaymentTellsItsWholeStory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := change(failed("fl_1", "pi_1"), func(a *store.Attempt) { a.OccurredAt = start.Add(-3 * time.Hour); a.Invoice = "in_1" })
	second := change(failed("fl_2", "pi_1"), func(a *store.Attempt) { a.OccurredAt = start.Add(-2 * time.Hour); a.AttemptsUsed = 2 })
	success := change(failed("fl_3", "pi_1"), func(a *store.Attempt) { a.OccurredAt = start.Add(-time.Hour); a.Result = "succeeded" })
	b.add(second, success, first)
	_, err := b.store.Pool().Exec(t.Context(), `UPDATE payments SET status = 'recovered', invoice = 'in_1' WHERE payment_id = 'pi_1'`)
	require.NoError(t, err)
	k := key("pi_1")
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_2", "charge.failed", "ch_2", start.Add(-2*time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_1", "charge.failed", "ch_1", start.Add(-3*time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_3", "charge.succeeded", "ch_3", start.Add(-time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(key("in_1"), "evt_4", "invoice.paid", "in_1", start.Add(-time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(key("pi_2"), "evt_5", "charge.failed", "ch_5", start)}})
	mail := notification("nt_1", first, store.ChannelEmail, store.Canceled)
	mail.Reason, mail.CreatedAt, mail.UpdatedAt = "recovered", start.Add(-3*time.Hour+time.Second), start.Add(-time.Hour+time.Second)
	b.save(store.Changes{Notifications: []store.Notification{mail}})
	inbox := notification("nt_2", second, store.ChannelInbox, store.Delivered)
	sent, read := start.Add(-2*time.Hour+time.Second), start.Add(-90*time.Minute)
	inbox.CreatedAt, inbox.SentAt, inbox.UpdatedAt = sent, &sent, read
	b.save(store.Changes{Notifications: []store.Notification{inbox}})
	_, err = b.store.Pool().Exec(t.Context(), `UPDATE notifications SET read_at = $1 WHERE id = 'nt_2'`, read)
	require.NoError(t, err)

	m := b.get("/v1/payments/pi_1").json(t)
	require.Equal(t, "payment", m["object"])
	require.Equal(t, "recovered", m["status"])
	var attempts []string
	for _, a := range m["attempts"].([]any) {
		attempts = append(attempts, a.(map[string]any)["id"].(string)+" "+a.(map[string]any)["result"].(string))
	}
	require.Equal(t, []string{"fl_1 failed", "fl_2 failed", "fl_3 succeeded"}, attempts)
	var steps []string
	for _, e := range m["timeline"].([]any) {
		e := e.(map[string]any)
		steps = append(steps, e["id"].(string)+" "+e["step"].(string))
	}
	require.Equal(t, []string{"evt_1 charge.failed", "nt_1 created", "evt_2 charge.failed", "nt_2 created", "nt_2 delivered", "nt_2 read",
		"evt_3 charge.succeeded", "evt_4 invoice.paid", "nt_1 canceled"}, steps)
	require.Equal(t, "nt_1", m["attempts"].([]any)[0].(map[string]any)["notifications"].([]any)[0].(map[string]any)["id"])
	require.Len(t, m["attempts"].([]any)[1].(map[string]any)["notifications"], 1)
}

func TestANoticeIsMadeBeforeItIsDelivered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a)
	n := notification("nt_1", a, store.ChannelInbox, store.Delivered)
	received := n.CreatedAt.Add(-300 * time.Microsecond) // as the recorder writes it: from the event's receipt, which comes before the row
	n.DueAt, n.SentAt = received, &received
	b.save(store.Changes{Notifications: []store.Notification{n}})
	var steps []string
	for _, e := range b.get("/v1/payments/pi_1").json(t)["timeline"].([]any) {
		steps = append(steps, e.(map[string]any)["step"].(string))
	}
	require.Equal(t, []string{"created", "delivered"}, steps)
}

func TestMailsOfOneMomentAreListedInTheOrderInWhichTheyAreDue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a)
	one, two := notification("nt_b", a, store.ChannelEmail, store.Held), notification("nt_a", a, store.ChannelEmail, store.Held)
	one.DueAt, two.DueAt = start.Add(72*time.Hour), start.Add(168*time.Hour)
	b.save(store.Changes{Notifications: []store.Notification{two, one}})
	ids := func(list any) (ids []string) {
		for _, n := range list.([]any) {
			ids = append(ids, n.(map[string]any)["id"].(string))
		}
		return ids
	}
	require.Equal(t, []string{"nt_b", "nt_a"}, ids(b.get("/v1/failures/fl_1").json(t)["notifications"]))
	require.Equal(t, []string{"nt_b", "nt_a"}, ids(b.get("/v1/payments/pi_1").json(t)["timeline"]))
}

func TestTheSamePaymentIDInSeveralPlacesIsToldApart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, k := range []store.PaymentKey{
		{PaymentID: "pi_1", Source: "stripe", Livemode: true},
		{PaymentID: "pi_1", Source: "stripe", Account: "acct_other", Livemode: true},
		{PaymentID: "pi_1", Source: "frame", Livemode: true},
		{PaymentID: "pi_1", Source: "stripe", Livemode: false},
	} {
		p := payment("pi_1")
		p.PaymentKey, p.Amount, p.CreatedAt = k, int64(i), start.Add(time.Duration(i)*time.Second)
		b.save(store.Changes{Payments: []store.Payment{p}})
	}
	half := payment("pi_1")
	half.Account, half.Status, half.CreatedAt = "acct_half", "", start.Add(time.Hour)
	b.save(store.Changes{Payments: []store.Payment{half}})
	amount := func(params ...string) any { return b.get("/v1/payments/pi_1", params...).json(t)["amount"] }
	require.EqualValues(t, 3, amount(), "the newest")
	require.EqualValues(t, 2, amount("livemode", "true"))
	require.EqualValues(t, 1, amount("account", "acct_other"))
	require.EqualValues(t, 0, amount("account", "", "livemode", "true", "source", "stripe"))
	require.Equal(t, http.StatusNotFound, b.get("/v1/payments/pi_1", "account", "acct_half").status, "a payment without a state is none yet")
}

func TestTheRetryDecisionFollowsTheNewestFailure(t *testing.T) {
	t.Parallel()
	b := setup(t)
	past, future := start.Add(-time.Minute), start.Add(time.Minute)
	day := start.Add(-time.Hour).Add(24 * time.Hour)
	for _, c := range []struct {
		id, status, verdict string
		notBefore           *time.Time
		limit               string
		allowed             bool
		want                string
		wantLimit           any
		wantTime            any
	}{
		{"pi_now", "failing", "retry_now", nil, "", true, "retry_now", nil, nil},
		{"pi_wait", "failing", "retry_later", &future, "mastercard:mac_24", false, "retry_later", "mastercard:mac_24", future.Format(time.RFC3339)},
		{"pi_due", "failing", "retry_later", &past, "mastercard:mac_24", true, "retry_later", "mastercard:mac_24", past.Format(time.RFC3339)},
		{"pi_later", "failing", "retry_later", nil, "", false, "retry_later", "rebound:default_wait", day.Format(time.RFC3339)},
		{"pi_never", "failing", "never", nil, "visa:category_1", false, "never", "visa:category_1", nil},
		{"pi_customer", "failing", "after_customer_action", nil, "", false, "after_customer_action", nil, nil},
		{"pi_paid", "recovered", "retry_now", nil, "", false, "never", "payment:recovered", nil},
		{"pi_pending", "pending", "retry_now", &past, "", false, "never", "payment:pending", nil},
	} {
		older := change(failed("fl_old_"+c.id, c.id), func(a *store.Attempt) { a.OccurredAt, a.RetryVerdict = start.Add(-2*time.Hour), "never" })
		newer := change(failed("fl_"+c.id, c.id), func(a *store.Attempt) {
			a.RetryVerdict, a.RetryNotBefore, a.RetryLimitedBy = c.verdict, c.notBefore, c.limit
		})
		b.add(newer, older)
		_, err := b.store.Pool().Exec(t.Context(), `UPDATE payments SET status = $2 WHERE payment_id = $1`, c.id, c.status)
		require.NoError(t, err)
		m := b.get("/v1/payments/" + c.id + "/retry-decision").json(t)
		require.Equal(t, "fl_"+c.id, m["failure"], c.id)
		require.Equal(t, c.allowed, m["retry_allowed"], c.id)
		require.Equal(t, c.want, m["verdict"], c.id)
		require.Equal(t, c.wantLimit, m["limited_by"], c.id)
		require.Equal(t, c.wantTime, m["not_before"], c.id)
	}
	b.save(store.Changes{Payments: []store.Payment{change2(payment("pi_only_paid"), func(p *store.Payment) { p.Status = "recovered" })}})
	m := b.get("/v1/payments/pi_only_paid/retry-decision").json(t)
	require.Equal(t, false, m["retry_allowed"])
	require.Nil(t, m["failure"])
}

func change2(p store.Payment, f func(*store.Payment)) store.Payment {
	f(&p)
	return p
}

func TestAttemptsOfOneSecondAreInTheOrderInWhichTheyCount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(change(failed("fl_a", "pi_1"), func(a *store.Attempt) { a.AttemptsUsed, a.RetryVerdict = 2, "never" }),
		failed("fl_z", "pi_1"), change(failed("at_1", "pi_1"), func(a *store.Attempt) { a.AttemptsUsed, a.Result = 0, "succeeded" }))
	var order []any
	for _, a := range b.get("/v1/payments/pi_1").json(t)["attempts"].([]any) {
		order = append(order, a.(map[string]any)["id"])
	}
	require.Equal(t, []any{"fl_z", "fl_a", "at_1"}, order)
	m := b.get("/v1/payments/pi_1/retry-decision").json(t)
	require.Equal(t, []any{"fl_a", "never"}, []any{m["failure"], m["verdict"]}, "the one that a mail speaks of")
}

func TestTheInboxHoldsWhatWasTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a)
	for i, n := range []struct{ id, channel, status string }{
		{"nt_1", store.ChannelInbox, store.Delivered}, {"nt_2", store.ChannelInbox, store.Sent}, {"nt_3", store.ChannelInbox, store.Suppressed},
		{"nt_4", store.ChannelInbox, store.Canceled}, {"nt_5", store.ChannelEmail, store.Sent}, {"nt_6", store.ChannelInbox, store.Delivered},
	} {
		row := notification(n.id, a, n.channel, n.status)
		row.CreatedAt = start.Add(time.Duration(i/6) * time.Second) // five in one moment
		b.save(store.Changes{Notifications: []store.Notification{row}})
	}
	other := notification("nt_7", a, store.ChannelInbox, store.Delivered)
	other.Customer = "cus_2"
	b.save(store.Changes{Notifications: []store.Notification{other}})
	require.Equal(t, []string{"nt_6", "nt_2", "nt_1"}, b.get("/v1/customers/cus_1/inbox").ids(t))
	page := b.get("/v1/customers/cus_1/inbox", "limit", "2")
	require.Equal(t, []string{"nt_6", "nt_2"}, page.ids(t))
	require.Equal(t, true, page.json(t)["has_more"])
	require.Equal(t, []string{"nt_1"}, b.get("/v1/customers/cus_1/inbox", "limit", "2", "starting_after", "nt_2").ids(t))
	require.Equal(t, http.StatusBadRequest, b.get("/v1/customers/cus_1/inbox", "starting_after", "nt_7").status, "another customer's notice is no cursor")
	require.Equal(t, []string{}, b.get("/v1/customers/cus_nobody/inbox").ids(t))

	n := b.get("/v1/customers/cus_1/inbox").json(t)["data"].([]any)[0].(map[string]any)
	require.Equal(t, "Your payment of $20.00 did not go through", n["title"])
	require.Equal(t, "insufficient_funds", n["message"].(map[string]any)["code"])
	require.Nil(t, n["read_at"])

	read := b.call(http.MethodPost, "/v1/inbox/nt_1/read", "")
	require.Equal(t, start.Format(time.RFC3339), read.json(t)["read_at"])
	_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET read_at = $1 WHERE id = 'nt_1'`, start.Add(-time.Hour))
	require.NoError(t, err)
	read = b.call(http.MethodPost, "/v1/inbox/nt_1/read", "")
	require.Equal(t, start.Add(-time.Hour).Format(time.RFC3339), read.json(t)["read_at"], "the first time stays")
	require.Equal(t, []string{"nt_6", "nt_2"}, b.get("/v1/customers/cus_1/inbox", "unread", "true").ids(t))
	for _, id := range []string{"nt_3", "nt_5", "nt_none"} {
		require.Equal(t, http.StatusNotFound, b.call(http.MethodPost, "/v1/inbox/"+id+"/read", "").status, id)
	}
}

func TestAPageGoesOnAfterANoticeThatWasTakenBackMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a)
	for i, id := range []string{"nt_1", "nt_2", "nt_3"} {
		row := notification(id, a, store.ChannelInbox, store.Delivered)
		row.CreatedAt = start.Add(time.Duration(i) * time.Second)
		b.save(store.Changes{Notifications: []store.Notification{row}})
	}
	require.Equal(t, []string{"nt_3", "nt_2"}, b.get("/v1/customers/cus_1/inbox", "limit", "2").ids(t))
	// The customer pays what the page told last, and reads on.
	_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET status = 'canceled', reason = 'recovered', sent_at = NULL WHERE id = 'nt_2'`)
	require.NoError(t, err)
	require.Equal(t, []string{"nt_1"}, b.get("/v1/customers/cus_1/inbox", "limit", "2", "starting_after", "nt_2").ids(t))
	require.Equal(t, []string{"nt_3", "nt_1"}, b.get("/v1/customers/cus_1/inbox").ids(t))
}

func TestANoticeSaysNoAmountThatIsNotKnown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for id, change := range map[string]func(*int64, *string){
		"amount": func(amount *int64, _ *string) { *amount = 0 }, "currency": func(_ *int64, currency *string) { *currency = "" },
		"unreadable": func(_ *int64, currency *string) { *currency = "usdc" },
	} {
		p, a := payment("pi_"+id), failed("fl_"+id, "pi_"+id)
		change(&p.Amount, &p.Currency)
		change(&a.Amount, &a.Currency)
		a.Customer = "cus_" + id
		b.save(store.Changes{Payments: []store.Payment{p}})
		b.add(a)
		b.save(store.Changes{Notifications: []store.Notification{notification("nt_"+id, a, store.ChannelInbox, store.Delivered)}})
		notice := b.get("/v1/customers/" + a.Customer + "/inbox").json(t)["data"].([]any)[0].(map[string]any)
		require.Equal(t, "Your payment did not go through", notice["title"], id)
	}
}

// Whoever has paid an order or an invoice by another payment is not asked for the money in the app, as by the links in mails.
func TestAPaymentMadeOtherwiseLeavesTheInbox(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for id, change := range map[string]func(p *store.Payment){
		"order": func(p *store.Payment) { p.OrderReference = "order_1" }, "invoice": func(p *store.Payment) { p.Invoice = "in_1" },
		"another": func(p *store.Payment) { p.OrderReference, p.Invoice = "order_2", "in_2" }, "plain": func(*store.Payment) {},
	} {
		p, a := payment("pi_"+id), failed("fl_"+id, "pi_"+id)
		p.FailedCreated = 4
		change(&p)
		b.save(store.Changes{Payments: []store.Payment{p}})
		b.add(a)
		b.save(store.Changes{Notifications: []store.Notification{notification("nt_"+id, a, store.ChannelInbox, store.Delivered)}})
	}
	paid := payment("pi_paid")
	paid.Status, paid.OrderReference, paid.Invoice, paid.SucceededCreated = "recovered", "order_1", "in_1", 5
	require.ElementsMatch(t, []string{"nt_order", "nt_invoice", "nt_another", "nt_plain"}, b.get("/v1/customers/cus_1/inbox").ids(t))
	b.save(store.Changes{Payments: []store.Payment{paid}})
	require.ElementsMatch(t, []string{"nt_another", "nt_plain"}, b.get("/v1/customers/cus_1/inbox").ids(t))
}

// What the customer gets must not depend on a fraud signal: the notices of a fraud and of a plain generic decline differ
// in nothing but their own ids.
func TestANoticeHidesFraud(t *testing.T) {
	t.Parallel()
	b := setup(t)
	public := func(a *store.Attempt) {
		a.PublicCode, a.PublicNextStep, a.PublicRetry = decline.Generic().Code, string(decline.Generic().NextStep), decline.Generic().RetrySameMethod
	}
	plain := change(failed("fl_a", "pi_a"), func(a *store.Attempt) {
		public(a)
		a.Customer, a.Code, a.Category = "cus_a", "generic_decline", "issuer_unknown"
	})
	fraud := change(failed("fl_b", "pi_b"), func(a *store.Attempt) {
		public(a)
		a.Customer, a.Code, a.Category, a.Disclosable, a.Type, a.NextStep = "cus_b", "stolen_card", "fraud_risk", false, "blocked", "none"
		a.OutcomeReason, a.RiskLevel, a.RetryVerdict = "highest_risk_level", "highest", "never"
	})
	b.add(plain, fraud)
	b.save(store.Changes{Notifications: []store.Notification{notification("nt_a", plain, store.ChannelInbox, store.Delivered)}})
	b.save(store.Changes{Notifications: []store.Notification{notification("nt_b", fraud, store.ChannelInbox, store.Delivered)}})
	one := b.get("/v1/customers/cus_a/inbox").body
	two := b.get("/v1/customers/cus_b/inbox").body
	require.Equal(t, one, replacer.Replace(two))
}

var replacer = strings.NewReplacer("nt_b", "nt_a", "pi_b", "pi_a", "cus_b", "cus_a")

// The charge may bring a fraud signal: a notice that had told more before would then betray it.
func TestANoticeTellsNothingWhileTheChargesWordIsAwaited(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for id, of := range map[string]struct {
		awaits bool
		since  time.Duration
		told   string
	}{
		"a": {true, 4 * time.Second, "generic_decline"},
		"b": {true, 5 * time.Second, "insufficient_funds"},
		"c": {false, 0, "insufficient_funds"},
	} {
		a := change(failed("fl_"+id, "pi_"+id), func(a *store.Attempt) {
			a.Customer, a.AwaitsCharge, a.ReceivedAt = "cus_"+id, of.awaits, start.Add(-of.since)
		})
		b.add(a)
		b.save(store.Changes{Notifications: []store.Notification{notification("nt_"+id, a, store.ChannelInbox, store.Delivered)}})
		n := b.get("/v1/customers/cus_" + id + "/inbox").json(t)["data"].([]any)[0].(map[string]any)
		require.Equal(t, of.told, n["message"].(map[string]any)["code"], id)
		read := b.call(http.MethodPost, "/v1/inbox/nt_"+id+"/read", "").json(t)
		require.Equal(t, of.told, read["message"].(map[string]any)["code"], id)
		if of.told == "generic_decline" {
			require.Equal(t, string(decline.Generic().NextStep), n["next_step"])
		}
	}
}

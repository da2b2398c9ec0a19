package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
)

func TestAFailureReadsAsTheContractHasIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	notBefore := start.Add(24 * time.Hour)
	a.RetryNotBefore, a.RetryLimitedBy, a.NetworkAdviceCode, a.PostalCheck = &notBefore, "visa:category_2", "24", "fail"
	a.Account, a.Invoice = ownAccount, "in_1"
	b.add(a)
	n := notification("nt_1", a, store.ChannelEmail, store.Suppressed)
	n.Reason = "stripe_billing"
	b.save(store.Changes{Notifications: []store.Notification{n}})
	want := `{"id":"fl_1","object":"failure","source":"stripe","account":"acct_own","livemode":true,
		"payment_id":"pi_1","payment_intent":"pi_1","charge":"ch_fl_1","customer":"cus_1","invoice":"in_1","amount":2000,"currency":"usd","failed_at":"2026-11-25T11:00:00Z",
		"payment_method":{"id":"pm_1","type":"card","brand":"visa","network":"visa","last4":"0341","exp_month":4,"exp_year":2027,"country":"US","funding":"credit","fingerprint":"fp_1",
		"checks":{"cvc":"pass","postal_code":"fail","address":null}},
		"decline":{"type":"issuer_declined","code":"insufficient_funds","failure_code":"card_declined","decline_code":"insufficient_funds",
		"outcome":{"type":"issuer_declined","reason":"insufficient_funds","network_status":"declined_by_network","risk_level":"normal"},
		"advice_code":"try_again_later","network_advice_code":"24","network_decline_code":"51",
		"error":{"type":"card_error","message":"Your card has insufficient funds.","param":null,"doc_url":"https://stripe.com/docs/error-codes/card-declined","payment_method_type":null,"request_log_url":null},
		"category":"insufficient_funds","severity":"soft","disclosable":true,"next_step":"use_another_payment_method","merchant_next_step":"Wait for the customer.","decided_by":"decline_code:stripe"},
		"customer_message":{"code":"insufficient_funds","locale":"en","text":"There was not enough money available for this payment. Please use another payment method."},
		"presence":{"verdict":"off_session","evidence":[{"rung":"saved_method","weight":"weak"}]},
		"retry":{"verdict":"retry_later","attempts_used":1,"attempts_left":3,"not_before":"2026-11-26T12:00:00Z","limited_by":"visa:category_2"},
		"payment_status":"failing",
		"notifications":[{"id":"nt_1","channel":"email","template":"first","status":"suppressed","reason":"stripe_billing","due_at":"2026-11-25T12:00:00Z","sent_at":null}],
		"events":["evt_fl_1"]}`
	got := b.get("/v1/failures/fl_1")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, indented(t, want), indented(t, got.body), "the order of the members counts too")
	list := b.get("/v1/failures").json(t)
	require.Equal(t, "list", list["object"])
	require.Equal(t, false, list["has_more"])
	require.Equal(t, got.json(t), list["data"].([]any)[0])
}

func TestWhatWasNotSaidIsNull(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(store.Attempt{ID: "fl_bare", PaymentKey: key("py_1"), Result: "failed", OccurredAt: start, ReceivedAt: start, Type: "unknown", Code: "unknown",
		Category: "issuer_unknown", Severity: "soft", NextStep: "contact_issuer", Presence: "unknown", RetryVerdict: "retry_later", AttemptsUsed: 1, AttemptsLeft: 3})
	m := b.get("/v1/failures/fl_bare").json(t)
	for _, name := range []string{"account", "payment_intent", "charge", "customer", "invoice"} {
		require.Contains(t, m, name)
		require.Nil(t, m[name], name)
	}
	method := m["payment_method"].(map[string]any)
	require.Nil(t, method["exp_month"])
	require.Equal(t, map[string]any{"cvc": nil, "postal_code": nil, "address": nil}, method["checks"])
	require.Equal(t, []any{}, m["notifications"])
	require.Equal(t, []any{}, m["events"])
	require.Equal(t, []any{}, m["presence"].(map[string]any)["evidence"])
	require.Equal(t, "generic_decline", m["customer_message"].(map[string]any)["code"], "a view that is missing tells nothing")
	require.Nil(t, m["retry"].(map[string]any)["not_before"])
}

func TestEveryFilterKeepsWhatFits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	b.add(
		change(failed("fl_a", "pi_a"), func(a *store.Attempt) { a.OccurredAt = at(1000) }),
		change(failed("fl_b", "pi_b"), func(a *store.Attempt) {
			a.OccurredAt, a.Customer, a.Category, a.PaymentStatus = at(2000), "cus_2", "fraud_risk", "recovered"
		}),
		change(failed("fl_c", "pi_c"), func(a *store.Attempt) { a.OccurredAt, a.Charge, a.Account = at(3000), "ch_c", "acct_other" }),
		change(failed("fl_d", "tr_d"), func(a *store.Attempt) { a.OccurredAt, a.Source, a.Livemode = at(4000), "frame", false }),
		change(failed("fl_s", "pi_a"), func(a *store.Attempt) { a.OccurredAt, a.Result = at(5000), "succeeded" }),
	)
	for _, c := range []struct {
		params []string
		want   []string
	}{
		{nil, []string{"fl_d", "fl_c", "fl_b", "fl_a"}},
		{[]string{"payment_id", "pi_b"}, []string{"fl_b"}},
		{[]string{"charge", "ch_c"}, []string{"fl_c"}},
		{[]string{"charge", "ch_none"}, nil},
		{[]string{"customer", "cus_2"}, []string{"fl_b"}},
		{[]string{"category", "fraud_risk"}, []string{"fl_b"}},
		{[]string{"category", "mandate"}, nil},
		{[]string{"status", "recovered"}, []string{"fl_b"}},
		{[]string{"status", "failing"}, []string{"fl_d", "fl_c", "fl_a"}},
		{[]string{"source", "frame"}, []string{"fl_d"}},
		{[]string{"created[gte]", "2000"}, []string{"fl_d", "fl_c", "fl_b"}},
		{[]string{"created[lt]", "2000"}, []string{"fl_a"}},
		{[]string{"created[gte]", "2000", "created[lt]", "4000"}, []string{"fl_c", "fl_b"}},
		{[]string{"account", "acct_other"}, []string{"fl_c"}},
		{[]string{"account", ""}, []string{"fl_d", "fl_b", "fl_a"}},
		{[]string{"livemode", "false"}, []string{"fl_d"}},
		{[]string{"livemode", "true", "status", "failing", "customer", "cus_1"}, []string{"fl_c", "fl_a"}},
		{[]string{"limit", "2"}, []string{"fl_d", "fl_c"}},
		{[]string{"limit", "2", "starting_after", "fl_c"}, []string{"fl_b", "fl_a"}},
		{[]string{"locale", "fr-FR,de;q=0.5", "charge", "ch_c"}, []string{"fl_c"}},
	} {
		t.Run(fmt.Sprint(c.params), func(t *testing.T) {
			require.ElementsMatch(t, c.want, b.get("/v1/failures", c.params...).ids(t))
			if c.params == nil {
				require.Equal(t, c.want, b.get("/v1/failures").ids(t), "newest first")
			}
		})
	}
}

func TestPagesHaveNoGapsAndNoDuplicatesUnderEqualTimes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for i := range 23 {
		a := failed(fmt.Sprintf("fl_%02d", i*7%23), "pi_1") // not in the order of the ids
		a.OccurredAt = start.Add(time.Duration(-i/10) * time.Second)
		b.add(a)
		want = append(want, a.ID)
	}
	slices.SortFunc(want[:10], func(a, b string) int { return -cmpText(a, b) })
	slices.SortFunc(want[10:20], func(a, b string) int { return -cmpText(a, b) })
	slices.SortFunc(want[20:], func(a, b string) int { return -cmpText(a, b) })
	for _, limit := range []int{1, 2, 5, 22, 23, 100} {
		var got []string
		params := []string{"limit", strconv.Itoa(limit)}
		for page := 0; ; page++ {
			require.LessOrEqual(t, page, len(want), "the pages do not end")
			a := b.get("/v1/failures", params...)
			ids := a.ids(t)
			require.LessOrEqual(t, len(ids), limit)
			got = append(got, ids...)
			if a.json(t)["has_more"] == false {
				break
			}
			require.Len(t, ids, limit)
			params = []string{"limit", strconv.Itoa(limit), "starting_after", ids[len(ids)-1]}
			if limit == 5 && page == 1 { // what comes in meanwhile is newer and shifts nothing
				newer := failed("fl_new", "pi_2")
				newer.OccurredAt, newer.Result = start.Add(time.Hour), "failed"
				b.add(newer)
			}
		}
		require.Equal(t, want, slices.DeleteFunc(got, func(id string) bool { return id == "fl_new" }), "pages of %d", limit)
	}
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestTheDefaultPageHasTen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 11 {
		b.add(failed(fmt.Sprintf("fl_%d", i), "pi_1"))
	}
	a := b.get("/v1/failures")
	require.Len(t, a.ids(t), 10)
	require.Equal(t, true, a.json(t)["has_more"])
}

func TestBadParametersAreNamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(failed("fl_1", "pi_1"))
	long := string(make([]byte, 300))
	for _, c := range []struct{ path, name, value string }{
		{"/v1/failures", "limit", "0"},
		{"/v1/failures", "limit", "101"},
		{"/v1/failures", "limit", "-1"},
		{"/v1/failures", "limit", "ten"},
		{"/v1/failures", "limit", "1e1"},
		{"/v1/failures", "limit", ""},
		{"/v1/failures", "starting_after", "fl_none"},
		{"/v1/failures", "starting_after", "nt_1"},
		{"/v1/failures", "category", "insufficient"},
		{"/v1/failures", "status", "open"},
		{"/v1/failures", "source", "paypal"},
		{"/v1/failures", "created[gte]", "yesterday"},
		{"/v1/failures", "created[gte]", "-1"},
		{"/v1/failures", "created[lt]", "10000000000000"},
		{"/v1/failures", "created[lt]", "99999999999999999999"},
		{"/v1/failures", "created[gt]", "1"},
		{"/v1/failures", "created", "1"},
		{"/v1/failures", "livemode", "yes"},
		{"/v1/failures", "customer", ""},
		{"/v1/failures", "customer", "cus_\x00"},
		{"/v1/failures", "customer", "cus_\xff"},
		{"/v1/failures", "payment_id", long},
		{"/v1/failures", "expand[]", "data"},
		{"/v1/failures/fl_1", "limit", "1"},
		{"/v1/payments/pi_1", "livemode", "1"},
		{"/v1/customers/cus_1/inbox", "unread", "maybe"},
		{"/v1/customers/cus_1/inbox", "starting_after", "nt_none"},
		{"/v1/decline-codes", "source", "adyen"},
		{"/v1/decline-codes", "starting_after", "none"},
		{"/v1/decline-codes", "limit", "0"},
	} {
		a := b.get(c.path, c.name, c.value)
		require.Equal(t, http.StatusBadRequest, a.status, "%s %s=%q: %s", c.path, c.name, c.value, a.body)
		require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
		m := a.json(t)
		require.Equal(t, c.name, m["param"])
		require.Equal(t, "Bad Request", m["title"])
		require.EqualValues(t, 400, m["status"])
	}
	a := b.get("/v1/failures", "limit", "1", "limit", "2")
	require.Equal(t, "limit", a.json(t)["param"])
	a = b.call(http.MethodGet, "/v1/failures?limit=%zz", "")
	require.Equal(t, http.StatusBadRequest, a.status)
	require.Empty(t, b.logs.All(), "a caller's slip is no event for the log")
}

func TestPathsThatNameNothingAreNotFound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(change(failed("fl_ok", "pi_1"), func(a *store.Attempt) { a.Result = "succeeded" }))
	want := b.get("/v1/failures/fl_unknown").body
	for _, path := range []string{
		"/v1/failures/fl_ok", // a success is no failure
		"/v1/failures/%00", "/v1/failures/%ff", "/v1/failures/fl_1%2F..", "/v1/failures/" + string(slices.Repeat([]byte("a"), 300)),
		"/v1/payments/pi_none", "/v1/payments/pi_none/retry-decision",
	} {
		a := b.get(path)
		require.Equal(t, http.StatusNotFound, a.status, path)
		require.Equal(t, want, a.body, path)
	}
	for _, path := range []string{"/v1/nothing", "/v1", "/nothing", "/v1/failures/", "/v1/failures/a/b"} {
		a := b.get(path)
		require.Equal(t, http.StatusNotFound, a.status, path)
		require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), path)
	}
	a := b.call(http.MethodDelete, "/v1/failures/fl_1", "")
	require.Equal(t, http.StatusMethodNotAllowed, a.status)
	require.Contains(t, a.header.Get("Allow"), "GET")
	require.Equal(t, "method_not_allowed", a.json(t)["code"])
}

func TestALostConnectionToPostgresIsNoFaultOfOurs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(failed("fl_1", "pi_1"))
	other, err := pgx.ConnectConfig(t.Context(), b.store.Pool().Config().ConnConfig)
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	seen := map[int]int{}
	for range 20 {
		_, err := other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		require.NoError(t, err)
		for range 5 { // more than the pool has connections
			a := b.get("/v1/failures")
			seen[a.status]++
			if a.status == http.StatusOK {
				break
			}
			require.Equal(t, http.StatusServiceUnavailable, a.status, a.body)
			require.Equal(t, "unavailable", a.json(t)["code"])
			require.NotEmpty(t, a.header.Get("Retry-After"))
		}
	}
	require.Equal(t, 20, seen[http.StatusOK], "a new connection answers, %v", seen)
	require.NotZero(t, seen[http.StatusServiceUnavailable], "%v", seen)
}

func TestAPanicTellsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.store.Close() // and an error of the database tells nothing either
	a := b.get("/v1/failures")
	require.Equal(t, http.StatusInternalServerError, a.status)
	require.Equal(t, `{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"Something failed on this side; it is in the log.","code":"internal_error"}`+"\n", a.body)
	require.Equal(t, 1, b.logs.FilterMessage("request.failed").Len())

	broken := setup(t, func(c *Config) { c.Store = nil })
	a = broken.get("/v1/failures/fl_1")
	require.Equal(t, http.StatusInternalServerError, a.status)
	require.Equal(t, "internal_error", a.json(t)["code"])
	require.NotContains(t, a.body, "nil pointer")
	require.Equal(t, 1, broken.logs.FilterMessage("request.panicked").Len())
}

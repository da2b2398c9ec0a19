package console

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rebound/store"
)

func TestOnlyATokenOpensTheAPI(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.token = ""
	for _, header := range []string{
		"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + allToken, allToken, "Bearer " + allToken + "x", "Bearer " + allToken[1:],
		"Bearer " + accountToken + "@" + ownAccount, "Bearer " + strings.ToUpper(allToken),
	} {
		for _, path := range []string{"/v1/failures", "/v1/failures/fl_1", "/v1/decline-codes", "/v1/nothing"} {
			a := b.call(http.MethodGet, path, "", func(r *http.Request) { r.Header.Set("Authorization", header) })
			require.Equal(t, http.StatusUnauthorized, a.status, "%q %s", header, path)
			require.Contains(t, a.header.Get("WWW-Authenticate"), "Bearer")
			require.Equal(t, "unauthorized", a.json(t)["code"])
		}
	}
	for _, header := range []string{"Bearer " + allToken, "bearer " + accountToken} {
		a := b.call(http.MethodGet, "/v1/failures", "", func(r *http.Request) { r.Header.Set("Authorization", header) })
		require.Equal(t, http.StatusOK, a.status)
		require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.json"} {
		require.Equal(t, http.StatusOK, b.send(t, http.MethodGet, path, "").status, path)
	}
}

func TestATokenIsReadOrRefused(t *testing.T) {
	t.Parallel()
	for _, item := range []string{"", " ", "@acct_1", "token@", "token@shop", "token@acct_", "token@acct_1@acct_2", "tok en", "t\x00k", "tokén", "token@acct_1 2"} {
		_, err := ParseToken(item)
		if item == "token@acct_" { // Stripe's ids are opaque: the prefix is all that is known of them
			require.NoError(t, err)
			continue
		}
		require.Error(t, err, "%q", item)
		require.NotContains(t, err.Error(), "acct_1", "the item is not repeated")
	}
	got, err := ParseToken(" secret@acct_1 ")
	require.NoError(t, err)
	require.Equal(t, "acct_1", got.account)
	require.NotContains(t, got.String(), "secret")
}

// An account's token must not tell what exists in other accounts: for every route a foreign id answers, byte for byte,
// what an id that nobody has answers.
func TestForeignIDsAnswerLikeUnknownOnes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	of := func(account, suffix string) {
		a := change(failed("fl_"+suffix, "pi_"+suffix), func(a *store.Attempt) { a.Account, a.Customer = account, "cus_"+suffix })
		b.add(a)
		b.save(store.Changes{Notifications: []store.Notification{notification("nt_"+suffix, a, store.ChannelInbox, store.Delivered)}})
	}
	of(ownAccount, "own")
	of("acct_other", "other")
	of("", "platform")
	b.token = accountToken

	require.Equal(t, []string{"fl_own"}, b.get("/v1/failures").ids(t))
	for _, path := range []string{"/v1/failures/fl_own", "/v1/payments/pi_own", "/v1/payments/pi_own/retry-decision", "/v1/customers/cus_own/inbox"} {
		require.Equal(t, http.StatusOK, b.get(path).status, path)
	}
	require.Equal(t, []string{"nt_own"}, b.get("/v1/customers/cus_own/inbox").ids(t))
	require.Equal(t, http.StatusOK, b.call(http.MethodPost, "/v1/inbox/nt_own/read", "").status)

	for _, account := range []string{"acct_other", "acct_none", ""} {
		require.Empty(t, b.get("/v1/failures", "account", account).ids(t), "what is asked for is another account's, so it is nothing")
		require.Equal(t, http.StatusNotFound, b.get("/v1/payments/pi_own", "account", account).status)
	}
	require.Equal(t, []string{"fl_own"}, b.get("/v1/failures", "account", ownAccount).ids(t))

	type route struct{ method, path, prefix string }
	routes := []route{
		{"GET", "/v1/failures/", "fl_"}, {"GET", "/v1/payments/", "pi_"}, {"GET", "/v1/failures?starting_after=", "fl_"},
		{"GET", "/v1/failures?customer=", "cus_"}, {"GET", "/v1/failures?payment_id=", "pi_"}, {"GET", "/v1/failures?charge=", "ch_fl_"},
		{"GET", "/v1/customers/", "cus_"}, {"POST", "/v1/inbox/", "nt_"}, {"GET", "/v1/customers/cus_own/inbox?starting_after=", "nt_"},
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := rapid.SampledFrom(routes).Draw(rt, "route")
		foreign := rapid.SampledFrom([]string{"other", "platform"}).Draw(rt, "foreign")
		account := rapid.SampledFrom([]string{"", "acct_other", "acct_none"}).Draw(rt, "account")
		unknown := rapid.StringMatching(`[A-Za-z0-9]{1,24}`).Filter(func(s string) bool { return s != "own" && s != "other" && s != "platform" }).Draw(rt, "unknown")
		ask := func(id string) answer {
			path := r.path + r.prefix + id
			switch {
			case r.prefix == "cus_" && strings.HasPrefix(r.path, "/v1/customers/"):
				path += "/inbox"
			case r.method == "POST":
				path += "/read"
			}
			if account != "" && r.method == "GET" && !strings.HasPrefix(path, "/v1/failures/") {
				mark := "?"
				if strings.Contains(path, "?") {
					mark = "&"
				}
				path += mark + "account=" + account
			}
			return b.send(rt, r.method, path, "")
		}
		want, got := ask(unknown), ask(foreign)
		require.Equal(rt, want.status, got.status)
		require.Equal(rt, want.body, got.body)
	})

	for _, account := range []string{"acct_other", ""} {
		a := b.call(http.MethodPut, withQuery("/v1/customers/cus_own/contact", "account", account), `{"locale":"de"}`)
		require.Equal(t, http.StatusNotFound, a.status)
	}
	var read int
	require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT count(*) FROM notifications WHERE read_at IS NOT NULL`).Scan(&read))
	require.Equal(t, 1, read, "nobody else's notice was touched")
}

func TestWithoutATokenOnlyThisMachineIsAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.Tokens = nil })
	b.token = ""
	a := failed("fl_1", "pi_1")
	b.add(a)
	b.save(store.Changes{Notifications: []store.Notification{notification("nt_1", a, store.ChannelInbox, store.Delivered)}})
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for _, h := range []string{"localhost", "LOCALHOST:8081", "127.0.0.1:8081", "127.9.9.9", "[::1]:8081", "[::1]", "app.localhost", "localhost."} {
		require.Equal(t, http.StatusOK, b.call(http.MethodGet, "/v1/failures", "", host(h)).status, h)
	}
	for _, h := range []string{"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8081", "0.0.0.0", "[::2]", "evillocalhost"} {
		for _, path := range []string{"/v1/failures", "/console", "/metrics", "/openapi.json", "/"} {
			require.Equal(t, http.StatusForbidden, b.send(t, http.MethodGet, path, "", host(h)).status, "%s %s", h, path)
		}
		require.Equal(t, http.StatusOK, b.call(http.MethodGet, "/healthz", "", host(h)).status, "a prober may use any name")
	}
	with := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, f := range []func(*http.Request){
		with("Sec-Fetch-Site", "cross-site"), with("Sec-Fetch-Site", "same-site"), with("Origin", "https://evil.example"), with("Origin", "null"),
	} {
		require.Equal(t, http.StatusForbidden, b.send(t, http.MethodPost, "/v1/inbox/nt_1/read", "", f).status)
		require.Equal(t, http.StatusForbidden, b.send(t, http.MethodPut, "/v1/customers/cus_1/contact", `{"locale":"de"}`, f).status)
		require.Equal(t, http.StatusOK, b.send(t, http.MethodGet, "/v1/failures", "", f).status, "reading is safe: the page of another site cannot see the answer")
	}
	for _, f := range []func(*http.Request){with("Sec-Fetch-Site", "same-origin"), with("Sec-Fetch-Site", "none"), with("Origin", b.server.URL), with("Accept", "*/*")} {
		require.Equal(t, http.StatusOK, b.send(t, http.MethodPost, "/v1/inbox/nt_1/read", "", f).status)
	}
}

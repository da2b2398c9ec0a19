package console

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

func TestAContactIsKeptSealedAndUsed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"ada@shop.example","locale":"de-AT","time_zone":"Europe/Vienna"}`)
	require.Equal(t, http.StatusOK, a.status, a.body)
	require.JSONEq(t, `{"object":"contact","customer":"cus_1","source":"stripe","account":null,"livemode":true,"email":"ada@shop.example","locale":"de-AT","time_zone":"Europe/Vienna"}`, a.body)
	var row string
	require.NoError(t, b.store.Pool().QueryRow(t.Context(), `SELECT contacts::text || encode(contact, 'escape') FROM contacts`).Scan(&row))
	require.NotContains(t, row, "shop") // of the hex digits no word of other letters can come
	r, err := b.store.Recipient(t.Context(), key("pi_1"), "cus_1")
	require.NoError(t, err)
	require.Equal(t, store.Recipient{Emails: []string{"ada@shop.example"}, Locale: "de-AT"}, r)

	a = b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"locale":"fr","email":null}`)
	require.Equal(t, http.StatusOK, a.status)
	r, err = b.store.Recipient(t.Context(), key("pi_1"), "cus_1")
	require.NoError(t, err)
	require.Equal(t, store.Recipient{Emails: []string{}, Locale: "fr"}, r, "a PUT replaces")

	b.call(http.MethodPut, withQuery("/v1/customers/cus_1/contact", "source", "frame", "account", "acct_2", "livemode", "false"), `{"email":"x@y.example"}`)
	r, err = b.store.Recipient(t.Context(), store.PaymentKey{PaymentID: "tr_1", Source: "frame", Account: "acct_2"}, "cus_1")
	require.NoError(t, err)
	require.Equal(t, "x@y.example", r.Emails[0])

	b.token = accountToken
	b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"own@y.example"}`)
	r, err = b.store.Recipient(t.Context(), store.PaymentKey{PaymentID: "pi_1", Source: "stripe", Account: ownAccount, Livemode: true}, "cus_1")
	require.NoError(t, err)
	require.Equal(t, "own@y.example", r.Emails[0])
	require.NotContains(t, fmt.Sprint(b.logs.All()), "example")
}

func TestWhatTheCustomerReadsIsInTheLanguageThatTheirMailHas(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a, change(failed("fl_2", "pi_2"), func(a *store.Attempt) { a.Locale = "es" }))
	for id, about := range map[string]store.Attempt{"nt_1": a, "nt_2": failed("fl_2", "pi_2")} {
		b.save(store.Changes{Notifications: []store.Notification{notification(id, about, store.ChannelInbox, store.Delivered)}})
	}
	languages := func(params ...string) []any {
		t.Helper()
		said := func(m map[string]any, member string) any { return m[member].(map[string]any)["locale"] }
		first := func(path string, params ...string) map[string]any {
			for _, o := range b.get(path, params...).json(t)["data"].([]any) {
				if o.(map[string]any)["payment_id"] == "pi_1" {
					return o.(map[string]any)
				}
			}
			return nil
		}
		payment := b.get("/v1/payments/pi_1", params...).json(t)["attempts"].([]any)[0].(map[string]any)
		return []any{
			said(first("/v1/customers/cus_1/inbox", params...), "message"), said(b.call(http.MethodPost, withQuery("/v1/inbox/nt_1/read", params...), "").json(t), "message"),
			said(first("/v1/failures", params...), "customer_message"), said(b.get("/v1/failures/fl_1", params...).json(t), "customer_message"), said(payment, "customer_message"),
		}
	}
	all := func(locale string) []any { return []any{locale, locale, locale, locale, locale} }
	put := func(locale string, params ...string) {
		t.Helper()
		require.Equal(t, http.StatusOK, b.call(http.MethodPut, withQuery("/v1/customers/cus_1/contact", params...), `{"email":"buyer@example.com","locale":"`+locale+`"}`).status)
	}
	page := fact(key("pi_1"), "evt_p", "checkout.session.completed", "cs_1", start)
	page.SessionLocale = "sv"
	b.save(store.Changes{Facts: []store.Fact{page}})
	require.Equal(t, all("sv"), languages())
	put("pl", "livemode", "false")
	put("nl", "account", "acct_other")
	require.Equal(t, all("sv"), languages(), "another mode's customer, or another account's, is somebody else")
	b.save(store.Changes{Customers: []store.Customer{{CustomerID: "cus_1", Source: "stripe", Livemode: true, RecordCreated: 1, RecordEvent: "evt_c", Locale: "it"}}})
	require.Equal(t, all("it"), languages())
	put("de")
	require.Equal(t, all("de"), languages())
	require.Equal(t, all("ja"), languages("locale", "ja"), "the reader's wish goes before all")
	require.Equal(t, "es", b.get("/v1/failures/fl_2").json(t)["customer_message"].(map[string]any)["locale"], "what the payment itself says goes before the customer's")
	require.Equal(t, "es", b.call(http.MethodPost, "/v1/inbox/nt_2/read", "").json(t)["message"].(map[string]any)["locale"])
}

func TestACustomerWithoutAWishIsToldInTheLanguageOfTheAccount(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.AccountLocales = map[string]string{ownAccount: "pt-BR"} })
	for id, locale := range map[string]string{"fl_none": "", "fl_unspoken": "tlh", "fl_wish": "de"} {
		a := change(failed(id, "pi_"+id), func(a *store.Attempt) { a.Account, a.Customer, a.Locale = ownAccount, "cus_"+id, locale })
		b.add(a)
		b.save(store.Changes{Notifications: []store.Notification{notification("nt_"+id, a, store.ChannelInbox, store.Delivered)}})
		want := "pt-BR"
		if locale == "de" {
			want = "de"
		}
		require.Equal(t, want, b.get("/v1/failures/" + id).json(t)["customer_message"].(map[string]any)["locale"], id)
		notice := b.get("/v1/customers/cus_" + id + "/inbox").json(t)["data"].([]any)[0].(map[string]any)
		require.Equal(t, want, notice["message"].(map[string]any)["locale"], id)
	}
	b.add(failed("fl_other", "pi_other"))
	require.Equal(t, "en", b.get("/v1/failures/fl_other").json(t)["customer_message"].(map[string]any)["locale"])
}

func TestABadContactIsRefusedByItsMember(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, c := range []struct{ body, param string }{
		{``, ""}, {`{}`, ""}, {`null`, ""}, {`[]`, ""}, {`"x"`, ""}, {`{"email":"a@b.example"} {}`, ""}, {`{"email":`, ""},
		{`{"email":null}`, ""},
		{`{"email":1}`, "email"}, {`{"mail":"a@b.example"}`, "mail"},
		{`{"EMAIL":"a@b.example"}`, "EMAIL"}, {`{"email":"a@b.example","email":"a@b.example"}`, "email"},
		{`{"email":"a@b.example","locale":"x"}`, "locale"}, {`{"locale":"deutsch!"}`, "locale"}, {`{"locale":"en-"}`, "locale"}, {`{"locale":"` + strings.Repeat("a-", 30) + `"}`, "locale"},
		{`{"time_zone":"Mars/Base"}`, "time_zone"}, {`{"time_zone":"Local"}`, "time_zone"}, {`{"time_zone":"../../etc/passwd"}`, "time_zone"},
	} {
		a := b.call(http.MethodPut, "/v1/customers/cus_1/contact", c.body)
		require.Equal(t, http.StatusBadRequest, a.status, c.body)
		require.Equal(t, "body_invalid", a.json(t)["code"])
		if c.param != "" {
			require.Equal(t, c.param, a.json(t)["param"], c.body)
		}
		require.NotContains(t, a.body, "a@b.example")
	}
	for _, email := range []string{
		"plain", "a@b", "Foo <a@b.example>", "g: a@b.example;", "a@[127.0.0.1]", "a@127.0.0.1", "a@b.example (c)", "-oX@b.example", "@b.example", "a@", "a@@b.example",
		"a@b.example,c@d.example", "a@b.example\\r\\nBcc: c@d.example", "a b@c.example", `\"a b\"@c.example`, ".a@b.example", "a.@b.example", "a..b@c.example",
		"a@-b.example", "a@b-.example", "a@b..example", "a@b.example.", strings.Repeat("a", 65) + "@b.example", "a@" + strings.Repeat("b.", 130) + "example", "a\\u0000@b.example",
		"ämne@bücher.example", "a%b@shop.example", "a!b@shop.example", "a@1.2.3.400", "a@xn--zzzzzz.example", // no mail would go there
	} {
		a := b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"`+email+`"}`)
		require.Equal(t, http.StatusBadRequest, a.status, email)
		require.Equal(t, "email", a.json(t)["param"], email)
	}
	for _, email := range []string{"a@b.example", "Ada.L+tag@sub.shop.example", "o'neil@shop.example", "emne@bücher.example", "x_y-z@1and1.example"} {
		a := b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"`+email+`"}`)
		require.Equal(t, http.StatusOK, a.status, email)
	}
	gzipped := b.send(t, http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"a@b.example"}`, func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") })
	require.Equal(t, http.StatusUnsupportedMediaType, gzipped.status, gzipped.body)
	a := b.call(http.MethodPut, "/v1/customers/cus_1/contact", `{"email":"`+strings.Repeat("a", contactLimit)+`"}`)
	require.Equal(t, http.StatusRequestEntityTooLarge, a.status)
	a = b.call(http.MethodPut, "/v1/customers/cus_1/contact", `email=a@b.example`, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") })
	require.Equal(t, http.StatusUnsupportedMediaType, a.status)
	require.Empty(t, b.logs.All())
}

// A caller that breaks off or speaks no HTTP is at fault itself: Postgres is not, and there is nothing to look for in the log.
func TestABodyThatCannotBeReadIsItsSendersFault(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, rest := range map[string]string{
		"breaks off":              "Content-Length: 100\r\n\r\n{\"email\":\"a@b.example\"",
		"breaks off in a chunk":   "Transfer-Encoding: chunked\r\n\r\n50\r\n{\"email\":\"a@b.example\"",
		"a chunk without a size":  "Transfer-Encoding: chunked\r\n\r\nzz\r\n{\"email\":\"a@b.example\"}\r\n0\r\n\r\n",
		"a chunk of another size": "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"email\":\"a@b.example\"}\r\n0\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", b.server.Listener.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(conn, "PUT /v1/customers/cus_1/contact HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+b.token+"\r\n"+rest)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, name)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		a := answer{response.StatusCode, response.Header, string(body)}
		described(t, http.MethodPut, "/v1/customers/cus_1/contact", a)
		require.Equal(t, http.StatusBadRequest, a.status, name)
		require.Equal(t, "body_invalid", a.json(t)["code"], name)
		require.NotContains(t, a.body, "b.example", name)
		require.NoError(t, conn.Close())
	}
	require.Empty(t, b.logs.All())
}

func TestTheCatalogIsServed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := b.get("/v1/decline-codes").ids(t)
	require.Greater(t, len(all), 100)
	frame := b.get("/v1/decline-codes", "source", "frame").ids(t)
	require.NotEmpty(t, frame)
	require.Less(t, len(frame), len(all))
	for _, id := range frame {
		require.True(t, strings.HasPrefix(id, "frame_"), id)
	}
	var paged []string
	params := []string{"limit", "100"}
	for len(paged) < 2*len(all) {
		a := b.get("/v1/decline-codes", params...)
		paged = append(paged, a.ids(t)...)
		if a.json(t)["has_more"] == false {
			break
		}
		params = []string{"limit", "100", "starting_after", paged[len(paged)-1]}
	}
	require.Equal(t, all, paged, "ids are unique and in order")

	m := b.get("/v1/decline-codes/insufficient_funds").json(t)
	require.Equal(t, "insufficient_funds", m["code"])
	require.Equal(t, "insufficient_funds", m["category"])
	require.NotEmpty(t, m["also"])
	m = b.get("/v1/decline-codes/stolen_card").json(t)
	require.Equal(t, false, m["disclosable"])
	require.Equal(t, "generic_decline", m["customer_message"].(map[string]any)["code"])
	m = b.get("/v1/decline-codes/visa:51").json(t)
	require.Equal(t, "visa", m["network"])
	a := b.get("/v1/decline-codes/insuficient_funds")
	require.Equal(t, http.StatusNotFound, a.status)
	require.Contains(t, a.json(t)["detail"], "insufficient_funds")
	require.Equal(t, http.StatusNotFound, b.get("/v1/decline-codes/highest_risk_level", "source", "frame").status)
}

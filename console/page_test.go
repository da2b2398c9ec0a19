package console

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/store"
)

// logIn posts the log-in form and returns its answer.
func (b *bench) logIn(token, next string) answer {
	form := url.Values{"token": {token}, "next": {next}}.Encode()
	return b.send(b.t, http.MethodPost, "/console/login", form, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Del("Authorization")
	})
}

func (a answer) cookie(t *testing.T) *http.Cookie {
	t.Helper()
	response := http.Response{Header: a.header}
	require.Len(t, response.Cookies(), 1)
	return response.Cookies()[0]
}

// page reads a page with a session, without the API's token.
func (b *bench) page(path, session string) answer {
	return b.send(b.t, http.MethodGet, path, "", func(r *http.Request) {
		r.Header.Del("Authorization")
		if session != "" {
			r.AddCookie(&http.Cookie{Name: sessionCookie, Value: session})
		}
	})
}

func (b *bench) session(token string) string {
	b.t.Helper()
	a := b.logIn(token, "")
	require.Equal(b.t, http.StatusSeeOther, a.status)
	return a.cookie(b.t).Value
}

func TestThePagesNeedALogIn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.page("/console/quarantine?starting_after=x", "")
	require.Equal(t, http.StatusSeeOther, a.status)
	require.Equal(t, "/console/login?next=%2Fconsole%2Fquarantine%3Fstarting_after%3Dx", a.header.Get("Location"))
	a = b.page(a.header.Get("Location"), "")
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.body, `value="/console/quarantine?starting_after=x"`)
	require.Equal(t, http.StatusSeeOther, b.page("/", "").status)
	require.Equal(t, http.StatusOK, b.page("/console/style.css", "").status)

	a = b.logIn("wrong", "/console")
	require.Equal(t, http.StatusUnauthorized, a.status)
	require.Contains(t, a.body, "not one of")
	require.Empty(t, a.header.Get("Set-Cookie"))

	a = b.logIn(allToken, "/console/quarantine")
	require.Equal(t, "/console/quarantine", a.header.Get("Location"))
	cookie := a.cookie(t)
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.Equal(t, "/console", cookie.Path)
	require.NotContains(t, cookie.Value, allToken)
	require.Equal(t, http.StatusOK, b.page("/console", cookie.Value).status)
	require.Equal(t, http.StatusSeeOther, b.page("/console/login", cookie.Value).status, "already in")
	require.Equal(t, http.StatusUnauthorized, b.send(t, http.MethodGet, "/v1/failures", "", func(r *http.Request) {
		r.Header.Del("Authorization")
		r.AddCookie(cookie)
	}).status, "a session is no token")

	a = b.send(t, http.MethodPost, "/console/logout", "", func(r *http.Request) { r.AddCookie(cookie) })
	require.Equal(t, http.StatusSeeOther, a.status)
	require.Equal(t, -1, a.cookie(t).MaxAge)
	secure := b.send(t, http.MethodPost, "/console/logout", "", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") })
	require.True(t, secure.cookie(t).Secure)
}

func TestASessionCannotBeForgedAndEnds(t *testing.T) {
	t.Parallel()
	now := start
	b := setup(t, func(c *Config) { c.Now = func() time.Time { return now } })
	value := b.session(allToken)
	expiry, signature, _ := strings.Cut(value, ".")
	other := tokens(t, "another-token-0123456789")[0]
	for name, forged := range map[string]string{
		"empty": ".", "no signature": expiry + ".", "longer": "9" + expiry + "." + signature, "own key": other.seal(start.Add(time.Hour)),
		"plain hash": expiry + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 32)), "not a number": "x." + signature,
	} {
		require.Equal(t, http.StatusSeeOther, b.page("/console", forged).status, name)
	}
	now = start.Add(sessionTime - time.Second)
	require.Equal(t, http.StatusOK, b.page("/console", value).status)
	now = start.Add(sessionTime)
	require.Equal(t, http.StatusSeeOther, b.page("/console", value).status)
	withdrawn := setup(t, func(c *Config) { c.Tokens = tokens(t, "new-token-0123456789") })
	require.Equal(t, http.StatusSeeOther, withdrawn.page("/console", value).status, "it dies with its token")
}

func TestALogInLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"": "/console", "/console": "/console", "/console?status=failing": "/console?status=failing", "/console/failures/fl_1": "/console/failures/fl_1",
		"https://evil.example": "/console", "//evil.example": "/console", "/\\evil.example": "/console", "/consoleevil": "/console", "/console/../../evil\\": "/console",
		"javascript:alert(1)": "/console", "/v1/failures": "/console", "http:/console/": "/console",
	} {
		require.Equal(t, want, ownPath(next), next)
	}
}

func TestOtherSitesCannotPostToThePages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"/console/login", "/console/logout"} {
		a := b.send(t, http.MethodPost, path, "token="+allToken, func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		})
		require.Equal(t, http.StatusForbidden, a.status)
		require.Empty(t, a.header.Get("Set-Cookie"))
	}
}

// staged fills the console with what a real one holds.
func (b *bench) staged() {
	a := failed("fl_renewal", "pi_3Q9xRenewal")
	a.Invoice, a.OccurredAt = "in_1Q9x", start.Add(-26*time.Hour)
	b.add(a)
	mail := notification("nt_mail", a, store.ChannelEmail, store.Sent)
	sent := start.Add(-25 * time.Hour)
	mail.SentAt, mail.CreatedAt, mail.DueAt = &sent, start.Add(-26*time.Hour), sent
	b.save(store.Changes{Notifications: []store.Notification{mail}})
	inbox := notification("nt_inbox", a, store.ChannelInbox, store.Delivered)
	inbox.SentAt, inbox.CreatedAt, inbox.DueAt = &mail.CreatedAt, mail.CreatedAt, mail.CreatedAt
	b.save(store.Changes{Notifications: []store.Notification{inbox}})

	fraud := change(failed("fl_fraud", "pi_3Q9xFraud"), func(a *store.Attempt) {
		a.Amount, a.Currency, a.Type, a.Code, a.Category, a.Severity, a.Disclosable = 129900, "eur", "blocked", "highest_risk_level", "fraud_risk", "hard", false
		a.OutcomeType, a.OutcomeReason, a.RiskLevel, a.DeclineCode, a.NetworkStatus = "blocked", "highest_risk_level", "highest", "", "not_sent_to_network"
		a.PublicCode, a.PublicNextStep, a.PublicRetry = decline.Generic().Code, string(decline.Generic().NextStep), false
		a.MerchantNextStep = "If you know this customer, add them to Radar's allow list; that does not retry the payment."
		a.DecidedBy, a.RetryVerdict, a.AttemptsLeft, a.Presence, a.Evidence = "outcome_type:stripe", "never", 3, "on_session", []string{"cvc_result=strong"}
		a.ErrorMessage, a.AdviceCode, a.NetworkDeclineCode, a.OccurredAt = "Your card was declined.", "", "", start.Add(-time.Hour)
	})
	b.add(fraud)
	shown := notification("nt_shown", fraud, store.ChannelCheckout, store.Sent)
	shown.Template, shown.SentAt, shown.CreatedAt = "attempt", &fraud.OccurredAt, fraud.OccurredAt
	b.save(store.Changes{Notifications: []store.Notification{shown}})
	suppressed := notification("nt_supp", fraud, store.ChannelEmail, store.Suppressed)
	suppressed.Reason, suppressed.CreatedAt, suppressed.UpdatedAt = "on_session", fraud.OccurredAt, fraud.OccurredAt
	b.save(store.Changes{Notifications: []store.Notification{suppressed}})

	sepa := change(failed("fl_sepa", "py_1Q9xSepa"), func(a *store.Attempt) {
		a.Account, a.Livemode, a.PaymentIntent, a.Amount, a.Currency = "acct_1Berlin", false, "", 4990, "eur"
		a.MethodType, a.Brand, a.Network, a.ExpMonth, a.ExpYear, a.Last4, a.Country = "sepa_debit", "", "", 0, 0, "3000", "DE"
		a.Locale, a.OccurredAt = "de", start.Add(-2*time.Hour)
	})
	b.add(sepa)
	held := notification("nt_held", sepa, store.ChannelEmail, store.Held)
	held.Reason, held.CreatedAt = "no_address", sepa.OccurredAt
	b.save(store.Changes{Notifications: []store.Notification{held}})

	again := change(failed("fl_again", "pi_3Q9xRenewal"), func(a *store.Attempt) {
		a.AttemptsUsed, a.AttemptsLeft, a.OccurredAt, a.Invoice = 2, 2, start.Add(-3*time.Hour), "in_1Q9x"
	})
	b.add(again)
	k := again.PaymentKey
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_1", "charge.failed", "ch_fl_renewal", start.Add(-26*time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_2", "payment_intent.payment_failed", "pi_3Q9xRenewal", start.Add(-26*time.Hour))}})
	b.save(store.Changes{Facts: []store.Fact{fact(k, "evt_3", "charge.failed", "ch_fl_again", start.Add(-3*time.Hour))}})
	for i, reason := range []string{"unreadable_object", "database_refused"} {
		_, err := b.store.Pool().Exec(b.t.Context(), `INSERT INTO quarantine (id, source, event_id, event_type, reason, body, received_at)
			VALUES ($1, 'stripe', $2, 'charge.failed', $3, 'SECRETBODY', $4)`, fmt.Sprint("qr_", i), fmt.Sprint("evt_q", i), reason, start)
		require.NoError(b.t, err)
	}
}

func TestThePagesShowWhatTheAPIKnows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.staged()
	session := b.session(allToken)
	list := b.page("/console", session)
	require.Equal(t, http.StatusOK, list.status)
	require.Equal(t, "no-store", list.header.Get("Cache-Control"))
	require.Equal(t, pagePolicy, list.header.Get("Content-Security-Policy"))
	require.NotContains(t, list.body, "<script")
	require.NotContains(t, list.body, "style=")
	for _, want := range []string{"$20.00 USD", "insufficient funds", "off session", "saved method", "There was not enough money available", "Customer sees",
		"fraud signal: staff only", "no address", "<b>2</b> quarantined events", "<b>1</b> mail held", "on session"} {
		require.Contains(t, list.body, want)
	}
	page := b.page("/console/failures/fl_fraud", session)
	require.Equal(t, http.StatusOK, page.status)
	for _, want := range []string{"For staff only", "highest_risk_level", "outcome_type:stripe", "allow list", "generic_decline", "nt_supp", "nt_shown", "not_sent_to_network", "cvc result"} {
		require.Contains(t, page.body, want)
	}
	page = b.page("/console/failures/fl_renewal", session)
	for _, want := range []string{"evt_1", "payment_intent.payment_failed", "/console/failures/fl_again", "in_1Q9x", "visa •••• 0341, expires 4/2027", "hyperswitch", "rebound:default_wait"} {
		require.Contains(t, page.body, want)
	}
	require.Equal(t, http.StatusNotFound, b.page("/console/failures/fl_none", session).status)
	q := b.page("/console/quarantine", session)
	require.Contains(t, q.body, "evt_q1")
	require.Contains(t, q.body, "unreadable object")
	require.NotContains(t, q.body, "SECRETBODY")

	one := b.session(accountToken)
	require.Equal(t, http.StatusNotFound, b.page("/console/quarantine", one).status)
	require.Equal(t, http.StatusNotFound, b.page("/console/failures/fl_fraud", one).status)
	list = b.page("/console", one)
	require.Contains(t, list.body, "No failed payment yet")
	require.NotContains(t, list.body, "quarantined")
	require.Contains(t, list.body, "<b>0</b> mails held")
}

func TestTheListTellsWhatWasToldOfEachFailure(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.staged()
	_, cards, _ := strings.Cut(b.page("/console", b.session(allToken)).body, `<li class="card failure`)
	told := map[string]string{}
	for card := range strings.SplitSeq(cards, `<li class="card failure`) {
		id := regexp.MustCompile(`/console/failures/(\w+)`).FindStringSubmatch(card)[1]
		text := regexp.MustCompile(`(?s)<dt>Told</dt><dd>(.*?)</dd>`).FindStringSubmatch(card)[1]
		told[id] = strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(text, " ")), " ")
	}
	require.Equal(t, map[string]string{
		"fl_renewal": "inbox delivered email sent", "fl_fraud": "checkout sent email suppressed on session", "fl_sepa": "email held no address",
		"fl_again": "nothing by this attempt",
	}, told)
}

// A shop that does not use the stream reads "sent" of all its customers at checkout, none of whom has seen anything.
func TestThePagesTellWhetherACheckoutPageHasShownTheMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := failed("fl_1", "pi_1")
	b.add(a)
	n := notification("nt_1", a, store.ChannelCheckout, store.Sent)
	n.ShownCode = ""
	b.save(store.Changes{Notifications: []store.Notification{n}})
	session := b.session(allToken)
	const unseen = "no page has shown it"
	require.Contains(t, b.page("/console", session).body, unseen)
	require.Contains(t, b.page("/console/failures/fl_1", session).body, unseen)
	_, err := b.store.Pool().Exec(t.Context(), `UPDATE notifications SET shown_code = 'insufficient_funds'`)
	require.NoError(t, err)
	require.NotContains(t, b.page("/console", session).body, unseen)
	require.NotContains(t, b.page("/console/failures/fl_1", session).body, unseen)
}

func TestTheListFiltersAndPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 2*pageLimit + 1 {
		b.add(change(failed(fmt.Sprintf("fl_%03d", i), "pi_1"), func(a *store.Attempt) { a.Customer = "cus_many" }))
	}
	b.add(failed("fl_other", "pi_2"))
	session := b.session(allToken)
	link := regexp.MustCompile(`href="/console/failures/(fl_[a-z0-9]+)"`)
	older := regexp.MustCompile(`rel="next" href="([^"]+)"`)
	// As a browser sends the form: with its empty fields.
	path := "/console?payment_id=&charge=&customer=cus_many&category=&status=failing&source=&livemode="
	seen := map[string]bool{}
	for pages := 0; path != ""; pages++ {
		a := b.page(path, session)
		require.Equal(t, http.StatusOK, a.status, a.body)
		require.Contains(t, a.body, `value="cus_many"`)
		require.Contains(t, a.body, `<option value="failing" selected>`)
		for _, m := range link.FindAllStringSubmatch(a.body, -1) {
			require.False(t, seen[m[1]], "%s twice", m[1])
			seen[m[1]] = true
		}
		path = ""
		if m := older.FindStringSubmatch(a.body); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
		require.Less(t, pages, 4)
	}
	require.Len(t, seen, 2*pageLimit+1)
	require.NotContains(t, seen, "fl_other")
	a := b.page("/console?status=nonsense", session)
	require.Equal(t, http.StatusBadRequest, a.status)
	require.Contains(t, a.header.Get("Content-Type"), "text/html")
	require.Contains(t, a.body, "must be one of failing")
	require.Contains(t, b.page("/console?customer=cus_nobody", session).body, "No failure fits")
}

// Anything that a provider or a card tester can put into a stored text must come out as text.
func TestStoredTextsStayText(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>'{{.}}`
	a := failed("fl_x", "pi_x")
	for _, p := range []*string{
		&a.PaymentIntent, &a.Charge, &a.Customer, &a.Invoice, &a.FailureCode, &a.DeclineCode, &a.OutcomeType, &a.OutcomeReason, &a.NetworkStatus, &a.RiskLevel,
		&a.AdviceCode, &a.NetworkAdviceCode, &a.NetworkDeclineCode, &a.ErrorType, &a.ErrorMessage, &a.ErrorParam, &a.ErrorMethodType, &a.MethodID, &a.MethodType,
		&a.Brand, &a.Network, &a.Last4, &a.Country, &a.Funding, &a.Fingerprint, &a.CVCCheck, &a.PostalCheck, &a.AddressCheck, &a.Code, &a.DecidedBy, &a.Locale,
	} {
		*p = evil
	}
	a.ErrorDocURL, a.ErrorLogURL, a.Events, a.Currency = "javascript:alert(3)", "data:text/html,<script>alert(4)</script>", []string{"evt_<b>"}, "<u>"
	b.add(a)
	n := notification("nt_x", a, store.ChannelEmail, store.Held)
	n.Reason = evil
	b.save(store.Changes{Notifications: []store.Notification{n}})
	f := fact(a.PaymentKey, "evt_<i>", evil, evil, start)
	f.APIVersion = evil
	b.save(store.Changes{Facts: []store.Fact{f}})
	_, err := b.store.Pool().Exec(t.Context(), `INSERT INTO quarantine (id, source, event_id, event_type, reason, body, received_at) VALUES ('qr_1', 'stripe', $1, $1, $1, '', now())`, evil)
	require.NoError(t, err)
	session := b.session(allToken)
	for _, path := range []string{"/console", "/console/failures/fl_x", "/console/quarantine", "/console?customer=" + url.QueryEscape(evil)} {
		a := b.page(path, session)
		require.Equal(t, http.StatusOK, a.status)
		for _, never := range []string{"<script", "<img", "<u>", "<i>", "evt_<b>", `href="javascript:`, `href="data:`} {
			require.NotContains(t, a.body, never, path)
		}
	}
	for _, path := range []string{"/console?" + url.QueryEscape(evil) + "=1", "/console/failures/" + url.PathEscape(evil), "/console/login?next=" + url.QueryEscape(evil)} {
		require.NotContains(t, b.page(path, session).body, "<script", path)
		require.NotContains(t, b.page(path, "").body, "<script", path)
	}
	require.Contains(t, b.send(t, http.MethodGet, "/v1/failures/fl_x", "").body, `\u003cscript\u003e`, "JSON that a browser shows as a page holds no tag either")
}

func TestAnAmountNamesItsCurrencyOnce(t *testing.T) {
	t.Parallel()
	for currency, want := range map[string]string{
		"usd": "$20.00 USD", "jpy": "¥2,000 JPY", "chf": "CHF\u00a020.00", "kwd": "KWD\u00a02.000", "": "—",
	} {
		require.Equal(t, want, moneyOf(2000, currency))
	}
}

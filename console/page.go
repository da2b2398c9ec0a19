package console

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"rebound/decline"
	"rebound/store"
)

//go:embed pages/*.html pages/style.css
var pageFiles embed.FS

// pagePolicy lets a page load our style sheet and post our forms, and nothing else: no script, so none can be injected.
const pagePolicy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const pageLimit = 25

// pages are the templates, each with the layout around it.
type pages struct {
	byName map[string]*template.Template
	style  []byte
}

func newPages() *pages {
	p := &pages{byName: map[string]*template.Template{}}
	funcs := template.FuncMap{
		"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"money": moneyOf,
		"words": func(s string) string { return strings.ReplaceAll(s, "_", " ") },
		"tone":  tone,
		"deref": func(s *string) string { return *s },
	}
	layout := template.Must(template.New("layout").Funcs(funcs).ParseFS(pageFiles, "pages/layout.html"))
	for _, name := range []string{"failures", "failure", "quarantine", "login", "problem"} {
		p.byName[name] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, "pages/"+name+".html"))
	}
	style, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		panic(err) // it is embedded
	}
	p.style = style
	return p
}

// moneyOf writes an amount for staff, who read English here.
func moneyOf(amount int64, currency string) string {
	if currency == "" {
		return "—"
	}
	money, code := decline.FormatMoney(amount, currency, decline.DefaultLocale), strings.ToUpper(currency)
	if strings.Contains(money, code) { // it has no sign that English knows
		return money
	}
	return money + " " + code
}

// tone is the colour of a word: what went well, waits, was left out, or went wrong. The word itself always stands there
// too.
func tone(word string) string {
	switch word {
	case "recovered", "sent", "delivered", "read":
		return "good"
	case "held", "pending", "created", "soft":
		return "wait"
	case "failing", "failed", "unknown", "hard":
		return "bad"
	}
	return "calm"
}

// frame is what every page has around its content.
type frame struct {
	Title    string
	LoggedIn bool // shows the navigation
	LogOut   bool // there is a session to end
	Account  string
	Mode     string
	Global   bool // may see what belongs to no account
	Page     any
}

func (s *server) show(c echo.Context, status int, name, title string, page any) error {
	f := frame{Title: title, Page: page, Mode: "test"}
	if s.Livemode {
		f.Mode = "live"
	}
	if who, ok := c.Get(principalKey).(principal); ok {
		f.LoggedIn, f.LogOut, f.Account, f.Global = true, len(s.Tokens) > 0, who.account, who.account == ""
	}
	var body bytes.Buffer // a template that fails half-way must not leave half a page
	if err := s.pages.byName[name].ExecuteTemplate(&body, "layout", f); err != nil {
		return fmt.Errorf("rendering the page %s: %w", name, err)
	}
	return c.HTMLBlob(status, body.Bytes())
}

func (s *server) pageProblem(c echo.Context, p *problem) error {
	title := p.Title
	if title == "" {
		title = http.StatusText(p.Status)
	}
	return s.show(c, p.Status, "problem", title, p)
}

func (s *server) routePages(e *echo.Echo) {
	e.GET("/", func(c echo.Context) error { return c.Redirect(http.StatusSeeOther, "/console") })
	e.GET("/console", s.failuresPage)
	e.GET("/console/failures/:id", s.failurePage)
	e.GET("/console/quarantine", s.quarantinePage)
	e.GET("/console/login", s.loginPage)
	e.POST("/console/login", s.logIn)
	e.POST("/console/logout", s.logOut)
	e.GET("/console/style.css", func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", "max-age=300")
		return c.Blob(http.StatusOK, "text/css; charset=utf-8", s.pages.style)
	})
}

const sessionCookie = "rebound_session"

// guardPages lets in whoever has a session, and sends others to the log-in.
func (s *server) guardPages(c echo.Context, path string, next echo.HandlerFunc) error {
	if cookie, err := c.Cookie(sessionCookie); err == nil {
		if t := s.session(cookie.Value); t != nil {
			setPrincipal(c, principal{account: t.account})
			return next(c)
		}
	}
	switch {
	case path == "/console/login", path == "/console/logout":
		return next(c)
	case c.Request().Method == http.MethodGet:
		back := ""
		if r := c.Request().URL.RequestURI(); r != "/" && r != "/console" {
			back = "?next=" + url.QueryEscape(r)
		}
		return c.Redirect(http.StatusSeeOther, "/console/login"+back)
	}
	return &problem{Status: http.StatusUnauthorized, Code: "unauthorized", Detail: "Log in first."}
}

type loginView struct {
	Next  string
	Wrong bool
}

func (s *server) loginPage(c echo.Context) error {
	if len(s.Tokens) == 0 || c.Get(principalKey) != nil {
		return c.Redirect(http.StatusSeeOther, "/console")
	}
	return s.show(c, http.StatusOK, "login", "Log in", loginView{Next: ownPath(c.QueryParam("next"))})
}

// ownPath keeps a log-in from leading to another site.
func ownPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || strings.Contains(next, `\`) || next != "/console" && !strings.HasPrefix(next, "/console?") && !strings.HasPrefix(next, "/console/") {
		return "/console"
	}
	return next
}

func (s *server) logIn(c echo.Context) error {
	if len(s.Tokens) == 0 {
		return c.Redirect(http.StatusSeeOther, "/console")
	}
	r := c.Request()
	r.Body = http.MaxBytesReader(c.Response(), r.Body, contactLimit)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return badBody("", "The form is not readable.")
	}
	next := ownPath(r.PostForm.Get("next"))
	t := s.token(strings.TrimSpace(r.PostForm.Get("token")))
	if t == nil {
		return s.show(c, http.StatusUnauthorized, "login", "Log in", loginView{Next: next, Wrong: true})
	}
	ends := s.Now().Add(sessionTime)
	c.SetCookie(s.cookie(c, t.seal(ends), int(sessionTime/time.Second)))
	return c.Redirect(http.StatusSeeOther, next)
}

func (s *server) logOut(c echo.Context) error {
	c.SetCookie(s.cookie(c, "", -1))
	return c.Redirect(http.StatusSeeOther, "/console/login")
}

func (s *server) cookie(c echo.Context, value string, age int) *http.Cookie {
	return &http.Cookie{Name: sessionCookie, Value: value, Path: "/console", MaxAge: age, HttpOnly: true, //nolint:gosec // Secure follows the scheme
		// Scheme believes a proxy's X-Forwarded-Proto: who forges it only makes their own cookie stricter.
		Secure: c.Scheme() == "https", SameSite: http.SameSiteStrictMode}
}

type failuresView struct {
	Filters     []filterView
	Livemode    string
	Failures    []failureView
	Older       string // address of the next page
	Newest      string // address of the first page, when this is another
	Filtered    bool
	Held        []store.HeldMail
	HeldTotal   int64
	Quarantined int64
}

type filterView struct {
	Name, Label, Value string
	Options            []string // empty: free text
}

// failureView is a failure as the pages show it.
type failureView struct {
	failureJSON
	Fraud bool // staff see why, the customer must not
	RTL   bool // the customer's text runs from right to left
}

func (s *server) failuresPage(c echo.Context) error {
	p := query(c, failureParams...)
	// A form sends its empty fields too; here they mean no filter.
	for name, v := range p.query {
		if len(v) == 1 && v[0] == "" {
			delete(p.query, name)
		}
	}
	filter := s.failureFilter(c, p)
	if !p.query.Has("limit") {
		filter.Limit = pageLimit
	}
	if err := p.done(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	page, more, err := s.failures(ctx, filter)
	if err != nil {
		return err
	}
	v := failuresView{Filters: filtersOf(p), Livemode: p.query.Get("livemode")}
	for _, f := range page {
		v.Failures = append(v.Failures, s.viewOf(f))
	}
	if v.Held, err = s.Store.HeldMails(ctx, filter.Within); err != nil {
		return err
	}
	for _, h := range v.Held {
		v.HeldTotal += h.Count
	}
	if principalOf(c).account == "" {
		if v.Quarantined, err = s.Store.QuarantineCount(ctx); err != nil {
			return err
		}
	}
	here := url.Values{}
	for name, value := range p.query {
		if name != "starting_after" {
			here[name] = value
			v.Filtered = v.Filtered || name != "limit"
		}
	}
	if p.query.Has("starting_after") {
		v.Newest = "/console?" + here.Encode()
	}
	if more {
		here.Set("starting_after", page[len(page)-1].ID)
		v.Older = "/console?" + here.Encode()
	}
	return s.show(c, http.StatusOK, "failures", "Failed payments", v)
}

func filtersOf(p *params) []filterView {
	filters := []filterView{
		{Name: "payment_id", Label: "Payment"}, {Name: "charge", Label: "Charge"}, {Name: "customer", Label: "Customer"},
		{Name: "category", Label: "Category", Options: categories}, {Name: "status", Label: "Status", Options: statuses},
		{Name: "source", Label: "Source", Options: sources}, {Name: "livemode", Label: "Live", Options: []string{"true", "false"}},
	}
	for i := range filters {
		filters[i].Value = p.query.Get(filters[i].Name)
	}
	return filters
}

func (s *server) viewOf(f store.Failure) failureView {
	v := failureView{failureJSON: s.failureOf(f, ""),
		Fraud: f.Category == string(decline.FraudRisk) || f.Type == string(decline.Blocked)}
	v.RTL = decline.PhrasesFor(v.Message.Locale).RightToLeft
	return v
}

type historyView struct {
	Failure  failureView
	Opinions []opinionJSON
	Public   publicView
	Payment  paymentJSON
	Attempts []attemptView
	Decision retryDecision
}

// publicView is everything of the verdict that a customer can observe besides the text.
type publicView struct {
	NextStep, Field string
	RetrySame       bool
}

type attemptView struct {
	ID, Result, Code string
	At               time.Time
	Charge           string
	This             bool
}

func (s *server) failurePage(c echo.Context) error {
	p := query(c)
	if err := p.done(); err != nil {
		return err
	}
	id, err := pathID(c, "id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	f, err := s.Store.FindFailure(ctx, id, s.within(c, p))
	if err != nil {
		return err
	}
	h, err := s.Store.FindPayment(ctx, f.PaymentID, f.Source, store.Within{Account: &f.Account, Livemode: &f.Livemode})
	if err != nil {
		return err
	}
	opinions, one := s.opinions(f.Attempt), []store.Failure{f}
	if _, err := s.advise(ctx, one); err != nil {
		return err
	}
	decision, err := s.retryDecision(ctx, h)
	if err != nil {
		return err
	}
	v := historyView{Failure: s.viewOf(one[0]), Opinions: opinions, Payment: s.paymentOf(h, ""), Decision: decision}
	public := publicOf(f.PublicCode, f.PublicNextStep, f.PublicField, f.PublicRetry)
	v.Public = publicView{NextStep: string(public.NextStep), Field: string(public.Field), RetrySame: public.RetrySameMethod}
	for _, a := range h.Attempts {
		v.Attempts = append(v.Attempts, attemptView{ID: a.ID, Result: a.Result, Code: a.Code, At: a.OccurredAt, Charge: a.Charge, This: a.ID == f.ID})
	}
	return s.show(c, http.StatusOK, "failure", "Failure "+f.ID, v)
}

// opinions are what other sources say of the attempt. They are not stored: they are the catalog's, not the attempt's.
func (s *server) opinions(a store.Attempt) []opinionJSON {
	v := decline.Rules{MaxRetriesPerCharge: s.MaxRetriesPerCharge}.Classify(decline.Facts{
		Source: decline.Source(a.Source), FailureCode: a.FailureCode, ErrorCode: a.ErrorCode, DeclineCode: a.DeclineCode,
		OutcomeType: a.OutcomeType, OutcomeReason: a.OutcomeReason, NetworkStatus: a.NetworkStatus, RiskLevel: a.RiskLevel,
		AdviceCode: a.AdviceCode, NetworkAdviceCode: a.NetworkAdviceCode, NetworkDeclineCode: a.NetworkDeclineCode,
		Network: strings.ToLower(cmp.Or(a.Network, a.Brand)), MethodType: a.MethodType, ProviderType: a.ErrorType,
		CVCCheck: a.CVCCheck, PostalCheck: a.PostalCheck, AddressCheck: a.AddressCheck,
		AttemptsUsed: int(a.AttemptsUsed), FailedAt: a.OccurredAt,
	})
	return opinionsOf(v.Opinions)
}

type quarantineView struct {
	Count   int64
	Entries []store.QuarantineEntry
	Older   string
	Newest  string
}

// quarantinePage lists events that could not be used, without their bodies. They belong to no account that is known.
func (s *server) quarantinePage(c echo.Context) error {
	if principalOf(c).account != "" {
		return errNotFound
	}
	p := query(c, "starting_after")
	after := p.text("starting_after")
	if err := p.done(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	var v quarantineView
	var more bool
	var err error
	if v.Entries, more, err = s.Store.QuarantinePage(ctx, after, pageLimit); err != nil {
		return cursorFault(err)
	}
	if v.Count, err = s.Store.QuarantineCount(ctx); err != nil {
		return err
	}
	if more {
		v.Older = "/console/quarantine?starting_after=" + url.QueryEscape(v.Entries[len(v.Entries)-1].ID)
	}
	if after != "" {
		v.Newest = "/console/quarantine"
	}
	return s.show(c, http.StatusOK, "quarantine", "Quarantine", v)
}

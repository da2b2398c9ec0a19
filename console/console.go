// Package console is what the merchant sees: the /v1 API for programs, and plain pages for people. It reads what store
// holds and words it with decline; it decides nothing about a failure itself.
package console

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"rebound/store"
)

// answerTime bounds every request of this listener: a reader who waits longer has gone.
const answerTime = 10 * time.Second

// Config is what the admin listener needs.
type Config struct {
	Store *store.Store
	// Tokens open the API and the console. None: everything is open to whoever reaches the listener, so the caller must
	// have made sure that it listens on a loopback address.
	Tokens []Token
	// AccountLocales are the languages of connected accounts' customers who have said none, by acct_…
	AccountLocales map[string]string
	// ValidEmail tells whether mail would be sent to an address at all: one that a contact may have.
	ValidEmail func(address string) bool
	Livemode   bool // MODE: the mode that a customer's contact is filed under unless the request says
	// MaxRetriesPerCharge is the setting of that name, for the opinions that a failure's page shows; 0 means the default.
	MaxRetriesPerCharge int
	Health              *Health
	Metrics             prometheus.Gatherer // nil: no /metrics
	Now                 func() time.Time    // nil: time.Now
	Log                 *zap.Logger         // nil: silent
}

type server struct {
	Config
	pages *pages
	cross *http.CrossOriginProtection
}

// New returns the admin listener's handler: /v1, /openapi.json, /console, /metrics, /healthz and /readyz.
func New(c Config) http.Handler { return newServer(c).echo() }

func newServer(c Config) *server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return &server{Config: c, pages: newPages(), cross: http.NewCrossOriginProtection()}
}

func (s *server) echo() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = s.fail
	e.Use(s.bound, s.recovered, s.guard)

	v1 := e.Group("/v1")
	v1.GET("/failures", s.listFailures)
	v1.GET("/failures/:id", s.getFailure)
	v1.GET("/payments/:payment_id", s.getPayment)
	v1.GET("/payments/:payment_id/retry-decision", s.getRetryDecision)
	v1.GET("/customers/:customer/inbox", s.listInbox)
	v1.PUT("/customers/:customer/contact", s.putContact)
	v1.POST("/inbox/:id/read", s.readNotice)
	v1.GET("/decline-codes", s.listCodes)
	v1.GET("/decline-codes/:code", s.getCode)
	e.GET("/openapi.json", s.openAPI)

	if s.Health != nil {
		probe := []string{http.MethodGet, http.MethodHead}
		e.Match(probe, "/healthz", echo.WrapHandler(http.HandlerFunc(s.Health.Healthz)))
		e.Match(probe, "/readyz", echo.WrapHandler(http.HandlerFunc(s.Health.Readyz)))
	}
	if s.Metrics != nil {
		e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: answerTime})))
	}
	s.routePages(e)
	return e
}

// bound limits how long a request may take and sets the headers that hold for every answer.
func (s *server) bound(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		h := c.Response().Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", pagePolicy)
		// Not no-referrer: with it browsers send "Origin: null" on our own forms, which then look cross-site.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		return next(c)
	}
}

// recovered turns a panic into an error answer; its words go to the log alone.
func (s *server) recovered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			r := recover()
			if r == nil {
				return
			}
			if err, ok := r.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(r) // the one panic that net/http means
			}
			s.Log.Error("request.panicked", zap.String("method", c.Request().Method), zap.String("route", c.Path()), zap.Any("panic", r), zap.StackSkip("stack", 1))
			err = errPanicked
		}()
		return next(c)
	}
}

// guard decides who may ask. Every route is closed but those named here.
func (s *server) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		path := c.Path()
		if path == "" {
			path = r.URL.Path
		}
		if path == "/healthz" || path == "/readyz" {
			return next(c)
		}
		pages := path == "/console" || strings.HasPrefix(path, "/console/")
		if len(s.Tokens) == 0 {
			// A page of another site can reach a loopback address too: by a name that it makes resolve to it, or by a form.
			if !loopback(r.Host) {
				return &problem{Status: http.StatusForbidden, Code: "host_not_allowed",
					Detail: "Without API_TOKEN this server answers only requests for a loopback name or address."}
			}
			if err := s.cross.Check(r); err != nil {
				return errCrossSite
			}
			setPrincipal(c, principal{})
			return next(c)
		}
		switch {
		case path == "/", path == "/metrics", path == "/openapi.json", path == "/console/style.css":
			return next(c)
		case pages:
			if err := s.cross.Check(r); err != nil {
				return errCrossSite
			}
			return s.guardPages(c, path, next)
		}
		p, ok := s.bearer(r.Header.Get("Authorization"))
		if !ok {
			c.Response().Header().Set("WWW-Authenticate", `Bearer realm="rebound"`)
			return &problem{Status: http.StatusUnauthorized, Code: "unauthorized",
				Detail: "Send one of the tokens of API_TOKEN as `Authorization: Bearer <token>`."}
		}
		setPrincipal(c, p)
		return next(c)
	}
}

// loopback tells whether a Host header names this machine: localhost, a name below it, or a loopback address.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// within is what the caller may see, narrowed by what it asks for.
func (s *server) within(c echo.Context, p *params) store.Within {
	w := store.Within{Account: p.account(), Livemode: p.flag("livemode")}
	if who := principalOf(c); who.account != "" {
		if w.Account != nil && *w.Account != who.account {
			// No id is longer than maxID, so nothing is filed under this one: the answer is that of an account without rows.
			none := strings.Repeat("-", maxID+1)
			w.Account = &none
			return w
		}
		w.Account = &who.account
	}
	return w
}

var (
	errCrossSite = &problem{Status: http.StatusForbidden, Code: "cross_site", Detail: "Another site's page may not change anything here."}
	errPanicked  = errors.New("the handler panicked")
)

// fail turns every error into the one kind of answer that outsiders get. What it does not know says nothing.
func (s *server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	p := s.problemOf(err, c)
	if p.Status == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", "2")
	}
	var sent error
	if strings.HasPrefix(c.Request().URL.Path, "/console") {
		sent = s.pageProblem(c, p)
	} else {
		sent = writeProblem(c.Response(), p)
	}
	if sent != nil {
		s.Log.Debug("answer.not_sent", zap.String("route", c.Path()), zap.Error(sent))
	}
}

// lost tells whether a connection to Postgres ended under a question: by a word of its own, such as that it is stopped, or by none.
func lost(err error) bool {
	var said *pgconn.PgError
	var network net.Error
	if errors.As(err, &said) {
		return strings.HasPrefix(said.Code, "57P")
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}

func (s *server) problemOf(err error, c echo.Context) *problem {
	var p *problem
	var he *echo.HTTPError
	var unreachable *pgconn.ConnectError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, store.ErrNotFound):
		return errNotFound
	case errors.As(err, &tooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", Detail: "The body is larger than 16 KiB."}
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		return &problem{Status: http.StatusNotFound, Code: "no_such_route", Detail: "There is no such route; GET /openapi.json lists them."}
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		return &problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Detail: "This route does not answer this method; the Allow header lists those it does."}
	case errors.As(err, &he) && he.Code < 500:
		return &problem{Status: he.Code, Code: "invalid_request"}
	case errors.Is(err, context.Canceled) && c.Request().Context().Err() != nil:
		return &problem{Status: 499, Title: "Client Closed Request", Code: "client_closed_request"}
	}
	if !errors.Is(err, errPanicked) {
		s.Log.Error("request.failed", zap.String("method", c.Request().Method), zap.String("route", c.Path()), zap.Error(err))
	}
	if errors.As(err, &unreachable) || errors.Is(err, context.DeadlineExceeded) || lost(err) {
		return &problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "The database does not answer; try again."}
	}
	return &problem{Status: http.StatusInternalServerError, Code: "internal_error", Detail: "Something failed on this side; it is in the log."}
}

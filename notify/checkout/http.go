package checkout

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"
)

// The paths of the two routes.
const (
	EventsPath = "/v1/checkout/events"
	ScriptPath = "/checkout.js"
)

//go:embed checkout.js
var script []byte

// scriptTag is the entity tag of the module: it changes when the module does.
var scriptTag = func() string {
	sum := sha256.Sum256(script)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}()

// Register adds the stream and its browser module to the public listener, with their preflights.
func (h *Hub) Register(e *echo.Echo) {
	e.GET(EventsPath, h.events)
	e.OPTIONS(EventsPath, h.preflight)
	e.GET(ScriptPath, h.module)
	e.HEAD(ScriptPath, h.module)
	e.OPTIONS(ScriptPath, h.preflight)
	others := []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	e.Match(append(others, http.MethodHead), EventsPath, h.wrongMethod)
	e.Match(others, ScriptPath, h.wrongMethod)
}

// wrongMethod says so to a page of a listed origin too, which could not read the answer otherwise.
func (h *Hub) wrongMethod(c echo.Context) error {
	if !h.allow(c) {
		return problem(c, http.StatusForbidden)
	}
	c.Response().Header().Set("Allow", "GET, OPTIONS")
	return problem(c, http.StatusMethodNotAllowed)
}

// events is GET /v1/checkout/events.
func (h *Hub) events(c echo.Context) error {
	if !h.allow(c) {
		return problem(c, http.StatusForbidden)
	}
	secret, paymentID, ok := clientSecret(c.Request().Header)
	if !ok {
		c.Response().Header().Set("WWW-Authenticate", `Bearer realm="checkout"`)
		return problem(c, http.StatusUnauthorized)
	}
	st, err := h.open(paymentID, secret)
	if err != nil {
		// Not all at the same moment: the client adds jitter of its own.
		c.Response().Header().Set("Retry-After", "5")
		if errors.Is(err, errFull) {
			h.log.Warn("checkout.full", zap.Int("max_streams", h.maxStreams))
		}
		return problem(c, http.StatusServiceUnavailable)
	}
	defer h.leave(st)
	out, err := newWriter(c.Response())
	if err != nil {
		return err
	}
	header := c.Response().Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would collect the messages
	c.Response().WriteHeader(http.StatusOK)
	began := h.now()
	sent, reason := h.serve(c.Request().Context(), st, out,
		c.Request().Header.Get("Accept-Language"), c.Request().Header.Get("Last-Event-ID"))
	h.log.Info("checkout.ended", zap.String("payment_id", paymentID), zap.String("stream", st.id),
		zap.String("reason", reason), zap.Int("sent", sent), zap.Duration("open", h.now().Sub(began)))
	return nil
}

// module is GET /checkout.js.
func (h *Hub) module(c echo.Context) error {
	if !h.allow(c) {
		return problem(c, http.StatusForbidden)
	}
	header := c.Response().Header()
	header.Set("ETag", scriptTag)
	header.Set("Cache-Control", "public, max-age=300, stale-while-revalidate=86400")
	header.Set("Cross-Origin-Resource-Policy", "cross-origin")
	header.Set("X-Content-Type-Options", "nosniff")
	for _, tag := range strings.Split(c.Request().Header.Get("If-None-Match"), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == scriptTag || tag == "*" {
			return c.NoContent(http.StatusNotModified)
		}
	}
	return c.Blob(http.StatusOK, "text/javascript; charset=utf-8", script)
}

func (h *Hub) preflight(c echo.Context) error {
	if !h.allow(c) {
		return problem(c, http.StatusForbidden)
	}
	header := c.Response().Header()
	header.Set("Access-Control-Allow-Methods", "GET")
	header.Set("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control")
	header.Set("Access-Control-Max-Age", "600")
	return c.NoContent(http.StatusNoContent)
}

// allow tells whether the page that asks may have the answer, and says so to the browser, whatever the answer will be.
func (h *Hub) allow(c echo.Context) bool {
	header := c.Response().Header()
	header.Add("Vary", "Origin")
	origins := c.Request().Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 || !h.origins[strings.ToLower(origins[0])] {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origins[0])
	header.Set("Access-Control-Expose-Headers", "Retry-After")
	return true
}

// secretForm is a payment intent's client secret: the intent's id, then _secret_, then the secret part.
var secretForm = regexp.MustCompile(`^pi_[A-Za-z0-9_]+_secret_[A-Za-z0-9_]+$`)

const maxSecret = 255 // bytes

// clientSecret reads the one bearer token of a request. It is never looked for in the URL, which logs and referrers
// repeat.
func clientSecret(header http.Header) (secret, paymentID string, ok bool) {
	values := header.Values("Authorization")
	if len(values) != 1 {
		return "", "", false
	}
	scheme, secret, _ := strings.Cut(values[0], " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || len(secret) > maxSecret || !secretForm.MatchString(secret) {
		return "", "", false
	}
	paymentID, _, _ = strings.Cut(secret, "_secret_")
	return secret, paymentID, true
}

// problem answers an error that says no more than its status.
func problem(c echo.Context, status int) error {
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.Blob(status, "application/problem+json",
		[]byte(`{"type":"about:blank","title":"`+http.StatusText(status)+`","status":`+strconv.Itoa(status)+`}`))
}

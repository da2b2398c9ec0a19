// Package link serves the pages that a mail's links lead to: /pay/{token}, which goes on to the merchant's payment
// page, and /unsubscribe/{token}.
//
// A token is the only thing a request says; where it leads is decided by the store and by the merchant's settings,
// never by the request.
package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"rebound/decline"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var style string

var (
	page = template.Must(template.New("page.html").Parse(pageSource))
	csp  = contentPolicy(style)
)

// ErrUnknown says that a token names nothing: never minted, or its notification is gone.
var ErrUnknown = errors.New("unknown link")

// State is what a payment link is worth now.
type State string

// The states.
const (
	Open      State = "open"      // still to be paid: go to the payment page
	Recovered State = "recovered" // already paid
	Canceled  State = "canceled"  // nothing left to pay
	Expired   State = "expired"   // the link is too old
)

// Target is what a token stands for.
type Target struct {
	State        State
	PaymentID    string
	PaymentURL   string // the merchant's template with {payment_id}; see PaymentURL
	Locale       string // of the mail
	MerchantName string
	SupportEmail string // optional
}

// Tokens resolves the tokens of mails.
type Tokens interface {
	// ResolvePayment finds a payment link's target, or ErrUnknown.
	ResolvePayment(ctx context.Context, token string) (Target, error)
	// ResolveUnsubscribe finds whom a preference link speaks for, or ErrUnknown. Of the target only Locale and the
	// merchant are used. It changes nothing.
	ResolveUnsubscribe(ctx context.Context, token string) (Target, error)
	// Unsubscribe stops mail to the token's mailbox. It is idempotent.
	Unsubscribe(ctx context.Context, token string) error
}

// Handler serves the link pages.
type Handler struct {
	Tokens Tokens
	// Report is told of errors that the visitor is not; nil drops them. They hold no token.
	Report func(err error)
}

// maxToken bounds what is looked up at all; ours are 22 characters of base64url.
const maxToken = 128

// answerTime bounds what a request asks of the store: a visitor who waits longer has gone, and the server writes no answer
// after 20 s.
const answerTime = 10 * time.Second

// Register adds the routes. HEAD is answered like GET, since mail scanners use it.
func (h *Handler) Register(e *echo.Echo) {
	e.Match([]string{http.MethodGet, http.MethodHead}, "/pay/:token", h.pay, bound)
	e.Match([]string{http.MethodGet, http.MethodHead}, "/unsubscribe/:token", h.askUnsubscribe, bound)
	e.POST("/unsubscribe/:token", h.unsubscribe, bound)
}

// bound ends what is asked of the store with answerTime, or when the visitor leaves who only wanted to see. Who has pressed
// the button and leaves has still asked to hear no more.
func bound(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx := c.Request().Context()
		if c.Request().Method == http.MethodPost {
			ctx = context.WithoutCancel(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

func (h *Handler) pay(c echo.Context) error {
	guard(c)
	target, err := resolve(c, h.Tokens.ResolvePayment)
	if err != nil {
		return h.fail(c, fmt.Errorf("resolving payment link: %w", err))
	}
	switch target.State {
	case Open:
		goal, err := PaymentURL(target.PaymentURL, target.PaymentID)
		if err != nil {
			return h.fail(c, fmt.Errorf("building payment page of %s: %w", target.PaymentID, err))
		}
		return c.Redirect(http.StatusSeeOther, goal)
	case Recovered:
		return render(c, http.StatusOK, target, func(p decline.Phrases) string { return p.PageRecovered }, nil)
	case Canceled:
		return render(c, http.StatusOK, target, func(p decline.Phrases) string { return p.PageClosed }, nil)
	case Expired:
		return render(c, http.StatusGone, target, func(p decline.Phrases) string { return p.PageExpired }, nil)
	default:
		return h.fail(c, fmt.Errorf("resolving payment link: state %q is not known", target.State))
	}
}

func (h *Handler) askUnsubscribe(c echo.Context) error {
	guard(c)
	target, err := resolve(c, h.Tokens.ResolveUnsubscribe)
	if err != nil {
		return h.fail(c, fmt.Errorf("resolving preference link: %w", err))
	}
	return render(c, http.StatusOK, target, func(p decline.Phrases) string { return p.PageUnsubAsk },
		func(p decline.Phrases) string { return p.Unsubscribe })
}

// unsubscribe serves the page's own form and mail programs' one-click POST (RFC 8058) alike: it reads no body, needs
// no cookie and answers without a redirect. The token is the whole authority, and the worst that it can do is this.
func (h *Handler) unsubscribe(c echo.Context) error {
	guard(c)
	target, err := resolve(c, h.Tokens.ResolveUnsubscribe)
	if err != nil {
		return h.fail(c, fmt.Errorf("resolving preference link: %w", err))
	}
	if err := h.Tokens.Unsubscribe(c.Request().Context(), c.Param("token")); err != nil {
		return h.fail(c, fmt.Errorf("unsubscribing: %w", err))
	}
	return render(c, http.StatusOK, target, func(p decline.Phrases) string { return p.PageUnsubDone }, nil)
}

func resolve(c echo.Context, find func(context.Context, string) (Target, error)) (Target, error) {
	token := c.Param("token")
	if token == "" || len(token) > maxToken || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return Target{}, ErrUnknown
	}
	return find(c.Request().Context(), token)
}

// fail answers an error: an unknown link like an expired one, and anything else with 503, so that the visitor or the
// mail program tries again.
func (h *Handler) fail(c echo.Context, err error) error {
	nobody := Target{Locale: decline.MatchLocale(c.Request().Header.Get("Accept-Language"))}
	if errors.Is(err, ErrUnknown) {
		return render(c, http.StatusGone, nobody, func(p decline.Phrases) string { return p.PageExpired }, nil)
	}
	if h.Report != nil && !errors.Is(err, context.Canceled) { // a visitor who has left
		h.Report(err)
	}
	c.Response().Header().Set("Retry-After", "30")
	return c.String(http.StatusServiceUnavailable, "503 - try again in a minute\n")
}

// guard sets the headers of every answer, redirects included: nothing may cache, frame or index a page, and no
// Referer may carry the token to the next site.
func guard(c echo.Context) {
	header := c.Response().Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Content-Security-Policy", csp)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Robots-Tag", "noindex, nofollow")
}

// contentPolicy allows the page's one style sheet and its own form, and nothing else.
func contentPolicy(css string) string {
	sum := sha256.Sum256([]byte(css))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}

type view struct {
	Lang, Dir                      string
	Title, Merchant, Text, Support string
	Button                         string
	Style                          template.CSS
}

type pick func(decline.Phrases) string

func render(c echo.Context, status int, target Target, text, button pick) error {
	phrases := decline.PhrasesFor(decline.MatchLocale(target.Locale))
	merchant, support := target.MerchantName, target.SupportEmail
	if phrases.RightToLeft {
		// A Latin name in a right-to-left sentence drags its punctuation along unless it is isolated.
		merchant, support = "\u2068"+merchant+"\u2069", "\u2068"+support+"\u2069"
	}
	fill := func(phrase string) string { return decline.Fill(phrase, merchant, "", support) }
	v := view{
		Lang: phrases.Locale, Dir: "ltr", Merchant: target.MerchantName, Text: fill(text(phrases)),
		Style: template.CSS(style), //nolint:gosec // a constant of the build
	}
	v.Title = v.Text
	if v.Merchant != "" {
		v.Title = v.Merchant
	}
	if phrases.RightToLeft {
		v.Dir = "rtl"
	}
	if button != nil {
		v.Button = fill(button(phrases))
	}
	if target.SupportEmail != "" {
		v.Support = fill(phrases.Support)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, v); err != nil {
		return fmt.Errorf("rendering link page: %w", err)
	}
	return c.HTMLBlob(status, out.Bytes())
}

// paymentIDPlace is where a PAYMENT_URL holds the payment's id.
const paymentIDPlace = "{payment_id}"

// PaymentURL fills a merchant's PAYMENT_URL with a payment's id. The id is percent-encoded but for letters, digits and
// -._~ so that it cannot leave its place, be it in the path, the query or the fragment. The template must be an
// absolute http or https URL with the place after its host; one without a place is returned as it is.
func PaymentURL(urlTemplate, paymentID string) (string, error) {
	if err := CheckPaymentURL(urlTemplate); err != nil {
		return "", err
	}
	if strings.Trim(paymentID, ".") == "" {
		return "", errors.New("building payment URL: no payment id") // "." and ".." would climb
	}
	return strings.ReplaceAll(urlTemplate, paymentIDPlace, escape(paymentID)), nil
}

// CheckPaymentURL says what is wrong with a PAYMENT_URL, for configuration to report.
func CheckPaymentURL(urlTemplate string) error {
	if strings.ContainsFunc(urlTemplate, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }) {
		return errors.New("payment URL must be printable ASCII without spaces or backslashes")
	}
	u, err := url.Parse(strings.ReplaceAll(urlTemplate, paymentIDPlace, "id"))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		return errors.New("payment URL must be an absolute http or https URL")
	}
	_, rest, _ := strings.Cut(urlTemplate, "://")
	host := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		host, rest = rest[:end], rest[end:]
	} else {
		rest = ""
	}
	if strings.ContainsAny(host, "{}") {
		return errors.New("payment URL must have {payment_id} after its host")
	}
	if strings.ContainsAny(strings.ReplaceAll(rest, paymentIDPlace, ""), "{}") {
		return errors.New("payment URL knows no placeholder but {payment_id}")
	}
	return nil
}

func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			out.WriteByte(c)
			continue
		}
		out.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return out.String()
}

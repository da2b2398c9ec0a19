package demo

import (
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"rebound/cmd/rebound/internal/sample"
)

//go:embed pages
var pages embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"clock": func(t time.Time) string { return t.Local().Format("2 Jan 15:04:05") },
}).ParseFS(pages, "pages/*.html"))

// WebConfig is what the demo's pages need.
type WebConfig struct {
	Mailbox    *Mailbox
	Shop       *Shop
	PublicURL  string // the public listener, where checkout.js comes from
	ConsoleURL string
	Log        *zap.Logger
}

type web struct{ WebConfig }

// most mails that one page lists.
const mostListed = 200

// NewWeb makes the demo's pages: the shop under /shop, the captured mail under /mail.
func NewWeb(c WebConfig) http.Handler {
	w := &web{c}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", http.RedirectHandler("/shop", http.StatusFound))
	mux.HandleFunc("GET /style.css", w.file("pages/style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /shop.js", w.file("pages/shop.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /mail.js", w.file("pages/mail.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /shop", w.shop)
	mux.HandleFunc("POST /shop/checkout", w.checkout)
	mux.HandleFunc("POST /shop/try", w.try)
	mux.HandleFunc("GET /shop/pay/{payment}", w.payPage)
	mux.HandleFunc("POST /shop/pay/{payment}", w.pay)
	mux.HandleFunc("GET /mail", w.inbox)
	mux.HandleFunc("GET /mail/new", w.newMail)
	mux.HandleFunc("GET /mail/{id}", w.mail)
	mux.HandleFunc("GET /mail/{id}/html", w.mailHTML)
	mux.HandleFunc("GET /mail/{id}/source", w.mailSource)
	// Another site's page must not press our buttons, nor reach us under a name of its own.
	return localOnly(http.NewCrossOriginProtection().Handler(mux))
}

func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
			http.Error(rw, "this demo answers on this machine only", http.StatusMisdirectedRequest)
			return
		}
		header := rw.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(rw, r)
	})
}

func (w *web) file(name, kind string) http.HandlerFunc {
	content, err := pages.ReadFile(name)
	if err != nil {
		panic("demo: " + err.Error()) // embedded: a fault of the build
	}
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", kind)
		_, _ = rw.Write(content)
	}
}

func (w *web) render(rw http.ResponseWriter, status int, name string, data any) {
	header := rw.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self' "+w.PublicURL+
		"; connect-src 'self' "+w.PublicURL+"; img-src 'self' data:; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	rw.WriteHeader(status)
	if err := templates.ExecuteTemplate(rw, name, data); err != nil {
		w.Log.Warn("demo.page_not_rendered", zap.String("page", name), zap.Error(err))
	}
}

// frame is what every page shows around its own content.
type frame struct {
	Title, Here, PublicURL, ConsoleURL string
}

func (w *web) frame(title, here string) frame { return frame{title, here, w.PublicURL, w.ConsoleURL} }

func (w *web) shop(rw http.ResponseWriter, _ *http.Request) {
	w.render(rw, http.StatusOK, "shop.html", struct {
		frame
		Results []sample.Result
	}{w.frame("Demo shop", "shop"), sample.Results()})
}

// checkout is what a merchant's server does when the page is asked for: make a payment intent and hand out its secret.
func (w *web) checkout(rw http.ResponseWriter, _ *http.Request) {
	p := w.Shop.Checkout()
	writeJSON(rw, http.StatusOK, map[string]any{
		"payment_intent": p.Intent, "client_secret": p.ClientSecret, "amount": p.Amount, "currency": p.Currency,
	})
}

func (w *web) try(rw http.ResponseWriter, r *http.Request) {
	var body struct {
		PaymentIntent string `json:"payment_intent"`
		Result        string `json:"result"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, 4096)).Decode(&body); err != nil {
		writeJSON(rw, http.StatusBadRequest, map[string]string{"error": "not understood"})
		return
	}
	switch err := w.Shop.Try(body.PaymentIntent, body.Result); {
	case errors.Is(err, ErrPaid):
		writeJSON(rw, http.StatusConflict, map[string]string{"error": "paid already"})
	case err != nil:
		writeJSON(rw, http.StatusNotFound, map[string]string{"error": "no such payment or result"})
	default:
		writeJSON(rw, http.StatusAccepted, map[string]string{"status": "processing"})
	}
}

type payView struct {
	frame
	Payment string
	State   string // ask, paid, paid_before, unknown
}

func (w *web) payPage(rw http.ResponseWriter, r *http.Request) {
	id := r.PathValue("payment")
	if !validPaymentID(id) {
		w.render(rw, http.StatusNotFound, "pay.html", payView{w.frame("Unknown payment", "shop"), "", "unknown"})
		return
	}
	w.render(rw, http.StatusOK, "pay.html", payView{w.frame("Pay again", "shop"), id, "ask"})
}

func (w *web) pay(rw http.ResponseWriter, r *http.Request) {
	id := r.PathValue("payment")
	switch err := w.Shop.Pay(id); {
	case errors.Is(err, ErrPaid):
		w.render(rw, http.StatusOK, "pay.html", payView{w.frame("Paid", "shop"), id, "paid_before"})
	case err != nil:
		w.render(rw, http.StatusNotFound, "pay.html", payView{w.frame("Unknown payment", "shop"), "", "unknown"})
	default:
		w.render(rw, http.StatusOK, "pay.html", payView{w.frame("Paid", "shop"), id, "paid"})
	}
}

func (w *web) inbox(rw http.ResponseWriter, _ *http.Request) {
	ids, err := w.Mailbox.IDs()
	if err != nil {
		w.fail(rw, err)
		return
	}
	var mails []*Mail
	for _, id := range ids[:min(len(ids), mostListed)] {
		m, err := w.Mailbox.Read(id)
		if errors.Is(err, ErrNoMail) {
			continue // removed meanwhile
		}
		if err != nil {
			w.fail(rw, err)
			return
		}
		mails = append(mails, m)
	}
	w.render(rw, http.StatusOK, "inbox.html", struct {
		frame
		Mails []*Mail
		Count int
	}{w.frame("Captured mail", "mail"), mails, len(ids)})
}

// newMail answers when there is another number of mails than the page has, or after half a minute without.
func (w *web) newMail(rw http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(25 * time.Second)
	defer timer.Stop()
	changed := w.Mailbox.Changed() // before the count: a mail may come in between
	ids, err := w.Mailbox.IDs()
	if err != nil {
		w.fail(rw, err)
		return
	}
	if r.URL.Query().Get("have") != strconv.Itoa(len(ids)) {
		rw.WriteHeader(http.StatusOK)
		return
	}
	select {
	case <-changed:
		rw.WriteHeader(http.StatusOK)
	case <-timer.C:
		rw.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

func (w *web) mail(rw http.ResponseWriter, r *http.Request) {
	m := w.read(rw, r)
	if m == nil {
		return
	}
	w.render(rw, http.StatusOK, "mail.html", struct {
		frame
		*Mail
		Raw string
	}{w.frame(m.Subject, "mail"), m, string(m.Source)})
}

// mailHTML is the mail as a mail program shows it. It runs in a sandbox: no script, no form, no origin; its links open
// a new tab.
func (w *web) mailHTML(rw http.ResponseWriter, r *http.Request) {
	m := w.read(rw, r)
	if m == nil {
		return
	}
	header := rw.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "+
		"style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'")
	_, _ = rw.Write([]byte(withNewTabLinks(m.HTML)))
}

// withNewTabLinks makes links of a mail open beside the inbox instead of inside its frame.
func withNewTabLinks(html string) string {
	const base = `<base target="_blank">`
	lower := strings.ToLower(html)
	if i := strings.Index(lower, "<head"); i >= 0 {
		if end := strings.IndexByte(html[i:], '>'); end >= 0 {
			return html[:i+end+1] + base + html[i+end+1:]
		}
	}
	return base + html
}

func (w *web) mailSource(rw http.ResponseWriter, r *http.Request) {
	if m := w.read(rw, r); m != nil {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(m.Source)
	}
}

func (w *web) read(rw http.ResponseWriter, r *http.Request) *Mail {
	m, err := w.Mailbox.Read(r.PathValue("id"))
	if errors.Is(err, ErrNoMail) {
		http.NotFound(rw, r)
		return nil
	}
	if err != nil {
		w.fail(rw, err)
		return nil
	}
	return m
}

func (w *web) fail(rw http.ResponseWriter, err error) {
	w.Log.Warn("demo.failed", zap.Error(err))
	http.Error(rw, "that did not work; the log says why", http.StatusInternalServerError)
}

func writeJSON(rw http.ResponseWriter, status int, value any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(value)
}

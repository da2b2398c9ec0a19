package checkout_test

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rebound/notify/browsertest"
	"rebound/notify/checkout"
)

// shopPage is a merchant's checkout page on an origin of its own. It uses the element, and the module by hand.
var shopPage = template.Must(template.New("shop").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'nonce-s'; script-src {{.Server}} 'nonce-s'; connect-src {{.Server}}">
<title>Checkout</title>
<style nonce="s">
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 2rem auto; padding: 0 1rem; color: #1c1b1f }
  label { display: block; margin-top: 1rem }
  input, button { font: inherit; width: 100%; box-sizing: border-box; padding: .5em }
  button { margin: 1rem 0 }
  [aria-invalid=true] { outline: 2px solid #b3261e }
</style>
<h1>Pay 20.00 USD</h1>
<label>Card number <input name="number" value="•••• •••• •••• 0341"></label>
<label>Security code <input name="cvc" value="•••"></label>
<button>Pay</button>
<rebound-checkout client-secret="{{.Secret}}"></rebound-checkout>
<script type="module" nonce="s">
  import { listen } from '{{.Server}}/checkout.js'
  const secret = {{.Secret}}
  window.heard = []
  window.stopped = new AbortController()
  listen(secret, {
    onFailed: (f) => { heard.push(f.code); throw new Error('a bug of the page') },
    onSucceeded: () => heard.push('succeeded'),
    signal: stopped.signal,
  }).then(() => heard.push('ended'))
  listen('nonsense', {}).catch((error) => { window.refused = error.status })
  window.events = []
  document.addEventListener('rebound-failed', ({ detail }) => {
    events.push(detail)
    for (const input of document.querySelectorAll('input')) input.setAttribute('aria-invalid', input.name === detail.field)
  })
  document.addEventListener('rebound-succeeded', ({ detail }) => events.push(detail))
</script>
`))

// until waits for a condition in the page.
func until(t *testing.T, ctx context.Context, condition string) {
	t.Helper()
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](condition, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute)))
	if err != nil {
		seen, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`JSON.stringify([heard, events, shown(), window.refused])`))
		require.NoError(t, err, "waiting for %s; the page has %s", condition, seen)
	}
}

func evaluate[T any](t *testing.T, ctx context.Context, expression string, options ...chromedp.EvaluateOption) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, options...))
	require.NoError(t, err, expression)
	return v
}

// live is how the browser tells screen readers of the one alert.
func live(t *testing.T, ctx context.Context) string {
	t.Helper()
	tree, err := chromedp.Call(ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	require.NoError(t, err)
	for _, node := range tree.Nodes {
		if node.Role == nil || string(node.Role.Value) != `"alert"` {
			continue
		}
		for _, property := range node.Properties {
			if property.Name == accessibility.PropertyNameLive {
				return strings.Trim(string(property.Value.Value), `"`)
			}
		}
	}
	return ""
}

func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(t, err)
	path := filepath.Join(t.ArtifactDir(), name)
	require.NoError(t, os.WriteFile(path, png, 0o600))
	t.Logf("screenshot: %s (kept with go test -artifacts)", path)
}

func TestACheckoutPageOnAnotherOriginShowsWhatHappens(t *testing.T) {
	t.Parallel()
	ctx := browsertest.Tab(t)
	d := newDatabase(t)
	var pages atomic.Pointer[replica]
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pay" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := shopPage.Execute(w, map[string]string{"Server": pages.Load().server.URL, "Secret": secret}); err != nil {
			t.Errorf("rendering the shop: %v", err)
		}
	}))
	t.Cleanup(shop.Close)
	a := d.replica(shop.URL)
	pages.Store(a)
	now := time.Now()
	d.payment(paid, "failing", a.HashClientSecret(secret))

	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(shop.URL+"/pay")))
	require.NoError(t, chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void](`window.alertBox = () => document.querySelector('rebound-checkout').shadowRoot.querySelector('[role=alert]');
		window.shown = () => alertBox().querySelector('[part=message]')?.textContent ?? ''`)))
	require.Equal(t, "assertive", live(t, ctx))
	require.False(t, evaluate[bool](t, ctx, `alertBox().hasAttribute('aria-live')`), "MDN: beside role=alert it makes VoiceOver on iOS speak twice")
	require.Empty(t, evaluate[string](t, ctx, `shown()`), "there is nothing to tell yet")
	until(t, ctx, `window.refused === 401`)
	require.Eventually(t, func() bool { return d.presence() == 2 }, time.Minute, 20*time.Millisecond)

	d.attempt(paid, "fl_1", "insufficient_funds", now)
	d.notify(paid.PaymentID)
	until(t, ctx, `events.length === 1 && heard.length === 1`)
	states, err := a.States(t.Context(), []checkout.Key{payment})
	require.NoError(t, err)
	require.Equal(t, states[0].Public.Message("en").Text, evaluate[string](t, ctx, `shown()`))
	require.Equal(t, "en ltr", evaluate[string](t, ctx, `(({lang, dir}) => lang + ' ' + dir)(alertBox().firstChild)`))
	require.Equal(t, "false", evaluate[string](t, ctx, `document.querySelector('[name=cvc]').getAttribute('aria-invalid')`))
	require.NotEqual(t, "rgba(0, 0, 0, 0)", evaluate[string](t, ctx, `getComputedStyle(alertBox().firstChild).backgroundColor`), "styled in spite of the page's policy")
	screenshot(t, ctx, "declined.png")

	// A connection that breaks is made anew, and what was shown is not shown again.
	before := d.streams()
	a.server.CloseClientConnections()
	require.Eventually(t, func() bool {
		now := d.streams()
		return len(now) == 2 && !slices.Contains(before, now[0]) && !slices.Contains(before, now[1])
	}, time.Minute, 20*time.Millisecond)
	d.attempt(paid, "fl_2", "incorrect_cvc", now.Add(time.Second))
	d.notify(paid.PaymentID)
	until(t, ctx, `events.length === 2 && heard.length === 2`)
	require.Equal(t, "cvc", evaluate[string](t, ctx, `events[1].field`))
	require.Equal(t, "true", evaluate[string](t, ctx, `document.querySelector('[name=cvc]').getAttribute('aria-invalid')`))
	screenshot(t, ctx, "cvc.png")

	_, err = d.pool.Exec(t.Context(), `UPDATE payments SET status = 'recovered'`)
	require.NoError(t, err)
	d.notify(paid.PaymentID)
	until(t, ctx, `events.length === 3 && heard.length === 4`)
	require.Equal(t, `["insufficient_funds","incorrect_cvc","succeeded","ended"]`, evaluate[string](t, ctx, `JSON.stringify(heard)`))
	require.Empty(t, evaluate[string](t, ctx, `shown()`))
	require.Eventually(t, func() bool { return d.presence() == 0 }, time.Minute, 20*time.Millisecond)
}

func TestTheModuleFindsTheStreamBehindAPathOfAProxy(t *testing.T) {
	t.Parallel()
	ctx := browsertest.Tab(t)
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.StripPrefix("/rebound", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<!doctype html><script type="module" src="checkout.js"></script><rebound-checkout client-secret="%[1]s"></rebound-checkout>
				<rebound-checkout client-secret="%[1]s" server="%[2]s"></rebound-checkout><rebound-checkout client-secret="%[1]s" server="%[2]s/"></rebound-checkout>
				<script type="module">import { listen } from './checkout.js'; listen('%[1]s').catch(() => {})</script>`, secret, "http://"+r.Host+"/rebound")
		case "/checkout.js":
			http.ServeFile(w, r, "checkout.js")
		case "/favicon.ico":
		default:
			asked <- r.URL.Path
			w.WriteHeader(http.StatusUnauthorized)
		}
	})))
	t.Cleanup(proxy.Close)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(proxy.URL+"/rebound/page")))
	for range 4 {
		select {
		case path := <-asked:
			require.Equal(t, checkout.EventsPath, path)
		case <-time.After(20 * time.Second):
			t.Fatal("a stream was looked for elsewhere")
		}
	}
}

// stub serves a page with the given head and the element, and answers the stream by itself.
func stub(t *testing.T, head string, stream http.HandlerFunc) (page string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, `<!doctype html>%s<rebound-checkout client-secret="%s"></rebound-checkout><script type="module" src="checkout.js"></script>`, head, secret)
		case "/checkout.js":
			http.ServeFile(w, r, "checkout.js")
		case checkout.EventsPath:
			stream(w, r)
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.URL + "/page"
}

// A browser takes a time that 32 bits cannot hold for none: the page asked hundreds of times a second.
func TestALongRetryAfterIsNoneToAskAtOnceNorToGiveUp(t *testing.T) {
	t.Parallel()
	for _, after := range []string{"2592000", "3600"} {
		ctx := browsertest.Tab(t)
		page := stub(t, `<script>const real = setTimeout; window.waits = []; window.setTimeout = (f, ms) => { waits.push(ms); return real(f, ms) }</script>`,
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", after) // as a proxy may say it, for its own reasons
				w.WriteHeader(http.StatusServiceUnavailable)
			})
		require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(page)))
		until(t, ctx, `waits.some(ms => ms > 60_000)`)
		require.Less(t, evaluate[float64](t, ctx, `Math.max(...waits)`), 400_000.0)
	}
}

// oneMessage is a stream with one message.
func oneMessage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write([]byte("id: 1\nevent: payment_failed\ndata: {\"message\":\"No.\",\"locale\":\"en\"}\n\n"))
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

const messageShown = `document.querySelector('rebound-checkout').shadowRoot?.querySelector('[part=message]')?.textContent === 'No.'`

func TestAPageCanHideTheElement(t *testing.T) {
	t.Parallel()
	ctx := browsertest.Tab(t)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(stub(t, "", oneMessage))))
	until(t, ctx, messageShown)
	display := `getComputedStyle(document.querySelector('rebound-checkout')).display`
	require.Equal(t, "block", evaluate[string](t, ctx, display))
	require.Equal(t, "none", evaluate[string](t, ctx, `document.querySelector('rebound-checkout').hidden = true, `+display))
}

// Safari before 16.4 and its kin throw at it.
func TestABrowserThatMakesNoStyleSheetsShowsTheMessageAllTheSame(t *testing.T) {
	t.Parallel()
	ctx := browsertest.Tab(t)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(stub(t, `<script>
		window.CSSStyleSheet = class { constructor() { throw new TypeError('Illegal constructor') } }
	</script>`, oneMessage))))
	until(t, ctx, messageShown)
	require.Equal(t, "block", evaluate[string](t, ctx, `getComputedStyle(document.querySelector('rebound-checkout')).display`), "styled too")
}

func TestAPageThatIsNotListedCannotEvenLoadTheModule(t *testing.T) {
	t.Parallel()
	ctx := browsertest.Tab(t)
	d := newDatabase(t)
	a := d.replica()
	d.payment(paid, "failing", a.HashClientSecret(secret))
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><script type="module" src="%s/checkout.js" onload="window.loaded = true" onerror="window.loaded = false"></script>`, a.server.URL)
	}))
	t.Cleanup(shop.Close)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(shop.URL)))
	until(t, ctx, `window.loaded === false`)
	require.False(t, evaluate[bool](t, ctx, `!!customElements.get('rebound-checkout')`))
	require.Equal(t, "TypeError", evaluate[string](t, ctx, fmt.Sprintf(`fetch('%s/v1/checkout/events', {headers: {Authorization: 'Bearer %s'}}).then(() => 'answered', (e) => e.name)`, a.server.URL, secret), chromedp.EvalAwaitPromise))
	require.Zero(t, d.presence())
}

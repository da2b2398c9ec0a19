package console

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rebound/notify/browsertest"
)

// pale lists the texts whose contrast with what lies behind them is under 4.5, the least that WCAG AA allows.
const pale = `(() => {
	const rgb = s => (s.match(/[\d.]+/g) || []).map(Number);
	const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 })
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const out = [];
	for (const e of document.querySelectorAll('body *')) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
		let back = e;
		while (back && (rgb(getComputedStyle(back).backgroundColor)[3] === 0)) back = back.parentElement;
		const a = light(rgb(getComputedStyle(e).color)), b = light(rgb(getComputedStyle(back || document.body).backgroundColor));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) out.push(e.textContent.trim().slice(0, 40) + ' ' + ratio.toFixed(2));
	}
	return out.join('\n');
})()`

// TestThePagesInABrowser walks through the console as a person does, under its own content policy; `go test -artifacts`
// keeps the pictures.
func TestThePagesInABrowser(t *testing.T) {
	t.Parallel()
	tab := browsertest.Tab(t)
	b := setup(t)
	b.staged()
	evaluate := func(js string) string {
		v, err := chromedp.Run(tab, chromedp.Evaluate[string](js))
		require.NoError(t, err)
		return v
	}
	theme := func(name string) {
		_, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
		require.NoError(t, err)
	}
	look := func(name string, width int64) {
		require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(width, 900)))
		for _, scheme := range []string{"light", "dark"} {
			theme(scheme)
			require.Empty(t, evaluate(pale), "%s, %s", name, scheme)
			picture, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name+"-"+scheme+".png"), picture, 0o600))
		}
		wide, err := chromedp.Run(tab, chromedp.Evaluate[int64]("document.documentElement.scrollWidth"))
		require.NoError(t, err)
		require.LessOrEqual(t, wide, width, "%s does not fit its window", name)
	}
	follow := func(action chromedp.Action[chromedp.Void]) {
		_, err := chromedp.Run(tab, chromedp.WaitEvent(page.LoadEventFired, nil, action))
		require.NoError(t, err)
	}

	require.NoError(t, chromedp.Do(tab, chromedp.Navigate(b.server.URL+"/console/failures/fl_fraud")))
	require.Equal(t, "Log in", evaluate("document.querySelector('h1').innerText"))
	require.Equal(t, "token", evaluate("document.activeElement.id"))
	require.NoError(t, chromedp.Do(tab, chromedp.SendKeys(chromedp.ID("token"), "wrong")))
	follow(chromedp.Click(chromedp.CSS("main button")))
	require.Equal(t, "alert", evaluate("document.getElementById('wrong').getAttribute('role')"))
	look("login", 800)
	require.NoError(t, chromedp.Do(tab, chromedp.SendKeys(chromedp.ID("token"), allToken)))
	follow(chromedp.Click(chromedp.CSS("main button")))
	require.Equal(t, "/console/failures/fl_fraud", evaluate("location.pathname"), "where the person wanted to go")
	require.Empty(t, evaluate("document.cookie"), "no script can read the session")
	require.Contains(t, evaluate("document.body.innerText"), "For staff only.")
	require.Equal(t, "9.6px", evaluate("getComputedStyle(document.querySelector('.card')).borderTopLeftRadius"), "the policy lets the style sheet in")
	look("failure-fraud", 1280)
	follow(chromedp.Click(chromedp.CSS(".brand")))
	look("failures", 1280)
	look("failures-narrow", 390)
	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(1280, 900), chromedp.SetValue(chromedp.ID("f-status"), "failing"),
		chromedp.SendKeys(chromedp.ID("f-payment_id"), "pi_3Q9xRenewal")))
	follow(chromedp.Click(chromedp.CSS(".filters button")))
	require.Equal(t, "2", evaluate("String(document.querySelectorAll('.failure').length)"))
	follow(chromedp.Click(chromedp.CSS(".failure:last-child .amount")))
	look("failure", 1280)
	look("failure-narrow", 390)
	follow(chromedp.Click(chromedp.CSS("nav a[href='/console/quarantine']")))
	look("quarantine", 1280)
	follow(chromedp.Click(chromedp.CSS("header form button")))
	require.Equal(t, "/console/login", evaluate("location.pathname"))
	require.NoError(t, chromedp.Do(tab, chromedp.Navigate(b.server.URL+"/console")))
	require.Equal(t, "/console/login", evaluate("location.pathname"), "the session is over")
	require.Equal(t, http.StatusOK, b.page("/console/style.css", "").status)
}

package email

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/notify/browsertest"
)

// TestTheMailFitsAPhoneAndADesktop draws the mail; `go test -artifacts` keeps the pictures.
func TestTheMailFitsAPhoneAndADesktop(t *testing.T) {
	t.Parallel()
	tab := browsertest.Tab(t)
	for _, locale := range []string{"en", "de", "ar", "fi"} {
		m := sample()
		m.Locale = decline.MatchLocale(locale)
		if locale == "ar" || locale == "fi" { // no spaces to break it at
			m.Amount, m.Currency = 9_876_543_210, "kwd"
		}
		message, err := Render(m)
		require.NoError(t, err)
		var requests atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/favicon.ico" {
				requests.Add(1)
			}
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(message.HTML))
		}))
		for _, width := range []int64{320, 640} {
			for _, scheme := range []string{"light", "dark"} {
				requests.Store(0)
				_, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				require.NoError(t, err)
				require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(width, 1000), chromedp.Navigate(server.URL)))
				outside, err := chromedp.Run(tab, chromedp.Evaluate[int64](`[...document.body.querySelectorAll('*')].filter(e => {
					const box = e.getBoundingClientRect();
					return box.left < 0 || box.right > innerWidth;
				}).length`))
				require.NoError(t, err)
				require.Zero(t, outside, "%s at %d px runs over the edge", locale, width)
				height, err := chromedp.Run(tab, chromedp.Evaluate[float64](`document.querySelector('a[href*="/pay/"]').getBoundingClientRect().height`))
				require.NoError(t, err)
				require.GreaterOrEqual(t, height, 44.0, "the button must fit a thumb")
				require.EqualValues(t, 1, requests.Load(), "the mail fetches nothing")
				picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot()) // a full one shifts right-to-left pages
				require.NoError(t, err)
				name := m.Locale + "-" + strconv.FormatInt(width, 10) + "-" + scheme + ".png"
				require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name), picture, 0o600))
			}
		}
		server.Close()
	}
}

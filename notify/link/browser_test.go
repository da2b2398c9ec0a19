package link

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/notify/browsertest"
)

// TestTheUnsubscribePageWorksInABrowser clicks through the page under its own content policy; `go test -artifacts`
// keeps the pictures.
func TestTheUnsubscribePageWorksInABrowser(t *testing.T) {
	t.Parallel()
	tab := browsertest.Tab(t)
	shoot := func(name string) {
		picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name+".png"), picture, 0o600))
	}

	for i, locale := range []string{"en", "ar"} {
		target := sample(Open)
		target.Locale = decline.MatchLocale(locale)
		target.SupportEmail = "kundenservice@teeversandhandel.example" // no spaces to break it at
		s := setup(t, target)
		width := int64(360 + 400*i)
		require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(width, 560), chromedp.Navigate(s.url+"/unsubscribe/"+goodToken)))
		radius, err := chromedp.Run(tab, chromedp.Evaluate[string]("getComputedStyle(document.querySelector('main')).borderTopLeftRadius"))
		require.NoError(t, err)
		require.Equal(t, "14px", radius, "the policy lets the style sheet in")
		wide, err := chromedp.Run(tab, chromedp.Evaluate[int64]("document.documentElement.scrollWidth"))
		require.NoError(t, err)
		require.LessOrEqual(t, wide, width)
		shoot("ask-" + target.Locale + "-" + strconv.FormatInt(width, 10))

		done := decline.PhrasesFor(target.Locale).PageUnsubDone
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS("button")), chromedp.WaitNotPresent(chromedp.CSS("form"))))
		text, err := chromedp.Run(tab, chromedp.Evaluate[string]("document.querySelector('h1').innerText"))
		require.NoError(t, err)
		require.Equal(t, done, text)
		require.Equal(t, []string{goodToken}, s.unsubscribed)
		shoot("done-" + target.Locale + "-" + strconv.FormatInt(width, 10))
	}
}

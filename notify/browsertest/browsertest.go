// Package browsertest gives tests a real Chromium.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience is how long a test may take with its tab.
const patience = 3 * time.Minute

// Tab opens a tab of a private Chromium, which ends with the test. Where there is none the test is skipped, and fails in CI.
func Tab(t testing.TB) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		const missing = "no Chromium on this machine: what a browser makes of the page was not looked at"
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en-US"))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	tab, closeTab := chromedp.NewContext(allocator)
	tab, expire := context.WithTimeout(tab, patience)
	t.Cleanup(func() { // not by t.Context, which ends before: Chromium is to have left its folder when that is removed
		_ = chromedp.Cancel(tab)
		expire()
		closeTab()
		stop()
	})
	return tab
}

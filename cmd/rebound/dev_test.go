package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rebound/notify/browsertest"
	"rebound/store/localpg"
)

// output collects what a command prints and lets a test wait for a part of it.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write keeps what was printed.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

// String is all that was printed so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// find waits until a pattern has been printed and returns its first group. It gives up when ended is closed.
func (o *output) find(t *testing.T, pattern string, ended <-chan struct{}) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		o.mu.Lock()
		changed, found := o.changed, re.FindSubmatch(o.text.Bytes())
		o.mu.Unlock()
		if found != nil {
			return string(found[1])
		}
		select {
		case <-changed:
		case <-ended:
			require.FailNow(t, "the command ended early", o.String())
		case <-t.Context().Done():
			require.FailNow(t, "nothing printed matches", "%s in %s", pattern, o.String())
		}
	}
}

// command is a program that runs inside the test.
type command struct {
	stdout, stderr *output
	cancel         context.CancelFunc
	done           chan struct{}
	err            error
}

func start(t *testing.T, environ []string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{stdout: newOutput(), stderr: newOutput(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = run(ctx, args, environ, c.stdout, c.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.done
		if t.Failed() {
			t.Log(c.stderr.String())
		}
	})
	return c
}

// dataDirectory is a DATA_DIR that the private Postgres's own user can reach; t.TempDir lies below a closed directory.
func dataDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rebound-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func shoot(t *testing.T, tab context.Context, name string) {
	t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		require.NoError(t, err)
		picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name+"-"+scheme+".png"), picture, 0o600))
	}
}

// TestDevShowsAFailedPaymentToEverybodyConcerned boots the whole system with nothing set up. `go test -artifacts` keeps
// the pictures.
func TestDevShowsAFailedPaymentToEverybodyConcerned(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0") // another program sits on the port that we are to use
	require.NoError(t, err)
	defer taken.Close()
	dir := dataDirectory(t)
	environ := []string{
		"DATA_DIR_FILE=" + fileWith(t, dir), "LISTEN_ADDR_FILE=" + fileWith(t, taken.Addr().String()),
		"ADMIN_ADDR_FILE=" + fileWith(t, "127.0.0.1:0"), "CHECKOUT_ORIGINS_FILE=" + fileWith(t, "https://shop.example"),
		"LOG_LEVEL=info", "SMTP_URL_FILE=/nowhere/at/all",
	}
	c := start(t, environ, "dev", "--no-download", "--shop", "127.0.0.1:0")
	select {
	case <-c.done:
		if errors.Is(c.err, localpg.ErrNoPostgres) && os.Getenv("CI") == "" {
			t.Skip("no PostgreSQL on this machine: dev was not started")
		}
		require.NoError(t, c.err)
	case <-waitFor(c.stdout, "Data "):
	}
	shop := c.stdout.find(t, `Demo shop +(http://\S+)/shop`, c.done)
	api := c.stdout.find(t, `Merchant API +(http://\S+)`, c.done)
	token := c.stdout.find(t, `Authorization: Bearer (\S+)`, c.done)
	require.Contains(t, c.stderr.String(), taken.Addr().String()+" is taken by another program")
	require.Contains(t, c.stderr.String(), "SMTP_URL is not used")

	t.Run("a second one refuses", func(t *testing.T) {
		second := start(t, environ, "dev", "--no-download", "--shop", "127.0.0.1:0")
		<-second.done
		require.ErrorContains(t, second.err, fmt.Sprintf("another rebound dev (process %d)", os.Getpid()))
		require.Equal(t, 1, exitCode(second.err))
	})
	t.Run("customers who were away have mail", func(t *testing.T) {
		for range 3 { // expired card, authentication, bank debit
			c.stderr.find(t, `(notification.sent)`, c.done)
		}
		waitMails(t, shop, 3)
	})
	t.Run("staff can read the failures", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api+"?limit=100", http.NoBody)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		var list struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&list))
		require.Len(t, list.Data, 8, "one failure for each case")
	})
	t.Run("a page shows the decline as it happens", func(t *testing.T) { seeInBrowser(t, shop) })

	secrets, err := os.Stat(filepath.Join(dir, devSecretsFile))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, secrets.Mode().Perm())
	for _, secret := range []string{token, "whsec_dev_"} {
		require.NotContains(t, c.stderr.String(), secret, "the log holds no secret")
	}
	require.NotContains(t, c.stderr.String(), "@example.com", "the log holds no address")
	require.NotContains(t, c.stderr.String(), "_secret_", "the log holds no client secret")
	require.NotContains(t, c.stderr.String(), `"level":"error"`)
	c.cancel()
	<-c.done
	require.NoError(t, c.err)
	require.Contains(t, c.stderr.String(), "server.stopped")
	unlock, err := lockFile(filepath.Join(dir, "dev.lock"))
	require.NoError(t, err, "the directory is free again")
	unlock()
}

func TestDevMakesNothingOfABadConfiguration(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for set, want := range map[string][]string{
		"NOTIFY_HOLD=soon":                                 {`NOTIFY_HOLD: "soon" is not a duration`},
		"LISTEN_ADDR=garbage":                              {`LISTEN_ADDR: "garbage" is not host:port`},
		"ADMIN_ADDR=no..such:80":                           {`ADMIN_ADDR: "no..such:80" cannot be resolved`},
		"LISTEN_ADDR_FILE=/nowhere\x00MODE=x":              {"LISTEN_ADDR_FILE: there is no file", `MODE: "x"`},
		"LISTEN_ADDR=127.0.0.1:0\x00LISTEN_ADDR_FILE=/two": {"LISTEN_ADDR: is given twice"},
		"API_TOKEN=tök":                                    {"API_TOKEN: item 1 of 1"},
		// White space is no value: dev's own default stands for it, not serve's, which is MODE=live and no key at all.
		"MODE= \x00ENCRYPTION_KEY=\t\x00RETENTION_FAILURES=1h\x00ADMIN_ADDR=no..such:80": {`ADMIN_ADDR: "no..such:80"`},
	} {
		environ := append(strings.Split(set, "\x00"), "DATA_DIR="+dir)
		_, _, err := call(t, environ, "dev", "--no-download", "--shop", "127.0.0.1:0")
		var lines configFaults
		require.ErrorAs(t, err, &lines, set)
		require.Len(t, lines, len(want), set)
		for i := range want {
			require.Contains(t, lines[i], want[i], set)
		}
	}
	_, err := os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// waitFor closes the channel when something has been printed.
func waitFor(o *output, text string) <-chan struct{} {
	found := make(chan struct{})
	go func() {
		for {
			o.mu.Lock()
			changed, has := o.changed, strings.Contains(o.text.String(), text)
			o.mu.Unlock()
			if has {
				close(found)
				return
			}
			<-changed
		}
	}()
	return found
}

// waitMails asks the captured mail until it lists n, and lets it say when there is more.
func waitMails(t *testing.T, shop string, n int) {
	t.Helper()
	for {
		answer, err := http.Get(shop + "/mail") //nolint:noctx // a test's own server
		require.NoError(t, err)
		page, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		require.NoError(t, err)
		if strings.Count(string(page), "did not go through") >= n {
			return
		}
		have := regexp.MustCompile(`data-have="(\d+)"`).FindStringSubmatch(string(page))
		require.NotNil(t, have)
		waiting, err := http.Get(shop + "/mail/new?have=" + have[1]) //nolint:noctx // the same
		require.NoError(t, err)
		_ = waiting.Body.Close()
		require.Equal(t, http.StatusOK, waiting.StatusCode, "no mail came for 25 s")
	}
}

func seeInBrowser(t *testing.T, shop string) {
	tab := browsertest.Tab(t)
	message := `(document.querySelector('rebound-checkout')?.shadowRoot?.textContent ?? '')`
	waitText := func(text string) {
		t.Helper()
		_, err := chromedp.Run(tab, chromedp.Poll[bool](message+".includes("+quoted(text)+")"))
		require.NoError(t, err)
	}
	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(1100, 900), chromedp.Navigate(shop+"/shop")))
	waitText("There was not enough money")
	shoot(t, tab, "shop-declined")

	pick := func(result string) {
		t.Helper()
		_, err := chromedp.Run(tab, chromedp.Evaluate[bool](`(() => {
			document.querySelector('input[value=`+result+`]').checked = true
			document.getElementById('pay').click()
			return true
		})()`))
		require.NoError(t, err)
	}
	pick("wrong-cvc")
	waitText("security code")
	pick("stolen-card")
	_, err := chromedp.Run(tab, chromedp.Poll[bool](`!(`+message+`).includes('security code') && (`+message+`) !== ''`))
	require.NoError(t, err)
	text, err := chromedp.Run(tab, chromedp.Evaluate[string](message))
	require.NoError(t, err)
	require.Contains(t, text, "Your payment did not go through", "a stolen card reads like any decline")
	require.NotContains(t, strings.ToLower(text), "stolen")
	pick("success")
	_, err = chromedp.Run(tab, chromedp.Poll[bool](`!document.getElementById('done').hidden`))
	require.NoError(t, err)
	shoot(t, tab, "shop-paid")

	require.NoError(t, chromedp.Do(tab, chromedp.Navigate(shop+"/mail")))
	shoot(t, tab, "inbox")
	href, err := chromedp.Run(tab, chromedp.Evaluate[string](`document.querySelector('.list a').href`))
	require.NoError(t, err)
	require.NoError(t, chromedp.Do(tab, chromedp.Navigate(href), chromedp.WaitVisible(chromedp.CSS("iframe.mail"))))
	shoot(t, tab, "mail")
	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(360, 740), chromedp.Navigate(shop+"/shop?try=no")))
	wide, err := chromedp.Run(tab, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`))
	require.NoError(t, err)
	require.False(t, wide, "the shop fits a phone")
	shoot(t, tab, "shop-phone")
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}

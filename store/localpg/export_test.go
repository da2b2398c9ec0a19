//go:build linux || darwin

package localpg

import (
	"context"
	"net/http"
	"time"
)

// CheckRedirect is the rule of downloads about redirects.
func CheckRedirect(from, to string) error {
	via, err := http.NewRequest(http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodGet, to, nil)
	if err != nil {
		return err
	}
	return checkRedirect(req, []*http.Request{via})
}

// Fetch is fetch for a new data directory and our own user.
func Fetch(ctx context.Context, cfg Config) (string, error) {
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	o, err := ownerOf("")
	if err != nil {
		return "", err
	}
	b, err := fetch(ctx, cfg, o, 0)
	return b.dir, err
}

// WithIdleTimeout sets how long a download may pause.
func (c Config) WithIdleTimeout(d time.Duration) Config {
	c.idleTimeout = d
	return c
}

// ArchivePath is the path below the repository's base that is asked for.
func ArchivePath(cfg Config) string {
	cfg.SourceURL = "https://repository.test"
	a, err := artifactFor(cfg, 0)
	if err != nil {
		panic(err)
	}
	return a.url[len(cfg.SourceURL):]
}

// Locate is what Start searches with no configuration.
func Locate(ctx context.Context) (dir, version string, err error) {
	o, err := ownerOf("")
	if err != nil {
		return "", "", err
	}
	b, err := find(ctx, Config{Log: func(string, ...any) {}, SourceURL: DefaultSourceURL}, o, 0)
	return b.dir, b.version, err
}

// FindFor is find with an existing data directory's major.
func FindFor(ctx context.Context, cfg Config, major int) error {
	cfg.Log = func(string, ...any) {}
	o, err := ownerOf("")
	if err != nil {
		return err
	}
	_, err = find(ctx, cfg, o, major)
	return err
}

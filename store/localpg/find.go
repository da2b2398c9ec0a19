//go:build linux || darwin

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// binaries is one usable installation.
type binaries struct {
	dir     string // holds initdb and postgres
	version string // "15.18"
	major   int
	how     string // "found on PATH", "fetched from …"
}

func (b binaries) String() string {
	return fmt.Sprintf("PostgreSQL %s %s (%s)", b.version, b.how, b.dir)
}

func (b binaries) initdb() string   { return filepath.Join(b.dir, "initdb") }
func (b binaries) postgres() string { return filepath.Join(b.dir, "postgres") }

// versioned are the places where packages put versions side by side.
var versioned = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/pgsql-*/bin",                  // the PostgreSQL project's packages for Red Hat
	"/usr/libexec/postgresql*",          // Alpine
	"/usr/lib/postgresql*/bin",          // SUSE
	"/usr/lib64/postgresql-*/bin",       // Gentoo
	"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
	"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/Library/PostgreSQL/*/bin",
}

// find returns the installation to use. major is that of an existing data
// directory, which no other version can open, or 0. Every candidate must run as
// the server's user, so one below a closed home directory does not count.
func find(ctx context.Context, cfg Config, owner owner, major int) (binaries, error) {
	if dir, name := cfg.BinDir, "the given binary directory"; dir != "" || os.Getenv(BinEnv) != "" {
		if dir == "" {
			dir, name = os.Getenv(BinEnv), BinEnv
		}
		b, err := inspect(ctx, owner, dir, "from "+name)
		if err == nil {
			err = b.fits(major)
		}
		if err != nil {
			return binaries{}, &MissingError{Reason: fmt.Errorf("%s=%s is not usable: %w", name, dir, err)}
		}
		return b, nil
	}

	var rejected []string
	try := func(dir, how string) (binaries, bool) {
		b, err := inspect(ctx, owner, dir, how)
		if err == nil {
			err = b.fits(major)
		}
		if err != nil {
			rejected = append(rejected, fmt.Sprintf("%s: %v", dir, err))
		}
		return b, err == nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// A link in a directory of its own, as /usr/local/bin/postgres: initdb
		// lives beside what it points to.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			if b, ok := try(filepath.Dir(real), "found on PATH"); ok {
				return b, nil
			}
		}
	}
	if b, ok := newest(installed(), func(dir string) (binaries, bool) { return try(dir, "found on this machine") }); ok {
		return b, nil
	}
	for _, r := range rejected {
		cfg.Log("not using %s", r)
	}
	b, err := fetch(ctx, cfg, owner, major)
	if err != nil {
		if ctx.Err() != nil {
			return binaries{}, fmt.Errorf("fetching PostgreSQL: %w", ctx.Err())
		}
		if len(rejected) > 0 {
			err = fmt.Errorf("%w (not usable: %s)", err, strings.Join(rejected, "; "))
		}
		return binaries{}, &MissingError{Reason: err}
	}
	return b, nil
}

func installed() []string {
	var dirs []string
	for _, pattern := range versioned {
		found, _ := filepath.Glob(pattern) // the patterns are constant and well formed
		for _, dir := range found {
			if executable(filepath.Join(dir, "postgres")) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func newest(dirs []string, try func(string) (binaries, bool)) (binaries, bool) {
	var usable []binaries
	for _, dir := range dirs {
		if b, ok := try(dir); ok {
			usable = append(usable, b)
		}
	}
	if len(usable) == 0 {
		return binaries{}, false
	}
	return slices.MaxFunc(usable, func(a, b binaries) int { return a.major - b.major }), true
}

func (b binaries) fits(major int) error {
	if b.major < MinMajor {
		return fmt.Errorf("it is PostgreSQL %s, older than %d", b.version, MinMajor)
	}
	if major != 0 && b.major != major {
		return fmt.Errorf("it is PostgreSQL %s, and the data directory was made by %d", b.version, major)
	}
	return nil
}

// versionLine is what `postgres --version` prints: "postgres (PostgreSQL) 15.18
// (Debian …)", or "18beta1" and "19devel" for what is not released.
var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)(?:\.\d+)*\S*)`)

// inspect runs both programs as the server's user: what cannot be run, lacks a
// library or is hidden from that user is no candidate.
func inspect(ctx context.Context, owner owner, dir, how string) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	b := binaries{dir: dir, how: how}
	for _, program := range []string{b.postgres(), b.initdb()} {
		if !executable(program) {
			return binaries{}, fmt.Errorf("%s is missing or not executable", filepath.Base(program))
		}
		if err := owner.reach(program); err != nil {
			return binaries{}, err
		}
		out, err := output(owner.command(ctx, "/", program, "--version"))
		if err != nil {
			return binaries{}, fmt.Errorf("running %s --version: %w: %s", filepath.Base(program), err, firstLine(out))
		}
		m := versionLine.FindSubmatch(out)
		if m == nil {
			return binaries{}, fmt.Errorf("%s does not tell its version", filepath.Base(program))
		}
		if b.version != "" && b.version != string(m[1]) {
			return binaries{}, fmt.Errorf("postgres is version %s, but initdb is %s", b.version, m[1])
		}
		b.version = string(m[1])
		b.major, _ = strconv.Atoi(string(m[2])) // digits, by the expression
	}
	return b, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// dataMajor reads the major version that made a data directory; 0 when there is
// none yet.
func dataMajor(dataDir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the data directory's version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("reading the data directory's version: %s/PG_VERSION holds no number", dataDir)
	}
	return major, nil
}

// Package localpg runs a private PostgreSQL server for one user on one machine:
// what `rebound dev` stands on when no DATABASE_URL is given, and what the tests
// use. It finds the server's binaries, or fetches a pinned version once, makes a
// cluster that nobody else can reach (Unix socket, peer authentication, no
// password, no port), and stops it with the program, also when the program is
// killed. It is not meant for production.
package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// Role is the database role of the private server, its superuser and owner.
	Role = "rebound"
	// Database is the database that a private server has from the start, besides
	// PostgreSQL's own `postgres`. An ephemeral one has the latter alone.
	Database = "rebound"
	// BinEnv names the environment variable that points to a directory with
	// initdb and postgres. Config.BinDir goes before it.
	BinEnv = "REBOUND_POSTGRES_BIN"
	// MinMajor is the oldest PostgreSQL that Rebound works with.
	MinMajor = 14

	// port is part of the socket's file name only; nothing listens on TCP.
	port = "5432"
)

// Config says where a private server lives and where it comes from. The zero
// value works: it keeps its state under DefaultDataDir and fetches PostgreSQL if
// there is none.
type Config struct {
	// DataDir is the directory that holds everything Rebound keeps on a machine;
	// the server uses its subdirectory `postgres`. Empty: DefaultDataDir, or a new
	// temporary directory when Ephemeral. It is created if absent. As root, search
	// permission for others is added to DataDir itself (never to its parents),
	// because the server runs as another user.
	DataDir string
	// BinDir is a directory with initdb and postgres. When it is set (or BinEnv
	// is), nothing else is searched and nothing is fetched.
	BinDir string
	// NoDownload refuses to fetch PostgreSQL when the machine has none.
	NoDownload bool
	// SourceURL is the base of the Maven repository to fetch from. Empty:
	// DefaultSourceURL. It must be https, except on a loopback host. The archive is
	// held against the checksum that the repository publishes beside it.
	SourceURL string
	// FetchVersion is the artifact version to fetch ("17.6.0"). Empty: the version
	// pinned for the data directory's major, else the newest pinned.
	FetchVersion string
	// CacheDir keeps fetched versions. Empty: DefaultCacheDir.
	CacheDir string
	// Log receives single lines about what happens. Nil: silence.
	Log func(format string, args ...any)
	// Progress receives the progress of a download: a bar when it is a terminal,
	// a few lines otherwise. Nil: none.
	Progress io.Writer
	// Ephemeral is for tests: no fsync, and everything is removed at Stop.
	Ephemeral bool
	// Settings are server parameters (postgresql.conf names) that override ours.
	Settings map[string]string

	idleTimeout time.Duration // longest pause inside a download; 0: 30 s
}

// Server is a running private PostgreSQL.
type Server struct {
	bin       binaries
	dataDir   string // PostgreSQL's own data directory
	socketDir string
	pid       int
	done      chan struct{}
	stop      func(context.Context) error
}

// Start finds or fetches PostgreSQL, makes a cluster on the first run, starts it
// and returns when it accepts connections. ctx bounds the start alone. A data
// directory that another process serves gives an error that is ErrRunning;
// missing binaries give one that is ErrNoPostgres and whose text tells what to
// install or set.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.SourceURL == "" {
		cfg.SourceURL = DefaultSourceURL
	}
	return start(ctx, cfg)
}

// DSN returns the connection string of a database on this server, as a URL. It
// holds no secret: the socket's peer is checked by the kernel.
func (s *Server) DSN(database string) string {
	query := url.Values{"host": {s.socketDir}, "port": {port}}.Encode()
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(Role),
		Path:     "/" + database,
		RawQuery: strings.ReplaceAll(query, "+", "%20"), // Postgres' connection strings know no + for a space
	}
	return u.String()
}

// Found says in a few words which version runs and where its binaries came from.
func (s *Server) Found() string { return s.bin.String() }

// DataDir returns PostgreSQL's own data directory.
func (s *Server) DataDir() string { return s.dataDir }

// PID returns the process id of the postmaster.
func (s *Server) PID() int { return s.pid }

// Done is closed when the server has ended, by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop shuts the server down: sessions are ended, everything is written. When
// ctx ends first, it is made to stop at once, which costs a recovery at the next
// start and loses nothing. Further calls return the first one's result.
func (s *Server) Stop(ctx context.Context) error { return s.stop(ctx) }

// ErrRunning is what errors.Is finds when a data directory is already served.
var ErrRunning = errors.New("already running")

// RunningError says which process uses a data directory.
type RunningError struct {
	DataDir string
	PID     int // 0: unknown
}

// Error names the directory and the process.
func (e *RunningError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another rebound is already running on %s", e.DataDir)
	}
	return fmt.Sprintf("another rebound is already running on %s (process %d)", e.DataDir, e.PID)
}

// Is makes errors.Is(err, ErrRunning) true.
func (e *RunningError) Is(target error) bool { return target == ErrRunning }

// ErrNoPostgres is what errors.Is finds when there are no usable binaries and
// none could be fetched.
var ErrNoPostgres = errors.New("no PostgreSQL")

// MissingError says that there is no PostgreSQL to run, why, and what to do.
type MissingError struct {
	Reason error
}

// Error is one message of several lines: the reason, and a way out per system.
func (e *MissingError) Error() string {
	return fmt.Sprintf(`PostgreSQL %d or newer is needed and was not found on this machine: %v.
Do one of these, then run the command again:
  Debian, Ubuntu   sudo apt-get install postgresql
  Fedora           sudo dnf install postgresql-server
  RHEL 8, 9        sudo dnf module install postgresql:16/server
  Alpine           sudo apk add postgresql17
  Arch             sudo pacman -S postgresql
  macOS            brew install postgresql@17
  elsewhere        set %s to a directory with initdb and postgres
  your own server  set DATABASE_URL=postgres://user:password@host:5432/rebound
  containers       docker compose up (docker-compose.yml brings its own PostgreSQL)`, MinMajor, e.Reason, BinEnv)
}

// Is makes errors.Is(err, ErrNoPostgres) true.
func (e *MissingError) Is(target error) bool { return target == ErrNoPostgres }

// Unwrap gives the reason.
func (e *MissingError) Unwrap() error { return e.Reason }

// DefaultDataDir returns where Rebound keeps its state when DATA_DIR is not set:
// /var/lib/rebound for root (root's home is closed to the server's user), on
// macOS the user's Application Support, elsewhere XDG_STATE_HOME or
// ~/.local/state, each with a directory `rebound`.
func DefaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/rebound", nil
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("finding the state directory (set DATA_DIR): %w", err)
		}
		return filepath.Join(dir, "rebound"), nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rebound"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the state directory (set DATA_DIR): %w", err)
	}
	return filepath.Join(home, ".local", "state", "rebound"), nil
}

// DefaultCacheDir returns where fetched versions are kept: /var/cache/rebound
// for root, else `rebound` in the user's cache directory.
func DefaultCacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/rebound", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w", err)
	}
	return filepath.Join(dir, "rebound"), nil
}

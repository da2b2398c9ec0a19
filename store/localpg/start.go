//go:build linux || darwin

package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxSocketDir keeps directory + "/.s.PGSQL.5432" below the 104 bytes of a
	// socket address on macOS (108 on Linux).
	maxSocketDir = 88
	// maxLog is the size at which the server's log starts afresh, in bytes.
	maxLog = 8 << 20
	// poll is how often a state that only a file shows is looked at.
	poll = 10 * time.Millisecond
)

// Names below DataDir/postgres. That directory and its files stay ours; only
// data and run belong to the server's user, so nothing running as that user can
// lay a link for root to follow.
const (
	lockName  = "lock" // held (flock) for as long as a process of ours uses the directory
	logName   = "server.log"
	hbaName   = "pg_hba.conf"
	identName = "pg_ident.conf"
	dataName  = "data" // PostgreSQL's data directory
	runName   = "run"  // the socket
)

// cluster is one start under way.
type cluster struct {
	cfg       Config
	owner     owner
	base      string // DataDir/postgres
	data      string
	socketDir string
	cleanup   []func() // undone in reverse order, when the start fails or the server stops
}

func start(ctx context.Context, cfg Config) (srv *Server, err error) {
	c := &cluster{cfg: cfg}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	major, err := dataMajor(c.data)
	if err != nil {
		return nil, err
	}
	bin, err := find(ctx, cfg, c.owner, major)
	if err != nil {
		return nil, err
	}
	cfg.Log("private PostgreSQL: %s", bin)
	if major == 0 {
		if err := c.initialise(ctx, bin); err != nil {
			return nil, fmt.Errorf("making a database cluster in %s: %w", c.data, err)
		}
	}
	if err := c.configure(); err != nil {
		return nil, fmt.Errorf("configuring the database cluster in %s: %w", c.data, err)
	}
	return c.launch(ctx, bin)
}

func (c *cluster) release() {
	for i := len(c.cleanup) - 1; i >= 0; i-- {
		c.cleanup[i]()
	}
	c.cleanup = nil
}

// prepare makes the directories, takes the lock, and sees to a server that was
// left running.
func (c *cluster) prepare(ctx context.Context) error {
	dir := c.cfg.DataDir
	if dir == "" && c.cfg.Ephemeral {
		sweepEphemeral()
		tmp, err := temporaryDir()
		if err != nil {
			return fmt.Errorf("making a temporary directory: %w", err)
		}
		dir = tmp
	} else if dir == "" {
		def, err := DefaultDataDir()
		if err != nil {
			return err
		}
		dir = def
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("reading the state directory's path: %w", err)
	}
	if c.cfg.Ephemeral {
		c.cleanup = append(c.cleanup, func() { _ = os.RemoveAll(dir) })
	}
	c.base = filepath.Join(dir, "postgres")
	c.data = filepath.Join(c.base, dataName)
	if c.owner, err = ownerOf(c.data); err != nil {
		return err
	}
	if err := c.makeDirs(dir); err != nil {
		return fmt.Errorf("making the state directory %s (DATA_DIR): %w", dir, err)
	}
	unlock, err := lockFile(filepath.Join(c.base, lockName))
	if err != nil {
		var running *RunningError
		if errors.As(err, &running) {
			running.DataDir = dir
			return running
		}
		return fmt.Errorf("locking the state directory %s: %w", dir, err)
	}
	c.cleanup = append(c.cleanup, unlock)
	return c.stopOrphan(ctx, dir)
}

func (c *cluster) makeDirs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := c.owner.letPass(dir); err != nil {
		return err
	}
	if err := c.owner.reach(c.base); err != nil {
		return err
	}
	if err := os.Mkdir(c.base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !c.owner.switched {
		return os.Chmod(c.base, 0o700)
	}
	info, err := os.Lstat(c.base)
	if err != nil {
		return err
	}
	if uid := uidOf(info); uid != 0 || !info.IsDir() {
		return fmt.Errorf("%s belongs to user id %d: run as that user, not as root, or set DATA_DIR", c.base, uid)
	}
	return os.Chmod(c.base, 0o711)
}

// stopOrphan ends a postmaster that serves our directory though we hold its
// lock: its rebound was killed. On Linux it is on its way down already; on macOS
// nobody has told it.
func (c *cluster) stopOrphan(ctx context.Context, dir string) error {
	pidFile := filepath.Join(c.data, "postmaster.pid")
	pid := readPostmaster(pidFile).pid
	if pid == 0 {
		return nil
	}
	if !alive(pid) || !serves(pid, c.data) {
		// The number may belong to another process of this user by now, which
		// would make the postmaster refuse.
		if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the stale %s: %w", pidFile, err)
		}
		return nil
	}
	c.cfg.Log("stopping the PostgreSQL (process %d) that a killed rebound left on %s", pid, dir)
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stopping the PostgreSQL left on %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := until(ctx, func() bool { return !alive(pid) || !serves(pid, c.data) }); err != nil {
		return &RunningError{DataDir: dir, PID: pid}
	}
	return nil
}

// initialise makes the cluster beside its place and moves it there, so that an
// interrupted one is never taken for a whole one.
func (c *cluster) initialise(ctx context.Context, bin binaries) error {
	if _, err := os.Stat(c.data); err == nil {
		return fmt.Errorf("the directory exists but holds no cluster (no PG_VERSION): remove it or set DATA_DIR")
	}
	fresh := c.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := c.owner.own(fresh, 0o700); err != nil {
		return err
	}
	args := []string{
		"-D", fresh, "-U", Role, "--encoding=UTF8", "--locale=C", "--data-checksums",
		"--auth-local=peer", "--auth-host=reject",
	}
	if c.cfg.Ephemeral {
		args = append(args, "--no-sync")
	}
	if out, err := output(c.owner.command(ctx, c.base, bin.initdb(), args...)); err != nil {
		return fmt.Errorf("running initdb: %w: %s", err, tail(out, 6))
	}
	if !c.cfg.Ephemeral {
		// Single-user mode needs no connection, and so no database driver here.
		single := c.owner.command(ctx, c.base, bin.postgres(), "--single", "-D", fresh, "-c", "log_min_messages=error", "postgres")
		single.Stdin = strings.NewReader("CREATE DATABASE " + Database + "\n")
		out, err := output(single)
		if err == nil && bytes.Contains(out, []byte("ERROR")) { // its exit code does not tell
			err = errors.New("postgres --single refused")
		}
		if err != nil {
			return fmt.Errorf("creating database %s: %w: %s", Database, err, tail(out, 3))
		}
	}
	return os.Rename(fresh, c.data)
}

// configure says who may connect: the user we are, over the socket, as Role.
// It is written at every start, since the user may be another one than before.
func (c *cluster) configure() error {
	name, err := userName(os.Geteuid())
	if err != nil {
		return err
	}
	quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	hba := "local all all peer map=rebound\n"
	ident := "rebound " + quoted + " " + Role + "\n"
	for file, content := range map[string]string{hbaName: hba, identName: ident} {
		path := filepath.Join(c.base, file)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask says
			return err
		}
	}
	c.socketDir = filepath.Join(c.base, runName)
	if len(c.socketDir) <= maxSocketDir {
		if err := os.Mkdir(c.socketDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return c.owner.own(c.socketDir, 0o700)
	}
	short, err := os.MkdirTemp("/tmp", "rebound-")
	if err != nil {
		return err
	}
	c.socketDir = short
	c.cleanup = append(c.cleanup, func() { _ = os.RemoveAll(short) })
	return c.owner.own(short, 0o700)
}

func (c *cluster) settings() map[string]string {
	set := map[string]string{
		"hba_file":                filepath.Join(c.base, hbaName),
		"ident_file":              filepath.Join(c.base, identName),
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": c.socketDir,
		"unix_socket_permissions": "0700",
		"max_connections":         "200",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_destination":         "stderr",
		"logging_collector":       "off",
		"fsync":                   "on",
		// The log may not hold what the tables hold: no statement text, no DETAIL
		// with the values of a violated key.
		"log_min_error_statement": "panic",
		"log_error_verbosity":     "terse",
		"log_statement":           "none",
	}
	if c.cfg.Ephemeral {
		for k, v := range map[string]string{
			// What is committed still outlives a killed server, only not the machine.
			"fsync": "off", "full_page_writes": "off",
			"wal_level": "minimal", "max_wal_senders": "0", "autovacuum": "off",
			"shared_buffers": "64MB", "max_wal_size": "256MB",
		} {
			set[k] = v
		}
	}
	for k, v := range c.cfg.Settings {
		set[k] = v
	}
	return set
}

// launch starts the postmaster and waits until it accepts connections.
func (c *cluster) launch(ctx context.Context, bin binaries) (*Server, error) {
	log, err := c.openLog()
	if err != nil {
		return nil, fmt.Errorf("opening the server's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	args := []string{"-D", c.data}
	for k, v := range c.settings() {
		args = append(args, "-c", k+"="+v)
	}
	// Not ctx: it bounds the start, the server lives on.
	cmd := c.owner.command(context.Background(), c.base, bin.postgres(), args...)
	cmd.Stdout, cmd.Stderr = log, log

	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		// The parent-death signal follows the thread, so keep it until the end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended stands in its log
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting PostgreSQL as user %s: %w", c.owner.name, err)
	}
	srv := &Server{bin: bin, dataDir: c.data, socketDir: c.socketDir, pid: cmd.Process.Pid, done: done}
	var once sync.Once
	var stopped error
	srv.stop = func(ctx context.Context) error {
		once.Do(func() {
			stopped = shutDown(ctx, cmd.Process, done)
			c.release()
		})
		return stopped
	}
	if err := c.ready(ctx, srv, log.Name()); err != nil {
		stopping, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = srv.Stop(stopping) // the start's error is the one to tell
		return nil, err
	}
	return srv, nil
}

// ready waits for the line that the postmaster writes into its pid file once it
// accepts connections. Recovery after a crash may take long: only ctx ends it.
func (c *cluster) ready(ctx context.Context, srv *Server, logName string) error {
	ended := false
	err := until(ctx, func() bool {
		select {
		case <-srv.done:
			ended = true
			return true
		default:
		}
		p := readPostmaster(filepath.Join(c.data, "postmaster.pid"))
		return p.pid == srv.pid && p.status == "ready"
	})
	if err == nil && !ended {
		return nil
	}
	if err == nil {
		err = errors.New("it ended")
	}
	text, _ := os.ReadFile(logName) // a missing log leaves the error without detail
	return fmt.Errorf("waiting for PostgreSQL to accept connections: %w (%s): %s", err, logName, tail(text, 4))
}

func (c *cluster) openLog() (*os.File, error) {
	path := filepath.Join(c.base, logName)
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// shutDown asks for a fast shutdown, then for an immediate one when ctx ends,
// then kills.
func shutDown(ctx context.Context, process *os.Process, done <-chan struct{}) error {
	if err := process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	_ = process.Signal(syscall.SIGQUIT) // it may have ended just now
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = process.Kill()
		<-done
	}
	return fmt.Errorf("stopping PostgreSQL: it had to be stopped at once: %w", ctx.Err())
}

// output runs a helper program on a thread that lasts as long as it does (see
// dieWithParent).
func output(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

// until calls done every few milliseconds until it is true or ctx ends.
func until(ctx context.Context, done func() bool) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func tail(b []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], " | ")
}

//go:build linux || darwin

package localpg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store/localpg"
)

// helperEnv makes the test binary run a server on that directory instead of the
// tests, and wait to be killed.
const helperEnv = "LOCALPG_TEST_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		os.Exit(helper(dir))
	}
	os.Exit(m.Run())
}

func helper(dir string) int {
	srv, err := localpg.Start(context.Background(), localpg.Config{DataDir: dir, NoDownload: true})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("ready", srv.PID(), srv.DSN(localpg.Database))
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
	if err := srv.Stop(context.Background()); err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// openDir is a directory that every user may pass: t.TempDir is closed.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "localpg-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func startIn(t testing.TB, cfg localpg.Config) *localpg.Server {
	t.Helper()
	cfg.Log = t.Logf
	srv, err := localpg.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Stop(context.Background())) })
	return srv
}

func query(t testing.TB, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	var out string
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&out))
	return out
}

func execute(t testing.TB, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestStateIsKeptBetweenRuns(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	first := startIn(t, localpg.Config{DataDir: dir})
	dsn := first.DSN(localpg.Database)
	execute(t, dsn, "CREATE TABLE kept AS SELECT 'yes' AS v")
	require.NoError(t, first.Stop(t.Context()))
	select {
	case <-first.Done():
	default:
		require.Fail(t, "Stop returned before the server had ended")
	}
	require.NoError(t, first.Stop(t.Context()), "a second Stop repeats the first's result")

	second := startIn(t, localpg.Config{DataDir: dir})
	require.Equal(t, "yes", query(t, second.DSN(localpg.Database), "SELECT v FROM kept"))
	require.Equal(t, dsn, second.DSN(localpg.Database))
	require.NotEmpty(t, second.Found())
}

// On macOS the default directory has a space: Application Support.
func TestADirectoryMayHaveASpaceInItsName(t *testing.T) {
	t.Parallel()
	srv := startIn(t, localpg.Config{DataDir: filepath.Join(openDir(t), "Application Support", "it's a+b%20ü")})
	require.Equal(t, "1", query(t, srv.DSN(localpg.Database), "SELECT 1::text"))
}

func TestOneServer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	srv := startIn(t, localpg.Config{DataDir: dir})
	t.Run("is private", func(t *testing.T) { isPrivate(t, dir, srv) })
	t.Run("logs no values", func(t *testing.T) { logsNoValues(t, dir, srv) })
	t.Run("refuses a second start and names the process", func(t *testing.T) { refusesSecond(t, dir, srv) })
}

func isPrivate(t *testing.T, dir string, srv *localpg.Server) {
	dsn := srv.DSN(localpg.Database)
	for setting, want := range map[string]string{
		"listen_addresses": "", "unix_socket_permissions": "0700", "server_encoding": "UTF8", "lc_collate": "C",
		"data_checksums": "on", "fsync": "on", "timezone": "UTC",
	} {
		if setting == "lc_collate" {
			require.Equal(t, want, query(t, dsn, "SELECT datcollate FROM pg_database WHERE datname = current_database()"))
			continue
		}
		require.Equal(t, want, query(t, dsn, "SHOW "+setting), setting)
	}
	require.Contains(t, srv.Found(), "PostgreSQL "+strings.Fields(query(t, dsn, "SHOW server_version"))[0]+" ")
	require.Equal(t, "peer", query(t, dsn, "SELECT string_agg(auth_method, ',') FROM pg_hba_file_rules"))
	require.NotContains(t, dsn, "password")

	group, err := syscall.Getpgid(srv.PID())
	require.NoError(t, err)
	require.Equal(t, srv.PID(), group, "Ctrl-C in a terminal would reach the server before us")

	for _, path := range []string{srv.DataDir(), filepath.Join(dir, "postgres", "run")} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), path)
	}
}

func logsNoValues(t *testing.T, dir string, srv *localpg.Server) {
	conn, err := pgx.Connect(t.Context(), srv.DSN("postgres"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE m (a text PRIMARY KEY); INSERT INTO m VALUES ('kim@example.com')")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "INSERT INTO m VALUES ('kim@example.com')")
	require.ErrorContains(t, err, "23505")
	require.NoError(t, conn.Close(t.Context()))
	log, err := os.ReadFile(filepath.Join(dir, "postgres", "server.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "duplicate key value")
	require.NotContains(t, string(log), "kim@")
}

func refusesSecond(t *testing.T, dir string, srv *localpg.Server) {
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	require.ErrorIs(t, err, localpg.ErrRunning)
	var running *localpg.RunningError
	require.ErrorAs(t, err, &running)
	require.Equal(t, os.Getpid(), running.PID)
	require.Equal(t, dir, running.DataDir)
	require.ErrorContains(t, err, strconv.Itoa(os.Getpid()))
	require.Equal(t, "1", query(t, srv.DSN("postgres"), "SELECT '1'"), "the first one must not notice")
}

func TestEphemeralLeavesNothing(t *testing.T) {
	t.Parallel()
	srv, err := localpg.Start(t.Context(), localpg.Config{Ephemeral: true, Settings: map[string]string{"work_mem": "5MB"}})
	require.NoError(t, err)
	require.Equal(t, "off", query(t, srv.DSN("postgres"), "SHOW fsync"))
	require.Equal(t, "5MB", query(t, srv.DSN("postgres"), "SHOW work_mem"))
	require.NoError(t, srv.Stop(t.Context()))
	require.NoDirExists(t, filepath.Dir(filepath.Dir(srv.DataDir())))
}

func TestLongPathsGetAShortSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), strings.Repeat("long", 25))
	srv := startIn(t, localpg.Config{DataDir: dir})
	require.Equal(t, "1", query(t, srv.DSN(localpg.Database), "SELECT '1'"))
	require.NotContains(t, srv.DSN("x"), "longlong")
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir, Settings: map[string]string{"shared_buffers": "nonsense"}})
	require.ErrorContains(t, err, "shared_buffers")
	startIn(t, localpg.Config{DataDir: dir}) // and the lock is free again
}

func TestDirectoryThatIsNoClusterIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	precious := filepath.Join(dir, "postgres", "data", "letter.txt")
	require.NoError(t, os.MkdirAll(filepath.Dir(precious), 0o700))
	require.NoError(t, os.WriteFile(precious, []byte("x"), 0o600))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(filepath.Dir(precious), 65534, -1))
	}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	require.ErrorContains(t, err, "holds no cluster")
	require.FileExists(t, precious)
}

func TestInterruptedInitialisationIsRepeated(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	half := filepath.Join(dir, "postgres", "data.new")
	require.NoError(t, os.MkdirAll(half, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600))
	srv := startIn(t, localpg.Config{DataDir: dir})
	require.Equal(t, "1", query(t, srv.DSN(localpg.Database), "SELECT '1'"))
}

func TestStalePidFileIsPassedOver(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	srv := startIn(t, localpg.Config{DataDir: dir})
	require.NoError(t, srv.Stop(t.Context()))
	// The number now belongs to a process that lives and is no postmaster.
	other := exec.Command("sleep", "600")
	require.NoError(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	pidFile := filepath.Join(srv.DataDir(), "postmaster.pid")
	require.NoError(t, os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s\n", other.Process.Pid, srv.DataDir()), 0o600))
	srv = startIn(t, localpg.Config{DataDir: dir})
	require.NoError(t, other.Process.Signal(syscall.Signal(0)), "the other process was ended")
	require.Equal(t, "1", query(t, srv.DSN(localpg.Database), "SELECT '1'"))
}

// run starts this binary as a helper on dir, as the user, and waits for its
// first line.
func run(t *testing.T, dir string, uid int) (cmd *exec.Cmd, line string) {
	t.Helper()
	self := filepath.Join(openDir(t), "helper") // go test's own directory is closed to others
	b, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	syscall.ForkLock.RLock() // a process that another test forks now would hold the file open for writing: "text file busy"
	err = os.WriteFile(self, b, 0o755)
	syscall.ForkLock.RUnlock()
	require.NoError(t, err)
	require.NoError(t, os.Chmod(self, 0o755))
	cmd = exec.Command(self)
	cmd.Dir = "/"
	cmd.Env = []string{helperEnv + "=" + dir, "PATH=" + os.Getenv("PATH")}
	if bin := os.Getenv(localpg.BinEnv); bin != "" {
		cmd.Env = append(cmd.Env, localpg.BinEnv+"="+bin)
	}
	if uid >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		// Asked, not killed: a server that has lost its program still writes for a while, and its directory goes next.
		_ = stdin.Close()
		late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait()
	})
	line, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return cmd, strings.TrimSpace(line)
}

func TestServerStopsWhenItsProgramIsKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	cmd, line := run(t, dir, -1)
	fields := strings.Fields(line)
	require.Len(t, fields, 3, line)
	require.Equal(t, "ready", fields[0], line)
	execute(t, fields[2], "CREATE TABLE kept AS SELECT 1")
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	require.ErrorContains(t, err, strconv.Itoa(cmd.Process.Pid), "a second run names the first's process")

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	// The next start waits for the orphan (Linux) or stops it (macOS).
	srv := startIn(t, localpg.Config{DataDir: dir})
	require.Equal(t, "1", query(t, srv.DSN(localpg.Database), "SELECT count(*)::text FROM kept"))
	log, err := os.ReadFile(filepath.Join(dir, "postgres", "server.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "database system is shut down")
	require.NotContains(t, string(log), "was not properly shut down")
}

func TestKilledProgramTakesItsServerAlong(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("only Linux tells a child of its parent's death")
	}
	dir := filepath.Join(openDir(t), "state")
	cmd, line := run(t, dir, -1)
	fields := strings.Fields(line)
	require.Len(t, fields, 3, line)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	pidFile := filepath.Join(dir, "postgres", "data", "postmaster.pid")
	require.Eventually(t, func() bool {
		_, err := os.Stat(pidFile)
		return errors.Is(err, os.ErrNotExist)
	}, 30*time.Second, 20*time.Millisecond, "the server outlived its program")
}

func TestOrdinaryUserNeedsNoOther(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the other tests run as an ordinary user then")
	}
	dir := filepath.Join(openDir(t), "state")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, 65534, 65534))
	_, line := run(t, dir, 65534)
	require.True(t, strings.HasPrefix(line, "ready "), line)
	info, err := os.Stat(filepath.Join(dir, "postgres", "data"))
	require.NoError(t, err)
	require.EqualValues(t, 65534, info.Sys().(*syscall.Stat_t).Uid)

	_, err = localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	require.ErrorContains(t, err, "run as that user, not as root")
}

func TestUserWithoutAnEntryIsTold(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become such a user")
	}
	_, line := run(t, filepath.Join(openDir(t), "state"), 54321)
	require.Contains(t, line, "user id 54321 has no entry in the user database")
	require.Contains(t, line, "DATABASE_URL")
}

func TestRootNeedsAnOpenPath(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user passes its own directories")
	}
	closed := openDir(t)
	require.NoError(t, os.Chmod(closed, 0o700))
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: filepath.Join(closed, "state")})
	require.ErrorContains(t, err, "may not pass "+closed)
}

func TestDefaultDataDirIsNotRootsHome(t *testing.T) {
	t.Parallel()
	dir, err := localpg.DefaultDataDir()
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(dir))
	require.Equal(t, "rebound", filepath.Base(dir))
	if os.Geteuid() == 0 {
		require.Equal(t, "/var/lib/rebound", dir)
	}
}

//go:build linux || darwin

package localpg

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postmaster is what a server writes about itself into postmaster.pid.
type postmaster struct {
	pid    int    // line 1; negative for a single-user server, read as its absolute value
	status string // line 8: starting, ready, stopping, standby
}

func readPostmaster(path string) postmaster {
	b, err := os.ReadFile(path)
	if err != nil {
		return postmaster{}
	}
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return postmaster{}
	}
	p := postmaster{pid: max(pid, -pid)}
	if len(lines) > 7 {
		p.status = strings.TrimSpace(lines[7])
	}
	return p
}

// alive tells whether a process exists, whoever owns it.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// lockFile takes a lock that the kernel frees when we end, however we end. A
// lock that is taken gives a RunningError with the holder's process id.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		b := make([]byte, 32)
		n, _ := f.Read(b)
		_ = f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n]))) // 0 when it has not written yet
		return nil, &RunningError{PID: pid}
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

const ephemeralPrefix = "rebound-pg-"

// temporaryDir makes a directory for an ephemeral server. Root's TMPDIR may be
// closed to others; /tmp never is.
func temporaryDir() (string, error) {
	parent := os.TempDir()
	if os.Geteuid() == 0 {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, ephemeralPrefix)
}

// sweepEphemeral removes what killed test runs left behind: directories of ours
// whose lock is free and whose server is gone. Young ones may not have taken
// their lock yet. Failures only leave a directory for the next sweep.
func sweepEphemeral() {
	parent := os.TempDir()
	if os.Geteuid() == 0 {
		parent = "/tmp"
	}
	dirs, _ := filepath.Glob(filepath.Join(parent, ephemeralPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || uidOf(info) != os.Geteuid() || time.Since(info.ModTime()) < 10*time.Minute {
			continue
		}
		base := filepath.Join(dir, "postgres")
		data := filepath.Join(base, dataName)
		if pid := readPostmaster(filepath.Join(data, "postmaster.pid")).pid; pid != 0 && alive(pid) && serves(pid, data) {
			continue
		}
		if _, err := os.Stat(base); err == nil {
			unlock, err := lockFile(filepath.Join(base, lockName))
			if err != nil {
				continue
			}
			_ = os.RemoveAll(dir)
			unlock()
			continue
		}
		_ = os.RemoveAll(dir)
	}
}

//go:build linux || darwin

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// owner is the operating system user that the server runs as. PostgreSQL
// refuses to run as root, so for root it is another one.
type owner struct {
	uid, gid int
	name     string
	switched bool // we are root and must become this user
}

// ownerOf chooses the server's user. An existing data directory keeps its owner.
func ownerOf(dataDir string) (owner, error) {
	self := os.Geteuid()
	existing := -1
	if info, err := os.Stat(dataDir); err == nil {
		existing = uidOf(info)
	} else if errors.Is(err, os.ErrPermission) {
		return owner{}, fmt.Errorf("%s belongs to another user: run as that user or set DATA_DIR: %w", dataDir, err)
	}
	if self != 0 {
		if existing >= 0 && existing != self {
			return owner{}, fmt.Errorf("%s belongs to user id %d: run as that user or set DATA_DIR", dataDir, existing)
		}
		name, err := userName(self)
		return owner{uid: self, gid: os.Getegid(), name: name}, err
	}
	if existing > 0 {
		u, err := user.LookupId(strconv.Itoa(existing))
		if err != nil {
			return owner{}, fmt.Errorf("%s belongs to user id %d, which has no entry in the user database: %w", dataDir, existing, err)
		}
		return switchTo(u)
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return switchTo(u)
		}
	}
	return owner{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as: create one, or run rebound as an ordinary user")
}

func switchTo(u *user.User) (owner, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return owner{}, fmt.Errorf("reading the id of user %s: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return owner{}, fmt.Errorf("reading the group of user %s: %w", u.Username, err)
	}
	return owner{uid: uid, gid: gid, name: u.Username, switched: true}, nil
}

// userName asks the system's own tool when Go's reader of /etc/passwd has no
// answer: a program built without cgo does not know network users.
func userName(uid int) (string, error) {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username, nil
	}
	if out, err := exec.CommandContext(context.Background(), "id", "-un").Output(); err == nil && strings.TrimSpace(string(out)) != "" {
		return strings.TrimSpace(string(out)), nil
	}
	return "", fmt.Errorf("user id %d has no entry in the user database (/etc/passwd), which PostgreSQL needs: add one, run as a user that has one, or set DATABASE_URL", uid)
}

func uidOf(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// command prepares a program to run as the owner, in dir, with an environment
// that no PG variable or locale of ours reaches.
func (o owner) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	// A process group of its own: Ctrl-C in a terminal goes to the whole group,
	// and the server must outlive what still needs it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if o.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	dieWithParent(cmd.SysProcAttr)
	return cmd
}

// reach reports the directory above path that the owner may not pass.
func (o owner) reach(path string) error {
	if !o.switched {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		bit := os.FileMode(0o001)
		if ok && int(st.Uid) == o.uid {
			bit = 0o100
		} else if ok && int(st.Gid) == o.gid {
			bit = 0o010
		}
		if info.Mode().Perm()&bit == 0 {
			return fmt.Errorf("user %s, which the server runs as because PostgreSQL refuses root, may not pass %s: choose a directory outside of it", o.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// letPass gives others search permission on a directory of ours, so that the
// server's user can get to what lies below. A home directory is not ours.
func (o owner) letPass(dir string) error {
	if home, err := os.UserHomeDir(); !o.switched || err == nil && filepath.Clean(home) == dir {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|0o011)
}

// own gives path to the owner, with this mode whatever the umask says.
func (o owner) own(path string, mode os.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	if o.switched {
		return os.Lchown(path, o.uid, o.gid)
	}
	return nil
}

package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// The user who starts a daemon decides its directories, before any privilege is dropped. A daemon that root starts, by the
// packaged unit too, has RootRuntimeDir and RootStateDir, even if it runs as another user. An ordinary user has directories of
// their own. So the daemon finds changes made at run time, however it is started the next time.
//
// Only root can create names beside root's two directories. They belong to the user that the daemon runs as. When that changes,
// systemd changes their owner for the unit, and [Settings.OwnDirs] does in all other cases. No other directory of another user
// is touched.
//
// What root takes back, another user may have written:
//
//   - Root keeps the state: the admin socket accepts the same data from that user. Root copies each of stateFiles, because that
//     user may still have it open, and does not touch other files.
//   - Root empties the run-time directory. It does not use keys that another user knows, so session tokens end.
const (
	// RootRuntimeDir and RootStateDir are the default directories of whatever root starts.
	RootRuntimeDir = "/run/imdsfs"
	RootStateDir   = "/var/lib/imdsfs"

	maxStateFile = 128 << 20 // bytes, as in package overlay
)

// stateFiles are the names of all files of the state directory.
var stateFiles = []string{launchFile(""), overlay.Path("")}

// DefaultRuntimeDir returns the default run-time directory of a daemon that this user starts.
func DefaultRuntimeDir() string {
	if privilege.IsRoot() {
		return RootRuntimeDir
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && mayBeOurs(dir) {
		return filepath.Join(dir, "imdsfs")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("imdsfs-%d", os.Geteuid()))
}

// DefaultStateDir returns the default state directory of a daemon that this user starts, "" without a home directory.
func DefaultStateDir() string {
	if privilege.IsRoot() {
		return RootStateDir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" && mayBeOurs(dir) {
		return filepath.Join(dir, "imdsfs")
	}
	home := os.Getenv("HOME")
	if home == "" || !mayBeOurs(home) {
		if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
			home = u.HomeDir
		}
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".local/state/imdsfs")
}

// mayBeOurs reports whether a directory that the environment names can be meant for us: setpriv and su keep root's
// environment. We must be able to write to the directory, if it exists.
func mayBeOurs(dir string) bool {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	return err == nil || errors.Is(err, os.ErrNotExist)
}

// A dir is a directory of the daemon, and the flag that chooses another.
type dir struct {
	name, path string
	mode       os.FileMode
	flag       string
	keeps      bool // root keeps its files when it takes the directory back
}

// dirs returns the run-time directory, in which others may look up the address, and the state directory, which is private.
func (s *Settings) dirs() []dir {
	return []dir{
		{"run-time directory", s.RuntimeDir, 0o755, "--runtime-dir", false},
		{"state directory", s.StateDir, 0o700, "--state-dir", true},
	}
}

// isRoots reports whether the directory is one of root's defaults and we are root.
func (d dir) isRoots() bool {
	return privilege.IsRoot() && (d.path == RootRuntimeDir || d.path == RootStateDir)
}

// OwnDirs makes the directories for a daemon of an account, which may be another one than ours if we are root. It refuses a
// directory that another user could exchange or put keys into. A directory that exists must belong to the account, unless it
// is one of root's defaults.
func (s *Settings) OwnDirs(a *privilege.Account) error {
	for _, d := range s.dirs() {
		f, made, err := d.open(a)
		if err == nil {
			err = errors.Join(d.own(f, a, made), f.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open opens the directory, O_PATH, and makes it if it is missing.
func (d dir) open(a *privilege.Account) (f *os.File, made bool, err error) {
	policy := safepath.Policy{Users: []int{a.UID}}
	if d.isRoots() {
		if owner, ok := d.lastOwner(); ok {
			policy.Users = append(policy.Users, owner)
		}
	}
	f, err = policy.OpenDir(d.path)
	if errors.Is(err, os.ErrNotExist) {
		made = true
		f, err = policy.MakeDir(d.path, d.mode)
	}
	var refused *safepath.Error
	switch {
	case errors.As(err, &refused):
		return nil, false, d.refuse(refused)
	case err != nil:
		return nil, false, NoRoom(problem.Invalid("choose another with "+d.flag, err), d.path, d.flag)
	}
	return f, made, nil
}

// lastOwner returns the owner of a default directory of root's. If only root can make names above it, root gave it to that user.
func (d dir) lastOwner() (uid int, ok bool) {
	parent, name, err := safepath.Policy{}.OpenParent(d.path)
	if err != nil {
		return 0, false
	}
	defer parent.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, false
	}
	return int(st.Uid), true
}

func (d dir) refuse(err error) error {
	return problem.Invalid("name another with "+d.flag+", which only you can change; or, if a daemon of another user left it, stop that and remove it",
		fmt.Errorf("%s: %w", d.name, err))
}

func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// own makes the directory belong to an account.
func (d dir) own(f *os.File, a *privilege.Account, made bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner := ownerOf(info)
	// The account may own the parent, and may have put another directory in the place of the one that we just made.
	made = made && safepath.IsEmpty(f) == nil
	switch {
	case !d.isRoots() && owner == a.UID:
		return nil
	case !d.isRoots() && !made && owner != os.Geteuid():
		return d.refuse(fmt.Errorf("%s belongs to uid %d, not to us", d.path, owner))
	case !d.isRoots() && !made:
		return problem.Invalid("chown it, or choose another with "+d.flag, fmt.Errorf("%s does not belong to %s", d.path, a.Name))
	case owner == a.UID && owner != 0:
		return nil
	}
	if owner != a.UID {
		lock, err := d.lockOut(f)
		if err != nil {
			return err
		}
		defer lock.Close() // nil or not
	}
	if d.isRoots() {
		if err := d.takeBack(f, owner); err != nil {
			return problem.Failed("remove what is in the way, or choose another with "+d.flag, fmt.Errorf("%s: take over %s: %w", d.name, d.path, err))
		}
	}
	if owner == a.UID || a.UID == 0 {
		return nil
	}
	return d.give(f, a)
}

// lockOut keeps daemons out of the directory while it changes hands. The error says that a daemon runs in it. The file is nil if
// none can have run there.
func (d dir) lockOut(f *os.File) (*os.File, error) {
	name, flags := lockName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC
	if d.keeps {
		name, flags = ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC
	}
	fd, err := unix.Openat(int(f.Fd()), name, flags, 0)
	if err != nil {
		return nil, nil
	}
	lock := os.NewFile(uintptr(fd), filepath.Join(d.path, name))
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		lock.Close()
		if d.keeps {
			return nil, problem.Failed("stop that first, or give this one a --state-dir of its own",
				fmt.Errorf("%s is the state directory of a running imdsfs", d.path))
		}
		return nil, IsRunning(d.path)
	}
	return lock, nil
}

// takeBack makes root the owner of a directory again, and of the files that it keeps. Once the directory is root's, nobody else
// can put anything in the way. takeBack makes anew what the last owner may still have open. A directory that is root's already
// may hold files of the last owner, if an earlier takeBack was interrupted.
func (d dir) takeBack(f *os.File, owner int) error {
	list, err := safepath.Reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer list.Close()
	if owner != 0 {
		if err := errors.Join(list.Chown(0, 0), list.Chmod(d.mode)); err != nil {
			return err
		}
	}
	names := stateFiles
	if !d.keeps {
		if names, err = list.Readdirnames(-1); err != nil {
			return err
		}
	}
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(int(list.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case errors.Is(err, unix.ENOENT):
			err = nil
		case err != nil:
		case owner == 0 && st.Uid == 0 && (st.Nlink == 1 || !d.keeps): // ours
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = unix.Unlinkat(int(list.Fd()), name, unix.AT_REMOVEDIR)
		case d.keeps && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && (owner == 0 || int(st.Uid) == owner):
			err = copyIn(list, name, &st)
		default:
			err = unix.Unlinkat(int(list.Fd()), name, 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// copyIn replaces a file by a copy, which belongs to us and which no other process has open. It writes through the
// descriptor of the directory that was checked: another directory may have the path by now.
func copyIn(dir *os.File, name string, st *unix.Stat_t) error {
	// Without O_NONBLOCK, the open waits for a lease to end that the last owner may hold; atomicfile.Read would fail.
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(fd), name)
	defer from.Close()
	text, err := io.ReadAll(io.LimitReader(from, maxStateFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxStateFile {
		return fmt.Errorf("longer than %d bytes: move it away", maxStateFile)
	}
	err = atomicfile.Write(filepath.Join(safepath.ProcPath(dir), name), text, os.FileMode(st.Mode&0o600))
	var onPath *os.PathError
	if errors.As(err, &onPath) {
		return onPath.Err // without a path of /proc
	}
	return err
}

// give changes the owner of the daemon's files in a directory, and then that of the directory: nobody else can put anything in
// the way as long as the directory is root's.
func (d dir) give(dir *os.File, a *privilege.Account) error {
	list, err := safepath.Reopen(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer list.Close()
	names := stateFiles
	if !d.keeps {
		if names, err = list.Readdirnames(-1); err != nil {
			return err
		}
	}
	for _, name := range names {
		err := unix.Fchownat(int(list.Fd()), name, a.UID, a.GID, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("chown %s: %w", filepath.Join(dir.Name(), name), err)
		}
	}
	return list.Chown(a.UID, a.GID)
}

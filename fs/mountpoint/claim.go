package mountpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// rootClaims holds the claims that root makes for the daemon of another user, mode 0700. What root does after that daemon
// must not depend on what lies in a directory of the daemon's.
var rootClaims = "/run/imdsfs.mounts"

const maxClaim = 8 << 10 // bytes

// A claim is a file that is locked as long as somebody serves a mount point, or keeps it for a successor. It says what was
// done there, so that whoever comes after a crash can undo that and nothing else. It lies where only those who act on it can
// write: in the run-time directory if that is ours, else in root's own directory.
type claim struct {
	dir  *os.File // O_PATH
	name string
	lock *os.File // open for reading: a process that inherits it cannot change what it says
	text claimText
	// before is what the file said when it was locked; nothing if it was new.
	before claimText
}

// A claimText is what a claim says, as JSON.
type claimText struct {
	RuntimeDir string `json:"runtime-dir"`
	Dir        string `json:"dir"` // the mount point, without symbolic links
	UID        int    `json:"uid"` // whose daemon serves it
	// Made: there is a directory that was made for the mount.
	Made bool `json:"made"`
	// Mount is the mount that was made, nil before.
	Mount *mountIdentity `json:"mount,omitempty"`
}

// claimDir opens the directory that holds the claims of a run-time directory.
func claimDir(runtimeDir string, create bool) (*os.File, error) {
	dir, err := safepath.Policy{}.OpenDir(runtimeDir)
	var refused *safepath.Error
	notOurs := errors.As(err, &refused) || errors.Is(err, os.ErrNotExist)
	switch {
	case !notOurs, os.Geteuid() != 0:
		return dir, err
	case create:
		return safepath.Policy{}.MakeDir(rootClaims, 0o700)
	}
	return safepath.Policy{}.OpenDir(rootClaims)
}

// claimName is the name of the claim of a mount point.
func claimName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return claimPrefix + hex.EncodeToString(sum[:8]) + claimSuffix
}

const (
	claimPrefix = "mount-"
	claimSuffix = ".lock"
)

// openClaim finds the claim of a mount point, and locks nothing yet.
func openClaim(dir, runtimeDir string, uid int) (*claim, error) {
	folder, err := claimDir(runtimeDir, true)
	if err != nil {
		return nil, err
	}
	return &claim{dir: folder, name: claimName(dir), text: claimText{RuntimeDir: runtimeDir, Dir: dir, UID: uid}}, nil
}

func (c *claim) path() string { return filepath.Join(c.dir.Name(), c.name) }

// acquire takes the lock, and reads what the claim says if it was there. The error is ErrServed if somebody else has the
// lock.
func (c *claim) acquire(create bool) error {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT
	}
	for range 100 {
		fd, err := unix.Openat(int(c.dir.Fd()), c.name, flags, 0o600)
		if err != nil {
			return &os.PathError{Op: "open", Path: c.path(), Err: err}
		}
		f := os.NewFile(uintptr(fd), c.path())
		locked, err := c.try(f)
		if locked {
			c.lock = f
			return c.read()
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("lock %s: it is replaced again and again", c.path())
}

// try locks f, unless it is no longer the file that has the name: its last owner has removed it then.
func (c *claim) try(f *os.File) (locked bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 || int(st.Uid) != os.Geteuid() {
		return false, fmt.Errorf("%s is no file of its own: remove it", c.path())
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, refusal(c.text.Dir, ErrServed, "", "stop that one first, "+elsewhere)
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", c.path(), err)
	}
	return c.holds(f), nil
}

// holds reports whether f is the file that has the claim's name.
func (c *claim) holds(f *os.File) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Fstatat(int(c.dir.Fd()), c.name, &b, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

// adopt takes a lock that a predecessor held.
func (c *claim) adopt(lock *os.File) error {
	c.lock = lock
	return c.read()
}

// read takes over what the file says. A file that says nothing, or nothing of this mount point, is of a daemon that was
// killed before it had done anything.
func (c *claim) read() error {
	text, err := io.ReadAll(io.NewSectionReader(c.lock, 0, maxClaim))
	if err != nil {
		return fmt.Errorf("read %s: %w", c.path(), err)
	}
	if said, ok := parseClaim(text); ok && said.Dir == c.text.Dir {
		c.before = said
		c.text.Made, c.text.Mount = said.Made, said.Mount
	} else if string(text) == legacyMade {
		c.text.Made = true
	}
	return nil
}

// look reads what the claim says, which somebody has locked.
func (c *claim) look() error {
	fd, err := unix.Openat(int(c.dir.Fd()), c.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.path(), Err: err}
	}
	c.lock = os.NewFile(uintptr(fd), c.path())
	return c.read()
}

// movedFrom reports whether the claim, which somebody has locked, is of a run-time directory that is no longer there: it
// has another name by now. The claim is ours then.
func (c *claim) movedFrom() (moved bool, err error) {
	if err := c.look(); err != nil || c.before.RuntimeDir == "" || c.before.RuntimeDir == c.text.RuntimeDir {
		return false, err
	}
	if _, err := os.Lstat(c.before.RuntimeDir); !errors.Is(err, os.ErrNotExist) {
		return false, refusal(c.text.Dir, ErrServed, "with the run-time directory "+c.before.RuntimeDir, stopThat)
	}
	return true, c.write()
}

// legacyMade is all that the file said before it was JSON.
const legacyMade = "made\n"

// parseClaim reads the first JSON value of a text: a longer one may have been there before it.
func parseClaim(text []byte) (said claimText, ok bool) {
	err := json.NewDecoder(strings.NewReader(string(text))).Decode(&said)
	return said, err == nil && filepath.IsAbs(said.Dir) && filepath.IsAbs(said.RuntimeDir)
}

// write writes what the claim says.
func (c *claim) write() error {
	text, err := json.Marshal(c.text)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(int(c.dir.Fd()), c.name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.path(), Err: err}
	}
	f := os.NewFile(uintptr(fd), c.path())
	defer f.Close()
	if !c.holds(c.lock) {
		return fmt.Errorf("%s was replaced by somebody", c.path())
	}
	if _, err := f.WriteAt(append(text, '\n'), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text) + 1))
}

// release removes the file, and lets go of the lock.
func (c *claim) release() error {
	var err error
	if c.lock != nil && c.holds(c.lock) {
		err = unix.Unlinkat(int(c.dir.Fd()), c.name, 0)
	}
	return errors.Join(err, c.close())
}

// close lets go of the lock, and leaves the file to whoever comes next. It may be called twice.
func (c *claim) close() error {
	c.dir.Close()
	if c.lock == nil {
		return nil
	}
	if err := c.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

package fs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Why a directory cannot be mounted on; inside a [PointError].
var (
	ErrServed     = errors.New("already served by a running imdsfs")
	ErrForeign    = errors.New("something else is mounted there")
	ErrNotEmpty   = errors.New("the directory is not empty")
	ErrNotDir     = errors.New("not a directory")
	ErrNoParent   = errors.New("there is no directory to make it in")
	ErrPermission = errors.New("no permission to mount there")
	ErrNoFUSE     = errors.New("there is no /dev/fuse")
	ErrHangs      = errors.New("the path does not answer within 1 s")
)

// A PointError refuses a mount point.
type PointError struct {
	Dir    string
	Err    error  // one of the above
	Detail string // what is in the way; may be empty
	Hint   string // what to do; may be empty
}

func (e *PointError) Error() string {
	s := fmt.Sprintf("mount %s: %v", e.Dir, e.Err)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (e *PointError) Unwrap() error { return e.Err }

const (
	elsewhere = "or choose another directory with --mount"
	stopThat  = "stop that one (umount -l if there is none), " + elsewhere
)

// made is what the lock file holds as long as there is a directory that we made: who comes after a crash
// removes it in our place.
const made = "made\n"

// A point is a directory that is ours to mount on, until release.
type point struct {
	dir     string // absolute, no symbolic links
	created bool
	lock    *os.File
	// inherited: the lock is a predecessor's, and kept already.
	inherited bool
}

// claim locks the mount point at dir. It looks at no path that a live daemon serves, and lets a child
// process look at any other: see probe. A lock that was inherited is taken if it is the right one. What
// comes next is prepare, unless there is a mount to go on with.
func claim(dir, runtimeDir string, pre *Predecessor) (p *point, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	p = &point{dir: dir}
	if pre == nil || pre.mount == nil || pre.mount.Dir != dir {
		above, err := probe(probeResolve, filepath.Dir(dir))
		switch {
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
			return nil, &PointError{dir, ErrNoParent, filepath.Dir(dir), "create it first, " + elsewhere}
		case err != nil:
			return nil, lookError(dir, err)
		}
		// Two names of one directory are one mount point, and mountinfo has it by this one.
		p.dir = filepath.Join(above, filepath.Base(dir))
	}
	path := p.lockPath(runtimeDir)
	if pre != nil && pre.lock != nil && isFile(pre.lock, path) {
		p.lock, p.inherited = pre.lock, true
		return p, nil
	}
	return p, p.acquire(path)
}

// lockPath is of a file that a daemon keeps locked for its mount point as long as it lives.
func (p *point) lockPath(runtimeDir string) string {
	name := sha256.Sum256([]byte(p.dir))
	return filepath.Join(runtimeDir, "mount-"+hex.EncodeToString(name[:8])+".lock")
}

func isFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// acquire takes the lock.
func (p *point) acquire(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &PointError{p.dir, ErrServed, "", "stop that one first, " + elsewhere}
		}
		return fmt.Errorf("lock %s: %w", path, err)
	}
	// It is written to; by root, in a directory that may be a daemon's.
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		f.Close()
		return fmt.Errorf("%s is no file of its own: remove it", path)
	}
	p.lock = f
	return nil
}

// prepare clears away a dead mount of ours and sees to an empty directory.
func (p *point) prepare() error {
	if err := p.clear(); err != nil {
		return err
	}
	name, err := probe(probeEmpty, p.dir)
	switch {
	case err == nil && name == "":
		return p.recall()
	case errors.Is(err, syscall.ENOENT):
		return p.create()
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return &PointError{p.dir, ErrNotDir, "", "remove it, " + elsewhere}
	case err != nil:
		return lookError(p.dir, err)
	}
	return &PointError{p.dir, ErrNotEmpty, fmt.Sprintf("it holds %q", name), "move away what is in it, " + elsewhere}
}

// clear detaches the dead mounts of ours that are stacked on the directory.
func (p *point) clear() error {
	for range 16 {
		m, ok, err := topmost(p.dir)
		if err != nil || !ok {
			return err
		}
		if m.fstype != fsType {
			return &PointError{p.dir, ErrForeign, fmt.Sprintf("%s of type %s", m.source, m.fstype), "unmount that first, " + elsewhere}
		}
		// The lock says that no daemon with our run-time directory is alive; one with another
		// might be. What does not say that it is dead belongs to somebody.
		_, err = probe(probeAlive, p.dir)
		var other syscall.Errno
		switch {
		case isDead(err):
		case errors.Is(err, ErrHangs):
			return &PointError{p.dir, ErrServed, "with another run-time directory, and it does not answer", stopThat}
		case err == nil, errors.As(err, &other):
			return &PointError{p.dir, ErrServed, "with another run-time directory", stopThat}
		default:
			return lookError(p.dir, err)
		}
		if err := detach(p.dir, unix.MNT_DETACH); err != nil {
			return lookError(p.dir, fmt.Errorf("detach a dead mount: %w", err))
		}
	}
	return fmt.Errorf("mount %s: dead mounts keep appearing", p.dir)
}

func (p *point) create() error {
	if _, err := p.lock.WriteAt([]byte(made), 0); err != nil {
		return err
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return lookError(p.dir, errors.Join(err, p.lock.Truncate(0)))
	}
	p.created = true
	return os.Chmod(p.dir, 0o755) // whatever the umask says
}

// recall finds out whether the directory was made for a mount of ours.
func (p *point) recall() error {
	text := make([]byte, len(made))
	n, err := p.lock.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("read %s: %w", p.lock.Name(), err)
	}
	p.created = string(text[:n]) == made
	return nil
}

func isDead(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNREFUSED)
}

// release removes the directory if it was made for a mount of ours, and lets go of the lock.
func (p *point) release() error {
	var err error
	if p.created {
		if err = os.Remove(p.dir); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			err = p.lock.Truncate(0)
		}
	}
	return errors.Join(err, p.lock.Close())
}

func lookError(dir string, err error) error {
	var known *PointError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, ErrHangs):
		return &PointError{dir, ErrHangs, "", "look at what is mounted above it (/proc/self/mountinfo), " + elsewhere}
	case errors.Is(err, fs.ErrPermission):
		return &PointError{dir, ErrPermission, err.Error(), "run as root (in a container, with --cap-add SYS_ADMIN --device /dev/fuse), " + elsewhere}
	}
	return fmt.Errorf("mount %s: %w", dir, err)
}

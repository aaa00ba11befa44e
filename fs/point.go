package fs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// Why a directory cannot be mounted on; inside a [PointError].
var (
	ErrServed       = errors.New("already served by a running imdsfs")
	ErrForeign      = errors.New("something else is mounted there")
	ErrNotEmpty     = errors.New("the directory is not empty")
	ErrNotDir       = errors.New("not a directory")
	ErrNoParent     = errors.New("there is no directory to make it in")
	ErrPermission   = errors.New("no permission to mount there")
	ErrExchangeable = errors.New("somebody else could exchange it")
	ErrNoFUSE       = errors.New("there is no /dev/fuse")
	ErrHangs        = errors.New("the path does not answer")
)

// A PointError refuses a mount point.
type PointError struct {
	Dir    string
	Err    error  // one of the above, or what the system says
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
	safely    = "with --mount choose a directory that only root and the daemon's user can exchange"
	stopThat  = "stop that one (umount -l if there is none), " + elsewhere
)

// A point is a directory that is ours to mount on, until release. Its path is walked once, and what is done there is
// done in the directory above, which is held open.
type point struct {
	dir  string // absolute, no symbolic links
	name string // in parent
	// users are those who, besides root and us, may own what is above.
	users []int
	// parent is O_PATH; nil until it is needed.
	parent *os.File
	// state is what a child saw at dir: one of the states of probe.go.
	state string
	holds string // a name in the directory, if that is its state

	claim *claim
	// inherited: the lock is a predecessor's, and kept already.
	inherited bool
}

// claimPoint locks the mount point at dir. It lets a child process walk to it: see probe. A lock that was inherited is
// taken if it is the right one. What comes next is prepare, unless there is a mount to go on with.
func claimPoint(dir, runtimeDir string, users []int, pre *Predecessor) (p *point, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	p = &point{dir: dir, name: filepath.Base(dir), users: users}
	if !utf8.ValidString(dir) {
		return nil, &PointError{dir, ErrNotDir, "its path is not UTF-8", "choose another directory with --mount"}
	}
	if dir == "/" {
		return nil, &PointError{dir, ErrForeign, "it is the root directory", "choose another directory with --mount"}
	}
	if pre == nil || pre.mount == nil || pre.mount.Dir != dir {
		if err := p.open(); err != nil {
			return nil, err
		}
	}
	uid := os.Geteuid()
	if len(users) > 0 {
		uid = users[0]
	}
	if p.claim, err = openClaim(p.dir, runtimeDir, uid); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if pre != nil && pre.lock != nil && (p.claim.holds(pre.lock) || isRoots(pre.private())) {
		p.inherited = true
		err = p.claim.adopt(pre.lock)
	} else {
		err = p.claim.acquire(true)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// isRoots reports whether root has mounted for us, and keeps its claim where we cannot look.
func isRoots(private bool) bool { return os.Geteuid() != 0 && !private }

// open walks to the directory above. Two names of one directory are one mount point, and mountinfo has it by the name
// without symbolic links.
func (p *point) open() error {
	seen, parent, err := probeOpen(p.dir, p.users)
	var refused *safepath.Error
	switch {
	case errors.As(err, &refused):
		return &PointError{p.dir, ErrExchangeable, refused.Error(), safely}
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return &PointError{p.dir, ErrNoParent, filepath.Dir(p.dir), "create it first, " + elsewhere}
	case err != nil:
		return lookError(p.dir, err)
	}
	p.parent, p.state, p.holds = parent, seen.State, seen.Holds
	p.dir = filepath.Join(parent.Name(), p.name)
	return nil
}

// opened makes sure that the directory above is held.
func (p *point) opened() error {
	if p.parent != nil {
		return nil
	}
	dir := p.dir
	if err := p.open(); err != nil {
		return err
	}
	if p.dir != dir {
		return fmt.Errorf("%s has become %s", dir, p.dir)
	}
	return nil
}

// inParent is the mount point as a path for a child that has inherited the directory above.
func (p *point) inParent() string { return filepath.Join(probeParent, p.name) }

// at opens the mount point, or what is mounted there: the kernel asks no file system for that, as it would for a stat.
func (p *point) at() (*os.File, error) {
	if err := p.opened(); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(p.parent.Fd()), p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p.dir, Err: err}
	}
	return os.NewFile(uintptr(fd), p.dir), nil
}

// prepare clears away a dead mount of ours and sees to an empty directory.
func (p *point) prepare() error {
	if err := p.opened(); err != nil {
		return err
	}
	if p.state == pointMounted {
		if err := p.clear(); err != nil {
			return err
		}
		name, err := probe(probeEmpty, p.inParent(), p.parent)
		switch {
		case err != nil:
			return lookError(p.dir, err)
		case name == "":
			p.state = pointEmpty
		default:
			p.state, p.holds = pointFull, name
		}
	}
	switch p.state {
	case pointMissing:
		return p.create()
	case pointNotDir:
		return &PointError{p.dir, ErrNotDir, "", "remove it, " + elsewhere}
	case pointFull:
		return &PointError{p.dir, ErrNotEmpty, fmt.Sprintf("it holds %q", p.holds), "move away what is in it, " + elsewhere}
	}
	return p.claim.write()
}

// clear detaches the dead mounts of ours that are stacked on the directory.
func (p *point) clear() error {
	for range 16 {
		m, f, err := p.top()
		if err != nil || f == nil {
			return err
		}
		err = p.clearOne(m, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("mount %s: dead mounts keep appearing", p.dir)
}

func (p *point) clearOne(m mounted, f *os.File) error {
	if m.fstype != fsType {
		return &PointError{p.dir, ErrForeign, fmt.Sprintf("%s of type %s", m.source, m.fstype), "unmount that first, " + elsewhere}
	}
	// The lock says that no daemon with our run-time directory is alive; one with another
	// might be. What does not say that it is dead belongs to somebody.
	_, err := probe(probeAlive, p.inParent(), p.parent)
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
	if err := detachFile(f, p.dir, unix.MNT_DETACH); err != nil {
		return lookError(p.dir, fmt.Errorf("detach a dead mount: %w", err))
	}
	return nil
}

// top finds what is mounted on the point, and holds it; the file is nil if there is nothing.
func (p *point) top() (mounted, *os.File, error) {
	f, err := p.at()
	if errors.Is(err, fs.ErrNotExist) {
		return mounted{}, nil, nil
	}
	if err != nil {
		return mounted{}, nil, lookError(p.dir, err)
	}
	m, ok, err := mountAt(p.parent, p.name, f)
	if ok {
		return m, f, nil
	}
	return mounted{}, nil, errors.Join(err, f.Close())
}

// detach takes off what is mounted on the point if it is what is wanted, and nothing else that is there. It reports
// whether it was.
func (p *point) detach(flags int, wanted func(m mounted, f *os.File) bool) (bool, error) {
	m, f, err := p.top()
	if err != nil || f == nil {
		return false, err
	}
	defer f.Close()
	if m.fstype != fsType || !wanted(m, f) {
		return false, nil
	}
	return true, detachFile(f, p.dir, flags)
}

// hasNumber is for the mount of a device, "major:minor", that is known to be connected.
func hasNumber(number string) func(mounted, *os.File) bool {
	return func(m mounted, _ *os.File) bool { return m.device == number }
}

func (p *point) create() error {
	p.claim.text.Made = true
	if err := p.claim.write(); err != nil {
		p.claim.text.Made = false
		return err
	}
	err := unix.Mkdirat(int(p.parent.Fd()), p.name, 0o700)
	if err == nil {
		var f *os.File
		if f, err = p.at(); err == nil {
			if err = safepath.IsEmpty(f); err == nil {
				err = safepath.Chmod(f, 0o755) // whatever the umask says
			}
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return nil
		}
	} else {
		p.claim.text.Made = false
		err = errors.Join(err, p.claim.write())
	}
	return makeError(p.dir, err)
}

func isDead(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNREFUSED)
}

// release removes the directory if it was made for a mount of ours, and the claim.
func (p *point) release() error {
	if p.claim.text.Made {
		err := p.opened()
		if err == nil {
			// A directory, and nothing that somebody may have put in its place.
			if err = unix.Unlinkat(int(p.parent.Fd()), p.name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
				err = &fs.PathError{Op: "remove", Path: p.dir, Err: err}
			} else {
				err = nil
			}
		}
		if err != nil {
			return errors.Join(err, p.close())
		}
	}
	err := p.claim.release()
	return errors.Join(err, p.close())
}

// close lets go of everything, and leaves the claim to who comes next.
func (p *point) close() error {
	p.parent.Close() // nil or not
	if p.claim == nil {
		return nil
	}
	return p.claim.close()
}

func lookError(dir string, err error) error {
	var known *PointError
	var refused *safepath.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &refused):
		return &PointError{dir, ErrExchangeable, refused.Error(), safely}
	case errors.Is(err, ErrHangs):
		return &PointError{dir, ErrHangs, "", "look at what is mounted above it (/proc/self/mountinfo), " + elsewhere}
	case errors.Is(err, fs.ErrPermission):
		return &PointError{dir, ErrPermission, err.Error(), "run as root (in a container, with --cap-add SYS_ADMIN --device /dev/fuse), " + elsewhere}
	}
	return &PointError{dir, err, "", "choose another directory with --mount"}
}

// makeError is lookError for a directory that cannot be made.
func makeError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return &PointError{dir, err, "", "make it while the directory above can be written to, " + elsewhere}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &PointError{dir, err, "", fmt.Sprintf("make room in %s (see df and df -i), %s", filepath.Dir(dir), elsewhere)}
	}
	return lookError(dir, err)
}

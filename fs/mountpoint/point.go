// Package mountpoint is everything about the place where a file system is mounted, and nothing about what it shows. It
// knows no FUSE protocol.
//
//	path ──▶ probe.go: a child walks to it ──▶ claim.go: locked ──▶ Prepare: empty directory ──▶ device.go: mounted
//	     ◀── Release: directory and claim removed ◀── Detach: our mount taken off, nothing else
//
// Three rules hold everywhere:
//
//   - No look at a path may hang the daemon. A path on a hung file system puts whoever looks at it into a wait that no
//     signal ends, so a child process looks ([ChildMain]) and the daemon gives up on it. Everything else reads the
//     kernel's list of mounts (mountinfo.go), which asks no file system.
//   - What was done is written to the claim before it is done. Whoever comes after a crash undoes that, and nothing else
//     (cleanup.go).
//   - The path is walked once. All that follows happens below the directory above the mount point, which is held open, so
//     that nobody can exchange a name on the way.
package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// A Point is a directory that is ours to mount on, until [Point.Release] or [Point.Close].
type Point struct {
	dir  string // absolute, no symbolic links
	name string // in parent
	// users are those who, besides root and us, may own the directories above.
	users []int
	// parent is O_PATH; nil until it is needed.
	parent *os.File
	// state is what a child saw at dir.
	state state
	holds string // a name in the directory, if state is stateFull

	claim *claim
	// inherited: the lock is a predecessor's, and kept already.
	inherited bool
}

// Inherited is what a predecessor handed over of its mount point.
type Inherited struct {
	Dir    string   // where its mount is; "" if it did not say
	Lock   *os.File // on its claim; nil if that was not handed over
	ByRoot bool     // root mounted for this daemon, and keeps the claim where only root can look
}

// Claim locks the mount point at dir. The error wraps [ErrServed] if somebody else has the lock. [Point.Prepare] comes
// next, unless there is a mount to go on with.
func Claim(dir, runtimeDir string) (*Point, error) { return claimPoint(dir, runtimeDir, nil) }

// ClaimFor is [Claim] for the daemon of another user, who may own directories above the mount point.
func ClaimFor(dir, runtimeDir string, uid int) (*Point, error) {
	return claimPoint(dir, runtimeDir, []int{uid})
}

func claimPoint(dir, runtimeDir string, users []int) (*Point, error) {
	p, err := newPoint(dir, users)
	if err != nil {
		return nil, err
	}
	if err := p.open(); err != nil {
		return nil, err
	}
	return p.locked(runtimeDir, nil)
}

// ClaimInherited is [Claim] with what a predecessor handed over. Its lock counts if it is the one of this mount point.
func ClaimInherited(dir, runtimeDir string, from Inherited) (*Point, error) {
	p, err := newPoint(dir, nil)
	if err != nil {
		return nil, err
	}
	if from.Dir != p.dir { // else the predecessor has walked there
		if err := p.open(); err != nil {
			return nil, err
		}
	}
	return p.locked(runtimeDir, &from)
}

func newPoint(dir string, users []int) (*Point, error) {
	dir, err := filepath.Abs(dir)
	switch {
	case err != nil:
		return nil, err
	case !utf8.ValidString(dir):
		return nil, refusal(dir, ErrNotDir, "its path is not UTF-8", "choose another directory with --mount")
	case dir == "/":
		return nil, refusal(dir, ErrForeign, "it is the root directory", "choose another directory with --mount")
	}
	return &Point{dir: dir, name: filepath.Base(dir), users: users}, nil
}

// locked takes the lock of the claim. After an error p is closed.
func (p *Point) locked(runtimeDir string, from *Inherited) (_ *Point, err error) {
	if p.claim, err = openClaim(p.dir, runtimeDir, p.daemonUID()); err == nil {
		if from != nil && from.Lock != nil && (p.claim.holds(from.Lock) || from.ByRoot) {
			p.inherited = true
			err = p.claim.adopt(from.Lock)
		} else {
			err = p.claim.acquire(true)
		}
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// daemonUID is the user whose daemon serves the mount point.
func (p *Point) daemonUID() int {
	if len(p.users) > 0 {
		return p.users[0]
	}
	return os.Geteuid()
}

// Dir is the mount point, absolute and without symbolic links.
func (p *Point) Dir() string { return p.dir }

// Inherited reports whether the lock is a predecessor's.
func (p *Point) Inherited() bool { return p.inherited }

// Lock is the file that is locked as long as it is open, here or in a process that keeps it.
func (p *Point) Lock() *os.File { return p.claim.lock }

// WriteClaim writes the claim, so that [CleanUp] looks at this mount point.
func (p *Point) WriteClaim() error { return p.claim.write() }

// open walks to the directory above. Two names of one directory are one mount point, and mountinfo has it by the name
// without symbolic links.
func (p *Point) open() error {
	seen, parent, err := walkTo(p.dir, p.users)
	var unsafe *safepath.Error
	switch {
	case errors.As(err, &unsafe):
		return refusal(p.dir, ErrExchangeable, unsafe.Error(), safely)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return refusal(p.dir, ErrNoParent, filepath.Dir(p.dir), "create it first, "+elsewhere)
	case err != nil:
		return LookError(p.dir, err)
	}
	p.parent, p.state, p.holds = parent, seen.State, seen.Holds
	p.dir = filepath.Join(parent.Name(), p.name)
	return nil
}

// opened makes sure that the directory above is open.
func (p *Point) opened() error {
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
func (p *Point) inParent() string { return filepath.Join(probeParent, p.name) }

// at opens the mount point, or what is mounted there. The kernel asks no file system for that, as it would for a stat.
func (p *Point) at() (*os.File, error) {
	if err := p.opened(); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(p.parent.Fd()), p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p.dir, Err: err}
	}
	return os.NewFile(uintptr(fd), p.dir), nil
}

// Prepare takes dead mounts of ours off and makes sure of an empty directory.
func (p *Point) Prepare() error {
	if err := p.opened(); err != nil {
		return err
	}
	if p.state == stateMounted {
		if err := p.clear(); err != nil {
			return err
		}
		name, err := probe(probeEmpty, p.inParent(), p.parent)
		switch {
		case err != nil:
			return LookError(p.dir, err)
		case name == "":
			p.state = stateEmpty
		default:
			p.state, p.holds = stateFull, name
		}
	}
	switch p.state {
	case stateMissing:
		return p.create()
	case stateNotDir:
		return refusal(p.dir, ErrNotDir, "", "remove it, "+elsewhere)
	case stateFull:
		return refusal(p.dir, ErrNotEmpty, fmt.Sprintf("it holds %q", p.holds), "move away what is in it, "+elsewhere)
	}
	return p.claim.write()
}

// maxStacked bounds the dead mounts that are taken off one directory.
const maxStacked = 16

// clear takes off the dead mounts of ours that are stacked on the directory.
func (p *Point) clear() error {
	for range maxStacked {
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

func (p *Point) clearOne(m Mount, f *os.File) error {
	if m.Type != FSType {
		return refusal(p.dir, ErrForeign, fmt.Sprintf("%s of type %s", m.Source, m.Type), "unmount that first, "+elsewhere)
	}
	// The lock says that no daemon with our run-time directory is alive. One with another may be: a mount that does not
	// say that it is dead belongs to somebody.
	_, err := probe(probeAlive, p.inParent(), p.parent)
	var other syscall.Errno
	switch {
	case IsDead(err):
	case errors.Is(err, ErrHangs):
		return refusal(p.dir, ErrServed, "with another run-time directory, and it does not answer", stopThat)
	case err == nil, errors.As(err, &other):
		return refusal(p.dir, ErrServed, "with another run-time directory", stopThat)
	default:
		return LookError(p.dir, err)
	}
	if err := detachFile(f, p.dir, unix.MNT_DETACH); err != nil {
		return LookError(p.dir, fmt.Errorf("detach a dead mount: %w", err))
	}
	return nil
}

func (p *Point) create() error {
	p.claim.text.Made = true
	if err := p.claim.write(); err != nil {
		p.claim.text.Made = false
		return err
	}
	err := unix.Mkdirat(int(p.parent.Fd()), p.name, 0o700)
	if err != nil {
		p.claim.text.Made = false
		return makeError(p.dir, errors.Join(err, p.claim.write()))
	}
	f, err := p.at()
	if err == nil {
		if err = safepath.IsEmpty(f); err == nil {
			err = safepath.Chmod(f, 0o755) // whatever the umask says
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return makeError(p.dir, err)
	}
	return nil
}

// top finds what is mounted on the point, and opens it; the file is nil if nothing is.
func (p *Point) top() (Mount, *os.File, error) {
	f, err := p.at()
	if errors.Is(err, os.ErrNotExist) {
		return Mount{}, nil, nil
	}
	if err != nil {
		return Mount{}, nil, LookError(p.dir, err)
	}
	m, ok, err := mountAt(p.parent, p.name, f)
	if ok {
		return m, f, nil
	}
	return Mount{}, nil, errors.Join(err, f.Close())
}

// Detach takes off what is mounted on the point if it is wanted, and nothing else that is there. It reports whether it
// was. flags are those of umount2(2).
func (p *Point) Detach(flags int, wanted func(m Mount, f *os.File) bool) (bool, error) {
	m, f, err := p.top()
	if err != nil || f == nil {
		return false, err
	}
	defer f.Close()
	if m.Type != FSType || !wanted(m, f) {
		return false, nil
	}
	return true, detachFile(f, p.dir, flags)
}

// HasDevice is for [Point.Detach]: the mount of a device, "major:minor", that is known to be connected.
func HasDevice(device string) func(Mount, *os.File) bool {
	return func(m Mount, _ *os.File) bool { return m.Device == device }
}

// IsClaimed is for [Point.Detach]: the mount that the claim names.
func (p *Point) IsClaimed(m Mount, f *os.File) bool {
	return p.claim.text.Mount != nil && *p.claim.text.Mount == identityOf(m, f)
}

// Release removes the directory if it was made for a mount of ours, and the claim.
func (p *Point) Release() error {
	if p.claim.text.Made {
		if err := p.removeDir(); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	err := p.claim.release()
	return errors.Join(err, p.Close())
}

// removeDir removes a directory, and nothing else that somebody may have put in its place.
func (p *Point) removeDir() error {
	if err := p.opened(); err != nil {
		return err
	}
	err := unix.Unlinkat(int(p.parent.Fd()), p.name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: p.dir, Err: err}
	}
	return nil
}

// Close lets go of everything, and leaves the claim to whoever comes next.
func (p *Point) Close() error {
	p.parent.Close() // nil or not
	if p.claim == nil {
		return nil
	}
	return p.claim.close()
}

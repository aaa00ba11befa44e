package mountpoint

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// Mounts lists the mount points that daemons with this run-time directory have claimed, dead or alive.
func Mounts(runtimeDir string) (dirs []string, err error) {
	folder, err := claimDir(runtimeDir, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	list, err := safepath.Reopen(folder, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, claimPrefix) || !strings.HasSuffix(name, claimSuffix) {
			continue
		}
		fd, err := unix.Openat(int(folder.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // gone since
		}
		f := os.NewFile(uintptr(fd), name)
		text, err := io.ReadAll(io.NewSectionReader(f, 0, maxClaim))
		f.Close()
		// The name follows from what the file says.
		said, ok := parseClaim(text)
		if err == nil && ok && said.RuntimeDir == runtimeDir && claimName(said.Dir) == name {
			dirs = append(dirs, said.Dir)
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// How much the caller knows of the daemon when [CleanUp] looks at a mount that does not answer.
const (
	MayLive      = iota // the mount stays unless it says that it is dead
	Ended               // if the lock is held, a successor gets the mount, which stays
	EndedForGood        // no successor comes
)

// CleanUp takes away what a daemon with this run-time directory has left on a mount point that nobody serves: dead mounts,
// and the directory if it was made for them. It is no error if there is nothing. The error is ErrServed if somebody serves
// it.
//
// A mount that does not answer may belong to a daemon that lives. If the daemon is known to have ended, the mount is taken
// off all the same, if it is the very one that was made for this daemon. With EndedForGood that holds even if somebody has
// its lock: without a daemon nobody gets an answer, and what the daemon left behind may keep the mount.
func CleanUp(dir, runtimeDir string, known int) error {
	c, err := claimToCleanUp(dir, runtimeDir, known)
	if c == nil || err != nil {
		return err
	}
	p := &Point{dir: dir, name: filepath.Base(dir), users: []int{c.before.UID}, claim: c}
	err = p.opened()
	if errors.Is(err, ErrNoParent) {
		c.text.Made = false // nor is there anything to remove
		return p.Release()
	}
	if err == nil && known != MayLive {
		_, err = p.Detach(unix.MNT_DETACH|unix.MNT_FORCE, p.isForced)
	}
	if err == nil {
		err = p.clear()
	}
	if errors.Is(err, ErrServed) && !p.isThere() {
		// The mount that the claim names is gone, and another is in its place: nothing there is ours.
		c.text.Made = false
		return p.Release()
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return p.Release()
}

// claimToCleanUp locks and reads the claim of a mount point, as far as the caller may act on it; nil if there is nothing to
// clean up.
func claimToCleanUp(dir, runtimeDir string, known int) (*claim, error) {
	folder, err := claimDir(runtimeDir, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &claim{dir: folder, name: claimName(dir), text: claimText{RuntimeDir: runtimeDir, Dir: dir}}
	err = c.acquire(false)
	if errors.Is(err, ErrServed) && known == EndedForGood {
		err = c.look()
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, c.close()
	case err != nil:
		return nil, errors.Join(err, c.close())
	case c.before.RuntimeDir != runtimeDir: // of a daemon with another one, or it says nothing
		return nil, c.close()
	}
	return c, nil
}

// isForced reports whether a mount is to be taken off although it does not answer. Before Linux 6.8 the kernel uses the
// numbers of a mount that has ended again: one that answers may be another daemon's, and stays.
func (p *Point) isForced(m Mount, f *os.File) bool {
	if !p.IsClaimed(m, f) {
		return false
	}
	if p.claim.text.Mount.Unique != 0 {
		return true
	}
	_, err := probe(probeAlive, p.inParent(), p.parent)
	return err != nil
}

// isThere reports whether the mount that the claim names is on the point.
func (p *Point) isThere() bool {
	m, f, err := p.top()
	if err != nil || f == nil {
		return false
	}
	defer f.Close()
	return p.IsClaimed(m, f)
}

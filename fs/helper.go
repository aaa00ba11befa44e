package fs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MountFor mounts on cfg.Dir for a daemon that may not do so itself, and leaves device and lock with
// cfg.Keeper, for whom it is a [Predecessor] that has not answered yet. It reports false, and does nothing, if the
// mount point is locked already: a daemon serves it, or it is kept for one.
//
// Root does this for a user whom it does not trust: what it notes for [CleanUp] lies where only root writes. That user
// may own directories above the mount point, but no symbolic link on the way.
func MountFor(cfg Config, uid, gid int) (bool, error) {
	p, err := claimPoint(cfg.Dir, cfg.RuntimeDir, []int{uid}, nil)
	if errors.Is(err, ErrServed) {
		return false, keptFor(cfg, uid)
	}
	if err != nil {
		return false, err
	}
	defer p.close() // the lock stays locked as long as it is kept
	if legacyLocked(p.dir, cfg.RuntimeDir) {
		return false, p.claim.write() // so that CleanUp looks there, when that mount is dead
	}
	if err := p.prepare(); err != nil {
		return false, errors.Join(err, p.release())
	}
	device, err := attachDirectly(p, cfg.Source, uid, gid)
	if err != nil {
		return false, errors.Join(lookError(p.dir, err), p.release())
	}
	defer device.Close()
	err = cfg.Keeper.Keep(keptLock, p.claim.lock)
	if err == nil {
		if err = cfg.Keeper.Keep(KeptDevice, device); err != nil {
			cfg.Keeper.Drop(keptLock)
		}
	}
	if err != nil {
		_, undo := p.detach(unix.MNT_DETACH, p.isClaimed)
		return false, errors.Join(fmt.Errorf("mount %s: %w", p.dir, err), undo, p.release())
	}
	return true, nil
}

// keptFor refuses a mount point that is locked, but not for a daemon with this run-time directory.
func keptFor(cfg Config, uid int) error {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	p := &point{dir: dir, name: filepath.Base(dir), users: []int{uid}}
	if err := p.open(); err != nil {
		return err
	}
	defer p.close()
	if p.claim, err = openClaim(p.dir, cfg.RuntimeDir, uid); err != nil {
		return err
	}
	_, err = p.claim.movedFrom()
	return err
}

// legacyLocked reports whether a mount is kept that a version before this one has made: its lock lay in the run-time
// directory, whoever that belonged to. Nothing more follows from it than that nothing is done.
func legacyLocked(dir, runtimeDir string) bool {
	f, err := os.OpenFile(filepath.Join(runtimeDir, claimName(dir)), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// isClaimed reports whether a mount is the one that the claim tells of.
func (p *point) isClaimed(m mounted, f *os.File) bool {
	return p.claim.text.Mount != nil && *p.claim.text.Mount == identityOf(m, f)
}

// How much is known of the daemon when [CleanUp] looks at a mount that does not answer.
const (
	MayLive      = iota // the mount stays unless it says that it is dead
	Ended               // if the lock is held, a successor gets the mount, which stays
	EndedForGood        // no successor comes
)

// CleanUp takes what a daemon with this run-time directory has left on a mount point that nobody serves: dead mounts,
// and the directory if it was made for them. It is no error if there is nothing. The error is ErrServed if somebody does.
//
// A mount that does not answer may be of a daemon that lives. If that is known to have ended, the mount is taken off all
// the same if it is the very one that was made for this daemon; with EndedForGood also if somebody holds its lock: without a
// daemon, whoever waits for an answer waits in vain, and what the daemon has left behind may keep the mount.
func CleanUp(dir, runtimeDir string, known int) error {
	folder, err := claimDir(runtimeDir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c := &claim{dir: folder, name: claimName(dir), text: claimText{RuntimeDir: runtimeDir, Dir: dir}}
	err = c.acquire(false)
	served := errors.Is(err, ErrServed)
	if served && known == EndedForGood {
		err = c.look()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return c.close()
	}
	if err != nil {
		return errors.Join(err, c.close())
	}
	if c.before.RuntimeDir != runtimeDir {
		return c.close() // of a daemon with another one, or it says nothing
	}
	p := &point{dir: dir, name: filepath.Base(dir), users: []int{c.before.UID}, claim: c}
	err = p.opened()
	if errors.Is(err, ErrNoParent) {
		c.text.Made = false // nor is there anything to remove
		return p.release()
	}
	if err == nil && known != MayLive {
		_, err = p.detach(unix.MNT_DETACH|unix.MNT_FORCE, p.isForced)
	}
	if err == nil {
		err = p.clear()
	}
	if errors.Is(err, ErrServed) && !p.isThere() {
		// The mount is gone that the claim tells of, and another is in its place: nothing there is ours.
		c.text.Made = false
		return p.release()
	}
	if err != nil {
		return errors.Join(err, p.close())
	}
	return p.release()
}

// isForced reports whether a mount is to be taken off although it does not answer. Before Linux 6.8 the numbers of a
// mount that has ended are used again: then one that answers may be another daemon's, and stays.
func (p *point) isForced(m mounted, f *os.File) bool {
	if !p.isClaimed(m, f) {
		return false
	}
	if p.claim.text.Mount.Unique != 0 {
		return true
	}
	_, err := probe(probeAlive, p.inParent(), p.parent)
	return err != nil
}

// isThere reports whether the mount that the claim tells of is on the point.
func (p *point) isThere() bool {
	m, f, err := p.top()
	if err != nil || f == nil {
		return false
	}
	defer f.Close()
	return p.isClaimed(m, f)
}

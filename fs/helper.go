package fs

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// MountFor mounts on cfg.Dir for a daemon that may not do so itself, and leaves device and lock with
// cfg.Keeper, for whom it is a [Predecessor] that has not answered yet. The mount point's lock then
// belongs to that user. It reports false, and does nothing, if the mount point is locked already: a
// daemon serves it, or it is kept for one.
func MountFor(cfg Config, uid, gid int) (bool, error) {
	p, err := claim(cfg.Dir, cfg.RuntimeDir, nil)
	if errors.Is(err, ErrServed) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.lock.Close() // which stays locked as long as it is kept
	if err := p.prepare(); err != nil {
		return false, errors.Join(err, p.release())
	}
	device, err := attachDirectly(p.dir, cfg.Source, uid, gid)
	if err != nil {
		return false, errors.Join(lookError(p.dir, err), p.release())
	}
	defer device.Close()
	err = errors.Join(p.lock.Chown(uid, gid), cfg.Keeper.Keep(keptLock, p.lock), cfg.Keeper.Keep(KeptDevice, device))
	if err != nil {
		return false, errors.Join(fmt.Errorf("mount %s: %w", p.dir, err), detach(p.dir, unix.MNT_DETACH), p.release())
	}
	return true, nil
}

// CleanUp takes what daemons have left on a mount point that nobody serves: dead mounts, and the directory
// if it was made for them. It is no error if there is nothing. The error is ErrServed if somebody does.
//
// A mount that does not answer is taken for that of somebody else, unless ours says that it was made for
// a daemon of the same run-time directory: without one, whoever waits for an answer waits in vain, and a
// process that hangs in the mount may keep it from dying.
func CleanUp(dir, runtimeDir string, ours bool) error {
	p, err := claim(dir, runtimeDir, nil)
	if errors.Is(err, ErrNoParent) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if top, ok, err := topmost(p.dir); ours && err == nil && ok && top.fstype == fsType {
		detach(p.dir, unix.MNT_DETACH|unix.MNT_FORCE)
	}
	if err := p.clear(); err != nil {
		return errors.Join(err, p.lock.Close())
	}
	return errors.Join(p.recall(), p.release())
}

// Mounts are the mount points of daemons with this run-time directory, dead or alive.
func Mounts(runtimeDir string) ([]string, error) {
	mounts, err := listMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		p := &point{dir: m.point}
		if _, err := os.Lstat(p.lockPath(runtimeDir)); m.fstype == fsType && err == nil && !slices.Contains(dirs, m.point) {
			dirs = append(dirs, m.point)
		}
	}
	return dirs, nil
}

package fs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

// A daemon without root's rights gets its mount in one of two ways:
//
//   - fusermount3 mounts for it (attachUnprivileged). That user alone can read the mount, and the daemon unmounts it.
//   - Root mounts for it (MountFor) and leaves the device with a Keeper. To the daemon that is a [Predecessor] that has not
//     answered yet (inherited.go). Everybody can read the mount, and root unmounts it.

// attachUnprivileged mounts through fusermount3.
func attachUnprivileged(p *mountpoint.Point, cfg *Config) (*os.File, error) {
	device, err := p.AttachUnprivileged()
	if err != nil {
		return nil, err
	}
	lost := ""
	if cfg.Keeper == nil {
		lost = ", and it does not survive a crash of the daemon"
	}
	cfg.Warn(fmt.Sprintf("%s is mounted through fusermount3 because you are not root: only your own user can read it, not root and not containers%s", p.Dir(), lost))
	return device, nil
}

// MountFor mounts on cfg.Dir for a daemon that may not do so itself, and leaves device and lock with cfg.Keeper. It reports
// false, and does nothing, if the mount point is locked already: a daemon serves it, or it is kept for one.
//
// Root does this for a user whom it does not trust: what it writes down for [CleanUp] lies where only root writes. That user
// may own directories above the mount point, but no symbolic link on the way.
func MountFor(cfg Config, uid, gid int) (bool, error) {
	p, err := mountpoint.ClaimFor(cfg.Dir, cfg.RuntimeDir, uid)
	if errors.Is(err, mountpoint.ErrServed) {
		return false, mountpoint.IsServedFor(cfg.Dir, cfg.RuntimeDir, uid)
	}
	if err != nil {
		return false, err
	}
	defer p.Close() // the lock stays locked as long as it is kept
	if p.IsLockedByOlderVersion(cfg.RuntimeDir) {
		return false, p.WriteClaim() // so that CleanUp looks there when that mount is dead
	}
	if err := p.Prepare(); err != nil {
		return false, errors.Join(err, p.Release())
	}
	device, err := p.Attach(cfg.Source, uid, gid)
	if err != nil {
		return false, errors.Join(mountpoint.LookError(p.Dir(), err), p.Release())
	}
	defer device.Close()
	if err := keepMounted(cfg.Keeper, p, device); err != nil {
		_, undo := p.Detach(unix.MNT_DETACH, p.IsClaimed)
		return false, errors.Join(fmt.Errorf("mount %s: %w", p.Dir(), err), undo, p.Release())
	}
	return true, nil
}

func keepMounted(k Keeper, p *mountpoint.Point, device *os.File) error {
	if err := k.Keep(keptLock, p.Lock()); err != nil {
		return err
	}
	if err := k.Keep(KeptDevice, device); err != nil {
		k.Drop(keptLock)
		return err
	}
	return nil
}

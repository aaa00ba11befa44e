package mountpoint

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// IsServedFor reports why the mount point at dir, which somebody has locked, is not served by the daemon with this run-time
// directory, and nil if it is. uid is the user of the daemon.
func IsServedFor(dir, runtimeDir string, uid int) error {
	p, err := newPoint(dir, []int{uid})
	if err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	defer p.Close()
	if p.claim, err = openClaim(p.dir, runtimeDir, uid); err != nil {
		return err
	}
	_, err = p.claim.movedFrom()
	return err
}

// IsLockedByOlderVersion reports whether a mount is kept that an older version made: its lock was in the run-time directory,
// whoever that belonged to. The answer may be forged, so nothing may follow from it but that nothing is done.
func (p *Point) IsLockedByOlderVersion(runtimeDir string) bool {
	f, err := os.OpenFile(filepath.Join(runtimeDir, claimName(p.dir)), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

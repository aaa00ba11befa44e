package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountAt finds what is mounted on a name in a directory: at is open there. It asks no file system.
func mountAt(parent *os.File, name string, at *os.File) (m Mount, ok bool, err error) {
	id, err := mountID(at)
	above, aboveErr := mountID(parent)
	switch err := errors.Join(err, aboveErr); {
	case errors.Is(err, os.ErrPermission):
		// An ordinary user is not told of a process that shows itself to nobody, not even of its own.
		return Topmost(filepath.Join(parent.Name(), name))
	case err != nil:
		return Mount{}, false, err
	case id == above:
		return Mount{}, false, nil
	}
	mounts, err := listMounts()
	if err != nil {
		return Mount{}, false, err
	}
	for _, m := range mounts {
		if m.ID == id {
			return m, true, nil
		}
	}
	return Mount{}, false, fmt.Errorf("%s: its mount, number %s, is not in /proc/self/mountinfo", at.Name(), id)
}

// mountID is the number by which mountinfo lists the mount that an open file is on. It is a variable for tests.
var mountID = func(f *os.File) (string, error) {
	if stx, ok := statMount(f, unix.STATX_MNT_ID); ok { // since Linux 5.8
		return strconv.FormatUint(stx.Mnt_id, 10), nil
	}
	return mountIDOfProc(f)
}

func mountIDOfProc(f *os.File) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("/proc/self/fdinfo: no mnt_id")
}

// statMount asks for the number of a mount alone, and nothing of the file system.
func statMount(f *os.File, which int) (stx unix.Statx_t, ok bool) {
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, which, &stx)
	return stx, err == nil && stx.Mask&uint32(which) != 0
}

// A mountIdentity tells a mount from every other one, also from later ones.
type mountIdentity struct {
	// Unique is never used again until the next boot; 0 before Linux 6.8. The others are, after the mount has ended.
	Unique uint64 `json:"unique,omitempty"`
	ID     string `json:"id"`
	Device string `json:"device"` // "major:minor"
}

// identityOf is that of the mount m, of which f is open.
func identityOf(m Mount, f *os.File) mountIdentity {
	return mountIdentity{uniqueID(f), m.ID, m.Device}
}

// uniqueID is 0 where the kernel has none.
var uniqueID = func(f *os.File) uint64 {
	stx, ok := statMount(f, unix.STATX_MNT_ID_UNIQUE)
	if !ok {
		return 0
	}
	return stx.Mnt_id
}

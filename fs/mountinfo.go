package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mounted is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mounted struct {
	id     string
	parent string // id of the mount that it is mounted on
	device string // "major:minor"
	root   string // what of the file system is mounted, "/" for all of it
	point  string
	fstype string
	source string
}

// topmost finds what is mounted on exactly this path: the last of several, and nothing that another
// mount further up hides. It reads the kernel's list only: touching the path could hang.
func topmost(dir string) (mounted, bool, error) {
	mounts, err := listMounts()
	if err != nil {
		return mounted{}, false, err
	}
	top, ok := visible(mounts, dir)
	return top, ok, nil
}

func listMounts() (mounts []mounted, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		m, err := parseMountinfo(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// mountAt finds what is mounted on a name in a directory: at is open there. It asks no file system.
func mountAt(parent *os.File, name string, at *os.File) (m mounted, ok bool, err error) {
	id, err := mountID(at)
	above, aboveErr := mountID(parent)
	switch err := errors.Join(err, aboveErr); {
	case errors.Is(err, fs.ErrPermission):
		// An ordinary user is not told of a process that shows itself to nobody, not even of its own.
		return topmost(filepath.Join(parent.Name(), name))
	case err != nil:
		return mounted{}, false, err
	case id == above:
		return mounted{}, false, nil
	}
	mounts, err := listMounts()
	if err != nil {
		return mounted{}, false, err
	}
	for _, m := range mounts {
		if m.id == id {
			return m, true, nil
		}
	}
	return mounted{}, false, fmt.Errorf("%s: its mount, number %s, is not in /proc/self/mountinfo", at.Name(), id)
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
func identityOf(m mounted, f *os.File) mountIdentity {
	return mountIdentity{uniqueID(f), m.id, m.device}
}

// uniqueID is 0 where the kernel has none.
var uniqueID = func(f *os.File) uint64 {
	stx, ok := statMount(f, unix.STATX_MNT_ID_UNIQUE)
	if !ok {
		return 0
	}
	return stx.Mnt_id
}

// visible walks down to dir as the kernel does, from mount to mount.
func visible(mounts []mounted, dir string) (mounted, bool) {
	listed := map[string]bool{}
	for _, m := range mounts {
		listed[m.id] = true
	}
	type place struct{ parent, point string }
	on := map[place]mounted{}
	for _, m := range mounts {
		if !listed[m.parent] || m.parent == m.id {
			m.parent = "" // of the root, or of what contains the root of a chroot
		}
		on[place{m.parent, m.point}] = m
	}
	var at mounted
	descend := func(point string) {
		for {
			m, ok := on[place{at.id, point}]
			if !ok {
				return
			}
			at = m
		}
	}
	descend("/")
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			descend(dir[:i])
		}
	}
	return at, at.id != "" && at.point == dir
}

func parseMountinfo(line string) (mounted, error) {
	mount, kind, ok := strings.Cut(line, " - ")
	a, b := strings.Split(mount, " "), strings.Split(kind, " ")
	if !ok || len(a) < 6 || len(b) < 2 {
		return mounted{}, fmt.Errorf("/proc/self/mountinfo: line not understood: %q", line)
	}
	return mounted{id: a[0], parent: a[1], device: a[2], root: unescape(a[3]), point: unescape(a[4]), fstype: unescape(b[0]), source: unescape(b[1])}, nil
}

// unescape undoes the kernel's octal escapes of blanks, line ends and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

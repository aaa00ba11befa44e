package fs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A mounted is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mounted struct {
	id     string
	parent string // id of the mount that it is mounted on
	device string // "major:minor"
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
	return mounted{id: a[0], parent: a[1], device: a[2], point: unescape(a[4]), fstype: unescape(b[0]), source: unescape(b[1])}, nil
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

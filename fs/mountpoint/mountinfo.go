package mountpoint

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// FSType is the type of our file systems, as the list of mounts shows it.
const (
	FSType  = "fuse." + Subtype
	Subtype = "imdsfs"
)

// A Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID     string
	Parent string // ID of the mount that it is mounted on
	Device string // "major:minor"
	Root   string // what of the file system is mounted, "/" for all of it
	Point  string
	Type   string
	Source string
}

// Topmost finds what is mounted on exactly this path: the last of several, and nothing that another
// mount further up hides. It reads the kernel's list only: touching the path could hang.
func Topmost(dir string) (Mount, bool, error) {
	mounts, err := listMounts()
	if err != nil {
		return Mount{}, false, err
	}
	top, ok := visible(mounts, dir)
	return top, ok, nil
}

func listMounts() (mounts []Mount, err error) {
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
func visible(mounts []Mount, dir string) (Mount, bool) {
	listed := map[string]bool{}
	for _, m := range mounts {
		listed[m.ID] = true
	}
	type place struct{ parent, point string }
	on := map[place]Mount{}
	for _, m := range mounts {
		if !listed[m.Parent] || m.Parent == m.ID {
			m.Parent = "" // of the root, or of what contains the root of a chroot
		}
		on[place{m.Parent, m.Point}] = m
	}
	var at Mount
	descend := func(point string) {
		for {
			m, ok := on[place{at.ID, point}]
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
	return at, at.ID != "" && at.Point == dir
}

func parseMountinfo(line string) (Mount, error) {
	mount, kind, ok := strings.Cut(line, " - ")
	a, b := strings.Split(mount, " "), strings.Split(kind, " ")
	if !ok || len(a) < 6 || len(b) < 2 {
		return Mount{}, fmt.Errorf("/proc/self/mountinfo: line not understood: %q", line)
	}
	return Mount{ID: a[0], Parent: a[1], Device: a[2], Root: unescape(a[3]), Point: unescape(a[4]), Type: unescape(b[0]), Source: unescape(b[1])}, nil
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

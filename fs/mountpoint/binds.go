package mountpoint

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a search for bind mounts: other users decide how many processes and mounts there are.
const (
	maxMountViews = 4096    // different lists of mounts
	maxMountinfo  = 8 << 20 // bytes of one of them
	maxBinds      = 1000
)

// A Bind is a bind mount of a part of a tree, as a process sees it.
type Bind struct {
	PID     int    `json:"pid"`     // the lowest of those that have this list of mounts
	Process string `json:"process"` // the name that the process gives itself; any bytes but NUL
	Point   string `json:"point"`   // where it is mounted
	Path    string `json:"path"`    // what of the tree is bound: "/latest/meta-data/mac"
	// Old is set when the tree no longer has, under Path, what is bound.
	Old bool `json:"old"`
}

// deleted ends the root of a mount in mountinfo when no name leads to it any more (seq_dentry in fs/seq_file.c).
const deleted = "//deleted"

// Binds lists the bind mounts of parts of the tree that the process daemon shows on dir, in the mounts of all processes
// that the caller may look at, by process and place. It reads lists of the kernel only: touching a path in another process's
// mounts could hang. complete is false if ctx ended first, or there is too much to look at. The error is
// os.ErrNotExist if the process has no mount of ours on dir.
func Binds(ctx context.Context, daemon int, dir string) (binds []Bind, complete bool, err error) {
	device, err := deviceOf(daemon, dir)
	if err != nil {
		return nil, false, err
	}
	pids, err := processes()
	if err != nil {
		return nil, false, err
	}
	seen := map[string]bool{}
	for _, pid := range pids {
		if ctx.Err() != nil || len(seen) >= maxMountViews || len(binds) >= maxBinds {
			return binds, false, nil
		}
		// One that has ended, or that we may not look at, has no view.
		view, ok := mountView(pid)
		if !ok || seen[view] {
			continue
		}
		seen[view] = true
		name := ""
		eachMount(pid, device, func(m Mount) {
			path, old := strings.CutSuffix(m.Root, deleted)
			if path == "/" || len(binds) >= maxBinds {
				return
			}
			if name == "" {
				comm, _ := os.ReadFile(procFile(pid, "comm"))
				name = cmp.Or(strings.TrimSuffix(string(comm), "\n"), "?")
			}
			binds = append(binds, Bind{PID: pid, Process: name, Point: m.Point, Path: path, Old: old})
		})
	}
	return binds, true, nil
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// processes are the ids of all processes, the lowest first.
func processes() (pids []int, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, err
}

// mountView names the list of mounts that a process sees: its mount namespace, and its root directory in it.
func mountView(pid int) (view string, ok bool) {
	namespace, err := os.Readlink(procFile(pid, "ns/mnt"))
	root, rootErr := os.Readlink(procFile(pid, "root"))
	return namespace + " " + root, errors.Join(err, rootErr) == nil
}

// deviceOf is the device, "major:minor", of our file system that a process sees on dir.
func deviceOf(pid int, dir string) (string, error) {
	var mounts []Mount
	if err := eachMount(pid, "", func(m Mount) { mounts = append(mounts, m) }); err != nil {
		return "", err
	}
	m, ok := visible(mounts, filepath.Clean(dir))
	if !ok || m.Type != FSType {
		return "", fmt.Errorf("process %d has no mount of imdsfs on %s: %w", pid, dir, os.ErrNotExist)
	}
	return m.Device, nil
}

// eachMount calls f for the mounts of a device that a process sees, "" for every device. Lines that are not understood
// are left out.
func eachMount(pid int, device string, f func(Mount)) error {
	file, err := os.Open(procFile(pid, "mountinfo"))
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxMountinfo))
	lines.Buffer(nil, 16*unix.PathMax) // two paths, of which each byte may be written as four
	for lines.Scan() {
		m, err := parseMountinfo(lines.Text())
		if err == nil && (device == "" || m.Device == device) {
			f(m)
		}
	}
	return lines.Err()
}

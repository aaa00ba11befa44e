package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A mountSite is a site with a world of its own, where mount(8) finds mount.fuse.imdsfs: its mounts, its network, its
// /run, /var/lib and /var/log, and in its /etc what is below etc. Nothing of the host changes.
type mountSite struct {
	*site
	world  int      // a process in it
	etc    string   // seen over the host's /etc
	copied []string // mount points that were there before
}

const mountWorld = `mount -t overlay -o lowerdir="$1/sbin:/usr/sbin" overlay /usr/sbin &&
mount -t overlay -o lowerdir="$1/etc:/etc" overlay /etc &&
for dir in /run /var/lib /var/log; do mount -t tmpfs tmpfs $dir || exit; done; ip link set lo up && exec sleep 1000`

// newMountSite has the instance file at its default place too, and fstab.
func newMountSite(t *testing.T, text, fstab string) *mountSite {
	t.Helper()
	for _, tool := range []string{"mount", "umount", "unshare", "nsenter", "ip"} {
		kit.RequireCommand(t, tool)
	}
	kit.Require(t, strings.Contains(kit.ReadFile(t, "/proc/filesystems"), "\toverlay\n"), "overlayfs")
	w := &mountSite{site: newSite(t, text)}
	w.etc = w.mustMkdir("etc")
	imdsfs, err := exec.LookPath("imdsfs")
	must(t, err, os.Symlink(imdsfs, w.base+"/program"), os.Symlink(w.base+"/program", w.mustMkdir("sbin")+"/mount.fuse.imdsfs"),
		os.Symlink(w.base+"/program", w.base+"/sbin/mount.imdsfs"),
		os.WriteFile(w.etc+"/fstab", []byte(fstab), 0o644), os.MkdirAll(w.etc+"/imdsfs", 0o755),
		os.WriteFile(w.base+daemon.DefaultFile, []byte(text), 0o644))
	t.Setenv("TMPDIR", w.mustMkdir("tmp"))
	w.world = w.holder("unshare", "-mn", "sh", "-c", mountWorld, "sh", w.base)
	w.copied = w.mounts()
	t.Cleanup(w.nothingLeft)
	return w
}

// nothingLeft waits for the end of daemons that were unmounted, and ends those that were not.
func (w *mountSite) nothingLeft() {
	w.t.Helper()
	for _, point := range w.mounts() {
		w.t.Errorf("left mounted: %s", point)
		w.try("umount -l " + point)
	}
	kit.Eventually(w.t, "no daemon is left", func() bool { return len(w.daemons()) == 0 })
	if left, _ := filepath.Glob(w.base + "/tmp/*"); len(left) > 0 {
		w.t.Errorf("left behind: %v", left)
	}
}

// try runs a line of shell in the world, and returns what it prints and its exit code. A daemon that holds on to
// standard output or error fails the test.
func (w *mountSite) try(line string) (string, int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience) // also in a clean-up
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(w.world), "-m", "-n", "--wd="+w.base, "sh", "-c", line)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		w.t.Fatalf("%s: does not end, or somebody holds its output: %v\n%s", line, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// run is try that has to succeed.
func (w *mountSite) run(line string) string {
	w.t.Helper()
	out, code := w.try(line)
	if code != 0 {
		w.t.Fatalf("%s: exit code %d\n%s", line, code, out)
	}
	return out
}

// fails is try that must fail in this way and print this; PLACE stands for the site.
func (w *mountSite) fails(code int, line, want string) {
	w.t.Helper()
	said, got := w.try(line)
	if want = strings.ReplaceAll(want, "PLACE", w.base); got != code || said != want {
		w.t.Errorf("%s: exit code %d, want %d\n%swant\n%s", line, got, code, said, want)
	}
}

// mounts are the mount points of daemons in the world.
func (w *mountSite) mounts() (points []string) {
	for line := range strings.Lines(kit.ReadFile(w.t, "/proc/"+strconv.Itoa(w.world)+"/mountinfo")) {
		if point := strings.Fields(line)[4]; strings.Contains(line, " fuse.imdsfs ") && !slices.Contains(w.copied, point) {
			points = append(points, point)
		}
	}
	return points
}

// daemons are the processes that serve, keepers included, and those that they started.
func (w *mountSite) daemons() (pids []int) {
	for pid, command := range w.processes() {
		if strings.Contains(command, "imdsfs") && pid != w.world && !strings.Contains(command, "nsenter") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// directories are the options for directories of the site's own.
func (w *mountSite) directories() string {
	return "runtime-dir=" + w.runtime + ",state-dir=" + w.state + ",listen=127.0.0.1:0"
}

// mountIt mounts the site's file at the site's mount point, with options besides those for directories.
func (w *mountSite) mountIt(options string) string {
	w.t.Helper()
	return w.run("mount -t fuse.imdsfs -o " + w.directories() + "," + options + " " + w.file + " " + w.mount)
}

// umount unmounts. While the daemon's watchdog looks at the mount, it is busy.
func (w *mountSite) umount(dir string) {
	w.t.Helper()
	kit.Eventually(w.t, "umount "+dir, func() bool {
		said, code := w.try("umount " + dir)
		if code != 0 && !strings.Contains(said, "target is busy") {
			w.t.Fatalf("umount %s: exit code %d\n%s", dir, code, said)
		}
		return code == 0
	})
}

// umountIt unmounts, and waits until nothing of the daemon is left.
func (w *mountSite) umountIt() {
	w.t.Helper()
	w.umount(w.mount)
	kit.Eventually(w.t, "the daemon has ended", func() bool { return len(w.daemons()) == 0 })
	if w.made() {
		w.t.Errorf("%s is left", w.mount)
	}
}

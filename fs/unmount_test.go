package fs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"golang.org/x/sys/unix"
)

func ended(d *Door) bool {
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

func TestUnmountOfABusyMount(t *testing.T) {
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	d, err := Mount(Config{Dir: dir, RuntimeDir: t.TempDir()}, snapshotOf(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	inside := exec.Command("/bin/sleep", "1000")
	inside.Dir = filepath.Join(dir, "latest/meta-data")
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { inside.Process.Kill(); inside.Wait() }()
	fd, err := unix.Open(filepath.Join(dir, "latest/meta-data/mac"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	bind := t.TempDir()
	if err := unix.Mount(dir, bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, bind)

	start := time.Now()
	if err := d.Unmount(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*stopLimit {
		t.Errorf("it took %v", took)
	}
	if isMounted(t, dir) {
		t.Error("still mounted")
	}
	if !ended(d) {
		t.Error("still serving")
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the directory that was made is still there")
	}
	if err := d.Unmount(); err != nil {
		t.Errorf("once more: %v", err)
	}
	d.Publish(snapshotOf(t, nil, "meta-data/x", "1")) // after the end: returns
}

func TestUnmountBySomebodyElse(t *testing.T) {
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	runtimeDir := t.TempDir()
	unmountLater(t, dir)
	d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, snapshotOf(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if ended(d) {
		t.Fatal("ended at once")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "Done is closed", func() bool { return ended(d) })
	if err := d.Unmount(); err != nil {
		t.Errorf("clean up: %v", err)
	}
	d, err = Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, snapshotOf(t, nil))
	if err != nil {
		t.Fatalf("mount again: %v", err)
	}
	if err := d.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestUnmountLeavesWhatSomebodyElseMountedOverIt(t *testing.T) {
	kit.RequireMount(t)
	dir := t.TempDir()
	unmountLater(t, dir)
	d, err := Mount(Config{Dir: dir, RuntimeDir: t.TempDir()}, snapshotOf(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("other", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := d.Unmount(); err == nil || !strings.Contains(err.Error(), "other of type tmpfs") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*stopLimit {
		t.Errorf("it took %v", took)
	}
	if m, _, _ := mountpoint.Topmost(dir); m.Source != "other" {
		t.Error("the other mount is gone")
	}
}

// TestAKilledDaemonHangsNobody: what the kernel keeps goes on being read (credentials for ten minutes at
// most), all else ends with an error.
func TestAKilledDaemonHangsNobody(t *testing.T) {
	kit.RequireMount(t)
	dir := t.TempDir()
	daemon, _ := startDaemon(t, nil, dir, t.TempDir())
	cached := filepath.Join(dir, "latest/meta-data/mac")
	mustRead(t, cached)
	if err := daemon.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	daemon.Wait()
	if got, err := read(cached); err == nil && got != standard["meta-data/mac"] {
		t.Errorf("what was cached reads %q", got)
	}
	if _, err := read(filepath.Join(dir, "latest/meta-data/instance-id")); err != unix.ENOTCONN {
		t.Errorf("what was not: %v", err)
	}
}

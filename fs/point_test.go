package fs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"golang.org/x/sys/unix"
)

// tryMount mounts where the mount should be refused.
func tryMount(t *testing.T, dir, runtimeDir string) error {
	t.Helper()
	kit.RequireMount(t)
	unmountLater(t, dir)
	start := time.Now()
	d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, build(t, nil))
	if err == nil {
		d.Unmount()
	}
	if took := time.Since(start); took > kit.Patience {
		t.Errorf("it took %v", took)
	}
	return err
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		setUp func(t *testing.T, dir string) string // returns the mount point
		want  error
		text  string
	}{
		{"a file", func(t *testing.T, dir string) string {
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}, mountpoint.ErrNotDir, "not a directory"},
		{"a link", func(t *testing.T, dir string) string {
			link := filepath.Join(dir, "link")
			if err := os.Symlink(t.TempDir(), link); err != nil {
				t.Fatal(err)
			}
			return link
		}, mountpoint.ErrNotDir, "not a directory"},
		{"a missing parent", func(t *testing.T, dir string) string {
			return filepath.Join(dir, "missing", "mnt")
		}, mountpoint.ErrNoParent, "missing"},
		{"a file as parent", func(t *testing.T, dir string) string {
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(file, "mnt")
		}, mountpoint.ErrNoParent, "file"},
		{"a directory that holds something", func(t *testing.T, dir string) string {
			if err := os.WriteFile(filepath.Join(dir, "afterburn"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, mountpoint.ErrNotEmpty, `it holds "afterburn"`},
		{"a foreign mount", func(t *testing.T, dir string) string {
			if err := unix.Mount("some", dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			unmountLater(t, dir)
			return dir
		}, mountpoint.ErrForeign, "some of type tmpfs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kit.RequireMount(t)
			dir := c.setUp(t, t.TempDir())
			before := isMounted(t, dir)
			err := tryMount(t, dir, t.TempDir())
			var refused *problem.Error
			if !errors.Is(err, c.want) || !errors.As(err, &refused) || refused.Hint == "" {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q names neither %s nor %s", err, dir, c.text)
			}
			if isMounted(t, dir) != before {
				t.Error("the refusal changed what is mounted")
			}
		})
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := t.TempDir(), t.TempDir()
	startDaemon(t, nil, dir, runtimeDir)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(dir), link); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"same path":                  tryMount(t, dir, runtimeDir),
		"same path, written ../":     tryMount(t, dir+"/../"+filepath.Base(dir), runtimeDir),
		"same path, through a link":  tryMount(t, filepath.Join(link, filepath.Base(dir)), runtimeDir),
		"another run-time directory": tryMount(t, dir, t.TempDir()),
	} {
		if !errors.Is(err, ErrServed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := mustRead(t, filepath.Join(dir, "latest/meta-data/mac")); got != standard["meta-data/mac"] {
		t.Errorf("afterwards the first one shows %q", got)
	}
}

func TestADeadMountIsReplaced(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := t.TempDir(), t.TempDir()
	daemon, _ := startDaemon(t, nil, dir, runtimeDir)
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	daemon.Wait()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != unix.ENOTCONN {
		t.Fatalf("the mount of a killed daemon: %v", err)
	}
	d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, build(t, nil, "meta-data/x", "again"))
	if err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, filepath.Join(dir, "latest/meta-data/x")); got != "again" {
		t.Errorf("%q", got)
	}
	if err := d.Unmount(); err != nil {
		t.Fatal(err)
	}
	if isMounted(t, dir) {
		t.Error("the dead mount is still below")
	}
}

// TestAStoppedDaemonIsLeftAlone: a daemon that was stopped with SIGSTOP holds its lock, so nobody touches the path. With
// another run-time directory a child looks at it, for a second.
func TestAStoppedDaemonIsLeftAlone(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := t.TempDir(), t.TempDir()
	daemon, _ := startDaemon(t, nil, dir, runtimeDir)
	kit.Freeze(t, daemon.Process.Pid)
	for name, runtimeDir := range map[string]string{"its run-time directory": runtimeDir, "another one": t.TempDir()} {
		if err := tryMount(t, dir, runtimeDir); !errors.Is(err, ErrServed) {
			t.Errorf("with %s: %v", name, err)
		}
		if !isMounted(t, dir) {
			t.Fatalf("with %s: its mount was taken away", name)
		}
	}
}

// TestADirectoryThatAKilledDaemonMadeIsRemoved by the next one, when that stops.
func TestADirectoryThatAKilledDaemonMadeIsRemoved(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := filepath.Join(t.TempDir(), "mnt"), t.TempDir()
	for range 2 {
		daemon, _ := startDaemon(t, nil, dir, runtimeDir)
		daemon.Process.Kill()
		daemon.Wait()
	}
	next := func() {
		t.Helper()
		d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, build(t, nil))
		if err == nil {
			err = d.Unmount()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	next()
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	// What somebody else makes there afterwards stays.
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	next()
	if _, err := os.Lstat(dir); err != nil {
		t.Errorf("somebody else's directory: %v", err)
	}
}

func TestAMissingDirectoryIsMadeAndRemoved(t *testing.T) {
	kit.RequireMount(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	d, err := Mount(Config{Dir: dir, RuntimeDir: t.TempDir()}, build(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	var below unix.Stat_t // of the directory under the mount
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(dir), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Fstatat(fd, "mnt", &below, 0); err != nil || below.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("made with mode %o, %v", below.Mode, err)
	}
	if err := d.Unmount(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}

	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if d, err = Mount(Config{Dir: dir, RuntimeDir: t.TempDir()}, build(t, nil)); err != nil {
		t.Fatal(err)
	}
	if err := d.Unmount(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a directory that was there: %v, %v", info, err)
	}
}

func TestProbeGivesUpOnAHungPath(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := t.TempDir(), t.TempDir()
	daemon, _ := startDaemon(t, nil, dir, runtimeDir)
	kit.Freeze(t, daemon.Process.Pid)
	start := time.Now()
	if err := mountpoint.Alive(dir); !errors.Is(err, mountpoint.ErrHangs) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > kit.Patience {
		t.Errorf("it took %v", took)
	}
	// The path below a hung mount is refused, not waited for.
	_, err := Mount(Config{Dir: filepath.Join(dir, "unknown", "mnt"), RuntimeDir: t.TempDir()}, build(t, nil))
	if !errors.Is(err, mountpoint.ErrHangs) {
		t.Errorf("got %v", err)
	}
}

// TestOrdinaryUser mounts through fusermount3 as nobody, in a mount namespace where /dev/fuse is open to
// all, as it is on most machines.
func TestOrdinaryUser(t *testing.T) {
	kit.RequireMount(t)
	kit.RequireCommand(t, "fusermount3", "unshare", "nsenter", "setpriv", "mknod")
	base, err := os.MkdirTemp("", "fs-user-") // t.TempDir is for us alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir, runtimeDir, binary, dev := filepath.Join(base, "mnt"), filepath.Join(base, "run"), filepath.Join(base, "daemon"), filepath.Join(base, "dev")
	text, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.Chmod(base, 0o755), os.Mkdir(dir, 0o700), os.Mkdir(runtimeDir, 0o700), os.Mkdir(dev, 0o755),
		os.Chown(dir, nobody, nobody), os.Chown(runtimeDir, nobody, nobody), os.WriteFile(binary, text, 0o755)); err != nil {
		t.Fatal(err)
	}
	world := exec.Command("unshare", "-m", "sh", "-c",
		`mount -t tmpfs dev "$1" && mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse && exec sleep 1000`, "sh", dev)
	if err := world.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Process.Kill(); world.Wait() })
	mountinfo := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", world.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	kit.Eventually(t, "the namespace is there", func() bool { return strings.Contains(mountinfo(), " /dev/fuse ") })
	inside := []string{"nsenter", "-t", fmt.Sprint(world.Process.Pid), "-m"}
	asUser := append(slices.Clone(inside), "setpriv", "--reuid", fmt.Sprint(nobody), "--regid", fmt.Sprint(nobody), "--clear-groups")
	cat := func(as []string) (string, error) {
		return run(t, 0, as[0], append(as[1:], "/bin/cat", filepath.Join(dir, "latest/meta-data/mac"))...)
	}

	daemon, said := startDaemon(t, append(slices.Clone(asUser), binary), dir, runtimeDir)
	if !strings.Contains(said, "warn: "+dir) || !strings.Contains(said, "only your own user can read it") {
		t.Errorf("what is lost was not said: %q", said)
	}
	if out, err := cat(asUser); err != nil || out != standard["meta-data/mac"] {
		t.Errorf("the user reads %q, %v", out, err)
	}
	if out, err := cat(inside); err == nil {
		t.Errorf("root reads %q", out)
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("the end: %v", err)
	}
	if strings.Contains(mountinfo(), dir+" ") {
		t.Error("still mounted")
	}

	// A killed one is replaced without root as well.
	daemon, _ = startDaemon(t, append(slices.Clone(asUser), binary), dir, runtimeDir)
	daemon.Process.Kill()
	daemon.Wait()
	startDaemon(t, append(slices.Clone(asUser), binary), dir, runtimeDir)
	if out, err := cat(asUser); err != nil || out != standard["meta-data/mac"] {
		t.Errorf("after the kill the user reads %q, %v", out, err)
	}
}

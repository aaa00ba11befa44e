package fs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// hangListing hangs in the middle of a listing of dir until it is killed, and the kernel holds the directory's lock
// meanwhile. Its buffer is a page that never comes, as with a network file system that is gone, or on purpose.
func hangListing(dir string) error {
	page := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	const (
		uffdAPI         = 0xc018aa3f // UFFDIO_API
		uffdRegister    = 0xc020aa00 // UFFDIO_REGISTER
		registerMissing = 1
	)
	api := [3]uint64{0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, uffdAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return fmt.Errorf("UFFDIO_API: %w", errno)
	}
	register := [4]uint64{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), uint64(page), registerMissing}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, uffdRegister, uintptr(unsafe.Pointer(&register))); errno != 0 {
		return fmt.Errorf("UFFDIO_REGISTER: %w", errno)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fmt.Println("hanging")
	_, err = unix.ReadDirent(fd, mem)
	return fmt.Errorf("the listing did not hang: %v", err)
}

// startHanging starts a process that hangs while it lists dir.
func startHanging(t *testing.T, dir string) (release func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), childRole+"=hang", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(release)
	// A process that waits for the directory cannot be killed, the test included.
	limit := time.AfterFunc(kit.Patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() { limit.Stop() })
	buf := make([]byte, 100)
	n, _ := out.Read(buf)
	if text := string(buf[:n]); text != "hanging\n" {
		kit.Require(t, !strings.Contains(text, "userfaultfd"), "userfaultfd")
		t.Fatalf("%s", text)
	}
	kit.Eventually(t, "it hangs in getdents64", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(tasks, func(task string) bool {
			text, err := os.ReadFile(task)
			return err == nil && strings.HasPrefix(string(text), fmt.Sprintf("%d ", unix.SYS_GETDENTS64))
		})
	})
	return release
}

// A hungMount is a mount with a directory that a process is about to hang in.
type hungMount struct {
	t     *testing.T
	door  *Door
	hung  string // the directory
	below int    // a descriptor of its sub-directory sub
	last  *source.Snapshot
}

func newHungMount(t *testing.T, w *warnings) *hungMount {
	t.Helper()
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	first := build(t, nil, hungState(0)...)
	d, err := Mount(Config{Dir: dir, RuntimeDir: t.TempDir(), Warn: w.add}, first)
	if err != nil {
		t.Fatal(err)
	}
	hung := filepath.Join(dir, "latest/meta-data/tags/instance")
	if out, err := run(t, os.Getuid(), "ls", "-lR", dir+"/latest"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &hungMount{t: t, door: d, hung: hung, below: openForTest(t, filepath.Join(hung, "sub"), unix.O_DIRECTORY), last: first}
}

// hungState is the tree of a turn, in pairs of a path and a text.
func hungState(turn int) []string {
	return []string{
		"meta-data/mac", fmt.Sprintf("06:00:00:00:00:%02x", turn), // in the directory above
		"meta-data/tags/instance/a", fmt.Sprintf("a %d", turn), // in the directory itself
		"meta-data/tags/instance/sub/b", fmt.Sprintf("b %d", turn), // below, reached without it
		fmt.Sprintf("meta-data/tags/instance/n%d", turn), "new",
		"dynamic/elsewhere", fmt.Sprintf("c %d", turn),
	}
}

// publish publishes the tree of a turn, and returns how long that took.
func (m *hungMount) publish(turn int) time.Duration {
	m.t.Helper()
	m.last = build(m.t, m.last, hungState(turn)...)
	start := time.Now()
	m.door.Publish(m.last)
	return time.Since(start)
}

// check expects the tree of a turn at these paths.
func (m *hungMount) check(turn int, paths ...string) {
	m.t.Helper()
	want := hungState(turn)
	for i := 0; i < len(want); i += 2 {
		if !slices.Contains(paths, want[i]) {
			continue
		}
		path := filepath.Join(m.door.Dir(), "latest", want[i])
		if filepath.Base(path) == "b" {
			path = fmt.Sprintf("/proc/self/fd/%d/b", m.below)
		}
		if got := mustRead(m.t, path); got != want[i+1] {
			m.t.Errorf("turn %d: %s: %q", turn, want[i], got)
		}
	}
}

// TestAHangingListingHoldsUpItsDirectoryAlone: not the other directories, nor the next snapshot, nor those below it, nor the
// end.
func TestAHangingListingHoldsUpItsDirectoryAlone(t *testing.T) {
	var w warnings
	m := newHungMount(t, &w)
	// Not sub/b: if another test drops the kernel's caches meanwhile, we would look up sub where the process hangs.
	others := []string{"meta-data/mac", "dynamic/elsewhere"}
	m.door.publisher.invalidator.stall = time.Second
	release := startHanging(t, m.hung)
	if took := m.publish(1); took > 10*publishWait {
		t.Errorf("publishing took %v", took)
	}
	m.check(1, others...)
	var took time.Duration
	for turn := 2; turn < 10; turn++ {
		took += m.publish(turn)
		m.check(turn, others...)
	}
	if took >= 8*publishWait {
		t.Errorf("it is waited for again: publishing eight times took %v", took)
	}
	kit.Eventually(t, "the hang is reported", func() bool { return m.door.Stalled() > 0 })
	if text := w.all(); !strings.Contains(text, "/latest/meta-data/tags/instance") {
		t.Errorf("warned of %q", text)
	}

	release()
	kit.Eventually(t, "the kernel has taken everything", m.door.publisher.invalidator.idle)
	m.check(9, append(others, "meta-data/tags/instance/a", "meta-data/tags/instance/sub/b")...)
	if got := names(t, m.hung); !slices.Equal(got, []string{"a", "n9", "sub"}) {
		t.Errorf("listed %q", got)
	}
	for turn := 1; turn < 9; turn++ {
		if err := unix.Access(fmt.Sprintf("%s/n%d", m.hung, turn), unix.F_OK); err != unix.ENOENT {
			t.Errorf("n%d: %v", turn, err)
		}
	}
	m.publish(10)
	m.check(10, append(others, "meta-data/tags/instance/a", "meta-data/tags/instance/n10")...)

	startHanging(t, m.hung)
	m.publish(11)
	start := time.Now()
	if err := m.door.Unmount(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 10*stopLimit {
		t.Errorf("unmounting took %v", took)
	}
}

package fs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// childDeaf is a daemon at the worst moment to be killed: a process waits for the answer to a LOOKUP and so holds the
// directory's lock, and a notification waits for the lock. It prints "deaf" when it answers no more. As soon as standard
// input ends, it changes a value in latest/meta-data, and prints "told".
func childDeaf(dir, runtimeDir string, keeper Keeper) int {
	s, err := source.Build(nil, env(), fragment(nil))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir, Keeper: keeper, Warn: func(text string) { fmt.Println("warn:", text) }}, s)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	change := func(prev *source.Snapshot, mac string) *source.Snapshot {
		next, err := source.Build(prev, env(), fragment(map[string]string{"meta-data/mac": mac}))
		if err != nil {
			panic(err)
		}
		d.Publish(next)
		return next
	}
	// There is a child, as after any first change, and the kernel knows the directory and its attributes.
	for i := range 2 {
		if _, err := read(dir + "/latest/meta-data/mac"); err != nil {
			fmt.Println(err)
			return 1
		}
		if i == 0 {
			s = change(s, "06:00:00:00:00:01")
		}
	}
	// That stays so if another test drops the kernel's caches meanwhile.
	if _, err := unix.Open(dir+"/latest/meta-data", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	d.server.pause()
	fmt.Println("deaf")
	os.Stdin.Read(make([]byte, 1))
	change(s, "06:00:00:00:00:02") // returns after a second
	fmt.Println("told")
	select {}
}

// waitsFor reports whether a thread of the process waits in this function of the kernel.
func waitsFor(pid int, function string) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && strings.Contains(string(text), function) {
			return true
		}
	}
	return false
}

// A forgetful keeper has no successor: what it keeps ends with the daemon.
type forgetful struct{}

func (forgetful) Keep(string, *os.File) error { return nil }
func (forgetful) Drop(string)                 {}

// TestAKillWhilePublishingWedgesNobody: a notification from a thread of the daemon would wait for the lookup, the lookup for
// the daemon, and the daemon's end for its thread, for ever.
func TestAKillWhilePublishingWedgesNobody(t *testing.T) {
	t.Run("nobody keeps the mount", func(t *testing.T) { killWhilePublishing(t, "deaf") })
	t.Run("no successor comes", func(t *testing.T) { killWhilePublishing(t, "deaf, kept") })
}

func killWhilePublishing(t *testing.T, role string) {
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	cmd := exec.Command(os.Args[0], dir, t.TempDir())
	cmd.Env = append(os.Environ(), childRole+"="+role, "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hears := func(word string) {
		t.Helper()
		buf := make([]byte, 1000)
		if n, _ := out.Read(buf); string(buf[:n]) != word+"\n" {
			t.Fatalf("the daemon says %q, want %q", buf[:n], word)
		}
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	hears("deaf")
	reader := exec.Command("stat", dir+"/latest/meta-data/instance-type")
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- reader.Wait() }()
	kit.Eventually(t, "the reader waits for the daemon", func() bool { return waitsFor(reader.Process.Pid, "request_wait_answer") })
	in.Close()
	hears("told")
	var children []int
	kit.Eventually(t, "somebody waits for the directory's lock", func() bool {
		children = childrenOf(cmd.Process.Pid)
		return len(children) == 1 && waitsFor(children[0], "fuse_reverse_inval_entry")
	})

	cmd.Process.Kill()
	dead := make(chan struct{})
	go func() { cmd.Wait(); close(dead) }()
	select {
	case <-dead:
	case <-time.After(kit.Patience):
		t.Error("the daemon does not end")
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("the reader got an answer from nobody")
		}
	case <-time.After(kit.Patience):
		t.Error("the reader hangs")
	}
	kit.Eventually(t, "the child ends", func() bool { return len(children) == 0 || syscall.Kill(children[0], 0) != nil })
	if isMounted(t, dir) { // dead, as after any kill
		if err := unix.Statfs(dir, &unix.Statfs_t{}); !mountpoint.IsDead(err) {
			t.Errorf("the mount is not dead: %v", err)
		}
	}
}

// childrenOf are the processes whose parent it is.
func childrenOf(pid int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(text), ") ")
		var state string
		var child, parent int
		fmt.Sscan(filepath.Base(filepath.Dir(path)), &child)
		fmt.Sscan(rest, &state, &parent)
		if parent == pid && state != "Z" {
			children = append(children, child)
		}
	}
	return children
}

func TestTheChildThatTellsTheKernelIsReplaced(t *testing.T) {
	first := build(t, nil)
	d := mountSnapshot(t, first)
	mac := filepath.Join(d.Dir(), "latest/meta-data/mac")
	prev := first
	for turn := range 20 {
		mustRead(t, mac)
		want := fmt.Sprintf("06:00:00:00:00:%02x", turn)
		prev = build(t, prev, "meta-data/mac", want)
		if pid := d.notifier.pid(); pid != 0 && turn%3 == 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		} else if turn > 0 && turn%3 == 1 && pid == 0 {
			t.Error("there is no child")
		}
		d.Publish(prev)
		if got := mustRead(t, mac); got != want {
			t.Fatalf("turn %d: %q", turn, got)
		}
	}
}

package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// childRole makes the test binary a daemon of its own, which a test can kill. Its values, and the arguments:
//
//	mount DIR RUNTIMEDIR   serves until SIGTERM
//	deaf DIR RUNTIMEDIR    changes a value and answers nothing; "deaf, kept": as if for a successor
//	hang DIR               hangs in a listing of the directory
//	escape DIR CHROOT      tries to get out of the directory
const childRole = "IMDSFS_TEST_CHILD"

func TestMain(m *testing.M) {
	successorGrace, answerLimit = 2*time.Second, 5*time.Second
	ChildMain()
	stress.Main()
	switch os.Getenv(childRole) {
	case "mount":
		os.Exit(serveChild(os.Args[1], os.Args[2]))
	case "deaf":
		os.Exit(childDeaf(os.Args[1], os.Args[2], nil))
	case "deaf, kept":
		os.Exit(childDeaf(os.Args[1], os.Args[2], forgetful{}))
	case "hang":
		fmt.Println(hangListing(os.Args[1]))
		os.Exit(1)
	case "escape":
		if err := escape(os.Args[1], os.Args[2] == "true"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(scratch.Run(m))
}

// serveChild serves until SIGTERM. It prints what it is warned of, then "ready".
func serveChild(dir, runtimeDir string) int {
	// As the daemon does, for its secrets: /proc/self then belongs to root.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	s, err := source.Build(nil, env(), fragment(nil))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir, Warn: func(text string) { fmt.Println("warn:", text) }}, s)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	<-term
	if err := d.Unmount(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

const nobody = 65534 // uid and gid

var fileTime = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

func env() source.Env {
	return source.Env{Now: time.Now(), LaunchTime: fileTime, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// standard is what every test tree holds unless a test says otherwise.
var standard = map[string]string{
	"meta-data/instance-id":                 "i-0a1b2c3d4e5f67890",
	"meta-data/instance-type":               "m5.large",
	"meta-data/local-ipv4":                  "10.0.12.34",
	"meta-data/mac":                         "06:2b:3c:4d:5e:6f",
	"meta-data/placement/availability-zone": "eu-west-1b",
	"meta-data/placement/region":            "eu-west-1",
	"user-data":                             "#!/bin/sh\n",
}

// fragment states standard with changes on top; "" takes a path away.
func fragment(changes map[string]string) *source.Fragment {
	all := maps.Clone(standard)
	maps.Copy(all, changes)
	f := &source.Fragment{Leaves: map[string]source.Value{}}
	for path, text := range all {
		if text != "" {
			f.Leaves[path] = source.Value{Bytes: []byte(text), Mtime: fileTime, Origin: source.Origin{Place: "test"}}
		}
	}
	return f
}

// build makes a snapshot of standard with changes, which are pairs of a path and a text.
func build(t testing.TB, prev *source.Snapshot, pairs ...string) *source.Snapshot {
	t.Helper()
	changes := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		changes[pairs[i]] = pairs[i+1]
	}
	return buildFrom(t, prev, fragment(changes))
}

func buildFrom(t testing.TB, prev *source.Snapshot, f *source.Fragment) *source.Snapshot {
	t.Helper()
	s, err := source.Build(prev, env(), f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// warnings collects what a mount warns of.
type warnings struct {
	mu      sync.Mutex
	texts   []string
	handles bool // it warned that file handles are open, as every mount does before Linux 6.9
}

func (w *warnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == handlesOpen {
		w.handles = true
		return
	}
	w.texts = append(w.texts, text)
}

func (w *warnings) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.texts, "\n")
}

// unmountLater takes away whatever a test leaves mounted on dir.
func unmountLater(t testing.TB, dir string) {
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
}

// mountSnapshot mounts s on a directory that Mount has to make.
func mountSnapshot(t testing.TB, s *source.Snapshot) *Door {
	t.Helper()
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	var w warnings
	d, err := patientMount(Config{Dir: dir, RuntimeDir: t.TempDir(), Warn: w.add}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
		if text := w.all(); text != "" {
			t.Errorf("warned of: %s", text)
		}
	})
	return d
}

// patientMount mounts for a test that expects each change to be visible when Publish returns, however loaded the machine.
func patientMount(cfg Config, s *source.Snapshot) (*Door, error) {
	was := publishWait
	publishWait = kit.Patience
	defer func() { publishWait = was }()
	return Mount(cfg, s)
}

// read reads a whole file with plain system calls. The os package would hand the descriptor to the
// runtime's poller, which asks the file system and so ties up a thread that should answer it.
func read(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return readFrom(fd)
}

func readFrom(fd int) (string, error) {
	var text []byte
	buf := make([]byte, 8192)
	for {
		n, err := unix.Pread(fd, buf, int64(len(text)))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return string(text), err
		}
		text = append(text, buf[:n]...)
	}
}

func mustRead(t testing.TB, path string) string {
	t.Helper()
	text, err := read(path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return text
}

// names lists a directory, sorted.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// run runs a command and returns what it printed on both outputs.
func run(t testing.TB, asUID int, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}
	if asUID != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(asUID), Gid: uint32(asUID)}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// startDaemon mounts in a process of its own and returns it and what it warned of. command runs this
// binary; nil is it itself.
func startDaemon(t testing.TB, command []string, dir, runtimeDir string) (*exec.Cmd, string) {
	t.Helper()
	unmountLater(t, dir)
	if command == nil {
		command = []string{os.Args[0]}
	}
	cmd := exec.Command(command[0], append(command[1:], dir, runtimeDir)...)
	cmd.Env = append(os.Environ(), childRole+"=mount")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var said bytes.Buffer
	buf := make([]byte, 1024)
	for !strings.Contains(said.String(), "ready\n") {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			t.Fatalf("the daemon ended: %s", said.String())
		}
	}
	return cmd, said.String()
}

// isMounted tells from the kernel's list, without touching the path.
func isMounted(t testing.TB, dir string) bool {
	t.Helper()
	_, ok, err := mountpoint.Topmost(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

package mountpoint_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

func TestMain(m *testing.M) {
	fs.ChildMain()
	os.Exit(scratch.Run(m))
}

const (
	nobody   = 65534 // uid and gid
	mac      = "06:2b:3c:4d:5e:6f"
	lockName = "fuse-lock" // under which the lock is kept
)

// snapshotOf makes a tree with a MAC address.
func snapshotOf(t testing.TB) *build.Snapshot {
	t.Helper()
	mtime := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	s, err := build.Build(nil, build.Env{Now: time.Now(), LaunchTime: mtime}, &build.Fragment{Leaves: map[string]tree.Value{
		"meta-data/mac": {Bytes: []byte(mac), Mtime: mtime, Origin: tree.Origin{Place: "test"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unmountLater takes away whatever a test leaves mounted on dir.
func unmountLater(t testing.TB, dir string) {
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
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

// read reads a file with plain system calls: the os package would hand the descriptor to the runtime's poller, which asks
// the file system and so ties up a thread that should answer it.
func read(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	n, err := unix.Pread(fd, buf, 0)
	return string(buf[:max(n, 0)]), err
}

// A memoryKeeper is an [fs.Keeper] within the process.
type memoryKeeper struct {
	mu   sync.Mutex
	held map[string]*os.File
}

func newKeeper(t testing.TB) *memoryKeeper {
	k := &memoryKeeper{held: map[string]*os.File{}}
	t.Cleanup(func() {
		for name := range k.held {
			k.Drop(name)
		}
	})
	return k
}

func (k *memoryKeeper) Keep(name string, f *os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(old uintptr) {
		fd, err := unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			k.held[name] = os.NewFile(uintptr(fd), name)
		}
	})
}

func (k *memoryKeeper) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[name].Close()
	delete(k.held, name)
}

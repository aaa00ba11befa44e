package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A memoryKeeper is a Keeper within the process.
type memoryKeeper struct {
	t    testing.TB
	mu   sync.Mutex
	held map[string]*os.File
	full bool
}

func newMemoryKeeper(t testing.TB) *memoryKeeper {
	k := &memoryKeeper{t: t, held: map[string]*os.File{}}
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
	if k.full {
		return fmt.Errorf("%s: no room", name)
	}
	if k.held[name] != nil {
		k.t.Errorf("%s is kept twice", name)
	}
	twin, err := duplicate(f)
	k.held[name] = twin
	return err
}

func (k *memoryKeeper) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[name].Close()
	delete(k.held, name)
}

// take returns what a successor gets.
func (k *memoryKeeper) take() map[string]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	files := map[string]*os.File{}
	for name, f := range k.held {
		twin, err := duplicate(f)
		if err != nil {
			k.t.Fatal(err)
		}
		files[name] = twin
	}
	return files
}

func (k *memoryKeeper) trees() (names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.held {
		if _, ok := treeNumber(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// A keptDoor is a mount that goes from one door to the next.
type keptDoor struct {
	t        *testing.T
	dir      string
	runtime  string
	keeper   *memoryKeeper
	door     *Door
	warnings warnings
}

func newKeptDoor(t *testing.T, s *source.Snapshot) *keptDoor {
	t.Helper()
	kit.RequireMount(t)
	e := &keptDoor{t: t, dir: filepath.Join(t.TempDir(), "mnt"), runtime: t.TempDir(), keeper: newMemoryKeeper(t)}
	unmountLater(t, e.dir)
	e.mount(s, nil)
	t.Cleanup(func() {
		if err := e.door.Unmount(); err != nil {
			t.Error(err)
		}
		if len(e.keeper.held) != 0 {
			t.Errorf("kept after the end: %v", e.keeper.held)
		}
	})
	return e
}

func (e *keptDoor) mount(s *source.Snapshot, pre *Predecessor) {
	e.t.Helper()
	d, err := patientMount(Config{Dir: e.dir, RuntimeDir: e.runtime, Warn: e.warnings.add, Keeper: e.keeper, Predecessor: pre}, s)
	if err != nil {
		e.t.Fatal(err)
	}
	e.door = d
}

// kill takes everything from the door, as a kill does that comes between two answers.
func (e *keptDoor) kill() {
	e.door.publisher.stop()
	e.door.server.pause()
	e.door.notifier.close(true)
	e.door.device.Close()
	e.door.point.Lock().Close()
}

// succeed lets a successor go on, with what build makes of the last tree that was kept.
func (e *keptDoor) succeed(build func(prev *source.Snapshot) *source.Snapshot) {
	e.t.Helper()
	pre := Inherit(e.keeper.take())
	if pre == nil {
		e.t.Fatal("nothing was kept")
	}
	e.mount(build(pre.Snapshot()), pre)
	if !e.door.Resumed() {
		e.t.Fatalf("mounted afresh: %s", e.warnings.all())
	}
}

func (e *keptDoor) path(path string) string { return e.dir + "/latest/" + path }

func (e *keptDoor) expect(path, want string) {
	e.t.Helper()
	if got, err := read(e.path(path)); got != want || err != nil {
		e.t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func (e *keptDoor) expectNone(path string) {
	e.t.Helper()
	if err := unix.Access(e.path(path), unix.F_OK); err != unix.ENOENT {
		e.t.Errorf("%s: %v, want that it does not exist", path, err)
	}
}

// hold opens and reads a file. again reads it once more, from the daemon and not from the kernel.
func (e *keptDoor) hold(path string) (again func() string) {
	e.t.Helper()
	fd := openForTest(e.t, e.path(path), 0)
	if _, err := readFrom(fd); err != nil {
		e.t.Fatal(err)
	}
	return func() string {
		e.t.Helper()
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			e.t.Fatal(err)
		}
		text, err := readFrom(fd)
		if err != nil {
			e.t.Errorf("%s, which was held: %v", path, err)
		}
		return text
	}
}

func seeAll(t testing.TB, dir string) {
	t.Helper()
	if out, err := run(t, os.Getuid(), "sh", "-c", "ls -lR "+dir+" >/dev/null; find "+dir+" -type f | xargs cat >/dev/null"); err != nil {
		t.Fatalf("%v: %.500s", err, out)
	}
}

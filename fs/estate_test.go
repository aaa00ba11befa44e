package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"golang.org/x/sys/unix"
)

// A shelf is a Keeper within the process.
type shelf struct {
	t    testing.TB
	mu   sync.Mutex
	held map[string]*os.File
	full bool
}

func newShelf(t testing.TB) *shelf {
	k := &shelf{t: t, held: map[string]*os.File{}}
	t.Cleanup(func() {
		for name := range k.held {
			k.Drop(name)
		}
	})
	return k
}

func (k *shelf) Keep(name string, f *os.File) error {
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

func (k *shelf) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[name].Close()
	delete(k.held, name)
}

// take is what a successor gets.
func (k *shelf) take() map[string]*os.File {
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

func (k *shelf) trees() (names []string) {
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

// An estate is a mount that goes from one door to the next.
type estate struct {
	t        *testing.T
	dir      string
	runtime  string
	keeper   *shelf
	door     *Door
	warnings warnings
}

func newEstate(t *testing.T, s *build.Snapshot) *estate {
	t.Helper()
	requireMount(t)
	e := &estate{t: t, dir: filepath.Join(t.TempDir(), "mnt"), runtime: t.TempDir(), keeper: newShelf(t)}
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

func (e *estate) mount(s *build.Snapshot, pre *Predecessor) {
	e.t.Helper()
	d, err := patientMount(Config{Dir: e.dir, RuntimeDir: e.runtime, Warn: e.warnings.add, Keeper: e.keeper, Predecessor: pre}, s)
	if err != nil {
		e.t.Fatal(err)
	}
	e.door = d
}

// kill takes everything from the door, as a kill does, but that it was not in the middle of an answer.
func (e *estate) kill() {
	e.door.publisher.stop()
	e.door.answerer.pause()
	e.door.messenger.close(true)
	e.door.device.Close()
	e.door.point.claim.lock.Close()
}

// succeed has a successor go on. What it builds is made after the last tree that was kept.
func (e *estate) succeed(build func(prev *build.Snapshot) *build.Snapshot) {
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

func (e *estate) path(path string) string { return e.dir + "/latest/" + path }

func (e *estate) expect(path, want string) {
	e.t.Helper()
	if got, err := read(e.path(path)); got != want || err != nil {
		e.t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func (e *estate) expectNone(path string) {
	e.t.Helper()
	if err := unix.Access(e.path(path), unix.F_OK); err != unix.ENOENT {
		e.t.Errorf("%s: %v, want that it does not exist", path, err)
	}
}

// hold opens a file, reads it, and returns what reads it again, from the daemon and not from the kernel.
func (e *estate) hold(path string) (again func() string) {
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

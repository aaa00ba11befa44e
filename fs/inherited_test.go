package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestAMountOutlivesItsDoor(t *testing.T) {
	for name, end := range map[string]func(e *keptDoor){
		"killed": (*keptDoor).kill,
		"handed over": func(e *keptDoor) {
			if _, err := e.door.HandOver(e.keeper); err != nil {
				e.t.Fatal(err)
			}
			e.door.device.Close()
			e.door.point.Lock().Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			one := snapshotOf(t, nil, "meta-data/x", "one", "meta-data/gone", "soon", "meta-data/sub/dir/leaf", "1")
			e := newKeptDoor(t, one)
			bind := t.TempDir()
			if err := unix.Mount(e.path("meta-data"), bind, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			unmountLater(t, bind)
			seeAll(t, e.dir)
			e.expectNone("meta-data/new")
			heldOne, heldGone := e.hold("meta-data/x"), e.hold("meta-data/gone")
			below := openForTest(t, e.path("meta-data/sub/dir"), unix.O_DIRECTORY)
			e.door.Publish(snapshotOf(t, one, "meta-data/x", "two", "meta-data/gone", "soon"))
			e.expect("meta-data/x", "two")
			heldTwo := e.hold("meta-data/x")

			for turn := range 5 {
				end(e)
				e.succeed(func(prev *build.Snapshot) *build.Snapshot {
					return snapshotOf(t, prev, "meta-data/x", fmt.Sprint("turn ", turn), "meta-data/new", "here", "meta-data/sub/dir/leaf", "2")
				})
				e.expect("meta-data/x", fmt.Sprint("turn ", turn))
				e.expect("meta-data/new", "here")
				e.expectNone("meta-data/gone")
				if got, err := read(bind + "/x"); got != fmt.Sprint("turn ", turn) || err != nil {
					t.Errorf("through a bind mount: %q, %v", got, err)
				}
				if got := fmt.Sprint(heldOne(), ", ", heldTwo(), ", ", heldGone()); got != "one, two, soon" {
					t.Errorf("turn %d: what was held is now %s", turn, got)
				}
				if got, err := read(fmt.Sprintf("/proc/self/fd/%d/leaf", below)); got != "2" || err != nil {
					t.Errorf("from a directory that was gone in between: %q, %v", got, err)
				}
				seeAll(t, e.dir)
				compare(t, e.dir, e.door.fs.current.Load().snapshot)
				if n := len(e.keeper.trees()); n > 2 {
					t.Errorf("%d trees are kept", n)
				}
				if text := e.warnings.all(); text != "" {
					t.Fatalf("warned of: %s", text)
				}
			}
		})
	}
}

// TestWhatWasNotToldIsToldByTheSuccessor ends the door at each step of a change.
func TestWhatWasNotToldIsToldByTheSuccessor(t *testing.T) {
	for name, change := range map[string]func(e *keptDoor, next *build.Snapshot){
		"before the tree is kept": func(*keptDoor, *build.Snapshot) {},
		"before it is served": func(e *keptDoor, next *build.Snapshot) {
			e.door.record().keepTree(e.door.publisher.stillKnown(e.door.fs.current.Load().snapshot, next, false), next)
		},
		"before the kernel is told": func(e *keptDoor, next *build.Snapshot) {
			e.door.publisher.invalidator.kernel = silence{}
			e.door.Publish(next)
		},
	} {
		t.Run(name, func(t *testing.T) {
			one := snapshotOf(t, nil, "meta-data/x", "one", "meta-data/y", "same")
			e := newKeptDoor(t, one)
			seeAll(t, e.dir)
			e.expectNone("meta-data/new")
			heldOne := e.hold("meta-data/x")
			next := snapshotOf(t, one, "meta-data/x", "two", "meta-data/y", "same", "meta-data/new", "new")
			change(e, next)
			e.kill()
			e.succeed(func(prev *build.Snapshot) *build.Snapshot {
				return snapshotOf(t, prev, "meta-data/x", "two", "meta-data/y", "same", "meta-data/new", "new")
			})
			e.expect("meta-data/x", "two")
			e.expect("meta-data/y", "same")
			e.expect("meta-data/new", "new")
			if got := heldOne(); got != "one" {
				t.Errorf("what was held is now %q", got)
			}
		})
	}
}

// silence is a kernel that takes no notification.
type silence struct{}

func (silence) notify(batches [][]notification, done func(int, []fuse.Status)) {
	for i := range batches {
		done(i, nil)
	}
}

// TestASuccessorTellsAHangingDirectory: invalidations that waited for a process that hangs in a listing are not lost.
func TestASuccessorTellsAHangingDirectory(t *testing.T) {
	state := func(turn int) []string {
		return []string{"meta-data/tags/instance/a", fmt.Sprint("a ", turn), "meta-data/mac", fmt.Sprintf("06:00:00:00:00:%02x", turn)}
	}
	s := snapshotOf(t, nil, state(0)...)
	e := newKeptDoor(t, s)
	seeAll(t, e.dir)
	held := e.hold("meta-data/tags/instance/a")
	release := startHanging(t, e.path("meta-data/tags/instance"))
	for turn := 1; turn < 5; turn++ {
		s = snapshotOf(t, s, state(turn)...)
		e.door.Publish(s)
	}
	for turn := 5; turn < 8; turn++ {
		e.kill()
		e.succeed(func(prev *build.Snapshot) *build.Snapshot { s = snapshotOf(t, prev, state(turn)...); return s })
		e.expect("meta-data/mac", fmt.Sprintf("06:00:00:00:00:%02x", turn))
	}
	// The children of the earlier doors wait for the directory as well, longer than for a successor. They notice that there
	// is one, and leave its requests to it.
	for start, turn := time.Now(), 0; time.Since(start) < successorGrace+time.Second; turn++ {
		e.expectNone(fmt.Sprint("meta-data/none-", turn))
		<-time.After(5 * time.Millisecond)
	}
	release()
	kit.Eventually(t, "the kernel has taken everything", e.door.publisher.invalidator.idle)
	e.expect("meta-data/tags/instance/a", "a 7")
	if got := held(); got != "a 0" {
		t.Errorf("what was held is now %q", got)
	}
}

// TestInheritedNodesAreForgotten: nodes that the kernel does not know cost nothing, over any number of successors.
func TestInheritedNodesAreForgotten(t *testing.T) {
	s := snapshotOf(t, nil, tags(50)...)
	e := newKeptDoor(t, s)
	seeAll(t, e.dir+"/latest")
	held := e.hold("meta-data/mac")
	for turn := range 10 {
		for i := range 5 {
			s = snapshotOf(t, s, append(tags(50), "meta-data/mac", fmt.Sprintf("06:00:00:00:%02x:%02x", turn, i))...)
			e.door.Publish(s)
			e.expect("meta-data/mac", fmt.Sprintf("06:00:00:00:%02x:%02x", turn, i))
		}
		e.kill()
		e.succeed(func(prev *build.Snapshot) *build.Snapshot { s = prev; return prev })
	}
	// The kernel does not drop what a process looks at just then. Each change asks about the nodes in doubt.
	turn := 0
	kit.Eventually(t, "the kernel knows little, and so do we", func() bool {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Fatal(err)
		}
		turn++
		s = snapshotOf(t, s, append(tags(50), "meta-data/mac", fmt.Sprintf("06:00:00:00:ff:%02x", turn&0xff))...)
		e.door.Publish(s)
		return e.door.Inodes() < 20
	})
	if got := held(); got != standard["meta-data/mac"] {
		t.Errorf("what was held is now %q", got)
	}
	t.Logf("%d inodes", e.door.Inodes())
}

// spoil replaces what is kept under names that begin so.
func spoil(name string, how func(text []byte) []byte) func(e *keptDoor) {
	return func(e *keptDoor) {
		for held := range e.keeper.held {
			if !strings.HasPrefix(held, name) {
				continue
			}
			f := e.keeper.held[held]
			text := make([]byte, 1<<20)
			n, err := f.ReadAt(text, 0)
			if n == 0 {
				e.t.Fatal(err)
			}
			fd, err := unix.MemfdCreate("spoiled", unix.MFD_CLOEXEC)
			if err != nil {
				e.t.Fatal(err)
			}
			spoiled := os.NewFile(uintptr(fd), "spoiled")
			if _, err := spoiled.Write(how(text[:n])); err != nil {
				e.t.Fatal(err)
			}
			f.Close()
			e.keeper.held[held] = spoiled
		}
	}
}

func TestWhatCannotBeGoneOnWithIsMountedAfresh(t *testing.T) {
	half := func(text []byte) []byte { return text[:len(text)/2] }
	flip := func(text []byte) []byte { text[len(text)-3] ^= 1; return text }
	for _, c := range []struct {
		name  string
		spoil func(e *keptDoor)
		why   string
	}{
		{"half a tree", spoil(keptTree, half), "checksum"},
		{"a bit of a tree", spoil(keptTree, flip), "checksum"},
		{"an empty tree", spoil(keptTree, func([]byte) []byte { return nil }), "cut off"},
		{"half a record of the mount", spoil(keptMount, half), "checksum"},
		{"no trees", func(e *keptDoor) {
			for _, name := range e.keeper.trees() {
				e.keeper.Drop(name)
			}
		}, "was not kept"},
		{"the newest tree missing", func(e *keptDoor) { e.keeper.Drop(e.keeper.trees()[1]) }, "was not kept"},
		{"no room for a tree", func(e *keptDoor) {
			e.keeper.full = true
			e.door.record().number += 10 // as if several had not been kept
			e.door.record().markServed()
			e.keeper.full = false
		}, "was not kept"},
		{"unmounted", func(e *keptDoor) {
			if err := unix.Unmount(e.dir, unix.MNT_DETACH); err != nil {
				e.t.Fatal(err)
			}
		}, "no longer on"},
		{"another place", func(e *keptDoor) {
			e.dir = filepath.Join(e.t.TempDir(), "elsewhere")
			unmountLater(e.t, e.dir)
		}, "its mount is on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := snapshotOf(t, nil, "meta-data/x", "one")
			e := newKeptDoor(t, one)
			seeAll(t, e.dir)
			two := snapshotOf(t, one, "meta-data/x", "two")
			e.door.Publish(two)
			dir := e.dir
			fd := openForTest(t, dir, unix.O_DIRECTORY)
			c.spoil(e)
			e.kill()
			pre := Inherit(e.keeper.take())
			if pre == nil {
				t.Fatal("nothing was kept")
			}
			e.mount(snapshotOf(t, pre.Snapshot(), "meta-data/x", "three"), pre)
			if e.door.Resumed() {
				t.Error("it was continued")
			}
			if text := e.warnings.all(); !strings.Contains(text, c.why) || !strings.Contains(text, "mounted afresh") {
				t.Errorf("warned of %q", text)
			}
			e.expect("meta-data/x", "three")
			if err := unix.Fstatfs(fd, &unix.Statfs_t{}); !mountpoint.IsDead(err) {
				t.Errorf("the old mount: %v", err)
			}
			if dir != e.dir && isMounted(t, dir) {
				t.Error("the old mount is still there")
			}
			// And the next one goes on again.
			e.kill()
			e.succeed(func(prev *build.Snapshot) *build.Snapshot { return prev })
			e.expect("meta-data/x", "three")
		})
	}
}

func (d *Door) record() *recorder { return &d.publisher.recorder }

func TestNothingButAMountIsInherited(t *testing.T) {
	if pre := Inherit(map[string]*os.File{}); pre != nil || pre.Snapshot() != nil {
		t.Error("something was inherited from nobody")
	}
}

func TestADiscardedMountIsGone(t *testing.T) {
	e := newKeptDoor(t, snapshotOf(t, nil))
	e.kill()
	pre := Inherit(e.keeper.take())
	if err := pre.Discard(e.runtime, e.keeper); err != nil {
		t.Error(err)
	}
	if isMounted(t, e.dir) {
		t.Error("it is still mounted")
	}
	if _, err := os.Lstat(e.dir); !os.IsNotExist(err) {
		t.Errorf("the directory that was made is still there: %v", err)
	}
	if len(e.keeper.held) != 0 {
		t.Errorf("still kept: %v", e.keeper.held)
	}
	e.mount(snapshotOf(t, nil), nil)
}

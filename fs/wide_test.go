package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// wideFS answers as older versions did: inode numbers are the node ids, and cookies have 63 bits.
type wideFS struct{ *rawFS }

func (f wideFS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	status := f.rawFS.Lookup(cancel, header, name, out)
	out.Ino = out.NodeId
	return status
}

func (f wideFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	status := f.rawFS.GetAttr(cancel, in, out)
	out.Ino = in.NodeId
	return status
}

func (f wideFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, _ string, _ source.View) bool { return out.AddDirEntry(e) })
}

func (f wideFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, path string, v source.View) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && path != "" {
			f.found(e.Ino, e.Ino, path, v, entry)
		}
		return entry != nil
	})
}

func (f wideFS) list(in *fuse.ReadIn, add func(e fuse.DirEntry, path string, v source.View) bool) fuse.Status {
	path, dir, _, status := f.directory(in.NodeId)
	if !status.Ok() {
		return status
	}
	entries := []fuse.DirEntry{
		{Name: ".", Mode: fuse.S_IFDIR, Ino: in.NodeId, Off: cookieSelf},
		{Name: "..", Mode: fuse.S_IFDIR, Ino: f.key.dir(parent(path)), Off: cookieParent},
	}
	for name, v := range dir.Children() {
		entries = append(entries, fuse.DirEntry{Name: name, Mode: fileType(v), Ino: f.key.node(join(path, name), v), Off: f.key.sum('c', nil, name) >> 1})
	}
	slices.SortFunc(entries, func(a, b fuse.DirEntry) int {
		if a.Off < b.Off {
			return -1
		}
		return 1
	})
	for _, e := range entries {
		full, v := "", source.View{}
		if e.Off >= cookieFirst {
			full = join(path, e.Name)
			v, _ = dir.Child(e.Name)
		}
		if e.Off > in.Offset && !add(e, full, v) {
			break
		}
	}
	return fuse.OK
}

// age makes the door answer as an older version did. No process may have looked at the mount yet.
func (e *keptDoor) age() {
	e.t.Helper()
	a := e.door.server
	a.pause()
	if _, err := unix.Read(a.wake, make([]byte, 8)); err != nil {
		e.t.Fatal(err)
	}
	a.protocol = fuse.NewProtocolServer(wideFS{a.fs}, mountOptions(a.fs, a.warn))
	if err := a.resume(e.door.init); err != nil {
		e.t.Fatal(err)
	}
	a.paused.Store(false)
	a.serve()
}

// ageRecords removes from the records what those of an older version lack.
func (e *keptDoor) ageRecords() {
	e.t.Helper()
	for _, name := range e.keeper.trees() {
		var r treeRecord
		if _, err := readRecord(e.keeper.held[name], &r, false); err != nil {
			e.t.Fatal(err)
		}
		r.Numbers = nil
		old, err := memoryFile(name, r, false)
		if err != nil {
			e.t.Fatal(err)
		}
		e.keeper.held[name].Close()
		e.keeper.held[name] = old
	}
}

// expectNumbers waits until stat and readdir show the numbers of the door, and returns them.
func (e *keptDoor) expectNumbers() map[string]uint64 {
	e.t.Helper()
	_, want := e.door.fs.shown()
	expectUnique(e.t, want)
	why := ""
	defer func() {
		if e.t.Failed() {
			e.t.Log(why)
		}
	}()
	kit.Eventually(e.t, "the numbers are what they should be", func() bool {
		why = ""
		for path, n := range inodes(e.t, e.dir) {
			if want[path] != n {
				why = fmt.Sprintf("%s: stat says %d, want %d", path, n, want[path])
				return false
			}
		}
		for path := range want {
			var st unix.Stat_t
			if unix.Lstat(e.dir+path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			fd, err := unix.Open(e.dir+path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				e.t.Fatal(err)
			}
			entries := readEntries(e.t, fd)
			unix.Close(fd)
			for _, entry := range entries {
				if entry.Name == "." || entry.Name == ".." {
					continue
				}
				if full := join(path, entry.Name); entry.Ino != want[full] || entry.Off > cookieLast {
					why = fmt.Sprintf("%s is listed as %d at %d, want %d", full, entry.Ino, entry.Off, want[full])
					return false
				}
			}
		}
		return true
	})
	return want
}

// TestNumbersOfAnOlderVersionAreDropped: the kernel keeps attributes and listings with inode numbers of 64 bits for ever.
func TestNumbersOfAnOlderVersionAreDropped(t *testing.T) {
	one := build(t, nil, append(tags(300), "meta-data/x", "one")...)
	e := newKeptDoor(t, one)
	e.age()
	// Listings under way, of a directory of which the kernel keeps a part, and of one that it keeps whole.
	streams := []*stream{newStream(t, e.dir+"/2021-03-23/meta-data/tags/instance")}
	streams[0].read(100)
	for range 2 {
		seeAll(t, e.path(""))
		names(t, e.dir)
		mtime(t, e.dir) // after it, since the listing has the kernel ask for attributes again
	}
	streams = append(streams, newStream(t, e.path("meta-data/tags/instance")))
	streams[1].read(100)
	file, dir := openForTest(t, e.path("meta-data/x"), 0), openForTest(t, e.path("meta-data"), unix.O_DIRECTORY)
	heldX := e.hold("meta-data/x")
	number := func(fd int) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	began, ids := mtime(t, e.path("meta-data")), [2]uint64{number(file), number(dir)}
	if ids[0] < 1<<32 || ids[1] < 1<<32 {
		t.Fatalf("an older version shows the numbers %d", ids)
	}

	e.kill()
	e.ageRecords()
	e.succeed(func(prev *source.Snapshot) *source.Snapshot { return prev })
	for i, s := range streams {
		s.read(1 << 20)
		if len(s.seen) != 302 {
			t.Errorf("listing %d, begun before, named %d entries", i, len(s.seen))
		}
		for name, n := range s.seen {
			if n != 1 {
				t.Errorf("listing %d, begun before, named %q %d times", i, name, n)
			}
		}
	}
	e.expectNumbers()
	if got := [2]uint64{e.nodeID(ids[0]), e.nodeID(ids[1])}; got != ids {
		t.Errorf("of the node ids %d are known %d", ids, got)
	}
	kit.Eventually(t, "what is open has its new number", func() bool { return number(file) < 1<<32 && number(dir) < 1<<32 })
	if got := heldX(); got != "one" {
		t.Errorf("what was held is now %q", got)
	}
	moved := mtime(t, e.path("meta-data"))
	if d := moved.Sub(began); d != time.Nanosecond {
		t.Errorf("the directory's mtime moved by %v", d)
	}

	// Two more successors, one of which publishes: nothing moves again.
	want := e.expectNumbers()
	for turn := range 2 {
		e.kill()
		e.succeed(func(prev *source.Snapshot) *source.Snapshot { return prev })
		if got := e.expectNumbers(); len(got) != len(want) || got["/latest/meta-data/x"] != want["/latest/meta-data/x"] || !mtime(t, e.path("meta-data")).Equal(moved) {
			t.Errorf("successor %d shows other numbers or times", turn)
		}
	}
	e.door.Publish(build(t, e.door.fs.current.Load().snapshot, append(tags(300), "meta-data/x", "two")...))
	e.expectNumbers()
	if number(file) == inodes(t, e.path("meta-data/x"))["/"] {
		t.Error("another value has the number of one that is open")
	}
}

func mtime(t *testing.T, path string) time.Time {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return time.Unix(st.Mtim.Unix())
}

// nodeID is id if the door has that node.
func (e *keptDoor) nodeID(id uint64) uint64 {
	if _, _, _, ok := e.door.fs.table.place(id); !ok {
		return 0
	}
	return id
}

// A stream is a listing under way.
type stream struct {
	t    *testing.T
	fd   int
	seen map[string]int
}

func newStream(t *testing.T, dir string) *stream {
	return &stream{t, openForTest(t, dir, unix.O_DIRECTORY), map[string]int{}}
}

// read goes on until n entries are seen or there are no more.
func (s *stream) read(n int) {
	s.t.Helper()
	buf := make([]byte, 512)
	for len(s.seen) < n {
		size, err := unix.ReadDirent(s.fd, buf)
		if err != nil {
			s.t.Fatal(err)
		}
		if size == 0 {
			return
		}
		for rest := buf[:size]; len(rest) > 0; rest = rest[binary.NativeEndian.Uint16(rest[16:]):] {
			name, _, _ := bytes.Cut(rest[19:], []byte{0})
			s.seen[string(name)]++
		}
	}
}

package fs

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
)

// list reads a directory in answers of size bytes, calling between after each, and returns the names.
func list(t testing.TB, f *rawFS, id uint64, size int, plus bool, between func()) []string {
	t.Helper()
	var out []string
	for offset := uint64(0); ; {
		l := fuse.NewDirEntryList(make([]byte, size), offset)
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Offset: offset}
		read := f.ReadDir
		if plus {
			read = f.ReadDirPlus
		}
		if status := read(nil, in, l); !status.Ok() {
			t.Fatal(status)
		}
		var entries []fuse.DirEntry
		var err error
		if plus {
			entries, _, err = fuse.ParseDirLookupEntries(l.Bytes())
		} else {
			entries, err = fuse.ParseDirEntries(l.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return out
		}
		for _, e := range entries {
			if e.Off <= offset || e.Off > 1<<31-1 {
				t.Fatalf("%q has the cookie %d, after %d", e.Name, e.Off, offset)
			}
			offset = e.Off
			out = append(out, e.Name)
		}
		between()
	}
}

// tags is a tree with n entries in one directory.
func tags(n int) []string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("meta-data/tags/instance/k%05d", i), fmt.Sprint(i))
	}
	return pairs
}

func TestListingNamesEverythingOnce(t *testing.T) {
	f := door(t, snapshotOf(t, nil, tags(10_000)...))
	id := lookup(t, f, "latest", "meta-data", "tags", "instance").NodeId
	for _, plus := range []bool{false, true} {
		got := list(t, f, id, 4096, plus, func() {})
		slices.Sort(got)
		if len(got) != 10_002 || got[0] != "." || got[1] != ".." || got[2] != "k00000" || got[10_001] != "k09999" || len(slices.Compact(got)) != 10_002 {
			t.Errorf("plus=%v: %d names", plus, len(got))
		}
	}
}

func TestListingNeverLacksANameThatIsThereThroughout(t *testing.T) {
	stay := tags(200)
	var all []*build.Snapshot
	var prev *build.Snapshot
	for i := range 5 {
		come := fmt.Sprintf("meta-data/tags/instance/c%d", i)
		prev = snapshotOf(t, prev, append(slices.Clone(stay), come, "x", come+"b", "y")...)
		all = append(all, prev)
	}
	for _, plus := range []bool{false, true} {
		f := door(t, all[0])
		id := lookup(t, f, "latest", "meta-data", "tags", "instance").NodeId
		turn := 0
		got := list(t, f, id, 256, plus, func() { turn++; f.swap(all[turn%len(all)]) })
		if turn < 20 {
			t.Fatalf("only %d answers: nothing changed in the middle", turn)
		}
		count := map[string]int{}
		for _, name := range got {
			count[name]++
		}
		for i := 0; i < len(stay); i += 2 {
			if name := stay[i][len("meta-data/tags/instance/"):]; count[name] != 1 {
				t.Errorf("plus=%v: %s listed %d times", plus, name, count[name])
			}
		}
	}
}

func TestListingCountsAsLookupOnlyWithAttributes(t *testing.T) {
	f := door(t, snapshotOf(t, nil))
	id := lookup(t, f, "latest", "meta-data").NodeId
	before := f.table.size()
	list(t, f, id, 4096, false, func() {})
	if n := f.table.size(); n != before {
		t.Errorf("READDIR made %d inodes known", n-before)
	}
	// An answer that ends for want of room must not count the entry that did not fit.
	l := fuse.NewDirEntryList(make([]byte, 1024), 0)
	if status := f.ReadDirPlus(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}}, l); !status.Ok() {
		t.Fatal(status)
	}
	entries, outs, err := fuse.ParseDirLookupEntries(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for i, e := range entries {
		if e.Name == "." || e.Name == ".." {
			if outs[i].NodeId != 0 {
				t.Errorf("%q counts as a lookup", e.Name)
			}
			continue
		}
		known++
		if found := lookup(t, f, "latest", "meta-data", e.Name); outs[i].NodeId != found.NodeId || outs[i].Ino != e.Ino || e.Ino != found.Ino {
			t.Errorf("%s: numbers differ between listing and lookup", e.Name)
		}
	}
	if n := f.table.size() - before; known == 0 || n != known {
		t.Errorf("%d entries, %d inodes", known, n)
	}
}

func TestADirectoryThatIsGoneIsNotFound(t *testing.T) {
	first := snapshotOf(t, nil, "meta-data/extra/x", "1")
	f := door(t, first)
	id := lookup(t, f, "latest", "meta-data", "extra").NodeId
	f.swap(snapshotOf(t, first))
	h := fuse.InHeader{NodeId: id}
	if s := f.Lookup(nil, &h, "x", &fuse.EntryOut{}); s != fuse.ENOENT {
		t.Errorf("lookup: %v", s)
	}
	if s := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &fuse.AttrOut{}); s != fuse.ENOENT {
		t.Errorf("getattr: %v", s)
	}
	if s := f.ReadDir(nil, &fuse.ReadIn{InHeader: h}, fuse.NewDirEntryList(nil, 0)); s != fuse.ENOENT {
		t.Errorf("readdir: %v", s)
	}
	f.swap(snapshotOf(t, first, "meta-data/extra/x", "2"))
	if out := lookup(t, f, "latest", "meta-data", "extra"); out.NodeId != id {
		t.Error("back again, it is another directory")
	}
}

func BenchmarkListing(b *testing.B) {
	f := door(b, snapshotOf(b, nil, tags(10_000)...))
	id := lookup(b, f, "latest", "meta-data", "tags", "instance").NodeId
	for b.Loop() {
		f.table.setListing(id, nil)
		list(b, f, id, 64<<10, true, func() {})
	}
}

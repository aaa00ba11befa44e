package fs

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/tree"
)

func TestKeyIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	keys := make([]key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := loadKey(dir)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	for i := range keys {
		if keys[i] != keys[0] || keys[i] == (key{}) {
			t.Fatalf("key %d is another one or empty", i)
		}
	}
	path := filepath.Join(dir, "inode.key")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(dir); err == nil {
		t.Error("a damaged key was taken")
	}
}

func TestInodeNumbersNameWhatTheyHold(t *testing.T) {
	k, other := key{1}, key{2}
	rule := func(r build.AccessRule) *build.Snapshot {
		f := fragment(nil)
		r.Path = "meta-data/mac"
		f.Access = []build.AccessRule{r}
		return buildFrom(t, nil, f)
	}
	one, mode := uint32(1), uint32(0o400)
	base := snapshotOf(t, nil)
	id := func(k *key, s *build.Snapshot, path string) uint64 {
		v, ok := s.Find(path)
		if !ok {
			t.Fatalf("no %s", path)
		}
		return k.node(path, v)
	}
	const file, dir = "/latest/meta-data/mac", "/latest/meta-data"
	if id(&k, base, file) != id(&k, snapshotOf(t, nil, "meta-data/instance-id", "i-1"), file) {
		t.Error("the number of a file depends on other files")
	}
	seen := map[uint64]string{}
	for name, n := range map[string]uint64{
		"file":            id(&k, base, file),
		"another value":   id(&k, snapshotOf(t, nil, "meta-data/mac", "06:00:00:00:00:01"), file),
		"another owner":   id(&k, rule(build.AccessRule{UID: &one}), file),
		"another group":   id(&k, rule(build.AccessRule{GID: &one}), file),
		"another mode":    id(&k, rule(build.AccessRule{Mode: &mode}), file),
		"another version": id(&k, base, "/2011-01-01/meta-data/mac"),
		"another key":     id(&other, base, file),
		"directory":       id(&k, base, dir),
	} {
		if old, ok := seen[n]; ok {
			t.Errorf("%s has the number of %s", name, old)
		}
		seen[n] = name
	}
	if id(&k, base, dir) != id(&k, snapshotOf(t, nil, "meta-data/mac", ""), dir) {
		t.Error("the number of a directory depends on what is in it")
	}
	if k.node("/", base.Root()) != fuse.FUSE_ROOT_ID {
		t.Error("the root is not 1")
	}
	for _, id := range []uint64{0, 1, ^uint64(0)} {
		if u := usable(id); u == 0 || u == 1 || u == ^uint64(0) {
			t.Errorf("%d is used as %d", id, u)
		}
	}
}

// door is a rawFS without a kernel.
func door(t testing.TB, s *build.Snapshot) *rawFS {
	t.Helper()
	return newRawFS(key{1}, clock.System(), s)
}

// swap serves s from now on, without a kernel to tell.
func (f *rawFS) swap(s *build.Snapshot) {
	f.serve(f.prepare(s, build.Diff(f.current.Load().snapshot, s)))
}

// lookup walks to a path as the kernel would and returns the answer for its last name.
func lookup(t testing.TB, f *rawFS, path ...string) fuse.EntryOut {
	t.Helper()
	out := fuse.EntryOut{NodeId: fuse.FUSE_ROOT_ID}
	for _, name := range path {
		at := out.NodeId
		out = fuse.EntryOut{}
		if status := f.Lookup(nil, &fuse.InHeader{NodeId: at}, name, &out); !status.Ok() {
			t.Fatalf("lookup %q of %q: %v", name, path, status)
		}
	}
	return out
}

func content(t testing.TB, f *rawFS, id uint64, offset uint64, size uint32) string {
	t.Helper()
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Offset: offset, Size: size}
	res, status := f.Read(nil, in, nil)
	if !status.Ok() {
		t.Fatal(status)
	}
	b, status := res.Bytes(nil)
	if !status.Ok() {
		t.Fatal(status)
	}
	return string(b)
}

func TestAnInodeNeverChangesAndGoesWhenForgotten(t *testing.T) {
	first := snapshotOf(t, nil)
	f := door(t, first)
	old := lookup(t, f, "latest", "meta-data", "mac")
	lookup(t, f, "latest", "meta-data", "mac")
	f.swap(snapshotOf(t, first, "meta-data/mac", "06:00:00:00:00:01"))
	fresh := lookup(t, f, "latest", "meta-data", "mac")
	if fresh.NodeId == old.NodeId {
		t.Fatal("another value under the same number")
	}
	if got := content(t, f, old.NodeId, 0, 100); got != standard["meta-data/mac"] {
		t.Errorf("the old inode reads %q", got)
	}
	if got := content(t, f, fresh.NodeId, 0, 100); got != "06:00:00:00:00:01" {
		t.Errorf("the new inode reads %q", got)
	}
	var attr fuse.AttrOut
	if status := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: old.NodeId}}, &attr); !status.Ok() || attr.Size != 17 || attr.Ino != old.Ino {
		t.Errorf("the old inode's attributes: %v %+v", status, attr)
	}
	f.Forget(old.NodeId, 1)
	if got := content(t, f, old.NodeId, 0, 100); got != standard["meta-data/mac"] {
		t.Errorf("forgotten once of two times, it reads %q", got)
	}
	f.Forget(old.NodeId, 1)
	if _, status := f.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: old.NodeId}}, nil); status != stale {
		t.Errorf("a forgotten inode answers %v", status)
	}
	f.Forget(old.NodeId, 5) // never handed out: a daemon before us did
}

func TestReadsAtEveryOffset(t *testing.T) {
	f := door(t, snapshotOf(t, nil))
	id := lookup(t, f, "latest", "meta-data", "instance-id").NodeId
	want := standard["meta-data/instance-id"]
	for _, offset := range []uint64{0, 1, 18, 19, 20, 1 << 40, 1<<64 - 1} {
		for _, size := range []uint32{0, 1, 7, 19, 1 << 16, 1<<32 - 1} {
			from := min(offset, uint64(len(want)))
			to := min(from+uint64(size), uint64(len(want)))
			if got := content(t, f, id, offset, size); got != want[from:to] {
				t.Errorf("%d bytes at %d: %q, want %q", size, offset, got, want[from:to])
			}
		}
	}
}

func TestTableCostsWhatTheKernelKnows(t *testing.T) {
	f := door(t, snapshotOf(t, nil))
	before := f.table.size()
	var ids []uint64
	for i := range 10_000 {
		id := uint64(i + 1000)
		f.table.enter(id, "/x", tree.View{}, false)
		ids = append(ids, id)
	}
	if f.table.size() != before+len(ids) {
		t.Fatalf("%d inodes", f.table.size())
	}
	for _, id := range ids {
		f.Forget(id, 1)
	}
	if f.table.size() != before || f.table.peak > 4096 {
		t.Errorf("%d inodes, peak %d after all were forgotten", f.table.size(), f.table.peak)
	}
	if _, ok := f.table.knownDir("/"); !ok {
		t.Error("the root was forgotten")
	}
}

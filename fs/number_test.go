package fs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
	"golang.org/x/sys/unix"
)

// restrict has f number s anew with few numbers, so that many collide.
func (f *rawFS) restrict(s *build.Snapshot) {
	f.renumber(numbering{bits: 11}, s, nil)
	f.serve(&servedTree{snapshot: s, numbering: f.numbers.numbering})
	f.numbers.shared = true
}

// shown are the node ids and the numbers of everything in the tree that is served.
func (f *rawFS) shown() (ids, numbers map[string]uint64) {
	t := f.current.Load()
	ids, numbers = map[string]uint64{}, map[string]uint64{"/": 1}
	for path, v := range t.snapshot.Root().Walk() {
		path = "/" + path
		ids[path] = f.key.node(path, v)
		numbers[path] = f.number(&t.numbering, ids[path], path, v)
	}
	return ids, numbers
}

func expectUnique(t *testing.T, numbers map[string]uint64) {
	t.Helper()
	paths := map[uint64]string{}
	for path, n := range numbers {
		if other, ok := paths[n]; ok {
			t.Errorf("%s has the number %d of %s", path, n, other)
		}
		if n == 0 || n == 1 && path != "/" || n >= 1<<32-1 {
			t.Errorf("%s has the number %d", path, n)
		}
		paths[n] = path
	}
}

func TestNumbersAreUniqueAndStay(t *testing.T) {
	state := func(turn int) []string {
		var pairs []string
		for i := range 100 {
			pairs = append(pairs, fmt.Sprintf("meta-data/tags/instance/k%d", i), fmt.Sprint(i, turn*(i%3)))
		}
		for i := range 10 {
			pairs = append(pairs, fmt.Sprintf("meta-data/d%d/x", i+turn), "1") // directories that come and go, in every version
		}
		return pairs
	}
	s := snapshotOf(t, nil, state(0)...)
	f, twin := door(t, s), door(t, s)
	f.restrict(s)
	twin.restrict(s)
	if _, numbers := twin.shown(); f.numbers.live < 150 || len(f.numbers.displaced) == 0 {
		t.Fatalf("%d nodes, %d of them with another number than the first choice", f.numbers.live, len(f.numbers.displaced))
	} else if _, again := f.shown(); !maps.Equal(numbers, again) {
		t.Error("the same tree has other numbers the next time")
	}
	held := map[uint64]uint64{} // node id → number
	counted := f.numbers
	renumbered := 0
	for turn := range 25 {
		out := lookup(t, f, "latest", "meta-data", "tags", "instance", "k1")
		held[out.NodeId] = out.Ino
		ids, numbers := f.shown()
		s = snapshotOf(t, s, state(turn+1)...)
		f.swap(s)
		if f.numbers != counted {
			renumbered++
			counted = f.numbers
		}
		nextIDs, next := f.shown()
		for path, id := range nextIDs {
			if ids[path] == id && numbers[path] != next[path] {
				t.Errorf("turn %d: %s had the number %d, now %d", turn, path, numbers[path], next[path])
			}
		}
		for id, number := range held {
			var attr fuse.AttrOut
			if status := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}, &attr); !status.Ok() || attr.Ino != number {
				t.Errorf("turn %d: what is open has the number %d, had %d; %v", turn, attr.Ino, number, status)
			}
			next[fmt.Sprint("open ", id)] = number
		}
		expectUnique(t, next)
	}
	if renumbered == 0 || len(f.numbers.owners) > 3000 {
		t.Errorf("counted anew %d times, %d numbers taken", renumbered, len(f.numbers.owners))
	}
}

func TestNumbersFollowTheVersions(t *testing.T) {
	offer := func(versions ...string) *build.Fragment {
		f := fragment(nil)
		f.Instance = map[string]tree.Value{"versions": {Bytes: []byte(strings.Join(versions, "\n"))}}
		return f
	}
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprintf("%d-01-01", 2000+i))
	}
	s := buildFrom(t, nil, offer(all[:200]...))
	f := door(t, s)
	_, before := f.shown()
	expectUnique(t, before)
	for range 20 {
		f.swap(buildFrom(t, s, offer(all[50:]...)))
		_, after := f.shown()
		expectUnique(t, after)
		for path, n := range before {
			if m, ok := after[path]; ok && m != n {
				t.Fatalf("%s had the number %d, now %d", path, n, m)
			}
		}
		f.swap(s)
	}

	next := buildFrom(t, s, offer(all[50:]...))
	f.swap(next)
	_, before = f.shown()
	n := &f.numbers.numbering
	record := treeRecord{Numbers: &numberRecord{n.bits, n.displaced, n.versions, 0}}
	successor := door(t, next)
	if _, fresh := successor.shown(); maps.Equal(before, fresh) {
		t.Error("the order in which versions came makes no difference")
	}
	successor.inheritNodes(&Predecessor{trees: []inheritedTree{{record, next}}}, next)
	if _, after := successor.shown(); !maps.Equal(before, after) {
		t.Error("a successor shows other numbers")
	}
}

func TestTooManySubDirectoriesAreNotCounted(t *testing.T) {
	var pairs []string
	defer func(was uint32) { linkMax = was }(linkMax)
	linkMax = 100
	for i := range linkMax {
		pairs = append(pairs, fmt.Sprintf("meta-data/many/d%d/x", i), "1")
	}
	f := door(t, snapshotOf(t, nil, pairs...))
	if n := lookup(t, f, "latest", "meta-data", "many").Nlink; n != 1 {
		t.Errorf("%d links", n)
	}
}

// inodes are the numbers that lstat shows below a directory, by path.
func inodes(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	out, err := run(t, os.Getuid(), "find", dir, "-printf", `/%P %i %s\n`) // without the size it would take the number from readdir
	if err != nil {
		t.Fatalf("%v: %.500s", err, out)
	}
	for line := range strings.Lines(out) {
		var path string
		var n uint64
		if _, err := fmt.Sscan(line, &path, &n); err != nil {
			t.Fatal(err)
		}
		all[path] = n
	}
	return all
}

func TestNumbersStayOverARestart(t *testing.T) {
	state := func(turn int) []string {
		var pairs []string
		for i := range 100 {
			pairs = append(pairs, fmt.Sprintf("meta-data/tags/instance/k%d", i), fmt.Sprint(turn*(i%2)))
		}
		return pairs
	}
	s := snapshotOf(t, nil, state(0)...)
	e := newKeptDoor(t, s)
	e.door.fs.restrict(s)
	fd := openForTest(t, e.path("meta-data/tags/instance/k1"), 0)
	var open unix.Stat_t
	if err := unix.Fstat(fd, &open); err != nil {
		t.Fatal(err)
	}
	for turn := 1; turn < 12; turn++ {
		s = snapshotOf(t, s, state(turn)...)
		e.door.Publish(s)
	}
	odd := len(e.door.fs.numbers.displaced)
	before := inodes(t, e.dir)
	expectUnique(t, before)
	for range 3 {
		e.kill()
		e.succeed(func(prev *build.Snapshot) *build.Snapshot { return prev })
		if n := len(e.door.fs.numbers.displaced); odd < 20 || n < 5 {
			t.Errorf("%d nodes with another number than the first choice, then %d", odd, n)
		}
		after := inodes(t, e.dir)
		for path, n := range before {
			if after[path] != n {
				t.Errorf("%s had the number %d, now %d", path, n, after[path])
			}
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Ino != open.Ino {
			t.Errorf("what is open had the number %d, now %d; %v", open.Ino, st.Ino, err)
		}
	}
}

// TestA32BitProgramSeesTheNumbers has one look at leaves and directories with the calls that 32-bit programs make. Where the kernel runs
// none, what it would see is known from the numbers alone.
func TestA32BitProgramSeesTheNumbers(t *testing.T) {
	d := mountSnapshot(t, snapshotOf(t, nil, tags(300)...))
	want := map[string]uint64{}
	for path, n := range inodes(t, d.Dir()) {
		if n == 0 || n > 1<<32-1 {
			t.Errorf("%s has the number %d", path, n)
		}
		want[filepath.Join(d.Dir(), path)] = n
	}
	dirs := []string{"", "/latest", "/latest/meta-data", "/latest/meta-data/tags/instance", "/2021-03-23/meta-data"}
	var paths []string
	for _, path := range append(dirs, "/latest/meta-data/mac", "/latest/user-data", "/2021-03-23/meta-data/mac") {
		paths = append(paths, d.Dir()+path)
	}
	for _, path := range dirs {
		for _, e := range readEntries(t, openForTest(t, d.Dir()+path, unix.O_DIRECTORY)) {
			full := filepath.Join(d.Dir()+path, e.Name)
			if e.Name != ".." && (e.Ino != want[full] || e.Off >= 1<<31) {
				t.Errorf("%s is listed with the number %d, and stat says %d; offset %d", full, e.Ino, want[full], e.Off)
			}
		}
	}

	program := filepath.Join(t.TempDir(), "narrow")
	build := exec.Command("go", "build", "-o", program, "testdata/narrow/main.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=386")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	look := exec.Command(program)
	look.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	var said, complaint bytes.Buffer
	look.Stdout, look.Stderr = &said, &complaint
	switch err := look.Run(); {
	case errors.Is(err, unix.ENOEXEC):
		t.Logf("this kernel runs no 32-bit program: %v", err)
		return
	case err != nil:
		t.Fatalf("%v: %s", err, complaint.String())
	}
	calls := map[string]int{}
	for line := range strings.Lines(said.String()) {
		var path, call string
		var n uint64
		if _, err := fmt.Sscan(line, &path, &call, &n); err != nil {
			t.Fatal(err)
		}
		calls[call]++
		if call == "d_off" {
			if n >= 1<<31 {
				t.Errorf("after %s, a listing is at %d", path, n)
			}
		} else if n != want[path] {
			t.Errorf("%s of %s: %d, want %d", call, path, n, want[path])
		}
	}
	for _, call := range []string{"stat", "fstat", "fstatat64"} {
		if calls[call] != len(paths) {
			t.Errorf("%d of %d %s", calls[call], len(paths), call)
		}
	}
	if n := calls["getdents"]; n < 300 || n != calls["getdents64"] || n != calls["d_off"] {
		t.Errorf("listed: %v", calls)
	}
}

// TestOldCookiesGoOn: a listing that an older version began is where it was.
func TestOldCookiesGoOn(t *testing.T) {
	k := key{1}
	s := snapshotOf(t, nil, tags(2000)...)
	dir, _ := s.Find("/latest/meta-data/tags/instance")
	l := k.list(dir, 0)
	var old []listed
	for name := range dir.Children() {
		old = append(old, listed{k.sum('c', nil, name) >> 1, name})
	}
	slices.SortFunc(old, func(a, b listed) int {
		if a.cookie < b.cookie {
			return -1
		}
		return 1
	})
	for i, o := range old {
		rest := l.after(o.cookie)
		if l.entries[i].name != o.name || len(rest) != len(old)-i-1 {
			t.Fatalf("after %s, number %d of %d, come %d", o.name, i, len(old), len(rest))
		}
	}
	for _, c := range []uint64{0, 1, 1 << 31, 1<<63 - 1} {
		if s := shorten(c); s >= cookieLast-1<<20 {
			t.Errorf("the cookie %d becomes %d", c, s)
		}
	}
}

package fs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// consumed is what a daemon uses.
type consumed struct {
	heap        uint64 // bytes
	descriptors int
	goroutines  int
	inodes      int // that the kernel knows of this mount
	slab        int // inodes of every FUSE mount of this machine; -1: not to be read
}

func consumption(t testing.TB, d *Door) consumed {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 { // what a finalizer frees is garbage one collection later
		runtime.GC()
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return consumed{mem.HeapAlloc, len(fds), runtime.NumGoroutine(), d.Inodes(), fuseInodes(t)}
}

func fuseInodes(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "fuse_inode" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// TestPublishesLeaveNothingBehind publishes 5,000 times, 100,000 while IMDSFS_STRESS is set, each
// time with another value and another name that are read.
func TestPublishesLeaveNothingBehind(t *testing.T) {
	const warm = 1000
	total := 5_000
	if os.Getenv("IMDSFS_STRESS") != "" {
		total = 100_000
	}
	var src given
	src.fragment.Store(fragment(nil))
	store := source.NewStore(env, &src)
	if _, err := store.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := mountSnapshot(t, store.Snapshot())
	store.Attach(d)
	dir := filepath.Join(d.Dir(), "latest/meta-data")
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			value, name := fmt.Sprintf("%d%*d", i, i%3000, i), fmt.Sprintf("n%d", i)
			src.fragment.Store(fragment(map[string]string{"meta-data/x": value, "meta-data/" + name: "1"}))
			if _, err := store.Reload(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := mustRead(t, filepath.Join(dir, "x")); got != value {
				t.Fatalf("publish %d: %.20q", i, got)
			}
			mustRead(t, filepath.Join(dir, name))
			if i%10 == 0 {
				names(t, dir)
			}
		}
	}
	start := time.Now()
	publish(0, warm)
	before := consumption(t, d)
	publish(warm, total)
	var after consumed
	within := func(before, after, spare int) bool { return float64(after) <= 1.1*float64(before)+float64(spare) }
	defer func() {
		if t.Failed() {
			t.Errorf("%+v, then %+v", before, after)
		}
	}()
	kit.Eventually(t, fmt.Sprintf("after %d publishes as after %d", total, warm), func() bool {
		after = consumption(t, d)
		// A tenth of so little is less than what comes and goes: the last garbage, go-fuse's readers, an
		// inode that is looked at. The slab is everybody's: others mount meanwhile, but nothing like one
		// inode a publish.
		return within(int(before.heap), int(after.heap), 8*total) && within(before.descriptors, after.descriptors, 4) &&
			within(before.goroutines, after.goroutines, 4) && within(before.inodes, after.inodes, 4) &&
			within(before.slab, after.slab, total/2)
	})
	t.Logf("%d publishes in %v: %+v, then %+v", total, time.Since(start).Round(time.Millisecond), before, after)
}

// TestTheLargestTree mounts as much as a tree may hold.
func TestTheLargestTree(t *testing.T) {
	const leaves, bound = source.MaxTree/source.MaxLeaf - 1, 20 * time.Second // a hundred times what it takes on a machine of one's own
	changes := map[string]string{}
	for i := range leaves {
		line := fmt.Sprintf("%03d 0123456789abcdefghijklmnop ", i)
		changes[fmt.Sprintf("meta-data/large/n%02d", i)] = strings.Repeat(line, source.MaxLeaf/len(line)+1)[:source.MaxLeaf]
	}
	d := mountSnapshot(t, buildFrom(t, nil, fragment(changes)))
	before := consumption(t, d)
	start := time.Now()
	if out, err := run(t, os.Getuid(), "ls", "-lR", d.Dir()+"/latest"); err != nil || strings.Count(out, " 1048576 ") != leaves {
		t.Fatalf("%v: %.200s", err, out)
	}
	took := time.Since(start)
	start = time.Now()
	for path, want := range changes {
		if got := mustRead(t, filepath.Join(d.Dir(), "latest", path)); got != want {
			t.Fatalf("%s: %d bytes, not those of the tree", path, len(got))
		}
	}
	read := time.Since(start)
	after := consumption(t, d)
	t.Logf("ls -lR cold: %v; all read in %v; a heap of %d MiB, %d MiB after all was read", took, read, before.heap>>20, after.heap>>20)
	if took > bound {
		t.Errorf("ls -lR took %v, want %v", took, bound)
	}
	// The tree is held once here by the test and once by itself; reading must not copy it again.
	if after.heap > before.heap+before.heap/10 {
		t.Errorf("a heap of %d bytes, %d after all was read", before.heap, after.heap)
	}
}

// cacheDrops counts how often the kernel was made to drop its caches.
func cacheDrops(t *testing.T) (drops string) {
	t.Helper()
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "drop_pagecache ") || strings.HasPrefix(line, "drop_slab ") {
			drops += line
		}
	}
	if drops == "" {
		t.Fatal("/proc/vmstat does not count what is dropped")
	}
	return drops
}

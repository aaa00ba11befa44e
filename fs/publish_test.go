package fs

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A fakeKernel writes down what it is notified of, and may be held up.
type fakeKernel struct {
	fs   *rawFS
	hold chan struct{} // if not nil, each notification waits until it is closed

	mu   sync.Mutex
	told []string
}

func (k *fakeKernel) notify(batches [][]notification, done func(int, []fuse.Status)) {
	for i, batch := range batches {
		send := func() {
			answers := make([]fuse.Status, len(batch))
			for j, n := range batch {
				if k.note(n) && k.hold != nil {
					<-k.hold
				}
				answers[j] = fuse.ENOENT
			}
			done(i, answers)
		}
		if k.hold != nil {
			go send()
		} else {
			send()
		}
	}
}

// note reports whether the kernel knows the node.
func (k *fakeKernel) note(n notification) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, _, _, known := k.fs.table.place(n.node); !known {
		return false // it has nothing cached
	}
	switch n.name {
	case barrier:
	case "":
		k.told = append(k.told, "inode "+k.path(n.node))
	default:
		k.told = append(k.told, "entry "+join(k.path(n.node), n.name))
	}
	return true
}

func (k *fakeKernel) path(id uint64) string {
	path, _, _, ok := k.fs.table.place(id)
	if !ok {
		return "unknown"
	}
	return path
}

func (k *fakeKernel) heard() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.told)
}

// idle reports whether the kernel has taken everything.
func (i *invalidator) idle() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.pending) == 0
}

func TestTheKernelIsToldWhatItKnowsAndNothingElse(t *testing.T) {
	uid := uint32(5)
	rule := func(path string) func(*source.Fragment) {
		return func(f *source.Fragment) { f.Access = []source.AccessRule{{Path: path, UID: &uid}} }
	}
	versions := func(list string) func(*source.Fragment) {
		return func(f *source.Fragment) {
			f.Instance = map[string]source.Value{"versions": {Bytes: []byte(list), Mtime: fileTime}}
		}
	}
	none := func(*source.Fragment) {}
	for _, c := range []struct {
		name     string
		known    []string // directories that the kernel has looked up
		old, new map[string]string
		edit     func(*source.Fragment)
		want     []string
	}{
		{"nothing changed", []string{"latest/meta-data"}, nil, nil, none, nil},
		{"a value, unknown directory", []string{"latest/dynamic"}, nil, map[string]string{"meta-data/mac": "06:00:00:00:00:01"}, none, nil},
		{"a value, in two versions", []string{"latest/meta-data", "2009-04-04/meta-data", "2021-03-23"}, nil, map[string]string{"meta-data/x": "1"}, none,
			[]string{"entry /2009-04-04/meta-data/x", "entry /latest/meta-data/x", "inode /2009-04-04/meta-data", "inode /latest/meta-data"}},
		{"a name goes", []string{"latest/meta-data"}, map[string]string{"meta-data/x": "1"}, nil, none,
			[]string{"entry /latest/meta-data/x", "inode /latest/meta-data"}},
		{"a file becomes a directory", []string{"latest/meta-data"}, map[string]string{"meta-data/x": "1"}, map[string]string{"meta-data/x/y": "1"}, none,
			[]string{"entry /latest/meta-data/x", "inode /latest/meta-data"}},
		{"a directory goes with all in it", []string{"latest/meta-data/x/y"}, map[string]string{"meta-data/x/y/z": "1"}, nil, none,
			[]string{"entry /latest/meta-data/x", "entry /latest/meta-data/x/y", "entry /latest/meta-data/x/y/z",
				"inode /latest/meta-data", "inode /latest/meta-data/x", "inode /latest/meta-data/x/y"}},
		{"a directory's owner: its entry stays", []string{"latest/meta-data/placement"}, nil, nil, rule("meta-data/placement"),
			[]string{"entry /latest/meta-data/placement/availability-zone", "entry /latest/meta-data/placement/availability-zone-id",
				"entry /latest/meta-data/placement/region", "inode /latest/meta-data", "inode /latest/meta-data/placement"}},
		{"user-data", []string{"latest/meta-data"}, nil, map[string]string{"user-data": "new"}, none,
			[]string{"entry /latest/user-data", "inode /latest"}},
		{"versions", []string{"latest/meta-data", "2009-04-04"}, nil, nil, versions("1.0\n2030-01-01"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := buildFrom(t, nil, fragment(c.old))
			f := door(t, old)
			for _, path := range c.known {
				lookup(t, f, strings.Split(path, "/")...)
			}
			fragment := fragment(c.new)
			c.edit(fragment)
			next := buildFrom(t, old, fragment)
			kernel := &fakeKernel{fs: f}
			p := newPublisher(f, kernel, func(text string) { t.Errorf("warned of: %s", text) })
			p.show(next)
			got := kernel.heard()
			slices.Sort(got)
			got = slices.Compact(got) // a directory's attributes are dropped from above as well
			if c.name == "versions" { // every version but 1.0 goes, one comes
				if len(got) != len(old.Versions())+1 || got[len(got)-1] != "inode /" || slices.Contains(got, "entry /latest") || !slices.Contains(got, "entry /2030-01-01") {
					t.Errorf("got %q", got)
				}
				return
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestGatingIsTold: a directory comes and goes in a dated version alone, because all that it holds there does.
func TestGatingIsTold(t *testing.T) {
	both := build(t, nil)
	if _, ok := both.Find("/2009-04-04/meta-data/placement"); !ok {
		t.Fatal("the zone is not in 2009-04-04")
	}
	young := build(t, both, "meta-data/placement/availability-zone", "", "meta-data/placement/availability-zone-id", "euw1-az2")
	if _, ok := young.Find("/2009-04-04/meta-data/placement"); ok {
		t.Fatal("without the zone, placement is still in 2009-04-04")
	}
	f := door(t, both)
	lookup(t, f, "2009-04-04", "meta-data")
	lookup(t, f, "latest", "meta-data")
	for i, next := range []*source.Snapshot{young, build(t, young)} {
		kernel := &fakeKernel{fs: f}
		newPublisher(f, kernel, func(text string) { t.Errorf("warned of: %s", text) }).show(next)
		got := kernel.heard()
		if !slices.Contains(got, "entry /2009-04-04/meta-data/placement") || !slices.Contains(got, "inode /2009-04-04/meta-data") {
			t.Errorf("%d: not told in 2009-04-04: %q", i, got)
		}
		if slices.Contains(got, "entry /latest/meta-data/placement") {
			t.Errorf("%d: told in latest, where it stays: %q", i, got)
		}
	}
}

func TestPublishGoesOnAloneWhenTheKernelDoesNotAnswer(t *testing.T) {
	first := build(t, nil)
	f := door(t, first)
	lookup(t, f, "latest", "meta-data")
	kernel := &fakeKernel{fs: f, hold: make(chan struct{})}
	var w warnings
	p := newPublisher(f, kernel, w.add)
	p.invalidator.wait, p.invalidator.stall = 20*time.Millisecond, 500*time.Millisecond
	go p.run()
	defer func() { p.stop(); <-p.done }()

	second := build(t, first, "meta-data/mac", "06:00:00:00:00:02")
	third := build(t, second, "meta-data/mac", "06:00:00:00:00:03")
	fourth := build(t, third, "meta-data/mac", "06:00:00:00:00:04")
	p.publish(second) // returns, although the notification hangs
	kit.Eventually(t, "the stalls of the directory and of the one above are reported", func() bool { return p.invalidator.stalled.Load() == 2 })
	if got := w.all(); !strings.Contains(got, "/latest") || strings.Contains(got, "06:") {
		t.Errorf("warned of %q", got)
	}
	p.publish(third)
	p.publish(fourth)

	// Meanwhile every handler answers from the newest tree.
	out := lookup(t, f, "latest", "meta-data", "mac")
	if got := content(t, f, out.NodeId, 0, 99); got != "06:00:00:00:00:04" {
		t.Errorf("while the kernel hangs: %q", got)
	}
	list(t, f, lookup(t, f, "latest", "meta-data").NodeId, 4096, true, func() {})
	var st fuse.StatfsOut
	f.StatFs(nil, &fuse.InHeader{NodeId: 1}, &st)
	f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: out.NodeId}}, &fuse.AttrOut{})
	f.Forget(out.NodeId, 1)

	told := len(kernel.heard())
	close(kernel.hold)
	kit.Eventually(t, "the kernel has taken everything", p.invalidator.idle)
	if n := len(kernel.heard()) - told; n > 6 {
		t.Errorf("the kernel was told %d things after the hang, want what changed once: %q", n, kernel.heard())
	}
	if n := p.invalidator.stalled.Load(); n != 2 {
		t.Errorf("%d stalls counted, want 2", n)
	}
}

func TestPublishReturnsWhenItIsDone(t *testing.T) {
	first := build(t, nil)
	f := door(t, first)
	lookup(t, f, "latest", "meta-data")
	kernel := &fakeKernel{fs: f}
	p := newPublisher(f, kernel, func(text string) { t.Errorf("warned of: %s", text) })
	p.invalidator.wait = kit.Patience
	go p.run()
	prev := first
	// The entry, and the directory's attributes from within and from above.
	for i := range 50 {
		next := build(t, prev, "meta-data/x", fmt.Sprint(i))
		p.publish(next)
		if f.current.Load().snapshot != next || len(kernel.heard()) != 3*(i+1) {
			t.Fatalf("returned before the kernel was told: %q", kernel.heard())
		}
		prev = next
	}
	p.stop()
	<-p.done
	p.publish(first) // after the end: returns at once
}

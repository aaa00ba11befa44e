package fs

import (
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// publishWait is how long a change waits for the kernel, as we experience it; then what the kernel has not taken is told
// alone, and the other door is served meanwhile. It is a variable for tests.
var publishWait = time.Second

const (
	// stallAfter is how long one notify may take before it is reported. The kernel waits for the
	// directory's lock, which a process holds that hangs in the middle of a listing.
	stallAfter = 5 * time.Second
	// barrier is a name that is in no directory.
	barrier = "\x01"
)

// A publisher brings snapshots to the kernel, one after the other, from a goroutine of its own: a
// notify waits until the kernel's pending requests for that directory are answered, so it may hold
// nothing that a handler needs.
type publisher struct {
	fs     *rawFS
	kernel kernel
	warn   func(string)

	wait    time.Duration // publishWait
	stall   time.Duration // stallAfter
	stalled atomic.Uint64
	busy    atomic.Pointer[time.Time] // since when; nil if idle

	mu    sync.Mutex
	next  *build.Snapshot // the newest that is not published yet, or nil
	ready chan struct{}   // closed when next is published
	// tellers are of the directories that the kernel is being told of, by path.
	tellers map[string]*teller
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}

	versions map[string]bool // every name that "/" ever had

	record record // for a successor
	// touched are the paths at which the kernel may know files and directories that are in no tree.
	touched map[string]bool
}

func newPublisher(f *rawFS, k kernel, warn func(string)) *publisher {
	return &publisher{
		fs: f, kernel: k, warn: warn, wait: publishWait, stall: stallAfter,
		ready: make(chan struct{}), wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		tellers: map[string]*teller{}, versions: map[string]bool{}, touched: map[string]bool{},
		record: record{warn: warn},
	}
}

// publish hands s over and waits until it, or a newer one, is what every process sees, as far as the kernel
// takes it in time. Of several that wait only the newest counts.
func (p *publisher) publish(s *build.Snapshot) {
	p.mu.Lock()
	p.next = s
	ready := p.ready
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it is awake
	}
	select {
	case <-ready:
	case <-p.done:
	}
}

func (p *publisher) run() {
	defer close(p.done)
	for {
		select {
		case <-p.quit:
			return
		case <-p.wake:
		}
		p.mu.Lock()
		next, ready := p.next, p.ready
		p.next, p.ready = nil, make(chan struct{})
		p.mu.Unlock()
		if next != nil {
			now := time.Now()
			p.busy.Store(&now)
			p.bring(next)
			p.busy.Store(nil)
		}
		close(ready)
	}
}

// busySince is when the change that is under way began, zero if there is none.
func (p *publisher) busySince() time.Time {
	if t := p.busy.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// stop ends the publisher. A notify that hangs in the kernel is not waited for; p.done tells.
func (p *publisher) stop() { close(p.quit) }

// bring swaps the tree and tells the kernel.
//
// Files: a LOOKUP, READDIR or READDIRPLUS holds its directory's lock until the answer is linked, and
// EntryNotify takes that lock. So an answer from the old tree is linked first and then dropped.
//
// Directories stay the same inode, and dropping their entry would detach what is mounted on them;
// only their attributes are dropped. InodeNotify misses an inode whose LOOKUP is still being
// answered, therefore it is sent once more from the directory above, where a notify for a name that
// does not exist waits for the pending requests first.
//
// EntryNotify waits for a process that hangs in the middle of a listing, for as long as it hangs. So no
// directory waits for another, and the publisher for none beyond its limit (teller.go).
//
// No other way to publish ends that: a mkdir by anybody takes the same lock before the kernel refuses it, and has
// the same effect. FUSE_NOTIFY_INC_EPOCH (Linux 6.17) takes no lock, but after it readers still opened old values
// when many changes came (measured on 6.18). It also detaches what is mounted on our directories, and every name has
// to be looked up again.
func (p *publisher) bring(next *build.Snapshot) {
	old := p.fs.current.Load().snapshot
	if old == next {
		return
	}
	change := build.Diff(old, next)
	t := p.fs.prepare(next, change)
	p.record.tree(p.beliefs(old, next, false), next)
	p.fs.serve(t)
	p.record.served()
	r := round{}
	p.differences(r, old, next, change)
	p.touch(r)
	p.carryOut(r)
	fault.At("change told")
	p.ask()
}

// differences adds what the kernel has to be told when next takes the place of old, with c between them.
func (p *publisher) differences(r round, old, next *build.Snapshot, c build.Change) {
	for _, s := range []*build.Snapshot{old, next} {
		for name := range s.Root().Children() {
			p.versions[name] = true
		}
	}
	p.rootDifferences(r, old, next)
	work := plan(c, next)
	dirs := slices.Sorted(maps.Keys(work))
	for version := range p.versions {
		for _, dir := range dirs {
			p.dirDifferences(r, path.Join("/", version, dir), work[dir], old, next)
		}
	}
}

// A drop is what the kernel may no longer believe of one directory.
type drop struct {
	names []string // that came, went, or stand for another file
	dirs  []string // of sub-directories with other attributes, which may include being visible
}

// plan sorts a change by directory, relative to a version.
func plan(c build.Change, next *build.Snapshot) map[string]*drop {
	work := map[string]*drop{}
	at := func(dir string) *drop {
		if work[dir] == nil {
			work[dir] = &drop{}
		}
		return work[dir]
	}
	split := func(p string) (*drop, string) {
		dir, name := path.Split(p)
		return at(path.Clean("/" + dir)[1:]), name
	}
	for _, dir := range c.Dirs {
		at(dir)
	}
	for _, p := range slices.Concat(c.Added, c.Removed) {
		if d, name := split(p); name != "" {
			d.names = append(d.names, name)
		}
	}
	for _, p := range c.Changed {
		if v, ok := next.Find("/" + tree.Latest + "/" + p); !ok || !v.IsDir() {
			d, name := split(p)
			d.names = append(d.names, name)
			continue
		}
		at(p)
		if p != "" {
			d, name := split(p)
			d.dirs = append(d.dirs, name)
		}
	}
	return work
}

// rootDifferences is for "/".
func (p *publisher) rootDifferences(r round, old, next *build.Snapshot) {
	a, b := old.Root(), next.Root()
	var e errand
	for name := range p.versions {
		_, was := a.Child(name)
		_, is := b.Child(name)
		if was != is {
			e.names = append(e.names, name)
		}
	}
	e.attr = !a.ModTime().Equal(b.ModTime()) || a.Attr() != b.Attr()
	p.tell(r, "/", e)
}

// dirDifferences is for the directory at an absolute path.
func (p *publisher) dirDifferences(r round, dir string, d *drop, old, next *build.Snapshot) {
	e := errand{names: slices.Clone(d.names), attr: true}
	for _, name := range d.dirs {
		full := join(dir, name)
		_, was := old.Find(full)
		_, is := next.Find(full)
		if was != is {
			e.names = append(e.names, name)
		}
	}
	p.tell(r, dir, e)
	p.tell(r, parent(dir), errand{below: []string{dir}})
}

// dropAll drops every entry of "/", after the publisher has ended.
func (p *publisher) dropAll() {
	var names []string
	for name := range p.fs.current.Load().snapshot.Root().Children() {
		names = append(names, name)
	}
	told := make(chan struct{})
	p.kernel.tell([][]notice{p.notices("/", errand{names: names})}, func(_ int, answer []fuse.Status) {
		p.heed("/", answer)
		close(told)
	})
	<-told
}

package fs

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source"
)

const (
	// publishWait is how long Publish waits for the kernel; then the publisher goes on alone, and
	// the other door is served meanwhile.
	publishWait = time.Second
	// stallAfter is how long one notify may take before it is reported. The kernel waits for the
	// directory's lock, which a process holds that hangs in the middle of a listing.
	stallAfter = 5 * time.Second
	// barrier is a name that is in no directory.
	barrier = "\x01"
)

// A notifier tells the kernel what to drop; [fuse.Server] is one.
type notifier interface {
	EntryNotify(parent uint64, name string) fuse.Status
	InodeNotify(node uint64, off, length int64) fuse.Status
}

var _ notifier = (*fuse.Server)(nil)

// A publisher brings snapshots to the kernel, one after the other, from a goroutine of its own: a
// notify waits until the kernel's pending requests for that directory are answered, so it may hold
// nothing that a handler needs.
type publisher struct {
	fs     *rawFS
	kernel notifier
	warn   func(string)

	wait    time.Duration // publishWait
	turn    time.Duration // turnLimit
	stall   time.Duration // stallAfter
	stalled atomic.Uint64

	mu    sync.Mutex
	next  *source.Snapshot // the newest that is not published yet, or nil
	ready chan struct{}    // closed when next is published
	// tellers are at work, by the path of the directory.
	tellers map[string]*teller
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}

	versions map[string]bool // every name that "/" ever had
}

func newPublisher(f *rawFS, kernel notifier, warn func(string)) *publisher {
	return &publisher{
		fs: f, kernel: kernel, warn: warn, wait: publishWait, turn: turnLimit, stall: stallAfter,
		ready: make(chan struct{}), wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		tellers: map[string]*teller{}, versions: map[string]bool{},
	}
}

// publish hands s over and waits until it, or a newer one, is what every process sees. Of several
// that wait only the newest counts.
func (p *publisher) publish(s *source.Snapshot) {
	p.mu.Lock()
	p.next = s
	ready := p.ready
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it is awake
	}
	timeout := time.NewTimer(p.wait)
	defer timeout.Stop()
	select {
	case <-ready:
	case <-timeout.C:
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
			p.bring(next)
		}
		close(ready)
	}
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
// answered, therefore a notify for a name that does not exist first waits for the requests in the
// directory above.
//
// Either waits for a process that hangs in the middle of a listing, for as long as it hangs. So each
// directory is told by a goroutine of its own, which is left behind then (teller.go).
func (p *publisher) bring(next *source.Snapshot) {
	old := p.fs.current.Load().snapshot
	if old == next {
		return
	}
	change := source.Diff(old, next)
	p.fs.swap(next)

	for _, s := range []*source.Snapshot{old, next} {
		for name := range s.Root().Children() {
			p.versions[name] = true
		}
	}
	r := p.newRound()
	p.bringRoot(r, old, next)
	work := plan(change, next)
	dirs := slices.Sorted(maps.Keys(work))
	for _, version := range slices.Sorted(maps.Keys(p.versions)) {
		for _, dir := range dirs {
			p.bringDir(r, path.Join("/", version, dir), work[dir], old, next)
		}
	}
	r.finish()
}

// A drop is what the kernel may no longer believe of one directory.
type drop struct {
	names []string // that came, went, or stand for another file
	dirs  []string // of sub-directories with other attributes, which may include being visible
}

// plan sorts a change by directory, relative to a version.
func plan(c source.Change, next *source.Snapshot) map[string]*drop {
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
		if v, ok := next.Find("/" + source.Latest + "/" + p); !ok || !v.IsDir() {
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

// bringRoot tells what changed in "/".
func (p *publisher) bringRoot(r *round, old, next *source.Snapshot) {
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
	r.tell("/", e)
}

// bringDir tells what changed in the directory at an absolute path, unless the kernel does not know it.
func (p *publisher) bringDir(r *round, dir string, d *drop, old, next *source.Snapshot) {
	e := errand{names: slices.Clone(d.names)}
	for _, name := range d.dirs {
		full := join(dir, name)
		_, was := old.Find(full)
		_, is := next.Find(full)
		if was != is {
			e.names = append(e.names, name)
		}
	}
	r.tell(dir, e)
	if !r.tell(parent(dir), errand{below: []string{dir}}) {
		// The directory above hangs. It matters only to who looks this one up right now.
		p.dropAttrOf(dir)
	}
}

func (p *publisher) dropEntry(dir uint64, path, name string) {
	p.notify(join(path, name), func() fuse.Status { return p.kernel.EntryNotify(dir, name) })
}

func (p *publisher) dropAttr(node uint64, path string) {
	// Offset -1 spares the pages: dropping those of a half-read directory would keep the kernel
	// from ever caching it again.
	p.notify(path, func() fuse.Status { return p.kernel.InodeNotify(node, -1, 0) })
}

// dropAttrOf drops the attributes of the directory at an absolute path if the kernel knows it.
func (p *publisher) dropAttrOf(dir string) {
	if id, ok := p.fs.table.knownDir(dir); ok {
		p.dropAttr(id, dir)
	}
}

// notify sends one notify with a watchdog.
func (p *publisher) notify(path string, send func() fuse.Status) {
	timer := time.AfterFunc(p.stall, func() {
		p.warn(fmt.Sprintf("the kernel has not taken the change of %q for %v: a process hangs while it lists the directory; what changes there waits", path, p.stall))
		p.stalled.Add(1)
	})
	status := send()
	timer.Stop()
	switch status {
	case fuse.OK, fuse.ENOENT: // ENOENT: it had nothing to drop
	case fuse.ENODEV, fuse.EBADF, fuse.EPERM: // unmounted meanwhile
	default:
		p.warn(fmt.Sprintf("tell the kernel of the change of %q: %v", path, status))
	}
}

// dropAll drops every entry of "/", after the publisher has ended.
func (p *publisher) dropAll() {
	for name := range p.fs.current.Load().snapshot.Root().Children() {
		p.dropEntry(fuse.FUSE_ROOT_ID, "/", name)
	}
}

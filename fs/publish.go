package fs

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
)

// A publisher brings snapshots to the kernel, one after the other, from a goroutine of its own. A notification waits until
// the kernel's pending requests for that directory are answered, so the publisher may hold nothing that a handler needs.
type publisher struct {
	fs            *rawFS
	invalidator   *invalidator
	recorder      recorder                  // for a successor
	busy          atomic.Pointer[time.Time] // since when; nil if idle
	mu            sync.Mutex
	next          *build.Snapshot // the newest that is not published yet, or nil
	ready         chan struct{}   // closed when next is published
	wake          chan struct{}
	quit          chan struct{}
	done          chan struct{}
	everyVersion  map[string]bool // every name that "/" ever had
	maybeReplaced map[string]bool // paths at which the kernel may know files and directories that are in no tree
}

func newPublisher(f *rawFS, k kernel, warn func(string)) *publisher {
	quit := make(chan struct{})
	return &publisher{
		fs: f, invalidator: newInvalidator(f, k, warn, quit), recorder: recorder{warn: warn},
		ready: make(chan struct{}), wake: make(chan struct{}, 1), quit: quit, done: make(chan struct{}),
		everyVersion: map[string]bool{}, maybeReplaced: map[string]bool{},
	}
}

// publish hands s over and waits until every process sees it, or a newer one, as far as the kernel takes the change in
// time. Of several that wait only the newest counts.
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
			p.show(next)
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

// stop ends the publisher, which does not wait for a notification that hangs in the kernel. p.done is closed when it has
// ended.
func (p *publisher) stop() { close(p.quit) }

// show swaps the tree and has the kernel drop what it has cached of the old one.
//
// Files: a LOOKUP, READDIR or READDIRPLUS holds its directory's lock until the answer is linked, and a notification for an
// entry takes that lock. So an answer from the old tree is linked first and then dropped.
//
// Directories stay the same inode, and dropping their entry would detach what is mounted on them, so only their attributes
// are dropped. A notification for an inode misses one whose LOOKUP is still being answered. Therefore it is sent once more
// from the directory above, where a notification for a name that does not exist waits for the pending requests first.
//
// A notification for an entry waits for a process that hangs in the middle of a listing, for as long as it hangs. So no
// directory waits for another, and the publisher for none beyond its limit (invalidate.go).
//
// No other way to publish avoids that: a mkdir by anybody takes the same lock before the kernel refuses it, and has the same
// effect. FUSE_NOTIFY_INC_EPOCH (Linux 6.17) takes no lock, but after it readers still opened old values when many changes
// came (measured on 6.18). It also detaches what is mounted on our directories, and every name has to be looked up again.
func (p *publisher) show(next *build.Snapshot) {
	old := p.fs.current.Load().snapshot
	if old == next {
		return
	}
	change := build.Diff(old, next)
	t := p.fs.prepare(next, change)
	p.recorder.keepTree(p.stillKnown(old, next, false), next)
	p.fs.serve(t)
	p.recorder.markServed()
	set := invalidations{}
	p.collect(set, old, next, change)
	p.noteReplaced(set)
	p.invalidator.invalidate(set)
	fault.At("change told")
	p.askInherited()
}

// dropAll has the kernel drop every entry of "/", after the publisher has ended.
func (p *publisher) dropAll() {
	var names []string
	for name := range p.fs.current.Load().snapshot.Root().Children() {
		names = append(names, name)
	}
	i := p.invalidator
	sent := make(chan struct{})
	i.kernel.notify([][]notification{i.batch("/", invalidation{names: names})}, func(_ int, answers []fuse.Status) {
		i.report("/", answers)
		close(sent)
	})
	<-sent
}

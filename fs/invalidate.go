package fs

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/patient"
)

// publishWait is how long a change waits for the kernel, as this process experiences it. Then what the kernel has not taken
// goes on alone, and the other door serves the change meanwhile. It is a variable for tests.
var publishWait = time.Second

const (
	// stallAfter is how long one notification may take before it is reported. The kernel waits for the directory's lock,
	// which a process holds that hangs in the middle of a listing.
	stallAfter = 5 * time.Second
	// barrier is a name that is in no directory.
	barrier = "\x01"
)

// An invalidation is what the kernel has to drop of one directory.
type invalidation struct {
	names []string // entries to drop
	attr  bool     // its attributes to drop, after the names
	// below are the absolute paths of sub-directories whose attributes to drop, once the requests that are pending in this
	// directory are answered.
	below []string
}

// invalidations are those of one snapshot, by the absolute path of the directory.
type invalidations map[string]*invalidation

func (inv *invalidation) merge(more invalidation) {
	inv.names = union(inv.names, more.names)
	inv.below = union(inv.below, more.below)
	inv.attr = inv.attr || more.attr
}

func (inv *invalidation) empty() bool { return len(inv.names)+len(inv.below) == 0 && !inv.attr }

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// An invalidator sends the invalidations of directories to the kernel, with one under way for each directory. What comes up
// for a directory meanwhile is merged and sent next.
type invalidator struct {
	fs     *rawFS
	kernel kernel
	warn   func(string)
	quit   chan struct{} // closed: wait for nothing

	wait    time.Duration // publishWait
	stall   time.Duration // stallAfter
	stalled atomic.Uint64 // notifications that took longer than stall

	mu      sync.Mutex
	pending map[string]*pendingDir // by absolute path
}

// A pendingDir is a directory with an invalidation under way. The invalidator's mutex guards it.
type pendingDir struct {
	current invalidation
	next    invalidation  // what came up meanwhile
	late    bool          // a change has waited for it, and none does any more
	done    chan struct{} // closed when there is nothing left to send
}

func newInvalidator(f *rawFS, k kernel, warn func(string), quit chan struct{}) *invalidator {
	return &invalidator{fs: f, kernel: k, warn: warn, quit: quit, wait: publishWait, stall: stallAfter, pending: map[string]*pendingDir{}}
}

// add adds an invalidation to a set, if the kernel knows the directory.
func (i *invalidator) add(set invalidations, dir string, inv invalidation) {
	if _, known := i.fs.table.knownDir(dir); !known || inv.empty() {
		return
	}
	if set[dir] == nil {
		set[dir] = &invalidation{}
	}
	set[dir].merge(inv)
}

// invalidate sends a set, and waits until the kernel has taken it. It does not wait for directories that a process hangs in:
// those follow when it is possible.
func (i *invalidator) invalidate(set invalidations) {
	dirs, waiting := i.enqueue(set)
	if len(waiting) == 0 && len(dirs) == 0 {
		return
	}
	over := make(chan struct{})
	defer close(over)
	expired := patient.After(i.wait, over)
	i.send(dirs, func(dir string) invalidation { return *set[dir] })

	for n, p := range waiting {
		select {
		case <-p.done:
			continue
		case <-i.quit:
		case <-expired:
		}
		i.mu.Lock()
		for _, p := range waiting[n:] {
			p.late = true
		}
		i.mu.Unlock()
		return
	}
}

// enqueue makes the directories of a set pending. It returns those to send now, and all to wait for.
func (i *invalidator) enqueue(set invalidations) (dirs []string, waiting []*pendingDir) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, dir := range slices.Sorted(maps.Keys(set)) {
		p, busy := i.pending[dir]
		if busy {
			p.next.merge(*set[dir])
			p.next.attr = true // again, after the names
		} else {
			p = &pendingDir{current: *set[dir], done: make(chan struct{})}
			i.pending[dir] = p
			dirs = append(dirs, dir)
		}
		if !p.late {
			waiting = append(waiting, p)
		}
	}
	return dirs, waiting
}

// send sends the invalidations of directories that are pending, and warns of each that takes too long.
func (i *invalidator) send(dirs []string, of func(dir string) invalidation) {
	if len(dirs) == 0 {
		return
	}
	batches := make([][]notification, len(dirs))
	watchdogs := make([]*time.Timer, len(dirs))
	for n, dir := range dirs {
		batches[n] = i.batch(dir, of(dir))
		watchdogs[n] = time.AfterFunc(i.stall, func() {
			i.warn(fmt.Sprintf("the kernel has not taken the change of %q for %v: a process hangs while it lists the directory; what changes there waits", dir, i.stall))
			i.stalled.Add(1)
		})
	}
	i.kernel.notify(batches, func(n int, answers []fuse.Status) {
		watchdogs[n].Stop()
		i.report(dirs[n], answers)
		i.finish(dirs[n])
	})
}

// finish ends what is pending for a directory, or sends what came up meanwhile.
func (i *invalidator) finish(dir string) {
	i.mu.Lock()
	p := i.pending[dir]
	inv := p.next
	if inv.empty() {
		delete(i.pending, dir)
		i.mu.Unlock()
		close(p.done)
		return
	}
	p.current, p.next = inv, invalidation{}
	i.mu.Unlock()
	i.send([]string{dir}, func(string) invalidation { return inv })
}

// batch is an invalidation in the kernel's terms. The table need not know a sub-directory: its id is a function of its path.
func (i *invalidator) batch(dir string, inv invalidation) []notification {
	id := i.fs.key.dir(dir)
	var list []notification
	for _, name := range inv.names {
		list = append(list, notification{id, name})
	}
	if inv.attr {
		list = append(list, notification{node: id})
	}
	if len(inv.below) > 0 {
		list = append(list, notification{id, barrier})
	}
	for _, sub := range inv.below {
		list = append(list, notification{node: i.fs.key.dir(sub)})
	}
	return list
}

// report warns of an answer of the kernel that should not come.
func (i *invalidator) report(dir string, answers []fuse.Status) {
	for _, status := range answers {
		switch status {
		case fuse.OK, fuse.ENOENT: // ENOENT: it had nothing cached
		case fuse.ENODEV, fuse.EBADF, fuse.EPERM, fuse.Status(unix.ENOTCONN): // unmounted meanwhile
		default:
			i.warn(fmt.Sprintf("tell the kernel of the change of %q: %v", dir, status))
			return
		}
	}
}

// unsent is what the kernel has not taken yet.
func (i *invalidator) unsent() []pendingRecord {
	i.mu.Lock()
	defer i.mu.Unlock()
	var list []pendingRecord
	for dir, p := range i.pending {
		inv := p.current
		inv.merge(p.next)
		list = append(list, inv.record(dir))
	}
	return list
}

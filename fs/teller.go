package fs

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// An errand is what the kernel has to be told of one directory.
type errand struct {
	names []string // entries to drop
	attr  bool     // its attributes to drop, after the names
	// below are the absolute paths of sub-directories whose attributes to drop, once the requests
	// that are pending in this directory are answered.
	below []string
}

func (e *errand) add(more errand) {
	e.names = union(e.names, more.names)
	e.below = union(e.below, more.below)
	e.attr = e.attr || more.attr
}

func (e *errand) empty() bool { return len(e.names)+len(e.below) == 0 && !e.attr }

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// notices are an errand in the kernel's terms. A sub-directory need not be known: its id is a function
// of its path.
func (p *publisher) notices(dir string, e errand) []notice {
	id := p.fs.key.dir(dir)
	var list []notice
	for _, name := range e.names {
		list = append(list, notice{id, name})
	}
	if e.attr {
		list = append(list, notice{node: id})
	}
	if len(e.below) > 0 {
		list = append(list, notice{id, barrier})
	}
	for _, sub := range e.below {
		list = append(list, notice{node: p.fs.key.dir(sub)})
	}
	return list
}

// A teller is a directory that the kernel is being told of. The publisher's mutex guards it.
type teller struct {
	doing  errand
	next   errand        // what came up meanwhile
	behind bool          // the publisher has waited for it and does so no more
	done   chan struct{} // closed when there is nothing left to tell
}

// A round is what one snapshot has to tell, by the absolute path of the directory.
type round map[string]*errand

// tell adds an errand, if the kernel knows the directory.
func (p *publisher) tell(r round, dir string, e errand) {
	if _, known := p.fs.table.knownDir(dir); !known || e.empty() {
		return
	}
	if r[dir] == nil {
		r[dir] = &errand{}
	}
	r[dir].add(e)
}

// carryOut has a round told, and waits for it, but not for directories that somebody hangs in: those are
// told when it is possible.
func (p *publisher) carryOut(r round) {
	dirs := slices.Sorted(maps.Keys(r))
	var waiting []*teller
	p.mu.Lock()
	dirs = slices.DeleteFunc(dirs, func(dir string) bool {
		t, busy := p.tellers[dir]
		if busy {
			t.next.add(*r[dir])
			t.next.attr = true // again, after the names
		} else {
			t = &teller{doing: *r[dir], done: make(chan struct{})}
			p.tellers[dir] = t
		}
		if !t.behind {
			waiting = append(waiting, t)
		}
		return busy
	})
	p.mu.Unlock()
	if len(waiting) == 0 && len(dirs) == 0 {
		return
	}
	carried := make(chan struct{})
	defer close(carried)
	expired := experienced(p.wait, carried)
	p.send(dirs, func(dir string) errand { return *r[dir] })

	for i, t := range waiting {
		select {
		case <-t.done:
			continue
		case <-p.quit:
		case <-expired:
		}
		p.mu.Lock()
		for _, t := range waiting[i:] {
			t.behind = true
		}
		p.mu.Unlock()
		return
	}
}

// send has directories told, with a watchdog. Each has a teller.
func (p *publisher) send(dirs []string, of func(dir string) errand) {
	if len(dirs) == 0 {
		return
	}
	groups := make([][]notice, len(dirs))
	watch := make([]*time.Timer, len(dirs))
	for i, dir := range dirs {
		groups[i] = p.notices(dir, of(dir))
		watch[i] = time.AfterFunc(p.stall, func() {
			p.warn(fmt.Sprintf("the kernel has not taken the change of %q for %v: a process hangs while it lists the directory; what changes there waits", dir, p.stall))
			p.stalled.Add(1)
		})
	}
	p.kernel.tell(groups, func(i int, answer []fuse.Status) {
		watch[i].Stop()
		p.heed(dirs[i], answer)
		p.told(dirs[i])
	})
}

// told ends the teller of a directory, or has it tell what came up meanwhile.
func (p *publisher) told(dir string) {
	p.mu.Lock()
	t := p.tellers[dir]
	e := t.next
	if e.empty() {
		delete(p.tellers, dir)
		p.mu.Unlock()
		close(t.done)
		return
	}
	t.doing, t.next = e, errand{}
	p.mu.Unlock()
	p.send([]string{dir}, func(string) errand { return e })
}

// heed looks at what the kernel said.
func (p *publisher) heed(dir string, answer []fuse.Status) {
	for _, status := range answer {
		switch status {
		case fuse.OK, fuse.ENOENT: // ENOENT: it had nothing to drop
		case fuse.ENODEV, fuse.EBADF, fuse.EPERM, fuse.Status(unix.ENOTCONN): // unmounted meanwhile
		default:
			p.warn(fmt.Sprintf("tell the kernel of the change of %q: %v", dir, status))
			return
		}
	}
}

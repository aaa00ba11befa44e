package fs

import (
	"slices"
	"time"
)

const (
	// turnLimit is how long the other directories wait for one that is being told.
	turnLimit = 100 * time.Millisecond
	// maxTellers bounds the threads that hang in the kernel. When there are as many directories with
	// a hanging listing, new values wait.
	maxTellers = 64
)

// An errand is what the kernel has to be told of one directory, in this order.
type errand struct {
	names []string // entries to drop
	attr  bool     // its attributes to drop
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

// A teller is a goroutine that tells the kernel of one directory. The publisher's mutex guards it.
type teller struct {
	next   errand        // what came up meanwhile
	behind bool          // the publisher has waited for it and does so no more
	done   chan struct{} // closed when there is nothing left to tell
}

// A round is what one snapshot has to tell.
type round struct {
	p     *publisher
	limit *time.Timer // publishWait
	late  []*teller
}

func (p *publisher) newRound() *round { return &round{p: p, limit: time.NewTimer(p.wait)} }

// tell has the kernel told of the directory at an absolute path, and reports whether it was. If not,
// somebody hangs there, and the teller goes on by itself.
func (r *round) tell(dir string, e errand) bool {
	p := r.p
	if _, known := p.fs.table.knownDir(dir); !known || e.empty() {
		return true
	}
	p.mu.Lock()
	t, busy := p.tellers[dir]
	if busy {
		t.next.add(e)
	} else {
		t = &teller{done: make(chan struct{})}
		p.tellers[dir] = t
		go p.work(t, dir, e)
	}
	behind, crowded := t.behind, len(p.tellers) > maxTellers
	p.mu.Unlock()
	if behind {
		return false
	}
	turn := time.NewTimer(p.turn)
	defer turn.Stop()
	expired := turn.C
	if crowded {
		expired = nil
	}
	select {
	case <-t.done:
		return true
	case <-p.quit:
	case <-expired:
	}
	p.mu.Lock()
	if p.tellers[dir] == t {
		t.next.attr = true // again, after the names
	}
	p.mu.Unlock()
	r.late = append(r.late, t)
	return false
}

// finish waits for the tellers that took longer than their turn.
func (r *round) finish() {
	defer r.limit.Stop()
	for i, t := range r.late {
		select {
		case <-t.done:
			continue
		case <-r.p.quit:
		case <-r.limit.C:
		}
		r.p.mu.Lock()
		for _, t := range r.late[i:] {
			t.behind = true
		}
		r.p.mu.Unlock()
		return
	}
}

// work tells e, and what comes up meanwhile.
func (p *publisher) work(t *teller, dir string, e errand) {
	for {
		p.carryOut(dir, e)
		p.mu.Lock()
		if t.next.empty() {
			delete(p.tellers, dir)
			p.mu.Unlock()
			close(t.done)
			return
		}
		e, t.next = t.next, errand{}
		p.mu.Unlock()
	}
}

func (p *publisher) carryOut(dir string, e errand) {
	id, ok := p.fs.table.knownDir(dir)
	if !ok {
		return
	}
	for _, name := range e.names {
		p.dropEntry(id, dir, name)
	}
	if e.attr {
		p.dropAttr(id, dir)
	}
	if len(e.below) > 0 {
		p.dropEntry(id, dir, barrier)
	}
	for _, sub := range e.below {
		p.dropAttrOf(sub)
	}
}

package edge

import (
	"container/list"
	"sync"
)

// A registry holds the open connections, the one unused for longest first. A connection is used when
// it is accepted and when a request has come in completely: one that sends its headers slowly gains
// nothing.
type registry struct {
	max   int
	mu    sync.Mutex
	byUse list.List // of *conn
}

// add makes room by closing the connection unused for longest.
func (r *registry) add(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.byUse.Len() >= r.max {
		r.evictLocked()
	}
	c.place = r.byUse.PushBack(c)
}

func (r *registry) touch(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place != nil {
		r.byUse.MoveToBack(c.place)
	}
}

func (r *registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place != nil {
		r.byUse.Remove(c.place)
		c.place = nil
	}
}

// evict frees a descriptor, if there is any connection.
func (r *registry) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUse.Len() > 0 {
		r.evictLocked()
	}
}

func (r *registry) evictLocked() {
	victim := r.byUse.Remove(r.byUse.Front()).(*conn)
	victim.place = nil
	victim.Close() // its goroutine ends at its next read or write
}

package edge

import (
	"container/list"
	"net/netip"
	"sync"
)

// A registry holds the open connections, the one unused for longest first. A connection is used when
// it is accepted and when a request has come in completely: one that sends its headers slowly gains
// nothing. Where there are too many, of all or of one peer, the one unused for longest goes.
type registry struct {
	max        int
	maxPerPeer int
	mu         sync.Mutex
	byUse      list.List                 // of *conn
	byPeer     map[netip.Addr]*list.List // the same, but for those of local peers
}

// places are where the registry has a connection; nil where it has not.
type places struct{ byUse, byPeer *list.Element }

// add makes room by closing connections unused for longest.
func (r *registry) add(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if own := r.byPeer[c.peer]; own != nil && own.Len() >= r.maxPerPeer {
		r.evictLocked(own.Front())
	}
	for r.byUse.Len() >= r.max {
		r.evictLocked(r.byUse.Front())
	}
	c.places.byUse = r.byUse.PushBack(c)
	if !c.peer.IsValid() {
		return
	}
	own := r.byPeer[c.peer]
	if own == nil {
		own = list.New()
		if r.byPeer == nil {
			r.byPeer = map[netip.Addr]*list.List{}
		}
		r.byPeer[c.peer] = own
	}
	c.places.byPeer = own.PushBack(c)
}

func (r *registry) touch(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.places.byUse == nil {
		return
	}
	r.byUse.MoveToBack(c.places.byUse)
	if c.places.byPeer != nil {
		r.byPeer[c.peer].MoveToBack(c.places.byPeer)
	}
}

func (r *registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(c)
}

func (r *registry) removeLocked(c *conn) {
	if c.places.byUse == nil {
		return
	}
	r.byUse.Remove(c.places.byUse)
	if c.places.byPeer != nil {
		own := r.byPeer[c.peer]
		own.Remove(c.places.byPeer)
		if own.Len() == 0 {
			delete(r.byPeer, c.peer)
		}
	}
	c.places = places{}
}

func (r *registry) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byUse.Len()
}

// evict frees a descriptor, if there is any connection.
func (r *registry) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUse.Len() > 0 {
		r.evictLocked(r.byUse.Front())
	}
}

func (r *registry) evictLocked(e *list.Element) {
	victim := e.Value.(*conn)
	r.removeLocked(victim)
	victim.Close() // its goroutine ends at its next read or write
}

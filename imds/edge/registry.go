package edge

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// A registry holds the open connections of a port, the one unused for longest first. A connection is used when it is
// accepted and when a request has come in completely: sending headers slowly does not count. If there are too many, in all
// or of one peer, the one unused for longest is closed. Every operation takes constant time.
type registry struct {
	max        int
	maxPerPeer int // 0: one peer may have them all
	mu         sync.Mutex
	byUse      list.List                 // of *member
	byPeer     map[netip.Addr]*list.List // the same, but for those of local peers
}

// A member is a connection in a registry.
type member struct {
	net.Conn
	peer   netip.Addr // the zero Addr if only the limit of all applies
	places places
}

// places are the elements of a connection in the lists of a registry; nil where it is in none.
type places struct{ byUse, byPeer *list.Element }

// peerKey is what counts as one peer for limits and reports: an IPv4 address, or an IPv6 /64, because whoever has one
// address of it mostly has them all (RFC 6177). For link-local addresses that is the link.
func peerKey(peer netip.Addr) netip.Addr {
	if !peer.Is6() || peer.Is4In6() {
		return peer.Unmap()
	}
	prefix, err := peer.Prefix(64)
	if err != nil {
		return peer
	}
	return prefix.Addr().WithZone(peer.Zone())
}

// add makes room by closing connections unused for longest.
func (r *registry) add(m *member) {
	for _, victim := range r.insert(m) {
		victim.Close() // its goroutine ends at its next read or write
	}
}

// insert returns the connections to close for m: at most two, one of its peer and one of all.
func (r *registry) insert(m *member) (victims []*member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := peerKey(m.peer)
	if own := r.byPeer[key]; own != nil && own.Len() >= r.maxPerPeer {
		victims = append(victims, r.takeLocked(own.Front()))
	}
	if r.byUse.Len() >= r.max {
		victims = append(victims, r.takeLocked(r.byUse.Front()))
	}
	m.places.byUse = r.byUse.PushBack(m)
	if !m.peer.IsValid() || r.maxPerPeer == 0 {
		return victims
	}
	own := r.byPeer[key]
	if own == nil {
		own = list.New()
		if r.byPeer == nil {
			r.byPeer = map[netip.Addr]*list.List{}
		}
		r.byPeer[key] = own
	}
	m.places.byPeer = own.PushBack(m)
	return victims
}

func (r *registry) touch(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.places.byUse == nil {
		return
	}
	r.byUse.MoveToBack(m.places.byUse)
	if m.places.byPeer != nil {
		r.byPeer[peerKey(m.peer)].MoveToBack(m.places.byPeer)
	}
}

func (r *registry) remove(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(m)
}

func (r *registry) removeLocked(m *member) {
	if m.places.byUse == nil {
		return
	}
	r.byUse.Remove(m.places.byUse)
	if m.places.byPeer != nil {
		key := peerKey(m.peer)
		own := r.byPeer[key]
		own.Remove(m.places.byPeer)
		if own.Len() == 0 {
			delete(r.byPeer, key)
		}
	}
	m.places = places{}
}

func (r *registry) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byUse.Len()
}

// evict closes the connection unused for longest, to free its descriptor.
func (r *registry) evict() {
	r.mu.Lock()
	var victim *member
	if r.byUse.Len() > 0 {
		victim = r.takeLocked(r.byUse.Front())
	}
	r.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
}

func (r *registry) takeLocked(e *list.Element) *member {
	victim := e.Value.(*member)
	r.removeLocked(victim)
	return victim
}

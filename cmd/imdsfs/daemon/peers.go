package daemon

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/clock"
)

const maxPeers = 64 // that status remembers

// A peerLog remembers the peers that were refused, or got no token.
type peerLog struct {
	clock clock.Clock
	mu    sync.Mutex
	peers map[peerKey]*control.Peer
}

type peerKey struct {
	addr netip.Addr
	why  string
}

// note records that a peer was refused, and why. At [maxPeers] it forgets the one not seen for longest.
func (l *peerLog) note(addr netip.Addr, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers == nil {
		l.peers = map[peerKey]*control.Peer{}
	}
	k := peerKey{addr.WithZone(""), why}
	p := l.peers[k]
	if p == nil {
		if len(l.peers) >= maxPeers {
			oldest := k
			for other, q := range l.peers {
				if oldest == k || q.Last.Before(l.peers[oldest].Last) {
					oldest = other
				}
			}
			delete(l.peers, oldest)
		}
		p = &control.Peer{Address: k.addr.String(), Why: why}
		l.peers[k] = p
	}
	p.Last = l.clock.Now().UTC().Truncate(time.Second)
}

// list returns the peers, the latest first.
func (l *peerLog) list() []control.Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []control.Peer{}
	for _, p := range l.peers {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b control.Peer) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Address, b.Address))
	})
	return list
}

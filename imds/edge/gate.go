package edge

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
)

// A gate decides which peers of a port are answered, from memory.
type gate struct {
	rules     []Rule
	changes   bool // the answer of a rule may change
	addresses *Addresses
	told      func(peer netip.Addr) // of a refused peer; may be nil
	reports   *throttle[netip.Addr]
	refused   atomic.Uint64 // connections
}

func newGate(rules []Rule, addresses *Addresses, clock clock.Clock, told func(netip.Addr)) *gate {
	if rules == nil {
		rules = []Rule{localRule()}
	}
	if addresses == nil {
		addresses = noAddresses()
	}
	return &gate{
		rules: rules, changes: slices.ContainsFunc(rules, Rule.changes), addresses: addresses,
		told: told, reports: newThrottle[netip.Addr](clock, reportedMax),
	}
}

// A verdict is what a gate says about a connection.
type verdict struct {
	peer           netip.Addr
	allowed, local bool
}

// look decides by the addresses as they are now.
func (g *gate) look(nc net.Conn) verdict {
	at := g.addresses.now.Load()
	peer := at.peer(nc)
	return verdict{
		peer:    peer,
		allowed: peer.IsValid() && slices.ContainsFunc(g.rules, func(r Rule) bool { return r.allows(peer, at) }),
		local:   at.isLocal(peer),
	}
}

// mayLookAgain reports whether a connection that is not allowed may have a second look and a report, in a goroutine of its
// own. That goroutine has to call looked at its end.
func (g *gate) mayLookAgain() bool { return g.addresses.secondLooks.take() }

func (g *gate) looked() { g.addresses.secondLooks.giveBack() }

// lookAgain decides whether the peer is allowed, as lookUntil does. It does not wait if the answer cannot change.
func (g *gate) lookAgain(nc net.Conn) verdict {
	if !g.changes {
		return g.look(nc)
	}
	return g.lookUntil(nc, isAllowed)
}

// lookUntil decides as soon as the verdict is good, or after secondLook. An address may just have been added, as ours is
// when http-protocol-ipv6 is enabled, and be used before we have read the event. On a busy machine reading takes longer.
func (g *gate) lookUntil(nc net.Conn, good func(verdict) bool) verdict {
	latest := time.Now().Add(lookMost)
	timer := time.NewTimer(secondLook)
	defer timer.Stop()
	for late := false; ; {
		replaced := g.addresses.now.Load().replaced
		if v := g.look(nc); late || good(v) {
			return v
		}
		select {
		case <-replaced:
		case <-timer.C:
			if late = !g.addresses.isBehind() || time.Now().After(latest); !late {
				timer.Reset(secondLook)
			}
		}
	}
}

func isAllowed(v verdict) bool { return v.allowed }

func isLocal(v verdict) bool { return v.local }

// refuse closes the connection of a peer that no rule allows.
func (g *gate) refuse(nc net.Conn) {
	nc.Close()
	g.refused.Add(1)
}

// report reports a peer that was refused. It may block as long as the log does, so only those with a second look are
// reported.
func (g *gate) report(peer netip.Addr) {
	if g.told != nil && g.reports.allow(peerKey(peer)) {
		g.told(peer)
	}
}

package edge

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
)

// Addresses are the addresses of the machine in the daemon's own network namespace:
//
//	kernel ──▶ netlink socket ──▶ follower ──▶ picture ──▶ gate: is this peer local?
//
// They are kept in memory and follow the kernel's events ([FollowAddresses]), so a connection never makes us ask the
// kernel. All ports share one value, and with it the limit of connections that wait for a second look.
//
// An address counts from the time the kernel has it until we have read that the kernel no longer has it. It does not count
// while its link is down after it was up. An IPv6 address counts only once it is known that no neighbour has it. Otherwise
// the peer that uses the address may be a neighbour.
type Addresses struct {
	now         atomic.Pointer[picture]
	secondLooks slots
	behind      func() bool        // nil: never
	stop        context.CancelFunc // nil: not followed
	done        chan struct{}
}

// noAddresses knows only loopback addresses.
func noAddresses() *Addresses {
	a := &Addresses{secondLooks: make(slots, maxSecondLooks)}
	a.now.Store(newPicture(nil))
	return a
}

// isBehind reports whether there is an event of the kernel that is not in the picture yet.
func (a *Addresses) isBehind() bool { return a.behind != nil && a.behind() }

// show replaces the picture. Only one goroutine at a time may call it.
func (a *Addresses) show(next *picture) { close(a.now.Swap(next).replaced) }

// A picture holds the machine's addresses at one moment. It does not change.
type picture struct {
	own      map[netip.Addr]bool       // a link-local IPv6 address with the name of its link as zone
	networks map[string][]netip.Prefix // by the name of the interface
	names    map[int]string            // of the links, by their index
	replaced chan struct{}             // closed when there is a newer picture
}

// An interfaceAddress is one address of an interface, with the network it is in.
type interfaceAddress struct {
	iface  string
	prefix netip.Prefix // not masked
}

func newPicture(addresses []interfaceAddress) *picture {
	p := &picture{own: map[netip.Addr]bool{}, networks: map[string][]netip.Prefix{}, replaced: make(chan struct{})}
	for _, a := range addresses {
		addr := a.prefix.Addr()
		if onLink(addr) {
			addr = addr.WithZone(a.iface)
		}
		p.own[addr] = true
		p.networks[a.iface] = append(p.networks[a.iface], a.prefix)
	}
	return p
}

// onLink reports whether an address is valid only on its own link. Every link has fe80::/64, and a neighbour on one link may
// have the address that we have on another.
func onLink(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }

// isLocal reports whether a peer is a process of this machine, as [localRule] defines it.
func (p *picture) isLocal(peer netip.Addr) bool {
	if !onLink(peer) {
		peer = peer.WithZone("")
	}
	return peer.IsLoopback() || p.own[peer]
}

// inNetworkOf takes time in proportion to the addresses of the interface.
func (p *picture) inNetworkOf(iface string, peer netip.Addr) bool {
	if onLink(peer) && peer.Zone() != iface {
		return false
	}
	for _, network := range p.networks[iface] {
		if network.Contains(peer.WithZone("")) {
			return true
		}
	}
	return false
}

// peer is the address of the other end. An IPv4-mapped address becomes IPv4. A connection that is not TCP has the zero Addr,
// which no rule allows. The zone of a link-local IPv6 address is the name of its link in this picture: package net
// remembers names for up to a minute, and meanwhile another link may have got the name.
func (p *picture) peer(nc net.Conn) netip.Addr {
	tcp, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap()
	if !onLink(addr) {
		return addr.WithZone("")
	}
	index, err := scopeOf(nc)
	if err != nil {
		return addr.WithZone("")
	}
	return addr.WithZone(p.names[index])
}

package edge

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
)

// Addresses are the addresses of the machine, as far as the daemon's own network namespace goes, in memory:
// the kernel says when they change ([FollowAddresses]), and nobody who connects makes us ask. All ports share
// one value, and with it the bound on connections that wait for a second look.
//
// An address counts from the moment the kernel has it until we have read that the kernel has it no more. One
// does not count when its link has gone down, and an IPv6 one only when it is known that no neighbour has it:
// otherwise a neighbour may be who uses it.
type Addresses struct {
	now         atomic.Pointer[picture]
	secondLooks slots
	behind      func() bool        // nil: never
	stop        context.CancelFunc // nil: not followed
	done        chan struct{}
}

// noAddresses knows of none but the loopback ones.
func noAddresses() *Addresses {
	a := &Addresses{secondLooks: make(slots, maxSecondLooks)}
	a.now.Store(newPicture(nil))
	return a
}

// isBehind reports whether the kernel has said something that is not in the picture yet.
func (a *Addresses) isBehind() bool { return a.behind != nil && a.behind() }

// show replaces the picture. One goroutine at a time may do so.
func (a *Addresses) show(next *picture) { close(a.now.Swap(next).replaced) }

// A picture is the machine's addresses at one moment. It does not change.
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

// onLink reports whether an address means something on its own link alone: every link has fe80::/64, and a
// neighbour on one may well hold the address that we have on another.
func onLink(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }

// isLocal reports whether a peer is a process of this machine, as [Local] has it.
func (p *picture) isLocal(peer netip.Addr) bool {
	if !onLink(peer) {
		peer = peer.WithZone("")
	}
	return peer.IsLoopback() || p.own[peer]
}

// inNetworkOf costs as much as the interface has addresses.
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

// peer is the address of the other end, an IPv4-mapped one as IPv4. The zero Addr, which no rule allows, stands
// for a connection that is not TCP. A link-local IPv6 one has the name of its link as zone, by this picture:
// package net remembers names for up to a minute, in which another link may have got one.
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

package edge

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
)

// A Rule says which peers are answered. Make one with [ParseAllow] or [Local].
type Rule struct {
	text   string
	prefix netip.Prefix // CIDR
	iface  string       // iface:NAME
	// neither: local
}

// Local allows loopback peers and peers whose address is assigned to an interface in the daemon's
// own network namespace: processes of this machine.
func Local() Rule { return Rule{text: "local"} }

// ParseAllow reads a value of --allow-from:
//
//	local        as [Local]
//	10.0.0.0/8   peers in that network, IPv4 or IPv6
//	iface:NAME   peers in a network of that interface's addresses, as they are at the time
//
// The interface need not exist yet.
func ParseAllow(s string) (Rule, error) {
	if s == "local" {
		return Local(), nil
	}
	if name, ok := strings.CutPrefix(s, "iface:"); ok {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n") {
			return Rule{}, fmt.Errorf("allow-from %q: %q is no name of an interface", s, name)
		}
		return Rule{text: s, iface: name}, nil
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return Rule{}, fmt.Errorf("allow-from %q: an address alone is no network, write %s/%d", s, addr, addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return Rule{}, fmt.Errorf("allow-from %q: give local, a network such as 172.17.0.0/16, or iface:NAME", s)
	case prefix.Addr().Is4In6():
		return Rule{}, fmt.Errorf("allow-from %q: write an IPv4 network as IPv4", s)
	case prefix != prefix.Masked():
		return Rule{}, fmt.Errorf("allow-from %q: there are bits set after the prefix, write %s", s, prefix.Masked())
	}
	return Rule{text: s, prefix: prefix}, nil
}

// String is the rule as ParseAllow reads it.
func (r Rule) String() string { return r.text }

// allows decides about an unmapped peer. interfaces yields the addresses of this machine.
func (r Rule) allows(peer netip.Addr, interfaces func() []interfaceAddress) bool {
	if r.prefix.IsValid() {
		return r.prefix.Contains(peer.WithZone(""))
	}
	local := r.iface == ""
	if local && peer.IsLoopback() {
		return true
	}
	for _, a := range interfaces() {
		switch {
		case !a.sameLink(peer):
		case local && a.prefix.Addr() == peer.WithZone(""):
			return true
		case !local && a.iface == r.iface && a.prefix.Contains(peer.WithZone("")):
			return true
		}
	}
	return false
}

// An interfaceAddress is one address of an interface, with the network it is in.
type interfaceAddress struct {
	iface  string
	prefix netip.Prefix // not masked
}

// sameLink reports whether the two addresses can be compared: an IPv6 link-local one means something
// on its own link alone, and every link has fe80::/64. A neighbour on one link may well hold the
// address that we have on another.
func (a interfaceAddress) sameLink(peer netip.Addr) bool {
	return !peer.IsLinkLocalUnicast() || peer.Is4() || peer.Zone() == a.iface
}

// interfaceAddresses asks the kernel. What it cannot tell allows nobody.
func interfaceAddresses() []interfaceAddress {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var all []interfaceAddress
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // gone since
		}
		for _, a := range addrs {
			ipnet, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(ipnet.IP)
			bits, _ := ipnet.Mask.Size()
			if ok {
				all = append(all, interfaceAddress{i.Name, netip.PrefixFrom(addr.Unmap(), bits)})
			}
		}
	}
	return all
}

// A peerCheck applies rules, asking for the machine's addresses at most once in addressesMissAge.
type peerCheck struct {
	rules      []Rule
	clock      source.Clock
	interfaces func() []interfaceAddress

	mu      sync.Mutex
	cached  []interfaceAddress
	asked   bool
	askedAt time.Duration // of Clock.Boot
}

func (p *peerCheck) allow(peer netip.Addr) bool {
	return peer.IsValid() && p.matches(peer, p.rules...)
}

// isLocal reports whether the peer is a process of this machine, as [Local] has it.
func (p *peerCheck) isLocal(peer netip.Addr) bool { return p.matches(peer, Local()) }

// matches asks again for addresses that are not quite fresh before it says no: one may just have been
// added, as ours are when http-protocol-ipv6 is enabled.
func (p *peerCheck) matches(peer netip.Addr, rules ...Rule) bool {
	for _, age := range []time.Duration{addressesAge, addressesMissAge} {
		addresses := func() []interfaceAddress { return p.addresses(age) }
		for _, r := range rules {
			if r.allows(peer, addresses) {
				return true
			}
		}
	}
	return false
}

func (p *peerCheck) addresses(age time.Duration) []interfaceAddress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.clock.Boot(); !p.asked || now-p.askedAt >= age {
		p.cached, p.asked, p.askedAt = p.interfaces(), true, now
	}
	return p.cached
}

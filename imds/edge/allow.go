package edge

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// A Rule says which peers are answered. Make one with [ParseAllow].
type Rule struct {
	text   string
	prefix netip.Prefix // CIDR
	iface  string       // iface:NAME
	// neither: local
}

// localRule allows processes of this machine: loopback peers, and peers whose address is assigned to an interface in the
// daemon's own network namespace.
func localRule() Rule { return Rule{text: "local"} }

// ParseAllow reads a value of --allow-from:
//
//	local        processes of this machine
//	10.0.0.0/8   peers in that network, IPv4 or IPv6
//	iface:NAME   peers in a network of that interface's current addresses
//
// The interface need not exist yet. The error begins with s in quotes.
func ParseAllow(s string) (Rule, error) {
	if s == "local" {
		return localRule(), nil
	}
	if name, ok := strings.CutPrefix(s, "iface:"); ok {
		if !isInterfaceName(name) {
			return Rule{}, fmt.Errorf("%q: %q is no name of an interface", s, name)
		}
		return Rule{text: s, iface: name}, nil
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return Rule{}, fmt.Errorf("%q: an address alone is no network, write %s/%d", s, addr, addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return Rule{}, fmt.Errorf("%q: give local, a network such as 172.17.0.0/16, or iface:NAME", s)
	case prefix.Addr().Is4In6():
		return Rule{}, fmt.Errorf("%q: write an IPv4 network as IPv4", s)
	case prefix != prefix.Masked():
		return Rule{}, fmt.Errorf("%q: there are bits set after the prefix, write %s", s, prefix.Masked())
	}
	return Rule{text: s, prefix: prefix}, nil
}

// isInterfaceName is dev_valid_name of the kernel.
func isInterfaceName(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || r == ':' || r == 0 || unicode.IsSpace(r)
	})
}

// String is the text that ParseAllow reads.
func (r Rule) String() string { return r.text }

// allows decides about an unmapped peer, whose zone is the name of its link.
func (r Rule) allows(peer netip.Addr, at *picture) bool {
	switch {
	case r.prefix.IsValid():
		return r.prefix.Contains(peer.WithZone(""))
	case r.iface != "":
		return at.inNetworkOf(r.iface, peer)
	}
	return at.isLocal(peer)
}

// changes reports whether the answer depends on the addresses of this machine.
func (r Rule) changes() bool { return !r.prefix.IsValid() }

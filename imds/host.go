package imds

import (
	"fmt"
	"net/netip"
	"strings"
)

// Hosts are the host names that a request may be addressed to. IP addresses, localhost, instance-data and
// instance-data.ec2.internal (EC2's own name for the service) are always allowed. The zero value adds none.
//
// This guards against DNS rebinding: a web page whose name has been pointed at our address has the same origin as we, so
// it may PUT for a token and read the answer. But its browser still sends the page's name as Host.
type Hosts struct {
	names map[string]bool
}

var ownNames = map[string]bool{"localhost": true, "instance-data": true, "instance-data.ec2.internal": true}

// NewHosts allows names: DNS names without a port, in upper or lower case, with or without a final dot. The error begins
// with the name in quotes.
func NewHosts(names ...string) (Hosts, error) {
	h := Hosts{names: map[string]bool{}}
	for _, name := range names {
		normal := normalName(name)
		if !isName(normal) {
			return Hosts{}, fmt.Errorf("%q: give a DNS name alone, without scheme, port or path", name)
		}
		h.names[normal] = true
	}
	return h, nil
}

// Allow reports whether a request with this Host header may be answered.
func (h Hosts) Allow(host string) bool {
	name, ok := withoutPort(host)
	if !ok {
		return false
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		literal, zone, hasZone := strings.Cut(strings.TrimSuffix(inner, "]"), "%")
		addr, err := netip.ParseAddr(literal)
		return err == nil && addr.Is6() && (!hasZone || isZone(zone))
	}
	name = normalName(name)
	if ownNames[name] || h.names[name] {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Is4()
}

const maxZone = 64 // bytes; the name of an interface has 15 at most

// isZone reports whether a literal's zone has the form of RFC 6874 §2: unreserved characters and percent-encoded bytes.
// Clients should not send a zone (§4), but curl does: [fe80::1%25eth0], [fe80::1%eth0].
func isZone(zone string) bool {
	if zone == "" || len(zone) > maxZone {
		return false
	}
	hex := func(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
	for i := 0; i < len(zone); i++ {
		switch c := zone[i]; {
		case c == '%':
			if i+2 >= len(zone) || !hex(zone[i+1]) || !hex(zone[i+2]) {
				return false
			}
			i += 2
		case !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0):
			return false
		}
	}
	return true
}

// withoutPort splits "name", "name:port", "[v6]" or "[v6]:port"; the port may be empty.
func withoutPort(host string) (name string, ok bool) {
	end := strings.IndexByte(host, ':')
	if strings.HasPrefix(host, "[") {
		end = strings.IndexByte(host, ']') + 1
		if end == 0 {
			return "", false
		}
	}
	if end < 0 || end == len(host) {
		return host, true
	}
	port, ok := strings.CutPrefix(host[end:], ":")
	return host[:end], ok && len(port) <= 5 && strings.Trim(port, "0123456789") == ""
}

func normalName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

const maxName = 253 // characters of a DNS name (RFC 1035 §2.3.4)

func isName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// refusedName is the name that an administrator would have to allow, or the beginning of what was sent if that is no name.
func refusedName(host string) string {
	if name, ok := withoutPort(host); ok && isName(normalName(name)) {
		return normalName(name)
	}
	return host[:min(len(host), maxName)]
}

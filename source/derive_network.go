package source

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const macsPath = "meta-data/network/interfaces/macs/"

// mirrored are the pairs of leaves that say the same of the instance and of its primary interface.
// Of a list the instance shows the first line.
var mirrored = []struct{ instance, iface string }{
	{"local-ipv4", "local-ipv4s"},
	{"public-ipv4", "public-ipv4s"},
	{"ipv6", "ipv6s"},
	{"security-groups", "security-groups"},
}

// deriveNetwork makes the instance's addresses and its primary interface agree, and fills in every
// interface.
func (b *builder) deriveNetwork() {
	macs := b.macs()
	primary := b.primary(macs)
	if primary != "" {
		b.follows("meta-data/mac", primary, macsPath+primary)
		if !slices.Contains(macs, primary) {
			macs = append(macs, primary)
			slices.Sort(macs)
		}
		for _, m := range mirrored {
			top, below := "meta-data/"+m.instance, macsPath+primary+"/"+m.iface
			if text, ok := b.text(below); ok {
				if m.instance != m.iface {
					text = b.firstLine(below)
				}
				b.follows(top, text, below)
			}
			b.mirror(top, below)
		}
	}
	b.fallback("meta-data/security-groups", "default", "")
	if primary != "" {
		b.mirror("meta-data/security-groups", macsPath+primary+"/security-groups")
	}
	b.number(macs, primary)
	for _, mac := range macs {
		b.deriveInterface(mac)
	}
}

// macs are the interfaces that something is stated of, sorted.
func (b *builder) macs() []string {
	macs := map[string]bool{}
	for path := range b.leaves {
		if rest, ok := strings.CutPrefix(path, macsPath); ok {
			if mac, _, below := strings.Cut(rest, "/"); below {
				macs[mac] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(macs))
}

// A slot is where an interface is attached. Device numbers are unique within a network card (EC2 user guide,
// "Network cards"); 0 on card 0 is the primary interface.
type slot struct{ card, device string }

var primarySlot = slot{"0", "0"}

// slotOf is the slot of an interface; device is "" if nobody states the number.
func (b *builder) slotOf(mac string) slot {
	s := slot{card: "0"} // the only one that most types have, and clients assume it without a word
	if card, ok := b.text(macsPath + mac + "/network-card"); ok {
		s.card = card
	}
	s.device, _ = b.text(macsPath + mac + "/device-number")
	return s
}

// primary decides which interface is the primary one, before anything depends on it: the one that the instance's
// own mac names; else device 0 on network card 0; else, of those on card 0 without a number, the one that has the
// instance's own address, or the first; else the only one; else "".
func (b *builder) primary(macs []string) string {
	if mac, ok := b.text("meta-data/mac"); ok {
		return mac
	}
	first, own := "", ""
	for _, mac := range macs {
		switch s := b.slotOf(mac); {
		case s == primarySlot:
			return mac
		case s.card == primarySlot.card && s.device == "":
			if first == "" {
				first = mac
			}
			if own == "" && b.hasOwnAddress(mac) {
				own = mac
			}
		}
	}
	switch {
	case own != "":
		return own
	case first == "" && len(macs) == 1:
		return macs[0]
	}
	return first
}

// hasOwnAddress reports whether an address that is stated of the instance is one of the interface.
func (b *builder) hasOwnAddress(mac string) bool {
	for _, m := range mirrored {
		own, ok := b.text("meta-data/" + m.instance)
		list, _ := b.text(macsPath + mac + "/" + m.iface)
		if ok && m.instance != m.iface && slices.Contains(strings.Split(list, "\n"), own) {
			return true
		}
	}
	return false
}

// number gives each interface without a device number the next free one of its network card, the primary 0.
func (b *builder) number(macs []string, primary string) {
	taken := map[slot]bool{primarySlot: primary != ""}
	for _, mac := range macs {
		taken[b.slotOf(mac)] = true
	}
	if primary != "" {
		b.follows(macsPath+primary+"/device-number", primarySlot.device, "meta-data/mac")
	}
	for _, mac := range macs {
		s := b.slotOf(mac)
		if s.device != "" {
			continue
		}
		for next := 0; s.device == "" || taken[s]; next++ {
			s.device = strconv.Itoa(next)
		}
		taken[s] = true
		b.fallback(macsPath+mac+"/device-number", s.device, "the next free number, in the order of the addresses")
	}
}

// checkSlots refuses two interfaces in one slot: which of them is meant would be left to chance.
func (b *builder) checkSlots() {
	holders := map[slot]string{}
	for _, mac := range b.macs() {
		s := b.slotOf(mac)
		other, twice := holders[s]
		if holders[s] = mac; !twice {
			continue
		}
		first, second := b.slotPlace(other), b.slotPlace(mac)
		if second.Origin.Kind != Stated {
			first, second = second, first
		}
		b.fault(faultAt(second, fmt.Sprintf("two interfaces have device-number %s on network card %s: %s and %s (%s)", s.device, s.card, other, mac, first.Origin.Place),
			"give each a device-number of its own, or the network-card that it is on"))
	}
}

// checkPrimary warns of a primary interface that is none, or is not where EC2 has it.
func (b *builder) checkPrimary() {
	macs := b.macs()
	mac, ok := b.value("meta-data/mac")
	switch primary := string(mac.Bytes); {
	case !ok && len(macs) > 0:
		b.warn(faultAt(b.slotPlace(macs[0]), "no interface is the primary one: mac, local-ipv4 and host names do not follow from any", "give one of them device-number 0 on network-card 0, or state mac"))
	case !ok:
	case b.snowball: // has no device numbers
	case b.slotOf(primary) != primarySlot:
		b.warn(faultAt(b.slotPlace(primary), fmt.Sprintf("the primary interface, %s, has device-number %s on network card %s: EC2 has it at 0 on 0", primary, b.slotOf(primary).device, b.slotOf(primary).card), ""))
	case mac.Origin.Kind == Stated && len(macs) > 1 && !b.isStated(macsPath+primary+"/"):
		b.warn(faultAt(mac, "nothing is stated of this interface, but of others", "see whether it is one of "+strings.Join(slices.DeleteFunc(macs, func(m string) bool { return m == primary }), ", ")))
	}
}

// isStated reports whether somebody states anything below dir.
func (b *builder) isStated(dir string) bool {
	for path, l := range b.leaves {
		if strings.HasPrefix(path, dir) && l.Origin.Kind == Stated {
			return true
		}
	}
	return false
}

// slotPlace is what states the slot of an interface: its device number, else its card, else the instance's mac.
func (b *builder) slotPlace(mac string) Value {
	return b.statedOf(macsPath+mac+"/device-number", macsPath+mac+"/network-card", "meta-data/mac")
}

func (b *builder) deriveInterface(mac string) {
	dir := macsPath + mac + "/"
	id, _ := b.text("meta-data/instance-id")
	account, _ := b.text("instance.account-id")
	b.follows(dir+"mac", mac, b.firstBelow(dir))
	b.follows(dir+"owner-id", account, "instance.account-id")
	b.fallback(dir+"interface-id", "eni-"+hexOf(17, "interface", id+" "+mac), "from the instance id and the mac")
	b.mirror(dir+"vpc-ipv4-cidr-block", dir+"vpc-ipv4-cidr-blocks")
	if first := b.firstLine(dir + "vpc-ipv4-cidr-blocks"); first != "" {
		b.follows(dir+"vpc-ipv4-cidr-block", first, dir+"vpc-ipv4-cidr-blocks")
	}
	b.associate(dir)
}

// firstBelow names what the existence of an interface follows from.
func (b *builder) firstBelow(dir string) string {
	if mac, _ := b.text("meta-data/mac"); macsPath+mac+"/" == dir {
		return "meta-data/mac"
	}
	return strings.TrimSuffix(dir, "/")
}

// associate maps each public address to the private one in the same place of its list. An interface
// with associations of its own is left alone.
func (b *builder) associate(dir string) {
	for path := range b.leaves {
		if strings.HasPrefix(path, dir+"ipv4-associations/") {
			return
		}
	}
	public, ok1 := b.text(dir + "public-ipv4s")
	local, ok2 := b.text(dir + "local-ipv4s")
	if !ok1 || !ok2 {
		return
	}
	privates := strings.Split(local, "\n")
	for i, address := range strings.Split(public, "\n") {
		if i < len(privates) && isIPv4(address) {
			b.follows(dir+"ipv4-associations/"+address, privates[i], dir+"public-ipv4s", dir+"local-ipv4s")
		}
	}
}

// deriveNames fills in the host names of the instance and of each interface.
func (b *builder) deriveNames() {
	const host, localHost, publicHost = "meta-data/hostname", "meta-data/local-hostname", "meta-data/public-hostname"
	b.mirror(host, localHost) // whoever states one of the two means both
	b.mirror(localHost, host)
	kind, _ := b.text("instance.hostname-type")
	for _, key := range []string{host, localHost} {
		if kind == "ip-name" {
			b.privateName(key, "meta-data/local-ipv4")
		}
		b.resourceName(key)
	}
	b.publicName(publicHost, "meta-data/public-ipv4")

	primary, _ := b.text("meta-data/mac")
	for _, mac := range b.macs() {
		dir := macsPath + mac + "/"
		if mac == primary {
			b.mirror(localHost, dir+"local-hostname")
			b.mirror(publicHost, dir+"public-hostname")
		}
		b.privateName(dir+"local-hostname", dir+"local-ipv4s")
		b.resourceName(dir + "local-hostname")
		b.publicName(dir+"public-hostname", dir+"public-ipv4s")
	}
}

// mirror fills in one key from another that says the same.
func (b *builder) mirror(from, to string) {
	if text, ok := b.text(from); ok {
		b.follows(to, text, from)
	}
}

// privateName fills in the private DNS name of the first address at ipKey.
func (b *builder) privateName(key, ipKey string) {
	region, ok := b.text(regionKey)
	if ip := b.firstLine(ipKey); ok && ip != "" {
		b.follows(key, privateDNS("ip-"+strings.ReplaceAll(ip, ".", "-"), region), ipKey, regionKey)
	}
}

// resourceName fills in the private DNS name that is made of the instance's id.
func (b *builder) resourceName(key string) {
	const idKey = "meta-data/instance-id"
	region, ok := b.text(regionKey)
	if id := b.firstLine(idKey); ok && id != "" {
		b.follows(key, privateDNS(id, region), idKey, regionKey)
	}
}

// publicName fills in the public DNS name of the first address at ipKey. A region of nobody's has no domain, and so no
// such names.
func (b *builder) publicName(key, ipKey string) {
	const domainKey = "meta-data/services/domain"
	region, ok1 := b.text(regionKey)
	domain, ok2 := b.text(domainKey)
	if ip := b.firstLine(ipKey); ok1 && ok2 && ip != "" {
		b.follows(key, publicDNS(ip, region, domain), ipKey, regionKey, domainKey)
	}
}

func (b *builder) firstLine(key string) string {
	text, _ := b.text(key)
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// checkAddresses refuses addresses that are none: names and interfaces are derived from them.
func (b *builder) checkAddresses() {
	type rule struct {
		key, what string
		valid     func(string) bool
	}
	rules := []rule{
		{"meta-data/local-ipv4", "an IPv4 address", isIPv4},
		{"meta-data/public-ipv4", "an IPv4 address", isIPv4},
		{"meta-data/ipv6", "an IPv6 address", isIPv6},
		{"meta-data/mac", "a MAC address (lower case, with colons)", ValidMAC},
	}
	for _, mac := range b.macs() {
		rules = append(rules,
			rule{macsPath + mac + "/local-ipv4s", "IPv4 addresses", eachLine(isIPv4)},
			rule{macsPath + mac + "/public-ipv4s", "IPv4 addresses", eachLine(isIPv4)},
			rule{macsPath + mac + "/ipv6s", "IPv6 addresses", eachLine(isIPv6)})
	}
	for _, r := range rules {
		l, ok := b.leaves[r.key]
		if ok && l.Origin.Kind == Stated && !r.valid(string(l.Bytes)) {
			b.fault(faultAt(l.Value, fmt.Sprintf("%.60q is not %s", l.Bytes, r.what), ""))
		}
	}
}

func eachLine(valid func(string) bool) func(string) bool {
	return func(text string) bool {
		for line := range strings.SplitSeq(text, "\n") {
			if !valid(line) {
				return false
			}
		}
		return true
	}
}

package build

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// interfaces holds what follows from the stated values about the network interfaces of an instance.
type interfaces struct {
	macs    []string       // sorted
	primary string         // one of macs; "" if no interface is the primary one
	numbers map[string]int // device numbers of the other interfaces without a stated one
}

// addressPairs lists the leaves that mean the same for the instance and for its primary interface.
var addressPairs = []struct{ instance, iface string }{
	{"local-ipv4", "local-ipv4s"},
	{"public-ipv4", "public-ipv4s"},
	{"ipv6", "ipv6s"},
}

// findInterfaces finds the interfaces, and decides which is the primary one, before any rule needs to know.
func (b *builder) findInterfaces() interfaces {
	n := interfaces{macs: b.macs()}
	n.primary = b.primary(n.macs)
	if n.primary != "" && !slices.Contains(n.macs, n.primary) {
		n.macs = append(n.macs, n.primary)
		slices.Sort(n.macs)
	}
	n.numbers = b.number(n.macs, n.primary)
	return n
}

// macs returns the interfaces that have a leaf, sorted.
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

// slotOf returns the slot of an interface. device is "" if no source states the number.
func (b *builder) slotOf(mac string) slot {
	s := slot{card: "0"} // most types have only this card, and clients assume it if no card is named
	if card, ok := b.text(macsPath + mac + "/network-card"); ok {
		s.card = card
	}
	s.device, _ = b.text(macsPath + mac + "/device-number")
	return s
}

// primary returns the primary interface, the first of these that exists:
//   - the one that the instance's mac names
//   - device 0 on network card 0
//   - on card 0 and without a number: the one with the instance's own address, or the first
//   - the only one
//
// It returns "" if none of these exists.
func (b *builder) primary(macs []string) string {
	if mac, ok := b.text(macKey); ok {
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

// hasOwnAddress reports whether the interface has an address that is stated for the instance.
func (b *builder) hasOwnAddress(mac string) bool {
	for _, pair := range addressPairs {
		own, ok := b.text("meta-data/" + pair.instance)
		list, _ := b.text(macsPath + mac + "/" + pair.iface)
		if ok && slices.Contains(strings.Split(list, "\n"), own) {
			return true
		}
	}
	return false
}

// number gives each interface without a device number the next free number of its network card. The primary one has 0.
func (b *builder) number(macs []string, primary string) map[string]int {
	taken := map[slot]bool{primarySlot: primary != ""}
	for _, mac := range macs {
		taken[b.slotOf(mac)] = true
	}
	numbers := map[string]int{}
	for _, mac := range macs {
		s := b.slotOf(mac)
		if s.device != "" || mac == primary {
			continue
		}
		next := 0
		for s.device = "0"; taken[s]; s.device = fmt.Sprint(next) {
			next++
		}
		taken[s] = true
		numbers[mac] = next
	}
	return numbers
}

// primaryMAC follows from which interface is the primary one.
func primaryMAC(s *scope) (string, bool) {
	mac := s.b.interfaces.primary
	s.from = []string{macsPath + mac}
	return mac, mac != ""
}

// primaryNumber returns the device number of the primary interface.
func primaryNumber(s *scope) (string, bool) {
	s.from = []string{macKey}
	return primarySlot.device, true
}

// ownMAC follows from the name of the interface's directory.
func ownMAC(s *scope) (string, bool) {
	s.from = []string{macsPath + s.mac}
	return s.mac, true
}

// checkSlots refuses two interfaces in one slot: it would be chance which of them clients use.
func (b *builder) checkSlots() {
	holders := map[slot]string{}
	for _, mac := range b.macs() {
		s := b.slotOf(mac)
		other, twice := holders[s]
		if holders[s] = mac; !twice {
			continue
		}
		first, second := b.slotPlace(other), b.slotPlace(mac)
		if second.Origin.Kind != tree.Stated {
			first, second = second, first
		}
		b.fault(faultAt(second, fmt.Sprintf("two interfaces have device-number %s on network card %s: %s and %s (%s)", s.device, s.card, other, mac, first.Origin.Place),
			"give each a device-number of its own, or the network-card that it is on"))
	}
}

// checkPrimary warns if no interface is the primary one, or if it is not in the slot that EC2 gives it.
func (b *builder) checkPrimary() {
	macs := b.macs()
	mac, ok := b.value(macKey)
	switch primary := string(mac.Bytes); {
	case !ok && len(macs) > 0:
		b.warn(faultAt(b.slotPlace(macs[0]), "no interface is the primary one: mac, local-ipv4 and host names cannot be derived", "give one of them device-number 0 on network-card 0, or state mac"))
	case !ok:
	case b.snowball: // Snowball Edge has no device numbers
	case b.slotOf(primary) != primarySlot:
		s := b.slotOf(primary)
		b.warn(faultAt(b.slotPlace(primary), fmt.Sprintf("the primary interface, %s, has device-number %s on network card %s: EC2 has it at 0 on 0", primary, s.device, s.card), ""))
	case mac.Origin.Kind == tree.Stated && len(macs) > 1 && !b.isStated(macsPath+primary+"/"):
		others := slices.DeleteFunc(macs, func(m string) bool { return m == primary })
		b.warn(faultAt(mac.Value, "this interface is not described, but others are", "check whether it is one of "+strings.Join(others, ", ")))
	}
}

// isStated reports whether a source states a leaf below dir, which ends in a slash.
func (b *builder) isStated(dir string) bool {
	for path, v := range b.leaves {
		if strings.HasPrefix(path, dir) && v.Origin.Kind == tree.Stated {
			return true
		}
	}
	return false
}

// slotPlace returns the value that states the slot of an interface: its device number, else its card, else the instance's
// mac.
func (b *builder) slotPlace(mac string) tree.Value {
	return b.statedOf(macsPath+mac+"/device-number", macsPath+mac+"/network-card", macKey)
}

// checkAddresses refuses invalid addresses: names and interfaces are derived from them.
func (b *builder) checkAddresses() {
	type form struct {
		key, what string
		valid     func(string) bool
	}
	forms := []form{
		{ipKey, "an IPv4 address", ec2.IsIPv4},
		{publicIPKey, "an IPv4 address", ec2.IsIPv4},
		{"meta-data/ipv6", "an IPv6 address", ec2.IsIPv6},
		{macKey, "a MAC address (lower case, with colons)", ec2.ValidMAC},
	}
	for _, mac := range b.macs() {
		forms = append(forms,
			form{macsPath + mac + "/local-ipv4s", "IPv4 addresses", ec2.EachLine(ec2.IsIPv4)},
			form{macsPath + mac + "/public-ipv4s", "IPv4 addresses", ec2.EachLine(ec2.IsIPv4)},
			form{macsPath + mac + "/ipv6s", "IPv6 addresses", ec2.EachLine(ec2.IsIPv6)})
	}
	for _, f := range forms {
		v, ok := b.leaves[f.key]
		if ok && v.Origin.Kind == tree.Stated && !f.valid(string(v.Bytes)) {
			b.fault(faultAt(v.Value, fmt.Sprintf("%.60q is not %s", v.Bytes, f.what), ""))
		}
	}
}

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
		macs[primary] = true
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
	for _, mac := range slices.Sorted(maps.Keys(macs)) {
		b.deriveInterface(mac)
	}
}

// macs is the set of interfaces that something is stated of.
func (b *builder) macs() map[string]bool {
	macs := map[string]bool{}
	for path := range b.leaves {
		if rest, ok := strings.CutPrefix(path, macsPath); ok {
			if mac, _, below := strings.Cut(rest, "/"); below {
				macs[mac] = true
			}
		}
	}
	return macs
}

// primary is the interface that the instance's own mac names, else the one with device number 0,
// else the only one, else "".
func (b *builder) primary(macs map[string]bool) string {
	if mac, ok := b.text("meta-data/mac"); ok {
		return mac
	}
	for mac := range macs {
		if n, _ := b.text(macsPath + mac + "/device-number"); n == "0" || len(macs) == 1 {
			return mac
		}
	}
	return ""
}

// number gives each interface without a device number the next free one, the primary 0.
func (b *builder) number(macs map[string]bool, primary string) {
	taken := map[string]bool{"0": primary != ""}
	for mac := range macs {
		if n, ok := b.text(macsPath + mac + "/device-number"); ok {
			taken[n] = true
		}
	}
	if primary != "" {
		b.follows(macsPath+primary+"/device-number", "0", "meta-data/mac")
	}
	next := 0
	for _, mac := range slices.Sorted(maps.Keys(macs)) {
		key := macsPath + mac + "/device-number"
		if _, ok := b.text(key); ok {
			continue
		}
		for taken[strconv.Itoa(next)] {
			next++
		}
		taken[strconv.Itoa(next)] = true
		b.fallback(key, strconv.Itoa(next), "the next free number, in the order of the addresses")
	}
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
	for mac := range b.macs() {
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

const regionKey = "meta-data/placement/region"

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

// publicName fills in the public DNS name of the first address at ipKey.
func (b *builder) publicName(key, ipKey string) {
	region, ok := b.text(regionKey)
	domain, _ := b.text("meta-data/services/domain")
	if ip := b.firstLine(ipKey); ok && ip != "" {
		b.follows(key, publicDNS(ip, region, domain), ipKey, regionKey)
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
	for mac := range b.macs() {
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

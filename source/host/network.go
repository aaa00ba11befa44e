package host

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// ownLink is the interface on which imdsfs puts 169.254.169.254.
const ownLink = "imds0"

// An Interface is a network interface of the machine.
type Interface struct {
	Index    int // the kernel's, from 1
	Name     string
	MAC      net.HardwareAddr
	Up       bool
	Loopback bool
	Addrs    []netip.Prefix // an address with its subnet's length, in the kernel's order
}

// systemInterfaces returns the interfaces of our network namespace.
func systemInterfaces() ([]Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	interfaces := make([]Interface, 0, len(list))
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has just been removed
		}
		iface := Interface{Index: i.Index, Name: i.Name, MAC: i.HardwareAddr,
			Up: i.Flags&net.FlagUp != 0, Loopback: i.Flags&net.FlagLoopback != 0}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				iface.Addrs = append(iface.Addrs, prefix)
			}
		}
		interfaces = append(interfaces, iface)
	}
	return interfaces, nil
}

// A card is a real interface as the metadata shows it.
type card struct {
	name string
	mac  string
	ipv4 []netip.Prefix
	ipv6 []netip.Prefix
}

// loadNetwork states the real interfaces. The primary one is the first with an IPv4 address, else the first with an IPv6
// address, else the first. The others have device numbers from 1. The primary one gets 0 by derivation from the mac, unless
// another source states another mac. Without real interfaces nothing is stated.
func (s *Source) loadNetwork(f *fragment) error {
	interfaces, err := s.opts.Interfaces()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	cards := primaryFirst(mergeByMAC(s.realInterfaces(interfaces)))
	for n, c := range cards {
		origin := stated("interface " + c.name)
		dir := "network/interfaces/macs/" + c.mac + "/"
		if n > 0 {
			f.set(dir+"device-number", strconv.Itoa(n), origin)
		}
		f.set(dir+"mac", c.mac, origin)
		if len(c.ipv4) > 0 {
			f.set(dir+"local-ipv4s", addresses(c.ipv4), origin)
			f.set(dir+"subnet-ipv4-cidr-block", c.ipv4[0].Masked().String(), origin)
		}
		if len(c.ipv6) > 0 {
			f.set(dir+"ipv6s", addresses(c.ipv6), origin)
		}
	}
	if len(cards) == 0 {
		return nil
	}
	primary := cards[0]
	origin := stated("interface " + primary.name)
	f.set("mac", primary.mac, origin)
	if len(primary.ipv4) > 0 {
		f.set("local-ipv4", primary.ipv4[0].Addr().String(), origin)
	}
	if len(primary.ipv6) > 0 {
		f.set("ipv6", primary.ipv6[0].Addr().String(), origin)
	}
	return nil
}

// realInterfaces returns the interfaces with a device, in the order of their indexes. If there is none, as in a container,
// it returns those that are up.
func (s *Source) realInterfaces(interfaces []Interface) []Interface {
	var devices, up []Interface
	for _, i := range interfaces {
		if i.Loopback || i.Name == ownLink || !isEthernet(i.MAC) || !isFileName(i.Name) {
			continue
		}
		if _, err := os.Stat(filepath.Join(s.opts.Root, "/sys/class/net", i.Name, "device")); err == nil {
			devices = append(devices, i)
		}
		if i.Up {
			up = append(up, i)
		}
	}
	if len(devices) == 0 {
		devices = up
	}
	slices.SortStableFunc(devices, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	return devices
}

// isFileName reports whether name is one path element, as the kernel demands of an interface's name.
func isFileName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func isEthernet(mac net.HardwareAddr) bool {
	return len(mac) == 6 && !slices.Equal(mac, make(net.HardwareAddr, 6))
}

// mergeByMAC makes one card from all interfaces with the same MAC. The members of a bond share one, and so do a virtual
// function and the synthetic device that it speeds up.
func mergeByMAC(interfaces []Interface) []*card {
	var cards []*card
	byMAC := map[string]*card{}
	for _, i := range interfaces {
		mac := i.MAC.String()
		c := byMAC[mac]
		if c == nil {
			c = &card{name: i.Name, mac: mac}
			byMAC[mac] = c
			cards = append(cards, c)
		}
		for _, prefix := range i.Addrs {
			addr := prefix.Addr()
			switch {
			case !addr.IsGlobalUnicast() || addr == ec2.ServiceIPv6: // link-local, loopback, multicast, unspecified
			case addr.Is4():
				c.ipv4 = append(c.ipv4, prefix)
			default:
				c.ipv6 = append(c.ipv6, prefix)
			}
		}
	}
	return cards
}

// primaryFirst moves the primary card to the front; the others keep their order.
func primaryFirst(cards []*card) []*card {
	primary := slices.IndexFunc(cards, func(c *card) bool { return len(c.ipv4) > 0 })
	if primary < 0 {
		primary = slices.IndexFunc(cards, func(c *card) bool { return len(c.ipv6) > 0 })
	}
	if primary > 0 {
		c := cards[primary]
		cards = slices.Insert(slices.Delete(cards, primary, primary+1), 0, c)
	}
	return cards
}

// addresses returns the addresses, one a line, without a final newline.
func addresses(prefixes []netip.Prefix) string {
	lines := make([]string, len(prefixes))
	for i, p := range prefixes {
		lines[i] = p.Addr().String()
	}
	return strings.Join(lines, "\n")
}

package linklocal

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/ec2"
)

const localTimeout = 10 * time.Second

// leftover is the imds0 that an earlier run made, nil if there is no imds0.
func leftover() (netlink.Link, error) {
	device, err := found(netlink.LinkByName(linkName))
	if device == nil || err != nil {
		return nil, err
	}
	foreign, err := foreignOn(device)
	if err != nil {
		return nil, err
	}
	if kind := device.Type(); kind != "dummy" && kind != "bridge" {
		foreign = []string{"it is a link of kind " + kind}
	}
	if len(foreign) > 0 {
		return nil, refuse(errNotOurs, fmt.Sprintf("%s: %s", linkName, strings.Join(foreign, ", ")),
			"we need the name: rename that one or, if nobody wants it, run: ip link delete "+linkName)
	}
	return device, nil
}

func byIndex(index int) (netlink.Link, error) { return found(netlink.LinkByIndex(index)) }

// found turns a link that does not exist into nil.
func found(device netlink.Link, err error) (netlink.Link, error) {
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("look for "+linkName, err)
	}
	return device, nil
}

// create makes imds0, of the first kind that this kernel knows.
func create(linkAdd func(netlink.Link) error) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName
	for _, device := range []netlink.Link{&netlink.Dummy{LinkAttrs: attrs}, &netlink.Bridge{LinkAttrs: attrs}} {
		err := linkAdd(device)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, explain(fmt.Sprintf("add the %s link %s", device.Type(), linkName), err)
		}
		return device, nil
	}
	return nil, refuse(errUnsupported, "add "+linkName, "put the addresses on a link that is there: "+byHand)
}

// settle brings the link up and gives it exactly the addresses that are wanted.
func settle(device netlink.Link, ipv6 bool) error {
	// This comes first: an IPv6 address does not survive on a link that is down.
	if err := netlink.LinkSetUp(device); err != nil {
		return explain("set "+linkName+" up", err)
	}
	if err := addAddress(device, ec2.ServiceIPv4); err != nil {
		return err
	}
	if ipv6 {
		return addAddress(device, ec2.ServiceIPv6)
	}
	return removeAddress(device, ec2.ServiceIPv6)
}

func addAddress(device netlink.Link, addr netip.Addr) error {
	entry := netlinkAddr(addr)
	if addr.Is6() {
		// NODAD: there are no neighbours who could have the address, and until the kernel had asked them nobody could listen.
		// NOPREFIXROUTE: there is no network either. With a route to it our own clients would look for a neighbour until the
		// kernel notices that the address is local.
		entry.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	} else {
		// So that the kernel never takes it as the source address of what this machine sends elsewhere.
		entry.Scope = unix.RT_SCOPE_LINK
	}
	err := netlink.AddrReplace(device, entry)
	doing := fmt.Sprintf("add %s to %s", addr, linkName)
	if addr.Is6() && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EAFNOSUPPORT)) {
		return refuseAt(addr, errIPv6Off, doing, "disable http-protocol-ipv6, or switch IPv6 on: sysctl -w net.ipv6.conf.default.disable_ipv6=0"+
			" before imdsfs starts, net.ipv6.conf."+linkName+".disable_ipv6=0 while it runs")
	}
	if err != nil || addr.Is4() {
		return explain(doing, err)
	}
	return awaitLocal(addr)
}

// awaitLocal waits until the IPv6 address is routed to this machine. The kernel sets up the route shortly after it has added
// the address; before that there is no way to it.
func awaitLocal(addr netip.Addr) error {
	for deadline := time.Now().Add(localTimeout); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(addr.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is on %s, but not routed to this machine after %v (err %v)", addr, linkName, localTimeout, err)
		}
	}
}

func removeAddress(device netlink.Link, addr netip.Addr) error {
	has, err := addressesOf(device)
	if err != nil || !slices.Contains(has, hostPrefix(addr)) {
		return err
	}
	return explain(fmt.Sprintf("remove %s from %s", addr, linkName), netlink.AddrDel(device, netlinkAddr(addr)))
}

func netlinkAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
}

func hostPrefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// foreignOn describes what others have put on the link.
func foreignOn(device netlink.Link) ([]string, error) {
	var foreign []string
	addrs, err := addressesOf(device)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		byKernel := a.Addr().Is6() && a.Addr().IsLinkLocalUnicast()
		if a != hostPrefix(ec2.ServiceIPv4) && a != hostPrefix(ec2.ServiceIPv6) && !byKernel {
			foreign = append(foreign, "it carries "+a.String())
		}
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, explain("list the links", err)
	}
	index := device.Attrs().Index
	for _, link := range links {
		attrs := link.Attrs()
		switch {
		case attrs.Index == device.Attrs().MasterIndex:
			foreign = append(foreign, "it is a port of "+attrs.Name)
		case attrs.MasterIndex == index:
			foreign = append(foreign, "it has the port "+attrs.Name)
		case attrs.ParentIndex == index && attrs.NetNsID < 0: // the index counts in this namespace
			foreign = append(foreign, attrs.Name+" is on top of it")
		}
	}
	return foreign, nil
}

// unowned refuses addresses that are on a link other than device, which may be nil.
func unowned(device netlink.Link, addrs []netip.Addr) error {
	entries, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return explain("list the addresses", err)
	}
	for _, entry := range entries {
		addr := prefixOf(entry).Addr()
		if device != nil && entry.LinkIndex == device.Attrs().Index || !slices.Contains(addrs, addr) {
			continue
		}
		name := fmt.Sprintf("link %d", entry.LinkIndex)
		if owner, err := byIndex(entry.LinkIndex); err == nil && owner != nil {
			name = owner.Attrs().Name
		}
		return refuseAt(addr, errOwned, fmt.Sprintf("%s is on %s", addr, name), fmt.Sprintf(
			"it can be listened on as it is, without --add-addresses; or remove it with: ip address delete %s dev %s; or give --force-addresses",
			prefixOf(entry), name))
	}
	return nil
}

func addressesOf(device netlink.Link) ([]netip.Prefix, error) {
	entries, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(device, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, explain("list the addresses of "+linkName, err)
	}
	prefixes := make([]netip.Prefix, len(entries))
	for i, entry := range entries {
		prefixes[i] = prefixOf(entry)
	}
	return prefixes, nil
}

func prefixOf(entry netlink.Addr) netip.Prefix {
	addr, _ := netip.AddrFromSlice(entry.IP)
	bits, _ := entry.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// whole lists again if the list changed while the kernel sent it.
func whole[T any](list func() ([]T, error)) (entries []T, err error) {
	for range 10 {
		if entries, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return entries, err
}

package linklocal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// Provide puts the addresses on imds0 for the daemon with the run-time directory owner, of at most 240 bytes. It works as
// [Add] does, except that it leaves out fd00:ec2::254 if that cannot be had. It ignores config.IPv6.
func Provide(ctx context.Context, owner string, config Config) error {
	config.owner, config.IPv6 = owner, true
	_, err := Add(ctx, config)
	var refused ipv6Only
	if !errors.As(err, &refused) {
		return err
	}
	if config.Warn != nil && !errors.Is(err, errIPv6Off) {
		config.Warn(fmt.Sprintf("%s is left out: %v", ec2.ServiceIPv6, err))
	}
	config.IPv6 = false
	_, err = Add(ctx, config)
	return err
}

// Given is the link that a helper has made for owner. It is nil, without an error, if there is no such link with
// 169.254.169.254.
func Given(owner string) (*Link, error) {
	device, err := ownedBy(owner)
	if device == nil || err != nil || carries(device, ec2.ServiceIPv4) != nil {
		return nil, err
	}
	return &Link{kind: device.Type(), index: device.Attrs().Index, given: true}, nil
}

// Withdraw removes the link that a helper has made for owner, as [Link.Remove] does. It is no error if there is none. warn
// may be nil.
func Withdraw(owner string, warn func(text string)) error {
	device, err := ownedBy(owner)
	if device == nil || err != nil {
		return err
	}
	if warn == nil {
		warn = func(string) {}
	}
	l := Link{config: Config{Warn: warn}, index: device.Attrs().Index}
	return l.Remove()
}

// ownedBy is imds0 if it was made for owner, else nil.
func ownedBy(owner string) (netlink.Link, error) {
	device, err := found(netlink.LinkByName(linkName))
	if device == nil || err != nil || device.Attrs().Alias != aliasOf(owner) {
		return nil, err
	}
	return device, nil
}

// carries refuses a link without the address.
func carries(device netlink.Link, addr netip.Addr) error {
	has, err := addressesOf(device)
	if err != nil || slices.Contains(has, hostPrefix(addr)) {
		return err
	}
	return refuseAt(addr, errLeftOut, fmt.Sprintf("%s is not on %s", addr, linkName),
		"disable http-protocol-ipv6; or is IPv6 switched off here, or has another link the address (the log of the start says so)? then restart imdsfs")
}

func aliasOf(owner string) string { return "imdsfs of " + owner }

// mark records in the alias of the link for whom it was made.
func mark(device netlink.Link, owner string) error {
	alias := ""
	if owner != "" {
		alias = aliasOf(owner)
	}
	if device.Attrs().Alias == alias {
		return nil
	}
	return explain("set the alias of "+linkName, netlink.LinkSetAlias(device, alias))
}

// Package linklocal gives this machine the addresses of the instance metadata service, 169.254.169.254 and
// fd00:ec2::254, where clients look for it.
//
//	Add ──▶ is the address on another link? ──▶ does somebody answer there? ──▶ make imds0 ──▶ add the addresses
//
//	link, err := linklocal.Add(ctx, linklocal.Config{IPv6: true})
//	// listen on 169.254.169.254:80 and [fd00:ec2::254]:80, serve
//	link.SetIPv6(false) // when the option http-protocol-ipv6 is changed
//	link.Remove()       // at an orderly exit, after the listeners are closed
//
// The addresses go on a link of our own named imds0, in the network namespace of the caller: a dummy link, or a bridge
// without ports if the kernel has no dummy links. Nothing else is changed, and removing the link removes everything. A
// process that is killed leaves the link behind; the next [Add] takes it over. A handover to a successor works the same
// way: the predecessor does not call [Link.Remove], and the successor calls Add with Force, because the predecessor may
// still answer.
//
// Add refuses to hide a metadata service that exists already: one that has an address on another link of this machine, or
// one that answers from outside. Call it before you answer at the addresses yourself. Existing listeners, such as those
// that systemd passes, do not matter as long as nobody answers on them.
//
// All of this needs CAP_NET_ADMIN. A daemon without it relies on a helper that runs as root before the daemon starts, and
// again after it has ended:
//
//	err := linklocal.Provide(ctx, "/run/imdsfs", linklocal.Config{}) // the helper, before each daemon
//	link, err := linklocal.Given("/run/imdsfs")                      // the daemon; nil: no helper made one
//	err = linklocal.Withdraw("/run/imdsfs", nil)                     // the helper, when no successor comes
//
// The helper adds both addresses from the start if the kernel has IPv6. So the option http-protocol-ipv6, which can change
// while the daemon runs, only opens and closes the listener. The alias of the link (ip link show imds0) says which daemon
// it is for; only CAP_NET_ADMIN can write it. A helper keeps a link that an earlier one made for the same daemon. It does
// not check whether somebody answers at the addresses on it, because the daemon's own sockets would.
//
// Without a helper there are two ways: root adds the addresses by hand, or systemd passes the listening sockets (socket
// activation).
package linklocal

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// linkName is the name of the link that we make.
const linkName = "imds0"

// Config says what to add and how.
type Config struct {
	IPv6  bool // fd00:ec2::254 too
	Force bool // even if somebody else has the addresses or answers there; a foreign imds0 is still refused

	// Warn, if not nil, is called with a line for the log when something unusual happens.
	Warn func(text string)

	owner   string                   // the run-time directory of the daemon for which a helper makes the link; "" without one
	linkAdd func(netlink.Link) error // nil: netlink.LinkAdd
}

// A Link is imds0 with our addresses. Its methods may be called at the same time.
type Link struct {
	config Config
	kind   string
	index  int
	given  bool // made by a helper, which removes it too

	mu      sync.Mutex // one change at a time
	removed bool
}

// Add makes imds0, or takes it over from a process that was killed, and puts the addresses on it. When it returns you can
// listen on them. It takes at most 1 s more than the kernel needs, or 5 s if somebody accepts a connection at an address
// and does not answer. It leaves no new link behind if it fails. The error has a hint if a user can do something about it.
func Add(ctx context.Context, config Config) (*Link, error) {
	if config.Warn == nil {
		config.Warn = func(string) {}
	}
	if config.linkAdd == nil {
		config.linkAdd = netlink.LinkAdd
	}
	device, err := leftover()
	if err != nil {
		return nil, err
	}
	again := config.owner != "" && device != nil && device.Attrs().Alias == aliasOf(config.owner)
	if !config.Force {
		if err := vacant(ctx, device, wanted(config.IPv6), again); err != nil {
			return nil, err
		}
	}
	made := device == nil
	switch {
	case made:
		if device, err = create(config.linkAdd); err != nil {
			return nil, err
		}
	case !config.Force && !again:
		config.Warn(fmt.Sprintf("taking over the link %s, which an earlier run left", linkName))
	}
	l := &Link{config: config, kind: device.Type(), index: device.Attrs().Index}
	if err = mark(device, config.owner); err == nil {
		err = settle(device, config.IPv6)
	}
	if err != nil {
		if made {
			if undo := l.Remove(); undo != nil {
				config.Warn(undo.Error())
			}
		}
		return nil, err
	}
	return l, nil
}

// Kind is the kind of link in the kernel's words, "dummy" or "bridge".
func (l *Link) Kind() string { return l.kind }

// SetIPv6 adds or removes fd00:ec2::254. If the address is not there, adding it is refused in the same cases as by [Add].
// After Remove it does nothing. It does not change a link that a helper made, and fails if the helper left the address out.
func (l *Link) SetIPv6(on bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed || l.given && !on {
		return nil
	}
	device, err := byIndex(l.index)
	switch {
	case err != nil:
		return err
	case device == nil && on:
		return refuse(errGone, "somebody removed "+linkName, "restart imdsfs")
	case device == nil:
		return nil
	case l.given:
		return carries(device, ec2.ServiceIPv6)
	}
	if on && !l.config.Force {
		if err := unowned(device, []netip.Addr{ec2.ServiceIPv6}); err != nil {
			return err
		}
		has, err := addressesOf(device)
		if err != nil {
			return err
		}
		if !slices.Contains(has, hostPrefix(ec2.ServiceIPv6)) {
			if err := unanswered(context.Background(), []netip.Addr{ec2.ServiceIPv6}, nil); err != nil {
				return err
			}
		}
	}
	return settle(device, on)
}

// Remove removes the addresses and the link. If others have put something on the link, that and the link stay, and Warn is
// called. It is no error if the link is gone or Remove was called before. A link that a helper made stays.
func (l *Link) Remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed || l.given {
		return nil
	}
	device, err := byIndex(l.index)
	if err != nil {
		return err
	}
	if device != nil {
		if err := l.remove(device); err != nil {
			return err
		}
	}
	l.removed = true
	return nil
}

func (l *Link) remove(device netlink.Link) error {
	foreign, err := foreignOn(device)
	if err != nil {
		return err
	}
	if len(foreign) == 0 {
		return explain("remove "+linkName, netlink.LinkDel(device))
	}
	for _, addr := range wanted(true) {
		if err := removeAddress(device, addr); err != nil {
			return err
		}
	}
	l.config.Warn(fmt.Sprintf("%s stays without our addresses: others use it (%s); remove it with: ip link delete %s",
		device.Attrs().Name, strings.Join(foreign, ", "), device.Attrs().Name))
	return nil
}

func wanted(ipv6 bool) []netip.Addr {
	if ipv6 {
		return []netip.Addr{ec2.ServiceIPv4, ec2.ServiceIPv6}
	}
	return []netip.Addr{ec2.ServiceIPv4}
}

// vacant refuses addresses that somebody else has. device is the link that an earlier run left, nil without one. again says
// that it was made for the same daemon, whose sockets may answer at the addresses on it.
func vacant(ctx context.Context, device netlink.Link, addrs []netip.Addr, again bool) error {
	if err := unowned(device, addrs); err != nil {
		return err
	}
	var ours []netip.Prefix
	if device != nil {
		var err error
		if ours, err = addressesOf(device); err != nil {
			return err
		}
	}
	if again {
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return slices.Contains(ours, hostPrefix(a)) })
	}
	return unanswered(ctx, addrs, ours)
}

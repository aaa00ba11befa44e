// Package linklocal gives this machine the addresses of the instance metadata service,
// 169.254.169.254 and fd00:ec2::254, so that clients find it where they look.
//
//	link, err := linklocal.Add(ctx, linklocal.Config{IPv6: true})
//	// listen on 169.254.169.254:80 and [fd00:ec2::254]:80, serve
//	link.SetIPv6(false) // when the option http-protocol-ipv6 is changed
//	link.Remove()       // at an orderly exit, after the listeners are closed
//
// The addresses are put on a link of our own named imds0, in the network namespace of the caller: a
// dummy link, or where the kernel has none a bridge without ports. Nothing else is touched, and to
// remove the link is to remove all. A process that is killed leaves it behind; the next [Add] takes it
// over. A handover to a successor is the same without the kill: do not call [Link.Remove], and have the
// successor call Add with Force, as the predecessor may still answer.
//
// Add refuses, with an [Error], rather than hide a metadata service that is there already: one that
// has an address on another link of this machine, or one that answers from outside. It must be called
// before the caller itself answers there. Listeners that exist already, as those that systemd passes,
// do not disturb it as long as nobody answers on them.
//
// All of it needs CAP_NET_ADMIN. A daemon that has not got it has a helper of root's before it, and again
// after its end:
//
//	err := linklocal.Provide(ctx, "/run/imdsfs", linklocal.Config{}) // the helper, before each daemon
//	link, err := linklocal.Given("/run/imdsfs")                      // the daemon; nil: no helper has been there
//	err = linklocal.Withdraw("/run/imdsfs", nil)                     // the helper, when no successor comes
//
// The helper adds both addresses from the start, if this kernel has IPv6. So the option http-protocol-ipv6,
// which can change while the daemon runs, only opens and closes the listener. For whom the link is stands in
// its alias (ip link show imds0), which only CAP_NET_ADMIN can write. A link from before is gone on with: the
// addresses on it are not asked whether somebody answers there, for that would be the daemon's own sockets.
//
// Without a helper there are two ways: root adds the addresses by hand, or systemd passes the listening
// sockets (socket activation).
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

// Name is the name of the link.
const linkName = "imds0"

// Config says what to add and how.
type Config struct {
	IPv6  bool // fd00:ec2::254 too
	Force bool // whoever else has the addresses or answers there; a foreign imds0 is refused nevertheless

	// Warn, if not nil, is told what went otherwise than usual, as a line for a log.
	Warn func(text string)

	owner   string                   // for whom a helper makes the link; "" without one
	linkAdd func(netlink.Link) error // nil: netlink.LinkAdd
}

// A Link is imds0 with our addresses. Its methods may be called at the same time.
type Link struct {
	config Config
	kind   string
	index  int
	given  bool // by a helper, whose it stays

	mu      sync.Mutex // one change at a time
	removed bool
}

// Add puts the addresses on imds0, which it makes, or takes over from a process that was killed. When
// it returns they can be listened on. Beyond what the kernel needs it takes 1 s at most or, if somebody accepts a
// connection at an address and does not answer, 5 s. An error leaves no new link behind and is an [Error] where a user can do something about it.
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

// SetIPv6 adds or removes fd00:ec2::254. Adding it is refused, where it is not there, as by [Add].
// After Remove it does nothing. On a link of a helper's it changes nothing, and is refused if the helper
// has left the address out.
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

// Remove takes away the addresses and the link. What others have put on the link meanwhile stays,
// with the link, and Warn is told. It is no error that the link is gone already, or that Remove was
// called before. A link of a helper's stays.
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

// vacant refuses addresses that somebody else has. device is our leftover, nil without one; again if it is
// the same daemon's, whose sockets may answer at the addresses that are on it.
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

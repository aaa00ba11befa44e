package linklocal

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Why the addresses cannot be had, for errors.Is. The error that wraps one says what is in the way or what was tried, and
// its hint ([problem.Hint]) what to do.
var (
	errOwned       = errors.New("the address belongs to another link")
	errAnswered    = errors.New("a metadata service answers there already")
	errInUse       = errors.New("a process of this machine answers there already")
	errNotOurs     = errors.New("the link is not ours")
	errGone        = errors.New("the link is gone")
	errPrivilege   = errors.New("this needs CAP_NET_ADMIN")
	errUnsupported = errors.New("this kernel has neither dummy links nor bridges")
	errLeftOut     = errors.New("the address was left out")
	errIPv6Off     = errors.New("IPv6 is switched off on this machine")
)

func refuse(reason error, detail, hint string) error {
	return problem.Failed(hint, fmt.Errorf("link-local addresses: %w: %s", reason, detail))
}

// refuseAt refuses one address.
func refuseAt(addr netip.Addr, reason error, detail, hint string) error {
	err := refuse(reason, detail, hint)
	if addr.Is6() {
		return ipv6Only{err}
	}
	return err
}

// ipv6Only is an error of fd00:ec2::254: 169.254.169.254 can be had without it.
type ipv6Only struct{ error }

func (e ipv6Only) Unwrap() error { return e.error }

var byHand = fmt.Sprintf("ip address add %s/32 dev lo (and ip -6 address add %s/128 dev lo nodad)", ec2.ServiceIPv4, ec2.ServiceIPv6)

// explain turns the kernel's answer to doing something into an error for a user; nil into nil.
func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPERM):
		return refuse(errPrivilege, doing, "run as root; or say add-addresses = true in the instance file, where the helper of "+
			"the packaged unit finds it; or let systemd pass the sockets (socket activation), or have root run: "+byHand)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

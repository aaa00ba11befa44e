package linklocal

import (
	"errors"
	"fmt"
	"syscall"
)

// Why the addresses cannot be had, for errors.Is.
var (
	ErrOwned       = errors.New("the address belongs to another link")
	ErrAnswered    = errors.New("a metadata service answers there already")
	ErrInUse       = errors.New("a process of this machine answers there already")
	ErrNotOurs     = errors.New("the link is not ours")
	ErrGone        = errors.New("the link is gone")
	ErrPrivilege   = errors.New("this needs CAP_NET_ADMIN")
	ErrUnsupported = errors.New("this kernel has neither dummy links nor bridges")
	ErrLeftOut     = errors.New("the address was left out")
	ErrIPv6Off     = errors.New("IPv6 is switched off on this machine")
)

// An Error says why the addresses cannot be had and what to do.
type Error struct {
	Err    error  // one of the above
	Detail string // what is in the way, or what was tried
	Hint   string // what to do

	ipv6 bool // it is that address alone that cannot be had
}

// Error is Err and Detail; Hint is for a line of its own.
func (e *Error) Error() string { return fmt.Sprintf("link-local addresses: %v: %s", e.Err, e.Detail) }
func (e *Error) Unwrap() error { return e.Err }

const byHand = "ip address add 169.254.169.254/32 dev lo (and ip -6 address add fd00:ec2::254/128 dev lo nodad)"

// explain makes of what the kernel answered to doing something an error for a user; nil of nil.
func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPERM):
		return &Error{Err: ErrPrivilege, Detail: doing, Hint: "run as root; or say add-addresses = true in the instance file, where the helper of " +
			"the packaged unit finds it; or let systemd pass the sockets (socket activation), or have root run: " + byHand}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

package daemon

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/source/problem"
)

// addAddresses puts the link-local addresses on a link of our own, if that is wanted. Without the privilege it
// finds them there, where root's helper has put them for this run-time directory.
func (p *process) addAddresses(ctx context.Context) (err error) {
	if !p.settings.Addresses.Add {
		return nil
	}
	opts := p.store.Snapshot().Options()
	if !privilege.HasNetAdmin() {
		if p.link, err = linklocal.Given(p.settings.LinkOwner()); err != nil {
			return err
		}
		if p.link != nil {
			return AddressProblem(p.link.SetIPv6(opts.HTTPProtocolIPv6))
		}
	}
	p.link, err = linklocal.Add(ctx, linklocal.Config{
		IPv6: opts.HTTPProtocolIPv6, Force: p.settings.Addresses.Force || p.inheritsListeners(expand(LinkLocal, opts)),
		Warn: func(text string) { p.log.Warn(text) },
	})
	return AddressProblem(err)
}

// removeAddresses leaves to root's helper what is the helper's.
func (p *process) removeAddresses() {
	if p.link == nil || p.successor {
		return
	}
	if err := p.link.Remove(); err != nil {
		p.log.WithError(err).Error("take the link-local addresses away")
	}
}

// AddressProblem adds to an error of package linklocal what to do about it.
func AddressProblem(err error) error {
	var refused *linklocal.Error
	if errors.As(err, &refused) {
		return problem.Failed(refused.Hint, err)
	}
	return err
}

// LinkOwner is for whom a helper makes the link: the same for helper and daemon, wherever each is.
func (s *Settings) LinkOwner() string {
	if dir, err := filepath.Abs(s.RuntimeDir); err == nil {
		return dir
	}
	return s.RuntimeDir
}

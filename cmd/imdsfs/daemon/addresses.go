package daemon

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/source/ec2"
)

// addAddresses adds the link-local addresses, on a link of our own, if the settings ask for them.
func (d *Daemon) addAddresses(ctx context.Context) (part, error) {
	if !d.Settings.Addresses.Add {
		return part{}, nil
	}
	var err error
	if d.ports.link, err = d.openLink(ctx, &d.Snapshot().Options().Options); err != nil {
		return part{}, err
	}
	return part{Close: d.removeAddresses, HandOver: stays}, nil
}

// openLink makes the link. Without the privilege to do so it finds the link that the mount helper has made for this run-time
// directory.
func (d *Daemon) openLink(ctx context.Context, opts *ec2.Options) (*linklocal.Link, error) {
	if !privilege.HasNetAdmin() {
		link, err := linklocal.Given(d.Settings.LinkOwner())
		if err != nil {
			return nil, err
		}
		if link != nil {
			return link, link.SetIPv6(opts.HTTPProtocolIPv6)
		}
	}
	return linklocal.Add(ctx, linklocal.Config{
		IPv6: opts.HTTPProtocolIPv6, Force: d.Settings.Addresses.Force || d.inheritsListeners(expand(LinkLocal, opts)),
		Warn: func(text string) { d.Log.Warn(text) },
	})
}

// followIPv6 adds or removes the IPv6 address and its listener, as the option says.
func (d *Daemon) followIPv6(on bool) error {
	link := d.ports.link
	if on && link != nil {
		if err := link.SetIPv6(true); err != nil {
			return fmt.Errorf("cannot add the address: %w", err)
		}
	}
	changed, err := d.ports.listeners.followIPv6(on)
	if err != nil {
		return err
	}
	if changed {
		d.ports.listeners.note(d.Log)
	}
	if !on && link != nil {
		return link.SetIPv6(false)
	}
	return nil
}

// removeAddresses removes the link, unless the mount helper made it.
func (d *Daemon) removeAddresses() {
	if err := d.ports.link.Remove(); err != nil {
		d.Log.WithError(err).Error("take the link-local addresses away")
	}
}

// LinkOwner returns the name under which the mount helper makes the link and the daemon finds it, whatever their working
// directories are.
func (s *Settings) LinkOwner() string {
	if dir, err := filepath.Abs(s.RuntimeDir); err == nil {
		return dir
	}
	return s.RuntimeDir
}

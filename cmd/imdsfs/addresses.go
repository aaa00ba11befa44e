package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/linklocal"
)

// addAddresses puts the link-local addresses on a link of our own, if that is wanted. Without the privilege it
// finds them there, where root's helper has put them for this run-time directory.
func (p *process) addAddresses(ctx context.Context) (err error) {
	if !p.settings.addAddresses {
		return nil
	}
	opts := p.store.Snapshot().Options()
	if !mayChangeLinks() {
		if p.link, err = linklocal.Given(p.settings.linkOwner()); err != nil {
			return err
		}
		if p.link != nil {
			return p.link.SetIPv6(opts.HTTPProtocolIPv6)
		}
	}
	p.link, err = linklocal.Add(ctx, linklocal.Config{
		IPv6: opts.HTTPProtocolIPv6, Force: p.settings.forceAddresses || p.inheritsListeners(expand(linkLocal, opts)),
		Warn: func(text string) { p.log.Warn(text) },
	})
	return err
}

// mayChangeLinks reports whether we have CAP_NET_ADMIN.
func mayChangeLinks() bool {
	_, sets, err := threadCapabilities()
	return err == nil && sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
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

// linkOwner is for whom a helper makes the link: the same for helper and daemon, wherever each is.
func (s *settings) linkOwner() string {
	if dir, err := filepath.Abs(s.runtimeDir); err == nil {
		return dir
	}
	return s.runtimeDir
}

// provideAddresses is root's part for a daemon that has not the privilege, before each start of it.
func (s *settings) provideAddresses(ctx context.Context) error {
	if !s.addAddresses {
		return s.withdrawAddresses() // they were wanted before
	}
	return linklocal.Provide(ctx, s.linkOwner(), linklocal.Config{Force: s.forceAddresses, Warn: warnOnStderr})
}

func (s *settings) withdrawAddresses() error { return linklocal.Withdraw(s.linkOwner(), warnOnStderr) }

func warnOnStderr(text string) { fmt.Fprintln(os.Stderr, "imdsfs: warning:", text) }

// addressArguments say the same to a helper that does not read the file.
func (s *settings) addressArguments() (args []string) {
	if s.addAddresses {
		args = append(args, "--add-addresses")
	}
	if s.forceAddresses {
		args = append(args, "--force-addresses")
	}
	return args
}

// keepAddresses has a helper add the addresses for the daemons of a keeper, who themselves may not. The function
// takes them away after the last; but not from a daemon that was there before, and has kept ours from getting ready.
func (s *settings) keepAddresses(ctx context.Context, program string, ready *atomic.Bool) (release func() error, err error) {
	before, err := linklocal.Given(s.linkOwner())
	if err != nil {
		return nil, err
	}
	if err := s.runAddressHelper(ctx, program); err != nil {
		return nil, err
	}
	return func() error {
		if before != nil && !ready.Load() {
			return nil
		}
		return s.withdrawAddresses()
	}, nil
}

// runAddressHelper has a helper add the addresses. The keeper does not itself: what asks others whether they answer
// reads what they send.
func (s *settings) runAddressHelper(ctx context.Context, program string) error {
	args := append([]string{"mount-helper", "-c", none, "--mount", none, "--runtime-dir", s.runtimeDir}, s.addressArguments()...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return &exitError{code: exitFailed} // it has said why
	}
	return nil
}

// renewAddresses adds them again if somebody has removed the link since the last daemon started.
func (s *settings) renewAddresses(ctx context.Context, program string) error {
	if !s.addAddresses {
		return nil
	}
	if link, err := linklocal.Given(s.linkOwner()); link != nil || err != nil {
		return err
	}
	return s.runAddressHelper(ctx, program)
}

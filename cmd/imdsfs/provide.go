package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/linklocal"
)

// provideAddresses is root's part for a daemon that has not the privilege, before each start of it.
func provideAddresses(ctx context.Context, s *daemon.Settings) error {
	if !s.Addresses.Add {
		return withdrawAddresses(s) // they were wanted before
	}
	return daemon.AddressProblem(linklocal.Provide(ctx, s.LinkOwner(), linklocal.Config{Force: s.Addresses.Force, Warn: warnOnStderr}))
}

func withdrawAddresses(s *daemon.Settings) error {
	return linklocal.Withdraw(s.LinkOwner(), warnOnStderr)
}

func warnOnStderr(text string) { fmt.Fprintln(os.Stderr, "imdsfs: warning:", text) }

// addressArguments say the same to a helper that does not read the file.
func addressArguments(s *daemon.Settings) (args []string) {
	if s.Addresses.Add {
		args = append(args, "--add-addresses")
	}
	if s.Addresses.Force {
		args = append(args, "--force-addresses")
	}
	return args
}

// keepAddresses has a helper add the addresses for the daemons of a keeper, who themselves may not. The function
// takes them away after the last; but not from a daemon that was there before, and has kept ours from getting ready.
func keepAddresses(ctx context.Context, s *daemon.Settings, program string, ready *atomic.Bool) (release func() error, err error) {
	before, err := linklocal.Given(s.LinkOwner())
	if err != nil {
		return nil, err
	}
	if err := runAddressHelper(ctx, s, program); err != nil {
		return nil, err
	}
	return func() error {
		if before != nil && !ready.Load() {
			return nil
		}
		return withdrawAddresses(s)
	}, nil
}

// runAddressHelper has a helper add the addresses. The keeper does not itself: what asks others whether they answer
// reads what they send.
func runAddressHelper(ctx context.Context, s *daemon.Settings, program string) error {
	args := append([]string{"mount-helper", "-c", daemon.None, "--mount", daemon.None, "--runtime-dir", s.RuntimeDir}, addressArguments(s)...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return &exitError{code: exitFailed} // it has said why
	}
	return nil
}

// renewAddresses adds them again if somebody has removed the link since the last daemon started.
func renewAddresses(ctx context.Context, s *daemon.Settings, program string) error {
	if !s.Addresses.Add {
		return nil
	}
	if link, err := linklocal.Given(s.LinkOwner()); link != nil || err != nil {
		return err
	}
	return runAddressHelper(ctx, s, program)
}

package supervise

import (
	"context"
	"os"
	"os/exec"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/source/problem"
)

// addressArguments returns the flags of mount-helper for the addresses of the settings.
func addressArguments(s *daemon.Settings) (args []string) {
	if s.Addresses.Add {
		args = append(args, "--add-addresses")
	}
	if s.Addresses.Force {
		args = append(args, "--force-addresses")
	}
	return args
}

// addAddresses adds the link-local addresses for daemons that have no right to. remove removes them after the last daemon,
// but not from another daemon that had them before and kept ours from getting ready.
func (s *supervisor) addAddresses(ctx context.Context) (remove func() error, err error) {
	before, err := linklocal.Given(s.settings.LinkOwner())
	if err != nil {
		return nil, err
	}
	if err := s.runMountHelper(ctx); err != nil {
		return nil, err
	}
	return func() error {
		if before != nil && !s.ready.Load() {
			return nil
		}
		return mount.WithdrawAddresses(s.settings)
	}, nil
}

// renewAddresses adds the addresses again if somebody has removed the link since the last daemon started.
func (s *supervisor) renewAddresses(ctx context.Context) error {
	if !s.settings.Addresses.Add {
		return nil
	}
	if link, err := linklocal.Given(s.settings.LinkOwner()); link != nil || err != nil {
		return err
	}
	return s.runMountHelper(ctx)
}

// runMountHelper runs mount-helper for the addresses alone. The keeper does not add them itself: that asks other machines
// whether they have the addresses, and reads what they send.
func (s *supervisor) runMountHelper(ctx context.Context) error {
	args := append([]string{"mount-helper", "-c", daemon.None, "--mount", daemon.None, "--runtime-dir", s.settings.RuntimeDir}, addressArguments(s.settings)...)
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return &problem.Exit{Code: int(problem.KindFailed)} // mount-helper has said why
	}
	return nil
}

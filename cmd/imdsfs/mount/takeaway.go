package mount

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/source/problem"
)

// final are the exit statuses of a daemon after which the unit starts no other.
var final = []string{"0", status(problem.KindUsage), status(problem.KindInvalid), status(problem.KindGivenUp)}

func status(k problem.Kind) string { return strconv.Itoa(int(k)) }

// AfterStop, in ExecStopPost= of a unit, removes what no successor gets. It decides by what systemd says about the end of the
// main process, systemd.exec(5).
func AfterStop(s *daemon.Settings) error {
	code, status := os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")
	switch {
	case code == "": // the main process never started
		err := CleanUp(s, fs.MayLive)
		if errors.Is(err, fs.ErrServed) {
			return nil // the mount is kept for the next daemon
		}
		return errors.Join(err, WithdrawAddresses(s))
	case code != "exited" || status == strconv.Itoa(handover.ExitHandedOver):
		return nil
	case slices.Contains(final, status):
		return TakeAway(s, fs.EndedForGood)
	}
	// The start was refused and will be tried again. The lock says whether there is a mount that the next daemon takes over.
	if err := CleanUp(s, fs.Ended); !errors.Is(err, fs.ErrServed) {
		return err
	}
	return nil
}

// TakeAway removes the mounts, and the link with the addresses; known is for [fs.CleanUp].
func TakeAway(s *daemon.Settings, known int) error {
	return errors.Join(CleanUp(s, known), WithdrawAddresses(s))
}

// CleanUp unmounts wherever a daemon of the run-time directory has mounted; known is for [fs.CleanUp].
func CleanUp(s *daemon.Settings, known int) error {
	dirs, err := fs.Mounts(s.RuntimeDir)
	for _, dir := range dirs {
		err = errors.Join(err, fs.CleanUp(dir, s.RuntimeDir, known))
	}
	return err
}

// cleanUpOthers unmounts earlier mount points of the daemons of the run-time directory, unless such a mount is still kept. An
// error is only a warning: it does not keep the daemon from its new mount point.
func cleanUpOthers(s *daemon.Settings) {
	dirs, err := fs.Mounts(s.RuntimeDir)
	for _, dir := range dirs {
		if dir == s.Mount {
			continue
		}
		if cleanErr := fs.CleanUp(dir, s.RuntimeDir, fs.MayLive); !errors.Is(cleanErr, fs.ErrServed) {
			err = errors.Join(err, cleanErr)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: clean up after an earlier mount: %v\n", err)
	}
}

// WithdrawAddresses removes the link with the link-local addresses.
func WithdrawAddresses(s *daemon.Settings) error {
	return linklocal.Withdraw(s.LinkOwner(), warnOnStderr)
}

func warnOnStderr(text string) { fmt.Fprintln(os.Stderr, "imdsfs: warning:", text) }

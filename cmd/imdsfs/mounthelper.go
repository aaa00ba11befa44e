package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newMountHelperCommand() *cobra.Command {
	var c daemon.Config
	var unmount, afterStop bool
	cmd := &cobra.Command{
		Use:    "mount-helper",
		Hidden: true,
		Short:  "Mount for a daemon that may not, and unmount after it",
		Long: `mount-helper is for units and keepers, not for people. It opens /dev/fuse, mounts, leaves the mount with
the keeper or with systemd's file descriptor store, and ends: the daemon then needs no privilege for it.
Where a mount is kept already it does nothing.

Before that, with add-addresses, it puts the link-local addresses on the link imds0, or goes on with the
one that it has made before for this run-time directory. Both are there from the start, if the kernel has
IPv6: http-protocol-ipv6 then only opens and closes the listener.

After a start that was refused it waits first, 1 s and then longer each time. In a unit it never fails itself: what is
in the way it leaves to the daemon, which says it and ends.

With --unmount it takes away what a daemon that has ended left behind: the mount, and the link. With --after-stop, in
ExecStopPost=, it does so only if no successor comes: not after a crash, and not after a daemon that
was to hand over. After a start that was refused, the mount goes unless a tree has been served on it.`,
		Example: `  imdsfs mount-helper --mount /run/metadata --user imdsfs
  imdsfs mount-helper --mount /run/metadata --unmount`,
		Args: exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Keeper.Keep = true // --user is meant for the helper
			// The daemon may have flags for what is not the helper's business: the file is not judged by that.
			c.Listen, c.Metrics, c.Admin, c.StateDir = []string{"127.0.0.1:0"}, daemon.None, daemon.None, daemon.DefaultRuntimeDir()
			s, err := c.Validate(nil)
			switch {
			case unmount || afterStop:
				if err != nil {
					s.RuntimeDir = cmp.Or(s.RuntimeDir, daemon.DefaultRuntimeDir())
				}
				if afterStop {
					return takeAwayAfterStop(s)
				}
				return takeAway(s, fs.MayLive)
			case err != nil && !handover.HasKeeper():
				return nil // the daemon says it, if it has no predecessor to go on from
			case err != nil:
				return err
			}
			return prepareStart(cmd.Context(), s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&c.File, "config", "c", "", "instance file, for what its [server] says")
	f.StringVar(&c.Mount, "mount", "", "`DIR` to mount on (default as for serve)")
	f.StringVar(&c.RuntimeDir, "runtime-dir", "", "run-time `DIR` of the daemon (default as for serve)")
	f.StringVar(&c.Keeper.User, "user", "", "`NAME` of whom the daemon runs as")
	f.BoolVar(&c.Addresses.Add, "add-addresses", false, "put the link-local addresses on the link imds0 for the daemon")
	f.BoolVar(&c.Addresses.Force, "force-addresses", false, "with --add-addresses: although another service seems to have them")
	f.BoolVar(&unmount, "unmount", false, "unmount after a daemon that has ended")
	f.BoolVar(&afterStop, "after-stop", false, "the same, unless a successor comes")
	return cmd
}

// final are the exit statuses of a daemon after which the unit starts no other.
var final = []string{"0", strconv.Itoa(exitUsage), strconv.Itoa(exitInvalid), strconv.Itoa(exitGivenUp)}

// takeAwayAfterStop takes away what no successor gets. It tells from what systemd says of the end of the service's main process,
// systemd.exec(5).
func takeAwayAfterStop(s *daemon.Settings) error {
	code, status := os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")
	switch {
	case code == "": // it never began
		err := cleanUp(s, fs.MayLive)
		if errors.Is(err, fs.ErrServed) {
			return nil // it is kept for the next
		}
		return errors.Join(err, withdrawAddresses(s))
	case code != "exited" || status == strconv.Itoa(handover.ExitHandedOver):
		return nil
	case slices.Contains(final, status):
		return takeAway(s, fs.EndedForGood)
	}
	// The start was refused and will be tried again. Whether there is anything to go on with for the next, the lock says.
	if err := cleanUp(s, fs.Ended); !errors.Is(err, fs.ErrServed) {
		return err
	}
	return nil
}

// takeAway takes away the mounts and the link; known is for [fs.CleanUp].
func takeAway(s *daemon.Settings, known int) error {
	return errors.Join(cleanUp(s, known), withdrawAddresses(s))
}

// cleanUp unmounts wherever a daemon of the run-time directory has mounted; known is for [fs.CleanUp].
func cleanUp(s *daemon.Settings, known int) error {
	dirs, err := fs.Mounts(s.RuntimeDir)
	for _, dir := range dirs {
		err = errors.Join(err, fs.CleanUp(dir, s.RuntimeDir, known))
	}
	return err
}

// prepareStart is root's part before a daemon starts. What is in the way of that, the daemon of a unit says.
func prepareStart(ctx context.Context, s *daemon.Settings) error {
	store, _, err := handover.Open()
	if err != nil {
		return err
	}
	if !store.BySystemd() {
		return provide(ctx, s, store)
	}
	store.Remove(daemon.KeptRefusal) // of a daemon that was killed before it had read it
	if awaitTurn(s) {
		return nil
	}
	if err := provide(ctx, s, store); err != nil {
		return daemon.LeaveRefusal(store, err)
	}
	return nil
}

// awaitTurn waits until a start that follows refused ones may be tried. It reports whether systemd has told us to end
// meanwhile: then the next start does not wait, and after SIGTERM, which is a final stop (the unit says SIGUSR1 for a
// restart), nothing stays for it.
func awaitTurn(s *daemon.Settings) (stopped bool) {
	a, err := account(s)
	if err != nil {
		return false // said later
	}
	t := daemon.OpenTurn(s.RuntimeDir, a.UID)
	defer t.Close()
	wait := t.Wait()
	if wait == 0 {
		return false
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	defer signal.Stop(signals)
	fmt.Fprintf(os.Stderr, "imdsfs: retry %d of %d in %v; systemctl restart tries at once\n", t.Refusals, daemon.MaxRetries, wait)
	select {
	case <-time.After(wait):
		return false
	case sig := <-signals:
		t.Forget()
		if sig == syscall.SIGTERM {
			if err := takeAway(s, fs.EndedForGood); err != nil {
				report(os.Stderr, err)
			}
		}
		return true
	}
}

// provide adds the addresses and mounts, as far as either is wanted.
func provide(ctx context.Context, s *daemon.Settings, store *handover.Store) error {
	if err := provideAddresses(ctx, s); err != nil || s.Mount == daemon.None {
		return err
	}
	return mountFor(s, store)
}

// account is whom the daemon runs as.
func account(s *daemon.Settings) (*privilege.Account, error) {
	if s.Keeper.User == "" {
		return &privilege.Account{UID: os.Getuid(), GID: os.Getgid()}, nil
	}
	return privilege.Lookup(s.Keeper.User)
}

func mountFor(s *daemon.Settings, store *handover.Store) error {
	if !store.Durable() {
		return problem.Usage("in a unit: NotifyAccess=all, FileDescriptorStoreMax=64, Environment=FDSTORE=64",
			errors.New("mount-helper leaves the mount with a keeper or with systemd's file descriptor store, and there is neither"))
	}
	a, err := account(s)
	if err != nil {
		return err
	}
	mounted, err := fs.MountFor(fs.Config{Dir: s.Mount, Source: os.Getenv(daemon.MountSourceVariable), RuntimeDir: s.RuntimeDir, Keeper: store}, a.UID, a.GID)
	if point := daemon.PointProblem(err); point != nil {
		return point
	}
	switch {
	case err != nil:
		return err
	case !mounted && handover.HasKeeper(): // a keeper asks only if it keeps none
		return daemon.IsRunning(s.RuntimeDir)
	case !mounted:
		fmt.Fprintf(os.Stderr, "imdsfs: %s is kept mounted\n", s.Mount)
	}
	cleanUpOthers(s)
	return nil
}

// cleanUpOthers unmounts where a daemon of the run-time directory has mounted before the settings said otherwise,
// unless the mount is still kept. What stands in the way there is no reason not to start here.
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

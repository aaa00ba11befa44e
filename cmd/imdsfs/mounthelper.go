package main

import (
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

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/keeper"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newMountHelperCommand() *cobra.Command {
	var s settings
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
			s.keep = true // --user is meant for the helper
			// The daemon may have flags for what is not the helper's business: the file is not judged by that.
			s.listen, s.metrics, s.admin, s.stateDir = []string{"127.0.0.1:0"}, none, none, defaultRuntimeDir()
			err := s.resolve(nil)
			switch {
			case unmount || afterStop:
				if err != nil {
					s.runtimeDir = first(s.runtimeDir, defaultRuntimeDir())
				}
				if afterStop {
					return s.afterStop()
				}
				return s.takeAway(fs.MayLive)
			case err != nil && !isKept():
				return nil // the daemon says it, if it has no predecessor to go on from
			case err != nil:
				return err
			}
			return s.prepareStart(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&s.config, "config", "c", "", "instance file, for what its [server] says")
	f.StringVar(&s.mount, "mount", "", "`DIR` to mount on (default as for serve)")
	f.StringVar(&s.runtimeDir, "runtime-dir", "", "run-time `DIR` of the daemon (default as for serve)")
	f.StringVar(&s.user, "user", "", "`NAME` of whom the daemon runs as")
	f.BoolVar(&s.addAddresses, "add-addresses", false, "put the link-local addresses on the link imds0 for the daemon")
	f.BoolVar(&s.forceAddresses, "force-addresses", false, "with --add-addresses: although another service seems to have them")
	f.BoolVar(&unmount, "unmount", false, "unmount after a daemon that has ended")
	f.BoolVar(&afterStop, "after-stop", false, "the same, unless a successor comes")
	return cmd
}

// final are the exit statuses of a daemon after which the unit starts no other.
var final = []string{"0", strconv.Itoa(exitUsage), strconv.Itoa(exitInvalid), strconv.Itoa(exitGivenUp)}

// afterStop takes away what no successor gets. It tells from what systemd says of the end of the service's main process,
// systemd.exec(5).
func (s *settings) afterStop() error {
	code, status := os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")
	switch {
	case code == "": // it never began
		err := cleanUp(s, fs.MayLive)
		if errors.Is(err, fs.ErrServed) {
			return nil // it is kept for the next
		}
		return errors.Join(err, s.withdrawAddresses())
	case code != "exited" || status == strconv.Itoa(keeper.HandedOver):
		return nil
	case slices.Contains(final, status):
		return s.takeAway(fs.EndedForGood)
	}
	// The start was refused and will be tried again. Whether there is anything to go on with for the next, the lock says.
	if err := cleanUp(s, fs.Ended); !errors.Is(err, fs.ErrServed) {
		return err
	}
	return nil
}

// takeAway takes away the mounts and the link; known is for [fs.CleanUp].
func (s *settings) takeAway(known int) error {
	return errors.Join(cleanUp(s, known), s.withdrawAddresses())
}

// cleanUp unmounts wherever a daemon of the run-time directory has mounted; known is for [fs.CleanUp].
func cleanUp(s *settings, known int) error {
	dirs, err := fs.Mounts(s.runtimeDir)
	for _, dir := range dirs {
		err = errors.Join(err, fs.CleanUp(dir, s.runtimeDir, known))
	}
	return err
}

// prepareStart is root's part before a daemon starts. What is in the way of that, the daemon of a unit says.
func (s *settings) prepareStart(ctx context.Context) error {
	store, _, err := fdstore.Open()
	if err != nil {
		return err
	}
	if !store.BySystemd() {
		return s.provide(ctx, store)
	}
	store.Remove(keptRefusal) // of a daemon that was killed before it had read it
	if s.awaitTurn() {
		return nil
	}
	if err := s.provide(ctx, store); err != nil {
		return leaveRefusal(store, err)
	}
	return nil
}

// awaitTurn waits until a start that follows refused ones may be tried. It reports whether systemd has told us to end
// meanwhile: then the next start does not wait, and after SIGTERM, which is a final stop (the unit says SIGUSR1 for a
// restart), nothing stays for it.
func (s *settings) awaitTurn() (stopped bool) {
	a, err := s.account()
	if err != nil {
		return false // said later
	}
	t := openTurn(s.runtimeDir, a.uid)
	defer t.close()
	wait := t.wait()
	if wait == 0 {
		return false
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	defer signal.Stop(signals)
	fmt.Fprintf(os.Stderr, "imdsfs: retry %d of %d in %v; systemctl restart tries at once\n", t.refusals, maxRetries, wait)
	select {
	case <-time.After(wait):
		return false
	case sig := <-signals:
		t.forget()
		if sig == syscall.SIGTERM {
			if err := s.takeAway(fs.EndedForGood); err != nil {
				report(os.Stderr, err)
			}
		}
		return true
	}
}

// provide adds the addresses and mounts, as far as either is wanted.
func (s *settings) provide(ctx context.Context, store *fdstore.Store) error {
	if err := s.provideAddresses(ctx); err != nil || s.mount == none {
		return err
	}
	return mountFor(s, store)
}

// account is whom the daemon runs as.
func (s *settings) account() (*account, error) {
	if s.user == "" {
		return &account{uid: os.Getuid(), gid: os.Getgid()}, nil
	}
	return lookUpAccount(s.user)
}

func mountFor(s *settings, store *fdstore.Store) error {
	if !store.Durable() {
		return problem.Usage("in a unit: NotifyAccess=all, FileDescriptorStoreMax=64, Environment=FDSTORE=64",
			errors.New("mount-helper leaves the mount with a keeper or with systemd's file descriptor store, and there is neither"))
	}
	a, err := s.account()
	if err != nil {
		return err
	}
	mounted, err := fs.MountFor(fs.Config{Dir: s.mount, Source: os.Getenv(sourceVariable), RuntimeDir: s.runtimeDir, Keeper: store}, a.uid, a.gid)
	switch {
	case err != nil:
		return err
	case !mounted && isKept(): // a keeper asks only if it keeps none
		return isRunning(s.runtimeDir)
	case !mounted:
		fmt.Fprintf(os.Stderr, "imdsfs: %s is kept mounted\n", s.mount)
	}
	cleanUpOthers(s)
	return nil
}

// cleanUpOthers unmounts where a daemon of the run-time directory has mounted before the settings said otherwise,
// unless the mount is still kept. What stands in the way there is no reason not to start here.
func cleanUpOthers(s *settings) {
	dirs, err := fs.Mounts(s.runtimeDir)
	for _, dir := range dirs {
		if dir == s.mount {
			continue
		}
		if cleanErr := fs.CleanUp(dir, s.runtimeDir, fs.MayLive); !errors.Is(cleanErr, fs.ErrServed) {
			err = errors.Join(err, cleanErr)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: clean up after an earlier mount: %v\n", err)
	}
}

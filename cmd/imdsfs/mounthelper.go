package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/fs"
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

With --unmount it takes away what a daemon that has ended left behind: the mount, and the link. With --after-stop, in
ExecStopPost=, it does so only if no successor comes: not after a crash, and not after a daemon that
was to hand over.`,
		Example: `  imdsfs mount-helper --mount /run/metadata --user imdsfs
  imdsfs mount-helper --mount /run/metadata --unmount`,
		Args: exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.keep = true // --user is meant for the helper
			err := s.resolve(nil)
			switch {
			case err != nil && !unmount && !afterStop:
				// Not a failure: the daemon may have a predecessor to go on from.
				fmt.Fprintln(os.Stderr, "imdsfs: warning: nothing is mounted for the daemon:")
				report(os.Stderr, err)
				return nil
			case err != nil:
				s.runtimeDir = first(s.runtimeDir, defaultRuntimeDir())
			}
			switch {
			case afterStop && hasSuccessor():
				return nil
			case unmount || afterStop:
				return errors.Join(cleanUp(&s, afterStop && os.Getenv("EXIT_CODE") != ""), s.withdrawAddresses())
			}
			if err := s.provideAddresses(cmd.Context()); err != nil || s.mount == none {
				return err
			}
			return mountFor(&s)
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

// hasSuccessor tells from what systemd says of the end of the service's main process, systemd.exec(5): an
// orderly end, or one that the unit does not restart after (wrong usage, a faulty file), is final.
func hasSuccessor() bool {
	code, status := os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")
	if code == "" { // it never began
		return false
	}
	return code != "exited" || status != "0" && status != "2" && status != "3"
}

// cleanUp unmounts wherever a daemon of the run-time directory has mounted; with force also a mount of it that does not
// answer.
func cleanUp(s *settings, force bool) error {
	dirs, err := fs.Mounts(s.runtimeDir)
	for _, dir := range dirs {
		err = errors.Join(err, fs.CleanUp(dir, s.runtimeDir, force))
	}
	return err
}

func mountFor(s *settings) error {
	store, _, err := fdstore.Open()
	if err != nil {
		return err
	}
	if !store.Durable() {
		return failure(exitUsage, "in a unit: NotifyAccess=all, FileDescriptorStoreMax=64, Environment=FDSTORE=64",
			errors.New("mount-helper leaves the mount with a keeper or with systemd's file descriptor store, and there is neither"))
	}
	a := &account{uid: os.Getuid(), gid: os.Getgid()}
	if s.user != "" {
		if a, err = lookUpAccount(s.user); err != nil {
			return err
		}
	}
	mounted, err := fs.MountFor(fs.Config{Dir: s.mount, Source: os.Getenv(sourceVariable), RuntimeDir: s.runtimeDir, Keeper: store}, a.uid, a.gid)
	var point *fs.PointError
	if errors.As(err, &point) {
		return failure(exitFailed, point.Hint, err)
	}
	if err != nil {
		return err
	}
	if !mounted {
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
		if cleanErr := fs.CleanUp(dir, s.runtimeDir, false); !errors.Is(cleanErr, fs.ErrServed) {
			err = errors.Join(err, cleanErr)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: clean up after an earlier mount: %v\n", err)
	}
}

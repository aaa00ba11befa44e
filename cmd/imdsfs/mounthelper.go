package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/fs"
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
					return mount.AfterStop(s)
				}
				return mount.TakeAway(s, fs.MayLive)
			case err != nil && !handover.HasKeeper():
				return nil // the daemon says it, if it has no predecessor to go on from
			case err != nil:
				return err
			}
			return mount.PrepareStart(cmd.Context(), s, func(err error) { report(os.Stderr, err) })
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

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
		Long: `mount-helper is for units and keepers; you need not run it. It opens /dev/fuse, mounts, leaves the mount
with the keeper or with systemd's file descriptor store, and ends: the daemon then needs no privilege to
mount. If a mount is kept already, mount-helper does nothing.

Before that, with --add-addresses, it adds the link-local addresses on the link imds0, or keeps the link that
it made earlier for this run-time directory. Both addresses are there from the start, if the kernel has
IPv6: http-protocol-ipv6 then only opens and closes the listener.

After a refused start it waits first, 1 s and then longer each time. In a unit it never fails itself:
it passes an error to the daemon, which prints it and ends.

With --unmount it removes what a daemon that has ended left behind: the mount and the link. With
--after-stop, in ExecStopPost=, it does so only if no successor comes: not after a crash, and not after a
daemon that handed over. After a refused start it unmounts, unless a daemon has served a tree there.`,
		Example: `  imdsfs mount-helper --mount /run/metadata --user imdsfs
  imdsfs mount-helper --mount /run/metadata --unmount`,
		Args: exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Keeper.Keep = true // for --user
			// The daemon may have flags for these. mount-helper does not need them, and does not check the file's.
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
				return nil // the daemon prints it, unless it takes over from a predecessor
			case err != nil:
				return err
			}
			return mount.PrepareStart(cmd.Context(), s, func(err error) { report(os.Stderr, err) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&c.File, "config", "c", "", "instance `FILE`, for its [server]")
	f.StringVar(&c.Mount, "mount", "", "`DIR` to mount on (default as for serve)")
	f.StringVar(&c.RuntimeDir, "runtime-dir", "", "run-time `DIR` of the daemon (default as for serve)")
	f.StringVar(&c.Keeper.User, "user", "", "`NAME` of the user that the daemon runs as")
	f.BoolVar(&c.Addresses.Add, "add-addresses", false, "add the link-local addresses for the daemon, on the link imds0")
	f.BoolVar(&c.Addresses.Force, "force-addresses", false, "with --add-addresses: add them even if another service seems to have them")
	f.BoolVar(&unmount, "unmount", false, "unmount after a daemon that has ended")
	f.BoolVar(&afterStop, "after-stop", false, "the same, unless a successor comes")
	return cmd
}

package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/source/problem"
)

// runMount runs the program as mount(8) calls it, and returns the exit code.
func runMount(args []string, stdout, stderr io.Writer) int {
	cmd := newMountCommand(stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	var ended *problem.Exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return report(stderr, err)
	}
	report(stderr, err)
	return mount.ExitUsage
}

// fstabLine is the example that the help and the README explain.
const fstabLine = daemon.DefaultFile + " " + daemon.DefaultMount + " fuse.imdsfs _netdev,nofail,keep 0 0"

func newMountCommand(stderr io.Writer) *cobra.Command {
	r := &mount.Request{Stderr: stderr, ParseServe: parseServe, Warn: func(text string) { say(stderr, "warning", text) }}
	var ignored bool
	var namespace, fstype string
	cmd := &cobra.Command{
		Use:   "mount.fuse.imdsfs SOURCE DIR",
		Short: "Mount instance metadata with mount(8) and /etc/fstab",
		Long: `mount.fuse.imdsfs is what mount(8) calls for the type fuse.imdsfs. It starts imdsfs serve in the
background and returns when both doors are ready. If the daemon cannot start, mount prints why and leaves
nothing behind. umount DIR ends the daemon.

SOURCE is the instance file; none or imdsfs: describe this machine.

These flags of imdsfs serve are mount options: listen=ADDR, allow-from=WHO, host=NAME and
metrics-allow-from=WHO, each of them repeatable, runtime-dir=DIR, state-dir=DIR, admin=SOCKET,
metrics=ADDR, log-level=LEVEL, log-format=FORMAT, add-addresses, force-addresses, keep, user=NAME and
watchdog=TIME.

log=FILE appends the daemon's log to FILE, in a directory that only root can change (a group can change
Ubuntu's /var/log, so it is refused). Without it the log goes to the journal if this program's standard
error does, as in a mount unit of systemd; otherwise there is no log once the daemon is ready.

Commas separate options, so no value can hold one: put such a value into [server] of the instance file.
Several mounts at a time need a runtime-dir and a state-dir each.

The generic options of mount(8) are accepted; the mount is always ro,nosuid,nodev,noexec.

In /etc/fstab, _netdev makes systemd mount when the network is up: the daemon describes it and listens on
it. With nofail the boot continues without the mount. With keep a second process supervises the daemon and
starts it again if it dies; readers pause for a moment and then get the right answer. Use either this or
imdsfs.service. The directory must be free, so x-systemd.automount does not work.

Exit codes: 0 mounted; 1 wrong usage; 2 system error; 32 mount failed.`,
		Example: `  ` + fstabLine + `
  mount -t fuse.imdsfs -o keep,log=/var/lib/imdsfs.log ` + daemon.DefaultFile + ` ` + daemon.DefaultMount + `
  mount -t fuse.imdsfs -o listen=none none ` + daemon.DefaultMount,
		Args:              exactArgs(2, "SOURCE and DIR"),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if namespace != "" {
				return problem.Usage("nsenter --mount="+namespace+" mount …", errors.New("-N: a daemon is not started in another namespace"))
			}
			r.Source, r.Dir = args[0], args[1]
			return r.Do(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&r.Options, "options", "o", nil, "mount `OPTIONS`, separated by commas")
	f.BoolVarP(&r.Sloppy, "sloppy", "s", false, "ignore unknown options")
	f.BoolVarP(&r.Fake, "fake", "f", false, "check the options and the instance file only")
	f.BoolVarP(&r.Verbose, "verbose", "v", false, "print which options are ignored, and the daemon's log of its start")
	f.BoolVarP(&ignored, "no-mtab", "n", false, "ignored: there is no /etc/mtab to write")
	f.StringVarP(&namespace, "namespace", "N", "", "refused: mount in another mount `NAMESPACE`")
	f.StringVarP(&fstype, "types", "t", "", "ignored: the `TYPE`; there is only one")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return problem.Usage("see "+cmd.Name()+" --help", err)
	})
	return cmd
}

// parseServe parses flags of imdsfs serve.
func parseServe(flags []string) (config daemon.Config, err error) {
	serve := &cobra.Command{}
	addFlags(serve, &config)
	return config, serve.ParseFlags(flags)
}

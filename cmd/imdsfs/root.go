// Command imdsfs serves EC2 instance metadata over HTTP and as a filesystem, from one tree.
//
//	arguments ─▶ a subcommand ─▶ daemon.Config ─▶ daemon.Run        serve, run (package foreground: its COMMAND)
//	                                           ─▶ supervise.Run     serve --keep
//	                                           ─▶ package mount     mount.fuse.imdsfs, mount-helper
//	                          ─▶ the admin socket of a daemon       status, options, set, tag, upgrade, …
//	                          ─▶ an instance metadata service       get, tree, env
//	             its error    ─▶ text.go ─▶ standard error, exit code
//
// This package is the command line. Each subcommand has a file of its name; flags.go turns flags into a daemon.Config;
// text.go formats errors and holds the exit codes; hints.go, nearpath.go and complete.go help you type. adminclient.go asks a
// running daemon, which package rundir finds. mountfuse.go is the program when mount(8) calls it. Package handover tells who
// trusts whom between root, the daemon's user and everybody else.
package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
)

// run runs the program, and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(stdout, stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, daemon.ErrHandedOver):
		return handover.ExitHandedOver
	}
	return mount.ExitStatus(err, report(stderr, err))
}

func newRootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "imdsfs",
		Short: "EC2 instance metadata over HTTP and as files",
		Long: `imdsfs serves EC2 instance metadata (IMDSv1 and IMDSv2) over HTTP and as files in a FUSE mount,
both from one tree: a TOML file, or the machine it runs on.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the configuration is invalid; 4 the answer is no.`,
		Example: `  imdsfs serve -c testdata/instances/web-1.toml
  imdsfs check testdata/instances/web-1.toml
  imdsfs get instance-id`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              exactArgs(0, "a subcommand"),
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(newServeCommand(stderr), newCheckCommand(stdout, stderr), newGetCommand(stdout), newTreeCommand(stdout), newEnvCommand(stdout), newRunCommand(stdout, stderr),
		newStatusCommand(stdout), newUpgradeCommand(stdout), newOptionsCommand(stdout), newTagCommand(), newSetCommand(), newUnsetCommand(), newResetCommand(stdout), newReloadCommand(stdout, stderr), newMountHelperCommand(), newVersionCommand(stdout))
	addVersionFlag(root)
	refuseUnknown(root)
	addCompletions(root)
	return root
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

// upgradeLimit is how long the new program may take until it answers.
const upgradeLimit = 20 * time.Second

func newUpgradeCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	program := ""
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace the running daemon with another program, without an interruption",
		Long: `upgrade replaces the running daemon with this program, or with the one given with --program: in the same process,
with the same mount, sockets and flags. Readers of the mount pause for some milliseconds, connections are
accepted a moment later, and tokens stay valid.

First the new program checks the daemon's flags, the instance file and the tree, with the changes made at run
time, as it would when it starts. If it finds a fault, nothing changes.

A daemon that has capabilities takes any program from root. From its own user it takes a program only if
nobody but root can change it: the file, and each directory on the way to it.`,
		Example: "  imdsfs upgrade",
		Args:    exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if program == "" {
				own, err := handover.OwnProgram()
				if err != nil {
					return err
				}
				program = own
			}
			path, err := filepath.Abs(program)
			if err != nil {
				return err
			}
			return flags.upgrade(cmd.Context(), stdout, path)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&program, "program", "", "`FILE` to replace the daemon with (default this program)")
	return cmd
}

func (f *adminFlags) upgrade(ctx context.Context, stdout io.Writer, program string) error {
	var before, after control.Status
	if err := f.call(ctx, "GET", "/v1/status", nil, &before); err != nil {
		return err
	}
	if err := f.call(ctx, "POST", "/v1/upgrade", control.Upgrade{Program: program}, nil); err != nil {
		return err
	}
	err := errors.New("it does not answer")
	for deadline := time.Now().Add(upgradeLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f.call(ctx, "GET", "/v1/status", nil, &after); err == nil && after.Started.After(before.Started) {
			fmt.Fprintf(stdout, "upgraded from %s to %s, pid %d\n", before.Version, after.Version, after.PID)
			return nil
		}
	}
	return problem.Failed("see its log", fmt.Errorf("%s has not taken over within %v: %w", program, upgradeLimit, err))
}

package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newReloadCommand(stdout, stderr io.Writer) *cobra.Command {
	var flags adminFlags
	pid := 0
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the running daemon read its file again, and wait for the result",
		Long: `reload makes the running daemon read its sources again, waits, and prints which paths have changed, at most
20. If the file is faulty, reload prints every fault with file, line and key, and exits with 3; the daemon
keeps serving what it served before.

The daemon follows its files, so it may serve a change already. Changes under [server] take effect at the
next start.`,
		Example: "  imdsfs reload",
		Args:    exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done control.Reloaded
			err := flags.call(cmd.Context(), "POST", "/v1/reload", nil, &done)
			if (errors.Is(err, errNoDaemon) || errors.Is(err, errNoSocket)) && cmd.Flags().Changed("pid") {
				return signalReload(stderr, flags.path(), pid)
			}
			if err != nil {
				return err
			}
			return printReloaded(stdout, &done)
		},
	}
	flags.add(cmd)
	cmd.Flags().IntVar(&pid, "pid", 0, "`PID` of the daemon: send it SIGHUP if it has no admin socket there; then only its log tells of faults")
	return cmd
}

func printReloaded(w io.Writer, r *control.Reloaded) error {
	texts := r.Texts()
	for _, name := range r.Options {
		texts = append(texts, "option "+name+" changed")
	}
	if len(texts) == 0 {
		_, err := fmt.Fprintln(w, "reloaded: nothing has changed since the daemon last read its sources")
		return err
	}
	var err error
	for _, text := range texts {
		_, err = fmt.Fprintf(w, "reloaded: %s\n", problem.Printable(text))
	}
	return err
}

// signalReload sends SIGHUP to a daemon without an admin socket (admin = "none", or another path). The daemon cannot answer.
func signalReload(stderr io.Writer, socket string, pid int) error {
	if pid <= 1 {
		return problem.Usage("", fmt.Errorf("--pid %d is not a daemon's", pid))
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("no admin socket at %s, and SIGHUP to pid %d: %w", socket, pid, err)
	}
	return say(stderr, "warning", fmt.Sprintf("no admin socket at %s: sent SIGHUP to pid %d instead; its log tells how the reload went", socket, pid))
}

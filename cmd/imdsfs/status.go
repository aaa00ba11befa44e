package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newStatusCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running daemon does",
		Long: `status shows the running daemon: its mount and listeners, where the metadata comes from and how old that
is, the options in force, what was changed at run time, refused clients, and counters. It shows no secret.

It also names the bind mounts of single files of the mount, in the containers and other processes that you may
look at (root: all). Such a file never changes: bind-mount its directory instead.`,
		Example: `  imdsfs status
  imdsfs status --json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s control.Status
			if err := flags.call(cmd.Context(), "GET", "/v1/status", nil, &s); err != nil {
				return err
			}
			binds := flags.findFileBinds(cmd.Context(), &s)
			if asJSON {
				return printStatusJSON(stdout, &s, binds)
			}
			if err := printStatus(stdout, &s, time.Now()); err != nil {
				return err
			}
			return binds.print(stdout)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s *control.Status, now time.Time) error {
	age := func(t time.Time) string { return now.Sub(t).Truncate(time.Second).String() }
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", key, problem.Printable(fmt.Sprintf(format, args...)))
	}
	line("version", "%s", s.Version)
	line("running", "pid %d, for %s", s.PID, age(s.Started))
	line("instance", "%s", cmp.Or(s.Instance, "without an id"))
	line("file", "%s", cmp.Or(s.Config, "none: this machine is described"))
	switch {
	case s.Mount == nil:
		line("mount", "none")
	case s.Mount.Private:
		line("mount", "%s (through fusermount3: for the daemon's own user alone)", s.Mount.Dir)
	case s.Mount.Resumed:
		line("mount", "%s (a predecessor's)", s.Mount.Dir)
	default:
		line("mount", "%s", s.Mount.Dir)
	}
	if s.Mount != nil && s.Mount.Handles {
		line("", "  open to file handles: a process with CAP_DAC_READ_SEARCH that sees any part of it can read all of it")
	}
	line("handover", "%s", s.Handover)
	line("http", "%s", cmp.Or(strings.Join(s.Listeners, " "), "none"))
	if text := pointClients(s.Listeners); text != "" {
		line("", "  %s", text)
	}
	if s.Addresses != "" {
		line("addresses", "on the %s", s.Addresses)
	}
	for _, src := range s.Sources {
		if src.Loaded.IsZero() {
			line("source", "%s, not read since the start: what the predecessor served is still served", src.Name)
			continue
		}
		line("source", "%s, read %s ago", src.Name, age(src.Loaded))
		if src.Error != "" {
			line("", "  it cannot be read now, so what it said then is still served: %s", src.Error)
		}
	}
	for _, f := range s.Faults {
		line("fault", "%s", f)
	}
	for _, o := range s.Options {
		lock := ""
		if o.Locked {
			lock = " (locked)"
		}
		line("option", "%s = %s, %s%s", o.Name, o.Value, o.Origin, lock)
		if o.Name == "http-tokens" && o.Value == "optional" {
			line("", "  to require IMDSv2: imdsfs options set http-tokens=required")
		}
	}
	for _, c := range s.Changes[:min(len(s.Changes), daemon.MostListed)] {
		line("run time", "%s", changeText(c))
	}
	if more := len(s.Changes) - daemon.MostListed; more > 0 {
		line("", "and %d more: imdsfs status --json", more)
	}
	if len(s.Changes) > 0 {
		line("", "  to forget all of these: imdsfs reset")
	}
	for _, other := range s.Others[:min(len(s.Others), daemon.MostListed)] {
		line("run time", "%s for %s, not in force; to forget: %s", changesText(other.Changes), instanceText(other.Instance), daemon.ResetCommand(other.Instance))
	}
	if more := len(s.Others) - daemon.MostListed; more > 0 {
		line("", "and for %d more instances: imdsfs status --json", more)
	}
	for _, p := range s.Peers {
		line("peer", "%s %s, last %s ago", p.Address, p.Why, age(p.Last))
	}
	c := &s.Counters
	line("requests", "%d with a token (IMDSv2), %d without (IMDSv1), %d refused because they had none", c.RequestsV2, c.NoToken, c.NoTokenRefused)
	line("tokens", "%d issued, %d withheld", c.TokensIssued, c.TokensWithheld)
	line("connections", "%d open, %d refused", c.Connections, c.PeersRefused)
	line("changes", "%d published, %d reloads, %d failed", c.Publishes, c.Reloads, c.ReloadFailures)
	return tw.Flush()
}

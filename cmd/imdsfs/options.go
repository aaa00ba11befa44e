package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
)

type optionList struct {
	Options []control.Option `json:"options"`
}

func newOptionsCommand(stdout io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "options",
		Short: "Show and change EC2's metadata options on the running daemon",
		Long: `options shows and changes EC2's metadata options on the running daemon: http-endpoint, http-tokens,
http-put-response-hop-limit, http-protocol-ipv6 and instance-metadata-tags.

A change is in force for the next request when the command returns, and outlives restarts and
reboots. What the file locks may be tightened, never weakened. A refusal is exit code 4.`,
		Example: `  imdsfs options get
  imdsfs options set http-tokens=required http-put-response-hop-limit=2
  imdsfs options reset`,
		Args: exactArgs(0, "get, set or reset"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newOptionsGetCommand(stdout), newOptionsSetCommand(stdout), newOptionsResetCommand(stdout))
	return cmd
}

func newOptionsGetCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:     "get",
		Short:   "Print every option with where its value comes from",
		Example: "  imdsfs options get",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list optionList
			if err := flags.call(cmd.Context(), "GET", "/v1/options", nil, &list); err != nil {
				return err
			}
			return printOptions(stdout, list.Options)
		},
	}
	flags.add(cmd)
	return cmd
}

func newOptionsSetCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "set OPTION=VALUE...",
		Short: "Change options, all or none",
		Example: `  imdsfs options set http-tokens=required
  imdsfs options set http-tokens=optional http-put-response-hop-limit=1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return failure(exitUsage, "see imdsfs options set --help", errors.New("imdsfs options set takes OPTION=VALUE, once or more"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := map[string]string{}
			for _, arg := range args {
				name, value, ok := strings.Cut(arg, "=")
				if _, twice := changes[name]; !ok || twice {
					return failure(exitUsage, "for example http-tokens=required", fmt.Errorf("%q is not OPTION=VALUE, or names an option again", arg))
				}
				changes[name] = value
			}
			var list optionList
			if err := flags.call(cmd.Context(), "PATCH", "/v1/options", changes, &list); err != nil {
				return err
			}
			return printOptions(stdout, list.Options)
		},
	}
	flags.add(cmd)
	return cmd
}

func newOptionsResetCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "reset [OPTION...]",
		Short: "Forget what was set at run time, of all options or of these",
		Example: `  imdsfs options reset
  imdsfs options reset http-put-response-hop-limit`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var list optionList
			path := "/v1/options?" + url.Values{"name": args}.Encode()
			if err := flags.call(cmd.Context(), "DELETE", path, nil, &list); err != nil {
				return err
			}
			return printOptions(stdout, list.Options)
		},
	}
	flags.add(cmd)
	return cmd
}

func printOptions(w io.Writer, options []control.Option) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range options {
		lock := ""
		if o.Locked {
			lock = " (locked)"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s%s\n", o.Name, o.Value, o.Origin, lock)
	}
	return tw.Flush()
}

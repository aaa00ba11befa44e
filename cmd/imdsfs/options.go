package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
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

When the command returns, the change applies to the next request. It survives restarts and reboots. You
can tighten an option that the file locks, but not weaken it. If the daemon refuses a change, the exit code is 4.`,
		Example: `  imdsfs options get
  imdsfs options set http-tokens=required http-put-response-hop-limit=2
  imdsfs options reset`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := meantOptions(cmd, args); err != nil {
				return err
			}
			return exactArgs(0, "get, set or reset")(cmd, args)
		},
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
		Args:    exactArgs(0, "no arguments and prints every option"),
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
				return usage(cmd, "for example imdsfs options set http-tokens=required", errors.New("imdsfs options set takes OPTION=VALUE, once or more"))
			}
			_, err := assignments(cmd, args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := assignments(cmd, args)
			if err != nil {
				return err
			}
			var list optionList
			if err := flags.call(cmd.Context(), "PATCH", "/v1/options", changes, &list); err != nil {
				return nearOption(err, slices.Sorted(maps.Keys(changes)))
			}
			return printOptions(stdout, list.Options)
		},
	}
	flags.add(cmd)
	return cmd
}

// assignments parses arguments OPTION=VALUE, each option once.
func assignments(cmd *cobra.Command, args []string) (map[string]string, error) {
	changes := map[string]string{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if _, twice := changes[name]; twice {
			return nil, usage(cmd, "", fmt.Errorf("%s is given twice", problem.Printable(name)))
		}
		if !ok {
			if err := meantOptions(cmd, args); err != nil {
				return nil, err
			}
			return nil, usage(cmd, "for example http-tokens=required", fmt.Errorf("%q is not OPTION=VALUE", arg))
		}
		changes[name] = value
	}
	return changes, nil
}

// nearOption adds a suggestion to a refusal, if one of names is close to the name of an option.
func nearOption(err error, names []string) error {
	var refused *problem.Error
	if !errors.As(err, &refused) || refused.Kind != problem.KindNo || refused.Hint != "" {
		return err
	}
	for _, name := range names {
		if near := problem.Nearest(name, ec2.OptionNames()); near != "" && near != name {
			return problem.No(didYouMean(near), err)
		}
	}
	return err
}

// meantOptions returns the error of arguments that name options in another form than OPTION=VALUE after set, with the right
// form as a hint; nil if args name no option.
func meantOptions(cmd *cobra.Command, args []string) error {
	if len(args) == 1 && cmd.Name() == "options" && slices.Contains(ec2.OptionNames(), args[0]) {
		return usage(cmd, "imdsfs options get prints it; imdsfs options set "+args[0]+"="+exampleValue(args[0])+" changes it", fmt.Errorf("unknown subcommand %q", args[0]))
	}
	var meant []string
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(args[i], "=")
		if name = problem.Nearest(strings.TrimRight(name, ":"), ec2.OptionNames()); name == "" {
			return nil
		}
		if !ok && i+1 < len(args) {
			i++
			value, ok = args[i], true
		}
		if !ok {
			value = exampleValue(name)
		}
		meant = append(meant, name+"="+problem.Printable(quote(value)))
	}
	if meant == nil {
		return nil
	}
	return usage(cmd, didYouMean("imdsfs options set "+strings.Join(meant, " ")), fmt.Errorf("imdsfs options set takes OPTION=VALUE, not %q", strings.Join(args, " ")))
}

func newOptionsResetCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	cmd := &cobra.Command{
		Use:   "reset [OPTION...]",
		Short: "Forget what was set at run time, for all options or only for these",
		Example: `  imdsfs options reset
  imdsfs options reset http-put-response-hop-limit`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var list optionList
			path := "/v1/options?" + url.Values{"name": args}.Encode()
			if err := flags.call(cmd.Context(), "DELETE", path, nil, &list); err != nil {
				return nearOption(err, args)
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
		fmt.Fprintf(tw, "%s\t%s\t%s%s\n", problem.Printable(o.Name), problem.Printable(o.Value), problem.Printable(o.Origin), lock)
	}
	return tw.Flush()
}

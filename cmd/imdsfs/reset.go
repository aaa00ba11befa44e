package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newResetCommand(stdout io.Writer) *cobra.Command {
	var flags adminFlags
	instance := ""
	cmd := &cobra.Command{
		Use:   "reset [options|tags|values]...",
		Short: "Forget what was changed at run time, all of it or some kinds",
		Long: `reset forgets what you changed at run time with options set, tag, set and unset: all of it, or only the kinds
that you name. The values of the file count again. reset prints what it has forgotten.

Changes belong to the instance for which you made them. To forget those of another instance, which imdsfs
status lists, use --instance.

If that would weaken an option that the running instance locks, reset forgets nothing, and the exit code is 4.

reset asks the running daemon. While none runs, you can remove overlay.json in its state directory instead.`,
		Example: `  imdsfs reset
  imdsfs reset tags values
  imdsfs reset --instance i-0a1b2c3d4e5f67890`,
		ValidArgs: []string{string(overlay.Options), string(overlay.Tags), string(overlay.Values)},
		Args: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				if !slices.Contains(overlay.Kinds(), overlay.Kind(arg)) {
					return problem.Usage("the kinds are options, tags and values; without any, all are forgotten", fmt.Errorf("%q is not a kind of change", arg))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"kind": args}
			if cmd.Flags().Changed("instance") {
				query.Set("instance", instance)
			}
			var done control.Changes
			err := flags.call(cmd.Context(), "DELETE", "/v1/overlay?"+query.Encode(), nil, &done)
			if errors.Is(err, errNoDaemon) {
				return problem.Failed("name its --runtime-dir or --admin socket; while it does not run, removing overlay.json in its state directory forgets all of it", err)
			}
			if err != nil {
				return err
			}
			if len(done.Forgotten) == 0 {
				fmt.Fprintln(stdout, "there was nothing to forget")
			}
			for _, c := range done.Forgotten {
				_, err = fmt.Fprintf(stdout, "forgotten: %s\n", changeText(c))
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&instance, "instance", "", "forget the changes of the instance with this `ID` (default the running one)")
	return cmd
}

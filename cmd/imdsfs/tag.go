package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
)

func tagKey(key string) (string, error) { return key, nil }

func newTagCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag",
		Short: "Set and remove tags of the running daemon",
		Example: `  imdsfs tag set Name web-2
  imdsfs tag unset Name`,
		Args: func(cmd *cobra.Command, args []string) error {
			return meantTag(cmd, args, exactArgs(0, "set or unset")(cmd, args))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	set := editCommand(overlay.Tags, control.Set, "set KEY VALUE", tagKey)
	set.Short, set.Example = "Give a tag a value", "  imdsfs tag set Name web-2"
	unset := editCommand(overlay.Tags, control.Unset, "unset KEY", tagKey)
	unset.Short, unset.Example = "Remove a tag", "  imdsfs tag unset Name\n  imdsfs tag unset --forget Name"
	cmd.AddCommand(set, unset)
	return cmd
}

// meantTag adds to err, which refuses args, the right command for KEY VALUE, for KEY=VALUE, and for reading tags.
func meantTag(cmd *cobra.Command, args []string, err error) error {
	hint := ""
	switch key, value, assigned := strings.Cut(strings.Join(args, " "), "="); {
	case err == nil:
		return nil
	case slices.Contains([]string{"get", "list", "ls", "show"}, args[0]):
		hint = didYouMean("imdsfs tree tags/instance")
	case len(args) == 2 && problem.Nearest(args[0], []string{"set", "unset"}) == "" && otherNames["tag"][args[0]] == "":
		hint = didYouMean("imdsfs tag set " + problem.Printable(quote(args[0])+" "+quote(args[1])))
	case len(args) == 1 && assigned:
		hint = didYouMean("imdsfs tag set " + problem.Printable(quote(key)+" "+quote(value)))
	default:
		return err
	}
	return usage(cmd, hint, err)
}

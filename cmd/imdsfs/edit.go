package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/overlay"
)

// edit sends one change of a tag or a value, and says what is odd about it.
func (f *adminFlags) edit(cmd *cobra.Command, kind overlay.Kind, action control.Action, name string, value []byte) error {
	var done control.Changes
	if err := f.call(cmd.Context(), "POST", "/v1/overlay", control.Edit{Kind: kind, Action: action, Name: name, Value: value}, &done); err != nil {
		return err
	}
	for _, w := range done.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "imdsfs: warning: %s\n", w)
	}
	return nil
}

// editCommand is a subcommand that changes one thing: with a value if action is set, else with --forget.
func editCommand(kind overlay.Kind, action control.Action, use string, name func(string) (string, error)) *cobra.Command {
	var flags adminFlags
	forget := false
	cmd := &cobra.Command{Use: use}
	if action == control.Set {
		cmd.Args = exactArgs(2, use[strings.Index(use, " ")+1:])
	} else {
		cmd.Args = exactArgs(1, use[strings.Index(use, " ")+1:])
		cmd.Flags().BoolVar(&forget, "forget", false, "forget what was set or unset at run time: what the file says counts again")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := name(args[0])
		if err != nil {
			return err
		}
		action := action
		if forget {
			action = control.Forget
		}
		var value []byte
		if action == control.Set {
			if value, err = argument(cmd.InOrStdin(), args[1]); err != nil {
				return err
			}
		}
		return flags.edit(cmd, kind, action, name, value)
	}
	flags.add(cmd)
	return cmd
}

// argument is text, or what standard input holds if it is "-".
func argument(stdin io.Reader, text string) ([]byte, error) {
	if text != "-" {
		return []byte(text), nil
	}
	value, err := io.ReadAll(io.LimitReader(stdin, source.MaxLeaf+1))
	if err == nil && len(value) > source.MaxLeaf {
		err = failure(exitUsage, "", fmt.Errorf("standard input holds more than %d bytes", source.MaxLeaf))
	}
	return value, err
}

// everywhere turns PATH, as get takes it, into one relative to a version.
func everywhere(path string) (string, error) {
	rest, err := source.InEveryVersion(path)
	if err != nil {
		return "", failure(exitUsage, "changes show in every version that has the category: name it below /latest/", fmt.Errorf("%s is not below /latest/", printable(path)))
	}
	return rest, nil
}

func tagKey(key string) (string, error) { return key, nil }

func newSetCommand() *cobra.Command {
	cmd := editCommand(overlay.Values, control.Set, "set PATH VALUE", everywhere)
	cmd.Short = "Set one value of the running daemon"
	cmd.Long = `set gives the metadata at PATH a value, whatever the file says, on both doors and over restarts. PATH is
relative to /latest/meta-data/; meta-data/…, dynamic/…, user-data and /latest/… mean what they say. VALUE -
reads standard input. The value is checked as in a file: what is faulty is refused, what is odd gets a warning.`
	cmd.Example = `  imdsfs set spot/termination-time 2026-01-05T18:02:00Z
  imdsfs set /latest/user-data - < /etc/hostname`
	return cmd
}

func newUnsetCommand() *cobra.Command {
	cmd := editCommand(overlay.Values, control.Unset, "unset PATH", everywhere)
	cmd.Short = "Remove one value of the running daemon"
	cmd.Long = `unset removes the metadata at PATH and all below it, whatever the file says, on both doors and over
restarts. With --forget what was set or unset at run time is forgotten instead.`
	cmd.Example = `  imdsfs unset public-ipv4
  imdsfs unset --forget public-ipv4`
	return cmd
}

func newTagCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag",
		Short: "Set and remove tags of the running daemon",
		Example: `  imdsfs tag set Name web-2
  imdsfs tag unset Name`,
		Args: exactArgs(0, "set or unset"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	set := editCommand(overlay.Tags, control.Set, "set KEY VALUE", tagKey)
	set.Short, set.Example = "Give a tag a value", "  imdsfs tag set Name web-2"
	unset := editCommand(overlay.Tags, control.Unset, "unset KEY", tagKey)
	unset.Short, unset.Example = "Remove a tag", "  imdsfs tag unset Name\n  imdsfs tag unset --forget Name"
	cmd.AddCommand(set, unset)
	return cmd
}

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

func newSetCommand() *cobra.Command {
	cmd := editCommand(overlay.Values, control.Set, "set PATH VALUE", everywhere)
	cmd.Short = "Set one value of the running daemon"
	cmd.Long = `set gives the metadata at PATH a value, over HTTP and on the mount, whatever the file says. The value survives
restarts. PATH is relative to /latest/meta-data/. meta-data/…, dynamic/… and user-data are relative to /latest/,
and /latest/… is absolute. If VALUE is -, set reads it from standard input. The daemon checks the value as it
checks those of a file: it refuses a faulty value, and warns of an odd one.`
	cmd.Example = `  imdsfs set spot/termination-time 2026-01-05T18:02:00Z
  imdsfs set /latest/user-data - < /etc/hostname`
	return cmd
}

// edit sends one change of a tag or a value to the daemon, and prints the daemon's warnings.
func (f *adminFlags) edit(cmd *cobra.Command, kind overlay.Kind, action control.Action, name string, value []byte) error {
	var done control.Changes
	if err := f.call(cmd.Context(), "POST", "/v1/overlay", control.Edit{Kind: kind, Action: action, Name: name, Value: value}, &done); err != nil {
		return err
	}
	for _, w := range done.Warnings {
		say(cmd.ErrOrStderr(), "warning", w)
	}
	return nil
}

// editCommand returns a subcommand that changes one tag or value. It takes a value if action is Set, and else --forget.
func editCommand(kind overlay.Kind, action control.Action, use string, name func(string) (string, error)) *cobra.Command {
	var flags adminFlags
	forget := false
	cmd := &cobra.Command{Use: use}
	_, want, _ := strings.Cut(use, " ")
	if action == control.Set {
		cmd.Args = setArgs(want)
	} else {
		cmd.Args = exactArgs(1, want)
		cmd.Flags().BoolVar(&forget, "forget", false, "forget what was set or unset at run time, and use the file's value again")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := name(args[0])
		if err != nil {
			return err
		}
		if err := noOption(cmd, kind, args); err != nil {
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

// setArgs refuses arguments other than a name and its value. The error does not repeat the value, which may be a secret.
func setArgs(want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		exact := exactArgs(2, want)
		name, value, assigned := strings.Cut(strings.Join(args, " "), "=")
		switch {
		case len(args) > 2:
			return usage(cmd, "quote a VALUE that holds blanks", exact(cmd, args))
		case len(args) == 1 && assigned && slices.Contains(ec2.OptionNames(), name):
			return usage(cmd, didYouMean("imdsfs options set "+name+"="+problem.Printable(quote(value))), exact(cmd, args))
		case len(args) == 1 && assigned:
			return usage(cmd, didYouMean(cmd.CommandPath()+" "+problem.Printable(quote(name))+" VALUE"), exact(cmd, args))
		}
		return exact(cmd, args)
	}
}

// noOption refuses the name of a metadata option, which is rarely meant as a path. After meta-data/ it is a path.
func noOption(cmd *cobra.Command, kind overlay.Kind, args []string) error {
	if kind != overlay.Values || !slices.Contains(ec2.OptionNames(), args[0]) {
		return nil
	}
	meant := "imdsfs options reset " + args[0]
	if len(args) > 1 {
		meant = "imdsfs options set " + args[0] + "=" + problem.Printable(quote(args[1]))
	}
	return usage(cmd, didYouMean(meant), fmt.Errorf("%s is a metadata option, not metadata", args[0]))
}

// argument returns text, or the content of standard input if text is "-".
func argument(stdin io.Reader, text string) ([]byte, error) {
	if text != "-" {
		return []byte(text), nil
	}
	value, err := io.ReadAll(io.LimitReader(stdin, build.MaxLeaf+1))
	if err == nil && len(value) > build.MaxLeaf {
		err = problem.Usage("", fmt.Errorf("standard input holds more than %d bytes", build.MaxLeaf))
	}
	return value, err
}

// everywhere turns PATH, in the form that get takes, into one relative to a version.
func everywhere(path string) (string, error) {
	rest, err := ec2.InEveryVersion(path)
	near := ""
	if err != nil || !slices.Contains([]string{ec2.MetaData, ec2.Dynamic, ec2.UserData}, strings.SplitN(rest, "/", 2)[0]) {
		near = nearCategory(ec2.Absolute(path))
	}
	switch {
	case err != nil && near == "":
		return "", problem.Usage("changes show in every version that has the category: name it below /latest/", fmt.Errorf("%s is not below /latest/", problem.Printable(path)))
	case err != nil:
		return "", problem.Usage(didYouMean(near)+" Changes show in every version that has the category", fmt.Errorf("%s is not below /latest/", problem.Printable(path)))
	case near != "":
		return "", problem.Usage(didYouMean(near), fmt.Errorf("%s is not below meta-data, dynamic or user-data", problem.Printable(path)))
	}
	return rest, nil
}

// nearCategory returns the path of EC2 that may be meant by an absolute path, as you would type it; "" if there is none.
func nearCategory(path string) string {
	for _, candidate := range meantBy(path) {
		if names := client.ParsePath(candidate); len(names) > 1 && ec2.IsCategory(strings.Join(names[1:], "/")) {
			return problem.Printable(shortPath("/" + tree.Latest + "/" + strings.Join(names[1:], "/")))
		}
	}
	return ""
}

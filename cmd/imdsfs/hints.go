package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// otherNames are names that people use for the subcommands of a command, because other programs have them.
var otherNames = map[string]map[string]string{
	"imdsfs": {
		"start": "serve", "daemon": "serve", "validate": "check", "verify": "check", "lint": "check",
		"cat": "get", "read": "get", "show": "get", "ls": "tree", "list": "tree", "info": "status",
		"delete": "unset", "remove": "unset", "rm": "unset", "environment": "env", "metadata-options": "options",
	},
	"options": {"show": "get", "list": "get", "ls": "get", "unset": "reset", "delete": "reset", "remove": "reset", "modify": "set"},
	"tag":     {"add": "set", "create": "set", "delete": "unset", "remove": "unset", "rm": "unset", "del": "unset"},
}

// usage returns an error of wrong usage of cmd. Without a hint it points to the help.
func usage(cmd *cobra.Command, hint string, err error) error {
	return problem.Usage(cmp.Or(hint, "see "+cmd.CommandPath()+" --help"), err)
}

func didYouMean(command string) string { return "did you mean " + command + "?" }

// exactArgs refuses another number of arguments than n; want names the arguments.
func exactArgs(n int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == n:
			return nil
		case n == 0 && cmd.HasSubCommands():
			return unknownSubcommand(cmd, args[0])
		case n == 0:
			return usage(cmd, hintForFile(cmd, args), fmt.Errorf("unexpected argument %q: %s takes %s", args[0], cmd.CommandPath(), want))
		case len(args) > n:
			return usage(cmd, "", fmt.Errorf("%s takes %s, not %d arguments", cmd.CommandPath(), want, len(args)))
		}
		return usage(cmd, "", fmt.Errorf("%s takes %s", cmd.CommandPath(), want))
	}
}

// unknownSubcommand refuses a subcommand that cmd does not have, and suggests one.
func unknownSubcommand(cmd *cobra.Command, name string) error {
	var known []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			known = append(known, sub.Name())
		}
	}
	others := otherNames[cmd.Name()]
	meant := problem.Nearest(name, known)
	if other, ok := others[name]; ok {
		meant = other
	}
	err := fmt.Errorf("unknown subcommand %q", name)
	if cmd.HasParent() {
		err = fmt.Errorf("unknown subcommand %q: %s takes %s", name, cmd.CommandPath(), strings.Join(known, ", "))
	}
	if meant != "" {
		return usage(cmd, didYouMean(cmd.CommandPath()+" "+meant), err)
	}
	return usage(cmd, hintForFile(cmd, []string{name}), err)
}

// hintForFile suggests a command for an instance file that is given without a subcommand.
func hintForFile(cmd *cobra.Command, args []string) string {
	if !strings.HasSuffix(args[0], ".toml") {
		return ""
	}
	file := problem.Printable(quote(args[0]))
	switch {
	case cmd.Flags().Lookup("config") != nil:
		return didYouMean(cmd.CommandPath() + " -c " + file)
	case !cmd.HasParent():
		return didYouMean("imdsfs check " + file + ", or imdsfs serve -c " + file)
	}
	return ""
}

// wrongFlag adds a hint to an error of the flags of cmd. For an unknown flag it suggests one.
func wrongFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var bad *pflag.InvalidValueError
	switch {
	case errors.As(err, &bad) && bad.GetFlag().Value.Type() == "duration":
		return usage(cmd, "give a time such as 5s or 2m", err)
	case !errors.As(err, &unknown):
		return usage(cmd, "", err)
	}
	name := unknown.GetSpecifiedName()
	if letters := unknown.GetSpecifiedShortnames(); letters != "" {
		name, _, _ = strings.Cut(letters, "=") // -timeout for --timeout
	}
	if cmd.CommandPath() == "imdsfs options set" && slices.Contains(ec2.OptionNames(), name) {
		return usage(cmd, "options are not flags: "+didYouMean("imdsfs options set "+name+"="+exampleValue(name)), err)
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	if near := problem.Nearest(name, known); near != "" {
		return usage(cmd, didYouMean("--"+near), err)
	}
	if !cmd.HasParent() {
		return usage(cmd, hintForSubcommand(cmd, name), err)
	}
	return usage(cmd, "", err)
}

// hintForSubcommand suggests the subcommand that has the flag, or one like it; serve comes before others.
func hintForSubcommand(root *cobra.Command, name string) string {
	meant := ""
	for _, sub := range root.Commands() {
		sub.LocalFlags().VisitAll(func(f *pflag.Flag) {
			near := name == f.Shorthand || problem.Nearest(name, []string{f.Name}) != ""
			if near && !f.Hidden && sub.IsAvailableCommand() && (meant == "" || sub.Name() == "serve") {
				meant = sub.CommandPath() + " --" + f.Name
			}
		})
	}
	if meant == "" {
		return ""
	}
	return didYouMean(meant)
}

// exampleValue returns a value that an option takes.
func exampleValue(option string) string {
	if values := ec2.OptionValues(option); values != nil {
		return values[0]
	}
	return "2"
}

// refuseUnknown makes cobra's subcommands help and completion refuse a command or a shell that does not exist. By default they
// print a help text.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  imdsfs help get"
			cmd.Args = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 && found.HasSubCommands() {
					return unknownSubcommand(found, rest[0])
				}
				return err
			}
		case "completion":
			cmd.Args = exactArgs(0, "a shell")
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

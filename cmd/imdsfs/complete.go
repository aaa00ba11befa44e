package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// completionLimit is how long a shell waits for paths. Tests wait longer.
var completionLimit = time.Second

const maxCompletions = 500

const nothing, filesOnly = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveFilterFileExt

// flagValues complete the values of flags of all subcommands. Candidates have no description; only subcommands do. A flag that
// is not listed takes a file.
var flagValues = map[string]cobra.CompletionFunc{
	"log-level":          cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, nothing),
	"log-format":         cobra.FixedCompletions([]string{"text", "json"}, nothing),
	"config":             cobra.FixedCompletions([]string{"toml"}, filesOnly),
	"listen":             cobra.FixedCompletions([]string{daemon.DefaultListen, daemon.LinkLocal, daemon.None}, nothing),
	"allow-from":         cobra.FixedCompletions([]string{"local", "iface:"}, nothing|cobra.ShellCompDirectiveNoSpace),
	"metrics-allow-from": cobra.FixedCompletions([]string{"local", "iface:"}, nothing|cobra.ShellCompDirectiveNoSpace),
	"mount":              cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"runtime-dir":        cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"state-dir":          cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"endpoint":           cobra.NoFileCompletions,
	"explain":            cobra.NoFileCompletions,
	"host":               cobra.NoFileCompletions,
	"instance":           cobra.NoFileCompletions,
	"metrics":            cobra.NoFileCompletions,
	"pid":                cobra.NoFileCompletions,
	"timeout":            cobra.NoFileCompletions,
	"user":               cobra.NoFileCompletions,
	"wait":               cobra.NoFileCompletions,
	"watchdog":           cobra.NoFileCompletions,
}

// argumentValues complete the arguments of subcommands. A subcommand that is not listed takes none.
var argumentValues = map[string]cobra.CompletionFunc{
	"imdsfs check":         cobra.FixedCompletions([]string{"toml"}, filesOnly),
	"imdsfs get":           completePath(false),
	"imdsfs tree":          completePath(false),
	"imdsfs set":           completePath(true),
	"imdsfs unset":         completePath(false),
	"imdsfs tag set":       completeTag,
	"imdsfs tag unset":     completeTag,
	"imdsfs options set":   completeOption,
	"imdsfs options reset": completeOptionName,
}

// addCompletions adds completions to cmd and its subcommands, unless they have some.
func addCompletions(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if values := flagValues[f.Name]; values != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, values) // fails if the flag has completions
		}
	})
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
		if cmd.ValidArgsFunction = argumentValues[cmd.CommandPath()]; cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
	for _, sub := range cmd.Commands() {
		addCompletions(sub)
	}
}

// completePath completes a path one name at a time, from the running daemon. With known it also offers the paths of EC2,
// because you can set them.
func completePath(known bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, nothing
		}
		dir := typed[:strings.LastIndex(typed, "/")+1]
		var found []string
		for _, e := range listedBelow(cmd, ec2.Absolute(dir)) {
			if e.Dir {
				e.Name += "/"
			}
			found = append(found, dir+e.Name)
		}
		if below, err := ec2.InEveryVersion(dir); known && err == nil {
			for _, name := range ec2.CategoriesBelow(below) {
				found = append(found, dir+name)
			}
		}
		if dir == "" {
			found = append(found, ec2.MetaData+"/", ec2.Dynamic+"/", ec2.UserData)
		}
		return offer(found, typed)
	}
}

// offer returns the candidates that begin with the typed text, sorted. The shell adds no blank after a directory.
func offer(candidates []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := nothing
	candidates = slices.DeleteFunc(candidates, func(c string) bool { return !strings.HasPrefix(c, typed) })
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	candidates = candidates[:min(len(candidates), maxCompletions)]
	if slices.ContainsFunc(candidates, func(c string) bool { return strings.HasSuffix(c, "/") || strings.HasSuffix(c, "=") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return candidates, directive
}

// listedBelow returns the listing at an absolute path of the daemon that the flags of cmd name, nil if it does not answer soon.
// It asks no other service unless one is named.
func listedBelow(cmd *cobra.Command, path string) []client.Listed {
	ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
	defer cancel()
	flags := clientFlags{timeout: completionLimit}
	flags.endpoint, _ = cmd.Flags().GetString("endpoint") // "" where there is no such flag
	flags.runtimeDir, _ = cmd.Flags().GetString("runtime-dir")
	flags.v1, _ = cmd.Flags().GetBool("v1")
	s, err := flags.client(ctx)
	if err != nil || s.fallback {
		return nil
	}
	entries, _ := s.client.List(ctx, client.ParsePath(path))
	return entries
}

func completeTag(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, nothing
	}
	var keys []string
	for _, e := range listedBelow(cmd, "/"+tree.Latest+"/"+ec2.TagPath("")) {
		keys = append(keys, e.Name)
	}
	return offer(keys, typed)
}

// completeOption completes OPTION=VALUE, first the option and then its value.
func completeOption(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []string
	name, _, named := strings.Cut(typed, "=")
	if named {
		for _, value := range ec2.OptionValues(name) {
			found = append(found, name+"="+value)
		}
		return offer(found, typed)
	}
	for _, option := range ec2.OptionNames() {
		if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, option+"=") }) {
			found = append(found, option+"=")
		}
	}
	return offer(found, typed)
}

func completeOptionName(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return offer(slices.DeleteFunc(ec2.OptionNames(), func(name string) bool { return slices.Contains(args, name) }), typed)
}

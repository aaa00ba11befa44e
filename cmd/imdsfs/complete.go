package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// What a shell completes. Candidates have no description: where there are descriptions they are those of subcommands.

// completionLimit is how long a shell waits for paths. A test takes longer.
var completionLimit = time.Second

const maxCompletions = 500

const nothing, filesOnly = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveFilterFileExt

// flagValues are the values of flags, of whatever subcommand. A flag that is not here takes a file.
var flagValues = map[string]cobra.CompletionFunc{
	"log-level":          cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, nothing),
	"log-format":         cobra.FixedCompletions([]string{"text", "json"}, nothing),
	"config":             cobra.FixedCompletions([]string{"toml"}, filesOnly),
	"listen":             cobra.FixedCompletions([]string{defaultListen, linkLocal, none}, nothing),
	"allow-from":         cobra.FixedCompletions([]string{"local", "iface:"}, nothing|cobra.ShellCompDirectiveNoSpace),
	"metrics-allow-from": cobra.FixedCompletions([]string{"local", "iface:"}, nothing|cobra.ShellCompDirectiveNoSpace),
	"mount":              cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"runtime-dir":        cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"state-dir":          cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	"endpoint":           cobra.NoFileCompletions,
	"host":               cobra.NoFileCompletions,
	"instance":           cobra.NoFileCompletions,
	"metrics":            cobra.NoFileCompletions,
	"pid":                cobra.NoFileCompletions,
	"timeout":            cobra.NoFileCompletions,
	"user":               cobra.NoFileCompletions,
	"wait":               cobra.NoFileCompletions,
	"watchdog":           cobra.NoFileCompletions,
}

// argumentValues are the arguments of subcommands. One that is not here takes none.
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

// addCompletions gives cmd and all below it what a shell completes, unless they have it.
func addCompletions(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if values := flagValues[f.Name]; values != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, values) // the error is that it has one
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

// completePath completes a path as somebody types it, one name at a time, from the running daemon. With known, what EC2
// has is offered too: it can be set.
func completePath(known bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, nothing
		}
		dir := typed[:strings.LastIndex(typed, "/")+1]
		var found []string
		for _, e := range listedBelow(cmd, ec2.Absolute(dir)) {
			if e.dir {
				e.name += "/"
			}
			found = append(found, dir+e.name)
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

// offer is the candidates that go on from what is typed, sorted. After a directory no blank is wanted.
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

// listedBelow is what the daemon that the flags of cmd name lists at an absolute path, nothing if none answers soon. No
// other service is asked, unless it is named.
func listedBelow(cmd *cobra.Command, path string) []listed {
	ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
	defer cancel()
	flags := clientFlags{timeout: completionLimit}
	flags.endpoint, _ = cmd.Flags().GetString("endpoint") // "" where there is no such flag
	flags.runtimeDir, _ = cmd.Flags().GetString("runtime-dir")
	flags.v1, _ = cmd.Flags().GetBool("v1")
	c, err := flags.client(ctx)
	if err != nil || c.fallback {
		return nil
	}
	at := namesOf(path)
	body, err := c.get(ctx, at.path(true))
	if err != nil {
		return nil
	}
	entries, _ := parseListing(at, string(body))
	return entries
}

func completeTag(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, nothing
	}
	var keys []string
	for _, e := range listedBelow(cmd, "/"+tree.Latest+"/"+ec2.TagPath("")) {
		keys = append(keys, e.name)
	}
	return offer(keys, typed)
}

// completeOption completes OPTION=VALUE: the option, and then its value.
func completeOption(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []string
	name, _, named := strings.Cut(typed, "=")
	if named {
		for _, value := range source.OptionValues(name) {
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

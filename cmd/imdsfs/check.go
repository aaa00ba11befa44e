package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

func newCheckCommand(stdout, stderr io.Writer) *cobra.Command {
	quiet := false
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Validate instance files and show where each value comes from",
		Long: `check validates instance files without serving them and without running anything.

For a good file it prints every setting and every leaf of the tree with its value and where that
comes from: the file and line that state it, what it is derived from, or that it is a default.
Secrets are masked. For a faulty file it prints every fault with file, line and key, and exits
with 3. Warnings do not change the exit code.

Behind the tree it lists what was changed at run time in the state directory that serve would use (state-dir
under [server], or the default), if there is anything and it may read it. The tree is shown without that.

What a file may name and do depends on its owner and on who reads it: run check as the user that serves
it, such as root, to get the same faults.`,
		Example: `  imdsfs check testdata/instances/web-1.toml
  imdsfs check --quiet testdata/instances/*.toml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return failure(exitUsage, "see imdsfs check --help", errors.New("imdsfs check takes one file or more"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var faults source.Faults
			for _, path := range args {
				var bad source.Faults
				err := checkFile(cmd.Context(), stdout, stderr, path, quiet)
				switch {
				case errors.As(err, &bad):
					faults = append(faults, bad...)
				case err != nil:
					return err
				}
			}
			return faults.Err()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print faults and warnings only")
	return cmd
}

func checkFile(ctx context.Context, stdout, stderr io.Writer, path string, quiet bool) error {
	file, err := tomlfile.Load(path)
	if file == nil {
		return err
	}
	sources := sourcesOf(path, file.Server.Sources)
	now := source.SystemClock().Now()
	store := source.NewStore(func() source.Env { return environment(now, now) }, sources...)
	if _, err := store.Reload(ctx); err != nil {
		return err
	}
	snap := store.Snapshot()
	for _, w := range snap.Warnings() {
		fmt.Fprintf(stderr, "imdsfs: warning: %s\n", w)
	}
	if quiet {
		return nil
	}
	if err := printTree(stdout, path, snap); err != nil {
		return err
	}
	id, _ := store.StatedID()
	return printChanges(stdout, stderr, first(file.Server.StateDir, defaultStateDir()), id)
}

// printTree prints a line for each setting and each leaf: where it is, what it is, where it comes from.
func printTree(w io.Writer, path string, snap *source.Snapshot) error {
	fmt.Fprintf(w, "%s: good\n", path)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range snap.Settings() {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", s.Key, short(s.Value), s.Origin)
	}
	latest, _ := snap.View(source.Latest)
	for name, v := range latest.Walk() {
		if v.IsDir() {
			continue
		}
		value := mask
		if !v.Secret() {
			value = short(string(v.Bytes()))
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, value, v.Origin())
	}
	return tw.Flush()
}

const mask = "[secret]"

// short shows a value on one line of at most 60 characters: as it is if it is plain, quoted if not.
func short(s string) string {
	const most = 60
	cut := func(s string) string {
		if utf8.RuneCountInString(s) <= most {
			return s
		}
		return string([]rune(s)[:most-1]) + "…"
	}
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == utf8.RuneError || r == 0x7f }) < 0
	if plain {
		return cut(s)
	}
	return cut(fmt.Sprintf("%q", s))
}

// environment is what a build needs to know of this process.
func environment(now, launch time.Time) source.Env {
	uid, gid := ids()
	return source.Env{Now: now, LaunchTime: launch, UID: uid, GID: gid}
}

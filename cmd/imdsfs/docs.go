//go:build docs

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/rundir"
)

// main with this build tag writes the man pages and the shell completions of imdsfs:
//
//	go run -tags docs ./cmd/imdsfs DIR
//
// The pages are dated by SOURCE_DATE_EPOCH.
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags docs ./cmd/imdsfs DIR")
		os.Exit(exitUsage)
	}
	if err := writeDocs(os.Args[1]); err != nil {
		os.Exit(report(os.Stderr, err))
	}
}

func writeDocs(dir string) error {
	root := newRootCommand(os.Stdout, os.Stderr)
	root.DisableAutoGenTag = true
	asForRoot(root)
	man := filepath.Join(dir, "man")
	if err := os.MkdirAll(man, 0o755); err != nil {
		return err
	}
	header := &doc.GenManHeader{Section: "1", Source: "imdsfs " + versionText(), Manual: "imdsfs"}
	if err := doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{Header: header, Path: man, CommandSeparator: "-"}); err != nil {
		return err
	}
	mount := newMountCommand(os.Stderr)
	mount.DisableAutoGenTag = true
	header.Section = "8"
	if err := doc.GenManTreeFromOpts(mount, doc.GenManTreeOptions{Header: header, Path: man}); err != nil {
		return err
	}
	for shell, write := range map[string]func(string) error{
		"bash": func(path string) error { return root.GenBashCompletionFileV2(path, true) },
		"zsh":  root.GenZshCompletionFile,
		"fish": func(path string) error { return root.GenFishCompletionFile(path, true) },
	} {
		if err := write(filepath.Join(dir, "completion."+shell)); err != nil {
			return err
		}
	}
	return nil
}

// asForRoot sets the defaults in the help to those of root, whichever user builds.
func asForRoot(cmd *cobra.Command) {
	defaults := strings.NewReplacer(strings.Join(rundir.Candidates(""), ", else "), "/run/imdsfs", daemon.DefaultRuntimeDir(), "/run/imdsfs", daemon.DefaultStateDir(), "/var/lib/imdsfs")
	for _, name := range []string{"runtime-dir", "state-dir"} {
		if f := cmd.Flags().Lookup(name); f != nil {
			f.Usage = defaults.Replace(f.Usage)
		}
	}
	for _, sub := range cmd.Commands() {
		asForRoot(sub)
	}
}

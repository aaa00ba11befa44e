package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/metrics"
)

// Set by the linker: -X main.version=v1.2.3 -X main.commit=0123abc.
var version, commit string

func newVersionCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of imdsfs and of what it was built with",
		Example: "  imdsfs version",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(stdout, versionLine())
			return err
		},
	}
}

// addVersionFlag makes imdsfs --version, or -V, print what imdsfs version prints.
func addVersionFlag(root *cobra.Command) {
	root.Flags().BoolP("version", "V", false, "print the version")
	root.Version = versionText()
	root.SetVersionTemplate(versionLine())
}

func versionLine() string {
	return fmt.Sprintf("imdsfs %s commit %s %s go-fuse %s\n",
		versionText(), cmp.Or(commit, "unknown"), runtime.Version(), moduleVersion("github.com/hanwen/go-fuse/v2"))
}

func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}

// buildInfo describes this program for the metrics and the status of a daemon.
func buildInfo() metrics.Build {
	return metrics.Build{Version: versionText(), Go: runtime.Version(), GoFUSE: moduleVersion("github.com/hanwen/go-fuse/v2")}
}

func versionText() string { return cmp.Or(version, "devel") }

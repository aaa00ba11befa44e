//go:build !docs

package main

import (
	"os"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/fs"
)

func main() {
	fs.ChildMain() // a child process that checks a path, or notifies the kernel of changes, does not return
	if mount.IsCalled() {
		os.Exit(runMount(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
)

func newUnsetCommand() *cobra.Command {
	cmd := editCommand(overlay.Values, control.Unset, "unset PATH", everywhere)
	cmd.Short = "Remove one value of the running daemon"
	cmd.Long = `unset removes the metadata at PATH and all below it, over HTTP and on the mount, whatever the file says. The
removal survives restarts. With --forget, unset forgets what was set or unset at run time instead.`
	cmd.Example = `  imdsfs unset public-ipv4
  imdsfs unset --forget public-ipv4`
	return cmd
}

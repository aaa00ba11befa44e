package main

import (
	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
)

func newUnsetCommand() *cobra.Command {
	cmd := editCommand(overlay.Values, control.Unset, "unset PATH", everywhere)
	cmd.Short = "Remove one value of the running daemon"
	cmd.Long = `unset removes the metadata at PATH and all below it, whatever the file says, on both doors and over
restarts. With --forget what was set or unset at run time is forgotten instead.`
	cmd.Example = `  imdsfs unset public-ipv4
  imdsfs unset --forget public-ipv4`
	return cmd
}

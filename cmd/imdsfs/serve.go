package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/supervise"
)

func newServeCommand(stderr io.Writer) *cobra.Command {
	var config daemon.Config
	trial := false
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the metadata over HTTP and as files, in the foreground",
		Long: `serve runs the daemon in the foreground: it reads the instance file (or describes this machine),
answers HTTP as the EC2 instance metadata service does, and shows the same tree as files.

When both doors are ready it logs one line, "ready". SIGHUP reads the instance file again; a faulty
file changes nothing. SIGTERM and SIGINT stop cleanly. SIGUSR2 replaces the daemon with the
program that is now at the path from which it was started, as imdsfs upgrade does.

With --keep a second process supervises the daemon: it holds the mount and the sockets, and starts
the daemon again when it dies, or is silent for too long. Readers of the mount, also in containers
that bind it, pause for a moment and then get the right answer. With systemd the packaged unit does
the same without --keep.

Each flag but --config and --force-addresses is a key of [server] in the file as well (--host is hosts); a flag wins.`,
		Example: `  imdsfs serve -c testdata/instances/web-1.toml
  imdsfs serve -c testdata/instances/web-1.toml --listen 127.0.0.1:1338 --mount none
  imdsfs serve -c testdata/instances/web-1.toml --listen none --mount /run/metadata
  imdsfs serve --listen link-local
  imdsfs serve -c testdata/instances/web-1.toml --keep`,
		Args: exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseEmpty(cmd); err != nil {
				return err
			}
			if trial {
				return config.Try(cmd.Context())
			}
			store, sockets, err := handover.Open()
			if err != nil {
				return err
			}
			before, bad := daemon.InheritedServer(store)
			settings, err := config.Validate(before)
			if err != nil {
				return err
			}
			log := settings.Logger(stderr)
			if bad {
				log.Warn("what was kept of [server] makes no sense and is not used")
			}
			if settings.Keeper.Keep && !handover.HasKeeper() {
				return supervise.Run(cmd.Context(), config, settings, sockets, log)
			}
			return daemon.Run(cmd.Context(), daemon.Start{Settings: settings, Handover: store, Sockets: sockets, Log: log, Build: buildInfo()})
		},
	}
	addFlags(cmd, &config)
	cmd.Flags().BoolVar(&trial, handover.TrialFlag, false, "check the settings and the tree as a start would, and end")
	cmd.Flags().MarkHidden(handover.TrialFlag)
	return cmd
}

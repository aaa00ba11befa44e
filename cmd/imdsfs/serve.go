package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/source/problem"
)

func newServeCommand(stderr io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the metadata over HTTP and as files, in the foreground",
		Long: `serve runs the daemon in the foreground: it reads the instance file (or describes this machine),
answers HTTP as the EC2 instance metadata service does, and shows the same tree as files.

When both doors are ready it logs one line, "ready". SIGHUP reads the instance file again; a faulty
file changes nothing. SIGTERM and SIGINT stop cleanly. SIGUSR2 has the program that now stands where
this one was started from take its place, as imdsfs upgrade does.

With --keep a second process supervises the daemon and does nothing but hold its mount and its
sockets and start it again when it dies, or is silent for too long. Who reads the mount, also in
containers that bind it, waits a moment and goes on. With systemd the packaged unit does the same
without --keep.

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
			if s.trial {
				return s.try(cmd.Context())
			}
			kept, others, err := handover.Open()
			if err != nil {
				return err
			}
			before, bad := inheritedServer(kept)
			if err := s.resolve(before); err != nil {
				return err
			}
			log := newLogger(stderr, &s)
			if bad {
				log.Warn("what was kept of [server] makes no sense and is not used")
			}
			if s.keep && !handover.HasKeeper() {
				return runKeeper(cmd.Context(), &s, others, log)
			}
			return runDaemon(cmd.Context(), &s, kept, others, log)
		},
	}
	s.addFlags(cmd)
	return cmd
}

// refuseEmpty refuses a flag that says nothing, as a variable that is not set makes it.
func refuseEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && err == nil {
			err = problem.Usage("leave it out to have the default", fmt.Errorf("--%s is empty", f.Name))
		}
	})
	return err
}

func newLogger(w io.Writer, s *settings) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	log.SetLevel(s.level)
	log.SetFormatter(s.formatter)
	return log
}

// signals returns a context that SIGTERM and SIGINT end, and a channel of what else is taken: SIGHUP (reload),
// SIGUSR1 (end for a successor) and SIGUSR2 (upgrade in place). Those are taken to the end of the process:
// they would kill a daemon that is about to end well.
func signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	return ctx, stop, c
}

// signals are those that the daemon takes: none within another command, which ends it with its context.
func (p *process) signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	if p.settings.within != nil {
		ctx, stop = context.WithCancel(parent)
		return ctx, stop, nil
	}
	return signals(parent)
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
)

// addFlags gives a subcommand the flags of a daemon.
func addFlags(cmd *cobra.Command, c *daemon.Config) {
	f := cmd.Flags()
	f.StringVarP(&c.File, "config", "c", "", "instance `FILE`, or none: describe this machine (default "+daemon.DefaultFile+" if it exists, else none)")
	f.StringVar(&c.Mount, "mount", "", "`DIR` to mount on, or none (default "+daemon.DefaultMount+")")
	f.StringArrayVar(&c.Listen, "listen", nil, "`ADDR` to answer HTTP on, link-local, or none; repeatable (default "+daemon.DefaultListen+")")
	f.StringVar(&c.RuntimeDir, "runtime-dir", "", "`DIR` for locks, keys and addresses, lost at the next boot (default "+daemon.DefaultRuntimeDir()+")")
	f.StringVar(&c.StateDir, "state-dir", "", "`DIR` for state that survives a reboot (default "+daemon.DefaultStateDir()+")")
	f.StringArrayVar(&c.AllowFrom, "allow-from", nil, "answer `WHO`: local, a CIDR, or iface:NAME; repeatable, replaces the default (default local)")
	f.StringArrayVar(&c.Hosts, "host", nil, "also accept `NAME` in the Host header of a request; repeatable")
	f.StringVar(&c.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&c.LogFormat, "log-format", "", "text or json (default text)")
	f.StringVar(&c.Admin, "admin", "", "`SOCKET` for imdsfs status, options, tag, set, unset, reset, reload and upgrade, or none (default RUNTIME-DIR/admin.sock)")
	f.StringVar(&c.Metrics, "metrics", "", "`ADDR` to serve Prometheus metrics on, or none (default none)")
	f.StringArrayVar(&c.MetricsAllowFrom, "metrics-allow-from", nil, "let `WHO` read the metrics, as in --allow-from; repeatable (default local)")
	f.BoolVar(&c.Addresses.Add, "add-addresses", false, "add the link-local addresses, on a link of its own, imds0")
	f.BoolVar(&c.Keeper.Keep, "keep", false, "supervise the daemon and keep the mount alive: start the daemon again when it dies or hangs")
	f.StringVar(&c.Keeper.User, "user", "", "with --keep, as root: run the daemon as the user `NAME`")
	f.DurationVar(&c.Keeper.Watchdog, "watchdog", 0, "with --keep: `TIME` that the daemon may be silent before it is started again (default 15s)")
	f.BoolVar(&c.Addresses.Force, "force-addresses", false, "with --add-addresses: add them even if another service seems to have them")
}

// refuseEmpty refuses a flag with an empty value, which a shell makes of a variable that is not set.
func refuseEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && err == nil {
			err = problem.Usage("leave it out to use the default", fmt.Errorf("--%s is empty", f.Name))
		}
	})
	return err
}

package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/host"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

const (
	defaultConfig = "/etc/imdsfs/imdsfs.toml"
	defaultMount  = "/run/metadata"
	mountVariable = "IMDSFS_DEFAULT_MOUNT" // holds another default, in the unit of an instance
	defaultListen = "127.0.0.1:1338"       // the port of the common mock
	none          = "none"

	defaultWatchdog = 15 * time.Second
	leastWatchdog   = 200 * time.Millisecond
)

// settings are the flags of serve; each is a key of [server] too, and a flag wins.
type settings struct {
	config string // "": no file, the host source alone
	mount  string
	// mountFlag is what the flag said, "" if nothing.
	mountFlag string
	listen    []string
	// listenStated: by a flag or the file.
	listenStated bool
	runtimeDir   string
	stateDir     string
	allowFrom    []string
	hosts        []string
	logLevel     string
	logFormat    string
	admin        string // path of the socket, or none
	metrics      string // address, or none
	// metricsAllowFrom is who may scrape; allowFrom says nothing about that.
	metricsAllowFrom []string
	sources          []string
	// addAddresses puts the link-local addresses on a link of our own, force although somebody
	// else seems to have them.
	addAddresses   bool
	forceAddresses bool
	// keep has a keeper supervise the daemon, which then runs as user, "" for whoever starts it,
	// and is replaced after having been silent for watchdog.
	keep     bool
	user     string
	watchdog time.Duration
	server   tomlfile.Server // as read at the start, to notice changes
	values
	given *settings // the flags alone
	// trial: the settings and the tree are looked at, as an upgrade does first, and nothing is served.
	trial bool
	// environment are the variables that the file names.
	environment []string
	// within is set where another command runs the daemon in its own process, and is called when the daemon is ready.
	// The daemon then takes no signals, has no successor, and ends with its context.
	within func(*process)
}

func (s *settings) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.config, "config", "c", "", "instance `FILE`, or none: the host is described (default "+defaultConfig+" if it exists, else none)")
	f.StringVar(&s.mount, "mount", "", "`DIR` to mount on, or none (default "+defaultMount+")")
	f.StringArrayVar(&s.listen, "listen", nil, "`ADDR` to answer HTTP on, link-local, or none; repeatable (default "+defaultListen+")")
	f.StringVar(&s.runtimeDir, "runtime-dir", "", "`DIR` for locks, keys and addresses, gone with the boot (default "+defaultRuntimeDir()+")")
	f.StringVar(&s.stateDir, "state-dir", "", "`DIR` for what has to last (default "+defaultStateDir()+")")
	f.StringArrayVar(&s.allowFrom, "allow-from", nil, "`WHO` is answered, instead of local alone: local, a CIDR, or iface:NAME; repeatable")
	f.StringArrayVar(&s.hosts, "host", nil, "further `NAME` that a request's Host header may hold; repeatable")
	f.StringVar(&s.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&s.logFormat, "log-format", "", "text or json (default text)")
	f.StringVar(&s.admin, "admin", "", "`SOCKET` for imdsfs status, options, tag, set, unset, reset and reload, or none (default RUNTIME-DIR/admin.sock)")
	f.StringVar(&s.metrics, "metrics", "", "`ADDR` to serve Prometheus metrics on, or none (default none)")
	f.StringArrayVar(&s.metricsAllowFrom, "metrics-allow-from", nil, "`WHO` may read the metrics: as in --allow-from; repeatable (default local)")
	f.BoolVar(&s.addAddresses, "add-addresses", false, "put the link-local addresses on a link of our own, imds0")
	f.BoolVar(&s.keep, "keep", false, "supervise the daemon: start it again when it dies or hangs, and lose nothing by that")
	f.StringVar(&s.user, "user", "", "with --keep, as root: the `NAME` of whom the daemon runs as")
	f.DurationVar(&s.watchdog, "watchdog", 0, "with --keep: how long the daemon may be silent (default 15s)")
	f.BoolVar(&s.trial, trialFlag, false, "look at the settings and the tree as they would be served, and end")
	f.MarkHidden(trialFlag)
	f.BoolVar(&s.forceAddresses, "force-addresses", false, "with --add-addresses: although another service seems to have them")
}

// resolve settles every setting: the flag, else the file's [server], else the default. If the file is faulty, what
// it said to a predecessor counts, if there is one.
func (s *settings) resolve(before *tomlfile.Server) error {
	switch s.config {
	case none:
		s.config = ""
	case "":
		if _, err := os.Stat(defaultConfig); err == nil {
			s.config = defaultConfig
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	given := *s
	s.given = &given
	server := &tomlfile.Server{}
	if s.config != "" {
		path, err := filepath.Abs(s.config) // a reload must find it again
		if err != nil {
			return err
		}
		file, err := tomlfile.Load(s.config, s.accept)
		switch {
		case err == nil:
			server, s.environment = &file.Server, file.Environment
		case before != nil && s.accept(before) == nil:
			server = before
		default:
			return invalid(s.config, err)
		}
		s.config = path
	}
	if _, err := s.settle(server); err != nil {
		return err
	}
	for _, dir := range []*string{&s.runtimeDir, &s.stateDir} {
		path, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = path
	}
	return nil
}

// invalid makes err end the program as invalid input.
func invalid(path string, err error) error {
	var faults problem.Faults
	if errors.As(err, &faults) {
		return problem.Invalid("see all of it with: imdsfs check "+path, err)
	}
	if errors.Is(err, os.ErrPermission) {
		return problem.Invalid("run as root, or give a file of your own with -c", err)
	}
	return problem.Invalid("give another file with -c", err)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// listenBeside are the addresses to open besides sockets that systemd hands over: without a word about
// them there are none.
func (s *settings) listenBeside(activated []net.Listener) []string {
	if len(activated) > 0 && !s.listenStated {
		return nil
	}
	return s.listen
}

// instanceSources are the sources by the names of [server] sources; without any the file alone, or without
// a file the host alone.
func (s *settings) instanceSources() (sources []source.Source, file *tomlfile.Source) {
	names := s.sources
	switch {
	case len(names) == 0 && s.config == "":
		names = []string{"host"}
	case len(names) == 0:
		names = []string{"file"}
	}
	for _, name := range names {
		if name == "host" {
			sources = append(sources, host.New(host.Options{}))
		} else {
			file = tomlfile.New(s.config, s.accept)
			sources = append(sources, file)
		}
	}
	return sources, file
}

func ids() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }

func isRoot() bool { return os.Geteuid() == 0 }

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/host"
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
	vantage          string // guest or host
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
	// environment are the variables that the file names.
	environment []string
}

func (s *settings) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.config, "config", "c", "", "instance `FILE`, or none: the host is described (default "+defaultConfig+" if it exists, else none)")
	f.StringVar(&s.mount, "mount", "", "`DIR` to mount on, or none (default "+defaultMount+")")
	f.StringArrayVar(&s.listen, "listen", nil, "`ADDR` to answer HTTP on, link-local, or none; repeatable (default "+defaultListen+")")
	f.StringVar(&s.runtimeDir, "runtime-dir", "", "`DIR` for locks, keys and addresses, gone with the boot (default "+defaultRuntimeDir()+")")
	f.StringVar(&s.stateDir, "state-dir", "", "`DIR` for what has to last (default "+defaultStateDir()+")")
	f.StringArrayVar(&s.allowFrom, "allow-from", nil, "`WHO` is answered: local, a CIDR, or iface:NAME; repeatable (default local)")
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
	var server tomlfile.Server
	if s.config != "" {
		path, err := filepath.Abs(s.config) // a reload must find it again
		if err != nil {
			return err
		}
		file, err := tomlfile.Load(s.config)
		switch {
		case err == nil:
			server, s.environment = file.Server, file.Environment
		case before != nil:
			server = *before
		default:
			return invalid(s.config, err)
		}
		s.config = path
		s.server = server
	}
	s.mountFlag = s.mount
	s.mount = s.mountOf(&server)
	s.listenStated = len(s.listen)+len(server.Listen) > 0
	s.listen = firstList(s.listen, server.Listen, []string{defaultListen})
	s.runtimeDir = first(s.runtimeDir, server.RuntimeDir, defaultRuntimeDir())
	if s.stateDir = first(s.stateDir, server.StateDir, defaultStateDir()); s.stateDir == "" {
		return failure(exitUsage, "give --state-dir, or set HOME", errors.New("there is no home directory to keep the state in"))
	}
	for _, dir := range []*string{&s.runtimeDir, &s.stateDir} {
		path, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = path
	}
	s.allowFrom = firstList(s.allowFrom, server.AllowFrom, []string{"local"})
	s.hosts = firstList(s.hosts, server.Hosts)
	s.logLevel = first(s.logLevel, server.LogLevel, "info")
	s.logFormat = first(s.logFormat, server.LogFormat, "text")
	s.sources = server.Sources
	s.admin = first(s.admin, server.Admin, adminSocket(s.runtimeDir))
	s.metrics = first(s.metrics, server.Metrics, none)
	s.metricsAllowFrom = firstList(s.metricsAllowFrom, server.MetricsAllowFrom, []string{"local"})
	s.vantage = first(server.Vantage, "guest")
	s.addAddresses = s.addAddresses || server.AddAddresses
	s.keep = s.keep || server.Keep
	s.user = first(s.user, server.User)
	s.watchdog = cmp.Or(s.watchdog, server.Watchdog, defaultWatchdog)
	if s.watchdog < leastWatchdog {
		return failure(exitUsage, "give it some seconds, such as 15s", fmt.Errorf("--watchdog %v is too short", s.watchdog))
	}
	if s.user != "" && !s.keep {
		return failure(exitUsage, "give --keep as well; with systemd say User= in the unit", errors.New("--user needs a keeper"))
	}
	if s.mount == none && len(s.listen) == 1 && s.listen[0] == none {
		return failure(exitUsage, "leave out --mount none or --listen none", errors.New("with neither a mount nor an address there is nothing to serve"))
	}
	return nil
}

// mountOf is where to mount if the file says this.
func (s *settings) mountOf(server *tomlfile.Server) string {
	return first(s.mountFlag, server.Mount, os.Getenv(mountVariable), defaultMount)
}

// invalid makes err end the program as invalid input, unless the file could not be read at all.
func invalid(path string, err error) error {
	var faults source.Faults
	if errors.As(err, &faults) {
		return failure(exitInvalid, "see all of it with: imdsfs check "+path, err)
	}
	if errors.Is(err, os.ErrPermission) {
		return failure(exitFailed, "run as root, or give a file of your own with -c", err)
	}
	return failure(exitFailed, "give another file with -c", err)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func firstList(lists ...[]string) []string {
	for _, l := range lists {
		if len(l) > 0 {
			return l
		}
	}
	return nil
}

// listenBeside are the addresses to open besides sockets that systemd hands over: without a word about
// them there are none.
func (s *settings) listenBeside(activated []net.Listener) []string {
	if len(activated) > 0 && !s.listenStated {
		return nil
	}
	return s.listen
}

// sourcesOf are the sources by the names of [server] sources; nil means the file alone, or without
// a file the host alone.
func sourcesOf(config string, names []string) []source.Source {
	switch {
	case len(names) == 0 && config == "":
		names = []string{"host"}
	case len(names) == 0:
		names = []string{"file"}
	}
	var sources []source.Source
	for _, name := range names {
		if name == "host" {
			sources = append(sources, host.New(host.Options{}))
		} else {
			sources = append(sources, tomlfile.New(config))
		}
	}
	return sources
}

func ids() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }

func isRoot() bool { return os.Geteuid() == 0 }

func defaultRuntimeDir() string {
	if isRoot() {
		return "/run/imdsfs"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "imdsfs")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("imdsfs-%d", os.Geteuid()))
}

func defaultStateDir() string {
	if isRoot() {
		return "/var/lib/imdsfs"
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".local/state")
	}
	return filepath.Join(dir, "imdsfs")
}

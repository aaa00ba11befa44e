package daemon

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source"
	_ "github.com/imdsfs/imdsfs/source/host" // registers itself
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// Defaults of a [Config], and the words that it may hold instead of a path or an address.
const (
	DefaultFile   = "/etc/imdsfs/imdsfs.toml"
	DefaultMount  = "/run/metadata"
	DefaultListen = "127.0.0.1:1338" // the port of the common mock

	None      = "none"       // no file, mount, address or socket
	LinkLocal = "link-local" // the addresses of the real service

	mountVariable = "IMDSFS_DEFAULT_MOUNT" // holds another default, in the unit of an instance

	defaultWatchdog = 15 * time.Second
	leastWatchdog   = 200 * time.Millisecond
)

// A Config is what a user asks of a daemon: the flags of imdsfs serve, each of which but File and Addresses.Force is a
// key of [server] in the instance file too. The zero value asks for nothing: the file decides, and then the defaults.
// [Config.Validate] says what it all means.
type Config struct {
	File       string   // the instance file, or None: describe this machine; "": DefaultFile if it exists
	Mount      string   // directory, or None
	Listen     []string // HOST:PORT or LinkLocal; or None alone
	AllowFrom  []string // "local", a CIDR, or "iface:NAME"
	Hosts      []string // further names that a request's Host header may hold
	RuntimeDir string
	StateDir   string
	Admin      string // path of the admin socket, or None
	Metrics    string // HOST:PORT, or None
	// MetricsAllowFrom is who may read the metrics; AllowFrom says nothing about that.
	MetricsAllowFrom []string
	LogLevel         string // "debug", "info", "warn", "error"
	LogFormat        string // "text", "json"
	Addresses        AddressConfig
	Keeper           KeeperConfig
}

// An AddressConfig says what becomes of the link-local addresses.
type AddressConfig struct {
	Add   bool // put them on a link of our own, imds0
	Force bool // although another service seems to have them
}

// A KeeperConfig says who supervises the daemon.
type KeeperConfig struct {
	Keep     bool          // a keeper does
	User     string        // as whom the daemon then runs; "": as whoever starts it
	Watchdog time.Duration // how long the daemon may be silent before the keeper replaces it; 0: the default
}

// Settings are a valid [Config]: every field holds what counts, by the flag, else by the file, else by default.
// Directories and the file are absolute paths.
type Settings struct {
	Config // File is "" without one
	// Environment are the variables that the instance file names.
	Environment []string

	given        Config
	server       tomlfile.Server  // [server] as last read, to notice changes
	file         *tomlfile.Source // the instance file, nil without one
	sources      []string         // "host" and "file"; nil: not stated
	listenStated bool             // by a flag or the file
	access       access
	logging      logging
}

// Validate says what a configuration means together with the instance file that it names, or why a daemon cannot be
// built from it. If the file is faulty, predecessor counts in its place: what [server] said to the daemon before, nil
// if there was none. With an error come the settings that are known all the same.
func (c Config) Validate(predecessor *tomlfile.Server) (*Settings, error) {
	switch c.File {
	case None:
		c.File = ""
	case "":
		if _, err := os.Stat(DefaultFile); err == nil {
			c.File = DefaultFile
		} else if !errors.Is(err, os.ErrNotExist) {
			return &Settings{Config: c}, err
		}
	}
	server := &tomlfile.Server{}
	var environment []string
	var instanceFile *tomlfile.Source
	if c.File != "" {
		path, err := filepath.Abs(c.File) // a reload must find it again
		if err != nil {
			return &Settings{Config: c}, err
		}
		instanceFile = tomlfile.New(path, c.Accept)
		file, err := instanceFile.Read()
		err = asGiven(err, path, c.File)
		switch {
		case err == nil:
			server, environment = &file.Server, file.Environment
		case predecessor != nil && c.Accept(predecessor) == nil:
			server = predecessor
		default:
			return &Settings{Config: c}, invalid(c.File, err)
		}
		c.File = path
	}
	s, _, err := c.settle(server)
	if err != nil {
		return s, err
	}
	s.Environment, s.file = environment, instanceFile
	for _, dir := range []*string{&s.RuntimeDir, &s.StateDir} {
		path, err := filepath.Abs(*dir)
		if err != nil {
			return s, err
		}
		*dir = path
	}
	return s, nil
}

// asGiven has faults of the instance file name it as the user does.
func asGiven(err error, path, given string) error {
	var faults problem.Faults
	if !errors.As(err, &faults) {
		return err
	}
	faults = slices.Clone(faults)
	for i, f := range faults {
		if rest, ok := strings.CutPrefix(f.Place, path); ok && (rest == "" || rest[0] == ':') {
			faults[i].Place = given + rest
		}
	}
	return faults
}

// invalid makes err, a failure to read an instance file, end the program as invalid input.
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

// StatedMount is what the flag said of the mount, "" if nothing.
func (s *Settings) StatedMount() string { return s.given.Mount }

// listenBeside are the addresses to open besides sockets that systemd hands over. Where nothing is stated there are
// none.
func (s *Settings) listenBeside(activated []net.Listener) []string {
	if len(activated) > 0 && !s.listenStated {
		return nil
	}
	return s.Listen
}

// makeSources makes the sources that [server] names, or the one that applies.
func (s *Settings) makeSources() ([]source.Source, error) {
	setup := source.Setup{}
	if s.file != nil {
		setup.File = s.file
	}
	return source.Make(setup, s.sources...)
}

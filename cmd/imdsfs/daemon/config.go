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

// A Config holds the flags of imdsfs serve. Each but File and Addresses.Force is also a key of [server] in the instance file.
// The zero value leaves everything to the file, and then to the defaults. [Config.Validate] turns a Config into [Settings].
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
	// MetricsAllowFrom says who may read the metrics. AllowFrom does not count for them.
	MetricsAllowFrom []string
	LogLevel         string // "debug", "info", "warn", "error"
	LogFormat        string // "text", "json"
	Addresses        AddressConfig
	Keeper           KeeperConfig
}

// An AddressConfig says whether the daemon adds the link-local addresses.
type AddressConfig struct {
	Add   bool // put them on a link of our own, imds0
	Force bool // even if another service seems to have them
}

// A KeeperConfig says who supervises the daemon.
type KeeperConfig struct {
	Keep     bool          // a keeper supervises it
	User     string        // that the daemon then runs as; "": the user who starts it
	Watchdog time.Duration // how long the daemon may be silent before the keeper starts another; 0: the default
}

// Settings are a valid [Config]: every field holds the value of the flag, else that of the file, else the default. Directories
// and the file are absolute paths.
type Settings struct {
	Config // File is "" without one
	// Environment are the variables that the instance file names.
	Environment []string

	given        Config
	server       tomlfile.Server  // [server] as last read, to detect changes
	file         *tomlfile.Source // the instance file, nil without one
	sources      []string         // "host" and "file"; nil: not stated
	listenStated bool             // by a flag or the file
	access       access
	logging      logging
}

// Validate combines a configuration with the instance file that it names. The error says why no daemon can be built from them.
// If the file is faulty, predecessor stands in for its [server]: what [server] said to the daemon before; nil if there was
// none. Together with an error Validate returns the settings that it could work out.
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

// asGiven makes faults of the instance file name the file as the user did.
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

// invalid marks a failure to read an instance file as invalid input, with a hint.
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

// StatedMount returns the value of --mount, "" without the flag.
func (s *Settings) StatedMount() string { return s.given.Mount }

// listenBeside returns the addresses to open beside the sockets that systemd hands over: none if neither a flag nor the file
// states any.
func (s *Settings) listenBeside(activated []net.Listener) []string {
	if len(activated) > 0 && !s.listenStated {
		return nil
	}
	return s.Listen
}

// ForgetFile drops what was read of the instance file. It holds secrets, and only the daemon itself needs them.
func (s *Settings) ForgetFile() { s.file = nil }

// makeSources makes the sources that [server] names, or the default one.
func (s *Settings) makeSources() ([]source.Source, error) {
	setup := source.Setup{}
	if s.file != nil {
		setup.File = s.file
	}
	return source.Make(setup, s.sources...)
}

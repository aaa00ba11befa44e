package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// access says who may ask what.
type access struct {
	allow, scrapers []edge.Rule // who is answered, and who may read the metrics
	names           imds.Hosts  // that a Host header may hold, on every port
	outsideGuests   bool        // vantage = "host"
}

// logging is the level and the format of the log.
type logging struct {
	level     logrus.Level
	formatter logrus.Formatter
}

// Logger returns a log to w, with the level and the format of the settings.
func (s *Settings) Logger(w io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	log.SetLevel(s.logging.level)
	log.SetFormatter(s.logging.formatter)
	return log
}

// Accept checks [server] of an instance file: together with the flags it must describe a daemon. It is a [tomlfile.Accept].
func (c Config) Accept(server *tomlfile.Server) problem.Faults {
	_, faults, _ := c.settle(server)
	return faults
}

// settle works out every setting: the flag, else the file's [server], else the default. It builds the rules and values that a
// daemon uses, so nothing that it accepts is refused later. Nothing else decides whether a setting is good: check, serve, a
// reload, an upgrade and the mount helper all use it. inFile are the faults of the file, even where a flag wins over it; inFlags
// is what is wrong apart from the file.
func (c Config) settle(server *tomlfile.Server) (s *Settings, inFile problem.Faults, inFlags error) {
	j := &judge{server: server}
	s = &Settings{Config: c, given: c, server: *server}
	s.Mount = one(j, "mount", c.Mount, server.Mount, cmp.Or(os.Getenv(mountVariable), DefaultMount), pathOr(None))
	s.listenStated = len(c.Listen)+len(server.Listen) > 0
	s.Listen = many(j, "listen", c.Listen, server.Listen, []string{DefaultListen}, parseListen)
	s.RuntimeDir = one(j, "runtime-dir", c.RuntimeDir, server.RuntimeDir, DefaultRuntimeDir(), pathOr(""))
	if s.StateDir = one(j, "state-dir", c.StateDir, server.StateDir, DefaultStateDir(), pathOr("")); s.StateDir == "" {
		j.flagFault("give --state-dir, or set HOME", errors.New("there is no home directory to keep the state in"))
	}
	s.access.allow = many(j, "allow-from", c.AllowFrom, server.AllowFrom, []string{"local"}, edge.ParseAllow)
	s.access.scrapers = many(j, "metrics-allow-from", c.MetricsAllowFrom, server.MetricsAllowFrom, []string{"local"}, edge.ParseAllow)
	s.Hosts = many(j, "hosts", c.Hosts, server.Hosts, nil, parseHost)
	s.access.names, _ = imds.NewHosts(s.Hosts...) // each was parsed before
	s.logging.level = one(j, "log-level", c.LogLevel, server.LogLevel, "info", oneOf(logLevels, "debug", "info", "warn", "error"))
	s.logging.formatter = one(j, "log-format", c.LogFormat, server.LogFormat, "text", oneOf(logFormats, "text", "json"))
	s.sources = many(j, "sources", nil, server.Sources, nil, parseSource)
	s.Admin = one(j, "admin", c.Admin, server.Admin, AdminSocket(s.RuntimeDir), pathOr(None))
	s.Metrics = one(j, "metrics", c.Metrics, server.Metrics, None, parseMetrics)
	s.access.outsideGuests = one(j, "vantage", "", server.Vantage, "guest", oneOf(map[string]bool{"guest": false, "host": true}, "guest", "host"))
	s.Addresses.Add = c.Addresses.Add || server.AddAddresses
	s.Keeper.Keep = c.Keeper.Keep || server.Keep
	s.Keeper.User = one(j, "user", c.Keeper.User, server.User, "", parseUser)
	s.Keeper.Watchdog = one(j, "watchdog", durationText(c.Keeper.Watchdog), durationText(server.Watchdog), defaultWatchdog.String(), parseWatchdog)
	s.settleTogether(j)
	return s, j.faults, j.err
}

// settleTogether refuses settings that are good alone but not together.
func (s *Settings) settleTogether(j *judge) {
	if s.Keeper.User != "" && !s.Keeper.Keep {
		j.together("give --keep as well (keep = true); with systemd say User= in the unit", "--user needs a keeper", "user")
	}
	if s.Mount == None && slices.Equal(s.Listen, []string{None}) {
		j.together("leave out one of them", "with neither a mount nor an address there is nothing to serve", "mount", "listen")
	}
	if len(s.Admin) > MaxSocketPath {
		j.together("choose another with --admin, or say none", fmt.Sprintf("a socket's path has at most %d bytes: %s", MaxSocketPath, s.Admin), "admin", "runtime-dir")
	}
	if len(s.Listen) > 1 && slices.Contains(s.Listen, None) {
		j.together("keep one or the other", `"none" stands beside an address`, "listen")
	}
	for i, a := range s.Listen {
		for _, b := range s.Listen[:i] {
			if collide(a, b) {
				j.together("keep one of them", fmt.Sprintf("%s and %s cannot both be listened on", b, a), "listen")
			}
		}
		if collide(a, s.Metrics) {
			j.together("choose another port", fmt.Sprintf("%s is an address of --listen already: %s", s.Metrics, a), "metrics", "listen")
		}
	}
	for _, d := range s.dirs() {
		if s.Mount != "" && s.Mount != None && isAtOrAbove(s.Mount, d.path) {
			j.together("choose another with --mount", fmt.Sprintf("the %s %s would lie below the mount %s", d.name, d.path, s.Mount), "mount", strings.TrimPrefix(d.flag, "--"))
		}
	}
}

// A judge collects the faults of settings.
type judge struct {
	server *tomlfile.Server
	faults problem.Faults
	err    error // the first of flags and defaults
	// flags are the keys for which a flag is given.
	flags []string
}

func (j *judge) fault(key string, index int, err error, hint string) {
	f := j.server.At(key, index)
	f.Text, f.Hint = err.Error(), hint
	j.faults = append(j.faults, f)
}

func (j *judge) flagFault(hint string, err error) {
	if j.err == nil {
		j.err = problem.Usage(hint, err)
	}
}

// together adds a fault of the first of these keys that the file decides, or else of the flags.
func (j *judge) together(hint, text string, keys ...string) {
	for _, key := range keys {
		if _, ok := j.server.Places[key]; ok && !slices.Contains(j.flags, key) {
			j.fault(key, -1, errors.New(text), hint)
			return
		}
	}
	j.flagFault(hint, errors.New(text))
}

// one settles a setting that is one text, "" if it is not stated. The errors of parse begin with that text in quotes.
func one[T any](j *judge, key, flag, file, fallback string, parse func(string) (T, error)) T {
	list := func(text string) []string {
		if text == "" {
			return nil
		}
		return []string{text}
	}
	settled := many(j, key, list(flag), list(file), list(fallback), parse)
	if len(settled) == 0 {
		var zero T
		return zero
	}
	return settled[0]
}

// many settles a setting that is a list. It leaves out faulty elements.
func many[T any](j *judge, key string, flags, file, fallback []string, parse func(string) (T, error)) []T {
	var inFile, settled []T
	for i, text := range file {
		v, err := parse(text)
		if err == nil && needsAbsolute(key, text) {
			err = fmt.Errorf("%q: must be an absolute path", text)
		}
		if err != nil {
			j.fault(key, i, err, "")
			continue
		}
		inFile = append(inFile, v)
	}
	if len(flags) > 0 {
		j.flags = append(j.flags, key)
	} else if len(file) > 0 {
		return inFile
	} else {
		flags = fallback
	}
	for _, text := range flags {
		v, err := parse(text)
		if err != nil {
			j.flagFault("", fmt.Errorf("--%s %w", flagOf(key), err))
			continue
		}
		settled = append(settled, v)
	}
	return settled
}

// flagOf returns the flag of a key of [server].
func flagOf(key string) string {
	if key == "hosts" {
		return "host"
	}
	return key
}

// needsAbsolute reports whether a path of the file must be absolute. A flag may be relative to the working directory, which the
// file does not know.
func needsAbsolute(key, text string) bool {
	return slices.Contains([]string{"mount", "runtime-dir", "state-dir", "admin"}, key) && text != None && !filepath.IsAbs(text)
}

// pathOr returns a parser of a path, or of a keyword if it is not "".
func pathOr(keyword string) func(string) (string, error) {
	return func(text string) (string, error) {
		switch {
		case strings.ContainsRune(text, 0):
			return "", fmt.Errorf("%q: not a path", text)
		case text == None && keyword == "":
			return "", fmt.Errorf("%q: must be a path: the daemon needs one", text)
		}
		return text, nil
	}
}

// MaxSocketPath is the maximal length of the path of an admin socket.
const MaxSocketPath = 107 // bytes: sun_path of unix(7), and the NUL behind it

func parseListen(text string) (string, error) {
	if text == None || text == LinkLocal {
		return text, nil
	}
	return parseAddress(text, ", link-local, or none")
}

func parseMetrics(text string) (string, error) {
	if text == None {
		return text, nil
	}
	return parseAddress(text, ", or none")
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?$`)
	userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)
	number   = regexp.MustCompile(`(^|\.)[0-9]+\.?$`) // a text that ends so is meant as an address, not as a name
)

// parseAddress parses HOST:PORT, and returns it in a canonical form. It does not look names up, so it cannot tell whether a name
// belongs to this machine.
func parseAddress(text, orElse string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q: not an address; give HOST:PORT such as 127.0.0.1:1338 or [::1]:1338%s", text, orElse)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("%q: not a port; give 0 to 65535, where 0 is any free one", text)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && (!hostName.MatchString(host) || number.MatchString(host)) {
		return "", fmt.Errorf("%q: not a host; give an IP address or a name", text)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// collide reports whether the kernel refuses to listen on both addresses. A wildcard stands for all addresses, of IPv4 and of
// IPv6.
func collide(a, b string) bool {
	for _, x := range expand(a, &ec2.Options{HTTPProtocolIPv6: true}) {
		for _, y := range expand(b, &ec2.Options{HTTPProtocolIPv6: true}) {
			hostX, portX, _ := net.SplitHostPort(x)
			hostY, portY, _ := net.SplitHostPort(y)
			if portX != portY || portX == "0" {
				continue
			}
			ipX, _ := netip.ParseAddr(cmp.Or(hostX, "::"))
			ipY, _ := netip.ParseAddr(cmp.Or(hostY, "::"))
			if hostX == hostY || ipX.IsValid() && ipX.Unmap() == ipY.Unmap() || ipX.IsUnspecified() || ipY.IsUnspecified() {
				return true
			}
		}
	}
	return false
}

// isAtOrAbove reports whether dir is path or a directory above it. It compares names only.
func isAtOrAbove(dir, path string) bool {
	above, errAbove := filepath.Abs(dir)
	below, errBelow := filepath.Abs(path)
	rel, err := filepath.Rel(above, below)
	return errors.Join(errAbove, errBelow, err) == nil && path != "" && rel != ".." && !strings.HasPrefix(rel, "../")
}

func parseHost(text string) (string, error) {
	_, err := imds.NewHosts(text)
	return text, err
}

func parseSource(text string) (string, error) {
	if kinds := source.Kinds(); !slices.Contains(kinds, text) {
		return "", fmt.Errorf("%q: specify %s", text, strings.Join(kinds, " or "))
	}
	return text, nil
}

// parseUser parses the name of a user, who need not exist where the file is checked.
func parseUser(text string) (string, error) {
	if !userName.MatchString(text) {
		return "", fmt.Errorf("%q: not the name of a user", text)
	}
	return text, nil
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func parseWatchdog(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < leastWatchdog {
		return 0, fmt.Errorf("%q: too short; give it some seconds, such as 15s", text)
	}
	return d, nil
}

var (
	logLevels = map[string]logrus.Level{
		"debug": logrus.DebugLevel, "info": logrus.InfoLevel, "warn": logrus.WarnLevel, "error": logrus.ErrorLevel,
	}
	logFormats = map[string]logrus.Formatter{
		"json": &logrus.JSONFormatter{}, "text": &logrus.TextFormatter{FullTimestamp: true, DisableColors: true},
	}
)

// oneOf returns a parser of the keys of known; names lists them in the order of the message.
func oneOf[T any](known map[string]T, names ...string) func(string) (T, error) {
	return func(text string) (T, error) {
		v, ok := known[text]
		if !ok {
			last := len(names) - 1
			return v, fmt.Errorf("%q: specify %s or %s", text, strings.Join(names[:last], ", "), names[last])
		}
		return v, nil
	}
}

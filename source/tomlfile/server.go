package tomlfile

import (
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Server is what [server] says. Each key has a flag of `imdsfs serve`, which wins.
type Server struct {
	Listen     []string // "HOST:PORT" or "link-local"; or "none" alone
	Mount      string   // absolute path, or "none"
	RuntimeDir string   // absolute path
	StateDir   string   // absolute path
	Sources    []string // "host" and "file", the later wins
	AllowFrom  []string // "local", a CIDR, or "iface:NAME"
	Hosts      []string // host names without port
	LogLevel   string   // "debug", "info", "warn", "error"
	LogFormat  string   // "text", "json"
	Admin      string   // absolute path of the socket, or "none"
	Metrics    string   // "HOST:PORT", or "none"
	// MetricsAllowFrom is who may read the metrics, in the forms of AllowFrom.
	MetricsAllowFrom []string
	Vantage          string // "guest", "host"
	// AddAddresses: the link-local addresses are put on a link of our own.
	AddAddresses bool
	Keep         bool          // a keeper supervises the daemon
	User         string        // whom the daemon runs as then
	Watchdog     time.Duration // how long it may be silent then; 0: not said

	// Places tells for each key that the file gives, by its name there ("allow-from"), the
	// "FILE:LINE" where it does. What is not here was not said.
	Places map[string]string
}

// server decodes [server].
func (d *decoder) server(t table) {
	t.refuseUnknown("server")
	s := &d.file.Server
	for _, n := range t.children() {
		instead := "leave it out and give the flag of imdsfs serve"
		if n.name == "sources" || n.name == "vantage" { // have no flag
			instead = "leave it out"
		}
		harmless := n.name == "listen" || n.name == "mount" || !slices.Contains(schema["server"], n.name)
		if !harmless && !n.acts(instead) {
			continue
		}
		s.Places[n.name] = d.at(n.line())
		switch n.name {
		case "listen":
			s.Listen, _ = n.texts(checkListen)
			if len(s.Listen) > 1 && slices.Contains(s.Listen, "none") {
				n.fault(`"none" stands beside an address`, "keep one or the other")
			}
		case "mount":
			s.Mount = n.directoryPath("none")
		case "runtime-dir":
			s.RuntimeDir = n.directoryPath("")
		case "state-dir":
			s.StateDir = n.directoryPath("")
		case "sources":
			s.Sources, _ = n.texts(checkSource)
			if s.Sources != nil && len(s.Sources) == 0 {
				n.fault("names no source", `specify "host", "file" or both`)
			}
		case "allow-from":
			s.AllowFrom, _ = n.texts(checkPeer)
		case "hosts":
			s.Hosts, _ = n.texts(checkHost)
		case "log-level":
			s.LogLevel, _ = n.oneOf("debug", "info", "warn", "error")
		case "log-format":
			s.LogFormat, _ = n.oneOf("text", "json")
		case "admin":
			s.Admin = n.directoryPath("none")
		case "metrics":
			s.Metrics = n.metricsAddress()
		case "metrics-allow-from":
			s.MetricsAllowFrom, _ = n.texts(checkPeer)
		case "vantage":
			s.Vantage, _ = n.oneOf("guest", "host")
		case "add-addresses":
			s.AddAddresses = n.boolean()
		case "keep":
			s.Keep = n.boolean()
		case "user":
			s.User = n.userName()
		case "watchdog":
			s.Watchdog = n.duration()
		}
	}
	onlyLocal := len(s.AllowFrom) == 0 || slices.Equal(s.AllowFrom, []string{"local"})
	if n, ok := t.child("vantage"); ok && s.Vantage == "host" && onlyLocal {
		n.warn("the guests are not answered: allow-from lists this machine alone", `add their network, such as allow-from = ["local", "iface:virbr0"]`)
	}
}

// metricsAddress is where metrics are to be had: one address, or "none".
func (n node) metricsAddress() string {
	address, ok := n.text()
	if !ok {
		return ""
	}
	text, hint := checkListen(address)
	if address == "link-local" {
		text, hint = "not an address", `HOST:PORT such as "127.0.0.1:9338", or "none"`
	}
	if text != "" {
		n.fault(text, hint)
	}
	return address
}

// userName is the name of a user, who need not exist where the file is checked.
func (n node) userName() string {
	name, ok := n.text()
	if ok && !userName.MatchString(name) {
		n.fault("not the name of a user", "letters, digits, - and _")
	}
	return name
}

// duration is a positive time.
func (n node) duration() time.Duration {
	text, ok := n.text()
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		n.fault("not a duration", `a number with its unit, such as "15s"`)
		return 0
	}
	return d
}

// boolean is true or false; anything else is a fault.
func (n node) boolean() bool {
	b, ok := n.value.(bool)
	if !ok {
		n.fault("must be true or false", "without quotes")
	}
	return b
}

// directoryPath is an absolute path, or the keyword if there is one.
func (n node) directoryPath(keyword string) string {
	path, ok := n.text()
	switch {
	case !ok || keyword != "" && path == keyword:
	case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
		hint := "start it with /"
		if keyword != "" {
			hint += ", or say " + strconv.Quote(keyword)
		}
		n.fault("must be an absolute path", hint)
	}
	return path
}

var (
	hostName      = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?$`)
	userName      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)
	interfaceName = regexp.MustCompile(`^[^/:\s\x00]{1,15}$`) // dev_valid_name of the kernel
)

func checkListen(s string) (text, hint string) {
	if s == "link-local" || s == "none" {
		return "", ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "not an address", `HOST:PORT such as "127.0.0.1:1338" or "[::1]:1338", "link-local", or "none"`
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "not a port", "0 to 65535, where 0 is any free one"
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !hostName.MatchString(host) {
		return "not a host", "an IP address or a name"
	}
	return "", ""
}

func checkSource(s string) (text, hint string) {
	if s != "host" && s != "file" {
		return "unknown source", `specify "host" or "file"`
	}
	return "", ""
}

func checkPeer(s string) (text, hint string) {
	if name, ok := strings.CutPrefix(s, "iface:"); ok {
		if !interfaceName.MatchString(name) || name == "." || name == ".." {
			return "not the name of a network interface", ""
		}
		return "", ""
	}
	if _, err := netip.ParsePrefix(s); err == nil || s == "local" {
		return "", ""
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return "an address, not a network", "write " + netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	return "not a description of peers", `"local", a network such as "10.0.0.0/8", or "iface:NAME"`
}

func checkHost(s string) (text, hint string) {
	if !hostName.MatchString(s) {
		return "not a host name", "a name without port and wildcard, as clients have it in their URL"
	}
	return "", ""
}

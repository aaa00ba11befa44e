package tomlfile

import (
	"slices"
	"strconv"
	"time"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Server is what [server] says. Each key has a flag of `imdsfs serve`, which wins. The texts are as they stand in the
// file: what they mean, and whether they mean anything, is for whoever serves to say, see [Accept].
type Server struct {
	ServerDoors
	ServerProcess
	Sources []string // "host" and "file", the later wins

	// Places tells for each key that the file gives, by its name there ("allow-from"), the
	// "FILE:LINE" where it does, and likewise for the elements of an array ("allow-from[0]").
	// What is not here was not said.
	Places map[string]string
}

// ServerDoors are the keys about the two doors.
type ServerDoors struct {
	Listen    []string // "HOST:PORT" or "link-local"; or "none" alone
	Mount     string   // absolute path, or "none"
	AllowFrom []string // "local", a CIDR, or "iface:NAME"
	Hosts     []string // host names without port
	Vantage   string   // "guest", "host"
	// AddAddresses: the link-local addresses are put on a link of our own.
	AddAddresses bool
}

// ServerProcess are the keys about the process itself.
type ServerProcess struct {
	RuntimeDir string // absolute path
	StateDir   string // absolute path
	LogLevel   string // "debug", "info", "warn", "error"
	LogFormat  string // "text", "json"
	Admin      string // absolute path of the socket, or "none"
	Metrics    string // "HOST:PORT", or "none"
	// MetricsAllowFrom is who may read the metrics, in the forms of AllowFrom.
	MetricsAllowFrom []string
	Keep             bool          // a keeper supervises the daemon
	User             string        // whom the daemon runs as then
	Watchdog         time.Duration // how long it may be silent then; 0: not said
}

// An Accept is asked about [server] whenever a file is read, also about what could be made out of a faulty one. The
// faults that it returns are faults of the file. Their places are those of [Server.At].
type Accept func(*Server) problem.Faults

// At is the beginning of a fault of a key, or, with index ≥ 0, of an element of its array.
func (s *Server) At(key string, index int) problem.Fault {
	f := problem.Fault{Place: s.Places[key], Key: "server." + key}
	if place, ok := s.Places[element(key, index)]; ok {
		f.Place = place
	}
	return f
}

func element(key string, index int) string { return key + "[" + strconv.Itoa(index) + "]" }

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
		if list := map[string]*[]string{
			"listen": &s.Listen, "sources": &s.Sources, "allow-from": &s.AllowFrom, "hosts": &s.Hosts, "metrics-allow-from": &s.MetricsAllowFrom,
		}[n.name]; list != nil {
			*list = n.placedTexts(s)
		}
		if text := map[string]*string{
			"mount": &s.Mount, "runtime-dir": &s.RuntimeDir, "state-dir": &s.StateDir, "log-level": &s.LogLevel, "log-format": &s.LogFormat,
			"admin": &s.Admin, "metrics": &s.Metrics, "vantage": &s.Vantage, "user": &s.User,
		}[n.name]; text != nil {
			*text = n.placedText(s)
		}
		switch n.name {
		case "add-addresses":
			s.AddAddresses = n.boolean()
		case "keep":
			s.Keep = n.boolean()
		case "watchdog":
			s.Watchdog = n.duration()
		}
	}
	onlyLocal := len(s.AllowFrom) == 0 || slices.Equal(s.AllowFrom, []string{"local"})
	if n, ok := t.child("vantage"); ok && s.Vantage == "host" && onlyLocal {
		n.warn("the guests are not answered: allow-from lists this machine alone", `add their network, such as allow-from = ["local", "iface:virbr0"]`)
	}
}

// placedText is n's string. What is none, or empty, is a fault, and was not said.
func (n node) placedText(s *Server) string {
	text, ok := n.text()
	if ok && text == "" {
		n.fault("is empty", "leave it out to have the default")
	}
	if text == "" {
		delete(s.Places, n.name)
	}
	return text
}

// placedTexts are the strings of n's array, and notes their places. If anything else is in it, none of them was said.
func (n node) placedTexts(s *Server) []string {
	texts, ok := n.texts(func(string) (string, string) { return "", "" })
	switch {
	case !ok:
		delete(s.Places, n.name)
		return nil
	case len(texts) == 0 && n.name == "sources":
		n.fault("names no source", `specify "host", "file" or both`)
	}
	for i := range texts {
		s.Places[element(n.name, i)] = n.d.at(node{d: n.d, place: n.elem(i)}.line())
	}
	return texts
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

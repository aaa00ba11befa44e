package source

import (
	"strings"
	"time"
)

// Names in the tree that have rules of their own.
const (
	Latest   = "latest"
	MetaData = "meta-data"
	Dynamic  = "dynamic"
	UserData = "user-data"
)

const (
	textPlain   = "text/plain"
	octetStream = "application/octet-stream"
)

// A Snapshot is the whole tree at one moment. It never changes.
type Snapshot struct {
	top      *node    // "/": an edge for each version and for latest
	root     *node    // what each of those edges leads to
	versions []string // as listed, without latest
	instance string   // the instance's id, "" if it has none
	options  Options
	snowball bool
	settings []Setting
	warnings Faults
	rolled   map[string]rolling
	refresh  time.Time
	stamp    time.Time // no directory's mtime is later
}

// A Setting is a fact about the instance that is no leaf of the tree ("instance.account-id").
type Setting struct {
	Key    string
	Value  string
	Origin Origin
}

// Root is the view of "/": one directory a version.
func (s *Snapshot) Root() View { return View{node: s.top} }

// View is the directory of a version, "latest" or one of Versions.
func (s *Snapshot) View(version string) (View, bool) { return s.Root().Child(version) }

// Find is the place at an absolute path, "/latest/meta-data/mac". Empty segments are skipped.
func (s *Snapshot) Find(path string) (View, bool) {
	v := s.Root()
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		var ok bool
		if v, ok = v.Child(name); !ok {
			return View{}, false
		}
	}
	return v, true
}

// Versions are the EC2 versions on offer, oldest first, without "latest".
func (s *Snapshot) Versions() []string { return s.versions }

// Options are the metadata options in force.
func (s *Snapshot) Options() *Options { return &s.options }

// Settings are the facts about the instance that are no leaves, sorted by key.
func (s *Snapshot) Settings() []Setting { return s.settings }

// IsSnowball reports whether the platform is Snowball Edge, whose hop limit and protocol are fixed.
func (s *Snapshot) IsSnowball() bool { return s.snowball }

// Warnings are traps found while building; they do not stop anything.
func (s *Snapshot) Warnings() Faults { return s.warnings }

// Refresh is when the snapshot has to be built again though no source changed (rolling
// credentials); zero: never.
func (s *Snapshot) Refresh() time.Time { return s.refresh }

// InstanceID is the instance's id, "" if it has none. Session tokens are bound to it.
func (s *Snapshot) InstanceID() string { return s.instance }

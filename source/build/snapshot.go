package build

import (
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Snapshot is one instance at one moment: its tree, and what is known of it besides. It never changes.
type Snapshot struct {
	*tree.Tree
	instance string // the instance's id, "" if it has none
	options  Options
	snowball bool
	settings []Setting
	warnings problem.Faults
	rolled   map[string]rolling
	refresh  time.Time
}

// Options are the metadata options in force, and why.
type Options struct {
	ec2.Options
	// Lock names the options that may be tightened at run time, never weakened.
	Lock []string
	// Origins tells for each option by name where it comes from.
	Origins map[string]tree.Origin
}

// A Setting is a fact about the instance that is no leaf of the tree ("instance.account-id").
type Setting struct {
	Key    string
	Value  string
	Origin tree.Origin
}

// Options are the metadata options in force.
func (s *Snapshot) Options() *Options { return &s.options }

// Settings are the facts about the instance that are no leaves, sorted by key.
func (s *Snapshot) Settings() []Setting { return s.settings }

// IsSnowball reports whether the platform is Snowball Edge, where some options are fixed.
func (s *Snapshot) IsSnowball() bool { return s.snowball }

// Warnings are traps found while building; they do not stop anything.
func (s *Snapshot) Warnings() problem.Faults { return s.warnings }

// Refresh is when the snapshot has to be built again though no source changed (rolling
// credentials); zero: never.
func (s *Snapshot) Refresh() time.Time { return s.refresh }

// InstanceID is the instance's id, "" if it has none. Session tokens are bound to it.
func (s *Snapshot) InstanceID() string { return s.instance }

// A Change is the difference between two snapshots: that of their trees, and that of their options.
type Change struct {
	tree.Change
	// Options are the names of the metadata options with another value.
	Options []string
}

// Empty reports whether nothing changed.
func (c *Change) Empty() bool { return c.Change.Empty() && len(c.Options) == 0 }

// Diff tells what changed from old to next; old may be nil. It costs what changed, not what is there.
func Diff(old, next *Snapshot) Change {
	if old == nil {
		return Change{Change: tree.Diff(nil, next.Tree)}
	}
	c := Change{Change: tree.Diff(old.Tree, next.Tree)}
	for _, o := range ec2.OptionTable() {
		if o.Text(&old.options.Options) != o.Text(&next.options.Options) {
			c.Options = append(c.Options, o.Name)
		}
	}
	return c
}

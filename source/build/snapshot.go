package build

import (
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Snapshot is one instance at one moment: its tree, and the facts that are not in the tree. It never changes.
type Snapshot struct {
	*tree.Tree
	instance string // the instance id; "" if it has none
	options  Options
	snowball bool
	settings []Setting
	warnings problem.Faults
	rolled   map[string]rolling
	refresh  time.Time
}

// Options are the metadata options in force, and where they come from.
type Options struct {
	ec2.Options
	// Lock names the options that can be tightened at run time, but never weakened.
	Lock []string
	// Origins tells by name where each option comes from.
	Origins map[string]tree.Origin
}

// A Setting is a fact about the instance that is not a leaf of the tree ("instance.account-id").
type Setting struct {
	Key    string
	Value  string
	Origin tree.Origin
}

// Options returns the metadata options in force.
func (s *Snapshot) Options() *Options { return &s.options }

// Settings returns the facts about the instance that are not leaves, sorted by key.
func (s *Snapshot) Settings() []Setting { return s.settings }

// IsSnowball reports whether the platform is Snowball Edge, where some options are fixed.
func (s *Snapshot) IsSnowball() bool { return s.snowball }

// Warnings returns the likely mistakes that the build found. They do not stop anything.
func (s *Snapshot) Warnings() problem.Faults { return s.warnings }

// Refresh returns when the snapshot has to be built again even if no source changes (rolling credentials); zero: never.
func (s *Snapshot) Refresh() time.Time { return s.refresh }

// InstanceID returns the instance id, "" if it has none. Session tokens are bound to it.
func (s *Snapshot) InstanceID() string { return s.instance }

// A Change is the difference between two snapshots: between their trees and between their options.
type Change struct {
	tree.Change
	// Options names the metadata options whose values changed.
	Options []string
}

// Empty reports whether nothing changed.
func (c *Change) Empty() bool { return c.Change.Empty() && len(c.Options) == 0 }

// Diff returns what changed from old, which may be nil, to next. Its cost grows with the change, not with the trees.
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

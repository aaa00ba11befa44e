// Package build turns the fragments of the sources into a snapshot.
//
//	[]*Fragment ──▶ merge ──▶ derive ──▶ check ──▶ assemble ──▶ *Snapshot
//	                             ▲                                 └──▶ Explain: hostname ← local-ipv4 (web-1.toml:7)
//	                          rules.go
//
// [Build] merges the fragments (later ones win, leaf by leaf), derives further values and defaults by the table in
// rules.go, checks the result, and assembles an immutable [Snapshot]: a [tree.Tree] and the facts that are not leaves.
// Each value keeps its [tree.Origin]: the place that states it, or the values that it follows from. Build reports all
// faults at once.
//
// Paths are relative to a version: "meta-data/instance-id", "dynamic/fws", "user-data"; "" is the version's own
// directory. A key is such a path, or "instance.KEY" for a fact that is not a leaf.
package build

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Env holds what a build needs besides the fragments.
type Env struct {
	Now        time.Time // wall clock
	LaunchTime time.Time // used if no source states launch-time; zero: unknown
	UID, GID   uint32    // of the daemon, which owns every file unless an access rule says otherwise
}

// Build merges fragments (later ones win), derives, checks, and returns a snapshot. It shares everything that did not
// change with prev, which is nil at first. The error is [problem.Faults] and holds all faults.
func Build(prev *Snapshot, env Env, fragments ...*Fragment) (*Snapshot, error) {
	b := &builder{env: env, merged: merge(fragments), labels: map[string]string{}, leases: leases{next: map[string]rolling{}}}
	b.warnings = b.merged.warnings
	maps.DeleteFunc(b.leaves, func(path string, _ value) bool { return b.isRemoved(path) })
	maps.DeleteFunc(b.tags, func(key string, _ tree.Value) bool { return b.isRemoved(ec2.TagPath(key)) })
	if prev != nil {
		b.leases.last = prev.rolled
	}
	b.derive()
	b.check()
	if len(b.faults) > 0 {
		b.faults.Sort()
		return nil, b.faults
	}
	b.warnings.Sort()
	return b.assemble(prev), nil
}

// A builder is one build. It holds the stated values, and then also the derived ones.
type builder struct {
	env Env
	merged
	labels map[string]string // directory path → how the parent's listing shows it
	base   time.Time         // mtime of defaults

	options    Options
	snowball   bool
	versions   []string
	interfaces interfaces
	leases     leases

	faults   problem.Faults
	warnings problem.Faults
}

// merged holds what all fragments state together. derive adds to it.
type merged struct {
	leaves   map[string]value
	instance map[string]value      // by the key below [instance]
	launch   map[string]tree.Value // options as stated by files
	account  map[string]tree.Value // account defaults
	runTime  map[string]tree.Value // options as set at run time
	removed  []string              // paths that were removed at run time
	lock     []string
	tags     map[string]tree.Value
	keys     []PublicKey
	role     *Role
	identity *Role
	access   []AccessRule
	warnings problem.Faults
}

// A value is the value of a leaf or of a setting.
type value struct {
	tree.Value
	expires time.Time
	derived bool // no fragment states it
}

func merge(fragments []*Fragment) merged {
	m := merged{
		leaves: map[string]value{}, instance: map[string]value{}, launch: map[string]tree.Value{},
		account: map[string]tree.Value{}, runTime: map[string]tree.Value{}, tags: map[string]tree.Value{},
	}
	for _, f := range fragments {
		for path, v := range f.Leaves {
			m.leaves[path] = value{Value: v}
		}
		for key, v := range f.Instance {
			m.instance[key] = value{Value: v}
		}
		if f.RunTime {
			maps.Copy(m.runTime, f.Options)
		} else {
			maps.Copy(m.launch, f.Options)
		}
		maps.Copy(m.account, f.AccountDefaults)
		maps.Copy(m.tags, f.Tags)
		m.removed = append(m.removed, f.Removed...)
		m.lock = append(m.lock, f.Lock...)
		m.access = append(m.access, f.Access...)
		m.warnings = append(m.warnings, f.Warnings...)
		if len(f.PublicKeys) > 0 {
			m.keys = f.PublicKeys
		}
		m.role = cmp.Or(f.Role, m.role)
		m.identity = cmp.Or(f.IdentityRole, m.identity)
	}
	return m
}

// isRemoved reports whether path, or a directory above it, was removed at run time.
func (m *merged) isRemoved(path string) bool {
	return slices.ContainsFunc(m.removed, func(r string) bool { return below(r, path) })
}

// value returns the value at a key: a path of the tree, or "instance.KEY".
func (m *merged) value(key string) (value, bool) {
	if k, ok := strings.CutPrefix(key, "instance."); ok {
		v, ok := m.instance[k]
		return v, ok
	}
	v, ok := m.leaves[key]
	return v, ok
}

// text returns the value at a key as text; ok is false if there is none.
func (m *merged) text(key string) (text string, ok bool) {
	v, ok := m.value(key)
	return string(v.Bytes), ok
}

// put sets the value at a key, unless the key has a value already or was removed at run time.
func (m *merged) put(key string, v value) {
	if _, ok := m.value(key); ok || m.isRemoved(key) {
		return
	}
	if k, ok := strings.CutPrefix(key, "instance."); ok {
		m.instance[k] = v
		return
	}
	m.leaves[key] = v
}

// settings lists the facts that are not leaves, for check and status.
func (b *builder) settings() []Setting {
	var out []Setting
	for key, v := range b.instance {
		text := strings.ReplaceAll(string(v.Bytes), "\n", " ")
		out = append(out, Setting{"instance." + key, text, v.Origin})
	}
	for _, o := range ec2.OptionTable() {
		out = append(out, Setting{"metadata-options." + o.Name, o.Text(&b.options.Options), b.options.Origins[o.Name]})
	}
	if len(b.lock) > 0 {
		may := tree.Origin{Kind: tree.Stated, Place: "these may be tightened at run time, never weakened"}
		out = append(out, Setting{"metadata-options.lock", strings.Join(b.lock, " "), may})
	}
	slices.SortFunc(out, func(a, b Setting) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (b *builder) fault(f problem.Fault) { b.faults = append(b.faults, f) }
func (b *builder) warn(f problem.Fault)  { b.warnings = append(b.warnings, f) }

// faultAt returns a fault at the place that states v.
func faultAt(v tree.Value, text, hint string) problem.Fault {
	return problem.Fault{Place: v.Origin.Place, Key: v.Origin.Key, Text: text, Hint: hint}
}

// below reports whether path is dir or is below it. Everything is below "".
func below(dir, path string) bool {
	return dir == "" || path == dir || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

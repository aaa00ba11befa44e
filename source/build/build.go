// Package build turns what the sources state into a snapshot.
//
//	[]*Fragment ──▶ merge ──▶ derive ──▶ check ──▶ assemble ──▶ *Snapshot
//
// [Build] merges fragments (the later wins, leaf by leaf), derives what follows from them by the table of rules.go, fills
// in documented defaults, checks the invariants, and assembles an immutable [Snapshot]: a [tree.Tree] and the facts that
// are no leaves. Each value keeps its [tree.Origin]: who states it, or what it follows from; [Snapshot.Explain] follows
// that back. All faults are found at once.
//
// Paths are relative to a version: "meta-data/instance-id", "dynamic/fws", "user-data"; "" is the version's own
// directory. A key is such a path, or "instance.KEY" for a fact that is no leaf.
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

// Env is what a build needs to know besides the fragments.
type Env struct {
	Now        time.Time // wall clock
	LaunchTime time.Time // used when no source states launch-time; zero: not known
	UID, GID   uint32    // of the daemon: the owner of every file unless a rule says otherwise
}

// Build merges fragments (the later wins), derives, checks, and returns a snapshot that shares with
// prev (nil at first) whatever did not change. The error is [problem.Faults], all of them.
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

// A builder is one build: what is stated, then what is derived as well.
type builder struct {
	env Env
	merged
	labels map[string]string // directory path → how the listing above prints it
	base   time.Time         // mtime of values that nobody stated

	options    Options
	snowball   bool
	versions   []string
	interfaces interfaces
	leases     leases

	faults   problem.Faults
	warnings problem.Faults
}

// merged is what all fragments state together, and where derive adds.
type merged struct {
	leaves   map[string]value
	instance map[string]value      // by the key below [instance]
	launch   map[string]tree.Value // options as stated by files
	account  map[string]tree.Value // account defaults
	runTime  map[string]tree.Value // options as set at run time
	removed  []string              // paths that were unset at run time
	lock     []string
	tags     map[string]tree.Value
	keys     []PublicKey
	role     *Role
	identity *Role
	access   []AccessRule
	warnings problem.Faults
}

// A value is that of a leaf or of a setting.
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

// isRemoved reports whether path, or a directory above it, was unset at run time.
func (m *merged) isRemoved(path string) bool {
	return slices.ContainsFunc(m.removed, func(r string) bool { return below(r, path) })
}

// value is what is known at a key: a path of the tree, or "instance.KEY".
func (m *merged) value(key string) (value, bool) {
	if k, ok := strings.CutPrefix(key, "instance."); ok {
		v, ok := m.instance[k]
		return v, ok
	}
	v, ok := m.leaves[key]
	return v, ok
}

// text is the value at a key; ok is false if there is none.
func (m *merged) text(key string) (text string, ok bool) {
	v, ok := m.value(key)
	return string(v.Bytes), ok
}

// put fills the gap at a key; what is there, or was unset, stays.
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

// settings lists the facts that are no leaves, for check and status.
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

// faultAt is a fault of a value, at the place that states it.
func faultAt(v tree.Value, text, hint string) problem.Fault {
	return problem.Fault{Place: v.Origin.Place, Key: v.Origin.Key, Text: text, Hint: hint}
}

// below reports whether path is dir or lies below it; everything lies below "".
func below(dir, path string) bool {
	return dir == "" || path == dir || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

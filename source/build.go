package source

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Env is what a build needs to know besides the fragments.
type Env struct {
	Now        time.Time // wall clock
	LaunchTime time.Time // used when no source states launch-time; zero: not known
	UID, GID   uint32    // of the daemon: the owner of every file unless a rule says otherwise
}

// Build merges fragments (the later wins), derives, checks, and returns a snapshot that shares with
// prev (nil at first) whatever did not change. The error is Faults, all of them.
func Build(prev *Snapshot, env Env, fragments ...*Fragment) (*Snapshot, error) {
	b := merge(fragments)
	b.env = env
	maps.DeleteFunc(b.leaves, func(path string, _ leaf) bool { return b.isRemoved(path) })
	maps.DeleteFunc(b.tags, func(key string, _ Value) bool { return b.isRemoved(TagPath(key)) })
	if prev != nil {
		b.rolled = prev.rolled
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
	env      Env
	leaves   map[string]leaf
	labels   map[string]string // directory path → how the listing above prints it
	instance map[string]Value
	launch   map[string]Value // options as stated by files
	account  map[string]Value // account defaults
	runTime  map[string]Value // options as set at run time
	removed  []string         // paths that were unset at run time
	lock     []string
	tags     map[string]Value
	keys     []PublicKey
	role     *Role
	identity *Role
	access   []AccessRule
	base     time.Time // mtime of values that nobody stated

	options  Options
	snowball bool
	versions []string
	rolled   map[string]rolling
	rolledTo map[string]rolling
	refresh  time.Time
	faults   Faults
	warnings Faults
}

type leaf struct {
	Value
	expires time.Time
}

func merge(fragments []*Fragment) *builder {
	b := &builder{
		leaves: map[string]leaf{}, labels: map[string]string{}, instance: map[string]Value{},
		launch: map[string]Value{}, account: map[string]Value{}, runTime: map[string]Value{}, tags: map[string]Value{}, rolledTo: map[string]rolling{},
	}
	for _, f := range fragments {
		for path, v := range f.Leaves {
			b.leaves[path] = leaf{Value: v}
		}
		maps.Copy(b.instance, f.Instance)
		if f.RunTime {
			maps.Copy(b.runTime, f.Options)
		} else {
			maps.Copy(b.launch, f.Options)
		}
		maps.Copy(b.account, f.AccountDefaults)
		maps.Copy(b.tags, f.Tags)
		b.removed = append(b.removed, f.Removed...)
		b.lock = append(b.lock, f.Lock...)
		b.access = append(b.access, f.Access...)
		b.warnings = append(b.warnings, f.Warnings...)
		if len(f.PublicKeys) > 0 {
			b.keys = f.PublicKeys
		}
		b.role = cmp.Or(f.Role, b.role)
		b.identity = cmp.Or(f.IdentityRole, b.identity)
	}
	return b
}

// isRemoved reports whether path, or a directory above it, was unset at run time.
func (b *builder) isRemoved(path string) bool {
	return slices.ContainsFunc(b.removed, func(r string) bool { return below(r, path) })
}

// settings lists the facts that are no leaves, for check and status.
func (b *builder) settings() []Setting {
	var out []Setting
	for key, v := range b.instance {
		text := strings.ReplaceAll(string(v.Bytes), "\n", " ")
		out = append(out, Setting{"instance." + key, text, v.Origin})
	}
	for _, name := range OptionNames() {
		out = append(out, Setting{"metadata-options." + name, b.options.Text(name), b.options.Origins[name]})
	}
	if len(b.lock) > 0 {
		may := Origin{Kind: Stated, Place: "these may be tightened at run time, never weakened"}
		out = append(out, Setting{"metadata-options.lock", strings.Join(b.lock, " "), may})
	}
	slices.SortFunc(out, func(a, b Setting) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (b *builder) fault(f Fault) { b.faults = append(b.faults, f) }
func (b *builder) warn(f Fault)  { b.warnings = append(b.warnings, f) }

// Package source keeps what is known about one instance, and who says so.
//
//	Source.Load ──▶ build.Fragment ─┐
//	Source.Load ──▶ build.Fragment ─┼─▶ build.Build ──▶ *build.Snapshot ──▶ Door.Publish, in their order ──▶ observers
//	Source.Load ──▶ build.Fragment ─┘
//
// A [Source] reads one place (a TOML file, the host) and returns a fragment: what is stated there, each value with its
// origin. It may also watch the place. A [Store] loads all sources, keeps of each the last good fragment, builds, and hands
// each new snapshot to the doors. A kind of source registers itself ([Register]) with all that the rest has to know of it.
package source

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/build"
)

// A Source is one place that metadata comes from.
type Source interface {
	// Name is the name used in [server] sources: "file", "host".
	Name() string
	// Load reads the place anew. The error may be [problem.Faults]; then a fragment may come with it, of
	// what could be made out, for further faults to be found in. Load is not called while it runs.
	Load(context.Context) (*build.Fragment, error)
}

// A Watcher is a source that notices when what it has loaded may be old.
type Watcher interface {
	Source
	// Watch begins to watch, and calls changed after each change until ctx ends; also after one that came between the
	// last Load and now. changed does not block. The error says why nothing is watched; warn gets what goes wrong later.
	Watch(ctx context.Context, changed func(), warn func(error)) error
}

// An InstanceSource states what belongs to one instance: changes that were made to it at run time. It comes after
// the sources that tell which instance there is.
type InstanceSource interface {
	Source
	// LoadFor is Load, of what belongs to the instance with this id; "" is an instance without one. It answers at once,
	// from memory: the store waits for it while it holds its lock.
	LoadFor(ctx context.Context, id string) (*build.Fragment, error)
}

// A Door shows snapshots to clients: fs and imds each are one.
type Door interface {
	// Publish makes next what clients see. When it returns no client of this door can get a
	// value of an older snapshot (the FUSE door stops waiting for a kernel that does not
	// answer; see its documentation).
	Publish(next *build.Snapshot)
}

// A Kind is a kind of source, as it registers itself.
type Kind struct {
	Name string // in [server] sources: "file"
	// Order decides without [server] sources: of the kinds that apply, the one with the highest order alone is used.
	Order int
	// New makes the source; nil if it does not apply.
	New func(Setup) Source
}

// A Setup is what sources are made of.
type Setup struct {
	File Source // the instance file, nil without one
}

var kinds []Kind

// Register adds a kind of source. It is called at init.
func Register(k Kind) {
	kinds = append(kinds, k)
	slices.SortStableFunc(kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
	})
}

// Kinds are the names of the kinds that have registered, in their order.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return names
}

// Make makes the sources with these names, in their order: the later wins. Without names it makes the one source that
// applies. The error names one that there is not.
func Make(setup Setup, names ...string) ([]Source, error) {
	if len(names) == 0 {
		return onlyOne(setup)
	}
	var sources []Source
	for _, name := range names {
		i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no source is called %q: the sources are %s", name, strings.Join(Kinds(), ", "))
		}
		s := kinds[i].New(setup)
		if s == nil {
			return nil, fmt.Errorf("the source %s has nothing to read", name)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func onlyOne(setup Setup) ([]Source, error) {
	for _, k := range slices.Backward(kinds) {
		if s := k.New(setup); s != nil {
			return []Source{s}, nil
		}
	}
	return nil, fmt.Errorf("no source applies: the sources are %s", strings.Join(Kinds(), ", "))
}

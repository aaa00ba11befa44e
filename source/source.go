// Package source loads the metadata of one instance and publishes it.
//
//	Source.Load ──▶ build.Fragment ─┐
//	Source.Load ──▶ build.Fragment ─┼─▶ build.Build ──▶ *build.Snapshot ──▶ Door.Publish, in their order ──▶ observers
//	Source.Load ──▶ build.Fragment ─┘
//
// A [Source] reads one place (a TOML file, the host) and returns a fragment: the values found there, each with its origin.
// It may also watch the place. A [Store] loads all sources, keeps the last good fragment of each, builds a snapshot, and
// hands it to the doors. Each kind of source registers itself ([Register]) with all that the rest needs to know about it.
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
	// Load reads the place again. The error may be [problem.Faults]. A fragment may come with it, of the values that
	// could be read; the store looks for further faults in it. Calls of Load do not overlap.
	Load(context.Context) (*build.Fragment, error)
}

// A Watcher is a source that notices when its last fragment may be out of date.
type Watcher interface {
	Source
	// Watch starts watching and returns. It calls changed after each change until ctx ends, and also if something
	// changed between the last Load and now. changed does not block. The error says why nothing is watched; warn gets
	// later errors.
	Watch(ctx context.Context, changed func(), warn func(error)) error
}

// An InstanceSource holds values that belong to one instance: the changes made to it at run time. It comes after the
// sources that give the instance id.
type InstanceSource interface {
	Source
	// LoadFor is Load for the instance with this id; "" is an instance without an id. It must return at once, from
	// memory: the store calls it with its lock held.
	LoadFor(ctx context.Context, id string) (*build.Fragment, error)
}

// A Door shows snapshots to clients: fs and imds each are one.
type Door interface {
	// Publish shows next to clients. After it returns, no client of this door gets a value of an older snapshot. (The
	// FUSE door stops waiting for a kernel that does not answer; see its documentation.)
	Publish(next *build.Snapshot)
}

// A Kind describes a kind of source.
type Kind struct {
	Name string // in [server] sources: "file"
	// Order decides which source is used when the file has no [server] sources: the one that applies and has the highest
	// order.
	Order int
	// New makes the source, or returns nil if it does not apply.
	New func(Setup) Source
}

// A Setup holds what sources are made from.
type Setup struct {
	File Source // the instance file; nil if there is none
}

var kinds []Kind

// Register adds a kind of source. Call it from init, once for a name.
func Register(k Kind) {
	if slices.Contains(Kinds(), k.Name) {
		panic("two sources are called " + k.Name)
	}
	kinds = append(kinds, k)
	slices.SortStableFunc(kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
	})
}

// Kinds returns the names of the registered kinds, in their order.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return names
}

// Make makes the sources with these names, in this order; later ones win. Without names it makes the one source that
// applies. The error gives the unknown name.
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

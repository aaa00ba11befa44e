// Package overlay keeps the changes made at run time: metadata options, tags and values that were set or removed.
//
//	Open ──▶ Overlay ──▶ LoadFor(id) ──▶ build.Fragment, the last in the merge
//	            │ ▲
//	      Draft ▼ │ Commit: overlay.json is replaced, and then the overlay's state
//	       Set, Remove, Reset
//
// The file in the state directory survives restarts and reboots, because a restart must not undo hardening.
//
// A change belongs to the instance for which it was made, as on EC2: another instance file is another machine, with launch
// options of its own. The instance is known by the id that the other sources give; an instance-id that was set at run time
// does not count. Changes that belong to other instances are kept.
//
//	o, err := overlay.Open("/var/lib/imdsfs")
//	var draft *overlay.Draft
//	change, err := store.Update(o.Name(), func(id string) (*build.Fragment, error) {
//		draft = o.Draft(id)
//		draft.Set(overlay.Options, "http-tokens", "required", overlay.Stamp{Time: now, By: "uid 0"})
//		return draft.Fragment(), nil
//	}, func(*build.Snapshot) error { return draft.Commit() })
//
// The file (overlay.json, mode 0600; file.go) is replaced as a whole: a crash leaves the old or the new one.
package overlay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Kind is what an entry changes.
type Kind string

// The kinds of entries. Names are option names, tag keys, and paths relative to a version
// ("meta-data/spot/termination-time").
const (
	Options Kind = "options"
	Tags    Kind = "tags"
	Values  Kind = "values"
)

// An Entry is one change.
type Entry struct {
	// Value is what was set; nil if the name was removed, even if another source states it.
	Value []byte    `json:"value,omitempty"`
	Time  time.Time `json:"time"`
	By    string    `json:"by"`
	// Removed is explicit in the file, because an empty value is a value too.
	Removed bool `json:"removed,omitempty"`
}

// A Stamp says when and by whom a change was made.
type Stamp struct {
	Time time.Time
	By   string // "uid 0"
}

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Options, Tags, Values} }

// changes holds the changes of one instance.
type changes struct {
	Options map[string]Entry `json:"options,omitempty"`
	Tags    map[string]Entry `json:"tags,omitempty"`
	Values  map[string]Entry `json:"values,omitempty"`
}

func (c changes) kind(k Kind) map[string]Entry {
	return map[Kind]map[string]Entry{Options: c.Options, Tags: c.Tags, Values: c.Values}[k]
}

func (c changes) len() int { return len(c.Options) + len(c.Tags) + len(c.Values) }

// clone returns a copy without nil maps.
func (c changes) clone() changes {
	d := changes{map[string]Entry{}, map[string]Entry{}, map[string]Entry{}}
	for _, k := range Kinds() {
		maps.Copy(d.kind(k), c.kind(k))
	}
	return d
}

// state is everything that is kept.
type state struct {
	instances map[string]changes // by instance id
	// unowned, if not nil, holds the changes that an earlier version kept. They name no instance, and belong to the first
	// one that is served. instances is empty then.
	unowned *changes
}

// of returns the changes of one instance.
func (s *state) of(id string) changes {
	if s.unowned != nil {
		return *s.unowned
	}
	return s.instances[id]
}

// An Overlay holds the changes kept in one state directory. It is a [source.InstanceSource].
type Overlay struct {
	path string

	mu    sync.Mutex
	state *state
}

var _ source.InstanceSource = (*Overlay)(nil)

// Name returns "overlay".
func (o *Overlay) Name() string { return "overlay" }

// Load is LoadFor for an instance without an id.
func (o *Overlay) Load(ctx context.Context) (*build.Fragment, error) { return o.LoadFor(ctx, "") }

// LoadFor returns the changes that are in force for the instance with this id.
func (o *Overlay) LoadFor(_ context.Context, id string) (*build.Fragment, error) {
	return o.current().of(id).fragment(), nil
}

// Entries returns the changes of one kind for one instance, by name.
func (o *Overlay) Entries(id string, k Kind) map[string]Entry {
	return maps.Clone(o.current().of(id).kind(k))
}

// Others returns the ids of the other instances for which changes are kept, sorted.
func (o *Overlay) Others(id string) []string {
	s := o.current()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.instances)), func(other string) bool { return other == id })
}

// Len returns how many changes are kept for the instance with this id.
func (o *Overlay) Len(id string) int { return o.current().of(id).len() }

// Unowned reports whether an earlier version made the changes, and so did not record to which instance they belong. They
// apply to any instance, until a draft is committed: then they belong to the instance of the draft.
func (o *Overlay) Unowned() bool { return o.current().unowned != nil }

// Adopt assigns changes that name no instance to the one that the store serves, and commits that.
func (o *Overlay) Adopt(store *source.Store) error {
	var draft *Draft
	_, err := store.Update(o.Name(), func(id string) (*build.Fragment, error) {
		draft = o.Draft(id)
		return draft.Fragment(), nil
	}, func(*build.Snapshot) error { return draft.Commit() })
	return err
}

func (o *Overlay) current() *state {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state // replaced, never changed
}

func (c changes) fragment() *build.Fragment {
	f := &build.Fragment{
		RunTime: true,
		Options: map[string]tree.Value{}, Tags: map[string]tree.Value{}, Leaves: map[string]tree.Value{},
	}
	for _, k := range Kinds() {
		into := map[Kind]map[string]tree.Value{Options: f.Options, Tags: f.Tags, Values: f.Leaves}[k]
		for name, e := range c.kind(k) {
			switch {
			case !e.Removed:
				into[name] = e.value(name)
			case k == Tags:
				f.Removed = append(f.Removed, ec2.TagPath(name))
			case k == Values:
				f.Removed = append(f.Removed, name)
			}
		}
	}
	return f
}

func (e Entry) value(name string) tree.Value {
	place := fmt.Sprintf("set at run time, %s, by %s", e.Time.UTC().Format(time.RFC3339), e.By)
	return tree.Value{Bytes: e.Value, Mtime: e.Time, Origin: tree.Origin{Kind: tree.Stated, Place: place, Key: name}}
}

// A Draft holds changes that are not in force yet. Work on one draft at a time.
type Draft struct {
	overlay *Overlay
	id      string
	state   *state
}

// Draft returns a draft that starts from the kept changes, to edit those of the instance with this id.
func (o *Overlay) Draft(id string) *Draft {
	s := o.current()
	d := &Draft{o, id, &state{instances: maps.Clone(s.instances)}}
	d.state.instances[id] = s.of(id).clone()
	return d
}

func (d *Draft) own(k Kind) map[string]Entry { return d.state.instances[d.id].kind(k) }

// Set gives name a value.
func (d *Draft) Set(k Kind, name string, value []byte, by Stamp) {
	d.own(k)[name] = Entry{Value: value, Time: by.Time.UTC(), By: by.By}
}

// Remove takes name out of the tree, even if another source states it. Options cannot be removed, only reset.
func (d *Draft) Remove(k Kind, name string, by Stamp) {
	d.own(k)[name] = Entry{Removed: true, Time: by.Time.UTC(), By: by.By}
}

// Reset drops what was set or removed, so that the other sources count again. It reports whether there was anything to
// drop.
func (d *Draft) Reset(k Kind, name string) bool {
	_, was := d.own(k)[name]
	delete(d.own(k), name)
	return was
}

// ResetAll drops all changes of a kind for the instance with this id.
func (d *Draft) ResetAll(id string, k Kind) {
	c := d.state.instances[id].clone()
	clear(c.kind(k))
	d.state.instances[id] = c
}

// Fragment returns what the draft states for its instance.
func (d *Draft) Fragment() *build.Fragment { return d.state.of(d.id).fragment() }

// Commit writes the draft to the file, and then makes it the state of the overlay.
func (d *Draft) Commit() error {
	maps.DeleteFunc(d.state.instances, func(_ string, c changes) bool { return c.len() == 0 })
	text, err := d.state.text()
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fmt.Errorf("keep the change: %s would be longer than %d bytes", d.overlay.path, maxFile)
	}
	if err := atomicfile.Write(d.overlay.path, text, 0o600); err != nil {
		return fmt.Errorf("keep the change: %w", err)
	}
	d.overlay.mu.Lock()
	defer d.overlay.mu.Unlock()
	d.overlay.state = d.state
	return nil
}

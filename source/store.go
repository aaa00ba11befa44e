package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Store keeps the running snapshot of one instance. Snapshot never blocks; Reload and Rebuild run
// one at a time, and hand the new snapshot to the doors in the order they were given.
type Store struct {
	env     func() Env
	sources []Source
	doors   []Door
	current atomic.Pointer[Snapshot]

	mu        sync.Mutex  // one change at a time
	fragments []*Fragment // the last good one of each source
	loaded    atomic.Pointer[time.Time]
	statedID  atomic.Pointer[string]
}

// NewStore returns a store without a snapshot: call Reload, and before it Restore if there is one to go on from. env is asked at each build.
func NewStore(env func() Env, sources ...Source) *Store {
	return &Store{env: env, sources: sources}
}

// Attach adds a door. The mount comes before HTTP, so that whatever HTTP has shown is already on the
// mount. A door that is attached after the first Reload gets the running snapshot at once.
func (s *Store) Attach(d Door) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors = append(s.doors, d)
	if cur := s.current.Load(); cur != nil {
		d.Publish(cur)
	}
}

// Restore makes snap, the last one of a predecessor, the running snapshot before the first Reload: what is
// the same stays the same node, and should the input be faulty by now it goes on being served.
func (s *Store) Restore(snap *Snapshot) { s.current.Store(snap) }

// errNotRead is why a snapshot that was restored cannot be changed yet.
var errNotRead = errors.New("the sources have not been read successfully since the start: mend them first (imdsfs status tells the faults)")

// Snapshot is the running snapshot, nil before the first successful Reload or Restore.
func (s *Store) Snapshot() *Snapshot { return s.current.Load() }

// Reload asks every source anew, builds, checks and publishes. On an error (Faults if the input is
// at fault) the running snapshot stays.
func (s *Store) Reload(ctx context.Context) (Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fragments := make([]*Fragment, len(s.sources))
	var faults Faults
	for i, src := range s.sources {
		f, err := load(ctx, src, fragments[:i])
		var bad Faults
		switch {
		case errors.As(err, &bad):
			faults = append(faults, bad...)
		case err != nil:
			return Change{}, fmt.Errorf("source %s: %w", src.Name(), err)
		}
		fragments[i] = f
	}
	if len(faults) > 0 {
		return Change{}, s.allFaults(faults, fragments)
	}
	change, err := s.publish(fragments)
	if err == nil {
		now := s.env().Now
		s.loaded.Store(&now)
	}
	return change, err
}

func load(ctx context.Context, src Source, before []*Fragment) (*Fragment, error) {
	if belongs, ok := src.(InstanceSource); ok {
		return belongs.LoadFor(ctx, idIn(before))
	}
	return src.Load(ctx)
}

// idIn is the instance id that fragments state, "" if none. What was changed at run time does not count: it says
// something of that instance, and makes no other of it.
func idIn(fragments []*Fragment) (id string) {
	for _, f := range fragments {
		if f == nil || f.RunTime {
			continue
		}
		if v, ok := f.Leaves["meta-data/instance-id"]; ok {
			id = string(v.Bytes)
		}
	}
	return id
}

// StatedID is the instance id that the sources gave when they were last read and found good, without what was
// changed at run time; "" for an instance without one. ok is false before that.
func (s *Store) StatedID() (id string, ok bool) {
	if p := s.statedID.Load(); p != nil {
		return *p, true
	}
	return "", false
}

// Loaded is when the sources were last read and found good; zero before the first time in this process.
func (s *Store) Loaded() time.Time {
	if t := s.loaded.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Sources are the names of the sources, the later wins.
func (s *Store) Sources() []string {
	names := make([]string, len(s.sources))
	for i, src := range s.sources {
		names[i] = src.Name()
	}
	return names
}

// allFaults adds to the faults that the sources found those that a build finds in what they could
// make out, so that the user mends all at once.
func (s *Store) allFaults(faults Faults, fragments []*Fragment) Faults {
	fragments = slices.DeleteFunc(fragments, func(f *Fragment) bool { return f == nil })
	var more Faults
	if _, err := Build(s.current.Load(), s.env(), fragments...); errors.As(err, &more) {
		faults = append(faults, more...)
	}
	faults.Sort()
	return faults
}

// Rebuild builds from what the sources said last, when Snapshot.Refresh has come.
func (s *Store) Rebuild() (Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fragments == nil {
		return Change{}, errNotRead
	}
	return s.publish(s.fragments)
}

// Update replaces what the source called name said last by what edit returns, which is told the id as
// [Store.StatedID] is. If the outcome is good, commit gets it, to refuse it or to make the change durable, and if that
// succeeds it is published. Otherwise nothing changes. Updates and reloads run one at a time.
func (s *Store) Update(name string, edit func(id string) (*Fragment, error), commit func(next *Snapshot) error) (Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sources, func(src Source) bool { return src.Name() == name })
	if i < 0 {
		return Change{}, fmt.Errorf("no source is called %q", name)
	}
	if s.fragments == nil {
		return Change{}, errNotRead
	}
	f, err := edit(idIn(s.fragments))
	if err != nil {
		return Change{}, err
	}
	fragments := slices.Clone(s.fragments)
	fragments[i] = f
	next, err := Build(s.current.Load(), s.env(), fragments...)
	if err != nil {
		return Change{}, err
	}
	if err := commit(next); err != nil {
		return Change{}, err
	}
	return s.show(next, fragments), nil
}

func (s *Store) publish(fragments []*Fragment) (Change, error) {
	next, err := Build(s.current.Load(), s.env(), fragments...)
	if err != nil {
		return Change{}, err
	}
	return s.show(next, fragments), nil
}

func (s *Store) show(next *Snapshot, fragments []*Fragment) Change {
	old := s.current.Load()
	s.fragments = fragments
	id := idIn(fragments)
	s.statedID.Store(&id)
	s.current.Store(next)
	for _, d := range s.doors {
		d.Publish(next)
	}
	return Diff(old, next)
}

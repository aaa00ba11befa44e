package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
)

// loadPatience is how long a reload waits for a source whose last good fragment it can use instead.
const loadPatience = 3 * time.Second

// A Store keeps the running snapshot of one instance, and the last good fragment, its age and the last error of each
// source. Snapshot never blocks. Sources are loaded in parallel and outside the store's lock; snapshots are published one
// at a time.
type Store struct {
	env      func() build.Env
	patience time.Duration
	inTurn   bool // see LoadInTurn
	current  atomic.Pointer[build.Snapshot]
	statedID atomic.Pointer[string]
	changed  atomic.Pointer[func()]
	status   atomic.Pointer[[]Status]

	reloading sync.Mutex // one reload at a time; held while sources load

	mu        sync.Mutex // one publish at a time
	sources   []*entry
	ready     bool // every source has a fragment in force
	doors     []Door
	observers []func(build.Change, time.Duration)
}

// A Status is the state of one source.
type Status struct {
	Name   string
	Loaded time.Time // when it was last read successfully; zero: never
	Err    error     // why it could not be read since then; nil: it could
}

// NewStore returns a store without a snapshot. Call Reload next, or Restore and then Reload to continue from a
// predecessor's snapshot. Later sources win. env is called at each build.
func NewStore(env func() build.Env, sources ...Source) *Store {
	s := &Store{env: env, patience: loadPatience}
	for _, src := range sources {
		s.sources = append(s.sources, &entry{Source: src})
	}
	return s
}

// Attach adds a door. Attach the mount before HTTP: then whatever HTTP shows is already on the mount. A door that is
// attached after the first Reload gets the running snapshot at once.
func (s *Store) Attach(d Door) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors = append(s.doors, d)
	if cur := s.current.Load(); cur != nil {
		d.Publish(cur)
	}
}

// Observe registers f, which the store calls after each publish with the change and the time that the doors took.
func (s *Store) Observe(f func(change build.Change, took time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, f)
}

// Restore makes snap, a predecessor's last snapshot, the running one. Call it before the first Reload: nodes that are
// the same stay the same, and snap is still served if the input is faulty by now.
func (s *Store) Restore(snap *build.Snapshot) { s.current.Store(snap) }

// errNotRead says why a restored snapshot cannot be changed yet.
var errNotRead = errors.New("the sources have not been read successfully since the start: correct them first (imdsfs status lists the faults)")

// Snapshot returns the running snapshot, nil before the first successful Reload or Restore.
func (s *Store) Snapshot() *build.Snapshot { return s.current.Load() }

// Watch starts every source that can watch, until ctx ends. changed is called when [Store.Refresh] may find something
// new; it must not block. warn gets the name of a source that cannot watch, or can no longer, and the error.
func (s *Store) Watch(ctx context.Context, changed func(), warn func(name string, err error)) {
	s.changed.Store(&changed)
	for _, e := range s.sources {
		w, ok := e.Source.(Watcher)
		if !ok {
			continue
		}
		failed := func(err error) { warn(e.Name(), err) }
		if err := w.Watch(ctx, changed, failed); err != nil {
			failed(err)
		}
	}
	if s.hasLateOutcome() {
		changed()
	}
}

// A StaleError says that some sources could not be read. Their last good fragments are in force, beside what the other
// sources say now.
type StaleError struct {
	Sources []string
	Err     error
}

func (e *StaleError) Error() string { return e.Err.Error() }
func (e *StaleError) Unwrap() error { return e.Err }

// Reload loads every source again, builds, checks and publishes. If a source cannot be read or does not answer, its last
// good fragment is used, and besides the change there is a [*StaleError]. Any other error means that nothing has changed:
// faults of the input ([problem.Faults]), or a source that has never been read.
func (s *Store) Reload(ctx context.Context) (build.Change, error) { return s.reload(ctx, false) }

// Refresh is Reload after a call of changed: if a source answers late, and no reload has come since it was asked, its
// answer is used and it is not asked again.
func (s *Store) Refresh(ctx context.Context) (build.Change, error) { return s.reload(ctx, true) }

func (s *Store) reload(ctx context.Context, takeLate bool) (build.Change, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	outcomes := s.loadAll(ctx, takeLate)
	if err := ctx.Err(); err != nil {
		return build.Change{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.noteStatus()
	t := s.take(ctx, outcomes)
	switch {
	case len(t.faults) > 0:
		return build.Change{}, s.allFaults(t.faults, t.fragments)
	case slices.Contains(t.fragments, nil):
		return build.Change{}, t.failed
	}
	next, err := build.Build(s.current.Load(), s.env(), t.fragments...)
	if err != nil {
		return build.Change{}, err
	}
	now := s.env().Now
	for i, e := range s.sources {
		if e.inForce = t.fragments[i]; e.err == nil {
			e.loaded = now
		}
	}
	s.ready = true
	change := s.show(next)
	if t.failed != nil {
		return change, &StaleError{t.stale, t.failed}
	}
	return change, nil
}

// idIn returns the instance id that fragments give, or "". Changes made at run time do not count: they describe that
// instance and do not make it another one.
func idIn(fragments []*build.Fragment) (id string) {
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

// StatedID returns the instance id that the sources gave when they were last read successfully, without changes made at
// run time; "" for an instance without an id. ok is false before the first successful read.
func (s *Store) StatedID() (id string, ok bool) {
	if p := s.statedID.Load(); p != nil {
		return *p, true
	}
	return "", false
}

// Status returns the state of each source, in the order of the sources. It does not wait for a publish.
func (s *Store) Status() []Status {
	if p := s.status.Load(); p != nil {
		return *p
	}
	all := make([]Status, len(s.sources))
	for i, e := range s.sources {
		all[i].Name = e.Name()
	}
	return all
}

func (s *Store) noteStatus() {
	all := make([]Status, len(s.sources))
	for i, e := range s.sources {
		all[i] = Status{e.Name(), e.loaded, e.err}
	}
	s.status.Store(&all)
}

// allFaults adds the faults that a build finds to those that the sources found, so that the user sees all of them at once.
func (s *Store) allFaults(faults problem.Faults, fragments []*build.Fragment) problem.Faults {
	fragments = slices.DeleteFunc(fragments, func(f *build.Fragment) bool { return f == nil })
	var more problem.Faults
	if _, err := build.Build(s.current.Load(), s.env(), fragments...); errors.As(err, &more) {
		faults = append(faults, more...)
	}
	faults.Sort()
	return faults
}

// fragments returns the last good fragment of every source, or errNotRead if a source has none.
func (s *Store) fragments() ([]*build.Fragment, error) {
	if !s.ready {
		return nil, errNotRead
	}
	all := make([]*build.Fragment, len(s.sources))
	for i, e := range s.sources {
		all[i] = e.inForce
	}
	return all, nil
}

// Rebuild builds from the last good fragments and publishes. Call it when Snapshot.Refresh has come.
func (s *Store) Rebuild() (build.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fragments, err := s.fragments()
	if err != nil {
		return build.Change{}, err
	}
	next, err := build.Build(s.current.Load(), s.env(), fragments...)
	if err != nil {
		return build.Change{}, err
	}
	return s.show(next), nil
}

// Update replaces the fragment of the source called name by the one that edit returns. edit gets the id that
// [Store.StatedID] returns. If the build succeeds, commit gets the new snapshot, to refuse it or to make the change
// durable; if commit succeeds too, the snapshot is published. Otherwise nothing changes. Update does not wait for sources
// that are being loaded.
func (s *Store) Update(name string, edit func(id string) (*build.Fragment, error), commit func(next *build.Snapshot) error) (build.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sources, func(e *entry) bool { return e.Name() == name })
	if i < 0 {
		return build.Change{}, fmt.Errorf("no source is called %q", name)
	}
	fragments, err := s.fragments()
	if err != nil {
		return build.Change{}, err
	}
	f, err := edit(idIn(fragments))
	if err != nil {
		return build.Change{}, err
	}
	fragments[i] = f
	next, err := build.Build(s.current.Load(), s.env(), fragments...)
	if err != nil {
		return build.Change{}, err
	}
	if err := commit(next); err != nil {
		return build.Change{}, err
	}
	s.sources[i].inForce, s.sources[i].good = f, f
	return s.show(next), nil
}

// show makes next the running snapshot, publishes it to the doors in their order, and calls the observers.
func (s *Store) show(next *build.Snapshot) build.Change {
	old := s.current.Load()
	fragments, _ := s.fragments()
	id := idIn(fragments)
	s.statedID.Store(&id)
	s.current.Store(next)
	start := time.Now()
	for _, d := range s.doors {
		d.Publish(next)
	}
	took := time.Since(start)
	change := build.Diff(old, next)
	for _, observe := range s.observers {
		observe(change, took)
	}
	return change
}

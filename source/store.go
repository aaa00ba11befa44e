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
	ready     bool // every source has a good fragment
	doors     []Door
	observers []func(build.Change, time.Duration)
}

// An entry is a source and its state.
type entry struct {
	Source
	run *run // the Load that runs, or whose outcome has not been taken yet; guarded by the store's reloading

	// Guarded by the store's mu:
	fragment *build.Fragment // the last good one; nil at first
	loaded   time.Time       // when fragment was loaded
	err      error           // of the last Load; nil if it succeeded
}

// A run is one call of Load.
type run struct {
	done    chan struct{} // closed once outcome is set
	outcome outcome
	late    bool // no reload waits for it any longer; changed is called when it ends
	stale   bool // another reload has begun since, and the outcome may be too old for it
}

// An outcome is what Load returns.
type outcome struct {
	fragment *build.Fragment
	err      error
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

// LoadInTurn has Reload load one source after the other, on the goroutine that calls it, for whoever reads with the
// rights of one thread. Call it before the first Reload.
func (s *Store) LoadInTurn() { s.inTurn = true }

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

// Watch starts every source that can watch, until ctx ends. changed is called when a Reload may find something new; it
// must not block. warn gets the name of a source that cannot watch, or can no longer, and the error.
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
}

// Reload loads every source, builds, checks and publishes. If a source cannot be read or does not answer, Reload uses its
// last good fragment, and returns an error besides the change. Faults of the input ([problem.Faults]), and a source that
// has never been read, change nothing: the running snapshot stays as a whole.
func (s *Store) Reload(ctx context.Context) (build.Change, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	outcomes := s.loadAll(ctx)
	if err := ctx.Err(); err != nil {
		return build.Change{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.noteStatus()
	fragments, faults, failed := s.take(ctx, outcomes)
	switch {
	case len(faults) > 0:
		return build.Change{}, s.allFaults(faults, fragments)
	case slices.Contains(fragments, nil):
		return build.Change{}, failed
	}
	next, err := build.Build(s.current.Load(), s.env(), fragments...)
	if err != nil {
		return build.Change{}, err
	}
	now := s.env().Now
	for i, e := range s.sources {
		if e.fragment = fragments[i]; e.err == nil {
			e.loaded = now
		}
	}
	s.ready = true
	return s.show(next), failed
}

// loadAll loads all sources in parallel, except every [InstanceSource], whose outcome stays empty.
func (s *Store) loadAll(ctx context.Context) []outcome {
	outcomes := make([]outcome, len(s.sources))
	var running sync.WaitGroup
	for i, e := range s.sources {
		if _, belongs := e.Source.(InstanceSource); belongs {
			continue
		}
		if s.inTurn {
			outcomes[i].fragment, outcomes[i].err = e.Load(ctx)
			continue
		}
		s.mu.Lock()
		spare := e.fragment != nil
		s.mu.Unlock()
		running.Go(func() { outcomes[i] = s.load(ctx, e, spare) })
	}
	running.Wait()
	return outcomes
}

// load loads a source. If the source has a good fragment already (spare), load stops waiting after s.patience, and a later
// reload takes the outcome.
func (s *Store) load(ctx context.Context, e *entry, spare bool) outcome {
	var enough <-chan time.Time
	if spare {
		timer := time.NewTimer(s.patience)
		defer timer.Stop()
		enough = timer.C
	}
	for {
		r := e.run
		switch {
		case r == nil:
			r = &run{done: make(chan struct{})}
			e.run = r
			go func() {
				defer close(r.done)
				r.outcome.fragment, r.outcome.err = e.Load(ctx)
			}()
		case !isClosed(r.done):
			r.stale = true
		}
		select {
		case <-r.done:
			e.run = nil
			givenUp := errors.Is(r.outcome.err, context.Canceled) && ctx.Err() == nil // an earlier reload's context ended
			if !r.stale && !givenUp {
				return r.outcome
			}
		case <-enough:
			s.tellWhenDone(r)
			return outcome{err: fmt.Errorf("no answer within %v", s.patience)}
		case <-ctx.Done():
			s.tellWhenDone(r)
			return outcome{err: ctx.Err()}
		}
	}
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// tellWhenDone calls changed when r ends, so that a later reload takes its outcome.
func (s *Store) tellWhenDone(r *run) {
	if r.late {
		return
	}
	r.late = true
	go func() {
		<-r.done
		if changed := s.changed.Load(); changed != nil {
			(*changed)()
		}
	}()
}

// take returns the fragments to build from, the faults of the input, and the errors of sources that could not be read. For
// such a source the fragment is the last good one, or nil.
func (s *Store) take(ctx context.Context, outcomes []outcome) (fragments []*build.Fragment, faults problem.Faults, failed error) {
	for i, e := range s.sources {
		o := outcomes[i]
		if belongs, ok := e.Source.(InstanceSource); ok {
			o.fragment, o.err = belongs.LoadFor(ctx, idIn(fragments))
		}
		var bad problem.Faults
		switch e.err = o.err; {
		case errors.As(o.err, &bad):
			faults = append(faults, bad...)
		case o.err != nil:
			o.fragment = e.fragment
			failed = errors.Join(failed, fmt.Errorf("source %s: %w", e.Name(), o.err))
		}
		fragments = append(fragments, o.fragment)
	}
	return fragments, faults, failed
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
		all[i] = e.fragment
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
	s.sources[i].fragment = f
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

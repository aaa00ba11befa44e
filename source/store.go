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

// loadPatience is how long a reload waits for a source that it can do without: one of which there is a good fragment.
const loadPatience = 3 * time.Second

// A Store keeps the running snapshot of one instance, and of each source the last good fragment, its age and its last
// error. Snapshot never blocks. Sources are loaded outside of the store's lock and at the same time; changes come into
// force one at a time.
type Store struct {
	env      func() build.Env
	patience time.Duration
	current  atomic.Pointer[build.Snapshot]
	statedID atomic.Pointer[string]
	changed  atomic.Pointer[func()]
	status   atomic.Pointer[[]Status]

	reloading sync.Mutex // one reload at a time; held over loading

	mu        sync.Mutex // one publish at a time
	sources   []*entry
	ready     bool // every source has a good fragment
	doors     []Door
	observers []func(build.Change, time.Duration)
}

// An entry is a source and what is known of it.
type entry struct {
	Source
	run *run // the Load that runs, or whose outcome nobody has taken yet; under the store's reloading

	// under the store's mu
	fragment *build.Fragment // the last good one, nil before
	loaded   time.Time       // when that was
	err      error           // of the last Load, nil if it went well
}

// A run is one call of Load.
type run struct {
	done    chan struct{} // closed behind outcome
	outcome outcome
	late    bool // nobody waits; who does at its end is told by changed
	stale   bool // another reload has begun meanwhile, for which the outcome may be too old
}

// An outcome is what Load returned.
type outcome struct {
	fragment *build.Fragment
	err      error
}

// A Status is what is known of one source.
type Status struct {
	Name   string
	Loaded time.Time // when it was last read and found good; zero before
	Err    error     // why it could not be read since; nil if it could
}

// NewStore returns a store without a snapshot: call Reload, and before it Restore if there is one to go on from. Of
// sources, the later wins. env is asked at each build.
func NewStore(env func() build.Env, sources ...Source) *Store {
	s := &Store{env: env, patience: loadPatience}
	for _, src := range sources {
		s.sources = append(s.sources, &entry{Source: src})
	}
	return s
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

// Observe has f called after each publish, with what changed and how long the doors took to show it.
func (s *Store) Observe(f func(change build.Change, took time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, f)
}

// Restore makes snap, the last one of a predecessor, the running snapshot before the first Reload: what is
// the same stays the same node, and should the input be faulty by now it goes on being served.
func (s *Store) Restore(snap *build.Snapshot) { s.current.Store(snap) }

// errNotRead is why a snapshot that was restored cannot be changed yet.
var errNotRead = errors.New("the sources have not been read successfully since the start: correct them first (imdsfs status lists the faults)")

// Snapshot is the running snapshot, nil before the first successful Reload or Restore.
func (s *Store) Snapshot() *build.Snapshot { return s.current.Load() }

// Watch has the sources that can watch do so until ctx ends. changed is called when a Reload would find something new;
// it does not block. warn gets the name of a source that cannot watch, or no longer.
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

// Reload asks every source anew, builds, checks and publishes. Where a source cannot be read, or does not answer, its
// last good fragment stands in for it, and the error says so beside the change. Faults of the input
// ([problem.Faults]) change nothing: the running snapshot stays as a whole. So it does where a source has never been read.
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

// loadAll loads all sources at the same time, but for those of an instance. Whoever is not waited for any longer has no
// outcome.
func (s *Store) loadAll(ctx context.Context) []outcome {
	outcomes := make([]outcome, len(s.sources))
	var running sync.WaitGroup
	for i, e := range s.sources {
		if _, belongs := e.Source.(InstanceSource); belongs {
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

// load loads a source. If there is a fragment to spare it waits for so long only; the next reload takes up what comes
// later.
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
			givenUp := errors.Is(r.outcome.err, context.Canceled) && ctx.Err() == nil // with a reload before
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

// tellWhenDone has a reload take up what a run comes to that is not waited for any longer.
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

// take is the fragments to build from, the faults of the input, and the errors of sources that could not be read, for
// which the last good fragment stands in (nil without one).
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

// idIn is the instance id that fragments state, "" if none. What was changed at run time does not count: it says
// something of that instance, and makes no other of it.
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

// StatedID is the instance id that the sources gave when they were last read and found good, without what was
// changed at run time; "" for an instance without one. ok is false before that.
func (s *Store) StatedID() (id string, ok bool) {
	if p := s.statedID.Load(); p != nil {
		return *p, true
	}
	return "", false
}

// Status is what is known of each source, the later wins. It does not wait for a publish.
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

// allFaults adds to the faults that the sources found those that a build finds in what they could
// make out, so that the user mends all at once.
func (s *Store) allFaults(faults problem.Faults, fragments []*build.Fragment) problem.Faults {
	fragments = slices.DeleteFunc(fragments, func(f *build.Fragment) bool { return f == nil })
	var more problem.Faults
	if _, err := build.Build(s.current.Load(), s.env(), fragments...); errors.As(err, &more) {
		faults = append(faults, more...)
	}
	faults.Sort()
	return faults
}

// fragments are the last good ones of all sources; errNotRead if there is none of some.
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

// Rebuild builds from what the sources said last, when Snapshot.Refresh has come.
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

// Update replaces what the source called name said last by what edit returns, which is told the id as
// [Store.StatedID] is. If the outcome is good, commit gets it, to refuse it or to make the change durable, and if that
// succeeds it is published. Otherwise nothing changes. An update does not wait for sources that are being loaded.
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

// show makes next the running snapshot, hands it to the doors in their order, and tells the observers.
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

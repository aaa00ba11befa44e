package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
)

// An entry is a source and its state.
type entry struct {
	Source
	run *run // the Load that runs, or that ended when no reload waited for it any more; guarded by the store's reloading

	// Guarded by the store's mu:
	good    *build.Fragment // of the last Load that succeeded; nil at first
	inForce *build.Fragment // what the running snapshot is built from; nil before
	loaded  time.Time       // when a good fragment came into force
	err     error           // of the last Load; nil if it succeeded
}

// A run is one call of Load.
type run struct {
	done    chan struct{} // closed once outcome is set
	outcome outcome
	late    bool // no reload waits for it any longer; changed is called when it ends
	stale   bool // another reload has begun since, for which the outcome may be too old
}

// An outcome is what Load returns. With an error other than faults, the fragment is one that an older run has come to.
type outcome struct {
	fragment *build.Fragment
	err      error
}

// LoadInTurn makes Reload load one source after the other, on the goroutine that calls it: for a caller whose rights are
// those of one thread. Call it before the first Reload.
func (s *Store) LoadInTurn() { s.inTurn = true }

// loadAll loads all sources in parallel, except every [InstanceSource], whose outcome stays empty.
func (s *Store) loadAll(ctx context.Context, takeLate bool) []outcome {
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
		running.Go(func() { outcomes[i] = s.load(ctx, e, takeLate) })
	}
	running.Wait()
	return outcomes
}

// load loads a source. If there is a tree to serve meanwhile, load waits no longer than s.patience; changed is called when
// the source answers. A run that an earlier reload has begun may be too old for this one: its fragment is better than the
// one before, but the source is asked again.
func (s *Store) load(ctx context.Context, e *entry, takeLate bool) outcome {
	var enough <-chan time.Time
	if s.current.Load() != nil {
		timer := time.NewTimer(s.patience)
		defer timer.Stop()
		enough = timer.C
	}
	var older *build.Fragment
	r := e.run
	switch {
	case r == nil:
	case !isClosed(r.done):
		r.stale = true
	case takeLate && !r.stale && !errors.Is(r.outcome.err, context.Canceled): // canceled: with the reload that began it
		e.run = nil
		return r.outcome
	}
	for {
		if r == nil {
			r = e.start(ctx)
		}
		select {
		case <-r.done:
			e.run = nil
			if !r.late { // it was begun here
				return r.outcome
			}
			if r.outcome.err == nil {
				older = r.outcome.fragment
			}
			r = nil
		case <-enough:
			s.tellWhenDone(r)
			return outcome{older, fmt.Errorf("no answer within %v", s.patience)}
		case <-ctx.Done():
			s.tellWhenDone(r)
			return outcome{older, ctx.Err()}
		}
	}
}

// start calls Load on a goroutine of its own.
func (e *entry) start(ctx context.Context) *run {
	r := &run{done: make(chan struct{})}
	e.run = r
	go func() {
		defer close(r.done)
		r.outcome.fragment, r.outcome.err = e.Load(ctx)
	}()
	return r
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// tellWhenDone calls changed when r ends, so that a refresh takes its outcome.
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

// hasLateOutcome reports whether a run has ended that no reload waits for.
func (s *Store) hasLateOutcome() bool {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	for _, e := range s.sources {
		if e.run != nil && isClosed(e.run.done) {
			return true
		}
	}
	return false
}

// taken is what a reload has to build from.
type taken struct {
	fragments []*build.Fragment // of each source: what it says now, else the last good one, else nil
	faults    problem.Faults    // of the input
	stale     []string          // the names of sources that could not be read
	failed    error             // why
}

// take takes the outcomes of all sources, and asks each [InstanceSource].
func (s *Store) take(ctx context.Context, outcomes []outcome) (t taken) {
	for i, e := range s.sources {
		o := outcomes[i]
		if belongs, ok := e.Source.(InstanceSource); ok {
			o.fragment, o.err = belongs.LoadFor(ctx, idIn(t.fragments))
		}
		var bad problem.Faults
		switch e.err = o.err; {
		case errors.As(o.err, &bad):
			t.faults = append(t.faults, bad...)
		case o.err != nil:
			if o.fragment != nil {
				e.good = o.fragment
			}
			o.fragment = e.good
			t.stale = append(t.stale, e.Name())
			t.failed = errors.Join(t.failed, fmt.Errorf("source %s: %w", e.Name(), o.err))
		default:
			e.good = o.fragment
		}
		t.fragments = append(t.fragments, o.fragment)
	}
	return t
}

package source

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"golang.org/x/sys/unix"
)

// reborn is a snapshot as a successor gets it.
func reborn(t *testing.T, f *build.Fragment) *build.Snapshot {
	t.Helper()
	s, err := build.Build(nil, testEnv, f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again, err := build.ParseSnapshot(data)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestARestoredSnapshotIsServedWhileTheInputIsFaulty(t *testing.T) {
	old := reborn(t, least("meta-data/tier", "gold"))
	src := &scripted{name: "scripted", err: problem.Faults{{Place: "web.toml:1", Text: "no TOML"}}}
	store := NewStore(environment, src)
	store.Restore(old)
	if _, err := store.Reload(t.Context()); err == nil {
		t.Fatal("a faulty input was taken")
	}
	if store.Snapshot() != old || text(store.Snapshot(), "meta-data/tier") != "gold" {
		t.Error("the restored tree is gone")
	}
	if _, err := store.Rebuild(); !errors.Is(err, errNotRead) {
		t.Errorf("built from nothing: %v", err)
	}
	if _, err := store.Update("scripted", func(string) (*build.Fragment, error) { return &build.Fragment{}, nil }, func(*build.Snapshot) error { return nil }); !errors.Is(err, errNotRead) {
		t.Errorf("changed: %v", err)
	}
	src.fragment, src.err = least("meta-data/tier", "silver"), nil
	change, err := store.Reload(t.Context())
	if err != nil || len(change.Changed) != 1 || text(store.Snapshot(), "meta-data/tier") != "silver" {
		t.Errorf("after it was mended: %+v, %v", change, err)
	}
}

func reload(t *testing.T, s *Store) build.Change {
	t.Helper()
	change, err := s.Reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func TestASourceThatFailsLeavesTheOthersFresh(t *testing.T) {
	host, file := &scripted{name: "host", fragment: states("meta-data/tier", "gold")}, &scripted{name: "file", fragment: least()}
	now := testEnv
	store := NewStore(func() build.Env { return now }, host, file)
	reload(t, store)
	first := now.Now
	host.err, host.fragment = errors.New("no such machine"), nil
	file.fragment = least("meta-data/rack", "7")
	now.Now = now.Now.Add(time.Hour)
	change, err := store.Reload(t.Context())
	wantStale(t, err, "host", "no such machine")
	if snap := store.Snapshot(); !slices.Contains(change.Added, "meta-data/rack") || text(snap, "meta-data/rack") != "7" || text(snap, "meta-data/tier") != "gold" {
		t.Errorf("changed %+v; rack %s, tier %s", change, text(snap, "meta-data/rack"), text(snap, "meta-data/tier"))
	}
	status := store.Status()
	if s := status[0]; s.Name != "host" || !s.Loaded.Equal(first) || s.Err == nil {
		t.Errorf("host: %+v", s)
	}
	if s := status[1]; s.Name != "file" || !s.Loaded.Equal(now.Now) || s.Err != nil {
		t.Errorf("file: %+v", s)
	}
	if _, err := store.Rebuild(); err != nil {
		t.Errorf("rebuilt: %v", err)
	}
}

func TestASourceThatHasNeverBeenReadIsNoneToDoWithout(t *testing.T) {
	store := NewStore(environment, &scripted{name: "host", err: errors.New("no such machine")}, &scripted{name: "file", fragment: least()})
	if _, err := store.Reload(t.Context()); err == nil || store.Snapshot() != nil {
		t.Errorf("%v, and a snapshot: %v", err, store.Snapshot() != nil)
	}
}

func TestFaultsOfOneSourceChangeNothingAsAWhole(t *testing.T) {
	host, file := &scripted{name: "host", fragment: states("meta-data/tier", "gold")}, &scripted{name: "file", fragment: least()}
	store := NewStore(environment, host, file)
	reload(t, store)
	before := store.Snapshot()
	host.fragment = states("meta-data/tier", "silver")
	file.fragment, file.err = least("meta-data/local-ipv4", "nowhere"), problem.Faults{{Place: "web.toml:1", Text: "unknown key"}}
	_, err := store.Reload(t.Context())
	var faults problem.Faults
	if !errors.As(err, &faults) || len(faults) != 2 {
		t.Errorf("both faults at once: %v", err)
	}
	if store.Snapshot() != before || text(before, "meta-data/tier") != "gold" {
		t.Error("the running snapshot has changed")
	}
}

// A slow source answers when it is let.
type slow struct {
	scripted
	let   chan struct{}
	begun chan struct{}
}

func newSlow(name string, f *build.Fragment) *slow {
	return &slow{scripted: scripted{name: name, fragment: f}, let: make(chan struct{}, 10), begun: make(chan struct{}, 10)}
}

func (s *slow) Load(ctx context.Context) (*build.Fragment, error) {
	s.begun <- struct{}{}
	<-s.let
	return s.scripted.Load(ctx)
}

func receive(t *testing.T, from <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-from:
	case <-time.After(kit.Patience):
		t.Fatalf("%s: not within %v", what, kit.Patience)
	}
}

// wantStale expects an error that names the source, beside a snapshot that holds the rest.
func wantStale(t *testing.T, err error, name, why string) {
	t.Helper()
	var stale *StaleError
	if !errors.As(err, &stale) || !slices.Equal(stale.Sources, []string{name}) || !strings.Contains(err.Error(), "source "+name+": "+why) {
		t.Errorf("the error is %v, want %s of %s", err, why, name)
	}
}

func TestASourceThatHangsLeavesTheOthersFresh(t *testing.T) {
	hanging := newSlow("host", states("meta-data/tier", "gold"))
	file := &scripted{name: "file", fragment: least()}
	store := NewStore(environment, hanging, file)
	store.patience = 50 * time.Millisecond
	hanging.let <- struct{}{}
	reload(t, store)
	receive(t, hanging.begun, "the first load")

	told := make(chan struct{}, 10)
	store.Watch(t.Context(), func() { told <- struct{}{} }, nil)
	hanging.fragment, file.fragment = states("meta-data/tier", "silver"), least("meta-data/rack", "7")
	_, err := store.Reload(t.Context())
	wantStale(t, err, "host", "no answer within")
	if snap := store.Snapshot(); text(snap, "meta-data/rack") != "7" || text(snap, "meta-data/tier") != "gold" {
		t.Errorf("rack %s, tier %s", text(snap, "meta-data/rack"), text(snap, "meta-data/tier"))
	}
	if err := store.Status()[0].Err; err == nil {
		t.Error("the status does not tell")
	}
	// It is not loaded twice at a time.
	_, err = store.Reload(t.Context())
	wantStale(t, err, "host", "no answer within")
	if len(hanging.begun) != 1 {
		t.Errorf("it was loaded %d times", len(hanging.begun))
	}
	// What it says in the end is older than the last reload: it is used, and the source is asked again.
	hanging.let <- struct{}{}
	receive(t, told, "the late answer")
	_, err = store.Refresh(t.Context())
	wantStale(t, err, "host", "no answer within")
	if snap := store.Snapshot(); text(snap, "meta-data/tier") != "silver" || len(hanging.begun) != 2 {
		t.Errorf("tier %s, loaded %d times", text(snap, "meta-data/tier"), len(hanging.begun))
	}
	// No reload has come since it was asked: a refresh takes the answer.
	hanging.fragment = states("meta-data/tier", "bronze")
	hanging.let <- struct{}{}
	receive(t, told, "the late answer")
	if _, err := store.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if snap := store.Snapshot(); text(snap, "meta-data/tier") != "bronze" || len(hanging.begun) != 2 || store.Status()[0].Err != nil {
		t.Errorf("tier %s, loaded %d times, %v", text(snap, "meta-data/tier"), len(hanging.begun), store.Status()[0].Err)
	}
}

// A reload that somebody asks for does not take an answer from before the question.
func TestAReloadAsksAgainWhatHasAnsweredLate(t *testing.T) {
	hanging := newSlow("host", least("meta-data/tier", "gold"))
	store := NewStore(environment, hanging)
	store.patience = 50 * time.Millisecond
	hanging.let <- struct{}{}
	reload(t, store)
	told := make(chan struct{}, 10)
	store.Watch(t.Context(), func() { told <- struct{}{} }, nil)
	_, err := store.Reload(t.Context())
	wantStale(t, err, "host", "no answer within")
	hanging.let <- struct{}{}
	receive(t, told, "the late answer")
	hanging.let <- struct{}{}
	hanging.fragment = least("meta-data/tier", "silver")
	reload(t, store)
	if got := text(store.Snapshot(), "meta-data/tier"); got != "silver" {
		t.Errorf("tier %s is from before the reload", got)
	}
}

// A successor has a tree to serve: it does not wait for a source that hangs, and takes up its answer.
func TestARestoredTreeIsServedWhileASourceHangs(t *testing.T) {
	hanging := newSlow("host", least("meta-data/tier", "silver"))
	store := NewStore(environment, hanging)
	store.patience = 50 * time.Millisecond
	store.Restore(reborn(t, least("meta-data/tier", "gold")))
	var stale *StaleError
	if _, err := store.Reload(t.Context()); err == nil || errors.As(err, &stale) {
		t.Errorf("nothing can have been published: %v", err)
	}
	if got := text(store.Snapshot(), "meta-data/tier"); got != "gold" {
		t.Errorf("tier %s", got)
	}
	hanging.let <- struct{}{}
	told := make(chan struct{}, 10)
	store.Watch(t.Context(), func() { told <- struct{}{} }, nil)
	receive(t, told, "the answer, before or after it is watched")
	if _, err := store.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if got := text(store.Snapshot(), "meta-data/tier"); got != "silver" {
		t.Errorf("tier %s", got)
	}
}

// What one source says while another is faulty is not lost when that one hangs afterwards.
func TestAGoodFragmentOfARefusedReloadIsKept(t *testing.T) {
	hanging, file := newSlow("host", states("meta-data/tier", "gold")), &scripted{name: "file", err: problem.Faults{{Place: "web.toml:1", Text: "unknown key"}}}
	store := NewStore(environment, hanging, file)
	store.patience = 50 * time.Millisecond
	store.Restore(reborn(t, least()))
	hanging.let <- struct{}{}
	if _, err := store.Reload(t.Context()); err == nil {
		t.Fatal("a faulty file was taken")
	}
	file.fragment, file.err = least(), nil
	_, err := store.Reload(t.Context())
	wantStale(t, err, "host", "no answer within")
	if got := text(store.Snapshot(), "meta-data/tier"); got != "gold" {
		t.Errorf("tier %s", got)
	}
	hanging.let <- struct{}{}
}

// Loading holds no lock: changes at run time and the status do not wait for it.
func TestAChangeAtRunTimeDoesNotWaitForASource(t *testing.T) {
	hanging := newSlow("host", least())
	store := NewStore(environment, hanging, &perInstance{scripted: scripted{name: "overlay"}})
	store.patience = 2 * kit.Patience
	hanging.let <- struct{}{}
	reload(t, store)
	receive(t, hanging.begun, "the first load")
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		if _, err := store.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	receive(t, hanging.begun, "the second load")
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		_, err := store.Update("overlay", func(string) (*build.Fragment, error) {
			return atRunTime(*states("meta-data/row", "2")), nil
		}, func(*build.Snapshot) error { return nil })
		if err != nil || text(store.Snapshot(), "meta-data/row") != "2" || len(store.Status()) != 2 {
			t.Errorf("a change at run time: %v", err)
		}
	}()
	receive(t, changed, "the change")
	select {
	case <-reloaded:
		t.Error("the reload has not waited for its source")
	default:
	}
	hanging.let <- struct{}{}
	receive(t, reloaded, "the reload")
}

// A source whose Load ends with the word of a context, for reasons of its own, is not loaded over and over.
func TestASourceMayReturnCanceled(t *testing.T) {
	store := NewStore(environment, &scripted{name: "host", err: context.Canceled}, &scripted{name: "file", fragment: least()})
	if _, err := store.Reload(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestSourcesAreLoadedOnTheCallersThreadIfAsked(t *testing.T) {
	src := &threadSource{}
	store := NewStore(environment, src)
	store.LoadInTurn()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	reload(t, store)
	if got, want := src.thread, unix.Gettid(); got != want {
		t.Errorf("loaded on thread %d, not on %d", got, want)
	}
}

// A threadSource notes the thread that loads it.
type threadSource struct{ thread int }

func (s *threadSource) Name() string { return "thread" }
func (s *threadSource) Load(context.Context) (*build.Fragment, error) {
	s.thread = unix.Gettid()
	return least(), nil
}

// A door that notes when it was told.
type notingDoor struct {
	name string
	log  *[]string
}

func (d notingDoor) Publish(*build.Snapshot) { *d.log = append(*d.log, d.name) }

func TestObserversAreToldBehindTheDoors(t *testing.T) {
	var log []string
	file := &scripted{name: "file", fragment: least()}
	store := NewStore(environment, file)
	store.Attach(notingDoor{"mount", &log})
	store.Attach(notingDoor{"http", &log})
	store.Observe(func(change build.Change, took time.Duration) {
		if took < 0 || !slices.Contains(change.Added, "meta-data/instance-id") {
			t.Errorf("%+v took %v", change, took)
		}
		log = append(log, "observer")
	})
	reload(t, store)
	if got := strings.Join(log, " "); got != "mount http observer" {
		t.Errorf("told in the order %s", got)
	}
}

// All sources are loaded at the same time.
func TestSourcesAreLoadedInParallel(t *testing.T) {
	var sources []Source
	var slows []*slow
	for _, name := range []string{"a", "b", "c"} {
		s := newSlow(name, least())
		sources, slows = append(sources, s), append(slows, s)
	}
	store := NewStore(environment, sources...)
	done := make(chan error, 1)
	go func() {
		_, err := store.Reload(t.Context())
		done <- err
	}()
	for _, s := range slows {
		receive(t, s.begun, s.name+" does not wait for another")
	}
	for _, s := range slows {
		s.let <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSourcesByName(t *testing.T) {
	was := kinds
	defer func() { kinds = was }()
	kinds = nil
	Register(Kind{Name: "host", Order: 1, New: func(Setup) Source { return &scripted{name: "host"} }})
	Register(Kind{Name: "file", Order: 2, New: func(s Setup) Source { return s.File }})
	file := &scripted{name: "file"}
	for _, c := range []struct {
		file  Source
		names []string
		want  string
	}{
		{nil, nil, "host"},
		{file, nil, "file"},
		{file, []string{"host", "file"}, "host file"},
		{file, []string{"file", "host"}, "file host"},
		{nil, []string{"file"}, "the source file has nothing to read"},
		{nil, []string{"cloud"}, `no source is called "cloud": the sources are host, file`},
	} {
		sources, err := Make(Setup{File: c.file}, c.names...)
		var got []string
		for _, s := range sources {
			got = append(got, s.Name())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v of %v: %v, want %s", c.names, c.file, got, c.want)
		}
	}
}

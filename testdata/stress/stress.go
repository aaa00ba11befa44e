// Package stress reads a mount from processes of its own while it changes, and counts what they saw
// and must not see: a value that is older than what was published, a mixture of two, a size that is
// not the length, a descriptor that does not keep what it opened, a name that is missing or should
// be gone. It is for tests, which call [Main] first thing in their TestMain:
//
//	stress.Run(t, stress.Target{Dir: dir, Bind: bind, Change: change})
//
// The directory holds what [Names] lists and the file "value", which holds [Payload]. One writer
// raises the version of the value, another that of the names; the versions that every process must
// see by now stand in shared memory.
package stress

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	steadyNames = 60
	// dropEvery is how often the kernel drops what it keeps of directories and inodes, in the
	// middle of whatever goes on, unless the Target says otherwise.
	dropEvery = 10 * time.Millisecond
	endLimit  = 30 * time.Second // for a reader to end on a loaded machine
)

// Payload is what "value" holds: its version at both ends, and a length of its own, of 32 bytes to 9 kB.
func Payload(version int64) string {
	return fmt.Sprintf("%015d %s %015d", version, strings.Repeat("x", int(version*7919%9000)), version)
}

// versionOf reports whether text is a payload, and of which version.
func versionOf(text string) (int64, bool) {
	first, _, _ := strings.Cut(text, " ")
	version, err := strconv.ParseInt(first, 10, 64)
	return version, err == nil && version >= 0 && text == Payload(version)
}

// Names are the files beside "value" at a version of the names, by content: some that are there
// throughout, one that is replaced by each version, and "at", which holds the version.
func Names(version int64) map[string]string {
	names := map[string]string{name(version): "name", "at": fmt.Sprint(version)}
	for i := range steadyNames {
		names[fmt.Sprintf("k%02d", i)] = "steady"
	}
	return names
}

func name(version int64) string { return fmt.Sprintf("n%d", version) }

// A Target is a mount, and how to change it.
type Target struct {
	Dir  string // on the mount
	Bind string // the same directory through a bind mount
	// Change states these versions. It is called by one writer at a time.
	Change func(value, names int64) error
	// Wait returns when every process must see these versions, or newer ones. It is called by both
	// writers; nil if they do when Change returns.
	Wait func(value, names int64) error
	// Duration is how long to go on.
	Duration time.Duration
	// Meanwhile, if not nil, is called when the readers have been started, and lasts as long as Run does;
	// Duration is zero then.
	Meanwhile func()
	// Places are where the readers are; nil: on this machine, in Dir and in Bind.
	Places []Place
	// DropEvery is how often the kernel drops what it keeps of directories and inodes, of all file systems;
	// zero: every 10 ms.
	DropEvery time.Duration
	// Board is the file that the readers share with us, in a directory that is there; "" if all of them see
	// our files.
	Board string
	// Least is how many versions of the value and of the names must have been published for the
	// result to mean something.
	Least int64
}

// A Place is where processes read the directory, one for each role: a container, say.
type Place struct {
	Name  string
	Roles []string      // of "open", "held", "list"
	Dir   string        // that of the Target, as seen there
	Pause time.Duration // of a reader, after each round
	// Command is a process there, with a variable in its environment ("NAME=value") and these arguments,
	// that calls Main; nil: this program. The board is the path of the Target's as seen there.
	Command func(variable string, args ...string) *exec.Cmd
	Board   string
}

// Duration is what IMDSFS_STRESS says, else otherwise.
func Duration(t testing.TB, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("IMDSFS_STRESS")
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("IMDSFS_STRESS: %v", err)
	}
	return d
}

// Run changes the target, which is at version 0 of both, and fails the test for all that must not be
// seen meanwhile.
func Run(t testing.TB, target Target) {
	t.Helper()
	if target.Board == "" {
		target.Board = filepath.Join(t.TempDir(), "board")
	}
	if target.Places == nil {
		target.Places = []Place{{Name: "mount", Roles: []string{"open", "held", "list"}, Dir: target.Dir}, {Name: "bind", Roles: []string{"open"}, Dir: target.Bind}}
	}
	b, err := openBoard(target.Board, os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	var readers []*process
	for _, place := range target.Places {
		for _, role := range place.Roles {
			readers = append(readers, start(t, place, role, target.Board, len(readers)))
		}
	}
	write(t, target, b)
	b.stop.Store(true)
	for _, r := range readers {
		r.wait(t)
	}
	judge(t, target, b, readers)
}

// write runs both writers to the end, while the kernel's caches are dropped.
func write(t testing.TB, target Target, b *board) {
	end := time.Now().Add(target.Duration)
	var over atomic.Bool // what is done meanwhile
	over.Store(target.Meanwhile == nil)
	var mu sync.Mutex
	var value, names int64
	var writers sync.WaitGroup
	writer := func(own *int64, p *progress) {
		for (!over.Load() || time.Now().Before(end)) && !t.Failed() {
			mu.Lock()
			*own++
			version, v, n := *own, value, names
			p.started.Store(version)
			err := target.Change(v, n)
			mu.Unlock()
			if err == nil && target.Wait != nil {
				err = target.Wait(v, n)
			}
			if err != nil {
				t.Errorf("change to value %d, names %d: %v", v, n, err)
				return
			}
			p.published.Store(version)
		}
	}
	stop := make(chan struct{})
	var dropping sync.WaitGroup
	dropping.Go(func() { dropCaches(t, cmp.Or(target.DropEvery, dropEvery), stop) })
	// Meanwhile may end the test.
	defer dropping.Wait()
	defer close(stop)
	defer writers.Wait()
	defer over.Store(true)
	writers.Go(func() { writer(&value, &b.value) })
	writers.Go(func() { writer(&names, &b.names) })
	if target.Meanwhile != nil {
		target.Meanwhile()
	}
}

func dropCaches(t testing.TB, every time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			// 2: dentries and inodes with their pages. The pages of files that are held open are
			// evicted by who holds them.
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
				t.Errorf("drop_caches: %v", err)
				return
			}
		}
	}
}

// judge fails the test for what the readers counted, and if they did too little.
func judge(t testing.TB, target Target, b *board, readers []*process) {
	t.Helper()
	v, n := b.value.published.Load(), b.names.published.Load()
	t.Logf("%d versions of the value, %d of the names", v, n)
	for i, p := range readers {
		r := &b.readers[i]
		t.Logf("%-14s %d rounds: %d stale, %d torn, %d sizes wrong, %d held wrong, %d errors; %d versions seen; longest %v", p.name, r.rounds.Load(),
			r.stale.Load(), r.torn.Load(), r.size.Load(), r.held.Load(), r.errors.Load(), r.versions.Load(),
			time.Duration(r.longest.Load()).Round(time.Millisecond))
		if n := r.stale.Load() + r.torn.Load() + r.size.Load() + r.held.Load() + r.errors.Load(); n != 0 {
			t.Errorf("%s: %d rounds went wrong", p.name, n)
		}
		if r.rounds.Load() < target.Least || r.versions.Load() < target.Least/4 {
			t.Errorf("%s: too little to mean anything: %d rounds, %d versions seen", p.name, r.rounds.Load(), r.versions.Load())
		}
	}
}

// A process is a reader.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan error
	said strings.Builder
}

func start(t testing.TB, place Place, role, board string, number int) *process {
	t.Helper()
	if number >= maxReaders {
		t.Fatalf("more than %d readers", maxReaders)
	}
	variable := readerEnv + "=" + role
	p := &process{name: place.Name + "/" + role, done: make(chan error, 1)}
	if place.Command != nil {
		p.cmd = place.Command(variable, place.Dir, place.Board, strconv.Itoa(number), place.Pause.String())
	} else {
		p.cmd = exec.Command("/proc/self/exe", place.Dir, board, strconv.Itoa(number), place.Pause.String())
		p.cmd.Env = append(os.Environ(), variable, "GORACE=atexit_sleep_ms=0")
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

func (p *process) wait(t testing.TB) {
	t.Helper()
	select {
	case err := <-p.done:
		if err != nil || p.said.Len() > 0 {
			t.Errorf("reader %s: %v\n%s", p.name, err, p.said.String())
		}
	case <-time.After(endLimit):
		t.Errorf("reader %s does not end: it hangs in the mount", p.name)
	}
}

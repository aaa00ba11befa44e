// Package stress reads a mount from several processes while it changes, and counts what they must not see: a value older
// than the published one, a mixture of two values, a size that is not the length, a descriptor whose content changes, a
// name that is missing or should be gone.
//
//	writers ──▶ Target.Change ──▶ the mount ──▶ readers (processes) ──▶ board (shared memory) ──▶ judge
//
// It is for tests, which call [Main] first in their TestMain:
//
//	stress.Run(t, stress.Target{Dir: dir, Bind: bind, Change: change})
//
// The directory holds the files of [Names], and the file "value" with a [Payload]. One writer raises the version of the
// value, another that of the names. The versions that every process must see by now are in shared memory.
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
	// dropEvery is how often the kernel drops its cached directories and inodes, at any point of the test, unless the Target
	// sets another time.
	dropEvery = 10 * time.Millisecond
	endLimit  = 30 * time.Second // for a reader to end on a loaded machine
)

// Payload is the content of "value" in a version: the version at both ends, and a length of its own from 32 bytes to 9 kB.
func Payload(version int64) string {
	return fmt.Sprintf("%015d %s %015d", version, strings.Repeat("x", int(version*7919%9000)), version)
}

// versionOf reports whether text is a payload, and of which version.
func versionOf(text string) (int64, bool) {
	first, _, _ := strings.Cut(text, " ")
	version, err := strconv.ParseInt(first, 10, 64)
	return version, err == nil && version >= 0 && text == Payload(version)
}

// Names are the files next to "value" in a version of the names, with their content: some that always exist, one that each
// version replaces, and "at", which holds the version.
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
	// Change publishes these versions. One writer at a time calls it.
	Change func(value, names int64) error
	// Wait returns when every process must see these versions, or newer ones. Both writers call it. nil means that they must
	// when Change returns.
	Wait func(value, names int64) error
	// Duration is how long Run takes.
	Duration time.Duration
	// Meanwhile, if not nil, is called after the readers have started, and Run takes as long as it does. Then Duration is
	// zero.
	Meanwhile func()
	// Places are where the readers are; nil: on this machine, in Dir and in Bind.
	Places []Place
	// DropEvery is how often the kernel drops its cached directories and inodes of all file systems; zero: every 10 ms.
	DropEvery time.Duration
	// Board is the file that the readers share with us, in an existing directory; "" if all of them see our files.
	Board string
	// Least is the number of versions of the value and of the names that must be published for the result to count.
	Least int64
}

// A Place is where processes read the directory, one for each role: for example a container.
type Place struct {
	Name  string
	Roles []string      // of "open", "held", "list"
	Dir   string        // the Target's, as seen from there
	Pause time.Duration // of a reader, after each round
	// Command makes a process there that calls Main, with a variable in its environment ("NAME=value") and these arguments;
	// nil: this program. board is the path of the Target's Board, as seen from there.
	Command func(variable string, args ...string) *exec.Cmd
	Board   string
}

// Duration is the value of IMDSFS_STRESS, else otherwise.
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

// Run changes the target, which begins with version 0 of both, and fails the test if a reader sees what it must not see.
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
	var over atomic.Bool // Meanwhile has returned
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
			// 2: dentries and inodes with their pages. The reader that holds a file open evicts its pages.
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
				t.Errorf("drop_caches: %v", err)
				return
			}
		}
	}
}

// judge fails the test if the readers saw what they must not see, or did too little.
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

package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// scriptedDaemon does what a script says. A word that ends in ! is for the first daemon only, which finds nothing kept.
func scriptedDaemon(words []string) {
	store, others, err := Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
	first := len(store.Inherited()) == 0
	note := func(text string) {
		f, err := os.OpenFile(os.Args[1], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err == nil {
			fmt.Fprintln(f, text)
			f.Close()
		}
	}
	for _, word := range words {
		word, onlyFirst := strings.CutSuffix(word, "!")
		if onlyFirst && !first {
			continue
		}
		verb, arg, _ := strings.Cut(word, "=")
		number, _ := strconv.Atoi(arg)
		switch verb {
		case "note":
			note(arg)
		case "keep":
			f, err := os.Open("/proc/self/comm")
			if err == nil {
				err = store.Keep(arg, f)
			}
			if err != nil {
				note(err.Error())
			}
		case "drop":
			store.Drop(arg)
		case "kept":
			names := []string{}
			for _, name := range []string{"a", "b", "mount"} {
				if store.Inherited()[name] != nil {
					names = append(names, name)
				}
			}
			note(fmt.Sprintf("kept %s, %d from others", strings.Join(names, " "), len(others)))
		case "ready":
			store.Notify("READY=1")
		case "alive":
			for range number {
				store.Notify("WATCHDOG=1")
				time.Sleep(20 * time.Millisecond)
			}
		case "exit":
			os.Exit(number)
		case "die":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "hang":
			select {}
		case "wait": // for signals
			c := make(chan os.Signal, 1)
			signal.Notify(c, syscall.SIGHUP, syscall.SIGTERM)
			note("waiting")
			for sig := range c {
				note(sig.String())
				if sig == syscall.SIGTERM {
					os.Exit(0)
				}
			}
		}
	}
	os.Exit(0)
}

// A testKeeper is a keeper whose daemon is this test binary.
type testKeeper struct {
	*Keeper
	t       *testing.T
	notes   string
	mu      sync.Mutex
	said    []string
	ready   int
	cancel  context.CancelFunc
	signals chan os.Signal
	ended   chan int
}

func newTestKeeper(t *testing.T, words string) *testKeeper {
	t.Helper()
	t.Setenv(script, words)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	k := &testKeeper{t: t, notes: filepath.Join(t.TempDir(), "notes"), signals: make(chan os.Signal), ended: make(chan int, 1)}
	k.Keeper = &Keeper{
		Command: []string{os.Args[0], k.notes}, MountName: FDName("mount"), GiveUp: kit.Patience,
		Log: func(format string, args ...any) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.said = append(k.said, fmt.Sprintf(format, args...))
		},
		Ready: func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.ready++
		},
	}
	return k
}

func (k *testKeeper) run() {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	k.t.Cleanup(cancel)
	go func() { k.ended <- k.Run(ctx, k.signals) }()
}

func (k *testKeeper) log() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.said, "\n")
}

func (k *testKeeper) noted() string {
	text, _ := os.ReadFile(k.notes)
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "; ")
}

// ends expects the keeper to end with a status.
func (k *testKeeper) ends(code int) {
	k.t.Helper()
	select {
	case got := <-k.ended:
		if got != code {
			k.t.Errorf("ended with %d, want %d: %s", got, code, k.log())
		}
	case <-time.After(kit.Patience):
		k.t.Fatalf("the keeper goes on: %s; %s", k.noted(), k.log())
	}
}

func (k *testKeeper) eventually(what string, ok func() bool) {
	k.t.Helper()
	defer func() {
		if k.t.Failed() {
			k.t.Logf("noted %s; %s", k.noted(), k.log())
		}
	}()
	kit.Eventually(k.t, what, ok)
}

func TestWhatIsKeptIsPassedOn(t *testing.T) {
	for _, end := range []string{"die!", "exit=1!", "exit=3!", "exit=75!"} {
		k := newTestKeeper(t, "kept keep=a! keep=b! keep=mount! drop=b! ready "+end+" exit=0")
		k.run()
		k.ends(0)
		if got, want := k.noted(), "kept , 0 from others; kept a mount, 0 from others"; got != want {
			t.Errorf("%s: %s", end, got)
		}
		if complains := strings.Contains(k.log(), "the next one takes over"); complains == (end == "exit=75!") {
			t.Errorf("%s: said %q", end, k.log())
		}
		if k.ready != 2 {
			t.Errorf("%s: ready %d times", end, k.ready)
		}
	}
}

// Messages that a daemon sends just before its death count.
func TestLastWordsAreHeard(t *testing.T) {
	k := newTestKeeper(t, "kept "+strings.Repeat("keep=a! drop=a! ", 200)+" keep=b! ready! die! exit=0")
	k.run()
	k.ends(0)
	if got := k.noted(); got != "kept , 0 from others; kept b, 0 from others" {
		t.Error(got)
	}
}

func TestAFirstStartThatFailsIsTheLast(t *testing.T) {
	for _, end := range []struct {
		word string
		code int
	}{{"exit=1", 1}, {"exit=2", 2}, {"exit=3", 3}, {"die", 1}, {"exit=0", 0}} {
		k := newTestKeeper(t, "note=started "+end.word)
		k.run()
		k.ends(end.code)
		if got := k.noted(); got != "started" {
			t.Errorf("%s: %s", end.word, got)
		}
	}
}

func TestAFirstDaemonThatIsKilledWithItsMountHasASuccessor(t *testing.T) {
	k := newTestKeeper(t, "kept keep=mount! die! ready exit=0")
	k.run()
	k.ends(0)
	if got, want := k.noted(), "kept , 0 from others; kept mount, 0 from others"; got != want {
		t.Error(got)
	}
}

func TestSocketsOfOthersAreHeld(t *testing.T) {
	k := newTestKeeper(t, "kept keep=a! ready die! exit=0")
	k.Hold(map[string][]*os.File{"web.socket": {file(t, "")}})
	k.run()
	k.ends(0)
	if got := k.noted(); got != "kept , 1 from others; kept a, 1 from others" {
		t.Error(got)
	}
}

func TestADaemonThatHangsIsReplaced(t *testing.T) {
	for name, words := range map[string]string{
		"after it was ready": "keep=a! ready alive=20 hang! exit=0",
		"before":             "keep=a! ready! die! kept note=second",
	} {
		k := newTestKeeper(t, words)
		k.Watchdog = 4 * time.Second
		k.run()
		k.ends(0)
		if silent := strings.Contains(k.log(), "has been silent for"); silent != (name == "after it was ready") {
			t.Errorf("%s: said %q", name, k.log())
		}
	}
	k := newTestKeeper(t, "keep=a! ready! die! hang")
	k.Watchdog, k.GiveUp = 3*time.Second, 500*time.Millisecond
	k.run()
	k.ends(1)
	if !strings.Contains(k.log(), "no daemon has been ready for 500ms: giving up") {
		t.Errorf("said %q", k.log())
	}
}

func TestFailuresAreTriedLessAndLessOften(t *testing.T) {
	k := newTestKeeper(t, "note=start keep=a! ready! die! exit=1")
	k.GiveUp = 3 * time.Second
	k.run()
	k.ends(1)
	if n := strings.Count(k.noted(), "start"); n < 2 || n > 12 {
		t.Errorf("%d starts in %v", n, k.GiveUp)
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	k := newTestKeeper(t, "keep=a ready wait")
	k.run()
	k.eventually("it waits", func() bool { return k.noted() == "waiting" })
	k.signals <- syscall.SIGHUP
	k.eventually("it hears of SIGHUP", func() bool { return k.noted() == "waiting; hangup" })
	k.cancel()
	k.ends(0)
	if got := k.noted(); got != "waiting; hangup; terminated" {
		t.Error(got)
	}
}

func TestTheMountIsMadeBeforeTheDaemon(t *testing.T) {
	k := newTestKeeper(t, "kept keep=mount! exit=0")
	k.MountCommand = k.Command // which is the first to run, and keeps the mount
	k.run()
	k.ends(0)
	if got := k.noted(); got != "kept , 0 from others; kept mount, 0 from others" {
		t.Error(got)
	}
	k = newTestKeeper(t, "note=command exit=4")
	k.MountCommand = k.Command
	k.run()
	k.ends(4)
	if got := k.noted(); got != "command" {
		t.Errorf("after a command that failed: %s", got)
	}
	if k.log() != "" {
		t.Errorf("the command has said why, and the keeper says %q", k.log())
	}
	k = newTestKeeper(t, "note=command exit=0")
	k.MountCommand = k.Command
	k.run()
	k.ends(1)
	if !strings.Contains(k.log(), "has made no mount") {
		t.Errorf("said %q", k.log())
	}
}

func TestWhatAKeeperHoldsIsBounded(t *testing.T) {
	var s heldFiles
	defer s.clear()
	for n := range maxHeld + 10 {
		fd, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		if ok := s.put(fmt.Sprint(n), fd); ok != (n < maxHeld) {
			t.Fatalf("file %d: %v", n, ok)
		}
	}
	s.remove("5")
	if s.has("5") || !s.has("6") {
		t.Error("the wrong one was removed")
	}
}

func TestStartDecidesHowADaemonIsStarted(t *testing.T) {
	k := newTestKeeper(t, "exit=0")
	k.Start = func(*exec.Cmd) error { return errors.New("no such user") }
	k.run()
	k.ends(1)
	if !strings.Contains(k.log(), "no such user") {
		t.Errorf("said %q", k.log())
	}
}

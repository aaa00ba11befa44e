// Package kit holds what tests of all packages need: conditions that a machine has to meet, and waiting.
//
//	kit.RequireMount(t)
//	kit.Eventually(t, "the mount shows the new name", func() bool { … })
package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Patience is how long anything that has to happen may take on a loaded machine.
const Patience = time.Minute

// Require skips the test on a laptop that cannot run it, and fails it where everything is required.
func Require(t testing.TB, met bool, what string) {
	t.Helper()
	switch {
	case met:
	case os.Getenv("IMDSFS_REQUIRE_ALL") == "1":
		t.Fatalf("IMDSFS_REQUIRE_ALL=1, but this test needs %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

// RequireMount requires what a mount needs.
func RequireMount(t testing.TB) {
	t.Helper()
	Require(t, CanMount(), "root and /dev/fuse")
}

// CanMount reports whether we are root and may open /dev/fuse.
func CanMount() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil && os.Getuid() == 0
}

// RequireCommand requires programs in $PATH.
func RequireCommand(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		Require(t, err == nil, name)
	}
}

// Eventually polls until ok holds, and fails the test if it does not within [Patience].
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// Freeze stops a process with SIGSTOP, and waits until each of its threads has stopped: on a busy machine one may go on
// for a while.
func Freeze(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "it is stopped", func() bool {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return !slices.ContainsFunc(stats, func(path string) bool {
			text, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
	})
}

// ReadFile is the content of a file, which has to be there.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

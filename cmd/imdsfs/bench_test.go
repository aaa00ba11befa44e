package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// The bounds are those of `make bench`, with room for a machine that is busy: ratios twice as wide,
// durations fifty times. Counts are exact.
func TestMountIsNearlyAsFastAsTmpfs(t *testing.T) {
	kit.RequireMount(t)
	t.Parallel() // as the only one: it runs when all others are over, those of other packages as well
	for _, command := range []string{"find", "xargs", "fusermount3"} {
		kit.RequireCommand(t, command)
	}
	runBench(t, "fuse")
}

// runBench runs a section of testdata/bench, which builds what it measures without the race detector.
func runBench(t *testing.T, section string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", program, "../../testdata/bench").CombinedOutput(); err != nil {
		t.Fatalf("build testdata/bench: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-ci", "-only", section)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = kit.Patience
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Logf("bench -ci -only %s:\n%s", section, &out)
	if err != nil {
		t.Errorf("bench -ci -only %s: %v", section, err)
	}
}

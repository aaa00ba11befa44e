package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// One script for each subcommand and behaviour, run with the binary as a user would.
func TestScripts(t *testing.T) {
	instanceDir, err := filepath.Abs(instances)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("INSTANCES", instanceDir)
			env.Setenv("GORACE", noRaceSleep)
			env.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "mount" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			can := kit.CanMount()
			if !can && os.Getenv("IMDSFS_REQUIRE_ALL") == "1" {
				return false, errors.New("IMDSFS_REQUIRE_ALL=1, but this test needs root and /dev/fuse")
			}
			return can, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":    cmdReady,
			"exitcode": cmdExitCode,
			"signal":   cmdSignal,
		},
	})
}

// ready DIR waits until the daemon with that run-time directory listens, and sets ADDRESS.
func cmdReady(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: ready RUNTIME-DIR")
	}
	file := daemon.ListenFile(ts.MkAbs(args[0]))
	poll(ts, file, func() bool {
		text, err := os.ReadFile(file)
		if err == nil && len(text) > 0 {
			ts.Setenv("ADDRESS", string(text[:len(text)-1]))
		}
		return err == nil
	})
}

// signal HUP|TERM sends a signal to every command in the background.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig, ok := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	if !ok {
		ts.Fatalf("usage: signal HUP|TERM")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(sig))
	}
}

// exitcode N COMMAND... runs a command that has to end with exit code N.
func cmdExitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v: got %v, want exit code %s", args[1:], err, args[0])
	}
}

func poll(ts *testscript.TestScript, what string, ok func() bool) {
	for deadline := time.Now().Add(kit.Patience); !ok(); {
		if time.Now().After(deadline) {
			ts.Fatalf("not in %v: %s", kit.Patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

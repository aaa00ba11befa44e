// Command attack attacks bin/imdsfs as others could, and checks that every attack fails.
//
//	go run ./testdata/attack                  # what `make attack` does; needs root and /dev/fuse
//	go run ./testdata/attack -short           # what CI does
//	go run ./testdata/attack -run 'host/'     # the attacks whose GROUP/NAME matches
//	go run ./testdata/attack -write           # put the table into SECURITY.md
//
// One table in code ([groups]) says who attacks, what the attack tries and what must hold. SECURITY.md has the same table,
// and a test compares the two.
//
//	main ──▶ isolate: new namespaces ──▶ newWorld: daemons, places ──▶ runGroup: attacks ──▶ well: the daemons still work
//
// The program runs itself in mount, network, IPC and process namespaces of its own, with a new /run, /tmp and /var/lib.
// Everything that it starts, mounts or creates ends with them. The attackers are in other network namespaces (a neighbour
// on the LAN, a container on a bridge, a client behind a router) or have other uids. After each group the program checks
// that the daemons are well and that the mount and HTTP show the right values.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	insideVariable = "IMDSFS_ATTACK_INSIDE"
	document       = "SECURITY.md"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "act" {
		os.Exit(act(os.Args[2:]))
	}
	if os.Getenv(badVariable) != "" {
		os.Exit(beBadDaemon())
	}
	short := flag.Bool("short", false, "only the attacks that are quick")
	pattern := flag.String("run", "", "only attacks whose GROUP/NAME matches this `regexp`")
	write := flag.Bool("write", false, "put the table into "+document+" and end")
	program := flag.String("imdsfs", "bin/imdsfs", "the `program` that is attacked")
	flag.Parse()
	err := func() error {
		match, err := regexp.Compile(*pattern)
		switch {
		case err != nil:
			return err
		case *write:
			return writeTable(document)
		case os.Getenv(insideVariable) == "":
			return isolate(*program)
		}
		return run(*program, *short, match)
	}()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		os.Exit(max(ended.ExitCode(), 1))
	case err != nil:
		fmt.Fprintf(os.Stderr, "attack: error: %v\n", err)
		os.Exit(1)
	}
}

// isolate runs this program again in namespaces of its own.
func isolate(program string) error {
	if os.Getuid() != 0 {
		return errors.New("attackers need namespaces and other uids: run as root")
	}
	for _, needed := range []string{"/dev/fuse", program} {
		if _, err := os.Stat(needed); err != nil {
			return fmt.Errorf("%w (make build makes the program)", err)
		}
	}
	path, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:], "-imdsfs", path)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL, // it is the first process there: all others end with it
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	go func() {
		<-signals
		cmd.Process.Kill()
	}()
	return cmd.Wait()
}

// run makes the world and tries the attacks.
func run(program string, short bool, match *regexp.Regexp) error {
	debug.SetMemoryLimit(256 << 20) // large streams soon become garbage
	begin := time.Now()
	w, err := newWorld(program)
	if err != nil {
		return err
	}
	defer w.stop()
	t := newTally(short, match)
	for _, g := range groups {
		t.runGroup(w, g)
	}
	fmt.Printf("== %d attacks in %.1f s: %d failed as they must, %d succeeded\n", t.tried, time.Since(begin).Seconds(), t.tried-len(t.succeeded), len(t.succeeded))
	if len(t.succeeded) > 0 {
		return fmt.Errorf("these succeeded: %s", strings.Join(t.succeeded, ", "))
	}
	return nil
}

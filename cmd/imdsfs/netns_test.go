package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A netns is a network namespace of a test's own, with the address of the real service on its
// loopback: nothing in it reaches the world, and clients need not be told where to ask.
type netns struct {
	t    testing.TB
	name string
}

func newNetns(t testing.TB) netns {
	t.Helper()
	return newNetnsNamed(t, strings.ToLower(t.Name()[4:min(len(t.Name()), 14)]))
}

func newNetnsNamed(t testing.TB, name string) netns {
	t.Helper()
	ns := bareNetns(t, name)
	ns.run("ip link set lo up && ip address add 169.254.169.254/32 dev lo && ip -6 address add fd00:ec2::254/128 dev lo nodad")
	return ns
}

// bareNetns is a network namespace with nothing in it but lo, which is down.
func bareNetns(t testing.TB, name string) netns {
	t.Helper()
	kit.RequireCommand(t, "ip")
	kit.Require(t, os.Getuid() == 0, "root, for a network namespace")
	ns := netns{t, fmt.Sprintf("imdsfs-%d-%s", os.Getpid(), name)}
	if out, err := exec.Command("ip", "netns", "add", ns.name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", ns.name).CombinedOutput(); err != nil {
			t.Errorf("ip netns delete: %v: %s", err, out)
		}
	})
	return ns
}

func (ns netns) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns.name, name}, args...)...)
}

// run runs a line of shell and returns what it prints; it has to succeed.
func (ns netns) run(line string) string {
	ns.t.Helper()
	out, stderr, err := ns.try(line)
	if err != nil {
		ns.t.Fatalf("%s: %v\n%s%s", line, err, out, stderr)
	}
	return out
}

func (ns netns) try(line string) (stdout, stderr string, err error) {
	cmd := ns.command("sh", "-c", line)
	// A client must find the service by itself.
	cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_SERVICE_ENDPOINT=", "AWS_ACCESS_KEY_ID=", "HOME="+ns.t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// serveLinkLocal serves a file at the addresses of the real service.
func (ns netns) serveLinkLocal(file string) {
	ns.t.Helper()
	ns.serve(file, "--listen", linkLocal)
}

// serve serves a file, without a mount.
func (ns netns) serve(file string, flags ...string) (runtimeDir string) {
	ns.t.Helper()
	log := &syncBuffer{}
	runtimeDir = ns.t.TempDir()
	args := []string{"serve", "-c", file, "--mount", none, "--runtime-dir", runtimeDir, "--state-dir", ns.t.TempDir()}
	cmd := ns.command("imdsfs", append(args, flags...)...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		ns.t.Fatal(err)
	}
	ns.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // ip has become imdsfs by exec
		if err := cmd.Wait(); err != nil {
			ns.t.Errorf("imdsfs serve ended with: %v", err)
		}
		if ns.t.Failed() {
			ns.t.Logf("log of imdsfs serve:\n%s", log)
		}
	})
	kit.Eventually(ns.t, "ready", func() bool { return strings.Contains(log.String(), "msg=ready") })
	return runtimeDir
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestWhoMayChooseTheProgramOfADaemonWithCapabilities(t *testing.T) {
	kit.RequireCommand(t, "setpriv")
	s := newKeptSite(t, least("", ""))
	ns := newNetnsNamed(t, "upgrade")
	d := s.ready(s.launchAs([]string{"ip", "netns", "exec", ns.name, s.base + "/imdsfs"}, "--keep", "--user", "nobody", "--mount", none, "--listen", linkLocal))
	before := s.daemon(d)
	capable := func() {
		t.Helper()
		if status := kit.ReadFile(t, fmt.Sprintf("/proc/%d/status", before)); s.daemon(d) != before || !strings.Contains(status, "CapPrm:\t0000000000000400\n") {
			t.Errorf("daemon %d, before %d:\n%s", s.daemon(d), before, status)
		}
	}
	board := s.mustMkdir("board")
	must(t, os.Chmod(board, 0o777))
	script := s.base + "/script"
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ngrep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status >"+board+"/ran\necho no good; exit 1\n"), 0o755), os.Chown(script, 65534, 65534))
	as := func(user []string, program string) (string, error) {
		args := append(append([]string{}, user...), s.base+"/imdsfs", "upgrade", "--program", program, "--runtime-dir", s.runtime)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		return string(out), err
	}
	root := []string{"setpriv"}
	ran := func() bool { _, err := os.Stat(board + "/ran"); return err == nil }

	// The user's own program, and one in a directory of the user.
	inHis := s.mustMkdir("his") + "/imdsfs"
	program(t, inHis, "two")
	must(t, os.Chown(filepath.Dir(inHis), 65534, 65534))
	for file, why := range map[string]string{script: script + " belongs to uid 65534", inHis: filepath.Dir(inHis) + " belongs to uid 65534"} {
		out, err := as(asNobody, file)
		if err == nil || !strings.Contains(out, file+" would run with capabilities, but "+why+": have root run imdsfs upgrade") || ran() {
			t.Errorf("%s: %v, ran: %v: %s", file, err, ran(), out)
		}
	}
	// A signal comes from anybody with his user.
	must(t, os.Chown(s.base+"/imdsfs", 65534, 65534))
	d.after("have root run imdsfs upgrade", func() { must(t, syscall.Kill(before, syscall.SIGUSR2)) })
	must(t, os.Chown(s.base+"/imdsfs", 0, 0))
	capable()

	// What root names is tried without capabilities.
	if out, err := as(root, script); err == nil || !strings.Contains(out, "no good") {
		t.Errorf("root: %v: %s", err, out)
	}
	const nothing = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n"
	if got, _ := os.ReadFile(board + "/ran"); string(got) != nothing {
		t.Errorf("it was tried with\n%s", got)
	}
	capable()
	if out, err := as(root, inHis); err != nil || !strings.Contains(out, "upgraded from one to two") {
		t.Errorf("root: %v: %s", err, out)
	}
	capable()
	if out, err := as(asNobody, s.base+"/imdsfs"); err != nil || !strings.Contains(out, "upgraded from two to one") {
		t.Errorf("root's program: %v: %s", err, out)
	}
	capable()
	if got := ns.run(askID); got != leastID {
		t.Errorf("got %q", got)
	}
	s.end(d)
}

// What is run is what was tried.
func TestAProgramThatChangesWhileItIsTriedIsNotRun(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}))
	for name, change := range map[string]string{
		"another takes its place": `cp "$0" "$0.new" && mv "$0.new" "$0"`,
		"it is written to":        `echo "# more" >>"$0"`,
	} {
		script := s.base + "/script"
		must(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" != version ] || exec echo imdsfs two\n[ \"$1 $2\" = 'serve --trial' ] || exec touch "+s.base+"/ran\n"+change+"\n"), 0o755))
		out, err := s.imdsfs("upgrade", "--program", script)
		if err == nil || !strings.Contains(out, script+" has changed since it was tried: try again") {
			t.Errorf("%s: %v %s", name, err, out)
		}
		if _, err := os.Stat(s.base + "/ran"); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWhoMayChooseTheProgramOfADaemonWithCapabilities(t *testing.T) {
	requireCommand(t, "setpriv")
	s := newKeptSite(t, least("", ""))
	ns := newNetnsNamed(t, "upgrade")
	d := s.ready(s.launchAs([]string{"ip", "netns", "exec", ns.name, s.base + "/imdsfs"}, "--keep", "--user", "nobody", "--mount", none, "--listen", linkLocal))
	before := s.daemon(d)
	capable := func() {
		t.Helper()
		if status := readFile(t, fmt.Sprintf("/proc/%d/status", before)); s.daemon(d) != before || !strings.Contains(status, "CapPrm:\t0000000000000400\n") {
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

	// His own program, and one in a directory of his.
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
	c, err := openCandidate(s.base + "/imdsfs")
	must(t, err, c.unchanged(), os.Rename(s.base+"/imdsfs", s.base+"/old"))
	if c.unchanged() == nil {
		t.Error("that it is gone is not noticed")
	}
	c.file.Close()
}

// One from before there was a trial is asked in the words that it knows.
func TestAnOlderProgramIsTriedWithCheck(t *testing.T) {
	base := t.TempDir()
	script := base + "/imdsfs"
	must(t, os.WriteFile(script, []byte(`#!/bin/sh
echo "$@" >>"$0.asked"
case "$*" in
*--trial*) echo "imdsfs: error: unknown flag: --trial" >&2; exit 2 ;;
*--newer*) echo "imdsfs: error: unknown flag: --newer" >&2; exit 2 ;;
"check --quiet bad.toml") echo "imdsfs: error: bad.toml:1" >&2; exit 3 ;;
esac
`), 0o755))
	c, err := openCandidate(script)
	must(t, err)
	defer c.file.Close()
	for _, test := range []struct {
		args         []string
		config       string
		asked, fault string
	}{
		{[]string{"serve", "-c", "good.toml"}, "good.toml", "serve --trial -c good.toml\nserve -c good.toml --help\ncheck --quiet good.toml\n", ""},
		{[]string{"serve", "-c", "bad.toml"}, "bad.toml", "serve --trial -c bad.toml\nserve -c bad.toml --help\ncheck --quiet bad.toml\n", "bad.toml:1"},
		{[]string{"serve", "--newer"}, "", "serve --trial --newer\nserve --newer --help\n", "unknown flag: --newer"},
		{[]string{"serve"}, "", "serve --trial\nserve --help\n", ""},
	} {
		err := c.tryServe(t.Context(), test.args, test.config)
		if asked := readFile(t, script+".asked"); asked != test.asked || (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%q: %v, it was asked\n%s", test.args, err, asked)
		}
		must(t, os.Remove(script+".asked"))
	}
}

func TestWhatTriedProgramsSayIsBounded(t *testing.T) {
	var b beginning
	for range 1000 {
		if n, err := b.Write(make([]byte, 999)); n != 999 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(b.text) != maxTried {
		t.Errorf("%d bytes", len(b.text))
	}
}

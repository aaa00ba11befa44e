package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// newKeptSite is a site whose program everybody may run.
func newKeptSite(t *testing.T, text string) *site {
	t.Helper()
	s := newSite(t, text)
	must(t, os.Chmod(s.file, 0o644))
	program(t, s.base+"/imdsfs", "one")
	return s
}

// daemon is the number of the daemon behind which a keeper stands.
func (s *site) daemon(d *served) int {
	s.t.Helper()
	var pids []int
	kit.Eventually(s.t, "there is a daemon", func() bool { pids = childrenNamed(d.cmd.Process.Pid); return len(pids) == 1 })
	return pids[0]
}

func (s *site) imdsfs(args ...string) (string, error) {
	out, err := exec.Command(s.base+"/imdsfs", append(args, "--runtime-dir", s.runtime)...).CombinedOutput()
	return string(out), err
}

// killed has the daemon be killed, and waits for the next one.
func (s *site) killed(d *served) {
	s.t.Helper()
	old := s.daemon(d)
	must(s.t, syscall.Kill(old, syscall.SIGKILL))
	kit.Eventually(s.t, "the next one answers", func() bool {
		out, err := s.imdsfs("status")
		return err == nil && !strings.Contains(out, fmt.Sprintf("pid %d,", old))
	})
}

func TestAKeptDaemonHasNoPrivilege(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`)+fmt.Sprintf(shortLived, "2099-01-01T00:00:00Z"))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep", "--user", "nobody"))
	check := func() {
		t.Helper()
		status := kit.ReadFile(t, fmt.Sprintf("/proc/%d/status", s.daemon(d)))
		for _, want := range []string{
			"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "NoNewPrivs:\t1\n",
			"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("the daemon's status does not say %q:\n%s", want, status)
			}
		}
		s.expect(s.mount+tier, "gold")
		var st unix.Stat_t
		must(t, unix.Stat(s.mount+"/latest/meta-data/iam/security-credentials/web", &st))
		if st.Uid != 65534 || st.Mode&0o777 != 0o400 {
			t.Errorf("the credentials are of uid %d, mode %o", st.Uid, st.Mode&0o777)
		}
	}
	check()
	out, err := s.imdsfs("status")
	if err != nil || !strings.Contains(out, fmt.Sprintf("the keeper, pid %d", d.cmd.Process.Pid)) || !strings.Contains(out, "(a predecessor's)") {
		t.Errorf("status: %v\n%s", err, out)
	}
	s.killed(d)
	check()
	s.end(d)
	if _, err := os.Lstat(s.mount); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

// With the address of the real service it may open its port, and nothing else.
func TestAKeptDaemonMayOpenItsPort(t *testing.T) {
	s := newKeptSite(t, least("", ""))
	ns := newNetnsNamed(t, "keptport")
	d := s.ready(s.launchAs([]string{"ip", "netns", "exec", ns.name, s.base + "/imdsfs"}, "--keep", "--user", "nobody", "--mount", none, "--listen", linkLocal))
	if status := kit.ReadFile(t, fmt.Sprintf("/proc/%d/status", s.daemon(d))); !strings.Contains(status, "CapBnd:\t0000000000000400\n") {
		t.Errorf("the daemon's capabilities:\n%s", status)
	}
	if got := ns.run(askID); got != leastID {
		t.Errorf("got %q", got)
	}
	s.killed(d)
	if got := ns.run(askID); got != leastID {
		t.Errorf("after a kill: %q", got)
	}
	s.end(d)
}

func TestTokensOutliveAKillAndAnUpgrade(t *testing.T) {
	s := newKeptSite(t, least("", ""))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep"))
	if out, err := s.imdsfs("options", "set", "http-tokens=required"); err != nil {
		t.Fatal(out)
	}
	token := d.token()
	with := func(when string) {
		t.Helper()
		if r := d.ask("GET", "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token", token); r.status != 200 || r.body != leastID {
			t.Errorf("%s: %d %q", when, r.status, r.body)
		}
		if r := d.ask("GET", "/latest/meta-data/instance-id"); r.status != 401 {
			t.Errorf("%s, without a token: %d", when, r.status)
		}
	}
	with("at first")
	s.killed(d)
	with("after a kill")
	if out, err := s.imdsfs("upgrade"); err != nil || !strings.HasPrefix(out, "upgraded from one to one, pid ") {
		t.Errorf("upgrade: %v: %s", err, out)
	}
	with("after an upgrade")
	s.end(d)
}

func TestASuccessorServesOnOverAFaultyFile(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep"))
	s.expect(s.mount+tier, "gold")
	rewrite(t, s.file, "[meta-data\n")
	kit.Eventually(t, "the fault is noticed", func() bool { return strings.Contains(d.log.String(), "the input is faulty") })
	s.killed(d)
	s.expect(s.mount+tier, "gold")
	if got := d.ask("GET", "/latest/meta-data/tier").body; got != "gold" {
		t.Errorf("HTTP says %q", got)
	}
	out, err := s.imdsfs("status")
	if err != nil || !strings.Contains(out, "not read since the start: what the predecessor served is still served") || !strings.Contains(out, "web.toml:1") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := s.imdsfs("tag", "set", "Name", "x"); err == nil || !strings.Contains(out, "have not been read successfully since the start") {
		t.Errorf("a change: %v %s", err, out)
	}
	if out, err := s.imdsfs("upgrade"); err == nil || !strings.Contains(out, "web.toml:1") {
		t.Errorf("an upgrade over a faulty file: %v %s", err, out)
	}
	rewrite(t, s.file, least("", `tier = "silver"`))
	kit.Eventually(t, "the mended file is served", func() bool { got, _ := cat(t, s.mount+tier); return got == "silver" })
	s.end(d)
}

func TestAnUpgradeToWhatIsNoGoodChangesNothing(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}))
	for _, program := range []string{"/bin/false", "/bin/true", "/no/such/program", s.file} {
		out, err := s.imdsfs("upgrade", "--program", program)
		if err == nil || !strings.Contains(out, "imdsfs: error: UnsupportedOperation: not upgraded: "+program) {
			t.Errorf("%s: %v %s", program, err, out)
		}
	}
	must(t, os.Rename(s.base+"/imdsfs", s.base+"/old"))
	must(t, os.WriteFile(s.base+"/imdsfs", []byte("#!/bin/sh\necho no good; exit 3\n"), 0o755))
	d.signal(syscall.SIGUSR2)
	kit.Eventually(t, "the log says why", func() bool {
		return strings.Contains(d.log.String(), "not upgraded") && strings.Contains(d.log.String(), "no good")
	})
	s.expect(s.mount+tier, "gold")

	must(t, os.Rename(s.base+"/old", s.base+"/imdsfs"))
	d.after("msg=ready", func() { d.signal(syscall.SIGUSR2) })
	s.expect(s.mount+tier, "gold")
	if out, err := s.imdsfs("status"); err != nil || !strings.Contains(out, fmt.Sprintf("pid %d,", d.cmd.Process.Pid)) || !strings.Contains(out, "exec in place (imdsfs upgrade)") {
		t.Errorf("status: %v\n%s", err, out)
	}
	s.end(d)
}

func TestSIGUSR1HandsOver(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep"))
	old := s.daemon(d)
	d.after("msg=ready", func() { d.signal(syscall.SIGUSR1) }) // which the keeper passes on
	if next := s.daemon(d); next == old {
		t.Error("the daemon is the same")
	}
	s.expect(s.mount+tier, "gold")
	s.end(d)

	d = s.ready(s.launchAs([]string{s.base + "/imdsfs"}))
	d.after("nobody keeps anything for it", func() { d.signal(syscall.SIGUSR1) })
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

func TestNobodyGetsInBetween(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep"))
	pid := s.daemon(d)
	// The keeper cannot start another one while it is stopped.
	kit.Freeze(t, d.cmd.Process.Pid)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	for _, runtime := range []string{s.runtime, s.mustMkdir("other")} {
		if said := s.refused("--runtime-dir", runtime); !strings.Contains(said, "already") {
			t.Errorf("with %s: %s", runtime, said)
		}
	}
	d.signal(syscall.SIGCONT)
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

// The daemon of a killed keeper keeps serving, and stops like any other.
func TestAKeeperMayDie(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, "--keep"))
	pid := s.daemon(d)
	d.once.Do(func() {}) // nobody is left to be stopped
	must(t, d.cmd.Process.Kill())
	s.expect(s.mount+tier, "gold")
	if out, err := s.imdsfs("tag", "set", "Name", "x"); err != nil {
		t.Errorf("a change: %v %s", err, out)
	}
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	kit.Eventually(t, "the daemon ends", d.ended) // with it, what is written to the log
	if s.isMounted() {
		t.Error("it is still mounted")
	}
}

func TestWhomAKeeperServesFor(t *testing.T) {
	s := newKeptSite(t, least("", ""))
	s.refusedWith(2, "--user needs a keeper", "--user", "nobody")
	s.refusedWith(3, "--user no-such-user: user: unknown user no-such-user", "--keep", "--user", "no-such-user")
	taken := s.mustMkdir("taken")
	s.refusedWith(3, taken+" does not belong to nobody", "--keep", "--user", "nobody", "--runtime-dir", taken)
	s.refusedWith(2, `--watchdog "1ms": too short`, "--keep", "--watchdog", "1ms")
}

// refusedWith expects a start to end with a status and these words.
func (s *site) refusedWith(code int, words string, flags ...string) {
	s.t.Helper()
	d := s.launchAs([]string{s.base + "/imdsfs"}, flags...)
	kit.Eventually(s.t, "it ends", d.ended)
	if got := d.cmd.ProcessState.ExitCode(); got != code || !strings.Contains(d.log.String(), words) {
		s.t.Errorf("%v: ended with %d: %s", flags, got, d.log)
	}
	d.kill()
}

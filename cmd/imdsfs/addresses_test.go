package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	askID6   = "curl -sS -m 5 -g 'http://[fd00:ec2::254]/latest/meta-data/instance-id'"
	linkNow  = "ip -o link show imds0 | cut -d: -f1"
	noLink   = "! ip link show imds0 2>/dev/null"
	linkHere = "ip -o address show dev imds0 | grep -q 169.254.169.254/32 && ip -o address show dev imds0 | grep -q fd00:ec2::254/128"
)

// newAddressSite is a site with a network namespace of its own, in which nobody has the addresses.
func newAddressSite(t *testing.T, text string) (*site, netns, []string) {
	t.Helper()
	kit.RequireCommand(t, "curl")
	s := newKeptSite(t, text)
	ns := bareNetns(t, strings.ToLower(t.Name()[4:min(len(t.Name()), 14)]))
	ns.run("ip link set lo up")
	return s, ns, []string{"ip", "netns", "exec", ns.name, s.base + "/imdsfs"}
}

// The addresses are root's helper's work: the daemon may open its port, and nothing else.
func TestAKeptDaemonGetsTheAddresses(t *testing.T) {
	for name, flags := range map[string][]string{
		"without a mount":     {"--mount", none, "--listen", linkLocal, "--add-addresses"},
		"with a mount":        {"--listen", linkLocal, "--add-addresses"},
		"as the file says it": {"--listen", linkLocal},
	} {
		t.Run(name, func(t *testing.T) {
			text := least("", "")
			if len(flags) == 2 {
				text += "[server]\nadd-addresses = true\n"
			}
			s, ns, command := newAddressSite(t, text)
			start := append([]string{"--keep", "--user", "nobody"}, flags...)
			d := s.ready(s.launchAs(command, start...))
			check := func(when string) {
				t.Helper()
				if status := kit.ReadFile(t, "/proc/"+toString(s.daemon(d))+"/status"); !strings.Contains(status, "CapBnd:\t0000000000000400\n") {
					t.Errorf("%s, the daemon's capabilities:\n%s", when, status)
				}
				if got := ns.run(askID); got != leastID {
					t.Errorf("%s: %q", when, got)
				}
				ns.run(linkHere)
				if out, err := s.imdsfs("status"); err != nil || !strings.Contains(out, "link imds0") {
					t.Errorf("%s, status: %v\n%s", when, err, out)
				}
			}
			check("at first")
			// The option opens and closes the listener.
			for _, value := range []string{"enabled", "disabled", "enabled"} {
				if out, err := s.imdsfs("options", "set", "http-protocol-ipv6="+value); err != nil {
					t.Fatal(out)
				}
				if out, _, err := ns.try(askID6); (err == nil) != (value == "enabled") || err == nil && out != leastID {
					t.Errorf("IPv6 %s: %q, %v", value, out, err)
				}
			}
			link := ns.run(linkNow)
			s.killed(d)
			check("after a kill")
			if got := ns.run(askID6); got != leastID {
				t.Errorf("IPv6 after a kill: %q", got)
			}
			if now := ns.run(linkNow); now != link {
				t.Errorf("link %s has become %s", link, now)
			}
			// A second one with the same run-time directory is refused, and takes nothing away.
			again := s.launchAs(command, start...)
			kit.Eventually(t, "the second ends", again.ended)
			if log := again.log.String(); !strings.Contains(log, "already") && !strings.Contains(log, "served by somebody else") {
				t.Errorf("the second: %s", again.log)
			}
			again.kill()
			check("after a second")
			s.end(d)
			ns.run(noLink)
		})
	}
}

func TestAKeeperHidesNoForeignService(t *testing.T) {
	s, ns, command := newAddressSite(t, least("", ""))
	ns.run("ip address add 169.254.169.254/32 dev lo")
	d := s.launchAs(command, "--keep", "--user", "nobody", "--listen", linkLocal, "--add-addresses")
	kit.Eventually(t, "it ends", d.ended)
	for _, want := range []string{"imdsfs: error: link-local addresses: ", "169.254.169.254 is on lo", "imdsfs: hint: "} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("it does not say %q: %s", want, d.log)
		}
	}
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailed || s.isMounted() {
		t.Errorf("it ended with %d; mounted: %t", code, s.isMounted())
	}
	d.kill()
	ns.run(noLink)
}

// Without the option nobody asks for the IPv6 address; with it, the daemon says what is in the way.
func TestAnIPv6AddressThatAnotherHasIsLeftOut(t *testing.T) {
	s, ns, command := newAddressSite(t, least("", ""))
	ns.run("ip -6 address add fd00:ec2::254/128 dev lo nodad")
	flags := []string{"--keep", "--user", "nobody", "--listen", linkLocal, "--add-addresses"}
	d := s.ready(s.launchAs(command, flags...))
	if got := ns.run(askID); got != leastID || !strings.Contains(d.log.String(), "imdsfs: warning: fd00:ec2::254 is left out: ") {
		t.Errorf("it answers %q, and logs %s", got, d.log)
	}
	s.end(d)
	rewrite(t, s.file, least("", "")+"[metadata-options]\nhttp-protocol-ipv6 = 'enabled'\n")
	must(t, os.Chmod(s.file, 0o644))
	d = s.launchAs(command, flags...)
	kit.Eventually(t, "it ends", d.ended)
	if log := d.log.String(); !strings.Contains(log, "the address was left out: fd00:ec2::254 is not on imds0") || !strings.Contains(log, "imdsfs: hint: disable http-protocol-ipv6") {
		t.Errorf("it logs %s", log)
	}
	d.kill()
	ns.run(noLink + " && ip -o address show dev lo | grep -q fd00:ec2::254/128")
}

// As the unit calls it: before each start, and after each stop.
func TestAUnitsHelperMakesAndRemovesTheLink(t *testing.T) {
	s, ns, _ := newAddressSite(t, least("", ""))
	server := func(add string) {
		rewrite(t, s.file, least("", "")+"[server]\nmount = 'none'\nlisten = ['link-local']\nadd-addresses = "+add+"\n")
		must(t, os.Chmod(s.file, 0o644))
	}
	helper := s.base + "/imdsfs mount-helper -c " + s.file + " --runtime-dir " + s.runtime
	server("true")
	ns.run(helper + " --user nobody")
	ns.run(linkHere)
	link := ns.run(linkNow)
	for _, end := range []string{"EXIT_CODE=killed EXIT_STATUS=KILL", "EXIT_CODE=exited EXIT_STATUS=75", "EXIT_CODE=exited EXIT_STATUS=1"} {
		ns.run(end + " " + helper + " --after-stop; " + helper + " --user nobody")
		if now := ns.run(linkHere + "; " + linkNow); now != link {
			t.Errorf("after %s link %s has become %s", end, link, now)
		}
	}
	// Another unit's final stop is none of its business.
	ns.run("EXIT_CODE=exited EXIT_STATUS=0 " + helper + "-2 --after-stop")
	ns.run(linkHere)
	ns.run("cd / && EXIT_CODE=exited EXIT_STATUS=0 " + strings.ReplaceAll(helper, s.runtime, strings.TrimPrefix(s.runtime, "/")) + " --after-stop")
	ns.run(noLink)

	// Not wanted any more at a restart.
	ns.run(helper + " --user nobody")
	server("false")
	ns.run(linkHere + "; " + helper + " --user nobody")
	ns.run(noLink)

	// A daemon that has the privilege takes over what a helper has left, and removes it.
	server("true")
	ns.run(helper)
	cmd := ns.command(s.base+"/imdsfs", "serve", "-c", s.file, "--runtime-dir", s.runtime, "--state-dir", s.state)
	log := &syncBuffer{}
	cmd.Stderr = log
	must(t, cmd.Start())
	kit.Eventually(t, "ready", func() bool { return strings.Contains(log.String(), "msg=ready") })
	if got := ns.run(askID); got != leastID {
		t.Errorf("got %q", got)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	must(t, cmd.Wait())
	ns.run(noLink)
}

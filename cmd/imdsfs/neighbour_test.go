package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A host in a namespace serves the address of the real service; a neighbour in another one, on a wire
// between the two, routes that address to it, as any machine on a LAN can.
type neighbours struct {
	host, neighbour netns
	log             *syncBuffer
	runtime         string
	pid             int // of the daemon
}

const (
	hostAddress      = "192.0.2.1"
	neighbourAddress = "192.0.2.2"
	wire             = "wire0" // the host's end
)

// newNeighbours serves a small instance in the host's namespace, with these flags.
func newNeighbours(t *testing.T, flags ...string) *neighbours {
	t.Helper()
	return newNeighboursSeen(t, "host", flags...)
}

// newNeighboursSeen is newNeighbours with that vantage.
func newNeighboursSeen(t *testing.T, vantage string, flags ...string) *neighbours {
	t.Helper()
	n := &neighbours{host: newNetnsNamed(t, "host"), neighbour: newNetnsNamed(t, "near"), log: &syncBuffer{}}
	n.host.run(fmt.Sprintf("ip link add %s type veth peer name %s netns %s && ip link set %s up && ip address add %s/24 dev %s",
		wire, wire, n.neighbour.name, wire, hostAddress, wire))
	// newNetns put the address of the service on every loopback: the neighbour must not answer itself.
	n.neighbour.run(fmt.Sprintf("ip address del 169.254.169.254/32 dev lo && ip link set %s up && ip address add %s/24 dev %s && ip route add 169.254.169.254 via %s",
		wire, neighbourAddress, wire, hostAddress))
	n.runtime = t.TempDir()
	args := []string{"serve", "-c", write(t, "instance.toml", least("", "")+"[server]\nvantage = \""+vantage+"\"\n"), "--listen", linkLocal, "--mount", none,
		"--runtime-dir", n.runtime, "--state-dir", t.TempDir()}
	cmd := n.host.command("imdsfs", append(args, flags...)...)
	cmd.Stderr = n.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("imdsfs serve ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("log of imdsfs serve:\n%s", n.log)
		}
	})
	n.pid = cmd.Process.Pid // ip has become imdsfs by exec
	kit.Eventually(t, "ready", func() bool { return strings.Contains(n.log.String(), "msg=ready") })
	return n
}

const (
	askToken = `curl -sS -m 5 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" `
	askID    = "curl -sS -m 5 http://169.254.169.254/latest/meta-data/instance-id"
	tokenURL = "http://169.254.169.254/latest/api/token"
	leastID  = "i-0a1b2c3d4e5f67890"
)

// Binding 169.254.169.254 makes it reachable for every machine that routes there.
func TestNeighbourGetsNothingUnlessListed(t *testing.T) {
	kit.RequireCommand(t, "curl")
	t.Run("not listed", func(t *testing.T) {
		n := newNeighbours(t)
		if got := n.host.run(askID); got != leastID {
			t.Errorf("the host itself gets %q", got)
		}
		for range 3 {
			for _, line := range []string{askID, askToken + tokenURL} {
				out, stderr, err := n.neighbour.try(line)
				var exit *exec.ExitError
				// 52: nothing came before the end; 56: reset.
				if out != "" || !errors.As(err, &exit) || exit.ExitCode() != 52 && exit.ExitCode() != 56 {
					t.Errorf("%s: printed %q, %v, %s; want the connection closed without an answer", line, out, err, stderr)
				}
			}
		}
		if got := strings.Count(n.log.String(), "peer="+neighbourAddress); got != 1 {
			t.Errorf("logged %d times within a minute, want once", got)
		}
		if !strings.Contains(n.log.String(), "--allow-from") {
			t.Error("the log does not say what to do")
		}
	})
	for name, flags := range map[string][]string{
		"listed by network":   {"--allow-from", "192.0.2.0/24"},
		"listed by interface": {"--allow-from", "local", "--allow-from", "iface:" + wire},
		"listed by address":   {"--allow-from", "192.0.2.2/32", "--allow-from", "local"},
	} {
		t.Run(name, func(t *testing.T) {
			// The neighbour is one router-less hop away: the hop limit of 1 suffices.
			n := newNeighbours(t, flags...)
			if got := n.neighbour.run(askID); got != leastID {
				t.Errorf("the neighbour gets %q", got)
			}
			if got := n.neighbour.run(askToken + tokenURL); len(got) != 56 {
				t.Errorf("the neighbour's token: %q", got)
			}
			if strings.Contains(n.log.String(), "peer=") {
				t.Errorf("logged as refused:\n%s", n.log)
			}
		})
	}
}

// A page in a browser whose name has been pointed at the service asks with its own name.
func TestForeignHostGetsNoToken(t *testing.T) {
	kit.RequireCommand(t, "curl")
	n := newNeighbours(t, "--host", "metadata.test")
	const show = `-w '%{http_code}' `
	for range 3 {
		for _, name := range []string{"evil.test", "evil.test:80", "169.254.169.254.evil.test"} {
			for _, line := range []string{askToken + tokenURL, askID} {
				if got := n.host.run(line + " " + show + `-H "Host: ` + name + `"`); got != "403" {
					t.Errorf("Host %s: %s: %q, want 403 and nothing else", name, line, got)
				}
			}
		}
	}
	if got := n.host.run(askToken + tokenURL + ` -H "Host: metadata.test"`); len(got) != 56 {
		t.Errorf("a Host that is listed gets %q", got)
	}
	if got := strings.Count(n.log.String(), "unknown Host"); got != 1 {
		t.Errorf("logged %d times within a minute, want once", got)
	}
	if !strings.Contains(n.log.String(), "host=evil.test") || !strings.Contains(n.log.String(), "--host") {
		t.Error("the log does not name the host and what to do")
	}
}

// One neighbour cannot keep others out by holding connections.
func TestNeighbourWithManyConnectionsLocksNobodyOut(t *testing.T) {
	kit.RequireCommand(t, "curl")
	n := newNeighbours(t, "--allow-from", "local", "--allow-from", "192.0.2.0/24")
	hold := n.neighbour.command("bash", "-c", `for i in $(seq 5000); do exec {fd}<>/dev/tcp/169.254.169.254/80 || exit 1; done; echo held; read`)
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &syncBuffer{}
	hold.Stdout, hold.Stderr = out, out
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer hold.Wait()
	defer in.Close()
	kit.Eventually(t, "the neighbour holds 5,000 connections", func() bool { return strings.Contains(out.String(), "held") })
	begin := time.Now()
	if got := n.host.run(askID); got != leastID {
		t.Errorf("the host itself gets %q", got)
	}
	if got := n.neighbour.run(askID); got != leastID {
		t.Errorf("the neighbour gets %q", got)
	}
	if took := time.Since(begin); took > kit.Patience/2 {
		t.Errorf("both took %v", took)
	}
	if open := strings.Count(n.host.run("ss -Htn state established '( sport = :80 )'"), "\n"); open > 256+10 {
		t.Errorf("the neighbour has %d connections open, the cap is 256", open)
	}
}

// Inside the guest a container is one hop further away than the wire shows: at limit 1 its token is
// withheld, as the real service's answer would be lost, and the log and status say why.
func TestContainerOfTheGuestIsOneHopFurther(t *testing.T) {
	kit.RequireCommand(t, "curl")
	n := newNeighboursSeen(t, "guest", "--allow-from", "local", "--allow-from", "iface:"+wire)
	if got := n.host.run(askToken + tokenURL); len(got) != 56 {
		t.Errorf("the guest itself gets %q", got)
	}
	const impatient = `curl -sS -m 1 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" ` + tokenURL
	for range 2 {
		out, _, err := n.neighbour.try(impatient)
		var exit *exec.ExitError
		if out != "" || !errors.As(err, &exit) || exit.ExitCode() != 28 {
			t.Errorf("at limit 1 the container gets %q, %v; want it to wait in vain", out, err)
		}
	}
	if got := n.neighbour.run(askID); got != leastID {
		t.Errorf("without a token the container gets %q", got)
	}
	imdsfs := func(args string) string { return n.host.run("imdsfs " + args + " --runtime-dir " + n.runtime) }
	status := imdsfs("status")
	for _, want := range []string{"got no token at hop limit 1", "1 issued, 2 withheld"} {
		if !strings.Contains(status, want) {
			t.Errorf("status does not say %q:\n%s", want, status)
		}
	}
	if got := strings.Count(n.log.String(), "no token: the peer is further away"); got != 1 || !strings.Contains(n.log.String(), "http-put-response-hop-limit=2") {
		t.Errorf("explained %d times in the log, want once, with the remedy", got)
	}
	imdsfs("options set http-put-response-hop-limit=2")
	if got := n.neighbour.run(askToken + tokenURL); len(got) != 56 {
		t.Errorf("at limit 2 the container gets %q", got)
	}
}

// The addresses of the real service come and go with the daemon, and the IPv6 one with its option.
func TestAddAddresses(t *testing.T) {
	kit.RequireCommand(t, "curl")
	ns := bareNetns(t, "addaddr")
	ns.run("ip link set lo up")
	file, runtime := write(t, "instance.toml", least("", "")), t.TempDir()
	start := func() (stop func(), log *syncBuffer) {
		log = &syncBuffer{}
		cmd := ns.command("imdsfs", "serve", "-c", file, "--listen", linkLocal, "--add-addresses", "--mount", none, "--runtime-dir", runtime, "--state-dir", runtime)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopped := false
		stop = func() {
			if !stopped {
				stopped = true
				cmd.Process.Signal(syscall.SIGTERM)
				cmd.Wait()
			}
		}
		t.Cleanup(stop)
		kit.Eventually(t, "ready", func() bool { return strings.Contains(log.String(), "msg=ready") || cmd.ProcessState != nil })
		if !strings.Contains(log.String(), "http=\"169.254.169.254:80") {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("not ready: %s", log)
		}
		return stop, log
	}
	const id6 = "curl -sS -m 5 -g 'http://[fd00:ec2::254]/latest/meta-data/instance-id'"
	stop, _ := start()
	if got := ns.run(askID); got != leastID {
		t.Errorf("IPv4: %q", got)
	}
	if out, _, err := ns.try(id6); err == nil {
		t.Errorf("IPv6 answers although it is disabled: %q", out)
	}
	imdsfs := func(args string) string { return ns.run("imdsfs " + args + " --runtime-dir " + runtime) }
	imdsfs("options set http-protocol-ipv6=enabled")
	if got := ns.run(id6); got != leastID {
		t.Errorf("IPv6: %q", got)
	}
	if status := imdsfs("status"); !strings.Contains(status, "link imds0") || !strings.Contains(status, "169.254.169.254:80 [fd00:ec2::254]:80") {
		t.Errorf("status:\n%s", status)
	}
	imdsfs("options set http-protocol-ipv6=disabled")
	if out, _, err := ns.try(id6); err == nil {
		t.Errorf("IPv6 still answers: %q", out)
	}
	if got := ns.run(askID); got != leastID {
		t.Errorf("IPv4 in the end: %q", got)
	}
	stop()
	if out, _, err := ns.try("ip link show imds0"); err == nil {
		t.Errorf("the link is still there: %s", out)
	}

	// A foreign owner is refused by name.
	ns.run("ip address add 169.254.169.254/32 dev lo")
	out, stderr, err := ns.try("imdsfs serve -c " + file + " --listen link-local --add-addresses --mount none --runtime-dir " + runtime + " --state-dir " + runtime)
	if err == nil || !strings.Contains(stderr, "lo") || !strings.Contains(stderr, "imdsfs: hint: ") {
		t.Errorf("a foreign owner: %v, %s%s", err, out, stderr)
	}
	ns.run("ip address del 169.254.169.254/32 dev lo")

	// A daemon that was killed leaves the link behind, and the next takes it over.
	cmd := ns.command("imdsfs", "serve", "-c", file, "--listen", linkLocal, "--add-addresses", "--mount", none, "--runtime-dir", runtime, "--state-dir", runtime)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the link", func() bool { _, _, err := ns.try(askID); return err == nil })
	cmd.Process.Kill()
	cmd.Wait()
	ns.run("ip link show imds0")
	stop, _ = start()
	if got := ns.run(askID); got != leastID {
		t.Errorf("after SIGKILL: %q", got)
	}
	stop()
	if out, _, err := ns.try("ip link show imds0"); err == nil {
		t.Errorf("the link that was taken over is still there: %s", out)
	}
}

// After an address has left the machine, its new user does not count as a process of the machine: at hop limit 1 that user gets
// no token.
func TestAnAddressThatIsTakenOverIsNotLocal(t *testing.T) {
	kit.RequireCommand(t, "curl")
	n := newNeighboursSeen(t, "guest", "--allow-from", "local", "--allow-from", "192.0.2.0/24")
	for i := range 5 {
		address := fmt.Sprintf("192.0.2.%d", 10+i)
		n.host.run(fmt.Sprintf("ip address add %s/24 dev %s", address, wire))
		if got := n.host.run(askToken + "--interface " + address + " " + tokenURL); len(got) != 56 {
			t.Errorf("while it is the host's own, %s gets %q", address, got)
		}
		n.host.run(fmt.Sprintf("ip address del %s/24 dev %s", address, wire))
		out, stderr, err := n.neighbour.try(fmt.Sprintf("ip address add %s/24 dev %s && %s -m 1 --interface %s %s", address, wire, askToken, address, tokenURL))
		var exit *exec.ExitError
		if out != "" || !errors.As(err, &exit) || exit.ExitCode() != 28 {
			t.Errorf("the neighbour who took over %s gets %q, %v, %s; want him to wait in vain", address, out, err, stderr)
		}
	}
}

// A client may bind an address that the kernel has only just told us of.
func TestAnAddressThatIsJustAddedIsAnswered(t *testing.T) {
	kit.RequireCommand(t, "curl")
	for _, allow := range []string{"local", "192.0.2.0/24"} {
		t.Run("allowed by "+allow, func(t *testing.T) {
			n := newNeighboursSeen(t, "guest", "--allow-from", allow)
			for i := range 10 {
				address := fmt.Sprintf("192.0.2.%d", 10+i)
				line := fmt.Sprintf("ip address add %s/24 dev %s && %s --interface %s %s", address, wire, askToken, address, tokenURL)
				if got := n.host.run(line); len(got) != 56 {
					t.Errorf("%s gets %q", address, got)
				}
			}
		})
	}
}

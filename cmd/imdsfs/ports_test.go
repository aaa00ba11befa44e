package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// limitFiles has the test run imdsfs with these limits of open files.
func limitFiles(t *testing.T, soft, hard int) {
	t.Helper()
	program, err := exec.LookPath("imdsfs")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nulimit -Sn %d && ulimit -Hn %d && exec %s \"$@\"\n", soft, hard, program)
	if err := os.WriteFile(dir+"/imdsfs", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// dialPort opens a connection that ends with the test.
func dialPort(t *testing.T, network, address string) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout(network, address, kit.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(kit.Patience))
	return nc
}

// occupy opens that many connections, asks something on each, and leaves it at that.
func occupy(t *testing.T, network, address string, connections int) {
	t.Helper()
	for range connections {
		io.WriteString(dialPort(t, network, address), "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
}

// Whoever takes all connections of one port takes nothing from another, nor from the mount.
func TestNoPortStarvesAnother(t *testing.T) {
	var files unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	kit.Require(t, err == nil && files.Cur >= 2500, "2,500 open files (ulimit -n)")
	kit.Require(t, kit.CanMount(), "root and /dev/fuse")
	for _, limit := range []int{256, 512} {
		t.Run(fmt.Sprintf("with %d files", limit), func(t *testing.T) {
			limitFiles(t, limit/2, limit)
			d := serve(t, write(t, "instance.toml", least("", "")), true, "--metrics", "127.0.0.1:0")
			if limits := kit.ReadFile(t, fmt.Sprintf("/proc/%d/limits", d.cmd.Process.Pid)); !strings.Contains(strings.Join(strings.Fields(limits), " "), fmt.Sprintf("open files %d %d", limit-1, limit)) {
				t.Errorf("the limit is not raised to the hard one:\n%s", limits)
			}
			idle := d.descriptors()
			allWork := func(when string) {
				t.Helper()
				if got, err := freshGet("tcp", d.address, "/latest/meta-data/instance-id"); err != nil || got != leastID {
					t.Errorf("%s: HTTP: %q, %v", when, got, err)
				}
				if out, err := exec.Command("cat", d.mount+"/latest/meta-data/instance-id").CombinedOutput(); err != nil || string(out) != leastID {
					t.Errorf("%s: the mount: %q, %v", when, out, err)
				}
				if _, err := freshGet("tcp", d.metrics(), "/metrics"); err != nil {
					t.Errorf("%s: metrics: %v", when, err)
				}
				if _, err := freshGet("unix", daemon.AdminSocket(d.runtime), "/v1/status"); err != nil {
					t.Errorf("%s: the admin socket: %v", when, err)
				}
			}
			allWork("in peace")
			occupy(t, "tcp", d.metrics(), 600)
			allWork("with 600 connections to metrics")
			occupy(t, "unix", daemon.AdminSocket(d.runtime), 600)
			allWork("and 600 to the admin socket")
			occupy(t, "tcp", d.address, 600)
			allWork("and 600 to HTTP")
			t.Logf("%d descriptors open in peace, %d now", idle, d.descriptors())
		})
	}
}

// freshGet is the body of an answer on a connection of its own.
func freshGet(network, address, path string) (string, error) {
	nc, err := net.DialTimeout(network, address, kit.Patience)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(kit.Patience))
	fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// Each port answers whom its own list names, and nobody else.
func TestEachPortHasAListOfItsOwn(t *testing.T) {
	const metrics = "0.0.0.0:9338"
	ask := "curl -sS -m 5 -o /dev/null -w '%{http_code}' http://" + hostAddress + ":9338/metrics"
	refused := func(t *testing.T, what string, ns netns, line string) {
		t.Helper()
		out, stderr, err := ns.try(line)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 52 && exit.ExitCode() != 56 {
			t.Errorf("%s: printed %q, %v, %s; want the connection closed without an answer", what, out, err, stderr)
		}
	}
	kit.RequireCommand(t, "curl")
	t.Run("listed for HTTP", func(t *testing.T) {
		n := newNeighbours(t, "--metrics", metrics, "--allow-from", "local", "--allow-from", "192.0.2.0/24")
		if got := n.neighbour.run(askID); got != leastID {
			t.Errorf("HTTP: %q", got)
		}
		for range 3 {
			refused(t, "metrics", n.neighbour, ask)
		}
		if got := n.host.run(ask); got != "200" {
			t.Errorf("metrics on the host itself: %s", got)
		}
		if got := strings.Count(n.log.String(), "--metrics-allow-from"); got != 1 {
			t.Errorf("logged %d times within a minute, want once", got)
		}
	})
	t.Run("listed for metrics", func(t *testing.T) {
		n := newNeighbours(t, "--metrics", metrics, "--metrics-allow-from", "iface:"+wire)
		if got := n.neighbour.run(ask); got != "200" {
			t.Errorf("metrics: %s", got)
		}
		refused(t, "HTTP", n.neighbour, askID)
		if got := n.neighbour.run(ask + ` -H "Host: evil.test"`); got != "403" {
			t.Errorf("metrics of a foreign host: %s, want 403", got)
		}
		if got := n.host.run("curl -sS -m 5 -o /dev/null -w '%{http_code}' http://" + hostAddress + ":9338/metrics"); got != "200" {
			t.Errorf("metrics in the network of the interface: %s", got)
		}
		refused(t, "loopback, which is not listed", n.host, "curl -sS -m 5 http://127.0.0.1:9338/metrics")
	})
}

// The key of the file is the same as the flag.
func TestMetricsAllowFromInTheFile(t *testing.T) {
	d := serve(t, write(t, "instance.toml", least("", "")+"[server]\nmetrics-allow-from = [\"10.0.0.0/8\"]\n"), false, "--metrics", "127.0.0.1:0")
	if _, err := freshGet("tcp", d.metrics(), "/metrics"); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("loopback, which is not listed: %v", err)
	}
	if got, err := freshGet("tcp", d.address, "/latest/meta-data/instance-id"); err != nil || got != leastID {
		t.Errorf("HTTP: %q, %v", got, err)
	}
}

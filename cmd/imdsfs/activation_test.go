package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// systemd hands over sockets that it has opened: the way to the real address without privilege.
func TestSocketActivation(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	d := &served{t: t, log: &syncBuffer{}, runtime: t.TempDir(), exited: make(chan error, 1), address: l.Addr().String()}
	// The process that the sockets are for is named by its number, which only it knows beforehand.
	d.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec imdsfs serve "$@"`, "sh",
		"-c", write(t, "web.toml", least("", "")), "--mount", none, "--runtime-dir", d.runtime, "--state-dir", t.TempDir())
	d.cmd.Stderr = d.log
	d.cmd.ExtraFiles = []*os.File{socket}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(d.stop)
	kit.Eventually(t, "ready", func() bool { return strings.Contains(d.log.String(), "msg=ready") })
	if got := d.ask("GET", "/latest/meta-data/instance-id").body; got != leastID {
		t.Errorf("got %q", got)
	}
	if want := d.address + "\n"; kit.ReadFile(t, daemon.ListenFile(d.runtime)) != want {
		t.Errorf("listens on %q, want the socket that was handed over alone", kit.ReadFile(t, daemon.ListenFile(d.runtime)))
	}
	if r := d.token(); len(r) != 56 {
		t.Errorf("token %q", r)
	}
	d.signal(syscall.SIGHUP)
}

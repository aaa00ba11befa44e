package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// What a predecessor gone bad has kept makes no start fail.
func TestWhatIsKeptAndIsNoGoodIsMadeAfresh(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer udp.Close()
	udpFile, err := udp.File()
	must(t, err)
	null, err := os.Open(os.DevNull)
	must(t, err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // does not listen
	must(t, err, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	deaf := os.NewFile(uintptr(fd), "deaf")
	pipe, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	for name, c := range map[string]struct {
		kept string
		file *os.File
		said string
	}{
		"no socket":                         {"kept-listen-127.0.0.1_0", null, `what was kept as \"listen-127.0.0.1_0\" is opened afresh`},
		"a socket that does not listen":     {"kept-listen-127.0.0.1_0", deaf, `what was kept as \"listen-127.0.0.1_0\" is opened afresh`},
		"a datagram socket":                 {"kept-listen-127.0.0.1_0", udpFile, `what was kept as \"listen-127.0.0.1_0\" is opened afresh`},
		"no socket for metrics":             {"kept-metrics", null, `what was kept as \"metrics\" is opened afresh`},
		"a deaf one for metrics":            {"kept-metrics", deaf, `what was kept as \"metrics\" is opened afresh`},
		"a lock that is none":               {"kept-lock", null, "ready"},
		"settings that are a pipe":          {"kept-server", pipe, "what was kept of [server] makes no sense"},
		"somebody's socket, that is no one": {"web.socket", udpFile, `what is handed over as \"web.socket\" is not listened on`},
	} {
		t.Run(name, func(t *testing.T) {
			d := &served{t: t, log: &syncBuffer{}, runtime: t.TempDir(), exited: make(chan error, 1)}
			d.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$1; shift; export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; exec imdsfs serve "$@"`, "sh", c.kept,
				"-c", write(t, "web.toml", least("", "")), "--mount", none, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--runtime-dir", d.runtime, "--state-dir", t.TempDir())
			d.cmd.Stderr, d.cmd.ExtraFiles = d.log, []*os.File{c.file}
			must(t, d.cmd.Start())
			go func() { d.exited <- d.cmd.Wait() }()
			t.Cleanup(d.stop)
			kit.Eventually(t, "ready", func() bool {
				if d.ended() {
					t.Fatalf("it has ended:\n%s", d.log)
				}
				return strings.Contains(d.log.String(), "msg=ready")
			})
			d.address, _, _ = strings.Cut(kit.ReadFile(t, daemon.ListenFile(d.runtime)), "\n")
			if got := d.ask("GET", "/latest/meta-data/instance-id").body; got != leastID || !strings.Contains(d.log.String(), c.said) {
				t.Errorf("got %q; log:\n%s", got, d.log)
			}
		})
	}
}

// A file that is the lock's, but not locked, keeps nobody away.
func TestAKeptLockIsLocked(t *testing.T) {
	runtime := t.TempDir()
	lock, err := os.OpenFile(runtime+"/daemon.lock", os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	d := &served{t: t, log: &syncBuffer{}, runtime: runtime, exited: make(chan error, 1)}
	d.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=kept-lock exec imdsfs serve "$@"`, "sh",
		"-c", write(t, "web.toml", least("", "")), "--mount", none, "--listen", "127.0.0.1:0", "--runtime-dir", runtime, "--state-dir", t.TempDir())
	d.cmd.Stderr, d.cmd.ExtraFiles = d.log, []*os.File{lock}
	must(t, d.cmd.Start())
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(d.stop)
	kit.Eventually(t, "ready", func() bool { return strings.Contains(d.log.String(), "msg=ready") })
	other, err := os.Open(runtime + "/daemon.lock")
	must(t, err)
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("a second lock: %v", err)
	}
}

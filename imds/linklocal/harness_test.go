package linklocal

import (
	"bufio"
	"context"
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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

const (
	outsideEnv = "IMDSFS_LINKLOCAL_OUTSIDE" // the network namespace that a test has left
	roleEnv    = "IMDSFS_LINKLOCAL_ROLE"    // what the test binary does instead of testing
	manner     = "IMDSFS_LINKLOCAL_MANNER"  // how the role answers

	patience = kit.Patience
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{"daemon": daemonRole, "cloud": cloudRole, "nobody": nobodyRole, "listener": serveAll, "given": givenRole}
	if role := roles[os.Getenv(roleEnv)]; role != nil {
		here, err := os.Readlink("/proc/self/ns/net")
		if outside := os.Getenv(outsideEnv); err == nil && (outside == "" || outside == here) {
			err = errors.New("not in a test's network namespace")
		}
		if err == nil {
			err = role()
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(scratch.Run(m))
}

// inNamespace runs the body in a process with a network namespace of its own, which has only lo, so that no test changes the
// links of this machine.
func inNamespace(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	here := namespace(t)
	if outside := os.Getenv(outsideEnv); outside != "" {
		if outside == here {
			t.Fatalf("%s is set, but this is that namespace", outsideEnv)
		}
		sh(t, "ip link set lo up")
		body(t)
		return
	}
	kit.Require(t, os.Getuid() == 0, "root, for a network namespace")
	kit.RequireCommand(t, "ip")
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), outsideEnv+"="+here, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in a network namespace: %v\n%s", err, out)
	}
}

func namespace(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sh runs a line of shell, which has to succeed, and returns what it prints.
func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// addresses are what ip shows of a link, such as "169.254.169.254/32 scope link", without the kernel's fe80 address; "no
// link" if the link does not exist.
func addresses(t *testing.T, link string) string {
	t.Helper()
	if exec.Command("ip", "link", "show", "dev", link).Run() != nil {
		return "no link"
	}
	var all []string
	for line := range strings.Lines(sh(t, "ip -o address show dev "+link)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[3], "fe80:") {
			all = append(all, strings.Join(fields[3:6], " "))
		}
	}
	return strings.Join(all, ", ")
}

const (
	both     = "169.254.169.254/32 scope link, fd00:ec2::254/128 scope global"
	ipv4Only = "169.254.169.254/32 scope link"
)

func wantAddresses(t *testing.T, link, want string) {
	t.Helper()
	if got := addresses(t, link); got != want {
		t.Errorf("%s: %s; want %s", link, got, want)
	}
}

// add adds the addresses, and removes them at the end of the test.
func add(t *testing.T, config Config) *Link {
	t.Helper()
	l, err := Add(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// warnings collects the texts that Warn gets.
func warnings(config *Config) *[]string {
	var all []string
	config.Warn = func(text string) { all = append(all, text) }
	return &all
}

// noDummy behaves as a kernel without dummy links.
func noDummy(device netlink.Link) error {
	if device.Type() == "dummy" {
		return syscall.EOPNOTSUPP
	}
	return netlink.LinkAdd(device)
}

// ask sends a request to the real address as a client would.
func ask(t *testing.T, host string) string {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + host + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// start runs the test binary in a role, waits until it is ready, and ends it after the test. prepare, if not nil, is called
// in between.
func start(t *testing.T, role, how string, flags uintptr, prepare func(pid int)) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, manner+"="+how)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // closed when this process ends, however it ends
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if prepare != nil {
		prepare(cmd.Process.Pid)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("%s: %q, %v", role, line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// daemonRole adds both addresses and serves there until it is killed.
func daemonRole() error {
	if _, err := Add(context.Background(), Config{IPv6: true}); err != nil {
		return err
	}
	return serveAll()
}

// cloudRole is the real service, in a namespace of its own behind the link cloud0.
func cloudRole() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if _, err := netlink.LinkByName("cloud0"); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	line := "ip link set cloud0 up && ip address add 169.254.169.254/16 dev cloud0 && ip -6 address add fd00:ec2::254/64 dev cloud0 nodad"
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return serveAll()
}

// becomeNobody gives up every privilege.
func becomeNobody() error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(65534); err != nil {
		return err
	}
	return syscall.Setuid(65534)
}

// nobodyRole tries to add without any privilege.
func nobodyRole() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	_, err := Add(context.Background(), Config{})
	if hint := problem.Hint(err); hint != "" {
		err = fmt.Errorf("%w; hint: %s", err, hint)
	}
	return err
}

// serveAll listens on both addresses, or on that of one family, prints that it does, and answers as the environment says.
func serveAll() error {
	how, family, _ := strings.Cut(os.Getenv(manner), "/")
	failed := make(chan error, 3)
	for network, host := range map[string]string{"tcp4": "169.254.169.254", "tcp6": "fd00:ec2::254"} {
		if family != "" && family != network {
			continue
		}
		l, err := net.Listen(network, net.JoinHostPort(host, "80"))
		if err != nil {
			return err
		}
		go func() { failed <- answerAll(l, how) }()
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		failed <- nil
	}()
	fmt.Println("up")
	return <-failed
}

// A slowListener returns connections late, as in a process that waits for a processor.
type slowListener struct{ net.Listener }

func (l slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	<-time.After(time.Second)
	return conn, err
}

var scripts = map[string]string{
	"redirects": "HTTP/1.0 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
	"banner":    "SSH-2.0-OpenSSH_9.2\r\n",
	"closes":    "",
}

func answerAll(l net.Listener, how string) error {
	switch script, scripted := scripts[how]; {
	case scripted:
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, script)
			conn.Close()
		}
	case how == "silent":
		select {}
	case how == "slow":
		l = slowListener{l}
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet: // might be withheld by a hop limit
			select {}
		case len(r.Header["X-Aws-Ec2-Metadata-Token"]) == 1:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			io.WriteString(w, "version 1")
		}
	}))
}

// freebind listens on an address that need not be there yet, as systemd does for a socket unit.
func freebind(t *testing.T, address string) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		return err
	}}
	l, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

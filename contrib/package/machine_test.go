package packaging

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const machineID = "0123456789abcdef0123456789abcdef"

// A machine is a Debian with a real systemd as PID 1, in namespaces of its own. It has /dev/fuse, a network with only lo,
// and no access to the host's files, mounts or services. What is written in it is in memory and lost at its end.
type machine struct {
	t      testing.TB
	pid    int      // of its PID 1, on the host
	cgroup *os.File // its root
	guard  *exec.Cmd
	life   io.Closer // the machine ends when it is closed
	once   sync.Once
}

// boot starts a machine and waits until all of it is up. The machine ends with the test, and the test fails if anything of
// the machine is left. The journal of a test that fails is logged.
func boot(t testing.TB) *machine {
	t.Helper()
	canClone := os.Getuid() == 0
	if _, err := os.Stat("/dev/fuse"); err != nil {
		canClone = false
	}
	kit.Require(t, canClone, "root and /dev/fuse")
	_, err := unifiedHierarchy()
	kit.Require(t, err == nil, "cgroup2 to be mounted")
	kit.RequireCommand(t, "nsenter")
	m := &machine{t: t}
	m.guard = exec.Command("/proc/self/exe")
	// Otherwise the race detector sleeps for a second at the end.
	m.guard.Env = append(os.Environ(), roleVariable+"="+roleGuard, rootVariable+"="+deps(t, "machine"), "GORACE=atexit_sleep_ms=0")
	m.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt from the terminal goes to the test alone
	stderr := &bytes.Buffer{}
	m.guard.Stderr = stderr
	life, err := m.guard.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.life = life
	stdout, err := m.guard.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.guard.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && m.cgroup != nil {
			t.Logf("journal of the machine:\n%s", m.journal())
		}
		m.end()
		if stderr.Len() > 0 {
			t.Errorf("the machine says:\n%s", stderr)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the machine does not start: %v", err)
	}
	var cgroup string
	if _, err := fmt.Sscan(line, &m.pid, &cgroup); err != nil {
		t.Fatal(err)
	}
	if m.cgroup, err = os.Open(cgroup); err != nil {
		t.Fatal(err)
	}
	// systemd creates the socket when it is ready for systemctl.
	kit.Eventually(t, "systemd runs", func() bool {
		_, err := os.Stat(m.path("/run/systemd/private"))
		return err == nil
	})
	if state, err := m.try("systemctl is-system-running --wait"); err != nil {
		t.Fatalf("the machine is %s\n%s", state, m.run("systemctl --failed"))
	}
	return m
}

// end kills every process of the machine and checks that nothing is left.
func (m *machine) end() {
	m.once.Do(func() {
		m.life.Close()
		if err := m.guard.Wait(); err != nil {
			m.t.Errorf("the machine's guard: %v", err)
		}
		if m.cgroup != nil {
			if _, err := os.Stat(m.cgroup.Name()); !os.IsNotExist(err) {
				m.t.Errorf("the machine's cgroup is left: %v", err)
			}
			m.cgroup.Close()
		}
	})
}

// command runs in all namespaces of the machine, as root. It ends with the machine at the latest.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.pid), "--all", "--", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	cmd.WaitDelay = 10 * time.Second // nsenter is killed, its child is not
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(m.cgroup.Fd())}
	return cmd
}

// try runs a line of shell in the machine for at most patience. The output has no newline at its end.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := m.command(ctx, "sh", "-ec", script).CombinedOutput()
	return strings.TrimSuffix(string(out), "\n"), err
}

// run is try for a line that has to succeed.
func (m *machine) run(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// start runs a line of shell concurrently with the test, until the machine ends.
func (m *machine) start(script string) {
	m.t.Helper()
	cmd := m.command(context.Background(), "sh", "-ec", script)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go cmd.Wait()
}

// path is where the host finds a file of the machine. It does not resolve symbolic links of the machine.
func (m *machine) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.pid), "root", name)
}

// write makes a file in the machine.
func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// put copies a file of the host to /root in the machine, and returns its path there.
func (m *machine) put(file string) string {
	m.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	name := filepath.Join("/root", filepath.Base(file))
	m.write(name, string(text))
	return name
}

// journal is everything that was logged since the boot.
func (m *machine) journal() string {
	out, err := m.try("journalctl --no-pager --output=short-precise")
	if err != nil {
		return fmt.Sprintf("%s\n%v", out, err)
	}
	return out
}

// property is a property of a unit, as systemctl show prints it.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return m.run("systemctl show --property=" + name + " --value " + unit)
}

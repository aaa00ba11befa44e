package packaging

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestMachineIsApartFromTheHost(t *testing.T) {
	t.Parallel()
	m := boot(t)
	if got := m.run("cat /proc/1/comm /etc/machine-id; hostname; ls /sys/class/net"); got != "systemd\n"+machineID+"\nmachine\nlo" {
		t.Errorf("the machine is %q", got)
	}
	host := output(t, "hostname")
	m.run("hostname other; touch /etc/written /run/written; ! test -e " + filepath.Dir(m.cgroup.Name()))
	if output(t, "hostname") != host {
		t.Error("the machine's name becomes the host's")
	}
	for _, file := range []string{"/etc/written", "/run/written", deps(t, "machine") + "/etc/written"} {
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("the machine has written %s", file)
		}
	}
	if out, err := m.try("echo 2 >/proc/sys/vm/drop_caches"); err == nil {
		t.Errorf("the machine can set what is the host's: %s", out)
	}
	for line := range strings.Lines(kit.ReadFile(t, "/proc/self/mountinfo")) {
		if strings.Contains(line, "imdsfs-machine-") {
			t.Errorf("the host sees %s", line)
		}
	}
	// Its processes end with it, including those that left its cgroup and its session.
	m.start("setsid sleep 600")
	kit.Eventually(t, "the command runs", func() bool { out, _ := m.try("cat /proc/[0-9]*/comm"); return strings.Contains(out, "sleep") })
	m.end()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", m.pid)); err == nil {
		t.Errorf("PID 1 of the machine is left: %d", m.pid)
	}
}

// TestHoldAMachine is killed by the next test.
func TestHoldAMachine(t *testing.T) {
	if os.Getenv(holdVariable) == "" {
		return
	}
	m := boot(t)
	fmt.Println("holds", m.pid, m.cgroup.Name())
	select {}
}

func TestNothingOfAMachineIsLeftWhenItsTestIsKilled(t *testing.T) {
	t.Parallel()
	deps(t, "machine")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHoldAMachine$")
	cmd.Env = append(os.Environ(), holdVariable+"=1", "TMPDIR="+t.TempDir())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var cgroup string
	for lines := bufio.NewScanner(stdout); cgroup == "" && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "holds %d %s", &pid, &cgroup)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if cgroup == "" {
		kit.Require(t, false, "a machine")
	}
	kit.Eventually(t, "the machine's processes and cgroup are gone", func() bool {
		_, process := os.Stat(fmt.Sprintf("/proc/%d", pid))
		_, group := os.Stat(cgroup)
		return os.IsNotExist(process) && os.IsNotExist(group)
	})
	kit.Eventually(t, "the directory that it was mounted on is gone", func() bool {
		left, err := filepath.Glob(cmd.Env[len(cmd.Env)-1][len("TMPDIR="):] + "/*/imdsfs-machine-*")
		return err == nil && len(left) == 0
	})
}

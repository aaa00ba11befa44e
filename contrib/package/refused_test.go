package packaging

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// squat makes systemd listen on a port of 127.0.0.1, so that imdsfs cannot. leave ends that.
const (
	squat = "systemctl start squat.socket"
	leave = "systemctl stop squat.socket"
)

// refusable is a machine with the package. Its service waits for step before the first retry.
func refusable(t *testing.T, step string) *machine {
	t.Helper()
	m := installed(t)
	m.write("/etc/systemd/system/squat.socket", "[Socket]\nListenStream=127.0.0.1:1338\n")
	m.write("/etc/systemd/system/squat.service", "[Service]\nExecStart=/bin/sleep infinity\n")
	m.step(step)
	return m
}

func (m *machine) step(step string) {
	m.t.Helper()
	m.write("/etc/systemd/system/imdsfs.service.d/step.conf", "[Service]\nEnvironment=IMDSFS_RETRY_STEP="+step+"\n")
	m.run("systemctl daemon-reload")
}

// configure writes the instance file.
func (m *machine) configure(top, server string) {
	m.t.Helper()
	m.write(configPath, top+"\n[meta-data]\ninstance-id = 'i-0a1b2c3d4e5f67890'\n[server]\nsources = ['host', 'file']\n"+server+"\n")
}

const plain = "listen = ['127.0.0.1:1338']"

// state is the state of the unit and the number of its restarts.
func (m *machine) state() string {
	m.t.Helper()
	return m.run("systemctl show --property=ActiveState,SubState,ExecMainStatus,NRestarts imdsfs | sort | tr '\\n' ' '")
}

// ended waits until the service gives up, and checks its state then.
func (m *machine) ended(status, restarts int) {
	m.t.Helper()
	want := fmt.Sprintf("ActiveState=failed ExecMainStatus=%d NRestarts=%d SubState=failed ", status, restarts)
	var state string
	for deadline := time.Now().Add(patience); state != want && time.Now().Before(deadline); {
		state = m.state()
	}
	if state != want {
		m.t.Errorf("the unit is %s, and should be %s", state, want)
	}
}

// said counts how often each error was logged since the cursor.
func (m *machine) said(cursor string) map[string]int {
	m.t.Helper()
	said := map[string]int{}
	for line := range strings.Lines(m.run("journalctl --no-pager --output=cat --unit=imdsfs --after-cursor='" + cursor + "' | grep '^imdsfs: error: ' || true")) {
		said[strings.TrimSpace(strings.TrimPrefix(line, "imdsfs: error: "))]++
	}
	return said
}

func (m *machine) cursor() string {
	m.t.Helper()
	_, cursor, _ := strings.Cut(m.run("journalctl --no-pager --lines=0 --show-cursor"), "-- cursor: ")
	return cursor
}

func TestARefusedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	m := refusable(t, "10ms")
	const (
		onceOnly = 0
		retries  = 5
		givenUp  = 69
		invalid  = 3
	)
	spoil := func(top, server string) func() { return func() { m.configure(top, server) } }
	run := func(script string) func() { return func() { m.configure("", plain); m.run(script) } }
	for _, c := range []struct {
		name          string
		spoil         func()
		status, tries int
		said          string
		mend          string
	}{
		{"a secret that only root can read",
			func() { m.configure("user-data-file = '/etc/secret'", plain); m.run("umask 077; echo x >/etc/secret") },
			invalid, onceOnly, configPath + ":1: user-data-file: the file that it names cannot be read: permission denied", "chmod 644 /etc/secret"},
		{"a port in use", run(squat), givenUp, retries, "listen tcp 127.0.0.1:1338: bind: address already in use", leave},
		{"the address on another link",
			func() {
				m.configure("", "listen = ['link-local']\nadd-addresses = true")
				m.run("ip address add 169.254.169.254/32 dev lo")
			},
			givenUp, retries, "link-local addresses: the address belongs to another link: 169.254.169.254 is on lo", "ip address delete 169.254.169.254/32 dev lo"},
		{"no TOML", spoil("nonsense", plain), invalid, onceOnly, configPath + ":1: ", "sed -i 1d " + configPath},
		{"an address that is none", spoil("", "listen = ['127.0.0.1']"), invalid, onceOnly, configPath + ":6: server.listen: \"127.0.0.1\": not an address",
			"sed -i \"s/'127.0.0.1'/'127.0.0.1:1338'/\" " + configPath},
		{"a file for a mount point", run("touch /run/metadata"), invalid, onceOnly, "mount /run/metadata: not a directory", "rm /run/metadata"},
		{"something else mounted", run("mkdir /run/metadata; mount -t tmpfs theirs /run/metadata"), givenUp, retries,
			"mount /run/metadata: something else is mounted there: theirs of type tmpfs", "umount /run/metadata; rmdir /run/metadata"},
		{"the port of the metrics in use", func() { m.configure("", "listen = ['127.0.0.1:1340']\nmetrics = '127.0.0.1:1338'"); m.run(squat) },
			givenUp, retries, "listen tcp 127.0.0.1:1338: bind: address already in use", leave},
		{"a full run-time directory",
			run("rm -rf /run/imdsfs; mkdir /run/imdsfs; mount -t tmpfs -o nr_inodes=2 full /run/imdsfs"),
			givenUp, onceOnly, "no space left on device", "umount /run/imdsfs"},
		{"spoilt state", run("echo nonsense >/var/lib/imdsfs/overlay.json"), invalid, onceOnly, "/var/lib/imdsfs/overlay.json", "rm /var/lib/imdsfs/overlay.json"},
	} {
		t.Logf("%s", c.name)
		c.spoil()
		cursor := m.cursor()
		if out, err := m.try("systemctl start imdsfs"); err == nil {
			t.Errorf("%s: it starts: %s", c.name, out)
		}
		m.ended(c.status, c.tries)
		if left := m.run("grep fuse.imdsfs /proc/mounts || true; ls /run/metadata 2>&1 | grep -v 'No such file' || true"); left != "" && !strings.HasPrefix(left, "/run/metadata") {
			t.Errorf("%s: left behind: %s", c.name, left)
		}
		// Every start logs it once, and nothing else.
		starts := 0
		for text, times := range m.said(cursor) {
			if !strings.Contains(text, c.said) {
				t.Errorf("%s: it says %q", c.name, text)
			}
			starts += times
		}
		if starts != c.tries+1 {
			t.Errorf("%s: it is said %d times by %d starts", c.name, starts, c.tries+1)
		}
		m.run(c.mend + "; systemctl start imdsfs")
		if got := m.run("cat /run/metadata/" + idPath); got != "i-0a1b2c3d4e5f67890" {
			t.Errorf("%s, mended: %q", c.name, got)
		}
		if n := m.property("imdsfs", "NRestarts"); n != "0" {
			t.Errorf("%s, mended: %s retries", c.name, n)
		}
		m.run("systemctl stop imdsfs")
		m.nothingServed()
	}
}

func TestARefusedStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	m := refusable(t, "25s")
	m.nobodyWaits()
	m.theServedStays()
}

// What an administrator does while a retry waits takes effect at once.
func (m *machine) nobodyWaits() {
	m.t.Helper()
	m.configure("", plain)
	refuse := func() {
		m.t.Helper()
		m.run(squat + "; ! systemctl start imdsfs 2>/dev/null")
		kit.Eventually(m.t, "the helper waits", func() bool {
			return m.property("imdsfs", "SubState") == "start-pre" && m.property("imdsfs", "NRestarts") == "1"
		})
		m.run("! grep fuse.imdsfs /proc/mounts; " + leave)
	}
	for _, command := range []string{"systemctl restart imdsfs", "systemctl stop imdsfs; systemctl start imdsfs"} {
		refuse()
		begin := time.Now()
		m.run(command)
		if took := time.Since(begin); took > 20*time.Second {
			m.t.Errorf("%s takes %v", command, took)
		}
		m.run("cat /run/metadata/" + idPath + " && systemctl stop imdsfs")
		m.nothingServed()
	}
	m.run("! test -e /run/imdsfs/refused")
}

// The mount that a predecessor served stays for the next try, in containers too.
func (m *machine) theServedStays() {
	m.t.Helper()
	m.step("300ms")
	restart := func() {
		m.t.Helper()
		m.configure("", "listen = ['127.0.0.1:1340']")
		m.run("systemctl start imdsfs; mount --bind /run/metadata /mnt; " + squat)
		m.configure("", plain)
		m.run("systemctl restart --no-block imdsfs")
	}
	restart()
	kit.Eventually(m.t, "it is refused twice", func() bool { return m.property("imdsfs", "NRestarts") == "2" })
	m.run("grep '/run/metadata fuse.imdsfs' /proc/mounts; " + leave)
	if got := m.run("cat /mnt/" + idPath); got != "i-0a1b2c3d4e5f67890" { // waits for the start that succeeds
		m.t.Errorf("it reads %q", got)
	}
	kit.Eventually(m.t, "it is well", func() bool { return m.property("imdsfs", "ActiveState") == "active" })
	m.run("umount /mnt; systemctl stop imdsfs")
	m.nothingServed()

	m.step("10ms")
	restart()
	m.ended(69, 5)
	m.run("! grep '/run/metadata fuse.imdsfs' /proc/mounts; ! cat /mnt/" + idPath + " 2>/dev/null; umount /mnt; " + leave)
	m.run("systemctl start imdsfs; cat /run/metadata/" + idPath + "; systemctl stop imdsfs")
	m.nothingServed()
}

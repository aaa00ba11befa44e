package packaging

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

var fstabLine = regexp.MustCompile(`(?m)^    (\S+ /run/metadata fuse\.imdsfs .*)$`)

// The line of the README, as systemd reads it: at boot remote-fs.target wants it.
func TestFstabMountsAtTheBoot(t *testing.T) {
	t.Parallel()
	m := installed(t)
	line := fstabLine.FindStringSubmatch(kit.ReadFile(t, repository+"/README.md"))
	if line == nil {
		t.Fatal("README.md has no line for fstab")
	}
	m.run("echo '" + line[1] + "' >>/etc/fstab && systemctl daemon-reload")
	const unit = "run-metadata.mount"
	for property, want := range map[string]string{"After": "network-online.target", "Wants": "network-online.target", "WantedBy": "remote-fs.target"} {
		if got := strings.Fields(m.property(unit, property)); !slices.Contains(got, want) {
			t.Errorf("%s=%v of the mount unit lacks %s", property, got, want)
		}
	}
	m.run("systemctl start remote-fs.target")
	// With nofail the boot does not wait for the mount.
	kit.Eventually(t, "it is mounted", func() bool { return m.property(unit, "ActiveState") == "active" })
	id := m.answersAlike()
	if log := m.run("journalctl --no-pager --unit=" + unit); !strings.Contains(log, "msg=ready") {
		t.Errorf("the journal of the unit is\n%s", log)
	}

	// systemd does not stop the daemon, and with keep the daemon may be killed.
	m.run("kill -KILL $(imdsfs status --json | sed -n 's/^  \"pid\": \\([0-9]*\\),$/\\1/p')")
	if again := m.answersAlike(); again != id {
		t.Errorf("after a kill the instance is %s", again)
	}
	m.run("systemctl restart " + unit)
	m.answersAlike()
	m.run("systemctl stop " + unit)
	kit.Eventually(t, "nothing of it is left", func() bool {
		return m.run("grep fuse.imdsfs /proc/mounts || true; for comm in /proc/[0-9]*/comm; do grep -sx imdsfs $comm || true; done; ip -o link show imds0 2>/dev/null || true") == ""
	})

	// The journal says what is wrong with the file, and the unit has failed.
	m.write("/etc/imdsfs/imdsfs.toml", "nonsense\n")
	if said, err := m.try("systemctl start " + unit); err == nil {
		t.Errorf("it starts with a faulty file: %s", said)
	}
	if log := m.run("journalctl --no-pager --unit=" + unit); !strings.Contains(log, "imdsfs: error: /etc/imdsfs/imdsfs.toml:1: ") {
		t.Errorf("the journal of the unit is\n%s", log)
	}
}

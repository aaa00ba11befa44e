package packaging

import (
	"fmt"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// When systemctl returns the reload is done, or it has failed, says why, and has changed nothing.
func TestReloadOfAFaultyFileFailsVisibly(t *testing.T) {
	t.Parallel()
	m := installed(t)
	units := []struct{ unit, file, listen, mount string }{
		{"imdsfs", "/etc/imdsfs/imdsfs.toml", "127.0.0.1:80", "/run/metadata"},
		{"imdsfs@web", "/etc/imdsfs/web.toml", "127.0.0.1:8080", "/run/metadata-web"},
	}
	write := func(file, listen, more, id string) {
		m.write(file, fmt.Sprintf("[server]\nlisten = [%q]\n%s\n[meta-data]\ninstance-id = %q\n", listen, more, id))
	}
	for _, c := range units {
		write(c.file, c.listen, "", "i-00000000000000001")
	}
	m.run("systemctl start imdsfs imdsfs@web")
	for _, c := range units {
		id := func() string { return m.run("cat " + c.mount + "/" + idPath) }
		pid := m.property(c.unit, "MainPID")
		write(c.file, c.listen, "[instance]\nplatfrom = \"ec2\"\n[tgas]", "i-00000000000000002")
		if said, err := m.try("systemctl reload " + c.unit); err == nil || !strings.Contains(said, "failed") {
			t.Errorf("systemctl reload %s with a faulty file: %v\n%s", c.unit, err, said)
		}
		journal := m.run("journalctl --no-pager --output=cat --unit=" + c.unit)
		for _, want := range []string{":4: instance.platfrom: unknown key", ":5: tgas: unknown key"} {
			if want = "imdsfs: error: " + c.file + want; !strings.Contains(journal, want) {
				t.Errorf("after a reload of %s with a faulty file the journal does not say %q", c.unit, want)
			}
		}
		if now := m.property(c.unit, "ActiveState") + " " + m.property(c.unit, "MainPID") + " " + id(); now != "active "+pid+" i-00000000000000001" {
			t.Errorf("after a reload with a faulty file %s is %s", c.unit, now)
		}
		write(c.file, c.listen, "", "i-00000000000000003")
		m.run("systemctl reload " + c.unit)
		if got := id(); got != "i-00000000000000003" {
			t.Errorf("systemctl reload %s has returned, and the instance is %s", c.unit, got)
		}
	}
	// Without an admin socket it sends the signal.
	none := func(id string) { write(units[0].file, units[0].listen, `admin = "none"`, id) }
	none("i-00000000000000003")
	m.run("systemctl restart imdsfs")
	none("i-00000000000000004")
	m.run(`systemctl reload imdsfs
journalctl --no-pager --unit=imdsfs | grep 'no admin socket at /run/imdsfs/admin.sock: sent SIGHUP to pid'`)
	kit.Eventually(t, "the signal shows the new instance", func() bool { return m.run("cat /run/metadata/"+idPath) == "i-00000000000000004" })
}

package packaging

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// reader reads as a container does, through a bind mount in a mount namespace of its own, with a file open all the time.
// Each round asks for a new name, which the kernel cannot answer by itself, and logs a line: "ok", or what went wrong. When
// it is told to end it logs what it reads from the open file.
const reader = `mkdir -p /root/reader
exec unshare --mount --propagation private sh -c '
mkdir -p /mnt/metadata; mount --bind /run/metadata /mnt/metadata
exec 3</mnt/metadata/latest/meta-data/instance-id
i=0
until test -e /root/reader/stop; do
	i=$((i+1))
	error=$(cat /mnt/metadata/latest/meta-data/none-$i 2>&1 || true)
	case $error in *"No such file"*) echo ok;; *) echo "$error";; esac
done >/root/reader/log 2>&1
cat <&3 >/root/reader/open 2>&1 || true
touch /root/reader/done'`

// readWhile starts the reader, lets it read before, during and after do, and returns its errors and what it read from the
// open file.
func (m *machine) readWhile(do func()) (faults []string, open string) {
	m.t.Helper()
	m.start(reader)
	rounds := func() []string {
		log, _ := m.try("cat /root/reader/log")
		return strings.Split(log, "\n")
	}
	further := func() {
		m.t.Helper()
		n := len(rounds())
		kit.Eventually(m.t, "the reader reads", func() bool { return len(rounds()) > n+5 })
	}
	further()
	do()
	further()
	m.run("touch /root/reader/stop")
	kit.Eventually(m.t, "the reader ends", func() bool { _, err := m.try("test -e /root/reader/done"); return err == nil })
	for _, line := range rounds() {
		if line != "ok" {
			faults = append(faults, line)
		}
	}
	return faults, m.run("cat /root/reader/open")
}

func TestUpgradeGoesOnWithTheNewVersion(t *testing.T) {
	t.Parallel()
	newer := built(t, newerDeb, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := installed(t)
	m.write("/etc/imdsfs/web.toml", "[meta-data]\ninstance-id = 'i-0a1b2c3d4e5f67890'\n[server]\nlisten = ['127.0.0.1:1339']\n")
	m.run(`systemctl start imdsfs imdsfs@web
echo '# changed by the administrator' >>/etc/imdsfs/imdsfs.toml
imdsfs options set http-put-response-hop-limit=2 >/dev/null`)
	id := m.answersAlike()
	before := m.property("imdsfs", "MainPID") + m.property("imdsfs@web", "MainPID")
	// In earlier versions the daemon itself made the link, without an alias.
	m.run("ip link set dev imds0 alias ''; ! ip link show dev imds0 | grep alias")
	faults, open := m.readWhile(func() { m.run("dpkg -i " + m.put(newer)) })
	m.run("ip link show dev imds0 | grep -q 'alias imdsfs of /run/imdsfs$'")
	if after := m.property("imdsfs", "MainPID") + m.property("imdsfs@web", "MainPID"); after == before {
		t.Error("after the upgrade the old version runs")
	}
	if got := m.run("imdsfs version"); !strings.HasPrefix(got, "imdsfs "+newerVersion+" ") {
		t.Errorf("after the upgrade this is %s", got)
	}
	if got := m.answersAlike(); got != id {
		t.Errorf("the instance was %s and is %s", id, got)
	}
	m.run(`grep -q 'changed by the administrator' /etc/imdsfs/imdsfs.toml
imdsfs options get | grep -q 'http-put-response-hop-limit.*2'
test "$(cat /run/metadata-web/latest/meta-data/instance-id)" = i-0a1b2c3d4e5f67890`)
	if len(faults) > 0 || open != id {
		t.Errorf("the reader had %q in its open file, and met %d errors, such as %q", open, len(faults), first(faults))
	}
	// A stopped service is not started.
	m.run("systemctl stop imdsfs imdsfs@web; dpkg -i " + m.put(newer))
	m.nothingServed()
}

func TestAFaultyFileEndsNothing(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.write(configPath, stressFile(0, 0))
	m.run("systemctl start imdsfs")
	id := m.answersAlike()
	faults, open := m.readWhile(func() {
		m.write(configPath, stressFile(0, 0)+"faulty = \n")
		m.run("systemctl restart imdsfs")
		m.answersAlike()
		before := m.property("imdsfs", "MainPID")
		m.run("rm " + configPath + "; systemctl kill --kill-who=main --signal=KILL imdsfs")
		kit.Eventually(t, "a successor has started", func() bool {
			return m.property("imdsfs", "MainPID") != before && m.property("imdsfs", "ActiveState") == "active"
		})
		m.answersAlike()
		m.write(configPath, strings.ReplaceAll(stressFile(0, 0), id, "i-00000000000000042"))
		kit.Eventually(t, "the file counts again", func() bool { return m.run("cat /run/metadata/"+idPath) != id })
	})
	if again := m.answersAlike(); again != "i-00000000000000042" {
		t.Errorf("the instance is %s", again)
	}
	if len(faults) > 0 || open != id {
		t.Errorf("the reader had %q in its open file, and met %d errors, such as %q", open, len(faults), first(faults))
	}
	m.run("systemctl stop imdsfs")
	m.nothingServed()

	m.write(configPath, "faulty = \n")
	if out, err := m.try("systemctl start imdsfs"); err == nil {
		t.Errorf("it starts with a faulty file: %s", out)
	}
	if state := m.run("systemctl show --property=ActiveState,ExecMainStatus --value imdsfs"); state != "3\nfailed" {
		t.Errorf("with a faulty file the unit is %q", state)
	}
	m.nothingServed()
}

// Another place for the mount takes effect at the next start. Nothing is left of the earlier mount.
func TestAnotherMountPointTakesARestart(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.run("systemctl start imdsfs")
	id := m.answersAlike()
	m.run(`sed -i 's|^#mount = .*|mount = "/run/elsewhere"|' /etc/imdsfs/imdsfs.toml; grep -q '^mount = ' /etc/imdsfs/imdsfs.toml
systemctl restart imdsfs || true # the first start may fail, and the next one follows by itself`)
	kit.Eventually(t, "it is mounted there", func() bool {
		text, err := m.try("cat /run/elsewhere/" + idPath)
		return err == nil && text == id
	})
	if mounts := m.run("grep fuse.imdsfs /proc/mounts; ls -d /run/metadata 2>/dev/null || true"); strings.Count(mounts, "\n") > 0 || !strings.Contains(mounts, " /run/elsewhere ") {
		t.Errorf("mounted is\n%s", mounts)
	}
	m.run("systemctl stop imdsfs; ! test -e /run/elsewhere")
	m.nothingServed()
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprint(list[0])
}

package packaging

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	endpoint = "http://169.254.169.254"
	idPath   = "latest/meta-data/instance-id"
)

// installed is a machine with the .deb of the working tree. Nothing is started.
func installed(t testing.TB) *machine {
	t.Helper()
	deb := built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := boot(t)
	m.run("dpkg -i " + m.put(deb))
	return m
}

// answers are the instance's id on the mount and over HTTP.
func (m *machine) answers() (file, http string) {
	m.t.Helper()
	return m.run("cat /run/metadata/" + idPath), m.run("curl -sS --fail --max-time 5 " + endpoint + "/" + idPath)
}

// answersAlike fails the test unless the mount and HTTP answer the same. It returns the instance's id.
func (m *machine) answersAlike() string {
	m.t.Helper()
	file, http := m.answers()
	if file != http || !strings.HasPrefix(file, "i-") {
		m.t.Errorf("the instance is %q by file and %q by HTTP", file, http)
	}
	return file
}

// nothingServed fails the test if a daemon, its mount, its link or its socket exists. Keys and locks stay until the next
// boot.
func (m *machine) nothingServed() {
	m.t.Helper()
	if left := m.run(`grep fuse.imdsfs /proc/mounts || true
ip -o link show imds0 2>/dev/null || true
ls -d /run/metadata* /run/imdsfs/*.sock /run/imdsfs/listen /run/imdsfs.instances/*/*.sock /run/imdsfs.instances/*/listen 2>/dev/null || true
for comm in /proc/[0-9]*/comm; do grep -sx imdsfs "$comm" || true; done`); left != "" {
		m.t.Errorf("left behind:\n%s", left)
	}
}

func TestInstalledServiceAnswersOnBothDoors(t *testing.T) {
	t.Parallel()
	deb := built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := boot(t)
	m.run("apt-get install -y " + m.put(deb))
	if state := m.run("systemctl is-enabled imdsfs.service imdsfs.socket || true; systemctl is-active imdsfs.service imdsfs.socket || true"); state != "disabled\ndisabled\ninactive\ninactive" {
		t.Errorf("after the installation the units are %q", state)
	}
	m.nothingServed()

	m.run("systemctl start imdsfs")
	id := m.answersAlike()
	token := m.run("curl -sS --fail -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' " + endpoint + "/latest/api/token")
	if got := m.run("curl -sS --fail -H 'X-aws-ec2-metadata-token: " + token + "' " + endpoint + "/" + idPath); got != id {
		t.Errorf("with a token the instance is %q", got)
	}
	if got := m.run("imdsfs get instance-id; imdsfs status >/dev/null"); got != id {
		t.Errorf("imdsfs get says %q", got)
	}

	first := m.property("imdsfs", "MainPID")
	m.run(`printf '[meta-data]\ninstance-id = "i-00000000000000042"\n' >>/etc/imdsfs/imdsfs.toml; systemctl reload imdsfs`)
	kit.Eventually(t, "reload shows the new instance", func() bool {
		file, http := m.answers()
		return file == "i-00000000000000042" && http == file
	})
	if second := m.property("imdsfs", "MainPID"); second != first {
		t.Errorf("reload makes process %s of %s", second, first)
	}
	m.run("systemctl restart imdsfs")
	if second := m.property("imdsfs", "MainPID"); second == first {
		t.Error("restart leaves the process")
	}
	m.answersAlike()

	m.run("systemctl stop imdsfs")
	m.nothingServed()
	if state := m.run("systemctl show --property=Result,ActiveState --value imdsfs"); state != "success\ninactive" {
		t.Errorf("after a stop the unit is %q", state)
	}
}

func TestInstanceBesidesTheMachineHasItsOwnPlaces(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.write("/etc/imdsfs/web-1.toml", `[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
instance-type = "m5.large"
local-ipv4 = "10.0.12.34"
mac = "06:2b:3c:4d:5e:6f"
placement.availability-zone = "eu-west-1b"
[server]
listen = ["127.0.0.1:1339"]
`)
	m.run("systemctl start imdsfs imdsfs@web-1")
	const web = "i-0a1b2c3d4e5f67890"
	here := func() {
		t.Helper()
		got := m.run("cat /run/metadata-web-1/" + idPath + "; echo; curl -sS --fail http://127.0.0.1:1339/" + idPath + "; echo; imdsfs get --runtime-dir /run/imdsfs.instances/web-1 instance-id")
		if got != fmt.Sprint(web, "\n", web, "\n", web) {
			t.Errorf("the instance web-1 is %q", got)
		}
	}
	here()
	if id := m.answersAlike(); id == web {
		t.Errorf("the machine is %s", id)
	}
	m.run("systemctl stop imdsfs")
	here()
	m.run("systemctl stop imdsfs@web-1")
	m.nothingServed()
	m.run("test -d /var/lib/imdsfs.instances/web-1")
}

func TestSocketActivation(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.run(`sed -i '/^listen/d; /^add-addresses/d' /etc/imdsfs/imdsfs.toml; systemctl start imdsfs.socket`)
	m.nothingServed()
	id := m.run("curl -sS --fail http://127.0.0.1:1338/" + idPath)
	if file := m.run("cat /run/metadata/" + idPath); file != id {
		t.Errorf("the instance is %q by file and %q by HTTP", file, id)
	}
	// As imdsfs.socket says in its comments.
	m.run("systemctl stop imdsfs.socket imdsfs.service; ip address add 169.254.169.254/32 dev lo")
	m.write("/etc/systemd/system/imdsfs.socket.d/override.conf", "[Socket]\nListenStream=\nListenStream=169.254.169.254:80\nFreeBind=yes\n")
	m.run("systemctl daemon-reload; systemctl start imdsfs.socket")
	if http := m.run("curl -sS --fail " + endpoint + "/" + idPath); http != id {
		t.Errorf("at the real address the instance is %q", http)
	}
	m.run("systemctl stop imdsfs.socket imdsfs.service")
	m.nothingServed()
}

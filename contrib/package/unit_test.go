package packaging

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// mostExposure is just above the exposure that systemd 252 computes for the service, from 0 to 10.
const mostExposure = 1.6

func TestUnitsGiveSystemdNothingToSay(t *testing.T) {
	t.Parallel()
	m := installed(t)
	units := "imdsfs.service imdsfs@web.service imdsfs.socket"
	if said := m.run("systemd-analyze verify --man=no " + units + " 2>&1"); said != "" {
		t.Errorf("systemd-analyze verify %s says:\n%s", units, said)
	}
}

var overall = regexp.MustCompile(`Overall exposure level for imdsfs.service: ([0-9.]+)`)

func TestExposureStaysLow(t *testing.T) {
	t.Parallel()
	m := installed(t)
	said := m.run("systemd-analyze security --no-pager imdsfs.service")
	match := overall.FindStringSubmatch(said)
	if match == nil {
		t.Fatalf("systemd-analyze security says:\n%s", said)
	}
	exposure, err := strconv.ParseFloat(match[1], 64)
	if err != nil || exposure > mostExposure {
		t.Errorf("the exposure is %s, more than %v:\n%s", match[1], mostExposure, said)
	}
	t.Logf("exposure %s", match[1])
}

func TestUnprivilegedServiceDoesItsWork(t *testing.T) {
	t.Parallel()
	m := installed(t)
	// It takes over the files of a daemon that ran as root.
	m.run(`mkdir -p /var/lib/imdsfs /run/imdsfs
imdsfs serve -c /etc/imdsfs/imdsfs.toml --mount none >/dev/null 2>&1 & daemon=$!
until imdsfs status >/dev/null 2>&1; do kill -0 $daemon; sleep 0.05; done
imdsfs tag set Owner ops; kill $daemon; wait $daemon
test $(stat -c %U /var/lib/imdsfs/overlay.json) = root`)
	m.run("systemctl start imdsfs")
	if user := m.run("stat -c %U:%G:%a /proc/$(systemctl show --property=MainPID --value imdsfs) /run/imdsfs /var/lib/imdsfs"); !strings.HasSuffix(user, "\nimdsfs:imdsfs:755\nimdsfs:imdsfs:700") {
		t.Errorf("the daemon's directories belong to %q", user)
	}
	status := m.run("cat /proc/$(systemctl show --property=MainPID --value imdsfs)/status")
	for _, want := range []string{"CapBnd:\t0000000000000400\n", "CapPrm:\t0000000000000400\n", "NoNewPrivs:\t1\n"} { // bind low ports
		if !strings.Contains(status, want) {
			t.Errorf("the daemon's status does not say %q:\n%s", want, status)
		}
	}
	id := m.answersAlike()
	m.run("imdsfs tag set Name web-1 && imdsfs options set instance-metadata-tags=enabled http-protocol-ipv6=enabled >/dev/null")
	if tags := m.run("for tag in Name Owner; do curl -sS --fail http://[fd00:ec2::254]/latest/meta-data/tags/instance/$tag; echo; cat /run/metadata/latest/meta-data/tags/instance/$tag; echo; done"); tags != "web-1\nweb-1\nops\nops" {
		t.Errorf("the tags are %q", tags)
	}
	m.run(`printf '[meta-data]\ninstance-id = "i-00000000000000042"\n' >>/etc/imdsfs/imdsfs.toml; systemctl reload imdsfs`)
	kit.Eventually(t, "reload shows the new instance", func() bool {
		return m.run("curl -sS --fail "+endpoint+"/"+idPath) == "i-00000000000000042"
	})
	// It sees a name that the machine gets at run time.
	m.run("hostname other; systemctl reload imdsfs")
	kit.Eventually(t, "reload shows the new name", func() bool {
		return m.run("curl -sS --fail "+endpoint+"/latest/meta-data/local-hostname") == "other"
	})
	// Root's helper has made the link, and keeps it.
	link := m.run("ip -o link show dev imds0 | grep 'alias imdsfs of /run/imdsfs$'; imdsfs status | grep imds0")
	m.run("systemctl restart imdsfs")
	if again := m.answersAlike(); again == id {
		t.Errorf("after a restart the instance is %s", again)
	}
	before := m.property("imdsfs", "MainPID")
	m.run("systemctl kill --kill-who=main --signal=KILL imdsfs")
	kit.Eventually(t, "a successor has started", func() bool {
		return m.property("imdsfs", "MainPID") != before && m.property("imdsfs", "ActiveState") == "active"
	})
	m.answersAlike()
	if now := m.run("ip -o link show dev imds0; imdsfs status | grep imds0"); now != link {
		t.Errorf("the link was %s and is %s", link, now)
	}
	m.run("systemctl stop imdsfs")
	m.nothingServed()
}

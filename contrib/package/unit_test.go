package packaging

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The exposure that systemd 252 computes, from 0 to 10, just above what it is.
const (
	interimExposure      = 4.4 // contrib/systemd/interim
	unprivilegedExposure = 1.7 // contrib/systemd
)

const systemdFolder = repository + "/contrib/systemd/"

func TestUnitsGiveSystemdNothingToSay(t *testing.T) {
	t.Parallel()
	m := installed(t)
	units := "imdsfs.service imdsfs@web.service imdsfs.socket"
	if said := m.run("systemd-analyze verify --man=no " + units + " 2>&1"); said != "" {
		t.Errorf("systemd-analyze verify %s says:\n%s", units, said)
	}
	m.write("/etc/systemd/system/imdsfs.service", readFile(t, systemdFolder+"imdsfs.service"))
	if said := m.run("systemctl daemon-reload; systemd-analyze verify --man=no imdsfs.service 2>&1"); said != "" {
		t.Errorf("systemd-analyze verify contrib/systemd/imdsfs.service says:\n%s", said)
	}
}

var overall = regexp.MustCompile(`Overall exposure level for imdsfs.service: ([0-9.]+)`)

func TestExposureStaysLow(t *testing.T) {
	t.Parallel()
	m := installed(t)
	for folder, bound := range map[string]float64{"interim/": interimExposure, "": unprivilegedExposure} {
		m.write("/root/imdsfs.service", readFile(t, systemdFolder+folder+"imdsfs.service"))
		said := m.run("systemd-analyze security --offline=true --no-pager /root/imdsfs.service")
		match := overall.FindStringSubmatch(said)
		if match == nil {
			t.Fatalf("systemd-analyze security says:\n%s", said)
		}
		exposure, err := strconv.ParseFloat(match[1], 64)
		if err != nil || exposure > bound {
			t.Errorf("the exposure of contrib/systemd/%simdsfs.service is %s, more than %v:\n%s", folder, match[1], bound, said)
		}
		t.Logf("contrib/systemd/%simdsfs.service: %s", folder, match[1])
	}
}

// What of the unprivileged unit needs no mount-helper works: its sandbox lets the daemon do its work on
// HTTP. Without the helper there is no mount, no hand-over and no watchdog.
const withoutHelper = `[Service]
ExecStartPre=
ExecStopPost=
ExecStart=
ExecStart=/usr/bin/imdsfs serve -c /etc/imdsfs/imdsfs.toml --runtime-dir /run/imdsfs --state-dir /var/lib/imdsfs --mount none
RestartKillSignal=SIGTERM
WatchdogSec=0
`

func TestUnprivilegedUnitServesHTTP(t *testing.T) {
	t.Parallel()
	m := installed(t)
	// It takes over what a daemon left that ran as root.
	m.run("systemctl start imdsfs; imdsfs tag set Owner ops; systemctl stop imdsfs; test $(stat -c %U /var/lib/imdsfs/overlay.json) = root")
	m.write("/etc/systemd/system/imdsfs.service", readFile(t, systemdFolder+"imdsfs.service"))
	m.write("/etc/systemd/system/imdsfs.service.d/test.conf", withoutHelper)
	m.run("systemctl daemon-reload; systemctl start imdsfs")
	if user := m.run("stat -c %U:%G:%a /proc/$(systemctl show --property=MainPID --value imdsfs)/fd /run/imdsfs /var/lib/imdsfs"); !strings.HasSuffix(user, "\nimdsfs:imdsfs:755\nimdsfs:imdsfs:700") {
		t.Errorf("the daemon's descriptors and directories belong to %q", user)
	}
	id := m.run("curl -sS --fail " + endpoint + "/" + idPath)
	m.run("imdsfs tag set Name web-1 && imdsfs options set instance-metadata-tags=enabled http-protocol-ipv6=enabled >/dev/null")
	if tags := m.run("for tag in Name Owner; do curl -sS --fail http://[fd00:ec2::254]/latest/meta-data/tags/instance/$tag; echo; done"); tags != "web-1\nops" {
		t.Errorf("the tags are %q", tags)
	}
	m.run(`printf '[meta-data]\ninstance-id = "i-00000000000000042"\n' >>/etc/imdsfs/imdsfs.toml; systemctl reload imdsfs`)
	eventually(t, "reload shows the new instance", func() bool {
		return m.run("curl -sS --fail "+endpoint+"/"+idPath) == "i-00000000000000042"
	})
	// A name that the machine gets at run time is seen.
	m.run("hostname other; systemctl reload imdsfs")
	eventually(t, "reload shows the new name", func() bool {
		return m.run("curl -sS --fail "+endpoint+"/latest/meta-data/local-hostname") == "other"
	})
	m.run("systemctl restart imdsfs")
	if again := m.run("curl -sS --fail " + endpoint + "/" + idPath); again == id {
		t.Errorf("after a restart the instance is %s", again)
	}
	m.run("systemctl stop imdsfs")
	m.nothingServed()
}

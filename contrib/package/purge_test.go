package packaging

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// traces prints what a package could leave behind: files with owner and mode (and the content of those in /etc), users,
// groups, links and addresses, mounts, units, processes. Logs, caches, dpkg's backups of its own lists, and the locks and
// backups of passwd and group do not belong to a package.
const traces = `
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /root -o -path /tmp -o -path /var/log -o -path /var/lib/apt -o -path /var/cache \
	-o -path /run/systemd -o -path /run/log -o -path /var/lib/systemd/deb-systemd-helper-enabled \) -prune \
	-o ! -name '*-old' ! -path '/etc/*-' ! -path /etc/.pwd.lock -printf 'file %p %y %m %u %g\n'
find /run \( -path /run/systemd -o -path /run/log -o -path /run/lock \) -prune -o -printf 'file %p %y %m %u %g\n'
find /etc -type f ! -path '/etc/*-' -exec sha256sum {} + | sed 's/^/content /'
find /var/lib/systemd/deb-systemd-helper-enabled ! -type d -printf 'file %p\n' 2>/dev/null
sed 's/^/passwd /' /etc/passwd /etc/shadow
sed 's/^/group /' /etc/group /etc/gshadow
ip -o link | sed 's/^/link /; s/ *qlen.*//'
ip -o address | sed 's/^/address /'
sed 's/^/mount /' /proc/mounts
systemctl list-units --all --plain --no-legend 'imdsfs*' | sed 's/^/unit /'
systemctl list-unit-files --no-legend 'imdsfs*' | sed 's/^/unit file /'
for comm in /proc/[0-9]*/comm; do grep -sx imdsfs "$comm" || true; done | sed 's/^/process /'
`

func (m *machine) traces() []string {
	m.t.Helper()
	lines := strings.Split(m.run(traces), "\n")
	slices.Sort(lines)
	return lines
}

// sameTraces reports each difference as a failure.
func (m *machine) sameTraces(before []string) {
	m.t.Helper()
	after := m.traces()
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			m.t.Errorf("left behind: %s", line)
		}
	}
	for _, line := range before {
		if _, found := slices.BinarySearch(after, line); !found {
			m.t.Errorf("gone: %s", line)
		}
	}
}

// used is a machine on which everything of the package was used. before is its state without the package.
func used(t testing.TB) (m *machine, before []string) {
	t.Helper()
	deb := built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")
	m = boot(t)
	before = m.traces()
	m.run("dpkg -i " + m.put(deb))
	m.write("/etc/imdsfs/web.toml", "[meta-data]\ninstance-id = 'i-0a1b2c3d4e5f67890'\n[server]\nlisten = ['127.0.0.1:1339']\n")
	m.run(`systemctl enable --now imdsfs.service imdsfs@web.service
systemctl enable imdsfs.socket
imdsfs options set http-tokens=required >/dev/null`)
	return m, before
}

func TestPurgeLeavesNoTrace(t *testing.T) {
	t.Parallel()
	m, before := used(t)
	m.run("dpkg --purge imdsfs")
	m.sameTraces(before)
}

func TestRemoveKeepsWhatPurgeTakes(t *testing.T) {
	t.Parallel()
	m, before := used(t)
	m.run("apt-get remove -y imdsfs")
	m.nothingServed()
	for _, kept := range []string{"/etc/imdsfs/imdsfs.toml", "/etc/imdsfs/web.toml", "/var/lib/imdsfs/overlay.json"} {
		m.run("test -e " + kept)
	}
	m.run("getent passwd imdsfs && ! test -e /usr/bin/imdsfs")

	// Changes made at run time are back.
	m.run("dpkg -i /root/imdsfs_*.deb && systemctl start imdsfs")
	if status := m.run("curl -sS -o /dev/null -w '%{http_code}' " + endpoint + "/" + idPath); status != "401" {
		t.Errorf("installed again, a request without a token is answered with %s", status)
	}
	m.run("apt-get purge -y imdsfs")
	m.sameTraces(before)
}

// A daemon that is killed and not started again leaves its mount and its link.
func TestPurgeClearsUpAfterADaemonThatWasKilled(t *testing.T) {
	t.Parallel()
	m, before := used(t)
	m.write("/etc/systemd/system/imdsfs.service.d/test.conf", "[Service]\nRestart=no\n")
	m.run("systemctl daemon-reload; systemctl kill --signal=KILL imdsfs")
	kit.Eventually(t, "the unit has failed", func() bool { return m.property("imdsfs", "ActiveState") == "failed" })
	m.run("rm -r /etc/systemd/system/imdsfs.service.d; ip link show imds0 >/dev/null; grep -q /run/metadata /proc/mounts")
	m.run("dpkg --purge imdsfs")
	m.sameTraces(before)
}

// While an image is built no systemd runs.
func TestInstallAndPurgeInAChroot(t *testing.T) {
	t.Parallel()
	deb := built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := boot(t)
	before := m.traces()
	deb = m.put(deb)
	// The rest of the machine, with another /run.
	m.run(`mkdir /tmp/chroot; mount --bind / /tmp/chroot; mount -t proc proc /tmp/chroot/proc
chroot /tmp/chroot dpkg -i ` + deb + `
chroot /tmp/chroot getent passwd imdsfs
chroot /tmp/chroot imdsfs check --quiet /etc/imdsfs/imdsfs.toml
test ! -e /tmp/chroot/run/systemd/system
chroot /tmp/chroot dpkg --purge imdsfs
umount /tmp/chroot/proc; umount /tmp/chroot; rmdir /tmp/chroot`)
	m.sameTraces(before)
}

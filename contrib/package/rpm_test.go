package packaging

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// rpmContents are those of the .deb, with completion and licence where distributions with rpm have them. The kernel sets
// the mode of a link.
func rpmContents() string {
	return strings.NewReplacer(
		"Lrwxrwxrwx ", "l--------- ",
		" -> ../bin/imdsfs", "",
		"-rw-r--r-- /usr/share/man/man1/imdsfs.1.gz", "drwxr-xr-x /usr/share/licenses/imdsfs\n-rw-r--r-- /usr/share/licenses/imdsfs/LICENSE\n-rw-r--r-- /usr/share/man/man1/imdsfs.1.gz",
		"/usr/share/zsh/vendor-completions/", "/usr/share/zsh/site-functions/",
	).Replace(debContents)
}

var rpmArches = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// The machine is a Debian, but rpm and systemd behave as on other distributions.
func TestRPM(t *testing.T) {
	t.Parallel()
	m := boot(t)
	for arch, name := range rpmArches {
		rpm := m.put(built(t, current, "imdsfs-*."+name+".rpm"))
		m.run("rpm --checksig --nosignature " + rpm)
		got := m.run(`rpm -qp --queryformat '[%{FILEMODES:perms} %{FILENAMES} %{FILEUSERNAME}:%{FILEGROUPNAME}\n]' ` + rpm + ` | grep -v /man1/imdsfs-`)
		want := strings.ReplaceAll(strings.TrimSpace(rpmContents()), "\n", " root:root\n") + " root:root"
		if got != want {
			t.Errorf("the .rpm for %s holds\n%s\nwant\n%s", arch, got, want)
		}
		seconds := strings.TrimSpace(output(t, "git", "log", "-1", "--format=%ct"))
		if got := m.run("rpm -qp --queryformat '%{ARCH} %{LICENSE} %{BUILDHOST} %{BUILDTIME}' " + rpm); got != fmt.Sprint(name, " Apache-2.0 localhost ", seconds) {
			t.Errorf("the .rpm for %s says %s", arch, got)
		}
		if got := m.run("rpm -qp --configfiles " + rpm); got != "/etc/imdsfs/imdsfs.toml" {
			t.Errorf("configuration files of the .rpm for %s are %q", arch, got)
		}
	}

	// Its dependencies are installed as Debian packages, which rpm does not know.
	m.run("rpm -i --nodeps /root/imdsfs-*." + rpmArches[runtime.GOARCH] + ".rpm")
	m.run("systemctl start imdsfs")
	m.answersAlike()
	before := m.property("imdsfs", "MainPID")
	m.run("rpm -U --nodeps " + m.put(built(t, newerRPM, "imdsfs-*.rpm")))
	if after := m.property("imdsfs", "MainPID"); after == before || !strings.HasPrefix(m.run("imdsfs version"), "imdsfs "+newerVersion) {
		t.Errorf("after the upgrade process %s of %s runs", after, before)
	}
	m.answersAlike()
	m.run("rpm -e --nodeps imdsfs")
	m.nothingServed()
	m.run("! test -e /usr/bin/imdsfs && ! test -e /etc/imdsfs && ! test -e /usr/share/doc/imdsfs && ! test -e /usr/share/licenses/imdsfs && test -e /var/lib/imdsfs/launch.json")

	for i, d := range described[1:] {
		if got := m.run(fmt.Sprintf(`rpm --eval '%%{lua:print(rpm.vercmp("%s", "%s"))}'`, described[i].version, d.version)); got != "-1" {
			t.Errorf("rpm does not sort %s before %s", described[i].version, d.version)
		}
	}
}

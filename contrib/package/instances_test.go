package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// instance writes the instance file of imdsfs@NAME and returns the instance's id.
func (m *machine) instance(name string, port int) (id string) {
	m.t.Helper()
	id = fmt.Sprintf("i-%017d", port)
	m.write("/etc/imdsfs/"+name+".toml", fmt.Sprintf("[meta-data]\ninstance-id = '%s'\n[server]\nlisten = ['127.0.0.1:%d']\n", id, port))
	return id
}

// kept prints which files of the daemons a user can read, and their contents.
const kept = `find /var/lib/imdsfs* /run/imdsfs* ! -type d -printf '%p\n' 2>/dev/null || true`

// seenBy is what the user imdsfs finds in the namespaces of a unit's daemon.
func (m *machine) seenBy(unit string) []string {
	m.t.Helper()
	pid := m.property(unit, "MainPID")
	return strings.Fields(m.run("nsenter --target " + pid + " --mount setpriv --reuid=imdsfs --regid=imdsfs --clear-groups sh -c '" + strings.ReplaceAll(kept, "'", `'\''`) + "'"))
}

// All daemons run as the same user, so file modes do not separate them.
func TestInstancesDoNotSeeWhatOthersKeep(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.instance("a", 1339)
	m.instance("b", 1340)
	own := map[string][2]string{
		"imdsfs":   {"/var/lib/imdsfs/", "/run/imdsfs/"},
		"imdsfs@a": {"/var/lib/imdsfs.instances/a/", "/run/imdsfs.instances/a/"},
		"imdsfs@b": {"/var/lib/imdsfs.instances/b/", "/run/imdsfs.instances/b/"},
	}
	check := func(when string) {
		t.Helper()
		for unit, dirs := range own {
			// It can write in both.
			m.run("imdsfs options set http-put-response-hop-limit=2 --runtime-dir " + dirs[1])
			seen := m.seenBy(unit)
			for _, want := range []string{dirs[0] + "overlay.json", dirs[0] + "launch.json", dirs[1] + "admin.sock"} {
				if !strings.Contains(strings.Join(seen, "\n")+"\n", want+"\n") {
					t.Errorf("%s, %s does not find %s among %q", when, unit, want, seen)
				}
			}
			// Nor can it through a process of another.
			for other := range own {
				if root := "/proc/" + m.property(other, "MainPID") + "/root/var/lib"; other != unit {
					m.run("! setpriv --reuid=imdsfs --regid=imdsfs --clear-groups ls " + root + " 2>/dev/null")
				}
			}
			for _, file := range seen {
				if !strings.HasPrefix(file, dirs[0]) && !strings.HasPrefix(file, dirs[1]) {
					t.Errorf("%s, %s finds %s", when, unit, file)
				}
			}
		}
	}
	// Each starts before anything of the next ones exists.
	m.run("systemctl start imdsfs@a && systemctl start imdsfs && systemctl start imdsfs@b")
	check("at first")
	for unit := range own {
		m.run("systemctl stop " + unit + " && systemctl start " + unit)
		check("after another start of " + unit)
		m.run("systemctl restart " + unit)
		check("after a restart of " + unit)
	}
	// Clients on the host find all of them.
	for _, dirs := range own {
		m.run("imdsfs status --runtime-dir " + dirs[1] + " >/dev/null")
	}
	m.run("systemctl stop imdsfs imdsfs@a imdsfs@b")
	m.nothingServed()
}

// earlier turns the unit of an instance into that of earlier versions, which kept the state in /var/lib/imdsfs-NAME.
const earlier = `unit=/usr/lib/systemd/system/imdsfs@.service
sed -i -E -e 's#imdsfs\.instances/%i#imdsfs-%i#g; /^(TemporaryFileSystem|BindPaths)=/d; s/^RuntimeDirectoryPreserve=.*/RuntimeDirectoryPreserve=restart/' $unit
rm -rf /var/lib/imdsfs.instances /run/imdsfs.instances; systemctl daemon-reload`

func TestAnUpgradeMovesWhatAnInstanceKeeps(t *testing.T) {
	t.Parallel()
	newer := built(t, newerDeb, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := installed(t)
	id := m.instance("web-1", 1339)
	m.run(earlier + `
mkdir /var/lib/imdsfs-backup; touch /var/lib/imdsfs-backup/precious # root's, and no instance
systemctl start imdsfs@web-1
imdsfs options set http-put-response-hop-limit=7 --runtime-dir /run/imdsfs-web-1 >/dev/null`)
	const token = "curl -sS --fail -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 600' http://127.0.0.1:1339/latest/api/token"
	issued := m.run(token)
	before := m.property("imdsfs@web-1", "MainPID")
	state := m.run("cd /var/lib/imdsfs-web-1; sha256sum *; stat -c %U:%a .")
	m.run("dpkg -i " + m.put(newer))
	if after := m.property("imdsfs@web-1", "MainPID"); after == before || after == "0" {
		t.Errorf("process %s is followed by %s", before, after)
	}
	if now := m.run("cd /var/lib/imdsfs.instances/web-1; sha256sum *; stat -c %U:%a ."); now != state {
		t.Errorf("its state was\n%s\nand is\n%s", state, now)
	}
	m.run(`imdsfs options get --runtime-dir /run/imdsfs.instances/web-1 | grep -q 'http-put-response-hop-limit.*7'
ls /var/lib/imdsfs-backup/precious; ! ls -d /var/lib/imdsfs-web-1 /run/imdsfs-web-1`)
	// The key has moved too: the token stays valid, and the mount works.
	if got := m.run("curl -sS --fail -H 'X-aws-ec2-metadata-token: " + issued + "' http://127.0.0.1:1339/" + idPath + "; cat /run/metadata-web-1/" + idPath); got != id+id {
		t.Errorf("it is %q", got)
	}
	m.run("systemctl stop imdsfs@web-1")
	m.nothingServed()
	entries, err := os.ReadDir(m.path("/var/lib/imdsfs.instances"))
	if err != nil || len(entries) != 1 || filepath.Base(entries[0].Name()) != "web-1" {
		t.Errorf("%v, %v", entries, err)
	}
}

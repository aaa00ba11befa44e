package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// exchange swaps a and b in dir until it is killed, as an adversary does with a path that root uses twice.
func exchange(dir string) int {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "b"), unix.RENAME_EXCHANGE); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// look tries to open name through the root of each new process until it is killed, and prints those where it succeeded.
func look(name string) int {
	done := map[int]bool{}
	for {
		fields := strings.Fields(string(must(os.ReadFile("/proc/loadavg"))))
		newest, _ := strconv.Atoi(fields[len(fields)-1])
		for pid := max(1, newest-8); pid <= newest+1; pid++ {
			root := fmt.Sprintf("/proc/%d/root", pid)
			if f, err := os.Open(root + name); err == nil && !done[pid] {
				f.Close()
				done[pid] = true
				fmt.Println(root)
			}
		}
	}
}

// must is for steps that an adversary can always take.
func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

// A daemon of another instance runs as the same user, so it may look through /proc/PID/root of a process that is dumpable.
// A program is dumpable from exec(2) to prctl(2), unless its user may not read the program's file.
func TestNoInstanceLooksThroughTheStartOfAnother(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.instance("a", 1339)
	m.instance("b", 1340)
	m.run("systemctl start imdsfs@a imdsfs@b")
	test := m.put("/proc/self/exe")
	m.run("mv " + test + " /usr/local/bin/adversary; chmod 755 /usr/local/bin/adversary")
	// With the same capability: a process with fewer capabilities may not look at all.
	as := "nsenter --target " + m.property("imdsfs@a", "MainPID") + " --mount setpriv --reuid=imdsfs --regid=imdsfs --clear-groups" +
		" --inh-caps=+net_bind_service --ambient-caps=+net_bind_service"
	const state = "/var/lib/imdsfs.instances/b/launch.json"
	m.start("exec " + as + " env " + roleVariable + "=" + roleLook + " " + dirVariable + "=" + state + " adversary >/root/seen 2>&1")
	// It sees what it is allowed to see.
	m.run("test -r " + state + "; ! " + as + " test -r " + state)
	control := `nsenter --target $(systemctl show --property=MainPID --value imdsfs@b) --mount setpriv --reuid=imdsfs --regid=imdsfs --clear-groups sleep 0.2`
	kit.Eventually(t, "the adversary is at work", func() bool { return m.run(control+"; cat /root/seen") != "" })
	before := m.run("cat /root/seen")
	for range 20 {
		m.run("systemctl restart imdsfs@b; systemctl reload imdsfs@b")
	}
	if seen := m.run("cat /root/seen"); seen != before {
		t.Errorf("through the processes of b's unit a sees what b keeps:\n%s", strings.TrimPrefix(seen, before))
	}
}

// A local user makes mounts of our type with fusermount3, which accepts any subtype. They are below a directory of his that
// he swaps with a symbolic link again and again.
func TestPurgeFollowsNoPathOfAUser(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.run(`useradd mallory; mkdir -p /srv/target /home/mallory/a; ln -s /srv/target /home/mallory/b
exec 3<>/dev/fuse # one connection for each mount; all end with this shell, and the mounts stay
for i in $(seq 20); do
	mkdir /srv/target/$i /srv/target/empty-$i /home/mallory/a/$i /home/mallory/a/empty-$i
	mount -t tmpfs victim /srv/target/$i
	for dir in $i empty-$i; do
		exec 3<>/dev/fuse
		mount -i -t fuse.imdsfs -o fd=3,rootmode=40000,user_id=$(id -u mallory),group_id=$(id -g mallory) mallory /home/mallory/a/$dir
	done
done
chown mallory /home/mallory /home/mallory/a`)
	test := m.put("/proc/self/exe")
	m.run("mv " + test + " /usr/local/bin/adversary; chmod 755 /usr/local/bin/adversary")
	m.start("exec setpriv --reuid=mallory --regid=mallory --clear-groups env " + roleVariable + "=" + roleExchange + " " + dirVariable + "=/home/mallory adversary")
	kit.Eventually(t, "the directory is exchanged", func() bool { out, _ := m.try("readlink /home/mallory/a"); return out != "" })
	state := "ls /srv/target; grep -c ^victim /proc/mounts"
	before := m.run(state)
	m.run("dpkg --purge imdsfs")
	if after := m.run(state); after != before {
		t.Errorf("in another's directory there were\n%s\nand are\n%s", before, after)
	}
	if left := strings.Count(m.run("cat /proc/mounts"), "fuse.imdsfs"); left != 40 {
		t.Errorf("of 40 mounts of the user %d are left", left)
	}
}

// In a directory that everybody can write, a name is anybody's.
func TestDepsFollowNoLinkOfAUser(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.write("/root/clone/.ci/deps", kit.ReadFile(t, repository+"/.ci/deps"))
	m.write("/root/precious", "not to be lost\n")
	// Without a network it gets nothing, but it locks its file.
	out, err := m.try(`mkdir -p -m 1777 /run/lock; ln -s /root/precious /run/lock/imdsfs-deps.lock
mkdir -p /root/clone/testdata/clients; touch /root/clone/testdata/clients/package-lock.json; bash /root/clone/.ci/deps`)
	if err == nil || !strings.Contains(out, ".ci/deps: getting ") {
		t.Errorf("it says %q, %v", out, err)
	}
	if got := kit.ReadFile(t, m.path("/root/precious")); got != "not to be lost\n" {
		t.Errorf("through a link in /run/lock it makes %q of a file", got)
	}
	// Whoever can open the file can hold the lock.
	if lock := m.run("stat -c '%a %U %F' /run/imdsfs-deps.lock"); lock != "600 root regular empty file" {
		t.Errorf("the lock is %q", lock)
	}
}

package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// exchange swaps a and b in dir until it is killed: what an adversary does to a path that root uses twice.
func exchange(dir string) int {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "b"), unix.RENAME_EXCHANGE); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// A local user gets mounts of our type through fusermount3, which takes any subtype. They lie below a directory
// of his, which he exchanges for a symbolic link, back and forth.
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
	eventually(t, "the directory is exchanged", func() bool { out, _ := m.try("readlink /home/mallory/a"); return out != "" })
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
	m.write("/root/clone/.ci/deps", readFile(t, repository+"/.ci/deps"))
	m.write("/root/precious", "not to be lost\n")
	// Without a network it gets nothing, but it takes its lock.
	out, err := m.try(`mkdir -p -m 1777 /run/lock; ln -s /root/precious /run/lock/imdsfs-deps.lock
mkdir -p /root/clone/testdata/clients; touch /root/clone/testdata/clients/package-lock.json; bash /root/clone/.ci/deps`)
	if err == nil || !strings.Contains(out, ".ci/deps: getting ") {
		t.Errorf("it says %q, %v", out, err)
	}
	if got := readFile(t, m.path("/root/precious")); got != "not to be lost\n" {
		t.Errorf("through a link in /run/lock it makes %q of a file", got)
	}
	// Who could open the file could hold the lock.
	if lock := m.run("stat -c '%a %U %F' /run/imdsfs-deps.lock"); lock != "600 root regular empty file" {
		t.Errorf("the lock is %q", lock)
	}
}

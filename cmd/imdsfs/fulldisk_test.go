package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const page = 4096 // bytes, in which a tmpfs counts

// smallDirectories puts the run-time and the state directory on file systems of 16 pages each.
func (w *mountSite) smallDirectories() {
	w.t.Helper()
	w.mustMkdir("run")
	w.mustMkdir("state")
	w.run("mount -t tmpfs -o size=64k,mode=755 small " + w.runtime + " && mount -t tmpfs -o size=64k,mode=700 small " + w.state)
}

// fill leaves room for so many files of a page, and not for a byte more.
func (w *mountSite) fill(dir string, pages int) {
	w.t.Helper()
	w.run(fmt.Sprintf(`cat /dev/zero >%s/fill 2>/dev/null || true; truncate -s -%[2]d %[1]s/fill; test $(stat -f -c %%f %[1]s) = %[3]d`, dir, pages*page, pages))
}

// exhaust leaves no room for any file; empty ones are named fill and a number.
func (w *mountSite) exhaust(dir string) {
	w.t.Helper()
	w.run("mount -o remount,nr_inodes=20 small " + dir + "; i=0; while touch " + dir + "/fill$i 2>/dev/null; do i=$((i+1)); done")
}

// The daemon that cannot start says which file it could not write and what to do, and is gone at once. What is
// first written there is named, whatever it is.
func TestAFullDirectoryRefusesADaemon(t *testing.T) {
	for name, c := range map[string]struct {
		fill      func(w *mountSite)
		said, dir string // of the file that has no room; and of the hint
	}{
		"state":              {func(w *mountSite) { w.fill(w.state, 0) }, `write PLACE/state/launch\.json`, "state"},
		"state, inodes":      {func(w *mountSite) { w.exhaust(w.state) }, `write PLACE/state/launch\.json`, "state"},
		"token key":          {func(w *mountSite) { w.fill(w.runtime, 0) }, `token key: write PLACE/run/token\.key`, "run"},
		"inode key":          {func(w *mountSite) { w.fill(w.runtime, 1) }, `make inode key: write PLACE/run/inode\.key`, "run"},
		"mount point's lock": {func(w *mountSite) { w.fill(w.runtime, 2) }, `write PLACE/run/mount-[0-9a-f]+\.lock`, "run"},
		"run-time, inodes":   {func(w *mountSite) { w.exhaust(w.runtime) }, `open PLACE/run/daemon\.lock`, "run"},
		"no state directory": {func(w *mountSite) { w.run("umount " + w.state); w.state = w.runtime + "/state"; w.exhaust(w.runtime) }, `mkdir PLACE/run/state`, "run/state"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newMountSite(t, webFile, "")
			w.smallDirectories()
			c.fill(w)
			flag := "--runtime-dir"
			if strings.Contains(c.dir, "state") {
				flag = "--state-dir"
			}
			want := "^imdsfs: error: " + c.said + ": no space left on device\nimdsfs: hint: make room in PLACE/" + c.dir + ` \(see df and df -i\), or choose another with ` + flag + "\n$"
			for _, keep := range []string{"", ",keep"} {
				said, code := w.try("mount -t fuse.imdsfs -o " + w.directories() + keep + " " + w.file + " " + w.mount)
				if code != mount.ExitFailed || !regexp.MustCompile(strings.ReplaceAll(want, "PLACE", w.base)).MatchString(said) {
					t.Errorf("exit code %d%s\n%swant\n%s", code, keep, said, want)
				}
				if len(w.daemons()) > 0 || w.made() {
					t.Errorf("left%s: processes %v, mount point %v", keep, w.daemons(), w.made())
				}
			}
			w.run("rm -f " + w.runtime + "/fill* " + w.state + "/fill*")
			w.mountIt("keep")
			w.umountIt()
		})
	}
}

// A running daemon keeps working, also when the file changes, and so does the next one.
func TestAFullDirectoryLeavesADaemonAlone(t *testing.T) {
	const refused = "imdsfs: error: keep the change: write PLACE/state/overlay.json: no space left on device\n" +
		"imdsfs: hint: make room there and try again: nothing is changed\n"
	w := newMountSite(t, least("", `tier = "gold"`), "")
	w.smallDirectories()
	w.mountIt("keep")
	w.fill(w.runtime, 0)
	w.fill(w.state, 0)
	both := func(path, want string) {
		t.Helper()
		if got := w.run("cat " + w.mount + path + " && imdsfs get --runtime-dir " + w.runtime + " " + path); got != want+want {
			t.Errorf("%s is %q on both doors, want %s", path, got, want)
		}
	}
	for _, change := range []string{"options set http-tokens=required", "options set instance-metadata-tags=enabled", "options reset", "tag set Name web", "set tier iron", "unset tier"} {
		w.fails(exitFailed, "imdsfs "+change+" --runtime-dir "+w.runtime, refused)
	}
	both(tier, "gold")
	if options := w.run("imdsfs options get --runtime-dir " + w.runtime); strings.Contains(options, "set at run time") {
		t.Errorf("the options are\n%s", options)
	}

	rewrite(t, w.file, least("", `tier = "silver"`))
	kit.Eventually(t, "the file is published", func() bool { return w.run("cat "+w.mount+tier) == "silver" })
	both(tier, "silver")
	w.run("kill -HUP " + strconv.Itoa(w.serving()))
	both(tier, "silver")

	before := w.serving()
	must(t, syscall.Kill(before, syscall.SIGKILL))
	both("/latest/meta-data/instance-type", "m5.large")
	if w.serving() == before {
		t.Error("the daemon that was killed runs")
	}
	w.run("imdsfs upgrade --runtime-dir " + w.runtime)
	both("/latest/meta-data/mac", "06:2b:3c:4d:5e:6f")

	w.run("rm " + w.state + "/fill && imdsfs set tier iron --runtime-dir " + w.runtime)
	both(tier, "iron")
	w.umountIt()
}

// The file that tells imdsfs get where to ask is no reason to serve nothing, or at addresses that nobody wants.
func TestADaemonServesWhereItCannotNoteItsAddresses(t *testing.T) {
	w := newMountSite(t, webFile, "")
	w.smallDirectories()
	w.run("ip address add 169.254.169.254/32 dev lo && ip -6 address add fd00:ec2::254/128 dev lo nodad")
	log := w.base + "/log"
	mount := func(options string) {
		w.run("mount -t fuse.imdsfs -o log=" + log + ",listen=link-local,runtime-dir=" + w.runtime + ",state-dir=" + w.state + options + " " + w.file + " " + w.mount)
	}
	get := func(address string) string {
		out, _ := w.try("imdsfs get --endpoint http://" + address + " instance-id 2>/dev/null")
		return out
	}
	const warning = "the addresses are not noted: make room there"

	w.fill(w.runtime, 3) // for keys and locks
	mount("")
	if id := get("169.254.169.254"); id != "i-0a1b2c3d4e5f67890" {
		t.Errorf("the instance is %q", id)
	}
	if said := kit.ReadFile(t, log); !strings.Contains(said, warning) || !strings.Contains(said, "write "+w.runtime+"/listen: no space left on device") {
		t.Errorf("the log is\n%s", said)
	}
	w.run("rm " + w.runtime + "/fill")
	w.umountIt()

	must(t, os.Remove(log))
	mount("")
	w.fill(w.runtime, 0)
	for _, c := range []struct{ state, id string }{{"enabled", "i-0a1b2c3d4e5f67890"}, {"disabled", ""}} {
		w.run("imdsfs options set http-protocol-ipv6=" + c.state + " --runtime-dir " + w.runtime)
		if id := get("[fd00:ec2::254]"); id != c.id {
			t.Errorf("%s, the instance is %q over IPv6", c.state, id)
		}
	}
	if said := kit.ReadFile(t, log); strings.Count(said, warning) < 1 || strings.Contains(said, "level=error") {
		t.Errorf("the log is\n%s", said)
	}
	w.umountIt()
}

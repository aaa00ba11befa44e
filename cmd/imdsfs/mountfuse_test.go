package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const webFile = `[instance]
launch-time = 2026-01-05T08:30:00Z
[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
`

// The line that README and help explain does what they say.
func TestALineInFstabMountsAndUmountEndsIt(t *testing.T) {
	if readme := kit.ReadFile(t, "../../README.md"); !strings.Contains(readme, "    "+fstabLine+"\n") {
		t.Errorf("README.md does not have the line %s", fstabLine)
	}
	w := newMountSite(t, webFile, fstabLine+"\n")
	if said := w.run("mount -a"); said != "" {
		t.Errorf("mount -a says\n%s", said)
	}
	w.check("/run/metadata")
	daemons := w.daemons()

	if said := w.run("mount -a"); said != "" { // which knows what it has mounted
		t.Errorf("the second mount -a says\n%s", said)
	}
	w.fails(mount.ExitFailed, "mount /run/metadata", "imdsfs: error: an imdsfs is already running with the run-time directory /run/imdsfs\n"+
		"imdsfs: hint: stop it first, or give this one a --runtime-dir of its own\n")
	w.fails(mount.ExitFailed, "mount -o runtime-dir=/run/other,state-dir=/var/lib/other,listen=none /run/metadata",
		"imdsfs: error: mount /run/metadata: already served by a running imdsfs: with another run-time directory\n"+
			"imdsfs: hint: stop that one (umount -l if there is none), or choose another directory with --mount\n")
	w.check("/run/metadata")
	if again := w.daemons(); !sameSet(again, daemons) {
		t.Errorf("processes were %v and are %v", daemons, again)
	}

	// umount does not wait for the daemon, but the next mount does.
	for range 3 {
		w.umount("/run/metadata")
		w.run("mount -a")
		w.check("/run/metadata")
	}
	w.umount("/run/metadata")
	kit.Eventually(t, "the daemon has ended", func() bool { return len(w.daemons()) == 0 })
	if said, code := w.try("ls -d /run/metadata"); code == 0 {
		t.Errorf("left behind: %s", said)
	}
}

// check reads the instance's id through both doors.
func (w *mountSite) check(dir string) {
	w.t.Helper()
	if got := w.run("cat " + dir + "/latest/meta-data/instance-id && imdsfs get instance-id"); got != "i-0a1b2c3d4e5f67890i-0a1b2c3d4e5f67890" {
		w.t.Errorf("both doors say %q", got)
	}
}

func sameSet(a, b []int) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func TestAKilledDaemonOfAMountWithAKeeperIsFollowedByTheNext(t *testing.T) {
	w := newMountSite(t, webFile, fstabLine+"\n")
	w.run("mount -a")
	daemon := w.daemon()
	must(t, syscall.Kill(daemon, syscall.SIGKILL))
	for i := range 3 { // names that the kernel has to ask for
		if _, code := w.try("ls /run/metadata/latest/no-such-" + strconv.Itoa(i)); code != 2 {
			t.Errorf("ls: exit code %d", code)
		}
	}
	w.check("/run/metadata")
	if next := w.daemon(); next == daemon {
		t.Errorf("the daemon is %d as before", next)
	}
	w.umount("/run/metadata")
}

// daemon is the process that answers.
func (w *mountSite) daemon() int {
	w.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(w.run(`imdsfs status --json | sed -n 's/^  "pid": \([0-9]*\),$/\1/p'`)))
	must(w.t, err)
	return pid
}

func TestExamplesOfMountWork(t *testing.T) {
	w := newMountSite(t, webFile, "")
	for _, line := range examples(newMountCommand(nil))[1:] { // the first is of fstab
		w.run(line)
		if id := w.run("cat /run/metadata/latest/meta-data/instance-id"); !strings.HasPrefix(id, "i-") {
			t.Errorf("%s: the instance is %s", line, id)
		}
		w.umount("/run/metadata")
	}
}

func TestWithoutAFileTheHostIsDescribed(t *testing.T) {
	w := newMountSite(t, webFile, "")
	for _, source := range []string{none, "imdsfs", "''"} {
		w.run("mount -t imdsfs -o " + w.directories() + " " + source + " " + w.mount)
		id := w.run("cat " + w.mount + "/latest/meta-data/instance-id")
		if file := w.run("imdsfs status --runtime-dir " + w.runtime); !strings.HasPrefix(id, "i-") || id == "i-0a1b2c3d4e5f67890" ||
			!strings.Contains(file, "none: this machine is described") {
			t.Errorf("source %s: the instance is %s\n%s", source, id, file)
		}
		w.umountIt()
	}
}

func TestWhatKeepsADaemonFromMountingIsSaid(t *testing.T) {
	w := newMountSite(t, webFile, "")
	w.write("faulty.toml", "[instance]\nplatform = \"ec3\"\n")
	w.write("clash.toml", "[meta-data]\n\"a/b\" = \"x\"\n[meta-data.a]\nb.c = \"y\"\n")
	dirs := w.directories()
	from := func(source, dir, options string) string {
		return "mount -t fuse.imdsfs -o " + dirs + options + " " + w.base + "/" + source + " " + w.base + "/" + dir
	}
	usage := func(line, want string) { t.Helper(); w.fails(mount.ExitUsage, line, want) }
	failed := func(line, want string) { t.Helper(); w.fails(mount.ExitFailed, line, want) }
	const unknown = "imdsfs: error: unknown mount option "

	usage(from("web.toml", "m", ",lisen=none"), unknown+"\"lisen=none\"\nimdsfs: hint: did you mean listen?\n")
	usage(from("x", "m", ",kepe"), unknown+"\"kepe\"\nimdsfs: hint: did you mean keep?\n")
	usage(from("x", "m", ",nosudi"), unknown+"\"nosudi\"\nimdsfs: hint: did you mean nosuid?\n")
	usage(from("x", "m", ",keep=yes"), "imdsfs: error: mount option \"keep=yes\" takes no value\nimdsfs: hint: write keep alone\n")
	usage(from("x", "m", ",log=here"), "imdsfs: error: mount option \"log=here\": not an absolute path\nimdsfs: hint: start it with /\n")
	usage(from("x", "m", ",watchdog=soon"), "imdsfs: error: invalid argument \"soon\" for \"--watchdog\" flag: time: invalid duration \"soon\"\nimdsfs: hint: see imdsfs serve --help\n")
	usage("mount.fuse.imdsfs x", "imdsfs: error: mount.fuse.imdsfs takes SOURCE and DIR\nimdsfs: hint: see mount.fuse.imdsfs --help\n")
	usage("mount.fuse.imdsfs x /m -N /proc/1/ns/mnt", "imdsfs: error: -N: a daemon is not started in another namespace\nimdsfs: hint: nsenter --mount=/proc/1/ns/mnt mount …\n")

	failed(from("faulty.toml", "m", ""), "imdsfs: error: PLACE/faulty.toml:2: instance.platform: unknown value (specify \"ec2\" or \"snowball\")\n"+
		"imdsfs: hint: see all of it with: imdsfs check PLACE/faulty.toml\n")
	failed(from("missing.toml", "m", ""), "imdsfs: error: instance file PLACE/missing.toml: no such file or directory\nimdsfs: hint: give another file with -c\n")
	failed(from("web.toml", "missing/m", ""), "imdsfs: error: mount PLACE/missing/m: there is no directory to make it in: PLACE/missing\n"+
		"imdsfs: hint: create it first, or choose another directory with --mount\n")
	failed(from("web.toml", "m", ",log=/missing/log"), "imdsfs: error: open /missing: no such file or directory\nimdsfs: hint: choose another file with log=\n")
	failed(from("web.toml", "m", ",user=nobody"), "imdsfs: error: --user needs a keeper\nimdsfs: hint: give --keep as well (keep = true); with systemd say User= in the unit\n")
	failed(from("web.toml", "m", ",listen=192.0.2.1:80"), "imdsfs: error: listen tcp 192.0.2.1:80: bind: cannot assign requested address\n"+
		"imdsfs: hint: the address belongs to no interface of this machine\n")
	said, code := w.try("TMPDIR=/missing " + from("web.toml", "m", ""))
	if code != mount.ExitSystem || !strings.HasPrefix(said, "imdsfs: error: ") || !strings.HasSuffix(said, "no such file or directory\nimdsfs: hint: set TMPDIR to a directory that only root can change, or to /tmp\n") {
		t.Errorf("without a place for a socket: exit code %d\n%s", code, said)
	}
	// Of a file at fault in what only a whole tree tells, the daemon says so; with -f nothing is started.
	for _, line := range []string{from("clash.toml", "m", ""), from("clash.toml", "m", "") + " -f"} {
		if said, code := w.try(line); code != mount.ExitFailed || !strings.HasPrefix(said, "imdsfs: error: "+w.base+"/clash.toml:") {
			t.Errorf("%s: exit code %d\n%s", line, code, said)
		}
	}
	if said := w.run(from("web.toml", "m", ",lisen=none") + " -f -s"); said != "" || len(w.daemons()) > 0 {
		t.Errorf("-f -s: processes %v\n%s", w.daemons(), said)
	}
	if _, err := os.Lstat(w.base + "/m"); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

func (w *mountSite) write(name, text string) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.base+"/"+name, []byte(text), 0o644))
}

// Every flag of serve is a mount option, but those that mount(8) has in another form.
func TestEveryFlagOfServeIsAMountOption(t *testing.T) {
	options := mount.Options()
	known := append(mount.Options(), "config", "mount", "help")
	serve := newServeCommand(nil)
	for line := range strings.Lines(serve.Flags().FlagUsages()) {
		_, rest, _ := strings.Cut(line, "--")
		if name := strings.Fields(rest + " ")[0]; !slices.Contains(known, name) {
			t.Errorf("the flag %s of serve is no mount option", name)
		}
	}
	for _, name := range options {
		if help := newMountCommand(nil).Long; !strings.Contains(help, name) {
			t.Errorf("the help does not name the option %s", name)
		}
		if serve.Flags().Lookup(name) == nil {
			t.Errorf("the option %s is no flag of serve", name)
		}
	}
	if fmt.Sprint(mount.ExitUsage, mount.ExitSystem, mount.ExitFailed) != "1 2 32" {
		t.Error("these are not the exit codes of mount(8)")
	}
}

// The daemon has no privilege, and what is mounted for it is mounted by its keeper.
func TestAMountOfADaemonOfAnotherUser(t *testing.T) {
	w := newMountSite(t, webFile, "")
	w.write("etc/imdsfs/imdsfs.toml", "nonsense\n") // which is not this one's file
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.Remove(w.base+"/program"), os.WriteFile(w.base+"/program", self, 0o755), os.Chmod(w.file, 0o644)) // for everybody
	w.mountIt("keep,user=nobody")
	pid := w.serving()
	if status := kit.ReadFile(t, fmt.Sprintf("/proc/%d/status", pid)); !strings.Contains(status, "\nUid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("the daemon's status is\n%s", status)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	if got := w.run("cat " + w.mount + "/latest/meta-data/instance-id; ls " + w.mount + "/latest/meta-data/tags 2>&1 || true"); !strings.HasPrefix(got, "i-0a1b2c3d4e5f67890") {
		t.Errorf("the instance is %s", got)
	}
	w.umountIt()
}

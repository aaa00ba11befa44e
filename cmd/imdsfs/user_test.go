package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// asNobody turns a command into one of an ordinary user.
var asNobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}

// TestAnOrdinaryUserServesForHimself runs the daemon without root, in a mount namespace where /dev/fuse is
// open to all, as it is on most machines.
func TestAnOrdinaryUserServesForHimself(t *testing.T) {
	for _, tool := range []string{"fusermount3", "unshare", "nsenter", "setpriv", "mknod"} {
		kit.RequireCommand(t, tool)
	}
	s := newSite(t, least("", `tier = "gold"`)+fmt.Sprintf(shortLived, "2099-01-01T00:00:00Z"))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(s.base+"/imdsfs", self, 0o755), os.Chown(s.base, 65534, 65534), os.Chown(s.file, 65534, 65534))
	world := s.holder("unshare", "-m", "sh", "-c",
		`mount -t tmpfs dev "$1" && mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse && exec sleep 1000`, "sh", s.mustMkdir("dev"))
	asRoot := []string{"nsenter", "-t", fmt.Sprint(world), "-m"}
	asUser := append(append([]string{}, asRoot...), asNobody...)
	read := func(as []string, path string) (string, error) {
		out, err := exec.Command(as[0], append(append([]string{}, as[1:]...), "cat", s.mount+path)...).CombinedOutput()
		return string(out), err
	}
	mounted := func() bool {
		return strings.Contains(kit.ReadFile(t, fmt.Sprintf("/proc/%d/mountinfo", world)), s.mount+" ")
	}
	start := func() *served {
		t.Helper()
		return s.ready(s.launchAs(append(append([]string{}, asUser...), s.base+"/imdsfs")))
	}
	expect := func(want string) {
		t.Helper()
		if got, err := read(asUser, tier); got != want || err != nil {
			t.Errorf("the user reads %q, %v; want %q", got, err, want)
		}
	}

	d := start()
	const lost = "is mounted through fusermount3 because you are not root: only your own user can read it, not root and not containers, and it does not survive a crash of the daemon"
	if !strings.Contains(d.log.String(), "level=warning") || !strings.Contains(d.log.String(), s.mount+" "+lost) {
		t.Error("the log does not say what is lost")
	}
	expect("gold")
	if got, err := read(asUser, "/latest/meta-data/iam/security-credentials/web"); err != nil || !strings.Contains(got, "hunter2") {
		t.Errorf("his credentials: %q, %v", got, err)
	}
	if got, err := read(asRoot, tier); err == nil || !strings.Contains(got, "Permission denied") {
		t.Errorf("root reads %q, %v", got, err)
	}
	must(t, os.WriteFile(s.base+"/new", []byte(least("", `tier = "silver"`)), 0o600), os.Chown(s.base+"/new", 65534, 65534))
	d.after("msg=reloaded", func() { must(t, os.Rename(s.base+"/new", s.file)) })
	expect("silver")

	begin := time.Now()
	d.stop()
	if took := time.Since(begin); took > promised || mounted() || s.made() {
		t.Errorf("the stop took %v; still mounted: %v; directory left: %v", took, mounted(), s.made())
	}

	start().kill()
	if !mounted() {
		t.Fatal("nothing is left to be replaced")
	}
	d = start()
	expect("silver")
	d.stop()
	if mounted() || s.made() {
		t.Errorf("after a killed one: still mounted: %v; directory left: %v", mounted(), s.made())
	}

	// A user who may not open /dev/fuse learns what to do.
	must(t, exec.Command(asRoot[0], append(asRoot[1:], "chmod", "600", "/dev/fuse")...).Run())
	refused := s.launchAs(append(append([]string{}, asUser...), s.base+"/imdsfs"))
	kit.Eventually(t, "the refusal", refused.ended)
	refused.kill()
	for _, want := range []string{
		"imdsfs: error: mount " + s.mount + ": no permission to mount there: ",
		"imdsfs: hint: run as root, or install fuse3 and see to it that you may open /dev/fuse\n",
	} {
		if !strings.Contains(refused.log.String(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if s.made() {
		t.Error("the refused one left a directory")
	}
}

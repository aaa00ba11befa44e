package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/safepath"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const nobodyID = 65534

// swapVariable makes the test binary an adversary: it exchanges two paths, on a line each, until it is killed. With
// renameVariable it gives the first the name of the second whenever there is none, and takes it back.
const (
	swapVariable   = "IMDSFS_TEST_SWAP"
	renameVariable = "IMDSFS_TEST_RENAME"
)

func swapMain() {
	if a, b, ok := strings.Cut(os.Getenv(renameVariable), "\n"); ok {
		for {
			unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE)
			unix.Renameat2(unix.AT_FDCWD, b, unix.AT_FDCWD, a, unix.RENAME_NOREPLACE)
			unix.Rmdir(b) // what root has made meanwhile
		}
	}
	a, b, ok := strings.Cut(os.Getenv(swapVariable), "\n")
	if !ok {
		return
	}
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil && err != unix.EBUSY {
			fmt.Fprintln(os.Stderr, "swap:", err)
			os.Exit(1)
		}
	}
}

// raceTime is how long an adversary tries.
func raceTime() time.Duration {
	if os.Getenv("IMDSFS_STRESS") != "" {
		return 10 * time.Second
	}
	return 3 * time.Second
}

// swap has nobody exchange two paths until the end of the test, or until the function is called.
func (s *site) swap(a, b string) (end func()) { return s.adversary(swapVariable, a, b) }

func (s *site) adversary(variable, a, b string) (end func()) {
	s.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{variable + "=" + a + "\n" + b, "GORACE=" + noRaceSleep}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodyID, Gid: nobodyID}}
	var said strings.Builder
	cmd.Stderr = &said
	must(s.t, cmd.Start())
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		cmd.Process.Kill()
		if cmd.Wait(); said.Len() > 0 {
			s.t.Errorf("the adversary could not do its work: %s", &said)
		}
	}
	s.t.Cleanup(end)
	return end
}

// A scene is a folder of the user nobody, who can exchange home/a, a directory, for home/b, which leads to victim. Below
// both is mnt: in victim, what is root's.
type scene struct {
	*site
	home, victim string
	before       string
}

func newScene(t *testing.T) *scene {
	s := newKeptSite(t, least("", ""))
	c := &scene{site: s, home: s.mustMkdir("home"), victim: s.mustMkdir("victim")}
	must(t, os.MkdirAll(c.victim+"/mnt", 0o700), os.WriteFile(c.victim+"/file", []byte("root's"), 0o600),
		os.MkdirAll(c.home+"/a", 0o755), os.Symlink(c.victim, c.home+"/b"),
		os.Lchown(c.home, nobodyID, nobodyID), os.Lchown(c.home+"/a", nobodyID, nobodyID), os.Lchown(c.home+"/b", nobodyID, nobodyID))
	c.before = c.listing()
	return c
}

// listing is all that could be changed: names, owners, modes, times, contents and mounts.
func (c *scene) listing() string {
	var b strings.Builder
	err := filepath.WalkDir(c.victim, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %o %d:%d %d %d.%09d %q\n", path, st.Mode, st.Uid, st.Gid, st.Ino, st.Mtim.Sec, st.Mtim.Nsec, text)
		return nil
	})
	must(c.t, err)
	for _, point := range mountsBelow(c.victim) {
		fmt.Fprintf(&b, "mounted: %s\n", point)
	}
	return b.String()
}

// unharmed fails the test if anything has changed for the victim.
func (c *scene) unharmed() {
	c.t.Helper()
	if after := c.listing(); after != c.before {
		c.t.Fatalf("the victim's was\n%sand has become\n%s", c.before, after)
	}
}

// clear unmounts what a daemon left in nobody's folder because nobody had moved it.
func (c *scene) clear() {
	for range 5 {
		for _, point := range mountsBelow(c.home) {
			unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
}

// during repeats what root does as long as the adversary tries, and looks each time whether it did harm.
func (c *scene) during(try func()) (turns int) {
	c.t.Helper()
	for deadline := time.Now().Add(raceTime()); time.Now().Before(deadline) || turns == 0; turns++ {
		try()
		c.unharmed()
	}
	return turns
}

// once runs a daemon until it is ready or refused, and stops it.
func (c *scene) once(flags ...string) (ready bool) {
	c.t.Helper()
	d := c.launchAs([]string{c.base + "/imdsfs"}, flags...)
	kit.Eventually(c.t, "ready or refused", func() bool { ready = strings.Contains(d.log.String(), "msg=ready"); return ready || d.ended() })
	if ready {
		d.cmd.Process.Signal(syscall.SIGTERM)
		<-d.exited
		d.exited <- nil
	}
	d.kill()
	return ready
}

func TestRootFollowsNoLinkOfNobodysToAMountPoint(t *testing.T) {
	c := newScene(t)
	for _, dir := range []string{c.home + "/a/mnt", c.home + "/b/mnt"} {
		c.mount = dir
		said := c.refused()
		for _, want := range []string{"imdsfs: error: mount " + dir + ": somebody else could exchange it: " + c.home + " belongs to uid 65534\n", "imdsfs: hint: with --mount choose a directory that only root and the daemon's user can exchange"} {
			if !strings.Contains(said, want) {
				t.Errorf("said\n%swant %q", said, want)
			}
		}
	}
	c.unharmed()

	c.swap(c.home+"/a", c.home+"/b")
	c.mount = c.home + "/a/mnt"
	turns := c.during(func() {
		if c.once() {
			t.Error("it served in a directory that nobody can exchange")
		}
	})
	t.Logf("%d starts", turns)
}

// TestAnAdversaryCannotMoveTheMountOfHisDaemon: the directories belong to the daemon's user, so root mounts there, and he
// exchanges them while it does, and while it unmounts.
func TestAnAdversaryCannotMoveTheMountOfHisDaemon(t *testing.T) {
	c := newScene(t)
	c.mount = c.home + "/a/mnt"
	if !c.once("--keep", "--user", "nobody") {
		t.Fatal("root does not mount in a directory of the daemon's user")
	}
	if _, err := os.Lstat(c.mount); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	c.unharmed()
	c.mount = c.home + "/b/mnt"
	if c.once("--keep", "--user", "nobody") {
		t.Error("root followed a link of the daemon's user")
	}
	c.unharmed()

	c.mount = c.home + "/a/mnt"
	c.swap(c.home+"/a", c.home+"/b")
	served := 0
	turns := c.during(func() {
		if c.once("--keep", "--user", "nobody") {
			served++
		}
		c.clear()
	})
	t.Logf("%d starts, %d served", turns, served)
}

// TestWhatRootHasJustMadeIsNothingElse: the daemon's user gives a private directory of root's the name of one that root
// makes for him. Root must neither give it to him nor open it to others.
func TestWhatRootHasJustMadeIsNothingElse(t *testing.T) {
	c := newScene(t)
	private := c.home + "/private"
	must(t, os.Mkdir(private, 0o700), os.WriteFile(private+"/secret", []byte("root's"), 0o600))
	held, err := os.Open(private)
	must(t, err)
	defer held.Close()
	wanted := c.home + "/wanted"
	c.adversary(renameVariable, private, wanted)
	s := &daemon.Settings{Config: daemon.Config{RuntimeDir: wanted, StateDir: c.state}}
	made := 0
	turns := c.during(func() {
		// In this process, which is quick enough to lose the race.
		for range 50 {
			if s.OwnDirs(&privilege.Account{Name: "nobody", UID: nobodyID, GID: nobodyID}) == nil {
				made++
			}
			f, err := safepath.Policy{Users: []int{nobodyID}}.MakeDir(wanted, 0o755)
			if err == nil {
				f.Close()
			}
			os.Remove(wanted)
		}
		var dir, file unix.Stat_t
		must(t, unix.Fstat(int(held.Fd()), &dir), unix.Fstatat(int(held.Fd()), "secret", &file, 0))
		if dir.Uid != 0 || dir.Mode&0o777 != 0o700 || file.Uid != 0 {
			t.Fatalf("root's directory has become uid %d mode %o, its file uid %d", dir.Uid, dir.Mode&0o777, file.Uid)
		}
	})
	t.Logf("%d rounds of 50, %d directories made", turns, made)

	c.mount = wanted
	c.during(func() {
		c.once("--keep", "--user", "nobody")
		var dir unix.Stat_t
		must(t, unix.Fstat(int(held.Fd()), &dir))
		if dir.Mode&0o777 != 0o700 {
			t.Fatalf("root's directory has become mode %o", dir.Mode&0o777)
		}
	})
	c.clear()
}

// TestTheStopTouchesNothingThatWasPutInThePlaceOfTheMount: nobody moves his directory with the mount in it away, and
// puts a link to something of root's there.
func TestTheStopTouchesNothingThatWasPutInThePlaceOfTheMount(t *testing.T) {
	for name, put := range map[string]func(c *scene){
		"a directory": func(*scene) {},
		"a file":      func(c *scene) { must(c.t, os.Remove(c.victim+"/mnt"), os.WriteFile(c.victim+"/mnt", nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newScene(t)
			put(c)
			c.before = c.listing()
			c.mount = c.home + "/a/mnt"
			d := c.ready(c.launchAs([]string{c.base + "/imdsfs"}, "--keep", "--user", "nobody"))
			must(t, os.Rename(c.home+"/a", c.home+"/old"), os.Rename(c.home+"/b", c.home+"/a"))
			d.stop()
			c.unharmed()
			c.clear()
		})
	}
}

// TestTheStopActsWhereItHasMounted: the directory above the mount point is moved away, and a link to something else of
// root's is put in its place.
func TestTheStopActsWhereItHasMounted(t *testing.T) {
	c := newScene(t)
	must(t, os.Remove(c.victim+"/mnt"), os.WriteFile(c.victim+"/mnt", nil, 0o600))
	c.before = c.listing()
	place := c.mustMkdir("place")
	c.mount = place + "/mnt"
	d := c.start()
	must(t, os.Rename(place, c.base+"/moved"), os.Symlink(c.victim, place))
	d.stop()
	c.unharmed()
	if _, err := os.Lstat(c.base + "/moved/mnt"); !os.IsNotExist(err) {
		t.Errorf("what it made was left: %v", err)
	}
	if left := mountsBelow(c.base); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
}

func TestForgedClaimsTakeNoMountAway(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	d := s.start()
	run := s.mustMkdir("other-run")
	var st unix.Stat_t
	must(t, unix.Stat(s.mount, &st))
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	forged := map[string]string{
		"a name":     "made\n",
		"nothing":    "",
		"nonsense":   "{",
		"all of it":  fmt.Sprintf(`{"runtime-dir":%q,"dir":%q,"uid":65534,"made":true,"mount":{"id":"1","device":%q}}`, run, s.mount, device),
		"a relative": `{"runtime-dir":"x","dir":"y","made":true}`,
	}
	name := filepath.Base(glob(t, s.runtime+"/mount-*.lock"))
	for what, text := range forged {
		for _, uid := range []int{nobodyID, 0} { // of a daemon gone bad; or stale, of an earlier one of root's
			must(t, os.WriteFile(run+"/"+name, []byte(text), 0o600), os.Lchown(run+"/"+name, uid, uid), os.Lchown(run, uid, uid))
			for _, exit := range []string{"", "killed"} {
				cmd := exec.Command(s.base+"/imdsfs", "mount-helper", "-c", none, "--mount", s.mount, "--runtime-dir", run)
				if exit == "" {
					cmd.Args = append(cmd.Args, "--unmount")
				} else {
					cmd.Args = append(cmd.Args, "--after-stop")
					cmd.Env = append(os.Environ(), "EXIT_CODE=exited", "EXIT_STATUS=0")
				}
				out, err := cmd.CombinedOutput()
				if !s.isMounted() {
					t.Fatalf("%s of uid %d, %s: it took the mount of another daemon away: %v %s", what, uid, cmd.Args, err, out)
				}
			}
		}
	}
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

func glob(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

func TestNoClaimIsLeftAfterAStop(t *testing.T) {
	s := newKeptSite(t, least("", ""))
	for _, flags := range [][]string{nil, {"--keep"}, {"--keep", "--user", "nobody"}} {
		must(t, os.RemoveAll(s.runtime), os.RemoveAll(s.state))
		d := s.ready(s.launchAs([]string{s.base + "/imdsfs"}, flags...))
		s.end(d)
		for _, dir := range []string{s.runtime, "/run/imdsfs.mounts"} {
			if left, _ := filepath.Glob(dir + "/mount-*"); len(left) > 0 {
				text, _ := os.ReadFile(left[0])
				if dir == s.runtime || strings.Contains(string(text), s.base) {
					t.Errorf("%v: left %v", flags, left)
				}
			}
		}
	}
}

func TestTheLogIsAFileOfRoots(t *testing.T) {
	w := newMountSite(t, webFile, "")
	home := w.mustMkdir("home")
	must(t, os.WriteFile(w.base+"/victim", []byte("root's"), 0o600), os.Symlink(w.base+"/victim", home+"/link"), os.Symlink(w.base+"/victim", w.base+"/link"),
		unix.Mkfifo(home+"/fifo", 0o666), unix.Mkfifo(w.base+"/fifo", 0o666), os.Lchown(home, nobodyID, nobodyID), os.Lchown(home+"/link", nobodyID, nobodyID))
	line := func(log string) string {
		return "mount -t fuse.imdsfs -o " + w.directories() + ",log=" + log + " " + w.file + " " + w.mount
	}
	said := func(log, reason string) {
		t.Helper()
		start := time.Now()
		out, code := w.try(line(log))
		if code != mount.ExitFailed || !strings.Contains(out, "imdsfs: error: log "+log+": "+reason) || !strings.Contains(out, "imdsfs: hint: ") {
			t.Errorf("log=%s: exit code %d\n%swant %s", log, code, out, reason)
		}
		if took := time.Since(start); took > promised {
			t.Errorf("log=%s: it took %v", log, took)
		}
	}
	said(home+"/link", home+" belongs to uid 65534")
	said(home+"/new", home+" belongs to uid 65534")
	said(home+"/fifo", home+" belongs to uid 65534")
	said(w.base+"/link", w.base+"/link is a symbolic link")
	said(w.base+"/fifo", w.base+"/fifo is not a regular file")
	if text := kit.ReadFile(t, w.base+"/victim"); text != "root's" {
		t.Errorf("the victim holds %q", text)
	}
	if _, err := os.Lstat(home + "/new"); !os.IsNotExist(err) {
		t.Errorf("made in nobody's folder: %v", err)
	}
	if _, err := os.Lstat(w.mount); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

func TestRunTimeAndStateDirectoriesAreNobodysToExchange(t *testing.T) {
	c := newScene(t)
	c.mount = none
	must(t, os.Mkdir(c.victim+"/run", 0o755), os.Symlink(c.victim+"/run", c.base+"/link-of-nobody"), os.Lchown(c.base+"/link-of-nobody", nobodyID, nobodyID))
	c.before = c.listing()
	for _, flag := range []string{"--runtime-dir", "--state-dir"} {
		for path, reason := range map[string]string{
			c.home + "/b/run":           c.home + " belongs to uid 65534",
			c.home + "/new":             c.home + " belongs to uid 65534",
			c.base + "/link-of-nobody":  c.base + "/link-of-nobody is a symbolic link of uid 65534",
			c.base + "/link-of-nobody/": c.base + "/link-of-nobody is a symbolic link of uid 65534",
		} {
			said := c.refused(flag, path)
			if want := "y: " + reason + "\nimdsfs: hint: name another with " + flag + ", which only you can change"; !strings.Contains(said, want) {
				t.Errorf("%s %s: said\n%swant\n%s", flag, path, said, want)
			}
		}
	}
	said := c.refused("--admin", c.home+"/admin.sock")
	if want := "imdsfs: error: admin socket " + c.home + "/admin.sock: " + c.home + " belongs to uid 65534\nimdsfs: hint: choose another path with --admin\n"; said != want {
		t.Errorf("said\n%swant\n%s", said, want)
	}
	c.unharmed()
	c.swap(c.home+"/a", c.home+"/b")
	c.during(func() {
		if c.once("--runtime-dir", c.home+"/a/run") {
			t.Error("it served with a run-time directory that nobody can exchange")
		}
	})
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const tier, colour = "/latest/meta-data/tier", "/latest/meta-data/colour"

func newTierSite(t *testing.T) *site {
	return newSite(t, least("", "tier = \"gold\"\ncolour = \"blue\""))
}

func (s *site) expect(path, want string) {
	s.t.Helper()
	if got, err := cat(s.t, path); got != want || err != nil {
		s.t.Errorf("%s reads %q, %v; want %q", path, got, err, want)
	}
}

func (s *site) expectDead(path string) {
	s.t.Helper()
	if got, err := cat(s.t, path); err == nil || !strings.Contains(err.Error(), "Transport endpoint is not connected") &&
		!strings.Contains(err.Error(), "Software caused connection abort") {
		s.t.Errorf("%s reads %q, %v", path, got, err)
	}
}

// worker is a process that works in a directory and has a file open.
func (s *site) worker(dir, file string) *exec.Cmd {
	s.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.Dir, cmd.Stdin = dir, f
	return s.background(cmd)
}

// users are what keeps a mount busy: a bind mount, which is returned, an open file, a process in it.
func (s *site) users() string {
	s.t.Helper()
	s.worker(s.mount+"/latest/meta-data", s.mount+tier)
	return s.bind(s.mount + "/latest/meta-data")
}

func TestAKilledDaemonIsFollowedByTheNext(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	bind := s.users()
	s.expect(bind+"/tier", "gold")
	d.kill()
	if !s.isMounted() {
		t.Fatal("nothing is left to be replaced")
	}
	// Readers are told; nobody waits.
	s.expectDead(s.mount + colour)
	s.expectDead(bind + "/colour")

	rewrite(t, s.file, least("", `tier = "silver"`))
	start := time.Now()
	d = s.start()
	if took := time.Since(start); took > promised {
		t.Errorf("the start took %v", took)
	}
	s.expect(s.mount+tier, "silver")
	if n := len(mountsBelow(s.base)); n != 2 {
		t.Errorf("%d mounts, want the new one and the bind mount: %v", n, mountsBelow(s.base))
	}
	s.expectDead(bind + "/instance-id") // of the first daemon, and stays so
	s.end(d)
	if _, err := os.Lstat(s.mount); !os.IsNotExist(err) {
		t.Errorf("the directory that the killed daemon made is left: %v", err)
	}
}

func TestADirectoryThatWasThereStays(t *testing.T) {
	s := newTierSite(t)
	s.mustMkdir("metadata")
	s.start().kill()
	s.end(s.start())
	if _, err := os.Lstat(s.mount); err != nil {
		t.Error(err)
	}
}

// TestDeadMountsInAStack: each start that was killed before it could serve may leave one.
func TestDeadMountsInAStack(t *testing.T) {
	s := newTierSite(t)
	s.mustMkdir("metadata")
	for range 3 {
		fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Mount("imdsfs", s.mount, "fuse.imdsfs", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
	}
	d := s.start()
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

// TestAStoppedDaemon: what the kernel has is read on, what it has not waits, but can be interrupted.
func TestAStoppedDaemon(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	s.expect(s.mount+tier, "gold") // its close teaches the kernel that there is no FLUSH
	s.pin(s.mount + tier)
	kit.Freeze(t, d.cmd.Process.Pid)
	s.expect(s.mount+tier, "gold")

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		reader := exec.Command("cat", s.mount+colour)
		if err := reader.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- reader.Wait() }()
		kit.Eventually(t, "the reader waits for the daemon", func() bool {
			where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", reader.Process.Pid))
			return strings.Contains(string(where), "request_wait_answer")
		})
		reader.Process.Signal(sig)
		select {
		case <-ended:
		case <-time.After(promised):
			t.Errorf("%v does not end a reader", sig)
		}
	}

	// Another daemon finds out without hanging, and lets it be.
	for runtimeDir, want := range map[string]string{
		s.runtime:                "already running with the run-time directory " + s.runtime,
		s.mustMkdir("other-run"): "mount " + s.mount + ": already served by a running imdsfs: with another run-time directory, and it does not answer",
	} {
		if said := s.refused("--runtime-dir", runtimeDir, "--state-dir", s.base+"/other-state"); !strings.Contains(said, want) {
			t.Errorf("with run-time directory %s: %s", runtimeDir, said)
		}
	}

	d.signal(syscall.SIGCONT)
	s.expect(s.mount+colour, "blue")
	s.end(d)
}

func TestABusyMountIsGoneInTime(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	bind := s.users()
	open, err := os.Open(s.mount + tier)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	s.expect(s.mount+colour, "blue")
	s.end(d)
	if _, err := os.Lstat(s.mount); !os.IsNotExist(err) {
		t.Errorf("the directory that it made is left: %v", err)
	}
	s.expectDead(bind + "/tier")
	s.expectDead(bind + "/colour") // the kernel had it
	s.end(s.start())
}

func TestAnUnmountBySomebodyElseEndsTheDaemon(t *testing.T) {
	for name, flags := range map[string]int{"umount": 0, "umount -l": unix.MNT_DETACH, "umount -f": unix.MNT_FORCE} {
		t.Run(name, func(t *testing.T) {
			s := newTierSite(t)
			d := s.start()
			s.expect(s.mount+tier, "gold")
			if err := unix.Unmount(s.mount, flags); err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "the daemon ends", d.ended)
			if code := d.cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(d.log.String(), "unmounted by somebody else") {
				t.Errorf("exit code %d", code)
			}
			if _, err := os.Lstat(s.mount); !os.IsNotExist(err) {
				t.Errorf("the directory that it made is left: %v", err)
			}
			d.kill()
		})
	}
}

// milestones are the steps of a start that can be seen from outside, in their order.
var milestones = []struct {
	name    string
	reached func(s *site, d *served) bool
}{
	{"started", func(*site, *served) bool { return true }},
	{"locked", func(s *site, _ *served) bool { _, err := os.Stat(s.runtime + "/daemon.lock"); return err == nil }},
	{"mount point claimed", func(s *site, _ *served) bool {
		found, _ := filepath.Glob(s.runtime + "/mount-*.lock")
		return len(found) > 0
	}},
	{"directory made", func(s *site, _ *served) bool { return s.made() }},
	{"mounted", func(s *site, _ *served) bool { return s.isMounted() }},
	{"addresses noted", func(s *site, _ *served) bool { _, err := os.Stat(daemon.ListenFile(s.runtime)); return err == nil }},
	{"ready", func(_ *site, d *served) bool { return strings.Contains(d.log.String(), "msg=ready") }},
}

// made looks for the mount point without looking at it.
func (s *site) made() bool {
	entries, _ := os.ReadDir(s.base)
	for _, e := range entries {
		if e.Name() == "metadata" {
			return true
		}
	}
	return false
}

func TestSignalsDuringTheStart(t *testing.T) {
	for _, m := range milestones {
		for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
			t.Run(name+" when "+m.name, func(t *testing.T) {
				s := newTierSite(t)
				d := s.launch()
				kit.Eventually(t, m.name, func() bool { return m.reached(s, d) })
				d.signal(sig)
				select {
				case err := <-d.exited:
					d.exited <- err
				case <-time.After(promised):
					t.Error("it goes on")
				}
				if sig == syscall.SIGTERM && (s.isMounted() || s.made()) {
					t.Errorf("mounted: %v, directory left: %v", s.isMounted(), s.made())
				}
				d.kill()
				if code := d.cmd.ProcessState.ExitCode(); sig == syscall.SIGTERM && m.name != "started" && code != 0 {
					t.Errorf("exit code %d", code)
				}
				d = s.start()
				s.expect(s.mount+tier, "gold")
				s.end(d)
				if s.made() {
					t.Error("the directory is left")
				}
			})
		}
	}
}

func TestAStormOfSIGHUP(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	for i := range 1000 {
		if i%100 == 0 {
			rewrite(t, s.file, least("", fmt.Sprintf("tier = \"%d\"", i)))
		}
		d.signal(syscall.SIGHUP)
	}
	kit.Eventually(t, "the last value is on the mount", func() bool { got, _ := cat(t, s.mount+tier); return got == "900" })
	kit.Eventually(t, "HTTP, which comes after it, has it too", func() bool { return d.ask("GET", tier).body == "900" })
	quit := make(chan struct{})
	var storm sync.WaitGroup
	storm.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
				d.cmd.Process.Signal(syscall.SIGHUP)
			}
		}
	})
	s.end(d)
	close(quit)
	storm.Wait()
}

const shortLived = `
[credentials.web]
type = "static"
access-key-id = "ASIAIOSFODNN7EXAMPLE"
secret-access-key = "hunter2"
token = "token"
expiration = %s
`

// TestCredentialsDoNotOutliveTheirDaemon: nobody can tell the kernel to drop them any more, so it was told
// beforehand how long they are good.
func TestCredentialsDoNotOutliveTheirDaemon(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	bind := s.bind(s.mount + "/latest/meta-data")
	var expires time.Time
	for _, validity := range []time.Duration{3 * time.Second, kit.Patience} { // the longer one on a busy machine
		expires = time.Now().Add(validity).Truncate(time.Second) // seconds are all that a date here has
		d.after("msg=reloaded", func() {
			rewrite(t, s.file, least("", `tier = "gold"`)+fmt.Sprintf(shortLived, expires.UTC().Format(time.RFC3339)))
		})
		if time.Until(expires) > time.Second {
			break
		}
	}
	credentials := bind + "/iam/security-credentials/web"
	readable := func(path string) error { // plain system calls: package os polls, which asks the daemon
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Read(fd, make([]byte, 100))
		return err
	}
	s.pin(credentials)
	s.pin(bind + "/tier")
	d.kill()
	if err := readable(credentials); err != nil && time.Now().Before(expires.Add(-100*time.Millisecond)) {
		t.Errorf("what the kernel has cannot be read before it ends: %v", err)
	}
	kit.Eventually(t, "the credentials are gone", func() bool { return readable(credentials) != nil })
	if late := time.Since(expires); late > 10*time.Second {
		t.Errorf("they were readable until %v after their end", late)
	}
	if err := readable(credentials); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("in the end: %v", err)
	}
	if err := readable(bind + "/tier"); err != nil {
		t.Errorf("what does not expire: %v", err)
	}
	s.end(s.start()) // takes the dead mount away
}

func TestAnOrderlyStopLeavesNothingToRead(t *testing.T) {
	s := newSite(t, least("", `tier = "gold"`)+fmt.Sprintf(shortLived, "2099-01-01T00:00:00Z"))
	d := s.start()
	bind := s.bind(s.mount)
	if seen := len(walk(t, bind)); seen < 100 { // all of it is in the kernel's caches now
		t.Errorf("only %d files and directories", seen)
	}
	s.end(d)
	for _, path := range []string{tier, "/latest/meta-data/iam/security-credentials/web", "/2021-03-23/meta-data/instance-id"} {
		s.expectDead(bind + path)
	}
	if names, err := os.ReadDir(bind + "/latest"); err == nil {
		t.Errorf("listed after the end: %v", names)
	}
}

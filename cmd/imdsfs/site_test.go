package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// promised is how long a stop or a refusal may take on a busy machine: ten times as long as on an idle one.
const promised = 20 * time.Second

// A site is where the daemons of one test come and go. At the end of the test nothing may be left: no
// mount, and no process, not even one in a wait that no signal ends.
type site struct {
	t       *testing.T
	base    string // everything is in it; every user can enter it
	file    string // the instance file
	mount   string // not made
	runtime string
	state   string
	code    int // of the last that was refused
}

func newSite(t *testing.T, text string) *site {
	t.Helper()
	kit.RequireMount(t)
	base, err := os.MkdirTemp("", "imdsfs-site-")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, base: base, file: base + "/web.toml", mount: base + "/metadata", runtime: base + "/run", state: base + "/state"}
	t.Cleanup(s.clean)
	t.Setenv("IMDSFS_TEST_SITE", base) // for processes
	if err := errors.Join(os.Chmod(base, 0o755), os.WriteFile(s.file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return s
}

// clean runs after all that the test registered for its end.
func (s *site) clean() {
	left := mountsBelow(s.base)
	for i := len(left) - 1; i >= 0; i-- {
		s.t.Errorf("left mounted: %s", left[i])
		unix.Unmount(left[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	// A child that looked at a hung path ends a moment after that answers.
	for deadline := time.Now().Add(promised); len(s.processes()) > 0 && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	for pid, command := range s.processes() {
		s.t.Errorf("process left: %d %s", pid, command)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := os.RemoveAll(s.base); err != nil {
		s.t.Error(err)
	}
}

// mountsBelow reads the kernel's list; looking at the paths could hang.
func mountsBelow(dir string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	return points
}

func (s *site) isMounted() bool {
	return strings.Contains(strings.Join(mountsBelow(s.base), "\n")+"\n", s.mount+"\n")
}

// processes returns all processes that the test has started, whatever their parent is now: the site is in their
// environment, or in the command line of what has none. Zombies have neither.
func (s *site) processes() map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		command, _ := os.ReadFile(dir + "/cmdline")
		environment, _ := os.ReadFile(dir + "/environ")
		if pid == os.Getpid() || !strings.Contains(string(environment)+string(command), s.base) {
			continue
		}
		stat, _ := os.ReadFile(dir + "/stat")
		_, state, _ := strings.Cut(string(stat), ") ")
		found[pid] = fmt.Sprintf("%.1s %s", state, strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

func (s *site) args(flags []string) []string {
	return append([]string{"serve", "-c", s.file, "--listen", "127.0.0.1:0", "--mount", s.mount,
		"--runtime-dir", s.runtime, "--state-dir", s.state}, flags...)
}

// launch starts a daemon and does not wait until it is ready; a flag that is given wins over the site's.
func (s *site) launch(flags ...string) *served { return s.launchAs([]string{"imdsfs"}, flags...) }

func (s *site) launchAs(command []string, flags ...string) *served {
	s.t.Helper()
	args := append(command[1:], s.args(flags)...)
	d := &served{t: s.t, cmd: exec.Command(command[0], args...), log: &syncBuffer{}, runtime: s.runtime, exited: make(chan error, 1)}
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	s.t.Cleanup(func() {
		d.cmd.Process.Signal(syscall.SIGCONT)
		d.stop()
		if s.t.Failed() {
			s.t.Logf("log of imdsfs %s:\n%s", strings.Join(args, " "), d.log)
		}
	})
	return d
}

// start starts a daemon and waits until it is ready.
func (s *site) start(flags ...string) *served {
	s.t.Helper()
	return s.ready(s.launch(flags...))
}

func (s *site) ready(d *served) *served {
	s.t.Helper()
	kit.Eventually(s.t, "ready", func() bool {
		if d.ended() {
			s.t.Fatalf("imdsfs serve ended:\n%s", d.log)
		}
		return strings.Contains(d.log.String(), "msg=ready")
	})
	text := kit.ReadFile(s.t, daemon.ListenFile(s.runtime))
	d.address, _, _ = strings.Cut(text, "\n")
	return d
}

func (d *served) ended() bool {
	select {
	case err := <-d.exited:
		d.exited <- err
		return true
	default:
		return false
	}
}

// kill leaves the daemon no time for anything.
func (d *served) kill() {
	d.once.Do(func() {
		d.cmd.Process.Kill()
		<-d.exited
	})
}

// end stops the daemon as systemd would. It has to take everything with it, in time.
func (s *site) end(d *served) {
	s.t.Helper()
	start := time.Now()
	d.stop()
	if took := time.Since(start); took > promised {
		s.t.Errorf("the stop took %v", took)
	}
	if s.isMounted() {
		s.t.Errorf("%s is still mounted", s.mount)
	}
}

// refused runs a daemon that must not start and returns what it says for itself, without the log.
func (s *site) refused(flags ...string) string {
	s.t.Helper()
	before := mountsBelow(s.base)
	start := time.Now()
	d := s.launch(flags...)
	defer d.kill()
	var err error
	select {
	case err = <-d.exited:
		d.exited <- err
	case <-time.After(kit.Patience):
		s.t.Fatal("neither ready nor refused")
	}
	if took := time.Since(start); took > promised {
		s.t.Errorf("the refusal took %v", took)
	}
	if s.code = d.cmd.ProcessState.ExitCode(); s.code != exitFailed && s.code != exitInvalid {
		s.t.Errorf("ended with: %v", err)
	}
	if after := mountsBelow(s.base); strings.Join(after, " ") != strings.Join(before, " ") {
		s.t.Errorf("the refusal changed what is mounted from %v to %v", before, after)
	}
	var said strings.Builder
	for line := range strings.Lines(d.log.String()) {
		if strings.HasPrefix(line, "imdsfs: ") {
			said.WriteString(line)
		}
	}
	return said.String()
}

func (s *site) mustMkdir(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.base, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// bind shows a directory at a new one elsewhere, until the end of the test.
func (s *site) bind(from string) string {
	s.t.Helper()
	to, err := os.MkdirTemp(s.base, "bind-")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
	return to
}

// background runs a command until the end of the test.
func (s *site) background(cmd *exec.Cmd) *exec.Cmd {
	s.t.Helper()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// pin makes the kernel keep a file and all that it knows of it, even if its caches are dropped, until the
// end of the test.
func (s *site) pin(path string) {
	s.t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	page, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { unix.Munmap(page); unix.Close(fd) })
	var st unix.Stat_t // of a writable filesystem, a read changes the time of the last access
	if err := unix.Fstat(fd, &st); err != nil {
		s.t.Fatal(err)
	}
}

// cat reads a path from a process of its own, which must not hang.
func cat(t testing.TB, path string) (string, error) {
	t.Helper()
	cmd := exec.Command("cat", path)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(kit.Patience, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !hung.Stop() {
		t.Fatalf("cat %s hangs", path)
	}
	if err != nil {
		err = errors.New(strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

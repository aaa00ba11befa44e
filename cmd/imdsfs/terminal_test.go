package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// besideTerminalVariable has the test binary be, on a terminal of root's, what starts a daemon as nobody ("start"), and
// that daemon, gone bad ("attack").
const besideTerminalVariable = "IMDSFS_TEST_BESIDE_TERMINAL"

func besideTerminal() int {
	if os.Getenv(besideTerminalVariable) == "attack" {
		attackTerminal()
		return 0
	}
	os.Setenv(besideTerminalVariable, "attack")
	self, _ := os.Executable()
	cmd := exec.Command(self)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, os.Stderr, os.Environ()
	null, err := os.Open(os.DevNull)
	cmd.ExtraFiles = []*os.File{null}
	a, lookErr := privilege.Lookup("nobody")
	err = errors.Join(err, lookErr, privilege.CloseOnExec())
	if err == nil {
		err = privilege.Start(cmd, a, nil, nil)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// attackTerminal types into every terminal that it can get at.
func attackTerminal() {
	for fd := range 64 {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil {
			fmt.Printf("fd %d %s\n", fd, to)
			tryToType(fd, to)
		}
		if fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
			tryToType(fd, "reopened "+to)
			unix.Close(fd)
		}
	}
	if fd, err := unix.Open("/dev/tty", unix.O_RDWR, 0); err == nil {
		tryToType(fd, "/dev/tty")
	}
	if _, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", rootsKey, 0); err == nil {
		fmt.Println("HAS root's key")
	}
	stat, _ := os.ReadFile("/proc/self/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	fmt.Printf("session is own: %v, terminal %s\n", fields[3] == strconv.Itoa(os.Getpid()), fields[4])
	fmt.Print("\x1b[2Jgo\x1b]0;title\x07\u009bdone\n")
}

// rootsKey is in the session keyring of who starts a daemon.
const rootsKey = "imdsfs-test"

func tryToType(fd int, name string) {
	text := []byte("!")
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&text[0])))
	if errno == 0 {
		fmt.Printf("TYPED into %s\n", name)
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		fmt.Printf("HAS terminal %s\n", name)
	}
}

// A terminal is a pseudo-terminal with what is printed on it.
type terminal struct {
	t      *testing.T
	slave  *os.File
	keys   *os.File // what is written to it counts as typed
	number string   // as /proc/PID/stat has it
	log    *syncBuffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	kit.Require(t, err == nil, "/dev/ptmx")
	master := os.NewFile(uintptr(fd), "ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	w := &terminal{t, slave, master, "", &syncBuffer{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			w.log.Write(buf[:n])
		}
	}()
	t.Cleanup(func() {
		slave.Close() // the last: the read ends
		<-ended
		master.Close()
	})
	return w
}

// on has a command run on the terminal, in a session of its own.
func (w *terminal) on(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = w.slave, w.slave, w.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
}

func TestWhoRunsAsAnotherUserGetsNoTerminal(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to become another user")
	dir := publicDir(t)
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(dir+"/test", self, 0o755))
	t.Cleanup(func() { os.Remove(dir + "/test") })
	w := newTerminal(t)
	cmd := exec.Command(dir + "/test")
	w.on(cmd)
	cmd.Env = append(os.Environ(), besideTerminalVariable+"=start")
	cmd.ExtraFiles = []*os.File{w.slave} // what a starter leaves open
	must(t, privilege.OnThread(func() error {
		_, err := unix.KeyctlJoinSessionKeyring(rootsKey)
		if err == nil {
			_, err = unix.AddKey("user", rootsKey, []byte("hunter2"), unix.KEY_SPEC_SESSION_KEYRING)
		}
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // in a container
			err = nil
		}
		return errors.Join(err, cmd.Start())
	}), cmd.Wait())
	kit.Eventually(t, "the end", func() bool { return strings.Contains(w.log.String(), "done") })
	said := strings.ReplaceAll(w.log.String(), "\r\n", "\n")
	if strings.Contains(said, "TYPED") || strings.Contains(said, "HAS") || !strings.Contains(said, "session is own: true, terminal 0\n") {
		t.Errorf("it has the terminal:\n%s", said)
	}
	if !strings.Contains(said, "?[2Jgo?]0;title??done\n") {
		t.Errorf("control characters reach the terminal: %q", said)
	}
	var fds []string
	for _, m := range regexp.MustCompile(`(?m)^fd (\d+ [^\s\[\]]*)`).FindAllStringSubmatch(said, -1) {
		if !strings.Contains(m[1], "anon_inode") && !strings.Contains(m[1], "/sys/fs/cgroup/") { // Go's own
			fds = append(fds, m[1])
		}
	}
	if got := strings.Join(fds, ", "); got != "0 /dev/null, 1 pipe:, 2 pipe:, 3 /dev/null" {
		t.Errorf("descriptors: %s", got)
	}
}

// What a keeper that root starts on a terminal hands on to the daemon of another user is the list in privilege.Start.
func TestWhatAKeptDaemonInherits(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`)+`
[credentials.web]
type = "static"
access-key-id = "ASIAEXAMPLE"
secret-access-key-env = "WEB_SECRET"
token-env = "WEB_TOKEN"
expiration = 2099-01-01T00:00:00Z
`)
	w := newTerminal(t)
	base := filepath.Base
	args := []string{"-c", `ulimit -c 1000; umask 022; exec 9<>/dev/tty; exec "$@"`, "sh", "../" + base(s.base) + "/imdsfs", "serve", "--keep", "--user", "nobody",
		"-c", base(s.file), "--mount", base(s.mount), "--listen", "127.0.0.1:0", "--runtime-dir", base(s.runtime), "--state-dir=" + base(s.state), "--admin", "run/sock"}
	d := &served{t: t, cmd: exec.Command("/bin/bash", args...), log: w.log, runtime: s.runtime, exited: make(chan error, 1)}
	w.on(d.cmd)
	d.cmd.Dir = s.base
	secret := []string{"AWS_SECRET_ACCESS_KEY=hunter2", "SSH_AUTH_SOCK=/run/agent", "LD_LIBRARY_PATH=/nowhere", "GNUPGHOME=/root/.gnupg", "XDG_RUNTIME_DIR=/run/user/0"}
	wanted := []string{"LANG=C.UTF-8", "LC_TIME=C", "TZ=UTC", "GOMEMLIMIT=1GiB", "WEB_SECRET=hunter2hunter2", "WEB_TOKEN=hunter3hunter3", "IMDSFS_TEST_SITE=" + s.base, "PATH=" + os.Getenv("PATH")}
	d.cmd.Env = slices.Concat(secret, wanted, []string{"HOME=/root", "USER=root", "LOGNAME=root", "NOTIFY_SOCKET=/nowhere", "WATCHDOG_USEC=1"})
	must(t, d.cmd.Start())
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("on the terminal:\n%s", w.log)
		}
	})
	s.ready(d)
	check := func(when string, want []string) {
		t.Helper()
		proc := fmt.Sprintf("/proc/%d/", s.daemon(d))
		_, stat, _ := strings.Cut(kit.ReadFile(t, proc+"stat"), ") ")
		if f := strings.Fields(stat); proc != "/proc/"+f[3]+"/" || f[4] != "0" {
			t.Errorf("%s: session %s, terminal %s of %s", when, f[3], f[4], proc)
		}
		status := kit.ReadFile(t, proc+"status")
		for _, want := range []string{"Umask:\t0077\n", "NoNewPrivs:\t1\n", "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "Groups:\t65534 \n"} {
			if !strings.Contains(status, want) {
				t.Errorf("%s: the status has no %q:\n%s", when, want, status)
			}
		}
		if cwd, _ := os.Readlink(proc + "cwd"); cwd != "/" {
			t.Errorf("%s: works in %s", when, cwd)
		}
		if limits := kit.ReadFile(t, proc+"limits"); !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(limits) {
			t.Errorf("%s: %s", when, limits)
		}
		var names []string
		for _, variable := range strings.Split(strings.TrimRight(kit.ReadFile(t, proc+"environ"), "\x00"), "\x00") {
			name, value, _ := strings.Cut(variable, "=")
			names = append(names, name)
			if name == "HOME" && value == "/root" || name == "USER" && value != "nobody" || name == "WATCHDOG_USEC" && value == "1" {
				t.Errorf("%s: %s", when, variable)
			}
		}
		slices.Sort(names)
		variables := []string{"GOMEMLIMIT", "HOME", "IMDSFS_KEEPER", "IMDSFS_KEEPER_SOCKET", "IMDSFS_TEST_SITE", "LANG", "LC_TIME", "LISTEN_FDNAMES", "LISTEN_FDS", "LOGNAME",
			"PATH", "TZ", "USER", "WATCHDOG_USEC", "WEB_SECRET", "WEB_TOKEN"}
		if !slices.Equal(names, variables) {
			t.Errorf("%s: the environment has\n%q, want\n%q", when, names, variables)
		}
		for deadline := time.Now().Add(kit.Patience); !slices.Equal(descriptorKinds(proc, s.base), want); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the descriptors are\n%q, want\n%q", when, descriptorKinds(proc, s.base), want)
			}
		}
	}
	check("the first", daemonsDescriptors)
	s.expect(s.mount+tier, "gold")
	old := s.daemon(d)
	must(t, syscall.Kill(old, syscall.SIGKILL))
	kit.Eventually(t, "another one is ready", func() bool { return strings.Count(w.log.String(), "msg=ready") == 2 })
	check("the second", append(slices.Clone(daemonsDescriptors), "socket")) // to the child that tells the kernel of changes
	must(t, syscall.Kill(s.daemon(d), syscall.SIGHUP))
	kit.Eventually(t, "what it logs is on the terminal", func() bool { return strings.Contains(w.log.String(), "msg=reloaded") })
	s.end(d)
	if !strings.Contains(w.log.String(), "msg=stopping") {
		t.Error("the last words are not on the terminal")
	}
}

// The keeper is the reader of what its daemon logs, if that goes to a terminal.
func TestADaemonOutlivesTheKeeperThatPrintsItsLog(t *testing.T) {
	s := newKeptSite(t, least("", `tier = "gold"`))
	w := newTerminal(t)
	d := &served{t: t, cmd: exec.Command(s.base+"/imdsfs", s.args([]string{"--keep", "--user", "nobody", "--mount", none})...), log: w.log, runtime: s.runtime, exited: make(chan error, 1)}
	w.on(d.cmd)
	must(t, d.cmd.Start())
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(d.stop)
	s.ready(d)
	pid := s.daemon(d)
	d.kill()
	for range 3 {
		must(t, syscall.Kill(pid, syscall.SIGHUP)) // it says that it has reloaded, to nobody
		if out, err := s.imdsfs("tag", "set", "Name", "x"); err != nil {
			t.Errorf("a change: %v %s", err, out)
		}
	}
	if got := d.ask("GET", "/latest/meta-data/tier").body; got != "gold" {
		t.Errorf("got %q", got)
	}
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	kit.Eventually(t, "the daemon ends", func() bool { return len(s.processes()) == 0 })
}

// daemonsDescriptors are those of a daemon that runs as another user, with a mount, on one address: what is kept is
// there twice. The directory is that of the locks. The sockets are the keeper's, the admin API's, the one for HTTP, and two
// from which it learns of addresses.
var daemonsDescriptors = []string{
	"/dev/fuse", "/dev/fuse", "/memfd:imdsfs fuse-mount", "/memfd:imdsfs fuse-mount", "/memfd:imdsfs fuse-tree", "/memfd:imdsfs server",
	"0 /dev/null", "1 pipe", "2 pipe", "anon_inode:[eventpoll]", "anon_inode:inotify",
	"daemon.lock", "daemon.lock", "mount.lock", "mount.lock",
	"site/run", "site/state", "socket", "socket", "socket", "socket", "socket", "socket",
}

var numbered = regexp.MustCompile(`(-[0-9a-f]+(\.lock)?)?( \(deleted\)|:\[\d+\])?$`)

// descriptorKinds says what each descriptor of a process is, but for some that Go opens for itself, and the directory of
// the mount point, which only who has mounted holds. The trees that a daemon keeps count as one.
func descriptorKinds(proc, base string) (kinds []string) {
	entries, _ := os.ReadDir(proc + "fd")
	for _, e := range entries {
		to, err := os.Readlink(proc + "fd/" + e.Name())
		if err != nil || to == "anon_inode:[eventfd]" || to == "anon_inode:[pidfd]" || strings.HasPrefix(to, "/sys/fs/cgroup/") {
			continue
		}
		kind := numbered.ReplaceAllString(strings.Replace(to, base, "site", 1), "$2")
		if strings.HasSuffix(kind, ".lock") {
			kind = filepath.Base(kind)
		}
		if kind == "site" {
			continue
		}
		if fd := atoi(e.Name()); fd < 3 {
			kind = e.Name() + " " + kind
		}
		if kind != "/memfd:imdsfs fuse-tree" || !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

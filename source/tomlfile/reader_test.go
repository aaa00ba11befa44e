package tomlfile

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.Run(m)) }

const (
	alice  = 61021
	bob    = 61022
	secret = "PLANTED-root-only"
)

// A land is a folder that everybody can enter, in which the test gives files to others.
type land struct {
	t   *testing.T
	top string
}

func newLand(t *testing.T) *land {
	t.Helper()
	kit.Require(t, os.Geteuid() == 0, "root, to give files to other users")
	top, err := os.MkdirTemp("", "imdsfs-test-")
	must(t, err, os.Chmod(top, 0o755))
	t.Cleanup(func() { os.RemoveAll(top) })
	return &land{t, top}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (l *land) own(name string, uid int, mode os.FileMode) string {
	l.t.Helper()
	path := filepath.Join(l.top, name)
	must(l.t, os.Lchown(path, uid, uid), os.Chmod(path, mode))
	return path
}

func (l *land) dir(name string, uid int, mode os.FileMode) {
	l.t.Helper()
	must(l.t, os.Mkdir(filepath.Join(l.top, name), 0o700))
	l.own(name, uid, mode)
}

func (l *land) file(name string, uid int, mode os.FileMode, text string) string {
	l.t.Helper()
	must(l.t, os.WriteFile(filepath.Join(l.top, name), []byte(text), 0o600))
	return l.own(name, uid, mode)
}

func (l *land) link(target, name string, uid int) string {
	l.t.Helper()
	path := filepath.Join(l.top, name)
	must(l.t, os.Symlink(target, path), os.Lchown(path, uid, uid))
	return path
}

// population makes files of root, alice and bob that they may and may not read, and links between them.
func population(t *testing.T) *land {
	l := newLand(t)
	l.dir("root", 0, 0o755)
	l.file("root/secret", 0, 0o600, secret)
	l.file("root/group", 0, 0o640, secret)
	l.file("root/others", 0, 0o604, secret)
	l.file("root/open", 0, 0o644, "open")
	l.dir("root/private", 0, 0o700)
	l.file("root/private/open", 0, 0o644, secret)
	l.dir("root/unreadable", 0, 0o711)
	l.file("root/unreadable/open", 0, 0o644, "open")
	l.dir("alice", alice, 0o755)
	l.file("alice/own", alice, 0o600, "own")
	l.file("alice/denied", alice, 0o044, secret)
	l.dir("alice/closed", alice, 0o611)
	l.file("alice/closed/own", alice, 0o600, secret)
	l.dir("alice/home", alice, 0o700)
	l.file("alice/home/own", alice, 0o600, "own")
	l.dir("bob", bob, 0o755)
	l.file("bob/own", bob, 0o600, secret)
	l.file("bob/open", bob, 0o644, "open")
	l.dir("bob/home", bob, 0o700)
	l.file("bob/home/open", bob, 0o644, secret)
	l.link("own", "alice/link", alice)
	l.link("home", "alice/home-link", alice)
	l.link("link", "alice/links", alice)
	l.link("../root/secret", "alice/to-secret", alice)
	l.link("../root/open", "alice/to-open", alice)
	l.link("../root", "alice/to-root", alice)
	l.link("../root/private", "alice/to-private", alice)
	l.link("../root/open", "alice/roots", 0)
	l.link("../root/secret", "alice/roots-to-secret", 0)
	l.link("own", "alice/bobs", bob)
	l.link("to-secret", "alice/roots-to-alices", 0)
	l.link("../bob/open", "alice/to-bob", alice)
	l.dir("kubernetes", 0, 0o777)
	l.dir("kubernetes/..1", 0, 0o755)
	l.file("kubernetes/..1/f", 0, 0o644, "open")
	l.link("..1", "kubernetes/..data", 0)
	l.link("..data/f", "kubernetes/f", 0)
	l.dir("pod", alice, 0o777)
	l.dir("pod/..1", alice, 0o777)
	l.file("pod/..1/f", alice, 0o400, "own")
	l.link("..1", "pod/..data", alice)
	l.link("..data/f", "pod/f", alice)
	return l
}

func TestFilesAreReadForTheOwnerOfTheInstanceFile(t *testing.T) {
	l := population(t)
	const sealed = "{TOP}/root/secret belongs to uid 0 (mode 0600): uid 61021, who owns the instance file, may not read it (name a file that uid 61021 may read, or check what the instance file says, and then chown root {FILE})"
	for _, test := range []struct {
		uid  int
		mode os.FileMode
		name string
		want string // the text of the file, or of the fault
	}{
		{0, 0o600, "root/secret", secret},
		{0, 0o644, "root/private/open", secret},
		{0, 0o644, "alice/own", "own"},
		{0, 0o644, "alice/closed/own", secret},
		{0, 0o644, "alice/links", "own"},
		{0, 0o644, "alice/roots-to-secret", secret},
		{0, 0o644, "kubernetes/f", "open"},
		{0, 0o644, "pod/f", "own"},
		{0, 0o644, "alice/to-secret", "is refused: {TOP}/alice/to-secret is a symbolic link of uid 61021 that leads to a file of uid 0 (name what it leads to, or make the link root's with chown -h)"},
		{0, 0o644, "alice/to-open", "{TOP}/alice/to-open is a symbolic link of uid 61021"},
		{0, 0o644, "alice/to-root/open", "{TOP}/alice/to-root is a symbolic link of uid 61021 that leads to a file of uid 0"},
		{0, 0o644, "alice/bobs", "{TOP}/alice/bobs is a symbolic link of uid 61022 that leads to a file of uid 61021"},
		{0, 0o644, "alice/roots-to-alices", "{TOP}/alice/to-secret is a symbolic link of uid 61021"},
		{0, 0o644, "alice/missing", "cannot be read: no such file or directory (a relative"},

		{alice, 0o644, "alice/own", "own"},
		{alice, 0o600, "alice/own", "own"},
		{alice, 0o644, "alice/home/own", "own"},
		{alice, 0o644, "alice/home-link/own", "own"},
		{alice, 0o644, "alice/links", "own"},
		{alice, 0o644, "alice/roots", "open"},
		{alice, 0o644, "root/open", "open"},
		{alice, 0o644, "root/unreadable/open", "open"},
		{alice, 0o644, "bob/open", "open"},
		{alice, 0o644, "kubernetes/f", "open"},
		{alice, 0o644, "pod/f", "own"},
		{alice, 0o644, "root/secret", sealed},
		{alice, 0o644, "alice/roots-to-secret", sealed},
		{alice, 0o644, "alice/to-secret", "{TOP}/alice/to-secret is a symbolic link of uid 61021 that leads to a file of uid 0"},
		{alice, 0o644, "alice/to-open", "{TOP}/alice/to-open is a symbolic link of uid 61021"},
		{alice, 0o644, "alice/to-bob", "{TOP}/alice/to-bob is a symbolic link of uid 61021 that leads to a file of uid 61022"},
		{alice, 0o644, "alice/to-private/open", "{TOP}/root/private belongs to uid 0 (mode 0700): uid 61021, who owns the instance file, may not enter it"},
		{alice, 0o644, "root/group", "{TOP}/root/group belongs to uid 0 (mode 0640)"},
		{alice, 0o644, "root/others", "{TOP}/root/others belongs to uid 0 (mode 0604)"},
		{alice, 0o644, "root/private/open", "{TOP}/root/private belongs to uid 0 (mode 0700)"},
		{alice, 0o644, "root/private/missing", "{TOP}/root/private belongs to uid 0 (mode 0700)"},
		{alice, 0o644, "alice/denied", "{TOP}/alice/denied belongs to uid 61021 (mode 0044)"},
		{alice, 0o644, "alice/closed/own", "{TOP}/alice/closed belongs to uid 61021 (mode 0611)"},
		{alice, 0o644, "bob/own", "{TOP}/bob/own belongs to uid 61022"},
		{alice, 0o644, "bob/home/open", "{TOP}/bob/home belongs to uid 61022"},

		{0, 0o664, "root/open", "open"},
		{0, 0o666, "kubernetes/f", "open"},
		{0, 0o664, "root/secret", "{TOP}/root/secret belongs to uid 0 (mode 0600): others can write the instance file, and not everybody may read this (name a file that everybody may read, or check what the instance file says, and then chmod go-w {FILE})"},
		{0, 0o646, "root/private/open", "{TOP}/root/private belongs to uid 0 (mode 0700)"},
		{0, 0o666, "alice/own", "{TOP}/alice/own belongs to uid 61021 (mode 0600)"},
		{alice, 0o664, "bob/open", "open"},
		{alice, 0o664, "alice/own", "{TOP}/alice/own belongs to uid 61021 (mode 0600): others can write the instance file, and not everybody may read this (name a file that everybody may read, or check what the instance file says, and then chown root {FILE} && chmod go-w {FILE})"},
	} {
		file := l.file("web.toml", test.uid, test.mode, fmt.Sprintf("user-data-file = %q\n", test.name))
		f, err := Load(file, nil)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = string(f.Fragment.Leaves["user-data"].Bytes)
		}
		want := strings.NewReplacer("{TOP}", l.top, "{FILE}", file).Replace(test.want)
		if err == nil && got != want || err != nil && (!strings.Contains(got, want) || strings.Contains(got, secret)) {
			t.Errorf("uid %d mode %04o names %s:\n got %q\nwant %q", test.uid, test.mode, test.name, got, want)
		}
	}
}

func TestInstanceFileIsThatOfWhomItBelongsToBehindLinks(t *testing.T) {
	l := newLand(t)
	l.file("secret", 0, 0o600, secret)
	l.dir("alice", alice, 0o755)
	const text = "user-data-file = '../secret'\n"
	l.file("alice/hers", alice, 0o644, text)
	l.file("alice/roots", 0, 0o644, text)
	for _, test := range []struct {
		uid          int
		target, want string
	}{
		{0, "alice/roots", ""},
		{0, "alice/hers", "secret belongs to uid 0 (mode 0600)"},
		{alice, "alice/hers", "secret belongs to uid 0 (mode 0600)"},
		{alice, "alice/roots", "/alice/link is a symbolic link of uid 61021 that leads to a file of uid 0"},
	} {
		link := l.link(filepath.Join(l.top, test.target), "alice/link", test.uid)
		_, err := Load(link, nil)
		must(t, os.Remove(link))
		if err == nil != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("a link of uid %d to %s: %v, want %q", test.uid, test.target, err, test.want)
		}
		if err != nil {
			faultsOf(t, err)
		}
	}
}

func TestForeignFileDoesNotAct(t *testing.T) {
	l := newLand(t)
	t.Setenv("IMDSFS_TEST_SECRET", secret)
	const text = `[credentials.r]
type = "static"
access-key-id-env = "IMDSFS_TEST_SECRET"
secret-access-key-env = "IMDSFS_TEST_SECRET"
token = "t"
[server]
listen = ["127.0.0.1:0"]
mount = "none"
admin = "/run/admin"
add-addresses = true
keep = true
user = "root"
runtime-dir = "/run/x"
`
	for _, test := range []struct {
		uid  int
		mode os.FileMode
		why  string
		then string
	}{
		{alice, 0o644, "belongs to uid 61021", "chown root {FILE}"},
		{0, 0o664, "can be written by others (mode 0664)", "chmod go-w {FILE}"},
		{bob, 0o602, "belongs to uid 61022 and can be written by others (mode 0602)", "chown root {FILE} && chmod go-w {FILE}"},
		{0, 0o644, "", ""},
	} {
		file := l.file("web.toml", test.uid, test.mode, text)
		f, err := Load(file, nil)
		if test.why == "" {
			if err != nil || f.Server.User != "root" {
				t.Errorf("root's own: %v, %+v", err, f)
			}
			continue
		}
		want := func(line int, key, instead string) faultWant {
			then := strings.ReplaceAll(test.then, "{FILE}", file)
			return faultWant{line, key, "acts with the daemon's rights, and this file " + test.why + " (" + instead + ", or check what the file says, and then " + then + ")"}
		}
		const flag = "leave it out and give the flag of imdsfs serve"
		compare(t, file, faultsOf(t, err), []faultWant{
			want(3, "credentials.r.access-key-id-env", "give access-key-id-file"),
			want(4, "credentials.r.secret-access-key-env", "give secret-access-key-file"),
			want(9, "server.admin", flag), want(10, "server.add-addresses", flag), want(11, "server.keep", flag),
			want(12, "server.user", flag), want(13, "server.runtime-dir", flag),
		})
		if s := f.Server; s.Mount != none || len(s.Listen) != 1 || s.Admin+s.User+s.RuntimeDir != "" || s.Keep || s.AddAddresses || len(s.Places) != 3 {
			t.Errorf("it has a say: %+v", s)
		}
		if strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("it tells the secret: %v", err)
		}
	}
}

const none = "none"

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	l := newLand(t)
	path := func(name string) string { return filepath.Join(l.top, name) }
	must(t, unix.Mkfifo(path("fifo"), 0o666), os.Mkdir(path("directory"), 0o755))
	socket, err := net.Listen("unix", path("socket"))
	must(t, err)
	defer socket.Close()
	names := []string{"fifo", "directory", "socket"}
	if err := unix.Mknod(path("device"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))); err == nil { // /dev/tty
		names = append(names, "device")
	}
	l.file("large", alice, 0o644, strings.Repeat("x", ec2.MaxUserData+1))
	// Who opens a FIFO to write waits for a reader: there is none.
	opened := make(chan struct{})
	go func() {
		if f, err := os.OpenFile(path("fifo"), os.O_WRONLY, 0); err == nil {
			f.Close()
		}
		close(opened)
	}()
	for _, uid := range []int{0, alice} {
		for _, name := range names {
			l.own(name, alice, 0o777)
			_, err := Load(l.file("web.toml", uid, 0o644, fmt.Sprintf("user-data-file = %q\n", name)), nil)
			want := "the file that it names is refused: " + path(name) + " is not a regular file (it belongs to uid 61021) (name a regular file)"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		_, err := Load(l.file("web.toml", uid, 0o644, "user-data-file = 'large'\n"), nil)
		if err == nil || !strings.Contains(err.Error(), "the file that it names has 16385 bytes: 16384 are allowed") {
			t.Errorf("large: %v", err)
		}
	}
	select {
	case <-opened:
		t.Error("the FIFO was opened")
	default:
	}
	r, err := os.OpenFile(path("fifo"), os.O_RDONLY|unix.O_NONBLOCK, 0) // lets the writer go
	must(t, err)
	<-opened
	r.Close()
}

// Some files of /proc have a mode that lets everybody read them, and are refused to all but root when they are opened.
func TestNoFileOfProcIsReadForAUser(t *testing.T) {
	l := newLand(t)
	process := exec.Command("sleep", "1000")
	must(t, process.Start())
	defer func() { process.Process.Kill(); process.Wait() }()
	maps := fmt.Sprintf("/proc/%d/maps", process.Process.Pid)
	file := l.file("web.toml", 0, 0o644, fmt.Sprintf("user-data-file = %q\n", maps))
	if _, err := Load(file, nil); err != nil {
		t.Errorf("root's own: %v", err)
	}
	l.own("web.toml", alice, 0o644)
	want := maps + " is generated by the kernel (it belongs to uid 0)"
	if _, err := Load(file, nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("alice's: %v, want %q", err, want)
	}
	// A process of hers whose files she has a link to can become root's at any time, by a set-user-ID program.
	hers := exec.Command("sleep", "1000")
	hers.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
	must(t, hers.Start())
	defer func() { hers.Process.Kill(); hers.Wait() }()
	maps = fmt.Sprintf("/proc/%d/maps", hers.Process.Pid)
	l.link(maps, "link", alice)
	want = maps + " is generated by the kernel (it belongs to uid 61021)"
	if _, err := Load(l.file("roots.toml", 0, 0o644, "user-data-file = 'link'\n"), nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("root's, through her link: %v, want %q", err, want)
	}
}

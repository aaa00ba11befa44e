package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/rundir"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// asUser calls f as another user, on a thread of its own: what it makes belongs to that user, and who connects to a socket
// that it opens sees him.
func asUser(t *testing.T, uid int, f func() error) {
	t.Helper()
	must(t, privilege.OnThread(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			return errno
		}
		return f()
	}))
}

// A recorder is a socket of the user nobody that records what it receives.
type recorder struct {
	connections, bytes atomic.Int64
}

func record(t *testing.T, path string, uid int) *recorder {
	t.Helper()
	r := &recorder{}
	asUser(t, uid, func() error {
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				r.connections.Add(1)
				n, _ := conn.Read(make([]byte, 4096))
				r.bytes.Add(int64(n))
				conn.Close()
			}
		}()
		return nil
	})
	must(t, os.Chmod(path, 0o666))
	return r
}

func TestNothingIsSentToTheSocketOfAnotherUser(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to be several users")
	base := publicDir(t)
	imdsfs := filepath.Join(base, "imdsfs")
	program(t, imdsfs, "one")
	t.Cleanup(func() { os.Remove(imdsfs) })
	const mallory = 65534
	user := 1_000_000_000 + os.Getpid() // nobody else's
	dir := fmt.Sprintf("%s/imdsfs-%d", os.TempDir(), user)
	other := fmt.Sprintf("%s/imdsfs-test-%d", os.TempDir(), user)
	for name, c := range map[string]struct {
		prepare func() (socket string)
		root    bool
		args    []string
		want    string
	}{
		"his directory": {func() string {
			asUser(t, mallory, func() error { return os.Mkdir(dir, 0o755) })
			return dir
		}, false, nil, dir + " belongs to uid 65534, neither to root nor to you"},
		"his link": {func() string {
			asUser(t, mallory, func() error { return errors.Join(os.Mkdir(other, 0o755), os.Symlink(other, dir)) })
			return other
		}, false, nil, dir + " is a symbolic link of uid 65534"},
		"our directory, that he can write to": {func() string {
			asUser(t, user, func() error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)) })
			return dir
		}, false, nil, dir + " is writable by others (mode 0777)"},
		"our directory, that he could write to": {func() string {
			asUser(t, user, func() error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o1777)) })
			return dir
		}, false, nil, "a process of uid 65534 answers at " + dir + "/admin.sock: nothing was sent to it"},
		"a link to his socket in our directory": {func() string {
			asUser(t, user, func() error {
				return errors.Join(os.Mkdir(dir, 0o755), os.Symlink(other+"/admin.sock", dir+"/admin.sock"))
			})
			asUser(t, mallory, func() error { return os.Mkdir(other, 0o755) })
			return other
		}, false, nil, dir + "/admin.sock is no socket"},
		"his socket, named with --admin": {func() string {
			asUser(t, mallory, func() error { return os.Mkdir(other, 0o755) })
			return other
		}, false, []string{"--admin", other + "/admin.sock"}, other + " belongs to uid 65534, neither to root nor to you"},
		"his socket in a sticky directory, named with --admin": {func() string {
			must(t, os.Mkdir(other, 0o755), os.Chmod(other, os.ModeSticky|0o777))
			return other
		}, true, []string{"--admin", other + "/admin.sock"}, "a process of uid 65534 answers at " + other + "/admin.sock: nothing was sent to it"},
		"his directory, named by root": {func() string {
			asUser(t, mallory, func() error { return os.Mkdir(other, 0o755) })
			return other
		}, true, []string{"--runtime-dir", other}, other + " belongs to uid 65534, neither to root nor to you"},
	} {
		t.Run(name, func(t *testing.T) {
			clean := func() { os.RemoveAll(dir); os.RemoveAll(other) }
			clean()
			t.Cleanup(clean)
			where := c.prepare()
			r := record(t, where+"/admin.sock", mallory)
			if strings.HasSuffix(name, "could write to") {
				must(t, os.Chmod(dir, 0o755)) // he has put it there before
			}
			for _, command := range [][]string{{"tag", "set", "Name", "hunter2"}, {"status"}, {"upgrade"}} {
				cmd := exec.Command(imdsfs, append(command, c.args...)...)
				cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "HOME=/", "TMPDIR=" + os.TempDir()}, "/"
				if !c.root {
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
				}
				out, err := cmd.CombinedOutput()
				if err == nil || !strings.Contains(string(out), "imdsfs: error: "+c.want+"\n") || !strings.Contains(string(out), "imdsfs: hint: ") {
					t.Errorf("%s: %v %s", command[0], err, out)
				}
			}
			if n := r.bytes.Load(); n > 0 {
				t.Errorf("he got %d bytes", n)
			}
		})
	}
}

// root talks to the daemon of a user to whom it has given a directory, and so does he.
func TestADaemonsOwnerAndRootAreAdmitted(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to be several users")
	base := publicDir(t)
	dir := base + "/run"
	must(t, os.Mkdir(dir, 0o755), os.Chown(dir, 65534, 65534))
	t.Cleanup(func() { os.RemoveAll(dir) })
	record(t, dir+"/admin.sock", 65534)
	for _, uid := range []int{0, 65534} {
		asUser(t, uid, func() error {
			conn, err := rundir.Dial(t.Context(), dir+"/admin.sock")
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
}

func TestTheAddressInAnothersDirectoryIsNotBelieved(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to be several users")
	given := publicDir(t) + "/run"
	dir := fmt.Sprintf("%s/imdsfs-listen-%d", os.TempDir(), os.Getpid())
	t.Setenv("TMPDIR", t.TempDir()) // the directory is not there
	t.Setenv(client.EndpointVariable, "")
	alive := strings.TrimPrefix(serveHTTP(t, answer(200)), "http://")
	asUser(t, 65534, func() error {
		return errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(daemon.ListenFile(dir), []byte(alive+"\n"), 0o644))
	})
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := clientFlags{runtimeDir: dir, timeout: client.DefaultTimeout}
	if _, err := f.client(t.Context()); err == nil || !strings.Contains(err.Error(), dir+" belongs to uid 65534") {
		t.Errorf("named: %v", err)
	}
	// The directory is ours, but the file is a FIFO, or a link of another user.
	must(t, os.Chown(dir, 0, 0), os.Remove(daemon.ListenFile(dir)), unix.Mkfifo(daemon.ListenFile(dir), 0o644))
	if got, err := rundir.Listening(dir); len(got) > 0 || err != nil {
		t.Errorf("a FIFO: %v, %v", got, err)
	}
	must(t, os.Remove(daemon.ListenFile(dir)), os.Symlink("/etc/hostname", daemon.ListenFile(dir)))
	if got, err := rundir.Listening(dir); len(got) > 0 || err != nil {
		t.Errorf("a link: %v, %v", got, err)
	}
	// It is the daemon's, to whom root has given it: everybody believes it.
	must(t, os.Mkdir(given, 0o755), os.WriteFile(daemon.ListenFile(given), []byte(alive+"\n"), 0o644), os.Chown(given, 65534, 65534), os.Chown(daemon.ListenFile(given), 65534, 65534))
	t.Cleanup(func() { os.RemoveAll(given) })
	for _, uid := range []int{0, 65534, 1_000_000_000} {
		asUser(t, uid, func() error {
			got, err := rundir.Listening(given)
			if len(got) != 1 {
				t.Errorf("uid %d: %v", uid, got)
			}
			return err
		})
	}
}

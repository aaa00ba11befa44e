package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	alice    = 61011 // has a folder and an instance file
	rootOnly = "only-root-may-read-this"
)

// A place is a folder of root's and one of alice's, with a secret of root's beside them.
type place struct {
	t                   *testing.T
	roots, hers, secret string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	kit.Require(t, os.Geteuid() == 0, "root, to give files to other users")
	dir, err := os.MkdirTemp("", "imdsfs-test-")
	must(t, err, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &place{t, dir + "/root", dir + "/alice", dir + "/secret"}
	must(t, os.Mkdir(p.roots, 0o755), os.Mkdir(p.hers, 0o755), os.Chown(p.hers, alice, alice),
		os.WriteFile(p.secret, []byte(rootOnly+"\n"), 0o600))
	return p
}

// put replaces a file, as editors do.
func (p *place) put(path string, uid int, text string) string {
	p.t.Helper()
	must(p.t, os.WriteFile(path+".new", []byte(text), 0o644), os.Chown(path+".new", uid, uid), os.Rename(path+".new", path))
	return path
}

func (p *place) link(target, path string, uid int) {
	p.t.Helper()
	must(p.t, os.Symlink(target, path), os.Lchown(path, uid, uid))
}

// refuses starts a daemon that must say what is wrong with the file, and end.
func (p *place) refuses(file string, want ...string) {
	p.t.Helper()
	d := &served{t: p.t, log: &syncBuffer{}, runtime: p.t.TempDir(), exited: make(chan error, 1)}
	d.cmd = exec.Command("imdsfs", "serve", "-c", file, "--listen", "127.0.0.1:0", "--mount", none, "--runtime-dir", d.runtime, "--state-dir", p.t.TempDir())
	d.cmd.Stderr = d.log
	must(p.t, d.cmd.Start())
	go func() { d.exited <- d.cmd.Wait() }()
	p.t.Cleanup(d.kill)
	kit.Eventually(p.t, "ready or refused", func() bool { return d.ended() || strings.Contains(d.log.String(), "msg=ready") })
	if !d.ended() {
		text, err := os.ReadFile(daemon.ListenFile(d.runtime))
		must(p.t, err)
		d.address = strings.TrimSpace(string(text))
		p.t.Fatalf("it serves /latest/user-data: %q", d.ask("GET", "/latest/user-data").body)
	}
	var exit *exec.ExitError
	if err := <-d.exited; !errors.As(err, &exit) || exit.ExitCode() != exitInvalid {
		p.t.Errorf("ended with: %v", err)
	}
	d.exited <- nil
	_, checked, code := check(p.t, file)
	if code != exitInvalid {
		p.t.Errorf("check ends with %d", code)
	}
	for line := range strings.Lines(checked) {
		if !strings.Contains(d.log.String(), line) {
			p.t.Errorf("check alone says: %s", line)
		}
	}
	for _, w := range want {
		if !strings.Contains(d.log.String(), w) {
			p.t.Errorf("it does not say %q:\n%s", w, d.log)
		}
	}
	if strings.Contains(d.log.String()+checked, rootOnly) {
		p.t.Errorf("it tells the secret:\n%s", d.log)
	}
}

func TestAUsersInstanceFileServesNoFileOfRoots(t *testing.T) {
	p := newPlace(t)
	p.link(p.secret, p.hers+"/link", alice)
	file := p.put(p.hers+"/web.toml", alice, "user-data-file = \"link\"\n"+least("", ""))
	p.refuses(file, fmt.Sprintf("web.toml:1: user-data-file: the file that it names is refused: %s/link is a symbolic link of uid %d that leads to a file of uid 0", p.hers, alice))
	p.put(file, alice, "user-data-file = \"../secret\"\n"+least("", ""))
	p.refuses(file, fmt.Sprintf("%s belongs to uid 0 (mode 0600): uid %d, who owns the instance file, may not read it", p.secret, alice), "chown root "+file)
}

func TestRootsInstanceFileFollowsNoLinkOfAUserToAFileOfRoots(t *testing.T) {
	p := newPlace(t)
	p.link(p.secret, p.hers+"/link", alice)
	file := p.put(p.roots+"/web.toml", 0, fmt.Sprintf("user-data-file = %q\n", p.hers+"/link")+least("", ""))
	p.refuses(file, fmt.Sprintf("%s/link is a symbolic link of uid %d that leads to a file of uid 0", p.hers, alice))
}

func TestAUsersInstanceFileHasNoSayInWhatTheDaemonDoes(t *testing.T) {
	p := newPlace(t)
	t.Setenv("IMDSFS_TEST_SECRET", rootOnly)
	file := p.put(p.hers+"/web.toml", alice, least("", "")+`[credentials.web]
type = "static"
access-key-id = "ASIAEXAMPLE"
secret-access-key-env = "IMDSFS_TEST_SECRET"
token = "t"
[server]
listen = ["127.0.0.1:0"]
mount = "none"
allow-from = ["0.0.0.0/0"]
`)
	p.refuses(file, "credentials.web.secret-access-key-env: acts with the daemon's rights", "server.allow-from: acts with the daemon's rights")
}

// A user's file is served, and the daemon's own key stays out of what a change of hers makes of it.
func TestAUsersInstanceFileIsServedWithWhatSheMayRead(t *testing.T) {
	p := newPlace(t)
	script := p.put(p.hers+"/script", alice, "#!/bin/sh\n")
	must(t, os.Chmod(script, 0o600))
	file := p.put(p.hers+"/web.toml", alice, "user-data-file = \"script\"\n"+least("", "")+"[server]\nlisten = [\"127.0.0.1:0\"]\nmount = \"none\"\n")
	d := serve(t, file, false)
	const path = "/latest/user-data"
	if r := d.ask("GET", path); r.body != "#!/bin/sh\n" {
		t.Errorf("user-data: %d %q", r.status, r.body)
	}
	keys, err := filepath.Glob(d.runtime + "/*.key")
	if must(t, err); len(keys) == 0 {
		t.Fatalf("no key in %s", d.runtime)
	}
	p.link(keys[0], p.hers+"/link", alice)
	must(t, os.Rename(p.hers+"/link", script))
	kit.Eventually(t, "a fault", func() bool { return strings.Contains(d.log.String(), "the file that it names is refused: ") })
	if r := d.ask("GET", path); r.body != "#!/bin/sh\n" {
		t.Errorf("user-data: %d %q", r.status, r.body)
	}
	p.put(script, alice, "echo again\n")
	for deadline := time.Now().Add(kit.Patience); d.ask("GET", path).body != "echo again\n"; {
		if time.Now().After(deadline) {
			t.Fatal("the good file is not noticed")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// What a daemon of her own may not do for others, it does for her.
func TestAUsersOwnDaemonTakesHerFileForItsOwn(t *testing.T) {
	p := newPlace(t)
	self, err := os.ReadFile("/proc/self/exe")
	program := filepath.Dir(p.hers) + "/imdsfs"
	must(t, err, os.WriteFile(program, self, 0o755))
	p.put(p.hers+"/key", alice, "hunter2\n")
	must(t, os.Chmod(p.hers+"/key", 0o400))
	const bob = alice + 1
	text := least("", "") + `[credentials.web]
type = "static"
access-key-id = "ASIAEXAMPLE"
secret-access-key-file = "../alice/key"
token-env = "IMDSFS_TEST_SECRET"
[server]
log-level = "debug"
`
	bobs := filepath.Dir(p.hers) + "/bob"
	must(t, os.Mkdir(bobs, 0o755), os.Chown(bobs, bob, bob))
	hers, his := p.put(p.hers+"/web.toml", alice, text), p.put(bobs+"/web.toml", bob, text)
	// With umask 002, as some systems have it, her files are writable for her own group, in which she is alone.
	shared, open := p.put(p.hers+"/shared.toml", alice, text), p.put(p.hers+"/open.toml", alice, text)
	must(t, os.Chmod(hers, 0o664), os.Chmod(shared, 0o664), os.Chown(shared, alice, bob), os.Chmod(open, 0o666))
	for _, test := range []struct {
		uid  uint32
		file string
		want string
	}{
		{alice, hers, ": good"},
		{alice, shared, "this file can be written by others (mode 0664)"},
		{alice, open, "this file can be written by others (mode 0666)"},
		{alice, his, fmt.Sprintf("%s/key belongs to uid %d (mode 0400): uid %d, who owns the instance file, may not read it (name a file that uid %d may read, or check what the instance file says, and then chown root %s)", p.hers, alice, bob, bob, his)},
		{alice, his, "server.log-level: acts with the daemon's rights"},
		{bob, his, "secret-access-key-file: the file that it names cannot be read: permission denied"},
		{0, hers, "token-env: acts with the daemon's rights"},
		{0, his, fmt.Sprintf("and then chown root %s)", his)},
	} {
		cmd := exec.Command(program, "check", test.file)
		cmd.Env = append(os.Environ(), "IMDSFS_TEST_SECRET="+rootOnly)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.uid, Gid: test.uid}}
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), test.want) || (err == nil) != strings.HasSuffix(test.want, ": good") {
			t.Errorf("uid %d checks %s: %v\n%s\nwant %q", test.uid, test.file, err, out, test.want)
		}
		if strings.Contains(string(out), "hunter2") || strings.Contains(string(out), rootOnly) {
			t.Errorf("it tells the secret:\n%s", out)
		}
	}
}

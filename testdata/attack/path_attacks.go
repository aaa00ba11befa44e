package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A trapdoor is a directory of mallory with what he needs for one attack, and a directory of root outside of it that must
// not change.
type trapdoor struct {
	w             *world
	mine, outside string
	before        string
}

var trapdoors atomic.Int32

func (w *world) trapdoor() (*trapdoor, error) {
	n := trapdoors.Add(1)
	t := &trapdoor{w: w, mine: fmt.Sprintf("%s/t%d", home, n), outside: fmt.Sprintf("%s/t%d", outside, n)}
	if err := first(os.Mkdir(t.mine, 0o755), os.Chown(t.mine, mallory, mallory),
		os.MkdirAll(t.outside+"/sub", 0o700), os.WriteFile(t.outside+"/file", []byte(rootSecret), 0o600), os.WriteFile(t.outside+"/m", []byte(rootSecret), 0o600), os.Chmod(t.outside, 0o755)); err != nil {
		return nil, err
	}
	t.before = listing(t.outside)
	return t, nil
}

// unchanged checks that nothing outside has changed and nothing is mounted there.
func (t *trapdoor) unchanged() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), t.outside) {
		return fmt.Errorf("something is mounted below %s", t.outside)
	}
	if after := listing(t.outside); after != t.before {
		return fmt.Errorf("what is outside has changed:\n%s", difference(t.before, after))
	}
	return nil
}

// attempt starts a daemon, which may refuse to start, and stops it. between, if not nil, is called while it runs.
func (t *trapdoor) attempt(between func() error, flags ...string) error {
	d, err := t.w.launch(how{}, instance(mainID, ""), append([]string{"--listen", "127.0.0.1:0"}, flags...)...)
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.ready(); errors.Is(err, errEnded) {
		if strings.Contains(d.log.String(), "panic") || !strings.Contains(d.log.String(), "imdsfs: error: ") {
			return fmt.Errorf("no good refusal: %s", d.log)
		}
		return nil
	} else if err != nil {
		return err
	}
	if err := t.unchanged(); err != nil {
		return err
	}
	if between != nil {
		return between()
	}
	return nil
}

var pathAttacks = []attack{
	{name: "a link above the mount point", by: user, tries: "`--mount DIR/m`, where DIR is his symbolic link to a directory of root's", holds: "refused, or mounted in his own; nothing outside changes", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		os.Remove(t.outside + "/m")
		t.before = listing(t.outside)
		return first(w.allowed(mallory, "ln -s "+t.outside+" "+t.mine+"/d"), t.attempt(nil, "--mount", t.mine+"/d/m"), t.unchanged())
	}},
	{name: "a link as the mount point", by: user, tries: "`--mount` on his symbolic link to a directory, a file, and to itself", holds: "refused; nothing outside changes", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "cd "+t.mine+" && ln -s "+t.outside+"/sub d && ln -s "+t.outside+"/file f && ln -s l l"); err != nil {
			return err
		}
		for _, name := range []string{"d", "f", "l", "d/x"} {
			if err := first(t.attempt(nil, "--mount", t.mine+"/"+name), t.unchanged()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}},
	{name: "exchanging a directory while root mounts", by: user, tries: "`renameat2(RENAME_EXCHANGE)` of a directory above the mount point and a link to one of root's, in a loop, while a daemon starts and stops for 10 s", holds: "nothing outside is mounted on, made, removed, or changed in its mode", slow: true, run: func(w *world) error { return exchange(w, 10*time.Second) }},
	{name: "exchanging a directory, briefly", by: user, tries: "the same for a second", holds: "the same", run: func(w *world) error { return exchange(w, time.Second) }},
	{name: "a mount point in /tmp", by: user, tries: "`--mount /tmp/DIR/m`, where DIR is his, or his link to a directory of root's", holds: "refused, or nothing outside changes; a DIR of root's is fine", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "mkdir /tmp/his && ln -s "+t.outside+" /tmp/link"); err != nil {
			return err
		}
		defer os.RemoveAll("/tmp/his")
		defer os.Remove("/tmp/link")
		err = t.attempt(func() error { return w.allowed(mallory, "mv /tmp/his /tmp/his2 && ln -s "+t.outside+" /tmp/his") }, "--mount", "/tmp/his/m")
		w.sh(0, "umount -l /tmp/his2/m; rm -rf /tmp/his /tmp/his2")
		if err := first(err, t.unchanged(), t.attempt(nil, "--mount", "/tmp/link/x"), t.unchanged()); err != nil {
			return err
		}
		d, err := w.serve(instance(mainID, ""), "--listen", "none", "--mount", "/tmp/roots")
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		defer d.stop()
		return w.refused(mallory, "mv /tmp/roots /tmp/x", "rmdir /tmp/roots")
	}},
	{name: "a file in the place of the mount point at the stop", by: user, tries: "`mv` of a directory above and a link to one of root's, in which the mount point's name is a file, before the daemon stops", holds: "the file is still there", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "mkdir "+t.mine+"/d"); err != nil {
			return err
		}
		err = t.attempt(func() error {
			return w.allowed(mallory, "cd "+t.mine+" && mv d d2 && ln -s "+t.outside+" d")
		}, "--mount", t.mine+"/d/m")
		w.sh(0, "umount -l "+t.mine+"/d2/m")
		return first(err, t.unchanged())
	}},
	{name: "a log that is a link", by: user, tries: "`-o log=FILE`, his symbolic link to a file of root's", holds: "refused, nothing is appended", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		return first(w.allowed(mallory, "ln -s "+t.outside+"/file "+t.mine+"/log"), t.mountAndUnmount("log="+t.mine+"/log"), t.unchanged())
	}},
	{name: "a log behind a link", by: user, tries: "`-o log=DIR/file`, where DIR is his symbolic link to a directory of root's; a hard link of his in the place of the log", holds: "refused, nothing is appended or made", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		return first(w.allowed(mallory, "ln -s "+t.outside+" "+t.mine+"/d"), t.mountAndUnmount("log="+t.mine+"/d/file"), t.unchanged(), t.mountAndUnmount("log="+t.mine+"/d/new"), t.unchanged())
	}},
	{name: "a log that is a FIFO", by: user, tries: "`-o log=FILE`, his FIFO that nobody reads", holds: "mount(8) comes back at once", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		return first(w.allowed(mallory, "mkfifo "+t.mine+"/log"), t.mountAndUnmount("log="+t.mine+"/log"))
	}},
	{name: "a run-time directory that is a link", by: user, tries: "`--runtime-dir` and `--state-dir` on his symbolic link to a directory of root's, and below one", holds: "refused; nothing outside changes", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "ln -s "+t.outside+" "+t.mine+"/d"); err != nil {
			return err
		}
		good := w.dir()
		for _, flags := range [][]string{
			{"--runtime-dir", t.mine + "/d", "--state-dir", good + "/s"},
			{"--runtime-dir", t.mine + "/d/new", "--state-dir", good + "/s"},
			{"--runtime-dir", good + "/r", "--state-dir", t.mine + "/d"},
			{"--runtime-dir", good + "/r", "--state-dir", t.mine + "/d/new"},
		} {
			if err := first(t.attempt(nil, append(flags, "--mount", "none")...), t.unchanged()); err != nil {
				return fmt.Errorf("%v: %w", flags[:4], err)
			}
		}
		return nil
	}},
	{name: "a run-time directory of somebody else", by: user, tries: "`--runtime-dir` and `--state-dir` in a directory of his, one that all can write, one of his own with a key in it", holds: "refused, his key is not used", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "cd "+t.mine+" && mkdir -m 777 open && mkdir -m 700 own && head -c 32 /dev/zero >own/token.key"); err != nil {
			return err
		}
		for _, dir := range []string{"open", "own"} {
			for _, flags := range [][]string{{"--runtime-dir", t.mine + "/" + dir, "--state-dir", w.dir() + "/s"}, {"--runtime-dir", w.dir() + "/r", "--state-dir", t.mine + "/" + dir}} {
				if err := t.mustRefuse(append(flags, "--mount", "none")...); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{name: "the admin socket's place", by: user, tries: "`--admin` where a file, a link or a directory of his is", holds: "refused; nothing outside changes", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.allowed(mallory, "cd "+t.mine+" && ln -s "+t.outside+"/file link && ln -s "+t.outside+"/new new && mkdir dir && echo x >file"); err != nil {
			return err
		}
		for _, name := range []string{"link", "new", "dir", "file"} {
			if err := first(t.mustRefuse("--admin", t.mine+"/"+name, "--mount", "none"), t.unchanged()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}},
	{name: "a file of the run-time directory that is none", by: bad, tries: "token.key, inode.key, listen and daemon.lock as a link, a FIFO, an empty file, a directory in the run-time directory", holds: "refused or replaced; it does not hang, nothing outside changes", run: func(w *world) error {
		for _, key := range []string{"token.key", "inode.key", "listen", "daemon.lock"} {
			for _, make := range []string{"ln -s OUTSIDE/file KEY", "mkfifo KEY", ": >KEY", "mkdir KEY", "ln -s OUTSIDE/new KEY"} {
				t, err := w.trapdoor()
				if err != nil {
					return err
				}
				dir := w.dir()
				line := strings.NewReplacer("OUTSIDE", t.outside, "KEY", dir+"/r/"+key).Replace(make)
				if err := first(w.allowed(0, "mkdir -m 755 "+dir+"/r && "+line), t.attempt(nil, "--runtime-dir", dir+"/r", "--state-dir", dir+"/s", "--mount", dir+"/m"), t.unchanged()); err != nil {
					return fmt.Errorf("%s: %w", line, err)
				}
			}
		}
		return nil
	}},
}

// mustRefuse starts a daemon that must not start.
func (t *trapdoor) mustRefuse(flags ...string) error {
	d, err := t.w.launch(how{}, instance(mainID, ""), append([]string{"--listen", "127.0.0.1:0"}, flags...)...)
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.ready(); !errors.Is(err, errEnded) {
		return fmt.Errorf("%v: not refused: %w", flags, err)
	}
	return nil
}

// mountAndUnmount calls the helper of mount(8) with an option, at a good place.
func (t *trapdoor) mountAndUnmount(option string) error {
	dir := t.w.dir()
	file := dir + "/instance.toml"
	if err := os.WriteFile(file, []byte(instance(mainID, "")), 0o600); err != nil {
		return err
	}
	begin := time.Now()
	out, err := t.w.as(0, helper, file, dir+"/m", "-o", "listen=none,runtime-dir="+dir+"/r,state-dir="+dir+"/s,"+option)
	if err == nil {
		unix.Unmount(dir+"/m", unix.MNT_DETACH) // ends the daemon
	}
	if took := time.Since(begin); took > 20*time.Second || errors.Is(err, errHangs) {
		return fmt.Errorf("%s: it took %v: %s", option, took, out)
	}
	return nil
}

// exchange lets mallory swap a directory and a link while a daemon starts and stops.
func exchange(w *world, howLong time.Duration) error {
	t, err := w.trapdoor()
	if err != nil {
		return err
	}
	os.Remove(t.outside + "/m")
	t.before = listing(t.outside)
	if err := w.allowed(mallory, "cd "+t.mine+" && mkdir d && ln -s "+t.outside+" l"); err != nil {
		return err
	}
	cmd := exec.Command(actor, "act", "exchange", t.mine+"/d", t.mine+"/l", "60000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for begin := time.Now(); time.Since(begin) < howLong; {
		err := t.attempt(nil, "--mount", t.mine+"/d/m")
		w.sh(0, "umount -l "+t.mine+"/d/m "+t.mine+"/l/m "+t.outside+"/m")
		if err := first(err, t.unchanged()); err != nil {
			return err
		}
	}
	return nil
}

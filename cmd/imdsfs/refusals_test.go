package main

import (
	"io"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestASecondDaemonIsRefusedByName(t *testing.T) {
	s := newTierSite(t)
	d := s.start()
	for _, c := range []struct{ runtime, state, said, hint string }{
		{s.runtime, s.state, "an imdsfs is already running with the run-time directory " + s.runtime, "stop it first, or give this one a --runtime-dir of its own"},
		{s.base + "/run2", s.state, s.state + " is the state directory of a running imdsfs", "stop that first, or give this one a --state-dir of its own"},
		{s.base + "/run2", s.base + "/state2", "mount " + s.mount + ": already served by a running imdsfs: with another run-time directory", "stop that one (umount -l if there is none), or choose another directory with --mount"},
	} {
		want := "imdsfs: error: " + c.said + "\nimdsfs: hint: " + c.hint + "\n"
		if said := s.refused("--runtime-dir", c.runtime, "--state-dir", c.state); said != want {
			t.Errorf("said\n%swant\n%s", said, want)
		}
	}
	s.expect(s.mount+tier, "gold")
	s.end(d)
}

func TestWhatCannotBeMountedOnIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		setUp      func(s *site)
		said, hint string // MOUNT and BASE stand for the site's
	}{
		"a file": {
			func(s *site) { os.WriteFile(s.mount, nil, 0o600) },
			"mount MOUNT: not a directory", "remove it, or choose another directory with --mount",
		},
		"a symbolic link": {
			func(s *site) { os.Symlink(s.mustMkdir("real"), s.mount) },
			"mount MOUNT: not a directory", "remove it, or choose another directory with --mount",
		},
		"a missing parent": {
			func(s *site) { s.mount = s.base + "/missing/metadata" },
			"mount MOUNT: there is no directory to make it in: BASE/missing", "create it first, or choose another directory with --mount",
		},
		"a directory that holds something": {
			func(s *site) { s.mustMkdir("metadata/afterburn") },
			`mount MOUNT: the directory is not empty: it holds "afterburn"`, "move away what is in it, or choose another directory with --mount",
		},
		"somebody else's mount": {
			func(s *site) {
				if err := unix.Mount("theirs", s.mustMkdir("metadata"), "tmpfs", 0, ""); err != nil {
					s.t.Fatal(err)
				}
				s.t.Cleanup(func() { unix.Unmount(s.mount, 0) })
			},
			"mount MOUNT: something else is mounted there: theirs of type tmpfs", "unmount that first, or choose another directory with --mount",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTierSite(t)
			c.setUp(s)
			put := strings.NewReplacer("MOUNT", s.mount, "BASE", s.base)
			want := "imdsfs: error: " + put.Replace(c.said) + "\nimdsfs: hint: " + put.Replace(c.hint) + "\n"
			if said := s.refused(); said != want {
				t.Errorf("said\n%swant\n%s", said, want)
			}
			// What is mounted there may go by itself.
			if passes := name == "somebody else's mount"; passes != (s.code == exitFailed) {
				t.Errorf("it ended with %d", s.code)
			}
		})
	}
}

func TestDirectoriesAndFilesThatWillNotDoAreRefusedByName(t *testing.T) {
	write := func(s *site, name, text string) string {
		path := s.base + "/" + name
		must(s.t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	open := func(s *site, name string) string {
		dir := s.mustMkdir(name)
		must(s.t, os.Chmod(dir, 0o777))
		return dir
	}
	theirs := func(s *site, name string) string {
		dir := s.mustMkdir(name)
		must(s.t, os.Chown(dir, 65534, 65534))
		return dir
	}
	spoilt := func(s *site, name, file string) string {
		dir := s.mustMkdir(name)
		write(s, name+"/"+file, "nonsense")
		return dir
	}
	for name, c := range map[string]struct {
		setUp func(s *site) (flag, value string)
		want  string // VALUE stands for the flag's
	}{
		"run-time directory is a file": {
			func(s *site) (string, string) { return "--runtime-dir", write(s, "f", "") },
			"error: open VALUE: not a directory\nimdsfs: hint: choose another with --runtime-dir\n",
		},
		"run-time directory of another user": {
			func(s *site) (string, string) { return "--runtime-dir", theirs(s, "d") },
			"error: run-time directory: VALUE belongs to uid 65534\nimdsfs: hint: name another with --runtime-dir, which only you can change; or, if a daemon of another user left it, stop that and remove it\n",
		},
		"run-time directory open to others": {
			func(s *site) (string, string) { return "--runtime-dir", open(s, "d") },
			"error: run-time directory: VALUE is writable by others (mode 0777)\nimdsfs: hint: name another with --runtime-dir, which only you can change; or, if a daemon of another user left it, stop that and remove it\n",
		},
		"run-time directory with a link for a lock": {
			func(s *site) (string, string) {
				must(s.t, os.Symlink("elsewhere", s.mustMkdir("d")+"/daemon.lock"))
				return "--runtime-dir", s.base + "/d"
			},
			"error: open VALUE/daemon.lock: too many levels of symbolic links\nimdsfs: hint: choose another with --runtime-dir\n",
		},
		"run-time directory with a spoilt key": {
			func(s *site) (string, string) { return "--runtime-dir", spoilt(s, "d", "inode.key") },
			"error: VALUE/inode.key holds 8 bytes instead of 32: remove it, a new one is made\n",
		},
		"state directory is a file": {
			func(s *site) (string, string) { return "--state-dir", write(s, "f", "") },
			"error: open VALUE: not a directory\nimdsfs: hint: choose another with --state-dir\n",
		},
		"state directory open to others": {
			func(s *site) (string, string) { return "--state-dir", open(s, "d") },
			"error: state directory: VALUE is writable by others (mode 0777)\nimdsfs: hint: name another with --state-dir, which only you can change; or, if a daemon of another user left it, stop that and remove it\n",
		},
		"no instance file": {
			func(s *site) (string, string) { return "-c", s.base + "/missing.toml" },
			"error: instance file VALUE: no such file or directory\nimdsfs: hint: give another file with -c\n",
		},
		"a directory for an instance file": {
			func(s *site) (string, string) { return "-c", s.mustMkdir("d") },
			"error: instance file VALUE: not a regular file\nimdsfs: hint: give another file with -c\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTierSite(t)
			flag, value := c.setUp(s)
			if said, want := s.refused(flag, value), "imdsfs: "+strings.ReplaceAll(c.want, "VALUE", value); said != want {
				t.Errorf("said\n%swant\n%s", said, want)
			}
			if s.code != exitInvalid && name != "run-time directory with a spoilt key" && name != "run-time directory with a link for a lock" {
				t.Errorf("it ended with %d", s.code)
			}
			if s.made() {
				t.Error("it made the mount point")
			}
		})
	}
}

// A tarpit is a filesystem that answers nothing, not even when the reader is killed.
type tarpit struct {
	fuse.RawFileSystem
	drained chan struct{}
}

func (p tarpit) wait() fuse.Status { <-p.drained; return fuse.EIO }

func (p tarpit) GetAttr(<-chan struct{}, *fuse.GetAttrIn, *fuse.AttrOut) fuse.Status { return p.wait() }
func (p tarpit) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status                  { return p.wait() }
func (p tarpit) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status { return p.wait() }
func (p tarpit) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status    { return p.wait() }
func (p tarpit) Lookup(<-chan struct{}, *fuse.InHeader, string, *fuse.EntryOut) fuse.Status {
	return p.wait()
}

// mountTarpit mounts one until the end of the test; name is what mountinfo calls it.
func (s *site) mountTarpit(dir, name string) {
	s.t.Helper()
	p := tarpit{fuse.NewDefaultRawFileSystem(), make(chan struct{})}
	server, err := fuse.NewServer(p, dir, &fuse.MountOptions{FsName: name, Name: name, DirectMountStrict: true, Logger: log.New(io.Discard, "", 0)})
	if err != nil {
		s.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve() }()
	s.t.Cleanup(func() {
		close(p.drained)
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
			s.t.Error(err)
		}
		<-served
	})
}

// TestAHungFilesystemHangsNoDaemon: a process that accesses one cannot be killed, so the daemon does not access it.
func TestAHungFilesystemHangsNoDaemon(t *testing.T) {
	for name, c := range map[string]struct {
		fsname, mount, want string // mount is relative to the hung one
	}{
		"below one":               {"nfs-that-is-gone", "/a/metadata", "mount MOUNT: the path does not answer"},
		"in one":                  {"nfs-that-is-gone", "/metadata", "mount MOUNT: the path does not answer"},
		"on one":                  {"nfs-that-is-gone", "", "mount MOUNT: something else is mounted there: nfs-that-is-gone of type fuse.nfs-that-is-gone"},
		"on one that looks as we": {"imdsfs", "", "mount MOUNT: already served by a running imdsfs: with another run-time directory, and it does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTierSite(t)
			hung := s.mustMkdir("hung")
			s.mountTarpit(hung, c.fsname)
			s.mount = hung + c.mount
			said := s.refused()
			if want := "imdsfs: error: " + strings.ReplaceAll(c.want, "MOUNT", s.mount) + "\nimdsfs: hint: "; !strings.HasPrefix(said, want) {
				t.Errorf("said\n%swant\n%s", said, want)
			}
			if c.mount == "" && c.fsname != "imdsfs" {
				return // refused by the kernel's list alone
			}
			d := s.launch()
			kit.Eventually(t, "a child looks at the path", func() bool {
				if d.ended() { // before we came to look
					d = s.launch()
				}
				return len(childrenWith(d.cmd.Process.Pid, "imdsfs-probe\x00")) > 0
			})
			start := time.Now()
			d.kill()
			if took := time.Since(start); took > promised {
				t.Errorf("SIGKILL took %v", took)
			}
		})
	}
}

package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A helped is a mount that root has made for nobody, and keeps for him.
type helped struct {
	t            *testing.T
	dir, runtime string
	keeper       *shelf
}

func newHelped(t *testing.T) *helped {
	t.Helper()
	requireMount(t)
	was := rootClaims
	rootClaims = t.TempDir() + "/claims"
	t.Cleanup(func() { rootClaims = was })
	h := &helped{t, filepath.Join(t.TempDir(), "mnt"), t.TempDir(), newShelf(t)}
	if err := os.Chown(h.runtime, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, h.dir)
	h.mount()
	return h
}

func (h *helped) mount() {
	h.t.Helper()
	mounted, err := MountFor(Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody)
	if err != nil || !mounted {
		h.t.Fatalf("mounted %v, %v", mounted, err)
	}
}

// abandon lets go of what is kept: the mount is dead then.
func (h *helped) abandon(names ...string) {
	for _, name := range names {
		h.keeper.Drop(name)
	}
}

func (h *helped) claims() []string {
	found, _ := filepath.Glob(rootClaims + "/*")
	return found
}

// forced runs a test with what newer kernels tell of a mount, and without.
func forced(t *testing.T, test func(t *testing.T)) {
	t.Run("as it is", test)
	wasUnique, wasID := uniqueID, mountID
	defer func() { uniqueID, mountID = wasUnique, wasID }()
	uniqueID = func(*os.File) uint64 { return 0 }
	t.Run("before Linux 6.8", test)
	mountID = mountIDOfProc
	t.Run("before Linux 5.8", test)
	mountID = func(*os.File) (string, error) { return "", unix.EACCES }
	t.Run("before Linux 5.14, of an ordinary user", test)
}

func TestRootCleansUpAfterTheDaemonOfAnother(t *testing.T) {
	forced(t, func(t *testing.T) {
		h := newHelped(t)
		if found, _ := filepath.Glob(h.runtime + "/*"); len(found) > 0 {
			t.Errorf("root wrote into the directory of another user: %v", found)
		}
		if mounted, err := MountFor(Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
			t.Errorf("while it is kept: mounted %v, %v", mounted, err)
		}
		if err := CleanUp(h.dir, h.runtime, MayLive); !errors.Is(err, ErrServed) || !isMounted(t, h.dir) {
			t.Errorf("while it is kept: %v, mounted %v", err, isMounted(t, h.dir))
		}
		dirs, err := Mounts(h.runtime)
		if err != nil || len(dirs) != 1 || dirs[0] != h.dir {
			t.Errorf("claimed: %v, %v", dirs, err)
		}
		if dirs, err := Mounts(t.TempDir()); err != nil || len(dirs) > 0 {
			t.Errorf("claimed with another run-time directory: %v, %v", dirs, err)
		}
		other := t.TempDir()
		if err := os.Chown(other, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		if mounted, err := MountFor(Config{Dir: h.dir, RuntimeDir: other, Keeper: h.keeper}, nobody, nobody); mounted || !errors.Is(err, ErrServed) {
			t.Errorf("for another run-time directory: mounted %v, %v", mounted, err)
		}
		h.abandon(keptLock, KeptDevice)
		if err := CleanUp(h.dir, other, EndedForGood); err != nil || !isMounted(t, h.dir) {
			t.Errorf("for another run-time directory: %v, mounted %v", err, isMounted(t, h.dir))
		}
		if err := CleanUp(h.dir, h.runtime, MayLive); err != nil {
			t.Error(err)
		}
		h.gone()
	})
}

// An upgrade may give the run-time directory of a running daemon another name.
func TestAMountIsKeptForARunTimeDirectoryThatWasMoved(t *testing.T) {
	h := newHelped(t)
	moved := t.TempDir() + "/moved"
	if err := os.Rename(h.runtime, moved); err != nil {
		t.Fatal(err)
	}
	if mounted, err := MountFor(Config{Dir: h.dir, RuntimeDir: moved, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
		t.Errorf("mounted %v, %v", mounted, err)
	}
	h.abandon(keptLock, KeptDevice)
	if dirs, err := Mounts(moved); err != nil || len(dirs) != 1 {
		t.Errorf("claimed: %v, %v", dirs, err)
	}
	if err := CleanUp(h.dir, moved, MayLive); err != nil {
		t.Error(err)
	}
	h.gone()
}

func (h *helped) gone() {
	h.t.Helper()
	if isMounted(h.t, h.dir) {
		h.t.Error("it is still mounted")
	}
	if _, err := os.Lstat(h.dir); !os.IsNotExist(err) {
		h.t.Errorf("the directory is left: %v", err)
	}
	if left := h.claims(); len(left) > 0 {
		h.t.Errorf("claims are left: %v", left)
	}
}

// A process that hangs in the mount holds the device: the mount does not die with its daemon, and does not answer.
func TestOnlyTheMountThatTheClaimTellsOfIsForced(t *testing.T) {
	forced(t, func(t *testing.T) {
		h := newHelped(t)
		h.abandon(keptLock)
		if err := CleanUp(h.dir, h.runtime, MayLive); !errors.Is(err, ErrServed) {
			t.Errorf("without force: %v", err)
		}
		if !isMounted(t, h.dir) {
			t.Fatal("a mount that does not answer was taken off without force")
		}
		if err := CleanUp(h.dir, h.runtime, EndedForGood); err != nil {
			t.Error(err)
		}
		h.abandon(KeptDevice)
		h.gone()
	})
}

// A child that the daemon has left behind holds the lock as well.
func TestWhatADaemonLeavesBehindKeepsNoMount(t *testing.T) {
	forced(t, func(t *testing.T) {
		h := newHelped(t)
		if err := CleanUp(h.dir, h.runtime, EndedForGood); err != nil {
			t.Error(err)
		}
		h.gone()
		h.abandon(keptLock, KeptDevice)
		h.mount() // the next one is not held up
		h.abandon(keptLock, KeptDevice)
		if err := CleanUp(h.dir, h.runtime, MayLive); err != nil {
			t.Error(err)
		}
		h.gone()
	})
}

// The claim is of a daemon that was killed. Its mount has ended, and the one that is there now is of another daemon.
func TestAStaleClaimTakesNoMountAway(t *testing.T) {
	requireMount(t)
	h := newHelped(t)
	stale, err := os.ReadFile(h.claims()[0])
	if err != nil {
		t.Fatal(err)
	}
	name := h.claims()[0]
	h.abandon(keptLock, KeptDevice)
	if err := CleanUp(h.dir, h.runtime, MayLive); err != nil {
		t.Fatal(err)
	}
	d, err := Mount(Config{Dir: h.dir, RuntimeDir: t.TempDir()}, build(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unmount()
	if err := os.WriteFile(name, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CleanUp(h.dir, h.runtime, EndedForGood); err != nil {
		t.Errorf("%v", err)
	}
	if got, err := read(h.dir + "/latest/meta-data/mac"); got != standard["meta-data/mac"] || err != nil {
		t.Errorf("the other daemon's mount shows %q, %v", got, err)
	}
	if left := h.claims(); len(left) > 0 {
		t.Errorf("claims are left: %v", left)
	}
}

// An older version kept its lock in the run-time directory of the daemon.
func TestAMountThatAnOlderVersionKeepsIsLeftAlone(t *testing.T) {
	h := newHelped(t)
	h.abandon(keptLock, KeptDevice)
	if err := CleanUp(h.dir, h.runtime, MayLive); err != nil {
		t.Fatal(err)
	}
	old, err := os.Create(filepath.Join(h.runtime, claimName(h.dir)))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := unix.Flock(int(old.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if mounted, err := MountFor(Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
		t.Errorf("mounted %v, %v", mounted, err)
	}
	old.Close()
	h.mount()
	h.abandon(keptLock, KeptDevice)
	if err := CleanUp(h.dir, h.runtime, MayLive); err != nil {
		t.Error(err)
	}
}

func TestClaimFilesOfOthersAreRefused(t *testing.T) {
	requireMount(t)
	dir := t.TempDir()
	for name, put := range map[string]func(path string) error{
		"a link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a FIFO": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a hard link": func(path string) error {
			return errors.Join(os.WriteFile(dir+"/x", nil, 0o600), os.Link(dir+"/x", path))
		},
		"of nobody's": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, nobody, nobody))
		},
		"a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"a short text": func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
	} {
		c, err := openClaim("/mnt/x", dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := put(c.path()); err != nil {
			t.Fatal(err)
		}
		err = c.acquire(true)
		if good := name == "a short text"; good != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if c.text.Made || c.text.Mount != nil {
			t.Errorf("%s: it says %+v", name, c.text)
		}
		c.close()
		os.RemoveAll(c.path())
	}
}

// Whoever waits for the lock of a claim that is being released gets the next one, not the one that is gone.
func TestALockIsOfTheFileThatHasTheName(t *testing.T) {
	dir := t.TempDir()
	first, err := openClaim("/mnt/x", dir, 0)
	if err == nil {
		err = first.acquire(true)
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := openClaim("/mnt/x", dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	if err := second.acquire(true); !errors.Is(err, ErrServed) {
		t.Fatalf("the lock is had twice: %v", err)
	}
	gone, err := os.Open(first.path())
	if err == nil {
		err = first.release()
	}
	if err != nil {
		t.Fatal(err)
	}
	if locked, err := second.try(gone); locked || err != nil {
		t.Errorf("locked what is gone: %v, %v", locked, err)
	}
	gone.Close()
	if err := second.acquire(true); err != nil {
		t.Error(err)
	}
}

func FuzzClaim(f *testing.F) {
	f.Add([]byte("made\n"))
	f.Add([]byte(`{"runtime-dir":"/run/imdsfs","dir":"/run/metadata","uid":1,"made":true,"mount":{"unique":1,"id":"1","device":"0:1"}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		said, ok := parseClaim(text)
		if ok && (!filepath.IsAbs(said.Dir) || !filepath.IsAbs(said.RuntimeDir)) {
			t.Errorf("%q is believed: %+v", text, said)
		}
	})
}

// A record crosses from one process to the next; FuzzInherit is about one that is none.
func FuzzInherit(f *testing.F) {
	var good bytes.Buffer
	gob.NewEncoder(&good).Encode(mountRecord{Format: format, Dir: "/run/metadata", Number: "0:1", Init: make([]byte, 104)})
	f.Add(good.Bytes(), []byte("x"), uint8(1))
	f.Add([]byte{}, []byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, mount, tree []byte, number uint8) {
		file := func(text []byte, head int) *os.File {
			fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			r := os.NewFile(uintptr(fd), "record")
			sum := sha256.Sum256(text)
			r.Write(append(append(make([]byte, head), sum[:]...), text...))
			return r
		}
		device, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		pre := Inherit(map[string]*os.File{KeptDevice: device, keptMount: file(mount, counterSize), treeName(uint64(number)): file(tree, 0)})
		if pre == nil {
			t.Fatal("the device was not taken")
		}
		if pre.err == nil && pre.mount == nil && pre.record != nil {
			t.Error("a record that says nothing was taken for a good one")
		}
		pre.drop(nil)
	})
}

// What a daemon with fewer rights has kept, root does not act on.
func TestRecordsOfAnotherUserAreNotBelieved(t *testing.T) {
	requireMount(t)
	e := newEstate(t, build(t, nil))
	e.kill()
	kept := e.keeper.take()
	if err := kept[keptMount].Chown(nobody, nobody); err != nil {
		t.Fatal(err)
	}
	pre := Inherit(kept)
	if pre.mount != nil || pre.err == nil || !strings.Contains(pre.err.Error(), fmt.Sprintf("kept by uid %d", nobody)) {
		t.Errorf("inherited %+v, %v", pre.mount, pre.err)
	}
	e.mount(build(t, nil), pre)
	if e.door.Resumed() {
		t.Error("it was gone on with")
	}
}

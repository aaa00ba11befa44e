package mountpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"golang.org/x/sys/unix"
)

// A rootsMount is a mount that root has made for the user nobody, and keeps for that user's daemon.
type rootsMount struct {
	t            *testing.T
	dir, runtime string
	keeper       *memoryKeeper
}

func newRootsMount(t *testing.T) *rootsMount {
	t.Helper()
	kit.RequireMount(t)
	was := *mountpoint.RootClaims
	*mountpoint.RootClaims = t.TempDir() + "/claims"
	t.Cleanup(func() { *mountpoint.RootClaims = was })
	h := &rootsMount{t, filepath.Join(t.TempDir(), "mnt"), t.TempDir(), newKeeper(t)}
	if err := os.Chown(h.runtime, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, h.dir)
	h.mount()
	return h
}

func (h *rootsMount) mount() {
	h.t.Helper()
	mounted, err := fs.MountFor(fs.Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody)
	if err != nil || !mounted {
		h.t.Fatalf("mounted %v, %v", mounted, err)
	}
}

// drop lets go of what is kept. Without its device the mount is dead.
func (h *rootsMount) drop(names ...string) {
	for _, name := range names {
		h.keeper.Drop(name)
	}
}

func (h *rootsMount) claims() []string {
	found, _ := filepath.Glob(*mountpoint.RootClaims + "/*")
	return found
}

// onOlderKernels runs a test with what the kernel tells of a mount, and with what older kernels told.
func onOlderKernels(t *testing.T, test func(t *testing.T)) {
	t.Run("as it is", test)
	wasUnique, wasID := *mountpoint.UniqueID, *mountpoint.MountID
	defer func() { *mountpoint.UniqueID, *mountpoint.MountID = wasUnique, wasID }()
	*mountpoint.UniqueID = func(*os.File) uint64 { return 0 }
	t.Run("before Linux 6.8", test)
	*mountpoint.MountID = mountpoint.MountIDOfProc
	t.Run("before Linux 5.8", test)
	*mountpoint.MountID = func(*os.File) (string, error) { return "", unix.EACCES }
	t.Run("before Linux 5.14, of an ordinary user", test)
}

func TestRootCleansUpAfterTheDaemonOfAnother(t *testing.T) {
	onOlderKernels(t, func(t *testing.T) {
		h := newRootsMount(t)
		if found, _ := filepath.Glob(h.runtime + "/*"); len(found) > 0 {
			t.Errorf("root wrote into the directory of another user: %v", found)
		}
		if mounted, err := fs.MountFor(fs.Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
			t.Errorf("while it is kept: mounted %v, %v", mounted, err)
		}
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); !errors.Is(err, mountpoint.ErrServed) || !isMounted(t, h.dir) {
			t.Errorf("while it is kept: %v, mounted %v", err, isMounted(t, h.dir))
		}
		dirs, err := mountpoint.Mounts(h.runtime)
		if err != nil || len(dirs) != 1 || dirs[0] != h.dir {
			t.Errorf("claimed: %v, %v", dirs, err)
		}
		if dirs, err := mountpoint.Mounts(t.TempDir()); err != nil || len(dirs) > 0 {
			t.Errorf("claimed with another run-time directory: %v, %v", dirs, err)
		}
		other := t.TempDir()
		if err := os.Chown(other, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		if mounted, err := fs.MountFor(fs.Config{Dir: h.dir, RuntimeDir: other, Keeper: h.keeper}, nobody, nobody); mounted || !errors.Is(err, mountpoint.ErrServed) {
			t.Errorf("for another run-time directory: mounted %v, %v", mounted, err)
		}
		h.drop(lockName, fs.KeptDevice)
		if err := mountpoint.CleanUp(h.dir, other, mountpoint.EndedForGood); err != nil || !isMounted(t, h.dir) {
			t.Errorf("for another run-time directory: %v, mounted %v", err, isMounted(t, h.dir))
		}
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); err != nil {
			t.Error(err)
		}
		h.gone()
	})
}

// An upgrade may give the run-time directory of a running daemon another name.
func TestAMountIsKeptForARunTimeDirectoryThatWasMoved(t *testing.T) {
	h := newRootsMount(t)
	moved := t.TempDir() + "/moved"
	if err := os.Rename(h.runtime, moved); err != nil {
		t.Fatal(err)
	}
	if mounted, err := fs.MountFor(fs.Config{Dir: h.dir, RuntimeDir: moved, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
		t.Errorf("mounted %v, %v", mounted, err)
	}
	h.drop(lockName, fs.KeptDevice)
	if dirs, err := mountpoint.Mounts(moved); err != nil || len(dirs) != 1 {
		t.Errorf("claimed: %v, %v", dirs, err)
	}
	if err := mountpoint.CleanUp(h.dir, moved, mountpoint.MayLive); err != nil {
		t.Error(err)
	}
	h.gone()
}

func (h *rootsMount) gone() {
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
	onOlderKernels(t, func(t *testing.T) {
		h := newRootsMount(t)
		h.drop(lockName)
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); !errors.Is(err, mountpoint.ErrServed) {
			t.Errorf("without force: %v", err)
		}
		if !isMounted(t, h.dir) {
			t.Fatal("a mount that does not answer was taken off without force")
		}
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.EndedForGood); err != nil {
			t.Error(err)
		}
		h.drop(fs.KeptDevice)
		h.gone()
	})
}

// A child that the daemon has left behind holds the lock as well.
func TestWhatADaemonLeavesBehindKeepsNoMount(t *testing.T) {
	onOlderKernels(t, func(t *testing.T) {
		h := newRootsMount(t)
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.EndedForGood); err != nil {
			t.Error(err)
		}
		h.gone()
		h.drop(lockName, fs.KeptDevice)
		h.mount() // the next one is not held up
		h.drop(lockName, fs.KeptDevice)
		if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); err != nil {
			t.Error(err)
		}
		h.gone()
	})
}

// The claim is of a daemon that was killed. Its mount has ended, and the one that is there now is of another daemon.
func TestAStaleClaimTakesNoMountAway(t *testing.T) {
	kit.RequireMount(t)
	h := newRootsMount(t)
	stale, err := os.ReadFile(h.claims()[0])
	if err != nil {
		t.Fatal(err)
	}
	name := h.claims()[0]
	h.drop(lockName, fs.KeptDevice)
	if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); err != nil {
		t.Fatal(err)
	}
	d, err := fs.Mount(fs.Config{Dir: h.dir, RuntimeDir: t.TempDir()}, build(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unmount()
	if err := os.WriteFile(name, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.EndedForGood); err != nil {
		t.Errorf("%v", err)
	}
	if got, err := read(h.dir + "/latest/meta-data/mac"); got != mac || err != nil {
		t.Errorf("the other daemon's mount shows %q, %v", got, err)
	}
	if left := h.claims(); len(left) > 0 {
		t.Errorf("claims are left: %v", left)
	}
}

// An older version kept its lock in the run-time directory of the daemon.
func TestAMountThatAnOlderVersionKeepsIsLeftAlone(t *testing.T) {
	h := newRootsMount(t)
	h.drop(lockName, fs.KeptDevice)
	if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); err != nil {
		t.Fatal(err)
	}
	old, err := os.Create(filepath.Join(h.runtime, mountpoint.ClaimName(h.dir)))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := unix.Flock(int(old.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if mounted, err := fs.MountFor(fs.Config{Dir: h.dir, RuntimeDir: h.runtime, Keeper: h.keeper}, nobody, nobody); mounted || err != nil {
		t.Errorf("mounted %v, %v", mounted, err)
	}
	old.Close()
	h.mount()
	h.drop(lockName, fs.KeptDevice)
	if err := mountpoint.CleanUp(h.dir, h.runtime, mountpoint.MayLive); err != nil {
		t.Error(err)
	}
}

package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const handled = "latest/meta-data/iam/security-credentials/web"

// openRootByHandle opens the root of the mount that dir is a part of, by the file handle that every FUSE file
// system has for it: node 1, generation 0.
func openRootByHandle(dir string) (root int, err error) {
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	const fileidIno64Gen = 0x81 // FILEID_INO64_GEN: node id, high half first, and generation
	handle := make([]byte, 12)
	binary.NativeEndian.PutUint32(handle[4:], 1)
	return unix.OpenByHandleAt(at, unix.NewFileHandle(fileidIno64Gen, handle), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
}

// escape is a container that has dir alone, as its root or not, and CAP_DAC_READ_SEARCH. It prints what it
// reads outside of dir, or why it cannot.
func escape(dir string, chroot bool) error {
	if chroot {
		if err := unix.Chroot(dir); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
		dir = "/"
	}
	root, err := openRootByHandle(dir)
	if err != nil {
		fmt.Println("kept in:", err)
		return nil
	}
	fd, err := unix.Openat(root, handled, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	text, err := readFrom(fd)
	fmt.Println("read:", text)
	return err
}

// tryEscape runs escape as another user in a mount namespace of its own.
func tryEscape(t *testing.T, dir string, chroot bool) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", dir, fmt.Sprint(chroot))
	cmd.Env = append(os.Environ(), childRole+"=escape")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS, Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_CHROOT},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// withRole has credentials that root alone may read.
func withRole(t *testing.T) *build.Snapshot {
	f := fragment(nil)
	f.Role = &build.Role{Name: "web", AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "s", Token: "t", Mtime: fileTime}
	return buildFrom(t, nil, f)
}

// bindBelow binds a sub-directory of the mount, as for a container.
func bindBelow(t *testing.T, dir string) string {
	t.Helper()
	bind := t.TempDir()
	if err := unix.Mount(filepath.Join(dir, "latest/meta-data/placement"), bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, bind)
	return bind
}

func requireNoFileHandles(t *testing.T, d *Door) {
	t.Helper()
	kit.Require(t, !d.FileHandles(), "Linux 6.9, which can be told to open nothing by a file handle")
}

func TestAFileHandleLeadsNowhere(t *testing.T) {
	d := mountSnapshot(t, withRole(t))
	requireNoFileHandles(t, d)
	bind := bindBelow(t, d.Dir())
	for _, chroot := range []bool{false, true} {
		if out := tryEscape(t, bind, chroot); !strings.HasPrefix(out, "kept in: ") {
			t.Errorf("chroot %v: %s", chroot, out)
		}
	}
	for _, dir := range []string{bind, d.Dir()} {
		if _, err := openRootByHandle(dir); !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("as root, from %s: %v", dir, err)
		}
		if _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("name_to_handle_at %s: %v", dir, err)
		}
	}
}

// TestOpenFileHandlesAreKnown: a kernel before Linux 6.9, and a mount that a version made which did not close it,
// whose successors cannot either.
func TestOpenFileHandlesAreKnown(t *testing.T) {
	asks := noFileHandles
	defer func() { noFileHandles = asks }()
	same := func(prev *build.Snapshot) *build.Snapshot { return prev }
	check := func(e *keptDoor, open bool) {
		t.Helper()
		if got := e.door.FileHandles(); got != open {
			t.Errorf("the door says %v", got)
		}
		out := tryEscape(t, bindBelow(t, e.dir), true)
		if got := strings.HasPrefix(out, "read: "); got != open {
			t.Errorf("the kernel says %s", out)
		}
		if e.warnings.handles != open {
			t.Errorf("warned of it: %v", e.warnings.handles)
		}
		e.warnings.handles = false
	}
	noFileHandles = 0
	e := newKeptDoor(t, withRole(t))
	check(e, true)
	noFileHandles = asks
	for range 2 {
		e.kill()
		e.succeed(same)
		check(e, true)
	}

	f := newKeptDoor(t, withRole(t))
	requireNoFileHandles(t, f.door)
	check(f, false)
	noFileHandles = 0 // what the successor would ask for does not count
	f.kill()
	f.succeed(same)
	check(f, false)
}

func TestARecordOfAnOlderVersionSaysThatFileHandlesAreOpen(t *testing.T) {
	older := struct {
		Format  int
		Dir     string
		Number  string
		Private bool
		Key     key
		Init    []byte
	}{format, "/mnt", "0:42", false, key{1}, []byte("init")}
	f, err := memoryFile(keptMount, older, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var m mountRecord
	if _, err := readRecord(f, &m, true); err != nil {
		t.Fatal(err)
	}
	if m.NoFileHandles || m.Dir != older.Dir || m.Key != older.Key || string(m.Init) != "init" {
		t.Errorf("%+v", m)
	}
}

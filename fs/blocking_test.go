package fs

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A gated source waits in Load while gate is not nil, and so holds the store's writer lock.
type gated struct {
	given
	gate    chan struct{}
	entered chan struct{}
}

func (g *gated) Load(ctx context.Context) (*source.Fragment, error) {
	if g.gate != nil {
		close(g.entered)
		<-g.gate
	}
	return g.given.Load(ctx)
}

// handlers yields every method of fuse.RawFileSystem: its name, and what calls it on the node as for the kernel.
func handlers(d *Door, node uint64, calling func(name string, call func())) {
	v := reflect.ValueOf(fuse.RawFileSystem(d.fs))
	iface := reflect.TypeFor[fuse.RawFileSystem]()
	for m := range iface.Methods() {
		if m.Name == "Init" { // comes before any other
			continue
		}
		method := v.MethodByName(m.Name)
		var args []reflect.Value
		for arg := range method.Type().Ins() {
			args = append(args, argument(arg, node))
		}
		calling(m.Name, func() { method.Call(args) })
	}
}

// argument makes an argument of a handler: the node, wherever one is asked for, and room for answers.
func argument(arg reflect.Type, node uint64) reflect.Value {
	switch arg {
	case reflect.TypeFor[*fuse.DirEntryList]():
		return reflect.ValueOf(fuse.NewDirEntryList(make([]byte, 4096), 0))
	case reflect.TypeFor[string]():
		return reflect.ValueOf("mac")
	case reflect.TypeFor[[]byte]():
		return reflect.ValueOf(make([]byte, 4096))
	case reflect.TypeFor[uint64]():
		return reflect.ValueOf(uint64(0)) // of Forget: nothing
	}
	v := reflect.Zero(arg)
	if arg.Kind() != reflect.Pointer {
		return v
	}
	v = reflect.New(arg.Elem())
	if header, ok := v.Interface().(*fuse.InHeader); ok {
		header.NodeId = node
	} else if f := v.Elem().FieldByName("InHeader"); f.IsValid() {
		f.FieldByName("NodeId").SetUint(node)
	}
	return v
}

// uses are system calls that lead to every request that the kernel sends us, on files and directories that it has not seen
// before.
func uses(dir string) map[string]func() error {
	withFile := func(do func(fd int) error) error {
		fd, err := unix.Open(filepath.Join(dir, "latest/meta-data/mac"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd)
	}
	withDir := func(do func(fd int) error) error {
		fd, err := unix.Open(filepath.Join(dir, "latest/meta-data"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd)
	}
	return map[string]func() error{
		"lookup":         func() error { return unix.Access(filepath.Join(dir, "latest/meta-data/mac"), unix.R_OK) },
		"failing lookup": func() error { _ = unix.Access(filepath.Join(dir, "latest/meta-data/none"), unix.F_OK); return nil },
		"getattr": func() error {
			var st unix.Statx_t
			return unix.Statx(unix.AT_FDCWD, filepath.Join(dir, "latest/meta-data"), unix.AT_STATX_FORCE_SYNC, unix.STATX_ALL, &st)
		},
		"open, read and close": func() error {
			return withFile(func(fd int) error { _, err := readFrom(fd); return err })
		},
		"direct read": func() error {
			return withFile(func(fd int) error {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_DIRECT); err != nil {
					return err
				}
				_, err := unix.Pread(fd, make([]byte, 100), 0)
				return err
			})
		},
		"seek": func() error {
			return withFile(func(fd int) error { _, err := unix.Seek(fd, 0, unix.SEEK_HOLE); return err })
		},
		"ioctl": func() error {
			return withFile(func(fd int) error { _, _ = unix.IoctlGetInt(fd, 0x12345678); return nil })
		},
		"fsync":     func() error { return withFile(unix.Fsync) },
		"fsync dir": func() error { return withDir(unix.Fsync) },
		"list": func() error {
			return withDir(func(fd int) error { _, err := unix.ReadDirent(fd, make([]byte, 64<<10)); return err })
		},
		"readlink": func() error {
			_, _ = unix.Readlink(filepath.Join(dir, "latest/meta-data/mac"), make([]byte, 10))
			return nil
		},
		"xattr": func() error {
			_, _ = unix.Getxattr(filepath.Join(dir, "latest/meta-data/mac"), "user.x", nil)
			return nil
		},
		"poll": func() error {
			return withFile(func(fd int) error {
				_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return err
			})
		},
		"statfs": func() error { return unix.Statfs(dir, &unix.Statfs_t{}) },
		"forget": func() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) },
	}
}

// TestNoHandlerBlocks: one change hangs in the kernel, the next one holds the store's writer lock, and no reader notices.
func TestNoHandlerBlocks(t *testing.T) {
	var src gated
	src.fragment.Store(fragment(nil))
	store := source.NewStore(env, &src)
	if _, err := store.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	kit.RequireMount(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	unmountLater(t, dir)
	d, err := Mount(Config{Dir: dir, RuntimeDir: t.TempDir()}, store.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	store.Attach(d)
	mac := filepath.Join(dir, "latest/meta-data/mac")
	mustRead(t, mac)
	held := make(chan struct{})
	d.publisher.invalidator.kernel = &fakeKernel{fs: d.fs, hold: held}
	src.fragment.Store(fragment(map[string]string{"meta-data/mac": "06:00:00:00:00:01"}))
	if _, err := store.Reload(t.Context()); err != nil { // gives up waiting after a second
		t.Fatal(err)
	}
	src.gate, src.entered = make(chan struct{}), make(chan struct{})
	reloaded := make(chan error, 1)
	go func() { _, err := store.Reload(context.Background()); reloaded <- err }()
	<-src.entered

	within := func(name string, do func()) {
		done := make(chan struct{})
		go func() { defer close(done); do() }()
		select {
		case <-done:
		case <-time.After(kit.Patience):
			t.Errorf("%s blocks", name)
		}
	}
	if got := store.Snapshot(); got == nil {
		t.Error("no snapshot")
	}
	called := map[string]bool{}
	for _, node := range []uint64{fuse.FUSE_ROOT_ID, 12345, d.fs.key.dir("/latest/meta-data"), lookup(t, d.fs, "latest", "meta-data", "mac").NodeId} {
		handlers(d, node, func(name string, call func()) {
			called[name] = true
			within(name, call)
		})
	}
	for _, name := range []string{"Lookup", "GetAttr", "Read", "ReadDirPlus", "Forget", "StatFs", "Write"} {
		if !called[name] {
			t.Errorf("%s was not called", name)
		}
	}
	for range 3 { // with what the kernel keeps, and without
		for name, use := range uses(dir) {
			within(name, func() {
				if err := use(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	within("the counters", func() { d.Requests(); d.Inodes(); d.Stalled() })
	select {
	case err := <-reloaded:
		t.Errorf("the store's lock was not held: %v", err)
	default:
	}

	close(held)
	close(src.gate)
	if err := <-reloaded; err != nil {
		t.Error(err)
	}
	if err := d.Unmount(); err != nil {
		t.Error(err)
	}
}

package fs

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

func TestWhatWouldChangeSomethingIsRefused(t *testing.T) {
	f := door(t, snapshotOf(t, nil))
	written := func(_ uint32, s fuse.Status) fuse.Status { return s }
	for name, status := range map[string]fuse.Status{
		"SetAttr":       f.SetAttr(nil, &fuse.SetAttrIn{}, &fuse.AttrOut{}),
		"Mknod":         f.Mknod(nil, &fuse.MknodIn{}, "x", &fuse.EntryOut{}),
		"Mkdir":         f.Mkdir(nil, &fuse.MkdirIn{}, "x", &fuse.EntryOut{}),
		"Unlink":        f.Unlink(nil, &fuse.InHeader{}, "x"),
		"Rmdir":         f.Rmdir(nil, &fuse.InHeader{}, "x"),
		"Rename":        f.Rename(nil, &fuse.RenameIn{}, "x", "y"),
		"Link":          f.Link(nil, &fuse.LinkIn{}, "x", &fuse.EntryOut{}),
		"Symlink":       f.Symlink(nil, &fuse.InHeader{}, "x", "y", &fuse.EntryOut{}),
		"Create":        f.Create(nil, &fuse.CreateIn{}, "x", &fuse.CreateOut{}),
		"Tmpfile":       f.Tmpfile(nil, &fuse.CreateIn{}, &fuse.CreateOut{}),
		"Write":         written(f.Write(nil, &fuse.WriteIn{}, nil)),
		"Writev":        written(f.Writev(nil, &fuse.WriteIn{}, nil)),
		"Fallocate":     f.Fallocate(nil, &fuse.FallocateIn{}),
		"CopyFileRange": written(f.CopyFileRange(nil, &fuse.CopyFileRangeIn{})),
		"Open to write": f.Open(nil, &fuse.OpenIn{Flags: syscall.O_RDWR}, &fuse.OpenOut{}),
	} {
		if status != fuse.EROFS {
			t.Errorf("%s: %v", name, status)
		}
	}
}

func TestOpenIsLeftOutWhereTheKernelCanDoWithout(t *testing.T) {
	for _, c := range []struct {
		flags         uint32
		file, dir     fuse.Status
		fileOp, dirOp uint32
	}{
		{fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT, fuse.ENOSYS, fuse.ENOSYS, 0, 0},
		{fuse.CAP_NO_OPEN_SUPPORT, fuse.ENOSYS, fuse.OK, 0, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR},
		{0, fuse.OK, fuse.OK, fuse.FOPEN_KEEP_CACHE, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR},
	} {
		f := door(t, snapshotOf(t, nil))
		f.negotiate(&fuse.InitIn{Flags: c.flags})
		var file, dir fuse.OpenOut
		if s := f.Open(nil, &fuse.OpenIn{}, &file); s != c.file || file.OpenFlags != c.fileOp {
			t.Errorf("flags %x: OPEN %v %x", c.flags, s, file.OpenFlags)
		}
		if s := f.OpenDir(nil, &fuse.OpenIn{}, &dir); s != c.dir || dir.OpenFlags != c.dirOp {
			t.Errorf("flags %x: OPENDIR %v %x", c.flags, s, dir.OpenFlags)
		}
	}
}

func TestCredentialsAreKeptTenMinutesAndNeverPastExpiry(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	clock := clock.NewManual(now)
	role := func(expires time.Time) *build.Snapshot {
		f := fragment(nil)
		f.Role = &build.Role{Name: "web", AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "s", Token: "t", Expiration: expires, Mtime: fileTime}
		return buildFrom(t, nil, f)
	}
	f := newRawFS(key{1}, clock, role(now.Add(time.Hour)))
	credentials := strings.Split("latest/meta-data/iam/security-credentials/web", "/")
	valid := func(path ...string) time.Duration {
		t.Helper()
		out := lookup(t, f, path...)
		if out.EntryTimeout() != out.AttrTimeout() {
			t.Errorf("%s: entry %v, attributes %v", path, out.EntryTimeout(), out.AttrTimeout())
		}
		return out.EntryTimeout()
	}
	if d := valid(credentials...); d != 10*time.Minute {
		t.Errorf("credentials: %v", d)
	}
	clock.Advance(55 * time.Minute)
	if d := valid(credentials...); d != 5*time.Minute {
		t.Errorf("5 minutes before expiry: %v", d)
	}
	clock.Advance(time.Hour)
	if d := valid(credentials...); d != 0 {
		t.Errorf("after expiry: %v", d)
	}
	for _, path := range []string{"latest/meta-data/mac", "latest/user-data", "latest/meta-data/iam", "latest/meta-data/iam/info"} {
		if d := valid(strings.Split(path, "/")...); d != forever {
			t.Errorf("%s: %v", path, d)
		}
	}
	var none fuse.EntryOut
	if s := f.Lookup(nil, &fuse.InHeader{NodeId: 1}, "nothing", &none); !s.Ok() || none.NodeId != 0 || none.EntryTimeout() != forever {
		t.Errorf("a name that does not exist: %v %+v", s, none)
	}

	f.stopping.Store(true)
	none = fuse.EntryOut{}
	f.Lookup(nil, &fuse.InHeader{NodeId: 1}, "nothing", &none)
	if none.EntryTimeout() != 0 || valid("latest", "meta-data", "mac") != 0 {
		t.Error("the kernel may keep what it asks while the mount ends")
	}
}

func TestAttributes(t *testing.T) {
	long := strings.Repeat("x", 513)
	s := snapshotOf(t, nil, "meta-data/long", long, "meta-data/dir/sub/x", "1")
	f := door(t, s)
	file := lookup(t, f, "latest", "meta-data", "long")
	if file.Mode != syscall.S_IFREG|0o444 || file.Nlink != 1 || file.Size != 513 || file.Blocks != 2 || !file.ModTime().Equal(fileTime) {
		t.Errorf("%+v", file.Attr)
	}
	if a := lookup(t, f, "latest", "user-data"); a.Mode != syscall.S_IFREG|0o400 {
		t.Errorf("user-data: mode %o", a.Mode)
	}
	dir := lookup(t, f, "latest", "meta-data", "dir")
	if dir.Mode != syscall.S_IFDIR|0o555 || dir.Nlink != 3 {
		t.Errorf("%+v", dir.Attr)
	}
}

// TestStatFsIsAConstant: it is answered without a tree.
func TestStatFsIsAConstant(t *testing.T) {
	f := &rawFS{}
	var out fuse.StatfsOut
	if status := f.StatFs(nil, &fuse.InHeader{NodeId: 1}, &out); !status.Ok() {
		t.Fatal(status)
	}
	if want := (fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}); out != want {
		t.Errorf("%+v, want %+v", out, want)
	}
}

func TestAFileIsNoDirectory(t *testing.T) {
	f := door(t, snapshotOf(t, nil))
	h := fuse.InHeader{NodeId: lookup(t, f, "latest", "meta-data", "mac").NodeId}
	if s := f.Lookup(nil, &h, "x", &fuse.EntryOut{}); s != fuse.ENOTDIR {
		t.Errorf("lookup in a file: %v", s)
	}
	h.NodeId = lookup(t, f, "latest").NodeId
	if _, s := f.Read(nil, &fuse.ReadIn{InHeader: h}, nil); s != fuse.EISDIR {
		t.Errorf("read of a directory: %v", s)
	}
	h.NodeId = 12345
	for name, s := range map[string]fuse.Status{
		"lookup":  f.Lookup(nil, &h, "x", &fuse.EntryOut{}),
		"getattr": f.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &fuse.AttrOut{}),
		"readdir": f.ReadDir(nil, &fuse.ReadIn{InHeader: h}, fuse.NewDirEntryList(nil, 0)),
	} {
		if s != stale {
			t.Errorf("%s of an unknown node: %v", name, s)
		}
	}
}

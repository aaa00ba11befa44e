package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// Requests that would change something are refused, on every path that leads here. The public mount is read-only already;
// its superblock is not.

func (f *rawFS) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return f.refuse() }

func (f *rawFS) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return f.refuse() }

func (f *rawFS) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return f.refuse()
}

func (f *rawFS) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status) {
	return 0, f.refuse()
}

func (f *rawFS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, f.refuse()
}

func (f *rawFS) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return f.refuse() }

func (f *rawFS) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, f.refuse()
}

func (f *rawFS) refuse() fuse.Status {
	f.count(opRefused)
	return fuse.EROFS
}

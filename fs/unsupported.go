package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// These requests are counted and answered "not implemented". The kernel then does without them.

// Flush implements [fuse.RawFileSystem].
func (f *rawFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	f.count(opFlush)
	return fuse.ENOSYS
}

// Access implements [fuse.RawFileSystem].
func (f *rawFS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status {
	f.count(opAccess)
	return fuse.ENOSYS
}

func (f *rawFS) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return f.unsupported()
}

func (f *rawFS) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status {
	return f.unsupported()
}

func (f *rawFS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return f.unsupported()
}

func (f *rawFS) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return f.unsupported() }

func (f *rawFS) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return f.unsupported() }

func (f *rawFS) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return nil, f.unsupported()
}

func (f *rawFS) unsupported() fuse.Status {
	f.count(opOther)
	return fuse.ENOSYS
}

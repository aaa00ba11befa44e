package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Open implements [fuse.RawFileSystem]. The first answer is ENOSYS where the kernel can do without OPEN, and it sends no
// more.
func (f *rawFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.count(opOpen)
	switch {
	case in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY:
		return fuse.EROFS
	case f.noOpen:
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// OpenDir implements [fuse.RawFileSystem], as Open does.
func (f *rawFS) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.count(opOpenDir)
	if f.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

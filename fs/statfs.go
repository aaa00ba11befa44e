package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// StatFs implements [fuse.RawFileSystem]. There are no blocks and no files, as on proc and sysfs. To a monitor a mount with
// nothing free looks like a full disk, and a container that has a sub-directory bound learns nothing of the rest.
func (f *rawFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.count(opStatFs)
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, nameMax
	return fuse.OK
}

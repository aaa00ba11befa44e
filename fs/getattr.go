package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	sector    = 512  // bytes, the unit of st_blocks
	blockSize = 4096 // bytes
)

// linkMax bounds the link count of a directory. One with more is shown with 1, as on ext4: 32-bit programs have 16 bits for
// the count. It is a variable for tests.
var linkMax uint32 = 65000

// GetAttr implements [fuse.RawFileSystem].
func (f *rawFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.count(opGetAttr)
	path, v, dir, ok := f.table.place(in.NodeId)
	if !ok {
		return stale
	}
	t := f.current.Load()
	if dir {
		var status fuse.Status
		if _, v, t, status = f.directory(in.NodeId); !status.Ok() {
			return status
		}
	}
	out.SetTimeout(f.validity(path, v))
	f.fillAttr(&out.Attr, f.number(&t.numbering, in.NodeId, path, v), v)
	return fuse.OK
}

func (f *rawFS) fillAttr(out *fuse.Attr, number uint64, v tree.View) {
	at := v.Attr()
	out.Ino = number
	out.Mode = fileType(v) | at.Mode
	out.Uid, out.Gid = at.UID, at.GID
	out.Blksize = blockSize
	out.Nlink = 1
	if v.IsDir() {
		out.Nlink = 2 // its name and its "."; then the ".." of each sub-directory
		for _, c := range v.Children() {
			if c.IsDir() {
				out.Nlink++
			}
		}
		if out.Nlink > linkMax {
			out.Nlink = 1
		}
	} else {
		out.Size = uint64(v.Size())
		out.Blocks = sectors(v)
	}
	if t := v.ModTime(); !t.IsZero() {
		if v.IsDir() {
			t = t.Add(f.dirShift)
		}
		out.SetTimes(&t, &t, &t)
	}
}

func fileType(v tree.View) uint32 {
	if v.IsDir() {
		return fuse.S_IFDIR
	}
	return fuse.S_IFREG
}

func sectors(v tree.View) uint64 { return (uint64(v.Size()) + sector - 1) / sector }

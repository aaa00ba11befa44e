package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	sector    = 512  // bytes, the unit of st_blocks
	blockSize = 4096 // bytes
	nameMax   = 255  // bytes; the tree's check refuses longer names
)

// linkMax is how many links are counted. More are shown as 1, as ext4 does: 32-bit programs have 16 bits for them. It is a
// variable for tests.
var linkMax uint32 = 65000

func fileType(v tree.View) uint32 {
	if v.IsDir() {
		return fuse.S_IFDIR
	}
	return fuse.S_IFREG
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

func sectors(v tree.View) uint64 { return (uint64(v.Size()) + sector - 1) / sector }

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source"
)

const (
	sector    = 512  // bytes, the unit of st_blocks
	blockSize = 4096 // bytes
	nameMax   = 255  // bytes; the tree's check refuses longer names
)

func fileType(v source.View) uint32 {
	if v.IsDir() {
		return fuse.S_IFDIR
	}
	return fuse.S_IFREG
}

func fillAttr(out *fuse.Attr, id uint64, v source.View) {
	at := v.Attr()
	out.Ino = id
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
	} else {
		out.Size = uint64(v.Size())
		out.Blocks = sectors(v)
	}
	if t := v.ModTime(); !t.IsZero() {
		out.SetTimes(&t, &t, &t)
	}
}

func sectors(v source.View) uint64 { return (uint64(v.Size()) + sector - 1) / sector }

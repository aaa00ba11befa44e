package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// Read implements [fuse.RawFileSystem]. A file is read from the table and not from the tree: an open descriptor keeps what
// it opened.
func (f *rawFS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f.count(opRead)
	_, v, dir, ok := f.table.place(in.NodeId)
	switch {
	case !ok:
		return nil, stale
	case dir:
		return nil, fuse.EISDIR
	}
	content := v.Bytes()
	from := min(in.Offset, uint64(len(content)))
	to := min(from+uint64(in.Size), uint64(len(content)))
	return fuse.ReadResultData(content[from:to]), fuse.OK
}

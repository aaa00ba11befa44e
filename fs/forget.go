package fs

// Forget implements [fuse.RawFileSystem]. The kernel takes n of its lookups of a node back; after the last one no descriptor
// of it is open, and the table lets it go.
func (f *rawFS) Forget(id, n uint64) {
	f.count(opForget)
	f.table.forget(id, n)
}

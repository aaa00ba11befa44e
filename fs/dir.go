package fs

import (
	"cmp"
	"slices"
	"sort"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source"
)

// Cookies of the two entries that every directory has; those of names are above.
const (
	cookieSelf = 1 + iota
	cookieParent
	cookieFirst
)

// A listing is a directory's names in the order of their cookies. There is no open directory on our
// side: the kernel says after which cookie it wants to go on. A cookie is a pure function of the
// name, so a name that is there throughout is found by every stream, whatever comes and goes
// between two requests, also over a restart.
type listing struct {
	generation uint64 // of the tree that it was made from
	entries    []listed
}

type listed struct {
	cookie uint64
	name   string
}

func (k *key) list(dir source.View, generation uint64) *listing {
	l := &listing{generation: generation}
	for name := range dir.Children() {
		// 63 bits, because the kernel keeps cookies in a signed loff_t.
		l.entries = append(l.entries, listed{max(k.sum('c', nil, name)>>1, cookieFirst), name})
	}
	slices.SortFunc(l.entries, func(a, b listed) int { return cmp.Compare(a.cookie, b.cookie) })
	return l
}

// after is what comes behind cookie.
func (l *listing) after(cookie uint64) []listed {
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].cookie > cookie })
	return l.entries[i:]
}

// An adder puts one entry into an answer and reports whether there was room. child is the zero View
// for "." and "..".
type adder func(e fuse.DirEntry, path string, child source.View) bool

// readDir answers READDIR and READDIRPLUS.
func (f *rawFS) readDir(in *fuse.ReadIn, add adder) fuse.Status {
	path, dir, t, status := f.directory(in.NodeId)
	if !status.Ok() {
		return status
	}
	if in.Offset < cookieSelf &&
		!add(fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR, Ino: in.NodeId, Off: cookieSelf}, "", source.View{}) {
		return fuse.OK
	}
	if in.Offset < cookieParent &&
		!add(fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Ino: f.key.dir(parent(path)), Off: cookieParent}, "", source.View{}) {
		return fuse.OK
	}
	l := f.table.listing(in.NodeId)
	if l == nil || l.generation != t.generation {
		l = f.key.list(dir, t.generation)
		f.table.setListing(in.NodeId, l)
	}
	for _, e := range l.after(in.Offset) {
		child, ok := dir.Child(e.name)
		if !ok {
			continue
		}
		full := join(path, e.name)
		entry := fuse.DirEntry{Name: e.name, Mode: fileType(child), Ino: f.key.node(full, child), Off: e.cookie}
		if !add(entry, full, child) {
			return fuse.OK
		}
	}
	return fuse.OK
}

// ReadDir implements [fuse.RawFileSystem].
func (f *rawFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.count(opReadDir)
	return f.readDir(in, func(e fuse.DirEntry, _ string, _ source.View) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements [fuse.RawFileSystem]: each entry but "." and ".." is a lookup as well.
func (f *rawFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.count(opReadDirPlus)
	return f.readDir(in, func(e fuse.DirEntry, path string, child source.View) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && path != "" {
			f.found(e.Ino, path, child, entry)
		}
		return entry != nil
	})
}

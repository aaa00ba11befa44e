package fs

import (
	"cmp"
	"slices"
	"sort"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Cookies of the two entries that every directory has; those of names are above.
const (
	cookieSelf = 1 + iota
	cookieParent
	cookieFirst
	cookieLast = 1<<31 - 1
)

// A listing is a directory's names in the order of their cookies. There is no open directory on our side: the kernel says
// after which cookie it wants to go on. A cookie is a pure function of the name. So every listing finds a name that is there
// throughout, whatever comes and goes between two requests, also over a restart.
//
// A cookie has 31 bits, since readdir and telldir of 32-bit programs have no more for it. Where two names have the same
// (one directory of 10,000 names in 40 has such a pair) the second moves up by one.
type listing struct {
	generation uint64 // of the tree that it was made from
	entries    []listed
}

type listed struct {
	cookie uint64
	name   string
}

func (k *key) list(dir tree.View, generation uint64) *listing {
	l := &listing{generation: generation}
	for name := range dir.Children() {
		l.entries = append(l.entries, listed{k.sum('c', nil, name) >> 1, name})
	}
	slices.SortFunc(l.entries, func(a, b listed) int { return cmp.Compare(a.cookie, b.cookie) })
	last := uint64(cookieFirst - 1)
	for i := range l.entries {
		last = max(shorten(l.entries[i].cookie), last+1)
		l.entries[i].cookie = last
	}
	return l
}

// shorten makes a cookie of 31 bits from one of 63, in the same order. It leaves room above the last.
func shorten(cookie uint64) uint64 {
	cookie >>= 32
	return cookie - cookie>>10
}

// after is what comes behind cookie. A cookie of more than 31 bits is from an older version, in the middle of whose listing
// this one took over.
func (l *listing) after(cookie uint64) []listed {
	if cookie > cookieLast {
		cookie = shorten(cookie)
	}
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].cookie > cookie })
	return l.entries[i:]
}

// An adder puts one entry into an answer and reports whether there was room. id is the node's, 0 for "." and "..".
type adder func(e fuse.DirEntry, id uint64, path string, child tree.View) bool

// readDir answers READDIR and READDIRPLUS.
func (f *rawFS) readDir(in *fuse.ReadIn, add adder) fuse.Status {
	path, dir, t, status := f.directory(in.NodeId)
	if !status.Ok() {
		return status
	}
	n := &t.numbering
	if in.Offset < cookieSelf &&
		!add(fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR, Ino: f.number(n, in.NodeId, path, dir), Off: cookieSelf}, 0, "", tree.View{}) {
		return fuse.OK
	}
	if up := parent(path); in.Offset < cookieParent &&
		!add(fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Ino: f.number(n, f.key.dir(up), up, dir), Off: cookieParent}, 0, "", tree.View{}) {
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
		id := f.key.node(full, child)
		entry := fuse.DirEntry{Name: e.name, Mode: fileType(child), Ino: f.number(n, id, full, child), Off: e.cookie}
		if !add(entry, id, full, child) {
			return fuse.OK
		}
	}
	return fuse.OK
}

// ReadDir implements [fuse.RawFileSystem].
func (f *rawFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.count(opReadDir)
	return f.readDir(in, func(e fuse.DirEntry, _ uint64, _ string, _ tree.View) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements [fuse.RawFileSystem]: each entry but "." and ".." is a lookup as well.
func (f *rawFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.count(opReadDirPlus)
	return f.readDir(in, func(e fuse.DirEntry, id uint64, path string, child tree.View) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && id != 0 {
			f.found(id, e.Ino, path, child, entry)
		}
		return entry != nil
	})
}

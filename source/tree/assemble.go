package tree

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// An Input holds what a tree is made from. The caller has checked it: no name in a path is "", "." or "..", or contains a
// slash or NUL, and no leaf is also a directory.
type Input struct {
	Versions []string // oldest first, without "latest"
	Paths    []string // of all leaves, relative to a version, sorted
	Leaf     func(path string) Leaf
	Dir      func(path string) Dir // called for every directory on the way to a leaf
	Top      Dir                   // "/"
	Now      time.Time             // mtime of directories that change now, unless an earlier one is later
}

// A Leaf describes a leaf to make.
type Leaf struct {
	Value
	Since       string // the version that introduced it; "": every version shows it
	Attr        Attr
	ContentType string
	Secret      bool
	Expires     time.Time // when the content expires; zero: never
}

// A Dir describes a directory to make, apart from its entries.
type Dir struct {
	Attr  Attr
	Style *Style // nil: no special listing
}

// New makes a tree. It shares every node that is the same with prev, which is nil at first. A leaf whose content stays the
// same keeps its mtime. The mtime of a directory strictly increases.
func New(prev *Tree, in Input) *Tree {
	a := &assembler{Input: in, first: prev == nil, stamp: in.Now}
	old := prev
	if prev == nil {
		old = &Tree{}
	} else if after := prev.stamp.Add(1); a.stamp.Before(after) {
		a.stamp = after
	}
	t := &Tree{versions: in.Versions}
	t.root = a.directory("", 0, len(a.Paths), old.root)
	t.top = a.top(t.root, old.top)
	t.stamp = a.stamp
	if a.newest.After(t.stamp) {
		t.stamp = a.newest
	}
	return t
}

// An assembler turns sorted paths into nodes.
type assembler struct {
	Input
	first  bool      // there is no tree before this one
	stamp  time.Time // mtime of every directory that changes now; later than any before
	newest time.Time // the latest mtime of a directory so far
}

// directory makes the node for path, whose leaves are a.Paths[from:to]. old is the node that was here before, or nil.
func (a *assembler) directory(path string, from, to int, old *node) *node {
	dir := a.Dir(path)
	n := &node{dir: true, attr: dir.Attr, style: dir.Style}
	if old != nil && !old.dir {
		old = nil
	}
	var latest time.Time
	for i := from; i < to; {
		rest := a.Paths[i]
		if path != "" {
			rest = rest[len(path)+1:]
		}
		name, _, isDir := strings.Cut(rest, "/")
		full := join(path, name)
		var before *node
		if old != nil {
			before = old.child(name)
		}
		var child *node
		if isDir {
			end := i + 1
			for end < to && strings.HasPrefix(a.Paths[end], full+"/") {
				end++
			}
			child = a.directory(full, i, end, before)
			i = end
		} else {
			child = a.leaf(full, before)
			i++
		}
		n.edges = append(n.edges, edge{name, child})
		if child.mtime.After(latest) {
			latest = child.mtime
		}
		if len(n.edges) == 1 || child.since < n.since {
			n.since = child.since
		}
	}
	if path == "" {
		n.since = "" // every version has a directory, even if nothing in it is visible
	}
	// Paths do not sort as names do, because '/' ends a name in them: "a-b" comes before "a/c".
	slices.SortFunc(n.edges, func(x, y edge) int { return strings.Compare(x.name, y.name) })
	switch {
	case old == nil && a.first:
		n.mtime = latest
	case old == nil:
		n.mtime = a.stamp
	case looksSame(old, n) && slices.Equal(old.edges, n.edges):
		return old
	case sameEntries(old, n):
		n.mtime = old.mtime
	default:
		n.mtime = a.stamp
	}
	if n.mtime.After(a.newest) {
		a.newest = n.mtime
	}
	return n
}

// sameEntries reports whether the two directories hold the same names, and each name leads to a node that looks the same.
func sameEntries(old, next *node) bool {
	return slices.EqualFunc(old.edges, next.edges, func(a, b edge) bool {
		return a.name == b.name && looksSame(a.node, b.node)
	})
}

func (a *assembler) leaf(path string, old *node) *node {
	l := a.Leaf(path)
	n := &node{
		since: l.Since, mtime: l.Mtime, origin: l.Origin, attr: l.Attr,
		bytes: l.Bytes, contentType: l.ContentType, secret: l.Secret, expires: l.Expires,
	}
	if old != nil && looksSame(old, n) {
		if old.origin.equal(n.origin) {
			return old
		}
		n.mtime, n.bytes, n.digest = old.mtime, old.bytes, old.digest
		return n
	}
	n.digest = sha256.Sum256(n.bytes)
	return n
}

// top makes "/": an edge to root for each version and for latest.
func (a *assembler) top(root, old *node) *node {
	n := &node{dir: true, attr: a.Top.Attr, style: a.Top.Style, mtime: root.mtime}
	for _, v := range append(slices.Clone(a.Versions), Latest) {
		n.edges = append(n.edges, edge{v, root})
	}
	slices.SortFunc(n.edges, func(x, y edge) int { return strings.Compare(x.name, y.name) })
	if old != nil {
		n.mtime = a.stamp
		if sameNames(old, n) {
			n.mtime = old.mtime
		}
	}
	return n
}

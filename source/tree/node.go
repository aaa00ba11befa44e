package tree

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// A node is a directory or a leaf. Nodes are immutable once a tree holds them, so trees share every subtree that did
// not change. A node does not know its name: the edge to it does, and "/latest" and "/2009-04-04" are edges to one
// node.
type node struct {
	dir    bool
	since  string // the first version that shows it; "": all do
	mtime  time.Time
	origin Origin
	attr   Attr

	// leaves
	bytes       []byte
	digest      [sha256.Size]byte // of bytes
	contentType string
	secret      bool
	expires     time.Time

	// directories
	edges []edge // sorted by name, byte order
	style *Style // nil: listed as any other
}

type edge struct {
	name string
	node *node
}

// Attr is what the FUSE door shows of a node besides its content.
type Attr struct {
	Mode uint32 // permission bits only
	UID  uint32
	GID  uint32
}

// A Style is how [View.Listing] shows a directory where that differs from the names of its entries.
type Style struct {
	Label    string // how the listing of the directory above prints this one; "": by its name
	Numbered bool   // the entries are numbers, and are listed in the order of numbers
	Bare     bool   // no slash follows the names of directories in it
	Always   string // a name that is listed whether it is there or not; "": none
}

func (n *node) child(name string) *node {
	i, ok := slices.BinarySearchFunc(n.edges, name, func(e edge, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return nil
	}
	return n.edges[i].node
}

// sameFace reports whether clients of either door could tell a from b, their children apart.
func sameFace(a, b *node) bool {
	return a.dir == b.dir && a.since == b.since && a.attr == b.attr && sameStyle(a.style, b.style) &&
		a.contentType == b.contentType && a.secret == b.secret && a.expires.Equal(b.expires) && string(a.bytes) == string(b.bytes)
}

func sameStyle(a, b *Style) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

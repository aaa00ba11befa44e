package tree

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// A node is a directory or a leaf. It does not change once a tree holds it, so trees share every subtree that stays the
// same. The edge to a node holds its name: "/latest" and "/1.0" are two edges to one node.
type node struct {
	dir    bool
	since  string // the first version that shows it; "": every version does
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
	style *Style // nil: no special listing
}

type edge struct {
	name string
	node *node
}

// Attr holds the attributes that the FUSE door shows.
type Attr struct {
	Mode uint32 // permission bits only
	UID  uint32
	GID  uint32
}

// A Style says how [View.Listing] shows a directory, where that differs from a plain list of names.
type Style struct {
	Label    string // how the parent's listing shows this directory; "": by its name
	Numbered bool   // the entries are numbers, listed in numeric order
	Bare     bool   // the names of directories in it have no slash at their end
	Always   string // a name that is listed even if it does not exist; "": none
}

func (n *node) child(name string) *node {
	i, ok := slices.BinarySearchFunc(n.edges, name, func(e edge, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return nil
	}
	return n.edges[i].node
}

// looksSame reports whether a and b look the same to the clients of both doors, apart from their children.
func looksSame(a, b *node) bool {
	return a.dir == b.dir && a.since == b.since && a.attr == b.attr && sameStyle(a.style, b.style) &&
		a.contentType == b.contentType && a.secret == b.secret && a.expires.Equal(b.expires) && string(a.bytes) == string(b.bytes)
}

func sameStyle(a, b *Style) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

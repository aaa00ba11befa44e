package source

import (
	"crypto/sha256"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A node is a directory or a leaf. Nodes are immutable once a snapshot holds them, so snapshots
// share every subtree that did not change. A node does not know its name: the edge to it does, and
// "/latest" and "/2009-04-04" are edges to one node.
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
	edges    []edge // sorted by name, byte order
	numbered bool   // public-keys: children are numbers and list as label
	label    string // how the HTTP listing of the parent prints it, if not by its name

	memo atomic.Pointer[map[string]any] // see View.Memo; the one thing that is added later
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

func (n *node) child(name string) *node {
	i, ok := slices.BinarySearchFunc(n.edges, name, func(e edge, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return nil
	}
	return n.edges[i].node
}

// sameFace reports whether clients of either door could tell a from b, their children apart.
func sameFace(a, b *node) bool {
	return a.dir == b.dir && a.since == b.since && a.attr == b.attr && a.label == b.label && a.numbered == b.numbered &&
		a.contentType == b.contentType && a.secret == b.secret && a.expires.Equal(b.expires) && string(a.bytes) == string(b.bytes)
}

package tree

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"
)

// Saved is a tree in the form in which one process hands it to another: plain data for an encoder that goes by the names of
// fields, such as gob. You may add fields; each side ignores those that it does not know.
type Saved struct {
	Top, Root SavedNode // Top without its edges, which all lead to Root
	Versions  []string
	Stamp     time.Time
}

// A SavedNode is a node and everything below it.
type SavedNode struct {
	Name        string // from the edge to it
	Dir         bool
	Since       string
	Mtime       time.Time
	Origin      Origin
	Attr        Attr
	Bytes       []byte
	ContentType string
	Secret      bool
	Expires     time.Time
	Edges       []SavedNode

	// See [Style].
	Numbered bool
	Label    string
	Bare     bool
	Always   string
}

// Save returns the tree for another process. The result holds secrets.
func (t *Tree) Save() Saved {
	return Saved{Top: saveNode("", t.top, false), Root: saveNode("", t.root, true), Versions: t.versions, Stamp: t.stamp}
}

func saveNode(name string, n *node, below bool) SavedNode {
	saved := SavedNode{
		Name: name, Dir: n.dir, Since: n.since, Mtime: n.mtime, Origin: n.origin, Attr: n.attr, Bytes: n.bytes,
		ContentType: n.contentType, Secret: n.secret, Expires: n.expires,
	}
	if s := n.style; s != nil {
		saved.Numbered, saved.Label, saved.Bare, saved.Always = s.Numbered, s.Label, s.Bare, s.Always
	}
	if below && len(n.edges) > 0 {
		saved.Edges = make([]SavedNode, len(n.edges))
		for i, e := range n.edges {
			saved.Edges[i] = saveNode(e.name, e.node, true)
		}
	}
	return saved
}

// Tree returns the tree that this process or a predecessor saved. The next tree that [New] makes can share nodes with it,
// including their times. The error refuses data that cannot be a tree.
func (s *Saved) Tree() (*Tree, error) {
	top, err := s.Top.node(0)
	if err != nil {
		return nil, err
	}
	root, err := s.Root.node(0)
	if err != nil {
		return nil, err
	}
	if !top.dir || !root.dir || len(top.edges) > 0 {
		return nil, errors.New("decode the tree: its root is not a directory")
	}
	for _, v := range append(slices.Clone(s.Versions), Latest) {
		top.edges = append(top.edges, edge{v, root})
	}
	slices.SortFunc(top.edges, func(x, y edge) int { return strings.Compare(x.name, y.name) })
	if err := checkEdges(top); err != nil {
		return nil, err
	}
	return &Tree{top: top, root: root, versions: s.Versions, stamp: s.Stamp}, nil
}

// maxDepth bounds the recursion. A path of 4,096 bytes has fewer names.
const maxDepth = 4096

func (s *SavedNode) node(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("decode the tree: it is too deep")
	}
	n := &node{
		dir: s.Dir, since: s.Since, mtime: s.Mtime, origin: s.Origin, attr: s.Attr, contentType: s.ContentType,
		secret: s.Secret, expires: s.Expires,
	}
	if style := (Style{Label: s.Label, Numbered: s.Numbered, Bare: s.Bare, Always: s.Always}); style != plain {
		n.style = &style
	}
	if !n.dir {
		if len(s.Edges) > 0 {
			return nil, errors.New("decode the tree: something is below a file")
		}
		n.bytes, n.digest = s.Bytes, sha256.Sum256(s.Bytes)
		return n, nil
	}
	for i := range s.Edges {
		child, err := s.Edges[i].node(depth + 1)
		if err != nil {
			return nil, err
		}
		n.edges = append(n.edges, edge{s.Edges[i].Name, child})
	}
	return n, checkEdges(n)
}

// checkEdges refuses names that look-ups and the kernel could not handle.
func checkEdges(n *node) error {
	for i, e := range n.edges {
		if e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\x00") || i > 0 && n.edges[i-1].name >= e.name {
			return errors.New("decode the tree: a directory's names are not in order, or not valid")
		}
	}
	return nil
}

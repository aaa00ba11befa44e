// Package tree holds the tree that both doors show. It does not know what the names and values in it mean.
//
//	Input ──▶ New(prev, input) ──▶ *Tree ──▶ View: look-up, listing, bytes, times
//	                                 ├─────▶ Diff(old, next): what a client could notice
//	                                 └─────▶ Save ──▶ Saved ──▶ another process ──▶ Saved.Tree
//
// A [Tree] is immutable. [New] makes one from leaves and their paths, and shares every node that is the same with the
// tree before it. So [Diff] compares pointers, and its cost grows with the change and not with the tree. A [View] is a
// place in a tree as one version shows it: names that a later version introduced are hidden.
//
// Paths are relative to a version ("a/b"; "" is the version's own directory), except for [Tree.Find], which
// takes absolute ones ("/latest/a/b").
package tree

import (
	"strings"
	"time"
)

// Latest is the version that shows everything.
const Latest = "latest"

// A Tree holds all nodes at one moment. It never changes.
type Tree struct {
	top      *node     // "/": an edge for each version and for latest
	root     *node     // the node that each of those edges leads to
	versions []string  // as listed, without latest
	stamp    time.Time // not before the mtime of any directory
}

// Root returns the view of "/", which has a directory for each version.
func (t *Tree) Root() View { return View{node: t.top} }

// View returns the directory of a version: "latest" or one of Versions.
func (t *Tree) View(version string) (View, bool) { return t.Root().Child(version) }

// Find returns the place at an absolute path, "/latest/a/b". It skips empty segments.
func (t *Tree) Find(path string) (View, bool) {
	v := t.Root()
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		var ok bool
		if v, ok = v.Child(name); !ok {
			return View{}, false
		}
	}
	return v, true
}

// Versions returns the versions, oldest first, without "latest".
func (t *Tree) Versions() []string { return t.versions }

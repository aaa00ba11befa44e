// Package tree is the tree that both doors show, and knows nothing of what is in it.
//
//	Input ──▶ New(prev, input) ──▶ *Tree ──▶ View: look-up, listing, bytes, times
//	                                 └─────▶ Diff(old, next): what a client could notice
//
// A [Tree] is immutable. [New] makes one from leaves by their paths, and shares with the tree before it every node that
// is the same; so [Diff] compares pointers and costs what changed, not what is there. A [View] is a place in a tree as
// one version shows it: names that came with a later version are hidden. [Tree.Save] and [Saved.Tree] hand a tree to
// another process.
//
// Paths are relative to a version ("meta-data/mac"; "" is the version's own directory), except for [Tree.Find], which
// takes absolute ones ("/latest/meta-data/mac").
package tree

import (
	"strings"
	"time"
)

// Latest is the version that shows everything.
const Latest = "latest"

// A Tree is all nodes at one moment. It never changes.
type Tree struct {
	top      *node     // "/": an edge for each version and for latest
	root     *node     // what each of those edges leads to
	versions []string  // as listed, without latest
	stamp    time.Time // no directory's mtime is later
}

// Root is the view of "/": one directory a version.
func (t *Tree) Root() View { return View{node: t.top} }

// View is the directory of a version, "latest" or one of Versions.
func (t *Tree) View(version string) (View, bool) { return t.Root().Child(version) }

// Find is the place at an absolute path, "/latest/meta-data/mac". Empty segments are skipped.
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

// Versions are the versions on offer, oldest first, without "latest".
func (t *Tree) Versions() []string { return t.versions }

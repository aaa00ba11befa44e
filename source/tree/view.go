package tree

import (
	"cmp"
	"crypto/sha256"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A View is one place in the tree as one version shows it: "/" (all versions), "/latest", or anything below. It is a
// small value; copy it freely. The zero View is not a place: call no method of it.
type View struct {
	node    *node
	version string // "" at "/"
	depth   int    // 0 at "/", 1 at "/VERSION"
}

const textPlain = "text/plain"

// plain is the style of a directory without one.
var plain Style

// NewLeaf returns a leaf outside any tree, for a file that a client still has open but that the tree no longer holds.
func NewLeaf(content []byte, attr Attr, modified time.Time) View {
	return View{node: &node{bytes: content, digest: sha256.Sum256(content), attr: attr, mtime: modified, contentType: textPlain}}
}

// visible reports whether version shows n. The version "" is "/", which shows everything.
func visible(n *node, version string) bool {
	return version == "" || version == Latest || n.since <= version
}

// IsDir reports whether the place is a directory.
func (v View) IsDir() bool { return v.node.dir }

// Version returns the version that shows the place, "" at "/".
func (v View) Version() string { return v.version }

// Child returns the place called name in this directory. The name is never a [Style.Label].
func (v View) Child(name string) (View, bool) {
	n := v.node.child(name)
	if n == nil {
		return View{}, false
	}
	return v.descend(name, n)
}

func (v View) descend(name string, n *node) (View, bool) {
	version := v.version
	if v.depth == 0 {
		version = name
	}
	return View{n, version, v.depth + 1}, visible(n, version)
}

// Children yields the names in this directory, in byte order, each with its place.
func (v View) Children() iter.Seq2[string, View] {
	return func(yield func(string, View) bool) {
		for _, e := range v.node.edges {
			if c, ok := v.descend(e.name, e.node); ok && !yield(e.name, c) {
				return
			}
		}
	}
}

// Listing returns the body of an HTTP answer for this directory: one name a line, without a final newline. The names of
// directories end in a slash. The [Style] of the directory, or of one in it, can change that.
func (v View) Listing() []byte {
	type line struct {
		name, text string
	}
	style := v.node.style
	if style == nil {
		style = &plain
	}
	var lines []line
	for name, c := range v.Children() {
		text := name
		switch {
		case c.node.style != nil && c.node.style.Label != "":
			text = c.node.style.Label
		case c.IsDir() && !style.Bare:
			text += "/"
		}
		lines = append(lines, line{name, text})
	}
	if name := style.Always; name != "" {
		if i, found := slices.BinarySearchFunc(lines, name, func(l line, name string) int { return strings.Compare(l.name, name) }); !found {
			lines = slices.Insert(lines, i, line{name, name})
		}
	}
	if style.Numbered {
		slices.SortStableFunc(lines, func(a, b line) int {
			x, _ := strconv.Atoi(a.name)
			y, _ := strconv.Atoi(b.name)
			return cmp.Compare(x, y)
		})
	}
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.text)
	}
	return []byte(b.String())
}

// Bytes returns the content of a leaf. Do not change it.
func (v View) Bytes() []byte { return v.node.bytes }

// Digest returns the SHA-256 of a leaf's content. It is computed once, when the leaf is made.
func (v View) Digest() [sha256.Size]byte { return v.node.digest }

// Size returns the length of a leaf's content in bytes; 0 for a directory.
func (v View) Size() int { return len(v.node.bytes) }

// ContentType returns the media type of a leaf, or "text/plain" for the listing of a directory.
func (v View) ContentType() string {
	if v.node.dir {
		return textPlain
	}
	return v.node.contentType
}

// ModTime returns when the source of a leaf's value last changed, or when the entries of a directory last changed. The
// time of a directory strictly increases over snapshots. Last-Modified is this time cut to seconds.
func (v View) ModTime() time.Time { return v.node.mtime }

// Attr returns owner, group and permission bits for the FUSE door.
func (v View) Attr() Attr { return v.node.attr }

// Secret reports whether the content must never be printed.
func (v View) Secret() bool { return v.node.secret }

// Expires returns when the content expires (credentials); zero: never.
func (v View) Expires() time.Time { return v.node.expires }

// Origin returns where a leaf's value comes from.
func (v View) Origin() Origin { return v.node.origin }

// A Key names a place in a map. Places with one key look the same: a file does in every version.
type Key struct {
	node    *node
	version string
}

// Key returns the key of the place.
func (v View) Key() Key {
	if v.node.dir {
		return Key{v.node, v.version}
	}
	return Key{node: v.node}
}

// Same reports whether v and w show the same node: the same bytes, attributes and children.
func (v View) Same(w View) bool { return v.node == w.node && v.version == w.version }

// Walk yields every place below v with its path relative to v, depth first in byte order.
func (v View) Walk() iter.Seq2[string, View] {
	return func(yield func(string, View) bool) { v.walk("", yield) }
}

func (v View) walk(prefix string, yield func(string, View) bool) bool {
	for name, c := range v.Children() {
		path := prefix + name
		if !yield(path, c) || c.IsDir() && !c.walk(path+"/", yield) {
			return false
		}
	}
	return true
}

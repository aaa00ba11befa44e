package source

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// assemble makes the snapshot, sharing with prev every node that is the same.
func (b *builder) assemble(prev *Snapshot) *Snapshot {
	s := &Snapshot{
		versions: b.versions, options: b.options, snowball: b.snowball, settings: b.settings(), warnings: b.warnings,
		rolled: b.rolledTo, refresh: b.refresh,
	}
	a := &assembler{builder: b, paths: slices.Sorted(maps.Keys(b.leaves)), first: prev == nil, stamp: b.env.Now}
	var old *Snapshot
	if prev != nil {
		old = prev
		if after := prev.stamp.Add(1); a.stamp.Before(after) {
			a.stamp = after
		}
	} else {
		old = &Snapshot{}
	}
	s.root = a.directory("", 0, len(a.paths), catalogRoot, "", old.root)
	s.top = a.top(s.root, old.top)
	s.stamp = a.stamp
	if a.newest.After(s.stamp) {
		s.stamp = a.newest
	}
	if v, ok := s.Find("/latest/meta-data/instance-id"); ok && !v.IsDir() {
		s.instance = string(v.Bytes())
	}
	return s
}

// An assembler turns sorted paths into nodes.
type assembler struct {
	*builder
	paths  []string
	first  bool      // there is no snapshot before this one
	stamp  time.Time // mtime of every directory that changes now, after that of all directories before
	newest time.Time // mtime given to any directory
}

// directory makes the node for path, whose leaves are a.paths[from:to]. dated is the version that
// introduced the directories above; old is the node that stood here, or nil.
func (a *assembler) directory(path string, from, to int, row *catalog, dated string, old *node) *node {
	n := &node{dir: true, attr: a.attr(path, true, false), label: a.labels[path], numbered: path == "meta-data/public-keys"}
	if old != nil && !old.dir {
		old = nil
	}
	dated = max(dated, row.since())
	var latest time.Time
	for i := from; i < to; {
		rest := a.paths[i]
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
			for end < to && strings.HasPrefix(a.paths[end], full+"/") {
				end++
			}
			child = a.directory(full, i, end, row.child(name), dated, before)
			i = end
		} else {
			child = a.leaf(full, row.child(name), dated, before)
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
		n.since = "" // a version that is offered has a directory, whatever is in it
	}
	// Paths sort with '/' in the place of the names' end: "a-b" before "a/c".
	slices.SortFunc(n.edges, func(x, y edge) int { return strings.Compare(x.name, y.name) })
	switch {
	case old == nil && a.first:
		n.mtime = latest
	case old == nil:
		n.mtime = a.stamp
	case sameFace(old, n) && slices.Equal(old.edges, n.edges):
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

// sameEntries reports whether the two directories hold the same names, each for the same file.
func sameEntries(old, next *node) bool {
	return slices.EqualFunc(old.edges, next.edges, func(a, b edge) bool {
		return a.name == b.name && sameFace(a.node, b.node)
	})
}

func (a *assembler) leaf(path string, row *catalog, dated string, old *node) *node {
	l := a.leaves[path]
	secret := IsSecret(path)
	n := &node{
		since: max(dated, row.since()), mtime: l.Mtime, origin: l.Origin, attr: a.attr(path, false, secret),
		bytes: l.Bytes, contentType: textPlain, secret: secret, expires: l.expires,
	}
	if path == UserData {
		n.contentType = octetStream
	}
	if isCredential(path) && n.expires.IsZero() {
		n.expires = statedExpiration(l.Bytes)
	}
	if old != nil && sameFace(old, n) {
		if old.origin.equal(n.origin) {
			return old
		}
		n.mtime, n.bytes, n.digest = old.mtime, old.bytes, old.digest
		return n
	}
	n.digest = sha256.Sum256(n.bytes)
	return n
}

// statedExpiration reads the end of credentials that somebody states as a JSON document.
func statedExpiration(document []byte) time.Time {
	var c struct{ Expiration time.Time }
	if json.Unmarshal(document, &c) != nil {
		return time.Time{}
	}
	return c.Expiration
}

// attr is owner, group and mode at path: secrets are for the daemon's user alone, the rest for
// everybody, unless a rule says otherwise; the last rule wins.
func (a *assembler) attr(path string, dir, secret bool) Attr {
	at := Attr{Mode: 0o444, UID: a.env.UID, GID: a.env.GID}
	if secret {
		at.Mode = 0o400
	}
	for _, r := range a.access {
		if !covers(r, path) {
			continue
		}
		if r.Mode != nil {
			at.Mode = *r.Mode & 0o444
		}
		if r.UID != nil {
			at.UID = *r.UID
		}
		if r.GID != nil {
			at.GID = *r.GID
		}
	}
	if dir {
		at.Mode |= at.Mode >> 2
	}
	return at
}

// top makes "/": an edge to root for each version and for latest.
func (a *assembler) top(root, old *node) *node {
	n := &node{dir: true, attr: Attr{Mode: 0o555, UID: a.env.UID, GID: a.env.GID}, mtime: root.mtime}
	for _, v := range append(slices.Clone(a.versions), Latest) {
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

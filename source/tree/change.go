package tree

// A Change is the difference between two trees, as paths relative to a version. It holds what a client could notice. A
// value that now comes from another line is not a change.
type Change struct {
	Added   []string // new nodes, including directories
	Removed []string // nodes that are gone, including directories
	Changed []string // leaves with other bytes or attributes, directories with other attributes
	// Dirs are the directories whose entries changed: a name was added or removed, or now leads to another file. "" is
	// the version's own directory.
	Dirs []string
	// Versions tells whether the list of versions changed.
	Versions bool
}

// Empty reports whether nothing changed.
func (c *Change) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Changed)+len(c.Dirs) == 0 && !c.Versions
}

// Diff returns what changed from old, which may be nil, to next. Its cost grows with the change, not with the trees.
func Diff(old, next *Tree) Change {
	var c Change
	var from *node
	if old != nil {
		from = old.root
		c.Versions = old.top != next.top && !sameNames(old.top, next.top)
	}
	c.compare("", from, next.root)
	return c
}

func sameNames(a, b *node) bool {
	if len(a.edges) != len(b.edges) {
		return false
	}
	for i := range a.edges {
		if a.edges[i].name != b.edges[i].name {
			return false
		}
	}
	return true
}

// compare adds the changes at path and below. It reports whether the entry in the parent directory changed; then the
// parent belongs in Dirs.
func (c *Change) compare(path string, old, next *node) (entryChanged bool) {
	switch {
	case old == next:
		return false
	case old == nil:
		c.added(path, next)
		return true
	case next == nil:
		c.removed(path, old)
		return true
	case old.dir != next.dir:
		c.removed(path, old)
		c.added(path, next)
		return true
	}
	entryChanged = !looksSame(old, next)
	if entryChanged {
		c.Changed = append(c.Changed, path)
	}
	if !next.dir {
		return entryChanged
	}
	entries := false
	i, j := 0, 0
	for i < len(old.edges) || j < len(next.edges) {
		var a, b *node
		var name string
		switch {
		case j == len(next.edges) || i < len(old.edges) && old.edges[i].name < next.edges[j].name:
			name, a = old.edges[i].name, old.edges[i].node
			i++
		case i == len(old.edges) || next.edges[j].name < old.edges[i].name:
			name, b = next.edges[j].name, next.edges[j].node
			j++
		default:
			name, a, b = next.edges[j].name, old.edges[i].node, next.edges[j].node
			i++
			j++
		}
		if c.compare(join(path, name), a, b) {
			entries = true
		}
	}
	if entries {
		c.Dirs = append(c.Dirs, path)
	}
	return entryChanged
}

func (c *Change) added(path string, n *node) {
	c.Added = append(c.Added, path)
	if n.dir {
		c.Dirs = append(c.Dirs, path)
	}
	for _, e := range n.edges {
		c.added(join(path, e.name), e.node)
	}
}

func (c *Change) removed(path string, n *node) {
	c.Removed = append(c.Removed, path)
	if n.dir {
		c.Dirs = append(c.Dirs, path)
	}
	for _, e := range n.edges {
		c.removed(join(path, e.name), e.node)
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

package fs

import (
	"maps"
	"path"
	"slices"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// collect adds what the kernel has to drop when next takes the place of old, with c between them.
func (p *publisher) collect(set invalidations, old, next *build.Snapshot, c build.Change) {
	for _, s := range []*build.Snapshot{old, next} {
		for name := range s.Root().Children() {
			p.everyVersion[name] = true
		}
	}
	p.collectRoot(set, old, next)
	byDir := changesByDir(c, next)
	dirs := slices.Sorted(maps.Keys(byDir))
	for version := range p.everyVersion {
		for _, dir := range dirs {
			p.collectDir(set, path.Join("/", version, dir), byDir[dir], old, next)
		}
	}
}

// A dirChange is what changed in one directory.
type dirChange struct {
	names []string // that came, went, or stand for another file
	dirs  []string // of sub-directories with other attributes, which may include being visible
}

// changesByDir sorts a change by directory, relative to a version.
func changesByDir(c build.Change, next *build.Snapshot) map[string]*dirChange {
	byDir := map[string]*dirChange{}
	at := func(dir string) *dirChange {
		if byDir[dir] == nil {
			byDir[dir] = &dirChange{}
		}
		return byDir[dir]
	}
	split := func(p string) (*dirChange, string) {
		dir, name := path.Split(p)
		return at(path.Clean("/" + dir)[1:]), name
	}
	for _, dir := range c.Dirs {
		at(dir)
	}
	for _, p := range slices.Concat(c.Added, c.Removed) {
		if d, name := split(p); name != "" {
			d.names = append(d.names, name)
		}
	}
	for _, p := range c.Changed {
		if v, ok := next.Find("/" + tree.Latest + "/" + p); !ok || !v.IsDir() {
			d, name := split(p)
			d.names = append(d.names, name)
			continue
		}
		at(p)
		if p != "" {
			d, name := split(p)
			d.dirs = append(d.dirs, name)
		}
	}
	return byDir
}

// collectRoot is for "/", whose names are the versions.
func (p *publisher) collectRoot(set invalidations, old, next *build.Snapshot) {
	a, b := old.Root(), next.Root()
	var inv invalidation
	for name := range p.everyVersion {
		_, was := a.Child(name)
		_, is := b.Child(name)
		if was != is {
			inv.names = append(inv.names, name)
		}
	}
	inv.attr = !a.ModTime().Equal(b.ModTime()) || a.Attr() != b.Attr()
	p.invalidator.add(set, "/", inv)
}

// collectDir is for the directory at an absolute path.
func (p *publisher) collectDir(set invalidations, dir string, d *dirChange, old, next *build.Snapshot) {
	inv := invalidation{names: slices.Clone(d.names), attr: true}
	for _, name := range d.dirs {
		full := join(dir, name)
		_, was := old.Find(full)
		_, is := next.Find(full)
		if was != is {
			inv.names = append(inv.names, name)
		}
	}
	p.invalidator.add(set, dir, inv)
	p.invalidator.add(set, parent(dir), invalidation{below: []string{dir}})
}

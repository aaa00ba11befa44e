package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
)

// beliefs is what the kernel may hold besides the trees old and next, for a successor to know: changes that
// it has not taken yet, because somebody hangs in the directory; files that are open although they were
// replaced; directories in which somebody works although they are gone. all looks everywhere, not only
// where something was touched since a successor was thought of.
func (p *publisher) beliefs(old, next *build.Snapshot, all bool) *treeRecord {
	t := &treeRecord{}
	if p.record.keeper == nil {
		return t
	}
	n := &p.fs.allotment.numbering
	t.Numbers = &numberRecord{n.bits, n.odd, n.versions, p.fs.dirShift}
	p.mu.Lock()
	for dir, teller := range p.tellers {
		e := teller.doing
		e.add(teller.next)
		t.Late = append(t.Late, lateRecord{dir, e.names, e.attr, e.below})
	}
	p.mu.Unlock()
	isIn := func(s *build.Snapshot, id uint64, n *inode) bool {
		v, ok := s.Find(n.path)
		return ok && v.IsDir() == n.dir && p.fs.key.node(n.path, v) == id
	}
	still := map[string]bool{}
	p.fs.table.each(func(id uint64, n *inode) {
		if !all && !p.touched[n.path] || isIn(next, id, n) {
			return
		}
		still[n.path] = true
		switch {
		case isIn(old, id, n): // that tree is kept too
		case n.dir:
			t.Dirs = append(t.Dirs, n.path)
		default:
			t.Files = append(t.Files, fileRecord{n.path, n.view.Bytes(), n.view.Attr(), n.view.ModTime()})
		}
	})
	p.touched = still
	return t
}

// touch notes where nodes are replaced.
func (p *publisher) touch(r round) {
	if p.record.keeper == nil {
		return
	}
	for dir, e := range r {
		for _, name := range e.names {
			p.touched[join(dir, name)] = true
		}
	}
}

// ask has the kernel say which inherited inodes it does not know: to a notify for one it answers ENOENT. An
// answer of the predecessor may still be on its way into the kernel's tables; the barrier waits for it.
func (p *publisher) ask() {
	var groups [][]notice
	var asked [][]uint64
	for dir, ids := range p.fs.table.inDoubt() {
		group := []notice{{p.fs.key.dir(dir), barrier}}
		for _, id := range ids {
			group = append(group, notice{node: id})
		}
		groups, asked = append(groups, group), append(asked, ids)
	}
	if len(groups) == 0 {
		return
	}
	p.kernel.tell(groups, func(i int, answer []fuse.Status) {
		for j, status := range answer[min(1, len(answer)):] {
			if status == fuse.ENOENT {
				p.fs.table.dropIfUnknown(asked[i][j])
			}
		}
	})
}

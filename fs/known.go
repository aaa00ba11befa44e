package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
)

// stillKnown is what the kernel may know besides the trees old and next, for a successor: changes that it has not taken yet,
// because a process hangs in the directory; files that are open although they were replaced; directories in which a process
// works although they are gone. all looks at every node, not only where something was replaced since this process began to
// keep records.
func (p *publisher) stillKnown(old, next *build.Snapshot, all bool) *treeRecord {
	t := &treeRecord{}
	if p.recorder.keeper == nil {
		return t
	}
	n := &p.fs.numbers.numbering
	t.Numbers = &numberRecord{n.bits, n.displaced, n.versions, p.fs.dirShift}
	t.Late = p.invalidator.unsent()
	isIn := func(s *build.Snapshot, id uint64, n *inode) bool {
		v, ok := s.Find(n.path)
		return ok && v.IsDir() == n.dir && p.fs.key.node(n.path, v) == id
	}
	still := map[string]bool{}
	p.fs.table.each(func(id uint64, n *inode) {
		if !all && !p.maybeReplaced[n.path] || isIn(next, id, n) {
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
	p.maybeReplaced = still
	return t
}

// noteReplaced notes the paths at which nodes are replaced.
func (p *publisher) noteReplaced(set invalidations) {
	if p.recorder.keeper == nil {
		return
	}
	for dir, inv := range set {
		for _, name := range inv.names {
			p.maybeReplaced[join(dir, name)] = true
		}
	}
}

// askInherited has the kernel say which inherited inodes it does not know: to a notification for one of those it answers
// ENOENT. An answer of the predecessor may still be on its way into the kernel's tables; the barrier waits for it.
func (p *publisher) askInherited() {
	var batches [][]notification
	var asked [][]uint64
	for dir, ids := range p.fs.table.inDoubt() {
		batch := []notification{{p.fs.key.dir(dir), barrier}}
		for _, id := range ids {
			batch = append(batch, notification{node: id})
		}
		batches, asked = append(batches, batch), append(asked, ids)
	}
	if len(batches) == 0 {
		return
	}
	p.invalidator.kernel.notify(batches, func(i int, answers []fuse.Status) {
		for j, status := range answers[min(1, len(answers)):] {
			if status == fuse.ENOENT {
				p.fs.table.dropIfUnknown(asked[i][j])
			}
		}
	})
}

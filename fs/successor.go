package fs

import (
	"slices"
	"time"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// inheritNodes enters all nodes that the predecessor may have handed out, and goes on with their inode numbers.
func (f *rawFS) inheritNodes(p *Predecessor, next *build.Snapshot) {
	f.inheritNumbers(p, next)
	for _, t := range p.trees {
		for path, v := range t.snapshot.Root().Walk() {
			path = "/" + path
			f.table.inherit(f.key.node(path, v), path, v, v.IsDir())
		}
		for _, old := range t.Files {
			v := tree.NewLeaf(old.Content, old.Attr, old.Mtime)
			f.table.inherit(f.key.node(old.Path, v), old.Path, v, false)
		}
		for _, path := range t.Dirs {
			f.table.inherit(f.key.dir(path), path, tree.View{}, true)
		}
	}
	fault.At("nodes adopted")
}

// inheritNumbers goes on with the inode numbers of the predecessor.
//
// An older version showed 64 bits. The kernel caches those with the attributes, which askInherited has it drop after each
// handover, and in the listings of directories. It drops a listing when the directory has another mtime, so the mtime of
// each directory moves by what nobody sees, once and for as long as the mount lasts.
func (f *rawFS) inheritNumbers(p *Predecessor, next *build.Snapshot) {
	if len(p.trees) == 0 {
		return
	}
	n := numbering{bits: nodeBits}
	newest := p.trees[len(p.trees)-1]
	if r := newest.Numbers; r != nil {
		n, f.dirShift = numbering{r.Bits, r.Odd, r.Versions}, r.DirShift
	} else {
		f.dirShift = time.Nanosecond
	}
	var held []heldNode
	var others []*build.Snapshot
	for _, t := range slices.Backward(p.trees) {
		for _, file := range t.Files {
			held = append(held, heldNode{file.Path, tree.NewLeaf(file.Content, file.Attr, file.Mtime), false})
		}
		for _, path := range t.Dirs {
			held = append(held, heldNode{path: path, dir: true})
		}
		others = append(others, t.snapshot)
	}
	f.renumber(n, newest.snapshot, held, append(others[1:], next)...)
	f.serve(&servedTree{snapshot: next, numbering: f.numbers.numbering})
	f.numbers.shared = true
}

// outdated is all that the kernel may have cached that is wrong when next is served: what the predecessor did not get to
// send, and what is different in next.
func (p *publisher) outdated(pre *Predecessor, next *build.Snapshot) invalidations {
	set := invalidations{}
	var old *build.Snapshot
	for _, t := range pre.trees {
		if old != nil {
			p.collect(set, old, t.snapshot, build.Diff(old, t.snapshot))
		}
		for _, late := range t.Late {
			p.invalidator.add(set, late.Dir, invalidation{late.Names, late.Attr, late.Below})
		}
		old = t.snapshot
	}
	if n := len(pre.trees); n > 0 && pre.trees[n-1].Numbers == nil {
		p.invalidator.add(set, "/", invalidation{attr: true}) // askInherited does it for the others
	}
	if old != nil {
		p.collect(set, old, next, build.Diff(old, next))
	}
	return set
}

// reconcile has the kernel drop what is outdated.
func (p *publisher) reconcile(outdated invalidations) {
	p.noteReplaced(outdated)
	p.invalidator.invalidate(outdated)
	fault.At("kernel told")
	p.askInherited()
}

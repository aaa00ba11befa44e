package fs

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
)

// A recorder has a Keeper hold what a successor needs, before the kernel learns of it.
type recorder struct {
	keeper Keeper // nil: nothing is kept
	mount  *os.File
	number uint64   // of the newest tree
	trees  []uint64 // that are kept
	warn   func(string)
	failed bool // and warned of
}

// keepMount keeps what does not change, unless a predecessor has.
func (r *recorder) keepMount(m mountRecord) (err error) {
	if r.keeper == nil || r.mount != nil {
		return nil
	}
	if r.mount, err = memoryFile(keptMount, m, true); err != nil {
		return err
	}
	return r.keeper.Keep(keptMount, r.mount)
}

// resume goes on with the numbers of a predecessor, whose trees go as newer ones come.
func (r *recorder) resume(pre *Predecessor) {
	r.mount = pre.record
	for _, t := range pre.trees {
		r.number = t.Number
		r.trees = append(r.trees, t.Number)
	}
	r.number = max(r.number, pre.served)
}

// keepTree keeps a tree that is about to be served. Of those before, one stays. A failure is no obstacle to the change: a
// successor would notice that the tree is missing, and mount afresh.
func (r *recorder) keepTree(t *treeRecord, s *build.Snapshot) {
	if r.keeper == nil {
		return
	}
	r.number++
	err := r.keep(t, s)
	fault.At("tree kept")
	switch {
	case err == nil:
		r.failed = false
		r.trees = append(r.trees, r.number)
		for len(r.trees) > 2 {
			r.keeper.Drop(treeName(r.trees[0]))
			r.trees = r.trees[1:]
		}
	case !r.failed:
		r.failed = true
		r.warn(fmt.Sprintf("the tree cannot be kept for a successor: %v: should the daemon be killed now, its mount is lost", err))
	}
}

func (r *recorder) keep(t *treeRecord, s *build.Snapshot) (err error) {
	t.Number = r.number
	if t.Snapshot, err = s.MarshalBinary(); err != nil {
		return err
	}
	name := treeName(r.number)
	f, err := memoryFile(name, t, false)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.keeper.Keep(name, f)
}

// markServed records that the newest tree is served.
func (r *recorder) markServed() {
	if r.keeper == nil {
		return
	}
	if _, err := r.mount.WriteAt(binary.NativeEndian.AppendUint64(nil, r.number), 0); err != nil {
		r.warn(fmt.Sprintf("keep the number of the tree: %v", err))
	}
	fault.At("tree noted")
}

// dropAll lets go of everything that is kept.
func (r *recorder) dropAll() {
	if r.keeper == nil {
		return
	}
	for _, name := range []string{KeptDevice, keptLock, keptMount} {
		r.keeper.Drop(name)
	}
	for _, n := range r.trees {
		r.keeper.Drop(treeName(n))
	}
	r.keeper = nil
	if r.mount != nil {
		r.mount.Close()
	}
}

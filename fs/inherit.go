package fs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Predecessor is what another process kept of its mount, to go on with.
type Predecessor struct {
	device *os.File
	lock   *os.File // nil if it is not there
	mount  *mountRecord
	record *os.File // that holds it
	served uint64   // number of the tree that was
	trees  []inheritedTree
	names  []string // under which it is kept
	err    error    // why it cannot be gone on with, as far as that can be told yet
}

type inheritedTree struct {
	treeRecord
	snapshot *build.Snapshot
}

// Inherit makes sense of what a predecessor kept, by name, and takes the files over. It is nil if there is
// no mount among them.
func Inherit(kept map[string]*os.File) *Predecessor {
	p := &Predecessor{device: kept[KeptDevice], lock: kept[keptLock], record: kept[keptMount]}
	defer func() {
		for _, f := range kept {
			if f != p.device && f != p.lock && f != p.record {
				f.Close()
			}
		}
	}()
	for name := range kept {
		p.names = append(p.names, name)
	}
	if p.device == nil {
		p.lock.Close() // nil or not
		p.record.Close()
		return nil
	}
	if p.record != nil {
		p.mount = &mountRecord{}
		if p.err = isOwn(p.record); p.err != nil {
			p.mount = nil
			return p
		}
		if p.served, p.err = readRecord(p.record, p.mount, true); p.err == nil && p.mount.Format != format {
			p.err = fmt.Errorf("it is of format %d, this program has %d", p.mount.Format, format)
		}
		if p.err != nil {
			p.err = fmt.Errorf("%s: %w", keptMount, p.err)
			p.mount = nil
			return p
		}
	}
	for name, f := range kept {
		number, ok := treeNumber(name)
		if !ok {
			continue
		}
		t := inheritedTree{}
		err := isOwn(f)
		if err == nil {
			_, err = readRecord(f, &t.treeRecord, false)
		}
		if err == nil {
			t.snapshot, err = build.ParseSnapshot(t.Snapshot)
		}
		if err == nil && t.Number != number {
			err = fmt.Errorf("it is number %d", t.Number)
		}
		if err != nil {
			p.err = fmt.Errorf("%s: %w", name, err)
			continue
		}
		t.Snapshot = nil
		p.trees = append(p.trees, t)
	}
	slices.SortFunc(p.trees, func(a, b inheritedTree) int { return cmp.Compare(a.Number, b.Number) })
	return p
}

// isOwn refuses a record that a process of another user has written. What a daemon with fewer rights says is not for
// root to act on.
func isOwn(record *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(record.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s was kept by uid %d", record.Name(), st.Uid)
	}
	return nil
}

// Snapshot is the last tree of the predecessor, nil if there is none to go on from.
func (p *Predecessor) Snapshot() *build.Snapshot {
	if p == nil || len(p.trees) == 0 {
		return nil
	}
	return p.trees[len(p.trees)-1].snapshot
}

func (p *Predecessor) private() bool { return p.mount != nil && p.mount.Private }

// check reports why the mount cannot be gone on with on dir.
func (p *Predecessor) check(dir string) error {
	switch {
	case p.err != nil:
		return p.err
	case p.mount == nil && len(p.trees) > 0, p.mount != nil && p.served > 0 && !slices.ContainsFunc(p.trees, func(t inheritedTree) bool { return t.Number == p.served }):
		return errors.New("the tree that it served was not kept")
	case p.mount != nil && p.mount.Dir != dir:
		return fmt.Errorf("its mount is on %s", p.mount.Dir)
	case !isConnected(p.device):
		return errors.New("its mount is gone")
	}
	top, ok, err := topmost(dir)
	switch {
	case err != nil:
		return err
	case !ok || top.fstype != fsType:
		return fmt.Errorf("its mount is no longer on %s", dir)
	case p.mount != nil && top.device != p.mount.Number:
		return fmt.Errorf("another mount is on %s", dir)
	}
	return nil
}

// drop lets go of the mount, which ends unless somebody else holds its device, and of what was kept of it. The lock is left.
func (p *Predecessor) drop(k Keeper) {
	p.device.Close()
	p.record.Close() // nil or not
	for _, name := range p.names {
		if k != nil && strings.HasPrefix(name, KeptPrefix) && name != keptLock {
			k.Drop(name)
		}
	}
}

// isMount reports whether a mount is that of the predecessor.
func (p *Predecessor) isMount(m mounted, _ *os.File) bool {
	return p.mount != nil && m.device == p.mount.Number && isConnected(p.device)
}

// Discard ends a mount that is not wanted any more, and removes the directory that was made for it.
func (p *Predecessor) Discard(runtimeDir string, k Keeper) error {
	var err error
	if p.mount != nil && !isRoots(p.private()) {
		err = p.takeOff(runtimeDir)
	}
	p.drop(k)
	if p.lock != nil {
		// Whoever keeps a copy may take a while to close it.
		unix.Flock(int(p.lock.Fd()), unix.LOCK_UN)
		p.lock.Close()
	}
	if k != nil {
		k.Drop(keptLock)
	}
	return err
}

func (p *Predecessor) takeOff(runtimeDir string) error {
	q, err := claimPoint(p.mount.Dir, runtimeDir, nil, p)
	if err != nil {
		return err
	}
	if _, err := q.detach(unix.MNT_DETACH|unix.MNT_FORCE, p.isMount); err != nil {
		return errors.Join(err, q.close())
	}
	return q.release()
}

// isConnected reports whether the kernel still has a mount for the device: after the last one is gone it
// signals an error.
func isConnected(device *os.File) bool {
	connected := false
	if conn, err := device.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, err := unix.Poll(poll, 0)
			connected = err == nil && poll[0].Revents&unix.POLLERR == 0
		})
	}
	return connected
}

// adopt enters all nodes that the predecessor may have handed out, and goes on with their inode numbers.
func (f *rawFS) adopt(p *Predecessor, next *build.Snapshot) {
	f.adoptNumbers(p, next)
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

// adoptNumbers goes on with the inode numbers of the predecessor.
//
// An older one showed 64 bits. The kernel keeps those with the attributes, which ask has it drop after each handover, and
// in the listings of directories. Those it drops when a directory has another mtime: therefore that of each
// is moved by what no one sees, once and for as long as the mount lasts.
func (f *rawFS) adoptNumbers(p *Predecessor, next *build.Snapshot) {
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
	var held []holding
	var others []*build.Snapshot
	for _, t := range slices.Backward(p.trees) {
		for _, file := range t.Files {
			held = append(held, holding{file.Path, tree.NewLeaf(file.Content, file.Attr, file.Mtime), false})
		}
		for _, path := range t.Dirs {
			held = append(held, holding{path: path, dir: true})
		}
		others = append(others, t.snapshot)
	}
	f.renumber(n, newest.snapshot, held, append(others[1:], next)...)
	f.serve(&tree{snapshot: next, numbering: f.allotment.numbering})
	f.allotment.shared = true
}

// owed is all that the kernel may believe wrongly when next is served: what the predecessor did not get to
// telling, and what is different in next.
func (p *publisher) owed(pre *Predecessor, next *build.Snapshot) round {
	r := round{}
	var old *build.Snapshot
	for _, t := range pre.trees {
		if old != nil {
			p.differences(r, old, t.snapshot, build.Diff(old, t.snapshot))
		}
		for _, late := range t.Late {
			p.tell(r, late.Dir, errand{late.Names, late.Attr, late.Below})
		}
		old = t.snapshot
	}
	if n := len(pre.trees); n > 0 && pre.trees[n-1].Numbers == nil {
		p.tell(r, "/", errand{attr: true}) // ask does it for the others
	}
	if old != nil {
		p.differences(r, old, next, build.Diff(old, next))
	}
	return r
}

// reconcile tells the kernel what it is owed.
func (p *publisher) reconcile(r round) {
	p.touch(r)
	p.carryOut(r)
	fault.At("kernel told")
	p.ask()
}

package fs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/build"
)

// A Predecessor is what another process kept of its mount, to go on with.
type Predecessor struct {
	device *os.File
	lock   *os.File     // nil if it was not kept
	mount  *mountRecord // nil if nobody has answered on the device yet
	record *os.File     // that holds mount
	served uint64       // number of the tree that was served
	trees  []inheritedTree
	names  []string // under which it is kept
	err    error    // why it cannot be continued, as far as that can be told yet
}

type inheritedTree struct {
	treeRecord
	snapshot *build.Snapshot
}

// Inherit makes sense of what a predecessor kept, by name, and takes the files over. It is nil if there is no mount among
// them.
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
		if p.mount, p.served, p.err = readMountRecord(p.record); p.err != nil {
			return p
		}
	}
	for name, f := range kept {
		number, ok := treeNumber(name)
		if !ok {
			continue
		}
		t, err := readTree(f, number)
		if err != nil {
			p.err = fmt.Errorf("%s: %w", name, err)
			continue
		}
		p.trees = append(p.trees, t)
	}
	slices.SortFunc(p.trees, func(a, b inheritedTree) int { return cmp.Compare(a.Number, b.Number) })
	return p
}

// readMountRecord reads the record of the mount, and the number of the tree that was served.
func readMountRecord(f *os.File) (m *mountRecord, served uint64, err error) {
	if err := isOwn(f); err != nil {
		return nil, 0, err
	}
	m = &mountRecord{}
	served, err = readRecord(f, m, true)
	if err == nil && m.Format != format {
		err = fmt.Errorf("it is of format %d, this program has %d", m.Format, format)
	}
	if err != nil {
		return nil, served, fmt.Errorf("%s: %w", keptMount, err)
	}
	return m, served, nil
}

// readTree reads the tree that is kept under a number.
func readTree(f *os.File, number uint64) (t inheritedTree, err error) {
	if err := isOwn(f); err != nil {
		return t, err
	}
	if _, err := readRecord(f, &t.treeRecord, false); err != nil {
		return t, err
	}
	if t.snapshot, err = build.ParseSnapshot(t.Snapshot); err != nil {
		return t, err
	}
	if t.Number != number {
		return t, fmt.Errorf("it is number %d", t.Number)
	}
	t.Snapshot = nil
	return t, nil
}

// isOwn refuses a record that a process of another user has written: root must not act on what a daemon with fewer rights
// says.
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

// mountedByRoot reports whether root has mounted for us, and keeps its claim where we cannot look.
func mountedByRoot(private bool) bool { return os.Geteuid() != 0 && !private }

// point is what the mount point takes over.
func (p *Predecessor) point() mountpoint.Inherited {
	from := mountpoint.Inherited{Lock: p.lock, ByRoot: mountedByRoot(p.private())}
	if p.mount != nil {
		from.Dir = p.mount.Dir
	}
	return from
}

// check reports why the mount cannot be continued on dir.
func (p *Predecessor) check(dir string) error {
	switch {
	case p.err != nil:
		return p.err
	case !p.hasServedTree():
		return errors.New("the tree that it served was not kept")
	case p.mount != nil && p.mount.Dir != dir:
		return fmt.Errorf("its mount is on %s", p.mount.Dir)
	case !mountpoint.IsConnected(p.device):
		return errors.New("its mount is gone")
	}
	top, ok, err := mountpoint.Topmost(dir)
	switch {
	case err != nil:
		return err
	case !ok || top.Type != mountpoint.FSType:
		return fmt.Errorf("its mount is no longer on %s", dir)
	case p.mount != nil && top.Device != p.mount.Number:
		return fmt.Errorf("another mount is on %s", dir)
	}
	return nil
}

// hasServedTree reports whether the tree that was served was kept; there is none before anybody has answered.
func (p *Predecessor) hasServedTree() bool {
	if p.mount == nil {
		return len(p.trees) == 0
	}
	return p.served == 0 || slices.ContainsFunc(p.trees, func(t inheritedTree) bool { return t.Number == p.served })
}

// isMount reports whether a mount is that of the predecessor.
func (p *Predecessor) isMount(m mountpoint.Mount, _ *os.File) bool {
	return p.mount != nil && m.Device == p.mount.Number && mountpoint.IsConnected(p.device)
}

// Discard ends a mount that is not wanted any more, and removes the directory that was made for it.
func (p *Predecessor) Discard(runtimeDir string, k Keeper) error {
	var err error
	if p.mount != nil && !mountedByRoot(p.private()) {
		err = p.unmount(runtimeDir)
	}
	p.drop(k)
	if p.lock != nil {
		// A process that keeps a copy may take a while to close it.
		unix.Flock(int(p.lock.Fd()), unix.LOCK_UN)
		p.lock.Close()
	}
	if k != nil {
		k.Drop(keptLock)
	}
	return err
}

func (p *Predecessor) unmount(runtimeDir string) error {
	q, err := mountpoint.ClaimInherited(p.mount.Dir, runtimeDir, p.point())
	if err != nil {
		return err
	}
	if _, err := q.Detach(unix.MNT_DETACH|unix.MNT_FORCE, p.isMount); err != nil {
		return errors.Join(err, q.Close())
	}
	return q.Release()
}

// drop lets go of the mount, which ends unless another process has its device open, and of what was kept of it. The lock
// stays.
func (p *Predecessor) drop(k Keeper) {
	p.device.Close()
	p.record.Close() // nil or not
	for _, name := range p.names {
		if k != nil && strings.HasPrefix(name, KeptPrefix) && name != keptLock {
			k.Drop(name)
		}
	}
}

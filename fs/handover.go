package fs

import (
	"errors"

	"github.com/imdsfs/imdsfs/source/build"
)

// HandOver leaves the mount to a successor. It stops answering between two requests. All that the successor needs is kept by
// k when HandOver returns; if the configuration has a Keeper, k has to be that. Readers pause until the successor goes on.
// After an error there will be none: call Unmount.
//
// The child process that sends notifications may go on until the successor answers: its process id is lingering, or 0.
func (d *Door) HandOver(k Keeper) (lingering int, err error) {
	d.publisher.stop()
	<-d.publisher.done
	r := &d.publisher.recorder
	if r.keeper == nil {
		r.keeper = k
		err = d.keepDevice(false)
	}
	if err = errors.Join(err, d.keepTree(d.fs.current.Load().snapshot, nil)); err != nil {
		return 0, err
	}
	d.server.pause()
	return d.notifier.close(true), nil
}

// keepDevice keeps the device and the lock, unless a predecessor has.
func (d *Door) keepDevice(inherited bool) error {
	k := d.publisher.recorder.keeper
	if k == nil {
		return nil
	}
	var err error
	if !d.point.Inherited() {
		err = k.Keep(keptLock, d.point.Lock())
	}
	if !inherited {
		err = errors.Join(err, k.Keep(KeptDevice, d.device))
	}
	return err
}

// keepTree keeps a tree that no other process has kept, with what the kernel has outdated besides, and the record of the
// mount if there is none.
func (d *Door) keepTree(s *build.Snapshot, outdated invalidations) error {
	r := &d.publisher.recorder
	if err := r.keepMount(mountRecord{format, d.point.Dir(), d.number, d.private, d.fs.key, d.init, !d.handles}); err != nil {
		return err
	}
	t := d.publisher.stillKnown(s, s, true)
	for dir, inv := range outdated {
		t.Late = append(t.Late, inv.record(dir))
	}
	r.keepTree(t, s)
	r.markServed()
	if r.failed {
		return errors.New("the tree could not be kept for a successor")
	}
	return nil
}

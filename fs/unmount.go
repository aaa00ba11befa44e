package fs

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

const (
	// stopLimit bounds Unmount.
	stopLimit = 2 * time.Second
	// invalidateLimit is the part of it that the kernel gets to drop what it has cached.
	invalidateLimit = 1500 * time.Millisecond
)

// Unmount ends the mount within 2 s, also while it is in use. A process that still has files open or works in the mount
// reads what the kernel has cached of them, and otherwise gets ENOTCONN or ECONNABORTED. What is not open is dropped from
// the kernel first, so that nothing outlives the daemon in a bind mount. The directory is removed if Mount made it. Calling
// Unmount again, or after Done, is fine.
func (d *Door) Unmount() error {
	d.unmount.Do(func() { d.err = d.end() })
	return d.err
}

func (d *Door) end() error {
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	d.publisher.stop()
	d.dropCached()
	if mountedByRoot(d.private) {
		return d.leave() // root unmounts it
	}
	err := d.detach()
	select {
	case <-d.done:
	case <-limit.C:
		d.warn(fmt.Sprintf("%s is still in use elsewhere; that ends with this process", d.point.Dir()))
	}
	d.publisher.recorder.dropAll()
	return errors.Join(err, d.point.Release())
}

// leave ends the connection by letting go of it. The directory stays, with a dead mount on it.
func (d *Door) leave() error {
	d.server.pause()
	d.notifier.close(false)
	d.publisher.recorder.dropAll()
	d.device.Close()
	return d.point.Close()
}

// dropCached has the kernel drop the versions' directories, and with them all below that no process has open.
func (d *Door) dropCached() {
	d.fs.stopping.Store(true)
	dropped := make(chan struct{})
	go func() {
		defer close(dropped)
		<-d.publisher.done
		d.publisher.dropAll()
	}()
	limit := time.NewTimer(invalidateLimit)
	defer limit.Stop()
	select {
	case <-dropped:
	case <-d.done: // it is unmounted already
	case <-limit.C:
		d.warn(fmt.Sprintf("the kernel does not drop what it keeps of %s: a process hangs in it", d.point.Dir()))
	}
}

// detach takes our mount off the directory, and nothing else that is there.
func (d *Door) detach() error {
	// MNT_FORCE ends the connection: otherwise bind mounts in containers would keep it alive for as long as this process
	// lives.
	done, err := d.point.Detach(unix.MNT_DETACH|unix.MNT_FORCE, mountpoint.HasDevice(d.number))
	switch {
	case err != nil:
		return fmt.Errorf("unmount %s: %w", d.point.Dir(), err)
	case done:
		return nil
	}
	top, ok, err := mountpoint.Topmost(d.point.Dir())
	if err != nil || !ok {
		return err // somebody else did
	}
	return fmt.Errorf("unmount %s: %s of type %s is mounted over it: unmount that, then this", d.point.Dir(), top.Source, top.Type)
}

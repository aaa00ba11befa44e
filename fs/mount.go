package fs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
)

var _ source.Door = (*Door)(nil)

const (
	// stopLimit bounds Unmount.
	stopLimit = 2 * time.Second
	// invalidateLimit is the part of it that the kernel gets to drop what it keeps.
	invalidateLimit = 500 * time.Millisecond
)

// A Config says where to mount.
type Config struct {
	// Dir is the mount point, an empty directory. If it is missing, its last component is made,
	// and removed by Unmount.
	Dir string
	// RuntimeDir exists and belongs to the daemon. It holds the inode key and the locks.
	RuntimeDir string
	// Warn is told, a sentence at a time, what an administrator should know; it holds no value of
	// the tree, may be called from any goroutine, and may be nil.
	Warn func(text string)
	// Clock tells when credentials expire; nil is the machine's.
	Clock source.Clock
}

// A Door is a mounted tree.
type Door struct {
	point     *point
	fs        *rawFS
	device    *os.File // /dev/fuse
	private   bool
	answerer  *answerer
	messenger *messenger
	publisher *publisher
	number    string // of the mount's device, "major:minor", to tell it from another at the same path
	warn      func(string)
	done      chan struct{}

	unmount sync.Once
	err     error
}

// Mount shows s on the directory. A dead mount of ours there is replaced. The error is a [PointError]
// when the directory cannot be mounted on.
//
// As root the mount is open to every user and container, as far as owner, group and mode allow. An
// ordinary user's mount goes through fusermount3 and is readable for that user alone.
func Mount(cfg Config, s *source.Snapshot) (*Door, error) {
	warn, clock := cfg.Warn, cfg.Clock
	if warn == nil {
		warn = func(string) {}
	}
	if clock == nil {
		clock = source.SystemClock()
	}
	k, err := loadKey(cfg.RuntimeDir)
	if err != nil {
		return nil, err
	}
	p, err := claim(cfg.Dir, cfg.RuntimeDir)
	if err != nil {
		return nil, err
	}
	d := &Door{point: p, fs: newRawFS(k, clock, s), warn: warn, done: make(chan struct{})}
	if err := d.connect(); err != nil {
		return nil, errors.Join(err, p.release())
	}
	go d.publisher.run()
	d.answerer.serve()
	go d.await()
	return d, nil
}

// connect mounts, and settles with the kernel how to talk.
func (d *Door) connect() (err error) {
	dir := d.point.dir
	if d.device, d.private, err = attach(dir, d.warn); err != nil {
		return err
	}
	if d.answerer, err = newAnswerer(d.fs, d.device, d.warn); err == nil {
		err = d.answerer.begin(func([]byte) error { return nil })
	}
	if err != nil {
		d.device.Close()
		return errors.Join(lookError(dir, err), detach(dir, unix.MNT_DETACH))
	}
	if top, ok, err := topmost(dir); err == nil && ok && top.fstype == fsType {
		d.number = top.device
	}
	d.messenger = newMessenger(d.device, orphan{dir, d.number}, d.warn)
	d.publisher = newPublisher(d.fs, d.messenger, d.warn)
	return nil
}

// await is the end of the mount.
func (d *Door) await() {
	<-d.answerer.ended
	d.answerer.running.Wait()
	d.answerer.close()
	d.messenger.close(false)
	d.device.Close()
	close(d.done)
}

// Publish shows next. When it returns, no process can open, list or stat anything older by name,
// through the mount or any bind mount of it; descriptors that are open keep what they opened. It
// waits 1 s at most for a kernel that does not answer; the change is completed as soon as it does.
// Of snapshots that pile up meanwhile the last one counts.
func (d *Door) Publish(next *source.Snapshot) { d.publisher.publish(next) }

// Dir is the mount point, absolute and without symbolic links.
func (d *Door) Dir() string { return d.point.dir }

// Private reports whether only our own user can read the mount, because it was made with fusermount3.
func (d *Door) Private() bool { return d.private }

// Done is closed when the mount has ended: after Unmount, or because somebody else unmounted it.
func (d *Door) Done() <-chan struct{} { return d.done }

// Requests counts the kernel's requests by FUSE operation since Mount; "refused" is all that would
// change something, "other" what the kernel does without.
func (d *Door) Requests() map[string]uint64 { return d.fs.requests() }

// Stalled counts the changes that the kernel did not take within 5 s.
func (d *Door) Stalled() uint64 { return d.publisher.stalled.Load() }

// Inodes is how many files and directories the kernel knows.
func (d *Door) Inodes() int { return d.fs.table.size() }

// Unmount ends the mount within 2 s, also while it is in use: who still has files open or works in it
// reads what the kernel keeps of them and otherwise gets ENOTCONN or ECONNABORTED. What is not open is
// dropped from the kernel first, so that nothing outlives the daemon in a bind mount. The directory is
// removed if Mount made it. Calling it again, or after Done, is fine.
func (d *Door) Unmount() error {
	d.unmount.Do(func() { d.err = d.end() })
	return d.err
}

func (d *Door) end() error {
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	d.publisher.stop()
	d.invalidate()
	err := d.detach()
	select {
	case <-d.done:
	case <-limit.C:
		d.warn(fmt.Sprintf("%s is still in use elsewhere; that ends with this process", d.point.dir))
	}
	return errors.Join(err, d.point.release())
}

// invalidate drops the versions' directories, and with them all below that nobody has open.
func (d *Door) invalidate() {
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
		d.warn(fmt.Sprintf("the kernel does not drop what it keeps of %s: a process hangs in it", d.point.dir))
	}
}

// detach takes our mount off the directory, and nothing else that is there.
func (d *Door) detach() error {
	top, ok, err := topmost(d.point.dir)
	switch {
	case err != nil:
		return err
	case !ok:
		return nil // somebody else did
	case top.fstype != fsType || top.device != d.number:
		return fmt.Errorf("unmount %s: %s of type %s is mounted over it: unmount that, then this", d.point.dir, top.source, top.fstype)
	}
	// MNT_FORCE ends the connection: otherwise bind mounts in containers would keep it going for
	// as long as this process lives.
	if err := detach(d.point.dir, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
		return fmt.Errorf("unmount %s: %w", d.point.dir, err)
	}
	return nil
}

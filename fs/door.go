package fs

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
)

var _ source.Door = (*Door)(nil)

// stuckAfter is how long a change may take at most, however loaded the machine. It waits for the kernel for publishWait
// only, and twice for the Keeper, which may be busy for some seconds.
const stuckAfter = 30 * time.Second

// A Door is a mounted tree. Its life:
//
//	Mount ──▶ Publish, again and again ──▶ Unmount ───────────────▶ Done
//	                    │                  somebody else unmounts ─▶ Done (call Unmount all the same)
//	                    └────────────────▶ HandOver: a successor goes on
type Door struct {
	point     *mountpoint.Point
	fs        *rawFS
	device    *os.File // /dev/fuse
	private   bool
	server    *server
	notifier  *notifier
	publisher *publisher
	number    string // of the mount's device, "major:minor", to tell it from another at the same path
	init      []byte // the kernel's first request
	handles   bool   // the kernel opens files by their handles
	resumed   bool
	warn      func(string)
	done      chan struct{}

	unmount sync.Once
	err     error // of unmount
}

func newDoor(p *mountpoint.Point, cfg *Config) *Door {
	return &Door{point: p, warn: cfg.Warn, done: make(chan struct{})}
}

// await closes everything when the connection has ended.
func (d *Door) await() {
	<-d.server.ended
	d.server.running.Wait()
	d.server.close()
	d.notifier.close(false)
	d.device.Close()
	close(d.done)
}

// Publish shows next. When it returns, no process can open, list or stat anything older by name, through the mount or any
// bind mount of it; descriptors that are open keep what they opened. It waits at most 1 s for a kernel that does not
// answer, on a busy machine up to 10 s; the change is completed as soon as the kernel answers. For a Keeper it waits as long
// as that takes. Of snapshots that pile up meanwhile the last one counts.
func (d *Door) Publish(next *build.Snapshot) { d.publisher.publish(next) }

// Dir is the mount point, absolute and without symbolic links.
func (d *Door) Dir() string { return d.point.Dir() }

// Private reports whether only our own user can read the mount, because it was made with fusermount3.
func (d *Door) Private() bool { return d.private }

// FileHandles reports whether a process with CAP_DAC_READ_SEARCH can open any file of the mount by a file handle
// (open_by_handle_at), also from a container that has only a sub-directory bound. Since Linux 6.9 the kernel refuses that if
// the mount was made by a version that asked for it.
func (d *Door) FileHandles() bool { return d.handles }

// Resumed reports whether the mount is a predecessor's.
func (d *Door) Resumed() bool { return d.resumed }

// Done is closed when the mount has ended: after Unmount, or because somebody else unmounted it.
func (d *Door) Done() <-chan struct{} { return d.done }

// Requests counts the kernel's requests by FUSE operation since Mount; "refused" is all that would change something, "other"
// what the kernel does without.
func (d *Door) Requests() map[string]uint64 { return d.fs.requests() }

// Stalled counts the changes that the kernel did not take within 5 s.
func (d *Door) Stalled() uint64 { return d.publisher.invalidator.stalled.Load() }

// Inodes is how many files and directories the kernel knows.
func (d *Door) Inodes() int { return d.fs.table.size() }

// Check reports what is wrong with the daemon's side of the mount: the kernel gets no answer, or changes do not get through.
// A process that hangs in the mount is not the daemon's fault. Check takes at most 1 s, and longer on a busy machine.
func (d *Door) Check() error {
	if since := d.publisher.busySince(); !since.IsZero() && time.Since(since) > stuckAfter {
		return fmt.Errorf("a change has been under way for %v", time.Since(since).Truncate(time.Second))
	}
	if err := mountpoint.Alive(d.point.Dir()); err != nil && !mountpoint.IsDead(err) {
		return fmt.Errorf("statfs %s: %w", d.point.Dir(), err)
	}
	return nil
}

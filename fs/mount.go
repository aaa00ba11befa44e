package fs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

var _ source.Door = (*Door)(nil)

const (
	// stopLimit bounds Unmount.
	stopLimit = 2 * time.Second
	// stuckAfter is how long a change may take at most, however loaded the machine: it waits for the
	// kernel for publishWait only, and for the Keeper twice, which may be busy for some seconds.
	stuckAfter = 30 * time.Second
	// invalidateLimit is the part of it that the kernel gets to drop what it keeps.
	invalidateLimit = 1500 * time.Millisecond
)

// A Config says where to mount.
type Config struct {
	// Dir is the mount point, an empty directory. If it is missing, its last component is made,
	// and removed by Unmount.
	Dir string
	// Source is what the list of mounts shows as mounted there; empty: "imdsfs".
	Source string
	// RuntimeDir exists and belongs to the daemon. It holds the inode key and, where the daemon mounts itself, the
	// claims of mount points.
	RuntimeDir string
	// Warn is told, a sentence at a time, what an administrator should know; it holds no value of
	// the tree, may be called from any goroutine, and may be nil.
	Warn func(text string)
	// Clock tells when credentials expire; nil is the machine's.
	Clock clock.Clock
	// Keeper, if not nil, holds all the time what a successor needs to go on with the mount, so that
	// it outlives a kill of this process.
	Keeper Keeper
	// Predecessor, if not nil, is whose mount to go on with. If that cannot be, it is ended, Warn is
	// told why, and the mount is made afresh.
	Predecessor *Predecessor
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
	init      []byte // the kernel's first request
	handles   bool   // the kernel opens files by their handles
	resumed   bool
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
func Mount(cfg Config, s *build.Snapshot) (*Door, error) {
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System()
	}
	k, err := loadKey(cfg.RuntimeDir)
	if err != nil {
		return nil, err
	}
	pre := cfg.Predecessor
	p, err := claimPoint(cfg.Dir, cfg.RuntimeDir, nil, pre)
	if err != nil {
		return nil, err
	}
	d := &Door{point: p, warn: cfg.Warn, done: make(chan struct{})}
	if pre != nil {
		if err = pre.check(p.dir); err == nil {
			err = d.resume(&cfg, k, s)
		}
		if err != nil {
			d.warn(fmt.Sprintf("cannot go on with the mount of the predecessor: %v. It is mounted afresh: bind mounts of the old one have to be made anew", err))
			if p.inherited {
				if !isRoots(pre.private()) { // else root takes it off, when it is dead
					if _, err := p.detach(unix.MNT_DETACH|unix.MNT_FORCE, pre.isMount); err != nil {
						d.warn(err.Error())
					}
				}
				pre.drop(cfg.Keeper)
			} else if err := pre.Discard(cfg.RuntimeDir, cfg.Keeper); err != nil {
				d.warn(err.Error())
			}
			cfg.Predecessor = nil
			if isRoots(pre.private()) {
				// Who mounted it for us does it again, as soon as nobody holds the lock.
				if cfg.Keeper != nil {
					cfg.Keeper.Drop(keptLock)
				}
				return nil, errors.Join(fmt.Errorf("mount %s: the mount that was handed over cannot be used", p.dir), p.close())
			}
		}
	}
	if !d.resumed {
		if err := p.prepare(); err != nil {
			return nil, errors.Join(err, p.release())
		}
		if err := d.connect(&cfg, k, s); err != nil {
			return nil, errors.Join(err, p.release())
		}
	}
	if d.handles {
		d.warn(handlesOpen)
	}
	fault.At("mount answered")
	go d.publisher.run()
	go d.await()
	return d, nil
}

// connect mounts, and settles with the kernel how to talk.
func (d *Door) connect(cfg *Config, k key, s *build.Snapshot) (err error) {
	dir := d.point.dir
	d.fs = newRawFS(k, cfg.Clock, s)
	if d.device, d.private, err = attach(d.point, cfg.Source, cfg.Keeper != nil, d.warn); err != nil {
		return err
	}
	fault.At("mounted")
	top, ok, err := topmost(dir)
	if err == nil && (!ok || top.fstype != fsType) {
		err = errors.New("the mount vanished")
	}
	if err == nil {
		d.number = top.device
		d.assemble(cfg)
		if err = d.keepDevice(false); err == nil {
			fault.At("device kept")
			err = d.greet(s)
		}
	}
	if err != nil {
		d.device.Close()
		_, undo := d.point.detach(unix.MNT_DETACH, hasNumber(d.number))
		return errors.Join(lookError(dir, err), undo)
	}
	d.answerer.serve()
	return nil
}

// assemble makes what works on the device.
func (d *Door) assemble(cfg *Config) {
	o := orphan{d.point.dir, d.number, cfg.Keeper != nil}
	d.answerer = newAnswerer(d.fs, d.device, d.warn)
	d.messenger = newMessenger(d.device, o, d.warn)
	d.publisher = newPublisher(d.fs, d.messenger, d.warn)
	d.publisher.record.keeper = cfg.Keeper
}

// greet takes the kernel's first request. What a successor needs is kept before it is answered.
func (d *Door) greet(s *build.Snapshot) error {
	return d.answerer.begin(func(init []byte) error {
		d.init = slices.Clone(init)
		d.handles = parseInit(init).Flags64()&noFileHandles == 0
		fault.At("first request read")
		return d.keepTree(s, nil)
	})
}

// keepDevice keeps the device and the lock, unless a predecessor has.
func (d *Door) keepDevice(inherited bool) error {
	k := d.publisher.record.keeper
	if k == nil {
		return nil
	}
	var err error
	if !d.point.inherited {
		err = k.Keep(keptLock, d.point.claim.lock)
	}
	if !inherited {
		err = errors.Join(err, k.Keep(KeptDevice, d.device))
	}
	return err
}

// keepTree keeps a tree that no other process has kept, with what the kernel is owed besides, and the record of the
// mount if there is none.
func (d *Door) keepTree(s *build.Snapshot, owed round) error {
	r := &d.publisher.record
	if err := r.begin(mountRecord{format, d.point.dir, d.number, d.private, d.fs.key, d.init, !d.handles}); err != nil {
		return err
	}
	t := d.publisher.beliefs(s, s, true)
	for dir, e := range owed {
		t.Late = append(t.Late, lateRecord{dir, e.names, e.attr, e.below})
	}
	r.tree(t, s)
	r.served()
	if r.failed {
		return errors.New("the tree could not be kept for a successor")
	}
	return nil
}

// resume goes on with the mount of a predecessor.
func (d *Door) resume(cfg *Config, k key, s *build.Snapshot) error {
	pre := cfg.Predecessor
	d.device = pre.device
	if conn, err := d.device.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { unix.SetNonblock(int(fd), true) })
	}
	first := pre.mount == nil // nobody has answered on it yet
	if first {
		top, _, err := topmost(d.point.dir)
		if err != nil {
			return err
		}
		d.number, d.fs = top.device, newRawFS(k, cfg.Clock, s)
	} else {
		// Its key: node ids have to be the same, whatever has become of the file.
		d.number, d.private, d.init = pre.mount.Number, pre.mount.Private, pre.mount.Init
		d.handles = !pre.mount.NoFileHandles
		d.fs = newRawFS(pre.mount.Key, cfg.Clock, s)
	}
	d.assemble(cfg)
	if err := d.keepDevice(true); err != nil {
		return err
	}
	var owed round
	if !first {
		if err := d.answerer.resume(d.init); err != nil {
			return err
		}
		d.fs.adopt(pre, s)
		d.publisher.record.resume(pre)
		// Kept before the oldest tree goes: this process may end before it has told anything.
		owed = d.publisher.owed(pre, s)
		if err := d.keepTree(s, owed); err != nil {
			return err
		}
		fault.At("records renewed")
	}
	// Before anything is read: what comes in later would be sent again as well.
	if err := resend(d.device); err != nil {
		return err
	}
	fault.At("requests sent again")
	if first {
		if err := d.greet(s); err != nil {
			return err
		}
	}
	d.answerer.serve()
	d.publisher.reconcile(owed)
	d.resumed = true
	return nil
}

// resend has the kernel send again what the predecessor had read and not answered. Before Linux 6.9 it cannot.
func resend(device *os.File) error {
	conn, err := device.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		_, inner = unix.Write(int(fd), appendNotifyHeader(nil, outHeaderSize, notifyResend))
	})
	if errors.Is(inner, unix.EINVAL) {
		inner = nil
	}
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("have the kernel send again what was not answered: %w", err)
	}
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
// waits 1 s at most for a kernel that does not answer, on a busy machine up to 10 s; the change is completed as soon as
// it does. For a Keeper it waits as long as that takes.
// Of snapshots that pile up meanwhile the last one counts.
func (d *Door) Publish(next *build.Snapshot) { d.publisher.publish(next) }

// Dir is the mount point, absolute and without symbolic links.
func (d *Door) Dir() string { return d.point.dir }

// Private reports whether only our own user can read the mount, because it was made with fusermount3.
func (d *Door) Private() bool { return d.private }

// FileHandles reports whether a process with CAP_DAC_READ_SEARCH can open any file of the mount by a file handle
// (open_by_handle_at), also from a container that has only a sub-directory bound. The kernel is told to refuse that
// where it can be, since Linux 6.9, but not on a mount that a version made which did not tell it.
func (d *Door) FileHandles() bool { return d.handles }

// Resumed reports whether the mount is a predecessor's.
func (d *Door) Resumed() bool { return d.resumed }

// Done is closed when the mount has ended: after Unmount, or because somebody else unmounted it.
func (d *Door) Done() <-chan struct{} { return d.done }

// Requests counts the kernel's requests by FUSE operation since Mount; "refused" is all that would
// change something, "other" what the kernel does without.
func (d *Door) Requests() map[string]uint64 { return d.fs.requests() }

// Stalled counts the changes that the kernel did not take within 5 s.
func (d *Door) Stalled() uint64 { return d.publisher.stalled.Load() }

// Inodes is how many files and directories the kernel knows.
func (d *Door) Inodes() int { return d.fs.table.size() }

// Check reports what is wrong with the daemon's side of the mount: the kernel gets no answer, or changes do
// not get anywhere. That somebody hangs in the mount is not the daemon's fault. It takes 1 s at most, and longer on a busy
// machine.
func (d *Door) Check() error {
	if since := d.publisher.busySince(); !since.IsZero() && time.Since(since) > stuckAfter {
		return fmt.Errorf("a change has been under way for %v", time.Since(since).Truncate(time.Second))
	}
	if _, err := probe(probeAlive, d.point.dir); err != nil && !isDead(err) {
		return fmt.Errorf("statfs %s: %w", d.point.dir, err)
	}
	return nil
}

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
	if isRoots(d.private) {
		return d.leave() // who mounted it for us unmounts it
	}
	err := d.detach()
	select {
	case <-d.done:
	case <-limit.C:
		d.warn(fmt.Sprintf("%s is still in use elsewhere; that ends with this process", d.point.dir))
	}
	d.publisher.record.end()
	return errors.Join(err, d.point.release())
}

// leave ends the connection by letting go of it. The directory stays, with a dead mount on it.
func (d *Door) leave() error {
	d.answerer.pause()
	d.messenger.close(false)
	d.publisher.record.end()
	d.device.Close()
	return d.point.close()
}

// HandOver stops to answer, between two requests, and leaves the mount to a successor: all that it needs is
// kept by k when HandOver returns, which is the Keeper of the configuration if there is one. The kernel
// lets who reads the mount wait until the successor goes on. After an error there will be none: call
// Unmount.
//
// The process that tells the kernel of changes may hang on for the successor: its number is lingering, or 0.
func (d *Door) HandOver(k Keeper) (lingering int, err error) {
	d.publisher.stop()
	<-d.publisher.done
	r := &d.publisher.record
	if r.keeper == nil {
		r.keeper = k
		err = d.keepDevice(false)
	}
	if err = errors.Join(err, d.keepTree(d.fs.current.Load().snapshot, nil)); err != nil {
		return 0, err
	}
	d.answerer.pause()
	return d.messenger.close(true), nil
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
	// MNT_FORCE ends the connection: otherwise bind mounts in containers would keep it going for
	// as long as this process lives.
	done, err := d.point.detach(unix.MNT_DETACH|unix.MNT_FORCE, hasNumber(d.number))
	switch {
	case err != nil:
		return fmt.Errorf("unmount %s: %w", d.point.dir, err)
	case done:
		return nil
	}
	top, ok, err := topmost(d.point.dir)
	if err != nil || !ok {
		return err // somebody else did
	}
	return fmt.Errorf("unmount %s: %s of type %s is mounted over it: unmount that, then this", d.point.dir, top.source, top.fstype)
}

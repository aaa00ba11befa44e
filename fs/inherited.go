package fs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/build"
)

// mountInherited goes on with the mount of a predecessor. If that is not possible, it ends that mount and makes another.
func mountInherited(cfg *Config, k key, s *build.Snapshot) (*Door, error) {
	pre := cfg.Predecessor
	p, err := mountpoint.ClaimInherited(cfg.Dir, cfg.RuntimeDir, pre.point())
	if err != nil {
		return nil, err
	}
	d := newDoor(p, cfg)
	if err = pre.check(p.Dir()); err == nil {
		d.device = pre.device
		setNonblock(d.device)
		if pre.mount == nil {
			err = d.answerFirst(cfg, k, s)
		} else {
			err = d.resume(cfg, s)
		}
	}
	if err == nil {
		return d, nil
	}
	d.discard()
	cfg.Warn(fmt.Sprintf("cannot go on with the mount of the predecessor: %v. It is mounted afresh: bind mounts of the old one have to be made anew", err))
	return replaceInherited(p, cfg, k, s)
}

// resume goes on with a mount on which the predecessor has answered.
func (d *Door) resume(cfg *Config, s *build.Snapshot) error {
	pre := cfg.Predecessor
	d.number, d.private, d.init = pre.mount.Number, pre.mount.Private, pre.mount.Init
	d.handles = !pre.mount.NoFileHandles
	// Its key, whatever has become of the file: node ids have to be the same.
	d.fs = newRawFS(pre.mount.Key, cfg.Clock, s)
	d.assemble(cfg)
	if err := d.keepDevice(true); err != nil {
		return err
	}
	if err := d.server.resume(d.init); err != nil {
		return err
	}
	d.fs.inheritNodes(pre, s)
	d.publisher.recorder.resume(pre)
	// Kept before the oldest tree goes: this process may end before it has sent anything.
	outdated := d.publisher.outdated(pre, s)
	if err := d.keepTree(s, outdated); err != nil {
		return err
	}
	fault.At("records renewed")
	// Before anything is read: what comes in later would be sent again as well.
	if err := resend(d.device); err != nil {
		return err
	}
	fault.At("requests sent again")
	d.server.serve()
	d.publisher.reconcile(outdated)
	d.resumed = true
	return nil
}

// answerFirst goes on with a mount on which nobody has answered yet: root has made it for us.
func (d *Door) answerFirst(cfg *Config, k key, s *build.Snapshot) error {
	top, _, err := mountpoint.Topmost(d.point.Dir())
	if err != nil {
		return err
	}
	d.number, d.fs = top.Device, newRawFS(k, cfg.Clock, s)
	d.assemble(cfg)
	if err := d.keepDevice(true); err != nil {
		return err
	}
	// A daemon before us may have read the first request, and died.
	if err := resend(d.device); err != nil {
		return err
	}
	fault.At("requests sent again")
	if err := d.answerInit(s); err != nil {
		return err
	}
	d.server.serve()
	d.publisher.reconcile(nil)
	d.resumed = true
	return nil
}

// replaceInherited ends the mount of a predecessor that cannot be continued, and mounts afresh on the same point.
func replaceInherited(p *mountpoint.Point, cfg *Config, k key, s *build.Snapshot) (*Door, error) {
	pre := cfg.Predecessor
	cfg.Predecessor = nil
	byRoot := mountedByRoot(pre.private())
	if p.Inherited() {
		if !byRoot { // else root takes it off when it is dead
			if _, err := p.Detach(unix.MNT_DETACH|unix.MNT_FORCE, pre.isMount); err != nil {
				cfg.Warn(err.Error())
			}
		}
		pre.drop(cfg.Keeper)
	} else if err := pre.Discard(cfg.RuntimeDir, cfg.Keeper); err != nil {
		cfg.Warn(err.Error())
	}
	if byRoot {
		// Root mounts for us again, as soon as nobody has the lock.
		if cfg.Keeper != nil {
			cfg.Keeper.Drop(keptLock)
		}
		return nil, errors.Join(fmt.Errorf("mount %s: the mount that was handed over cannot be used", p.Dir()), p.Close())
	}
	return mountOn(p, cfg, k, s)
}

// setNonblock is for a device that another process opened.
func setNonblock(device *os.File) {
	if conn, err := device.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { unix.SetNonblock(int(fd), true) })
	}
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

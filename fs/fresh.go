package fs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/build"
)

// mountFresh mounts on a directory where nobody of ours answers.
func mountFresh(cfg *Config, k key, s *build.Snapshot) (*Door, error) {
	p, err := mountpoint.Claim(cfg.Dir, cfg.RuntimeDir)
	if err != nil {
		return nil, err
	}
	return mountOn(p, cfg, k, s)
}

// mountOn mounts on a point that is claimed, and settles with the kernel how to talk. After an error the point is released.
func mountOn(p *mountpoint.Point, cfg *Config, k key, s *build.Snapshot) (*Door, error) {
	d := newDoor(p, cfg)
	if err := p.Prepare(); err != nil {
		return nil, errors.Join(err, p.Release())
	}
	d.fs = newRawFS(k, cfg.Clock, s)
	var err error
	if d.device, d.private, err = attach(p, cfg); err != nil {
		return nil, errors.Join(err, p.Release())
	}
	fault.At("mounted")
	if err := d.connect(cfg, s); err != nil {
		d.discard()
		d.device.Close()
		_, undo := p.Detach(unix.MNT_DETACH, mountpoint.HasDevice(d.number))
		return nil, errors.Join(mountpoint.LookError(p.Dir(), err), undo, p.Release())
	}
	d.server.serve()
	return d, nil
}

// attach mounts, and returns the device that the kernel's requests come from. The mount is private if only our own user
// can read it.
func attach(p *mountpoint.Point, cfg *Config) (device *os.File, private bool, err error) {
	device, err = p.Attach(cfg.Source, os.Geteuid(), os.Getegid())
	switch {
	case err == nil:
		return device, false, nil
	case os.Geteuid() == 0 || !errors.Is(err, os.ErrPermission):
		return nil, false, mountpoint.LookError(p.Dir(), err)
	}
	device, err = attachUnprivileged(p, cfg)
	return device, err == nil, err
}

// connect has the device kept, and answers the kernel's first request.
func (d *Door) connect(cfg *Config, s *build.Snapshot) error {
	top, ok, err := mountpoint.Topmost(d.point.Dir())
	if err != nil {
		return err
	}
	if !ok || top.Type != mountpoint.FSType {
		return errors.New("the mount vanished")
	}
	d.number = top.Device
	d.assemble(cfg)
	if err := d.keepDevice(false); err != nil {
		return err
	}
	fault.At("device kept")
	return d.answerInit(s)
}

package mountpoint

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	// MaxRead is how many bytes the kernel asks for in one READ.
	MaxRead = 64 << 10

	hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// Attach opens /dev/fuse and mounts it on the point, for a daemon of this user. source is what the list of mounts shows as
// mounted; empty: "imdsfs". It writes into the claim which mount it is. The error is one for [LookError], and wraps
// [os.ErrPermission] if we may not mount.
//
// The superblock is writable and the mount is not, so that changes can be made through a private clone of the mount.
func (p *Point) Attach(source string, uid, gid int) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, refusal(p.dir, ErrNoFUSE, err.Error(), "modprobe fuse; in a container, --device /dev/fuse; or do without with --mount none")
	case err != nil:
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		fd, unix.S_IFDIR, uid, gid, MaxRead)
	if err := p.mount(cmp.Or(source, Subtype), options); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return deviceFile(fd)
}

// mount mounts on the directory that is there, read-only, and writes into the claim which mount it is.
func (p *Point) mount(source, options string) error {
	at, err := p.at()
	if err != nil {
		return err
	}
	defer at.Close()
	before, err := listMounts()
	if err != nil {
		return err
	}
	if err := unix.Mount(source, safepath.ProcPath(at), FSType, hardened, options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	// Whoever owns the directory above may have given the name to another mount, which is not ours to touch. Our mount then
	// ends with the device.
	top, f, err := p.top()
	if err == nil && (f == nil || top.Type != FSType || slices.ContainsFunc(before, func(m Mount) bool { return m.Device == top.Device })) {
		f.Close() // nil or not
		err = fmt.Errorf("the mount vanished from %s", p.dir)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Mount("", safepath.ProcPath(f), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|hardened, "")
	if err != nil {
		err = fmt.Errorf("make the mount read-only: %w", err)
	} else {
		id := identityOf(top, f)
		p.claim.text.Mount = &id
		err = p.claim.write()
	}
	if err != nil {
		return errors.Join(err, detachFile(f, p.dir, unix.MNT_DETACH))
	}
	return nil
}

// deviceFile makes a file of a descriptor of the device, out of the reach of the runtime's poller: that takes descriptors
// that do not block, and this one does so only afterwards.
func deviceFile(fd int) (*os.File, error) {
	f := os.NewFile(uintptr(fd), "/dev/fuse")
	return f, unix.SetNonblock(fd, true)
}

// IsConnected reports whether the kernel still has a mount for the device. After the last one is gone it signals an error.
func IsConnected(device *os.File) bool {
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

// detachFile takes off the mount whose root is open as f, which is on dir. It looks at nothing in it.
func detachFile(f *os.File, dir string, flags int) error {
	err := unix.Unmount(safepath.ProcPath(f), flags)
	if !errors.Is(err, unix.EPERM) || os.Geteuid() == 0 {
		return err
	}
	return fusermountDetach(dir)
}

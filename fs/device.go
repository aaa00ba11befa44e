package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	subtype  = "imdsfs"
	fsType   = "fuse." + subtype
	maxIO    = 64 << 10 // bytes, of one READ
	hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

	helperLimit = time.Second // fusermount3 -u
)

// A connection is a mount and what answers it.
type connection struct {
	server *fuse.Server
	// device is a descriptor of /dev/fuse of our own, beside go-fuse's: whoever holds one keeps
	// the mount alive, which is how a successor takes it over. nil with fusermount3.
	device *os.File
}

// connect mounts f on dir. An ordinary user gets what fusermount3 gives.
func connect(f *rawFS, dir string, warn func(string)) (*connection, error) {
	c, err := connectDevice(f, dir, warn)
	switch {
	case err == nil:
		return c, nil
	case os.Geteuid() == 0 || !errors.Is(err, os.ErrPermission):
		return nil, lookError(dir, err)
	}
	if c, err = connectHelper(f, dir, warn); err != nil {
		return nil, &PointError{dir, ErrPermission, strings.TrimSpace(err.Error()), "run as root, or install fuse3 and see to it that you may open /dev/fuse"}
	}
	warn(fmt.Sprintf("%s is mounted through fusermount3 because you are not root: only your own user can read it, not root and not containers, and it does not survive a crash of the daemon", dir))
	return c, nil
}

// connectDevice opens /dev/fuse and mounts by itself. The superblock is writable and the mount on dir
// is not, so that changes can be made through a private clone of the mount.
func connectDevice(f *rawFS, dir string, warn func(string)) (*connection, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, &PointError{dir, ErrNoFUSE, err.Error(), "modprobe fuse; in a container, --device /dev/fuse; or do without with --mount none"}
	case err != nil:
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("duplicate /dev/fuse: %w", err)
	}
	device := os.NewFile(uintptr(own), "/dev/fuse")
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxIO)
	if err := unix.Mount(subtype, dir, fsType, hardened, options); err != nil {
		unix.Close(fd)
		device.Close()
		return nil, fmt.Errorf("mount: %w", err)
	}
	err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|hardened, "")
	if err != nil {
		unix.Close(fd)
		err = fmt.Errorf("make the mount read-only: %w", err)
	} else {
		// From here on the descriptor is go-fuse's, and closed by it.
		var server *fuse.Server
		if server, err = fuse.NewServer(f, fmt.Sprintf("/dev/fd/%d", fd), mountOptions(f, warn)); err == nil {
			return &connection{server, device}, nil
		}
	}
	device.Close()
	return nil, errors.Join(err, detach(dir, unix.MNT_DETACH))
}

// connectHelper mounts through the setuid program fusermount3.
func connectHelper(f *rawFS, dir string, warn func(string)) (*connection, error) {
	o := mountOptions(f, warn)
	o.Options = []string{"ro", "nosuid", "nodev", "noexec", "default_permissions"}
	server, err := fuse.NewServer(f, dir, o)
	if err != nil {
		return nil, err
	}
	return &connection{server: server}, nil
}

func mountOptions(f *rawFS, warn func(string)) *fuse.MountOptions {
	return &fuse.MountOptions{
		FsName: subtype, Name: subtype, MaxWrite: maxIO,
		DisableXAttrs: true, DisableSplice: true, EnableSymlinkCaching: true, IDMappedMount: true,
		ExtraCapabilities: fuse.CAP_HAS_RESEND | fuse.CAP_READDIRPLUS_AUTO,
		Logger:            log.New(lineWriter{f, warn}, "", 0),
		PanicHandler: func(cause any) fuse.Status {
			warn(fmt.Sprintf("panic while answering the kernel: %v\n%s", cause, debug.Stack()))
			return fuse.EIO
		},
	}
}

// A lineWriter hands what go-fuse logs to a callback, but not that answers get lost while we unmount.
type lineWriter struct {
	fs   *rawFS
	warn func(string)
}

func (w lineWriter) Write(line []byte) (int, error) {
	if !w.fs.stopping.Load() {
		w.warn("go-fuse: " + string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}

// detach takes the topmost mount off dir without looking at it.
func detach(dir string, flags int) error {
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EPERM) || os.Geteuid() == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "fusermount3", "-u", "-z", "--", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

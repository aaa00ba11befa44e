package fs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	subtype  = "imdsfs"
	fsType   = "fuse." + subtype
	maxIO    = 64 << 10 // bytes, of one READ
	hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

	helperLimit = 10 * time.Second // fusermount3 -u
)

// attach mounts on a point and returns the device that the kernel's requests come from. An ordinary user gets
// what fusermount3 gives, which is private: for that user alone.
func attach(p *point, source string, kept bool, warn func(string)) (device *os.File, private bool, err error) {
	device, err = attachDirectly(p, source, os.Geteuid(), os.Getegid())
	switch {
	case err == nil:
		return device, false, nil
	case os.Geteuid() == 0 || !errors.Is(err, os.ErrPermission):
		return nil, false, lookError(p.dir, err)
	}
	if device, err = attachThroughHelper(p.dir); err != nil {
		return nil, false, &PointError{p.dir, ErrPermission, strings.TrimSpace(err.Error()), "run as root, or install fuse3 and see to it that you may open /dev/fuse"}
	}
	lost := ""
	if !kept {
		lost = ", and it does not survive a crash of the daemon"
	}
	warn(fmt.Sprintf("%s is mounted through fusermount3 because you are not root: only your own user can read it, not root and not containers%s", p.dir, lost))
	return device, true, nil
}

// attachDirectly opens /dev/fuse and mounts by itself, for a daemon of that user. The superblock is writable and the
// mount is not, so that changes can be made through a private clone of the mount. What is mounted is noted in the claim.
func attachDirectly(p *point, source string, uid, gid int) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, &PointError{p.dir, ErrNoFUSE, err.Error(), "modprobe fuse; in a container, --device /dev/fuse; or do without with --mount none"}
	case err != nil:
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		fd, unix.S_IFDIR, uid, gid, maxIO)
	if err := p.mount(cmp.Or(source, subtype), options); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return deviceFile(fd)
}

// mount mounts on the directory that is there, read-only, and notes which mount it is.
func (p *point) mount(source, options string) error {
	at, err := p.at()
	if err != nil {
		return err
	}
	defer at.Close()
	before, err := listMounts()
	if err != nil {
		return err
	}
	if err := unix.Mount(source, safepath.ProcPath(at), fsType, hardened, options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	// Whoever owns the directory above may have given the name to another mount, which is not to be touched. Ours then
	// ends with the device.
	top, f, err := p.top()
	if err == nil && (f == nil || top.fstype != fsType || slices.ContainsFunc(before, func(m mounted) bool { return m.device == top.device })) {
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

// deviceFile keeps a descriptor of the device, out of the reach of the runtime's poller: that takes one
// that does not block, which it is made after.
func deviceFile(fd int) (*os.File, error) {
	f := os.NewFile(uintptr(fd), "/dev/fuse")
	return f, unix.SetNonblock(fd, true)
}

// attachThroughHelper mounts through the setuid program fusermount3, which passes the device on a socket
// (fusermount3 of libfuse 3: _FUSE_COMMFD names it).
func attachThroughHelper(dir string) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	defer theirs.Close()
	options := fmt.Sprintf("ro,nosuid,nodev,noexec,default_permissions,max_read=%d,fsname=%s,subtype=%s", maxIO, subtype, subtype)
	cmd := exec.Command("fusermount3", "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(out))
	}
	theirs.Close()
	fd, err := receive(pair[0])
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fusermount3: %w", err), detachThroughHelper(dir))
	}
	return deviceFile(fd)
}

// receive takes one descriptor from a socket.
func receive(socket int) (fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("no descriptor came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("no descriptor came")
	}
	return fds[0], nil
}

// noFileHandles has the kernel open nothing of the mount by a file handle: with CAP_DAC_READ_SEARCH one leads out of a
// sub-directory that is bound into a container, and around the permissions of all directories. Linux before 6.9
// does not know it. A test sets 0 for such a kernel.
var noFileHandles uint64 = fuse.CAP_NO_EXPORT_SUPPORT

// handlesOpen is what an administrator is told of a mount without it.
const handlesOpen = "a process that has CAP_DAC_READ_SEARCH and sees any part of the mount can read all of it by a file handle, " +
	"also in a container that has only a sub-directory bound: give no container that capability. Linux before 6.9 cannot refuse it; " +
	"if an earlier version of imdsfs made the mount, stop and start the daemon to have it made anew"

func mountOptions(f *rawFS, warn func(string)) *fuse.MountOptions {
	return &fuse.MountOptions{
		FsName: subtype, Name: subtype, MaxWrite: maxIO,
		DisableXAttrs: true, DisableSplice: true, EnableSymlinkCaching: true, IDMappedMount: true,
		ExtraCapabilities: fuse.CAP_HAS_RESEND | fuse.CAP_READDIRPLUS_AUTO | noFileHandles,
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

// duplicate is another descriptor of the same open file, for another process.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, inner := -1, error(nil)
	err = conn.Control(func(old uintptr) { fd, inner = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// detachFile takes off the mount whose root is open as f, which is on dir. It looks at nothing in it.
func detachFile(f *os.File, dir string, flags int) error {
	err := unix.Unmount(safepath.ProcPath(f), flags)
	if !errors.Is(err, unix.EPERM) || os.Geteuid() == 0 {
		return err
	}
	return detachThroughHelper(dir)
}

func detachThroughHelper(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), helperLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "fusermount3", "-u", "-z", "--", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

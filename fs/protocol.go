package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

// noFileHandles has the kernel open nothing of the mount by a file handle. With CAP_DAC_READ_SEARCH a handle leads out of a
// sub-directory that is bound into a container, and around the permissions of all directories. Linux before 6.9 does not know
// the flag. A test sets 0 for such a kernel.
var noFileHandles uint64 = fuse.CAP_NO_EXPORT_SUPPORT

// handlesOpen is the warning about a mount without the flag.
const handlesOpen = "a process that has CAP_DAC_READ_SEARCH and sees any part of the mount can read all of it by a file handle, " +
	"also in a container that has only a sub-directory bound: give no container that capability. Linux before 6.9 cannot refuse it; " +
	"if an earlier version of imdsfs made the mount, stop and start the daemon to have it made anew"

func mountOptions(f *rawFS, warn func(string)) *fuse.MountOptions {
	return &fuse.MountOptions{
		FsName: mountpoint.Subtype, Name: mountpoint.Subtype, MaxWrite: mountpoint.MaxRead,
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

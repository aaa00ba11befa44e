package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A client makes system calls as a C program does: it allocates nothing, and bypasses the runtime's scheduler and poller.
// What os.ReadFile costs in addition would hide the cost of the file systems.
//
// Use it on a locked thread, and never on a mount that this process serves: the runtime takes the thread for running, so a
// garbage collection would wait for it while it waits for us.
type client struct {
	buf   []byte // what is read
	dents [8][]byte
	stat  unix.Stat_t

	files, bytes int // that walk has read
}

func newClient() *client {
	c := &client{buf: make([]byte, 128<<10)} // as cat(1)
	for i := range c.dents {
		c.dents[i] = make([]byte, 32<<10) // as the C library
	}
	return c
}

// cString is a path as the kernel expects it.
func cString(s string) *byte {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err) // a NUL in a path of our own
	}
	return p
}

var cwd = unix.AT_FDCWD // a variable, because a constant cannot become a uintptr

func (c *client) open(dir int, path *byte, flags int) (int, error) {
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR: // the runtime's own signals
		default:
			return -1, errno
		}
	}
}

func (c *client) close(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// into reads by read(2) or getdents64(2).
func (c *client) into(call uintptr, fd int, buf []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// readOnce opens, reads once and closes, as a program does that knows the maximum length of a value.
func (c *client) readOnce(path *byte) error {
	fd, err := c.open(cwd, path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	n, err := c.into(unix.SYS_READ, fd, c.buf[:4096])
	c.close(fd)
	if n == 0 {
		return fmt.Errorf("an empty file")
	}
	return err
}

// cat reads to the end.
func (c *client) cat(dir int, path *byte) error {
	fd, err := c.open(dir, path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer c.close(fd)
	for {
		n, err := c.into(unix.SYS_READ, fd, c.buf)
		if err != nil {
			return err
		}
		if n == 0 {
			c.files++
			return nil
		}
		c.bytes += n
	}
}

func (c *client) pread(fd int) error {
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&c.buf[0])), 4096, 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return errno
	}
	if n == 0 {
		return fmt.Errorf("an empty file")
	}
	return nil
}

// statIs expects a certain result of stat(2).
func (c *client) statIs(path *byte, want unix.Errno) error {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_NEWFSTATAT, uintptr(cwd), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&c.stat)), 0, 0, 0)
		switch errno {
		case want:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("stat: %w, not %v", errno, want)
		}
	}
}

// list reads a directory as ls(1) without options does, and counts its entries without "." and "..", which go-fuse's fs
// package does not list.
func (c *client) list(path *byte) (entries int, err error) {
	fd, err := c.open(cwd, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer c.close(fd)
	buf := c.dents[0]
	for {
		n, err := c.into(unix.SYS_GETDENTS64, fd, buf)
		if err != nil || n == 0 {
			return entries, err
		}
		for at := 0; at < n; {
			entry := (*unix.Dirent)(unsafe.Pointer(&buf[at]))
			at += int(entry.Reclen)
			if !isDot(entry) {
				entries++
			}
		}
	}
}

// walk reads every file below a directory, depth levels under the first one.
func (c *client) walk(dir int, path *byte, depth int) error {
	fd, err := c.open(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer c.close(fd)
	buf := c.dents[depth]
	for {
		n, err := c.into(unix.SYS_GETDENTS64, fd, buf)
		if err != nil || n == 0 {
			return err
		}
		for at := 0; at < n; {
			entry := (*unix.Dirent)(unsafe.Pointer(&buf[at]))
			at += int(entry.Reclen)
			name := (*byte)(unsafe.Pointer(&entry.Name[0]))
			switch {
			case entry.Type == unix.DT_REG:
				err = c.cat(fd, name)
			case entry.Type == unix.DT_DIR && !isDot(entry):
				err = c.walk(fd, name, depth+1)
			}
			if err != nil {
				return err
			}
		}
	}
}

// isDot is for "." and "..".
func isDot(e *unix.Dirent) bool {
	return e.Name[0] == '.' && (e.Name[1] == 0 || e.Name[1] == '.' && e.Name[2] == 0)
}

package edge

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A netlinkSocket talks to the kernel about links and addresses.
type netlinkSocket struct {
	file *os.File
	raw  syscall.RawConn
}

func openNetlink(groups uint32) (netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return netlinkSocket{}, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		file.Close()
		return netlinkSocket{}, os.NewSyscallError("bind(AF_NETLINK)", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return netlinkSocket{}, err
	}
	return netlinkSocket{file, raw}, nil
}

func (s netlinkSocket) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// limit asks for a receive buffer of that size.
func (s netlinkSocket) limit(bytes int) {
	s.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) })
}

// request asks for a dump: RTM_GETLINK or RTM_GETADDR.
func (s netlinkSocket) request(kind uint16) error {
	message := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg) // of all families; longer than an IfAddrmsg
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], kind)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	var inner error
	err := s.raw.Write(func(fd uintptr) bool {
		inner = unix.Sendto(int(fd), message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return inner != unix.EAGAIN
	})
	return os.NewSyscallError("sendto(AF_NETLINK)", errors.Join(err, inner))
}

var errNotUnderstood = errors.New("netlink: a message is too long")

// read reads one datagram of the kernel. Without wait the error is EAGAIN if there is none.
func (s netlinkSocket) read(into []byte, wait bool) (n int, err error) {
	for {
		var flags int
		var from unix.Sockaddr
		var inner error
		err = s.raw.Read(func(fd uintptr) bool {
			n, _, flags, from, inner = unix.Recvmsg(int(fd), into, nil, 0)
			return !wait || inner != unix.EAGAIN
		})
		switch {
		case err != nil:
			return 0, err
		case inner == unix.EINTR:
		case inner != nil:
			return 0, inner
		case flags&unix.MSG_TRUNC != 0:
			return 0, errNotUnderstood
		default:
			if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid == 0 {
				return n, nil
			}
		}
	}
}

// await waits until there is something to read.
func (s netlinkSocket) await() error {
	return s.raw.Read(func(fd uintptr) bool { return readable(fd) })
}

// isReadable reports whether there is something to read.
func (s netlinkSocket) isReadable() (is bool) {
	s.raw.Control(func(fd uintptr) { is = readable(fd) })
	return is
}

func readable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 || err != nil
}

// drain drops everything that is unread.
func (s netlinkSocket) drain(buffer []byte) error {
	for {
		switch _, err := s.read(buffer, false); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, errNotUnderstood):
			return err
		}
	}
}

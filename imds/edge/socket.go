package edge

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setHopLimit sets the TTL, 1..255, of all packets of the connection from now on, retransmissions included. It also makes
// the kernel give up on a peer that acknowledges nothing: a token that does not reach the client need not be sent again
// and again.
func setHopLimit(nc net.Conn, limit int) error {
	return control(nc, func(fd int) error {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return err
		}
		if domain == unix.AF_INET6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, limit); err != nil {
				return err
			}
		}
		// On an IPv6 socket too: this one applies if its peer is IPv4-mapped.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, limit); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
}

// limitBuffers limits what the kernel keeps for a connection. Connections inherit the limit from their listener, which
// systemd or a predecessor may have opened. Connections that arrived before the limit was set need it of their own.
func limitBuffers(socket any) error { return control(socket, setBuffers) }

func setBuffers(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer))
}

// limitNewSocket is for [net.ListenConfig].
func limitNewSocket(_, _ string, raw syscall.RawConn) error {
	var inner error
	err := raw.Control(func(fd uintptr) { inner = setBuffers(int(fd)) })
	return errors.Join(err, inner)
}

// scopeOf is the index of the link that an IPv6 peer is on.
func scopeOf(nc net.Conn) (index int, err error) {
	err = control(nc, func(fd int) error {
		peer, err := unix.Getpeername(fd)
		if six, ok := peer.(*unix.SockaddrInet6); ok {
			index = int(six.ZoneId)
		}
		return err
	})
	return index, err
}

// errNotASocket is the error for a connection or listener that has no socket.
var errNotASocket = errors.New("not a socket")

func control(socket any, f func(fd int) error) error {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return errNotASocket
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

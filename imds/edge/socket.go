package edge

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setHopLimit sets the TTL of all packets of the connection from now on, 1..255, retransmissions
// included, and makes the kernel give up on a peer that acknowledges nothing: it has no more need to
// send a token again and again than the client has hope to see it.
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
		// An IPv6 socket too: its peer may be IPv4-mapped, and then this is what counts.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, limit); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
}

// limitSendBuffer is for a listening socket: those that it accepts inherit the limit.
func limitSendBuffer(_, _ string, raw syscall.RawConn) error {
	var inner error
	err := raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) })
	return errors.Join(err, inner)
}

func control(nc net.Conn, f func(fd int) error) error {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return errors.New("not a socket")
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

// peerOf is the address of the other end with its zone, an IPv4-mapped one as IPv4. The zero Addr,
// which no rule allows, stands for a connection that is not TCP.
func peerOf(nc net.Conn) netip.Addr {
	tcp, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

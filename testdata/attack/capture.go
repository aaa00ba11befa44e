package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A capture holds the TCP segments with a payload from port 80 that a link has carried.
type capture struct {
	socket   *os.File
	finished chan error

	mu       sync.Mutex
	segments []segment
}

// A segment is a TCP segment with a payload.
type segment struct {
	port    int // where it went
	hops    int // TTL or hop limit
	payload []byte
}

// capture records what a link in that place carries until end.
func (p place) capture(link string) (*capture, error) {
	c := &capture{finished: make(chan error, 1)}
	err := p.do(func() error {
		iface, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		c.socket = os.NewFile(uintptr(fd), "packets of "+link)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: iface.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("capture %s: %w", link, err)
	}
	go func() { c.finished <- c.read() }()
	return c, nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func (c *capture) read() error {
	frame := make([]byte, 1<<16+100) // segments are large until they reach real hardware
	for {
		n, err := c.socket.Read(frame)
		if err != nil {
			return err
		}
		if s, ok := parseSegment(frame[:n]); ok {
			c.mu.Lock()
			c.segments = append(c.segments, s)
			c.mu.Unlock()
		}
	}
}

// end stops recording. It fails if a frame was lost.
func (c *capture) end() error {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return err
	}
	var missed error
	raw.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil || stats.Packets == 0 || stats.Drops > 0 {
			missed = fmt.Errorf("%s: captured %+v, %v; want some and no drops", c.socket.Name(), stats, err)
		}
	})
	c.socket.Close()
	if err := <-c.finished; !errors.Is(err, os.ErrClosed) {
		return err
	}
	return missed
}

// parseSegment reads an Ethernet frame. ok says whether it is TCP over IPv4 from port 80 with a payload.
func parseSegment(frame []byte) (s segment, ok bool) {
	if len(frame) < 14+20 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return s, false
	}
	packet := frame[14:]
	head, total := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if packet[9] != unix.IPPROTO_TCP || total > len(packet) || head > total {
		return s, false
	}
	tcp := packet[head:total]
	if len(tcp) < 20 || binary.BigEndian.Uint16(tcp) != 80 {
		return s, false
	}
	start := int(tcp[12]>>4) * 4
	if start >= len(tcp) {
		return s, false
	}
	return segment{int(binary.BigEndian.Uint16(tcp[2:])), int(packet[8]), append([]byte(nil), tcp[start:]...)}, true
}

// tokens counts the segments to a port, 0 for any, that hold a session token, including retransmissions.
func (c *capture) tokens(port int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.segments {
		if (port == 0 || s.port == port) && tokenPattern.Match(s.payload) {
			n++
		}
	}
	return n
}

// bytes counts the bytes to a port.
func (c *capture) bytes(port int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.segments {
		if s.port == port {
			n += len(s.payload)
		}
	}
	return n
}

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// enter calls f in the namespace. f must not leave its goroutine for what it does there; sockets that
// it makes stay in the namespace.
func (ns netns) enter(f func() error) {
	ns.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is of no use to others afterwards
		done <- func() error {
			there, err := os.Open("/run/netns/" + ns.name)
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		ns.t.Fatalf("in the network namespace %s: %v", ns.name, err)
	}
}

// A capture holds the TCP segments that a link has carried, with something in them, from port 80.
type capture struct {
	mu       sync.Mutex
	segments []segment
}

// A segment is what a TCP packet carried.
type segment struct {
	port    int // where it went
	hops    int // TTL or hop limit
	payload []byte
}

// capture records what the link carries until the test ends. The test fails if anything was missed.
func (ns netns) capture(link string) *capture {
	ns.t.Helper()
	var socket *os.File
	ns.enter(func() error {
		iface, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		socket = os.NewFile(uintptr(fd), "packets of "+link)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: iface.Index})
	})
	c := &capture{}
	finished := make(chan error, 1)
	go func() { finished <- c.read(socket) }()
	ns.t.Cleanup(func() { c.end(ns.t, socket, finished) })
	return c
}

func (c *capture) read(socket *os.File) error {
	frame := make([]byte, 1<<16+100) // segments are not cut before they reach real hardware
	for {
		n, err := socket.Read(frame)
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

func (c *capture) end(t testing.TB, socket *os.File, finished chan error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil || stats.Packets == 0 || stats.Drops > 0 {
			t.Errorf("%s: captured %+v, %v; want some and no drops", socket.Name(), stats, err)
		}
	})
	socket.Close()
	if err := <-finished; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// parseSegment reads an Ethernet frame; ok tells whether it is TCP from port 80 and carries something.
func parseSegment(frame []byte) (s segment, ok bool) {
	if len(frame) < 14+20 {
		return s, false
	}
	packet, tcp := frame[14:], []byte(nil)
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		head, total := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
		if packet[9] != unix.IPPROTO_TCP || total > len(packet) || head > total {
			return s, false
		}
		s.hops, tcp = int(packet[8]), packet[head:total]
	case unix.ETH_P_IPV6:
		if len(packet) < 40 || packet[6] != unix.IPPROTO_TCP {
			return s, false
		}
		total := 40 + int(binary.BigEndian.Uint16(packet[4:]))
		if total > len(packet) {
			return s, false
		}
		s.hops, tcp = int(packet[7]), packet[40:total]
	default:
		return s, false
	}
	if len(tcp) < 20 || binary.BigEndian.Uint16(tcp) != 80 {
		return s, false
	}
	head := int(tcp[12]>>4) * 4
	if head >= len(tcp) {
		return s, false
	}
	s.port = int(binary.BigEndian.Uint16(tcp[2:]))
	s.payload = append([]byte(nil), tcp[head:]...)
	return s, true
}

// tokens are the segments to that port that hold a session token, retransmissions too.
func (c *capture) tokens(port int) []segment {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []segment
	for _, s := range c.segments {
		if s.port == port && tokenPattern.Match(s.payload) {
			found = append(found, s)
		}
	}
	return found
}

// payloads is the number of bytes that went to that port.
func (c *capture) payloads(port int) (bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.segments {
		if s.port == port {
			bytes += len(s.payload)
		}
	}
	return bytes
}

package edge

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxKernelMemory is the limit of what the kernel keeps for a connection, in bytes: both buffers, each doubled, and what it
// allows in addition for a packet that fits partly.
const maxKernelMemory = 2*sendBuffer + 2*receiveBuffer + 128<<10

// kernelMemory is the memory, in bytes, that the kernel uses for unread data in both directions of a socket.
func kernelMemory(t *testing.T, nc net.Conn) (bytes int) {
	t.Helper()
	err := control(nc, func(fd int) error {
		var info [unix.SK_MEMINFO_VARS]uint32
		size := uint32(unsafe.Sizeof(info))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			return errno
		}
		bytes = int(info[unix.SK_MEMINFO_RMEM_ALLOC]) + int(info[unix.SK_MEMINFO_WMEM_QUEUED])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// A listener may come from systemd or a predecessor, with the kernel's default buffers.
func TestTheKernelKeepsLittleForAClientWhoeverOpenedTheSocket(t *testing.T) {
	for name, open := range map[string]func() (net.Listener, error){
		"our own": func() (net.Listener, error) { return Listen(t.Context(), "127.0.0.1:0") },
		"somebody else's": func() (net.Listener, error) {
			others, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer others.Close()
			f, err := others.(*net.TCPListener).File()
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return net.FileListener(f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := open()
			must(t, err)
			accepted := make(chan net.Conn, 1)
			h := startOn(t, tcpWatch{l.(*net.TCPListener), accepted}, Config{})
			c := h.dial()
			// The kernel enlarges the buffers of a client whose data is read.
			for range 20 {
				c.send(strings.Repeat(longGet, 50))
				for range 50 {
					c.expect(gotID)
				}
			}
			// It asks for large answers, reads none, and sends as long as the server reads.
			request := []byte(strings.Repeat("GET /latest/meta-data/large HTTP/1.1\r\n"+host+"\r\n", 1000))
			sent := 0
			for idle := 0; idle < 10; {
				c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
				n, err := c.Write(request)
				sent += n
				if idle++; n > 0 {
					idle = 0
				}
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			nc := <-accepted
			got := kernelMemory(t, nc)
			t.Logf("%d bytes sent, %d bytes of kernel memory on our side", sent, got)
			if got > maxKernelMemory {
				t.Errorf("%d bytes of kernel memory, at most %d are wanted", got, maxKernelMemory)
			}
			for option, want := range map[int]int{unix.SO_SNDBUF: 2 * sendBuffer, unix.SO_RCVBUF: 2 * receiveBuffer} {
				err := control(nc, func(fd int) error {
					got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
					if got != want {
						t.Errorf("option %d is %d, want %d", option, got, want)
					}
					return err
				})
				must(t, err)
			}
		})
	}
}

// A tcpWatch passes on what it accepts, and is still a socket.
type tcpWatch struct {
	*net.TCPListener
	accepted chan net.Conn
}

func (l tcpWatch) Accept() (net.Conn, error) {
	nc, err := l.TCPListener.Accept()
	if err == nil {
		l.accepted <- nc
	}
	return nc, err
}

// longGet is nearly as long as allowed.
var longGet = strings.Replace(get, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", maxHead-len(get)-100)+"\r\n\r\n", 1)

// The longest allowed head fits through the small buffer, however it is cut.
func TestALongHeadGoesThroughTheSmallBuffer(t *testing.T) {
	c := start(t, Config{}).dial()
	began := time.Now()
	for range 20 {
		c.send(longGet)
		c.expect(gotID)
	}
	t.Logf("%v for each of %d bytes", time.Since(began)/20, len(longGet))
}

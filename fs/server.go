package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

const (
	// serverWorkers is how many requests are answered at a time. A handler looks things up in memory, so more would wait for
	// processors.
	serverWorkers = 4
	// requestSize is what the kernel wants to be able to read at once: more than it writes at most.
	requestSize = mountpoint.MaxRead + 4096
	initLimit   = 5 * time.Second // for the kernel to send its first request after mount(2)
)

// A server reads the kernel's requests from the device and writes the answers, with go-fuse's protocol in between.
// go-fuse's own server is not used, because
//
//   - it can neither stop between two requests nor go on with a connection that another process began, which is what a
//     successor does;
//   - the kernel fails a request with EIO when the process dies while it copies to or from memory that is not resident. The
//     buffers here are, so the requests of a daemon that is killed are kept for the next one.
//
// Nor does Go's poller wait for requests: if anybody in this process ever looked at a file of our own mount, the poller
// would wait for an answer.
type server struct {
	fs       *rawFS
	device   int // non-blocking
	protocol *fuse.ProtocolServer
	warn     func(string)
	running  sync.WaitGroup
	ended    chan struct{} // closed when the connection has
	end      sync.Once

	reading sync.Mutex // held by the worker that waits for the next request
	wake    int        // eventfd: readable when paused
	paused  atomic.Bool
}

func newServer(f *rawFS, device *os.File, warn func(string)) *server {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		wake = -1 // poll leaves it out: a pause then waits for the next request
	}
	fd := -1
	if conn, err := device.SyscallConn(); err == nil {
		conn.Control(func(raw uintptr) { fd = int(raw) }) // Fd could have it block
	}
	protocol := fuse.NewProtocolServer(f, mountOptions(f, warn))
	return &server{fs: f, device: fd, wake: wake, protocol: protocol, warn: warn, ended: make(chan struct{})}
}

// close is called when the connection has ended.
func (s *server) close() { unix.Close(s.wake) }

// begin answers the kernel's first request, INIT. record gets it before that: whoever goes on with the connection later has
// to know it.
func (s *server) begin(record func(request []byte) error) error {
	in, out := resident(requestSize), resident(requestSize)
	defer unmap(in)
	defer unmap(out)
	n, err := s.read(in, initLimit)
	if err != nil {
		return fmt.Errorf("read the kernel's first request: %w", err)
	}
	if opcode(in[:n]) != opcodeInit {
		return fmt.Errorf("the kernel's first request has opcode %d instead of %d", opcode(in[:n]), opcodeInit)
	}
	if err := record(in[:n]); err != nil {
		return err
	}
	s.fs.negotiate(parseInit(in[:n]))
	if err := s.answer(in[:n], out); err != nil {
		return fmt.Errorf("answer the kernel's first request: %w", err)
	}
	return nil
}

// resume settles with the protocol what a predecessor settled with the kernel.
func (s *server) resume(init []byte) error {
	if opcode(init) != opcodeInit {
		return errors.New("the kernel's first request is not among what was handed over")
	}
	s.fs.negotiate(parseInit(init))
	out := make([]byte, requestSize)
	n, status := s.protocol.HandleRequest([][]byte{init}, [][]byte{out})
	if !status.Ok() || n < outHeaderSize || int32(binary.NativeEndian.Uint32(out[4:])) != 0 {
		return fmt.Errorf("the kernel's first request is not understood: %v", status)
	}
	return nil
}

// serve answers requests in the background until the connection ends or pause is called.
func (s *server) serve() {
	for range serverWorkers {
		s.running.Go(s.work)
	}
}

// pause stops between two requests: when it returns, all that was read is answered. What comes now stays in the kernel.
func (s *server) pause() {
	s.paused.Store(true)
	unix.Write(s.wake, binary.NativeEndian.AppendUint64(nil, 1))
	s.running.Wait()
}

var errPaused = errors.New("paused")

func (s *server) work() {
	in, out := resident(requestSize), resident(requestSize)
	defer unmap(in)
	defer unmap(out)
	for {
		n, err := s.read(in, -1)
		switch err {
		case nil:
		case errPaused:
			return
		default:
			s.end.Do(func() {
				if err != unix.ENODEV && err != unix.ECONNABORTED { // unmounted
					s.warn(fmt.Sprintf("read from /dev/fuse: %v: the mount is given up", err))
				}
				close(s.ended)
			})
			return
		}
		if opcode(in[:n]) == opcodeInterrupt {
			continue // no handler takes long enough, and no answer is due
		}
		err = s.answer(in[:n], out)
		// ENOENT: the request is not wanted any more. ENODEV: the next read tells.
		if err != nil && err != unix.ENOENT && err != unix.ENODEV && !s.fs.stopping.Load() {
			s.warn(fmt.Sprintf("answer the kernel: %v", err))
		}
	}
}

// read waits for a request, without a limit if that is negative.
func (s *server) read(in []byte, limit time.Duration) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	timeout := -1 // ms
	if limit >= 0 {
		timeout = int(limit / time.Millisecond)
	}
	for !s.paused.Load() {
		n, err := unix.Read(s.device, in)
		switch {
		case err == unix.EAGAIN:
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(s.device), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}, timeout)
			if err != nil && err != unix.EINTR {
				return 0, err
			}
			if ready == 0 && err == nil {
				return 0, os.ErrDeadlineExceeded
			}
		case err == unix.EINTR, err == unix.ENOENT: // the process that asked gave up in between
		case err != nil:
			return 0, err
		case n >= inHeaderSize:
			return n, nil
		}
	}
	return 0, errPaused
}

func (s *server) answer(in, out []byte) error {
	n, status := s.protocol.HandleRequest([][]byte{in}, [][]byte{out})
	if !status.Ok() {
		n = fail(in, out, unix.EIO)
	}
	if n == 0 {
		return nil // a FORGET
	}
	_, err := unix.Write(s.device, out[:n])
	return err
}

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
)

const (
	// answerers is how many requests are answered at once. A handler is a look-up in memory, so more
	// would wait for processors.
	answerers = 4
	// requestSize is what the kernel wants to be able to read at once: more than it writes at most.
	requestSize = maxIO + 4096
	initLimit   = 5 * time.Second // for the kernel to send its first request after mount(2)

	opcodeForget      = 2 // linux/fuse.h
	opcodeInit        = 26
	opcodeInterrupt   = 36
	opcodeBatchForget = 42
	inHeaderSize      = 40
	outHeaderSize     = 16
)

// An answerer reads the kernel's requests from the device and writes the answers, with go-fuse's
// protocol in between. go-fuse's own server is not used, because
//
//   - it can neither stop between two requests nor go on with a connection that another process began,
//     which is what a successor does;
//   - the kernel fails a request with EIO when the process dies while it copies to or from memory that
//     is not resident. The buffers here are, so a killed daemon's requests are kept for the next one.
//
// Nor does Go's poller wait for requests: a look at a file of our own mount, should anybody in this process
// ever take one, has the poller wait for an answer.
type answerer struct {
	fs       *rawFS
	device   int // non-blocking
	protocol *fuse.ProtocolServer
	warn     func(string)
	running  sync.WaitGroup
	ended    chan struct{} // closed when the connection has
	end      sync.Once

	turn   sync.Mutex // of who waits for the next request
	bell   int        // eventfd: rings when paused
	paused atomic.Bool
}

func newAnswerer(f *rawFS, device *os.File, warn func(string)) *answerer {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		bell = -1 // poll leaves it out: a pause then waits for the next request
	}
	fd := -1
	if conn, err := device.SyscallConn(); err == nil {
		conn.Control(func(raw uintptr) { fd = int(raw) }) // Fd could have it block
	}
	protocol := fuse.NewProtocolServer(f, mountOptions(f, warn))
	return &answerer{fs: f, device: fd, bell: bell, protocol: protocol, warn: warn, ended: make(chan struct{})}
}

// close is for after the end.
func (a *answerer) close() { unix.Close(a.bell) }

// begin takes the kernel's first request, INIT. note gets it before it is answered: whoever goes on with
// the connection later has to know it.
func (a *answerer) begin(note func(request []byte) error) error {
	in, out := resident(requestSize), resident(requestSize)
	defer unmap(in)
	defer unmap(out)
	n, err := a.read(in, initLimit)
	if err != nil {
		return fmt.Errorf("read the kernel's first request: %w", err)
	}
	if opcode(in[:n]) != opcodeInit {
		return fmt.Errorf("the kernel's first request has opcode %d instead of %d", opcode(in[:n]), opcodeInit)
	}
	if err := note(in[:n]); err != nil {
		return err
	}
	a.fs.negotiate(parseInit(in[:n]))
	if err := a.answer(in[:n], out); err != nil {
		return fmt.Errorf("answer the kernel's first request: %w", err)
	}
	return nil
}

// resume settles with the protocol what a predecessor settled with the kernel.
func (a *answerer) resume(init []byte) error {
	if opcode(init) != opcodeInit {
		return errors.New("the kernel's first request is not among what was handed over")
	}
	a.fs.negotiate(parseInit(init))
	out := make([]byte, requestSize)
	n, status := a.protocol.HandleRequest([][]byte{init}, [][]byte{out})
	if !status.Ok() || n < outHeaderSize || int32(binary.NativeEndian.Uint32(out[4:])) != 0 {
		return fmt.Errorf("the kernel's first request is not understood: %v", status)
	}
	return nil
}

// serve answers in the background until the connection ends or pause is called.
func (a *answerer) serve() {
	for range answerers {
		a.running.Go(a.work)
	}
}

// pause stops between two requests: all that was read is answered when it returns. What comes now stays
// in the kernel.
func (a *answerer) pause() {
	a.paused.Store(true)
	unix.Write(a.bell, binary.NativeEndian.AppendUint64(nil, 1))
	a.running.Wait()
}

var errPaused = errors.New("paused")

func (a *answerer) work() {
	in, out := resident(requestSize), resident(requestSize)
	defer unmap(in)
	defer unmap(out)
	for {
		n, err := a.read(in, -1)
		switch err {
		case nil:
		case errPaused:
			return
		default:
			a.end.Do(func() {
				if err != unix.ENODEV && err != unix.ECONNABORTED { // unmounted
					a.warn(fmt.Sprintf("read from /dev/fuse: %v: the mount is given up", err))
				}
				close(a.ended)
			})
			return
		}
		if opcode(in[:n]) == opcodeInterrupt {
			continue // no handler takes long enough, and no answer is due
		}
		err = a.answer(in[:n], out)
		// ENOENT: the request is not wanted any more. ENODEV: the next read tells.
		if err != nil && err != unix.ENOENT && err != unix.ENODEV && !a.fs.stopping.Load() {
			a.warn(fmt.Sprintf("answer the kernel: %v", err))
		}
	}
}

// read waits for a request, for ever if limit is negative.
func (a *answerer) read(in []byte, limit time.Duration) (int, error) {
	a.turn.Lock()
	defer a.turn.Unlock()
	timeout := -1 // ms
	if limit >= 0 {
		timeout = int(limit / time.Millisecond)
	}
	for !a.paused.Load() {
		n, err := unix.Read(a.device, in)
		switch {
		case err == unix.EAGAIN:
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(a.device), Events: unix.POLLIN}, {Fd: int32(a.bell), Events: unix.POLLIN}}, timeout)
			if err != nil && err != unix.EINTR {
				return 0, err
			}
			if ready == 0 && err == nil {
				return 0, os.ErrDeadlineExceeded
			}
		case err == unix.EINTR, err == unix.ENOENT: // given up by who asked, in between
		case err != nil:
			return 0, err
		case n >= inHeaderSize:
			return n, nil
		}
	}
	return 0, errPaused
}

func (a *answerer) answer(in, out []byte) error {
	n, status := a.protocol.HandleRequest([][]byte{in}, [][]byte{out})
	if !status.Ok() {
		n = fail(in, out, unix.EIO)
	}
	if n == 0 {
		return nil // a FORGET
	}
	_, err := unix.Write(a.device, out[:n])
	return err
}

// fail makes the answer to a request that go-fuse cannot make one for, or nobody: nobody may wait for ever.
func fail(in, out []byte, errno unix.Errno) int {
	binary.NativeEndian.PutUint32(out, outHeaderSize)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	copy(out[8:outHeaderSize], in[8:16]) // the request's number
	return outHeaderSize
}

// wantsAnswer is false for what the kernel only tells, and for what is no request.
func wantsAnswer(opcode uint32) bool {
	switch opcode {
	case 0, opcodeForget, opcodeInterrupt, opcodeBatchForget:
		return false
	}
	return true
}

// opcode is that of a request, 0 for what is too short to be one.
func opcode(request []byte) uint32 {
	if len(request) < inHeaderSize {
		return 0
	}
	return binary.NativeEndian.Uint32(request[4:])
}

// parseInit reads what matters of INIT; the newer half of the flags is not there before Linux 5.17.
func parseInit(request []byte) *fuse.InitIn {
	var in fuse.InitIn
	flags := func(at int) uint32 {
		if len(request) < at+4 {
			return 0
		}
		return binary.NativeEndian.Uint32(request[at:])
	}
	in.Flags, in.Flags2 = flags(inHeaderSize+12), flags(inHeaderSize+16)
	return &in
}

// resident is memory that is there, and stays if it may.
func resident(size int) []byte {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return make([]byte, size) // it serves all the same
	}
	unix.Mlock(mem) // not allowed to everybody; it matters only when memory is short
	return mem
}

func unmap(mem []byte) { unix.Munmap(mem) }

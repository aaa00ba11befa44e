package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The wire format of requests and answers, linux/fuse.h.
const (
	opcodeForget      = 2
	opcodeInit        = 26
	opcodeInterrupt   = 36
	opcodeBatchForget = 42
	inHeaderSize      = 40 // bytes
	outHeaderSize     = 16
)

// fail makes an answer with an error where there is no other, because go-fuse cannot make one or the daemon is gone: nobody
// may wait for ever.
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

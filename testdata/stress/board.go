package stress

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const maxReaders = 16

// A board is memory that the writers share with the readers' processes.
type board struct {
	stop         atomic.Bool
	value, names progress
	readers      [maxReaders]tally
}

// progress is how far a writer is: no process may see a version older than published or newer than started.
type progress struct{ started, published atomic.Int64 }

// A tally is what one reader counts.
type tally struct {
	rounds, versions                atomic.Int64 // versions: different ones that it saw
	stale, torn, size, held, errors atomic.Int64
	longest                         atomic.Int64 // round, ns
}

func openBoard(path string, flags int) (*board, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(board{}))
	if flags&os.O_CREATE != 0 {
		if err := f.Chmod(0o666); err != nil { // readers run as different users
			return nil, err
		}
		if err := f.Truncate(int64(size)); err != nil {
			return nil, err
		}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*board)(unsafe.Pointer(unsafe.SliceData(mem))), nil
}

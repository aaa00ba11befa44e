package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// An op is a kind of request that is counted.
type op int

const (
	opLookup op = iota
	opForget
	opGetAttr
	opOpen
	opRead
	opFlush
	opOpenDir
	opReadDir
	opReadDirPlus
	opStatFs
	opAccess
	opRefused // would change something
	opOther   // the kernel does without
	opCount
)

var opNames = [opCount]string{"LOOKUP", "FORGET", "GETATTR", "OPEN", "READ", "FLUSH", "OPENDIR", "READDIR",
	"READDIRPLUS", "STATFS", "ACCESS", "refused", "other"}

func (f *rawFS) count(o op) { f.served[o].Add(1) }

func (f *rawFS) requests() map[string]uint64 {
	out := make(map[string]uint64, opCount)
	for o, name := range opNames {
		out[name] = f.served[o].Load()
	}
	return out
}

// The following are counted and then answered as by default: not implemented.

func (f *rawFS) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return f.without()
}

func (f *rawFS) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status {
	return f.without()
}

func (f *rawFS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return f.without()
}

func (f *rawFS) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return f.without() }

func (f *rawFS) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return f.without() }

func (f *rawFS) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return nil, f.without()
}

func (f *rawFS) without() fuse.Status {
	f.count(opOther)
	return fuse.ENOSYS
}

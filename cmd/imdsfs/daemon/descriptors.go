package daemon

import (
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/edge"
)

// ownFiles are the descriptors that the daemon itself may need at once: the mount, what is kept for a successor
// and is passed on to it, files that are read again, programs that fetch credentials.
const ownFiles = 64

// descriptors are how many connections each port may have, so that together they leave the rest of the daemon
// enough, and none can starve another.
type descriptors struct {
	imds int // of HTTP on all its addresses
	port int // of the metrics port and of the admin socket, each
}

// openFiles is how many descriptors we may have. Go's runtime raises the limit to the hard one (less one) before
// main, and gives programs that we start the limit that we were given.
func openFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return limit.Cur
}

// divideDescriptors keeps ownFiles back, and at most an eighth each for the two other ports and for connections that
// are about to be refused. The IMDS port gets the rest.
func divideDescriptors(limit uint64) descriptors {
	all := int(min(limit, 1<<20))
	port := max(1, min(edge.DefaultMaxPortConns, all/8))
	return descriptors{imds: max(1, min(edge.DefaultMaxConns, all-ownFiles-3*port)), port: port}
}

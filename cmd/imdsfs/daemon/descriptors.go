package daemon

import (
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/edge"
)

// ownFiles is the number of descriptors that the daemon itself may need at once: for the mount, for what it keeps for a
// successor, and for files that it reads again.
const ownFiles = 64

// descriptors limits the connections of each port. No port can starve another, or the rest of the daemon, of descriptors.
type descriptors struct {
	imds int // of HTTP on all its addresses
	port int // of the metrics port and of the admin socket, each
}

// openFiles returns how many descriptors we may have. Before main, Go's runtime raises the limit to the hard one (less one). It
// gives programs that we start the limit that we were given.
func openFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return limit.Cur
}

// divideDescriptors divides the descriptors: ownFiles for the daemon, at most an eighth each for the two other ports and for
// connections that are about to be refused, and the rest for the IMDS port.
func divideDescriptors(limit uint64) descriptors {
	all := int(min(limit, 1<<20))
	port := max(1, min(edge.DefaultMaxPortConns, all/8))
	return descriptors{imds: max(1, min(edge.DefaultMaxConns, all-ownFiles-3*port)), port: port}
}

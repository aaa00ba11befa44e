package fs

import (
	"encoding/binary"
	"errors"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A notice is one thing that the kernel may no longer believe: the entry of a name in a directory or,
// without a name, the attributes of a node.
type notice struct {
	node uint64
	name string
}

// A kernel is who is told of changes.
type kernel interface {
	// tell begins to send groups of notices, and returns. Each group concerns one directory, whose
	// lock somebody may hold: where one takes longer than its turn, the next go on without it. done is
	// called for each group by its number when it was sent, from any goroutine: with what the kernel
	// says to each notice (OK, ENOENT if it had nothing to drop, or why it does not listen).
	tell(groups [][]notice, done func(group int, answer []fuse.Status))
}

// Codes of notifications, linux/fuse.h.
const (
	notifyInode  = 2
	notifyEntry  = 3
	notifyResend = 7
)

// encode appends the notice as the kernel reads it. Of a node the attributes alone are dropped (offset
// -1): to drop the pages of a half-read directory would keep the kernel from ever caching it again.
func (n notice) encode(to []byte) []byte {
	if n.name == "" {
		to = appendNotifyHeader(to, outHeaderSize+24, notifyInode)
		to = binary.NativeEndian.AppendUint64(to, n.node)
		to = binary.NativeEndian.AppendUint64(to, ^uint64(0)) // offset
		return binary.NativeEndian.AppendUint64(to, 0)        // length
	}
	to = appendNotifyHeader(to, outHeaderSize+16+len(n.name)+1, notifyEntry)
	to = binary.NativeEndian.AppendUint64(to, n.node)
	to = binary.NativeEndian.AppendUint32(to, uint32(len(n.name)))
	to = binary.NativeEndian.AppendUint32(to, 0) // flags
	to = append(to, n.name...)
	return append(to, 0)
}

func appendNotifyHeader(to []byte, size, code int) []byte {
	to = binary.NativeEndian.AppendUint32(to, uint32(size))
	to = binary.NativeEndian.AppendUint32(to, uint32(code))
	return binary.NativeEndian.AppendUint64(to, 0)
}

// writeNotices tells the kernel what is encoded in a group, one notice after the other.
func writeNotices(device int, group []byte) []fuse.Status {
	var answer []fuse.Status
	for len(group) >= outHeaderSize {
		size := int(binary.NativeEndian.Uint32(group))
		if size < outHeaderSize || size > len(group) {
			break
		}
		_, err := unix.Write(device, group[:size])
		for err == unix.EINTR {
			_, err = unix.Write(device, group[:size])
		}
		status := fuse.OK
		if errno := unix.Errno(0); errors.As(err, &errno) {
			status = fuse.Status(errno)
		}
		answer = append(answer, status)
		group = group[size:]
	}
	return answer
}

const (
	// turnLimit is how long the other directories wait for one that is being told.
	turnLimit = 100 * time.Millisecond
	// maxLanes bounds the threads that hang in the kernel. When there are as many directories with a
	// hanging listing, new values wait.
	maxLanes = 64
)

// A crew does things one after the other. Where one takes longer than its turn, others go on without it.
type crew struct {
	turn  time.Duration
	lanes atomic.Int64
}

// do begins to do n things, and returns.
func (c *crew) do(n int, work func(i int)) {
	var mu sync.Mutex
	next := 0
	var lane func()
	lane = func() {
		c.lanes.Add(1)
		defer c.lanes.Add(-1)
		for {
			mu.Lock()
			i := next
			next++
			mu.Unlock()
			if i >= n {
				return
			}
			relieved := false
			timer := time.AfterFunc(c.turn, func() {
				mu.Lock()
				defer mu.Unlock()
				if relieved = next < n && c.lanes.Load() < maxLanes; relieved {
					go lane()
				}
			})
			work(i)
			timer.Stop()
			mu.Lock()
			over := relieved
			mu.Unlock()
			if over {
				return
			}
		}
	}
	go lane()
}

const (
	notifyName   = "imdsfs-notify" // argv[0] of the child
	notifySocket = 3               // its descriptors
	notifyDevice = 4
	orphanGrace  = 200 * time.Millisecond
	// packetSize bounds what goes through the socket at once: a number of 8 bytes, and in one direction
	// groups, each after its length of 4 bytes; in the other the group of the packet, and statuses.
	packetSize = 32 << 10
)

// Variables for tests.
var (
	// successorGrace is how long a successor may take to answer, if there is to be one.
	successorGrace = time.Minute
	// answerLimit is how long whoever goes on with a mount may take to answer.
	answerLimit = 20 * time.Second
)

// An orphan is the mount of a daemon that has died.
type orphan struct {
	dir, device string
	kept        bool // for a successor
}

// notifyMain is the child of a [messenger]. It goes on until the daemon is gone and everything is told.
func notifyMain(o orphan) {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	// What is sent to the daemon's group is for the daemon alone: it still has something to tell then.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	unix.CloseOnExec(notifySocket)
	unix.CloseOnExec(notifyDevice)
	c := &crew{turn: turnLimit}
	var pending atomic.Int64
	for {
		packet := make([]byte, packetSize)
		n, err := unix.Read(notifySocket, packet)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 8 {
			break // the daemon is gone
		}
		if n == 8 {
			o.kept = true // just now
			continue
		}
		number, groups := packet[:8], splitGroups(packet[8:n])
		pending.Add(int64(len(groups)))
		c.do(len(groups), func(i int) {
			reply := binary.NativeEndian.AppendUint32(append([]byte(nil), number...), uint32(i))
			for _, s := range writeNotices(notifyDevice, groups[i]) {
				reply = binary.NativeEndian.AppendUint32(reply, uint32(s))
			}
			pending.Add(-1)
			unix.Write(notifySocket, reply) // an error says that the daemon is gone
		})
	}
	o.outlive(&pending)
}

// outlive waits, after the daemon's death, until everything is told. Who waits for an answer from the daemon may
// hold the lock that is waited for here, and as long as this process has the device the kernel does not
// end the connection. So if nobody goes on with it, it is ended, or whoever waits is told that nobody is there.
func (o *orphan) outlive(pending *atomic.Int64) {
	const tick = time.Millisecond
	grace := orphanGrace
	if o.kept {
		grace = successorGrace
	}
	var refusing sync.Once
	for begin := time.Now(); pending.Load() > 0; time.Sleep(tick) {
		if time.Since(begin) >= grace {
			begin = time.Now()
			if o.kept && o.isAnswered() || !o.kept && o.abort() {
				continue
			}
			refusing.Do(func() { go refuse(notifyDevice) })
		}
	}
}

// isAnswered reports whether somebody goes on with the mount. Then what is waited for here is a process that
// hangs in a listing, for as long as it does.
func (o *orphan) isAnswered() bool {
	if !o.isMounted() {
		return false
	}
	answered := make(chan struct{})
	go func() {
		unix.Statfs(o.dir, &unix.Statfs_t{})
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-time.After(answerLimit):
		return false
	}
}

// isMounted reports whether the mount is still on its directory; by now another may be there.
func (o *orphan) isMounted() bool {
	top, ok, err := topmost(o.dir)
	return err == nil && ok && top.device == o.device
}

// abort ends the connection, if that is permitted.
func (o *orphan) abort() bool {
	return o.isMounted() && unix.Unmount(o.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW) != unix.EPERM
}

// refuse answers, in the place of a daemon, that there is none.
func refuse(device int) {
	in, out := resident(requestSize), make([]byte, outHeaderSize)
	unix.Write(device, appendNotifyHeader(nil, outHeaderSize, notifyResend))
	for {
		n, err := unix.Read(device, in)
		switch {
		case err == unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(device), Events: unix.POLLIN}}, -1)
		case err == unix.EINTR, err == unix.ENOENT:
		case err != nil:
			return
		case wantsAnswer(opcode(in[:n])):
			unix.Write(device, out[:fail(in, out, unix.ENOTCONN)])
		}
	}
}

func splitGroups(packet []byte) (groups [][]byte) {
	for len(packet) >= 4 {
		size := int(binary.NativeEndian.Uint32(packet))
		packet = packet[4:]
		if size > len(packet) {
			break
		}
		groups = append(groups, packet[:size])
		packet = packet[size:]
	}
	return groups
}

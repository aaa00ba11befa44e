package fs

import (
	"encoding/binary"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

const (
	notifyName   = "imdsfs-notify" // argv[0] of the child
	notifySocket = 3               // its descriptors
	notifyDevice = 4
	// diedGrace is how long the child of a daemon that has died waits until it ends the connection.
	diedGrace = 200 * time.Millisecond
)

// Variables for tests.
var (
	// successorGrace is how long a successor may take to answer, if there is to be one.
	successorGrace = time.Minute
	// answerLimit is how long whoever goes on with a mount may take to answer.
	answerLimit = 20 * time.Second
)

// ChildMain ends the process if it is a child that this package started; call it first thing in main, and in TestMain. One
// kind of child sends notifications to the kernel (notifier.go). The other looks at a path (package mountpoint).
func ChildMain() {
	mountpoint.ChildMain()
	if len(os.Args) != 4 || os.Args[0] != notifyName {
		return
	}
	notifyMain(childMount{os.Args[1], os.Args[2], os.Args[3] == "true"})
	syscall.Exit(0) // at once; os.Exit runs hooks, and the race detector's takes a second
}

// A childMount is the mount whose notifications a child sends.
type childMount struct {
	dir, device string
	kept        bool // for a successor
}

// notifyMain is the child of a [notifier]. It goes on until the daemon is gone and every notification is sent.
func notifyMain(m childMount) {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	// A signal to the daemon's group is for the daemon alone, which still has notifications to send then.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	unix.CloseOnExec(notifySocket)
	unix.CloseOnExec(notifyDevice)
	w := &workers{grace: stallGrace}
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
			m.kept = true // just now
			continue
		}
		number, batches := packet[:8], splitBatches(packet[8:n])
		pending.Add(int64(len(batches)))
		w.run(len(batches), func(i int) {
			reply := binary.NativeEndian.AppendUint32(append([]byte(nil), number...), uint32(i))
			for _, s := range writeNotifications(notifyDevice, batches[i]) {
				reply = binary.NativeEndian.AppendUint32(reply, uint32(s))
			}
			pending.Add(-1)
			unix.Write(notifySocket, reply) // an error says that the daemon is gone
		})
	}
	m.waitFor(&pending)
}

// waitFor waits, after the daemon's death, until every notification is sent. A process that waits for an answer from the
// daemon may hold the lock that a notification waits for, and as long as this child has the device open, the kernel does
// not end the connection. So if nobody goes on with the mount, the child ends the connection or, where it may not, answers
// requests with an error.
func (m *childMount) waitFor(pending *atomic.Int64) {
	const tick = time.Millisecond
	grace := diedGrace
	if m.kept {
		grace = successorGrace
	}
	var refusing sync.Once
	for begin := time.Now(); pending.Load() > 0; time.Sleep(tick) {
		if time.Since(begin) >= grace {
			begin = time.Now()
			if m.kept && m.isAnswered() || !m.kept && m.abort() {
				continue
			}
			refusing.Do(func() { go refuseRequests(notifyDevice) })
		}
	}
}

// isAnswered reports whether a successor answers on the mount. Then the child waits for a process that hangs in a listing,
// and goes on to.
func (m *childMount) isAnswered() bool {
	if !m.isMounted() {
		return false
	}
	answered := make(chan struct{})
	go func() {
		unix.Statfs(m.dir, &unix.Statfs_t{})
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
func (m *childMount) isMounted() bool {
	top, ok, err := mountpoint.Topmost(m.dir)
	return err == nil && ok && top.Device == m.device
}

// abort ends the connection. It reports false if it may not.
func (m *childMount) abort() bool {
	return m.isMounted() && unix.Unmount(m.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW) != unix.EPERM
}

// refuseRequests answers ENOTCONN to every request, in the place of a daemon that is gone.
func refuseRequests(device int) {
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

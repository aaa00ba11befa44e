package fs

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// closeLimit is how long close waits for the child to end.
const closeLimit = 100 * time.Millisecond

// A notifier sends notifications from a child process. A notification waits, beyond the reach of any signal, for the
// directory's lock, and whoever holds the lock may be waiting for an answer from us. From a thread of the daemon that would
// be a deadlock when the daemon is killed just then: the process never ends, so nobody notices that it has to be replaced,
// and its successor is what both wait for.
//
// The child starts with the first notification. It ends with the daemon or, if it hangs just then, as soon as a successor
// answers. Without a successor it ends the connection, or answers requests with an error.
type notifier struct {
	device  *os.File
	mount   childMount
	warn    func(string)
	inside  sync.Once // warned that there is no child
	workers workers   // without a child

	mu     sync.Mutex
	child  *notifyChild // nil when there is none
	closed bool
}

func newNotifier(device *os.File, m childMount, warn func(string)) *notifier {
	return &notifier{device: device, mount: m, warn: warn, workers: workers{grace: stallGrace}}
}

// notify implements [kernel].
func (n *notifier) notify(batches [][]notification, done func(int, []fuse.Status)) {
	for _, p := range pack(batches, done) {
		n.send(p)
	}
}

// send hands a packet to the child. If that is killed meanwhile, another child sends what is left.
func (n *notifier) send(p *packet) {
	for range 3 {
		child, err := n.ready()
		if err != nil {
			break
		}
		if child.send(p, func() { n.drop(child); n.send(p) }) {
			return
		}
		n.drop(child)
	}
	n.sendWithoutChild(p)
}

// sendWithoutChild is for when no child can be started.
func (n *notifier) sendWithoutChild(p *packet) {
	n.mu.Lock()
	closed := n.closed
	n.mu.Unlock()
	if closed {
		for _, done := range p.done {
			if done != nil {
				done([]fuse.Status{fuse.ENODEV})
			}
		}
		return
	}
	n.inside.Do(func() {
		n.warn("no child process can be started to tell the kernel of changes, so the daemon does it: should it be killed meanwhile, readers of the mount may hang")
	})
	batches := splitBatches(p.bytes[8:])
	n.workers.run(len(batches), func(i int) {
		answers := []fuse.Status{fuse.ENODEV}
		if conn, err := n.device.SyscallConn(); err == nil {
			conn.Control(func(fd uintptr) { answers = writeNotifications(int(fd), batches[i]) })
		}
		if done := p.done[i]; done != nil {
			done(answers)
		}
	})
}

// ready returns the child, and starts one if there is none.
func (n *notifier) ready() (*notifyChild, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, os.ErrClosed
	}
	if n.child == nil {
		child, err := startNotifyChild(n.device, n.mount)
		if err != nil {
			return nil, fmt.Errorf("start a child to tell the kernel of changes: %w", err)
		}
		n.child = child
	}
	return n.child, nil
}

func (n *notifier) drop(child *notifyChild) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == child {
		n.child = nil
	}
	child.socket.Close()
}

// close ends the child and waits a moment for it. If it goes on nevertheless, its process id is lingering. No notification
// can be sent any more. If there is a successor, a child that hangs waits for it.
func (n *notifier) close(successor bool) (lingering int) {
	n.mu.Lock()
	child := n.child
	n.child, n.closed = nil, true
	n.mu.Unlock()
	if child == nil {
		return 0
	}
	if successor {
		child.socket.Write(make([]byte, 8))
	}
	child.socket.Close()
	select {
	case <-child.ended:
		return 0
	case <-time.After(closeLimit):
		return child.cmd.Process.Pid
	}
}

// pid is the process id of the child, 0 without one.
func (n *notifier) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return 0
	}
	return n.child.cmd.Process.Pid
}

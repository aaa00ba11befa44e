package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// closeLimit is how long the end of the child is waited for.
const closeLimit = 100 * time.Millisecond

// A messenger tells the kernel from a child process. A notify waits, beyond the reach of any signal, for
// the directory's lock, and whoever holds that may be waiting for an answer from us: were it a thread
// of ours, a daemon that is killed at that moment would never end, nobody would notice that it has
// to be replaced, and its successor is what both wait for.
//
// The child is started when there is something to tell. It ends with the daemon or, if it hangs just
// then, as soon as a successor answers. Without a successor it ends the connection, or has it refuse.
type messenger struct {
	device *os.File
	orphan orphan
	warn   func(string)
	alone  sync.Once // warned that there is no child
	crew   crew      // without a child

	mu     sync.Mutex
	child  *notifier // nil when there is none
	closed bool
}

func newMessenger(device *os.File, o orphan, warn func(string)) *messenger {
	return &messenger{device: device, orphan: o, warn: warn, crew: crew{turn: turnLimit}}
}

// A job is groups that go to the child in one packet.
type job struct {
	packet []byte // with room for the number
	done   []func([]fuse.Status)
}

// pack puts groups into as few jobs as possible. A group that is too long is told in parts.
func pack(groups [][]notice, done func(int, []fuse.Status)) (jobs []*job) {
	var j *job
	begin := func() {
		j = &job{packet: make([]byte, 8, packetSize)}
		jobs = append(jobs, j)
	}
	begin()
	for i, notices := range groups {
		var mu sync.Mutex
		var answer []fuse.Status
		parts := 0
		part := func(a []fuse.Status) {
			mu.Lock()
			answer = append(answer, a...)
			parts--
			left := parts
			mu.Unlock()
			if left == 0 {
				done(i, answer)
			}
		}
		for first := true; first || len(notices) > 0; first = false {
			if len(j.packet) > packetSize/2 {
				begin()
			}
			at := len(j.packet)
			j.packet = append(j.packet, 0, 0, 0, 0)
			for len(notices) > 0 && len(j.packet) < packetSize-1024 {
				j.packet = notices[0].encode(j.packet)
				notices = notices[1:]
			}
			binary.NativeEndian.PutUint32(j.packet[at:], uint32(len(j.packet)-at-4))
			j.done = append(j.done, part)
			parts++
		}
	}
	return jobs
}

// tell implements [kernel].
func (m *messenger) tell(groups [][]notice, done func(int, []fuse.Status)) {
	for _, j := range pack(groups, done) {
		m.give(j)
	}
}

// give hands a job to the child. Should that be killed meanwhile, another one does what is not done.
func (m *messenger) give(j *job) {
	for range 3 {
		child, err := m.ready()
		if err != nil {
			break
		}
		if child.begin(j, func() { m.drop(child); m.give(j) }) {
			return
		}
		m.drop(child)
	}
	m.doAlone(j)
}

// doAlone is for when no child can be started.
func (m *messenger) doAlone(j *job) {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	groups := splitGroups(j.packet[8:])
	if closed {
		for _, done := range j.done {
			if done != nil {
				done([]fuse.Status{fuse.ENODEV})
			}
		}
		return
	}
	m.alone.Do(func() {
		m.warn("no child process can be started to tell the kernel of changes, so the daemon does it: should it be killed meanwhile, who reads the mount may hang")
	})
	m.crew.do(len(groups), func(i int) {
		answer := []fuse.Status{fuse.ENODEV}
		if conn, err := m.device.SyscallConn(); err == nil {
			conn.Control(func(fd uintptr) { answer = writeNotices(int(fd), groups[i]) })
		}
		if done := j.done[i]; done != nil {
			done(answer)
		}
	})
}

func (m *messenger) ready() (*notifier, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, os.ErrClosed
	}
	if m.child == nil {
		child, err := startNotifier(m.device, m.orphan)
		if err != nil {
			return nil, err
		}
		m.child = child
	}
	return m.child, nil
}

func (m *messenger) drop(child *notifier) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.child == child {
		m.child = nil
	}
	child.socket.Close()
}

// close ends the child and waits a moment for it; if it goes on nevertheless, its number is lingering.
// Nobody can be told any more. If there is a successor, a child that hangs waits for it.
func (m *messenger) close(successor bool) (lingering int) {
	m.mu.Lock()
	child := m.child
	m.child, m.closed = nil, true
	m.mu.Unlock()
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

// pid is that of the child, 0 without one.
func (m *messenger) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.child == nil {
		return 0
	}
	return m.child.cmd.Process.Pid
}

// A notifier is our end of one child.
type notifier struct {
	cmd    *exec.Cmd
	socket *os.File // SOCK_SEQPACKET; to close it ends the child
	ended  chan struct{}

	mu   sync.Mutex
	next uint64
	jobs map[uint64]*begun // nil after the child's end
}

type begun struct {
	*job
	left int
	lost func() // called if the child ends before all is done
}

func startNotifier(device *os.File, o orphan) (*notifier, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "notify")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	n := &notifier{
		socket: os.NewFile(uintptr(pair[0]), "notify"), ended: make(chan struct{}), jobs: map[uint64]*begun{},
		cmd: &exec.Cmd{Path: "/proc/self/exe", Args: []string{notifyName, o.dir, o.device, strconv.FormatBool(o.kept)}, Dir: "/", Env: []string{}},
	}
	twin, err := duplicate(device)
	if err == nil {
		defer twin.Close()
		n.cmd.ExtraFiles = []*os.File{theirs, twin}
		err = n.cmd.Start()
	}
	if err != nil {
		n.socket.Close()
		return nil, fmt.Errorf("start a child to tell the kernel of changes: %w", err)
	}
	go n.listen()
	return n, nil
}

// begin sends a job, unless the child has ended.
func (n *notifier) begin(j *job, lost func()) bool {
	n.mu.Lock()
	if n.jobs == nil {
		n.mu.Unlock()
		return false
	}
	n.next++
	binary.NativeEndian.PutUint64(j.packet, n.next)
	b := &begun{job: j, lost: lost}
	for _, done := range j.done {
		if done != nil { // what another child has done already is not waited for again
			b.left++
		}
	}
	n.jobs[n.next] = b
	n.mu.Unlock()
	if _, err := n.socket.Write(j.packet); err != nil {
		n.socket.Close() // listen does the rest
	}
	return true
}

// listen hands the child's answers out until it ends.
func (n *notifier) listen() {
	buf := make([]byte, packetSize)
	for {
		size, err := n.socket.Read(buf)
		if err != nil || size < 12 {
			break
		}
		var answer []fuse.Status
		for at := 12; at+4 <= size; at += 4 {
			answer = append(answer, fuse.Status(binary.NativeEndian.Uint32(buf[at:])))
		}
		if done := n.finished(binary.NativeEndian.Uint64(buf), int(binary.NativeEndian.Uint32(buf[8:]))); done != nil {
			done(answer)
		}
	}
	n.socket.Close()
	n.mu.Lock()
	jobs := n.jobs
	n.jobs = nil
	n.mu.Unlock()
	for _, j := range jobs {
		j.lost()
	}
	n.cmd.Wait()
	close(n.ended)
}

// finished takes one group of a job off.
func (n *notifier) finished(number uint64, group int) (done func([]fuse.Status)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	j := n.jobs[number]
	if j == nil || group >= len(j.done) || j.done[group] == nil {
		return nil
	}
	done, j.done[group] = j.done[group], nil
	if j.left--; j.left == 0 {
		delete(n.jobs, number)
	}
	return done
}

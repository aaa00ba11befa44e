package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
)

const (
	maxFiles = 256 // that are held

	lastWords = 5 * time.Second // to hear what a child said before it died
	maxLast   = 1024            // messages of it that are still heard
	readyRest = time.Second     // after Ready, until it is called again for the same child
)

// A child is a process that may give us files to hold.
type child struct {
	cmd   *exec.Cmd
	ended chan error // of Wait, after its last message

	mu      sync.Mutex
	readyAt time.Time // zero before
	toldAt  time.Time // when Ready was called
	heard   time.Time // the last sign of life

	last int // messages after its death
}

// start starts a process with these files.
func (k *Keeper) start(command []string, start func(*exec.Cmd) error, watchdog time.Duration, names []string, files []*os.File) (*child, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "keeper")
	defer theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "keeper")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(command[0], command[1:]...), ended: make(chan error, 1), heard: time.Now()}
	c.cmd.Stdout, c.cmd.Stderr = os.Stdout, os.Stderr
	c.cmd.ExtraFiles = append(slices.Clone(files), theirs)
	c.cmd.Env = append(slices.DeleteFunc(os.Environ(), isOurs),
		fdstore.KeeperVariable+"="+strconv.Itoa(os.Getpid()), fdstore.SocketVariable+"="+strconv.Itoa(3+len(files)))
	if len(files) > 0 {
		c.cmd.Env = append(c.cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	if watchdog > 0 {
		c.cmd.Env = append(c.cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err = start(c.cmd); err != nil {
		conn.Close()
		return nil, err
	}
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		defer conn.Close()
		for k.hear(c, conn.(*net.UnixConn)) {
		}
	}()
	go func() {
		err := c.cmd.Wait()
		if errors.Is(err, exec.ErrWaitDelay) { // it has ended well, and left somebody who may write what it writes
			err = nil
		}
		theirsClosed(conn) // what it said before it died is heard first
		select {
		case <-listened:
		case <-time.After(lastWords): // what it gave us to look at hangs
		}
		c.ended <- err
	}()
	return c, nil
}

// isOurs is for what is meant for us alone.
func isOurs(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_") || name == "FDSTORE"
}

// theirsClosed has reads end after the last message. A datagram socket does not notice by itself that
// nobody is at its other end.
func theirsClosed(conn net.Conn) { conn.SetReadDeadline(time.Now()) }

// hear takes one message.
func (k *Keeper) hear(c *child, conn *net.UnixConn) bool {
	text, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := conn.ReadMsgUnix(text, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// What is in the queue still counts. A child of its own might fill it up for ever.
		if c.last++; c.last > maxLast {
			return false
		}
		raw, rawErr := conn.SyscallConn()
		if rawErr != nil {
			return false
		}
		rawErr = raw.Control(func(fd uintptr) {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), text, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		})
		err = errors.Join(err, rawErr)
	}
	if err != nil {
		return false
	}
	k.heed(c, string(text[:n]), descriptorsIn(oob[:oobn]), flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0)
	return true
}

func descriptorsIn(oob []byte) (fds []int) {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if rights, err := unix.ParseUnixRights(&unix.SocketControlMessage{Header: header, Data: data}); err == nil {
			fds = append(fds, rights...)
		}
		oob = rest
	}
	return fds
}

// heed does what a message says. cut: the kernel left out some of it. Nothing of a bad message counts.
func (k *Keeper) heed(c *child, text string, fds []int, cut bool) {
	m, err := parseMessage(text, len(fds))
	if cut {
		err = fmt.Errorf("it has more than %d bytes or %d descriptors", maxMessage, maxRights)
	}
	if err == nil && m.store != "" {
		err = holdable(fds[0])
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		k.complain("a message of the daemon is ignored: %v: %s", err, quoted(text))
		return
	}
	switch {
	case m.store != "":
		if !k.shelf.put(m.store, fds[0]) {
			k.complain("there is no room for %s beside %d files: should the daemon be killed now, its mount is lost", m.store, maxFiles)
		}
	case m.remove != "":
		k.shelf.remove(m.remove)
	}
	if c.note(m, time.Now()) && k.Ready != nil {
		k.Ready()
	}
}

// note notes signs of life. It reports whether Ready is to be called.
func (c *child) note(m message, now time.Time) (tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.alive || m.ready {
		c.heard = now
	}
	if !m.ready {
		return false
	}
	c.readyAt = now
	if tell = now.Sub(c.toldAt) >= readyRest; tell {
		c.toldAt = now
	}
	return tell
}

// ready is since when it is, zero if it is not.
func (c *child) ready() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readyAt
}

// silence is how long it has not been heard of.
func (c *child) silence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard)
}

// A shelf is what is held, in the order in which it came. Descriptors, and not files, so that the runtime's
// poller does not watch them.
type shelf struct {
	mu    sync.Mutex
	names []string
	fds   []int
}

// put holds one more, or closes it. Nothing is closed under the lock: a close may take its time.
func (s *shelf) put(name string, fd int) bool {
	s.mu.Lock()
	full := len(s.fds) >= maxFiles
	if !full {
		s.names, s.fds = append(s.names, name), append(s.fds, fd)
	}
	s.mu.Unlock()
	if full {
		unix.Close(fd)
	}
	return !full
}

func (s *shelf) remove(name string) {
	for _, fd := range s.take(func(held string) bool { return held == name }) {
		unix.Close(fd)
	}
}

// take gives away what is held under these names.
func (s *shelf) take(which func(name string) bool) (taken []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.names) - 1; i >= 0; i-- {
		if which(s.names[i]) {
			taken = append(taken, s.fds[i])
			s.names, s.fds = slices.Delete(s.names, i, i+1), slices.Delete(s.fds, i, i+1)
		}
	}
	return taken
}

func (s *shelf) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}

// list is copies of everything, for a child.
func (s *shelf) list() (names []string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, fd := range s.fds {
		twin, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			continue // it will be missed, and said to be
		}
		names, files = append(names, s.names[i]), append(files, os.NewFile(uintptr(twin), s.names[i]))
	}
	return names, files
}

// clear closes everything. It does not wait for ever, nor lets one that does not close hold up the others.
func (s *shelf) clear() {
	var closing sync.WaitGroup
	for _, fd := range s.take(func(string) bool { return true }) {
		closing.Go(func() { unix.Close(fd) })
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closing.Wait()
	}()
	select {
	case <-closed:
	case <-time.After(lastWords):
	}
}

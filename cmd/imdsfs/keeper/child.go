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
	maxMessage = 4096 // bytes
	maxFiles   = 256  // that are held
)

// A child is a process that may give us files to hold.
type child struct {
	cmd   *exec.Cmd
	ended chan error // of Wait, after its last message

	mu      sync.Mutex
	readyAt time.Time // zero before
	heard   time.Time // the last sign of life
}

// start starts a process with everything that is held.
func (k *Keeper) start(command []string, start func(*exec.Cmd) error, watchdog time.Duration) (*child, error) {
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
	names, files := k.shelf.list()
	c.cmd.Stdout, c.cmd.Stderr = os.Stdout, os.Stderr
	c.cmd.ExtraFiles = append(files, theirs)
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
	err = start(c.cmd)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
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
		theirsClosed(conn) // what it said before it died is heard first
		<-listened
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
	text, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// What is in the queue still counts.
		raw, rawErr := conn.SyscallConn()
		if rawErr != nil {
			return false
		}
		again := false
		raw.Control(func(fd uintptr) {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), text, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			again = err == nil && n > 0
		})
		if !again {
			return false
		}
	} else if err != nil || n == 0 {
		return false
	}
	k.heed(c, string(text[:n]), descriptorsIn(oob[:oobn]))
	return true
}

func descriptorsIn(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if rights, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, rights...)
		}
	}
	return fds
}

// heed does what a message says, sd_notify(3).
func (k *Keeper) heed(c *child, message string, fds []int) {
	said := map[string]string{}
	for line := range strings.SplitSeq(message, "\n") {
		key, value, _ := strings.Cut(line, "=")
		said[key] = value
	}
	name := said["FDNAME"]
	switch {
	case said["FDSTORE"] == "1" && name != "":
		for _, fd := range fds {
			if !k.shelf.put(name, fd) {
				k.Log("there is no room for %s beside %d files: should the daemon be killed now, its mount is lost", name, maxFiles)
			}
		}
		fds = nil
	case said["FDSTOREREMOVE"] == "1":
		k.shelf.remove(name)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if said["READY"] == "1" && k.Ready != nil {
		k.Ready()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if said["READY"] == "1" {
		c.readyAt, c.heard = time.Now(), time.Now()
	}
	if said["WATCHDOG"] == "1" {
		c.heard = time.Now()
	}
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

func (s *shelf) put(name string, fd int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fds) >= maxFiles {
		unix.Close(fd)
		return false
	}
	s.names, s.fds = append(s.names, name), append(s.fds, fd)
	return true
}

func (s *shelf) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.names) - 1; i >= 0; i-- {
		if s.names[i] == name {
			unix.Close(s.fds[i])
			s.names, s.fds = slices.Delete(s.names, i, i+1), slices.Delete(s.fds, i, i+1)
		}
	}
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

func (s *shelf) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.fds {
		unix.Close(fd)
	}
	s.names, s.fds = nil, nil
}

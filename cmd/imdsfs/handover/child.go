package handover

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
)

const (
	drainLimit    = 5 * time.Second // to receive what a child sent before it died
	maxDrained    = 1024            // messages of a dead child that are still read
	readyInterval = time.Second     // least time between two calls of Ready for the same child
)

// A child is a process that may give us descriptors to hold: a daemon, or MountCommand.
type child struct {
	cmd   *exec.Cmd
	ended chan error // of Wait, after its last message

	mu      sync.Mutex
	readyAt time.Time // zero before
	toldAt  time.Time // of the last call of Ready
	aliveAt time.Time // of the last sign of life

	drained int // messages received after its death
}

// start starts a process that gets these files.
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
	c := &child{cmd: exec.Command(command[0], command[1:]...), ended: make(chan error, 1), aliveAt: time.Now()}
	c.cmd.Stdout, c.cmd.Stderr = os.Stdout, os.Stderr
	c.cmd.ExtraFiles = append(slices.Clone(files), theirs)
	c.cmd.Env = append(slices.DeleteFunc(os.Environ(), IsServiceVariable),
		keeperVariable+"="+strconv.Itoa(os.Getpid()), socketVariable+"="+strconv.Itoa(3+len(files)))
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
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer conn.Close()
		for k.receive(c, conn.(*net.UnixConn)) {
		}
	}()
	go func() {
		err := c.cmd.Wait()
		if errors.Is(err, exec.ErrWaitDelay) { // it ended well, and a child of it still has its standard output
			err = nil
		}
		endReceive(conn) // after the messages that it sent before it died
		select {
		case <-received:
		case <-time.After(drainLimit): // the check of a descriptor hangs
		}
		c.ended <- err
	}()
	return c, nil
}

// endReceive makes receive return false after the last message in the queue. A datagram socket does not notice by itself
// that the other end is closed.
func endReceive(conn net.Conn) { conn.SetReadDeadline(time.Now()) }

// receive receives and handles one message. It reports false if there will be no more.
func (k *Keeper) receive(c *child, conn *net.UnixConn) bool {
	text, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := conn.ReadMsgUnix(text, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// What is in the queue still counts. But a child of the dead one might go on sending for ever.
		if c.drained++; c.drained > maxDrained {
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
	k.handle(c, string(text[:n]), descriptorsIn(oob[:oobn]), flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0)
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

// handle acts on a message. cut says that the kernel has left out a part of it. handle ignores a bad message as a whole.
func (k *Keeper) handle(c *child, text string, fds []int, cut bool) {
	m, err := parseMessage(text, len(fds))
	if cut {
		err = fmt.Errorf("it has more than %d bytes or %d descriptors", maxMessage, maxRights)
	}
	if err == nil && m.store != "" {
		err = checkHoldable(fds[0])
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		k.logBad("a message of the daemon is ignored: %v: %s", err, quoted(text))
		return
	}
	switch {
	case m.store != "":
		if !k.held.put(m.store, fds[0]) {
			k.logBad("there is no room for %s beside %d files: should the daemon be killed now, its mount is lost", m.store, maxHeld)
		}
	case m.remove != "":
		k.held.remove(m.remove)
	}
	if c.noteAlive(m, time.Now()) && k.Ready != nil {
		k.Ready()
	}
}

// noteAlive notes signs of life. It reports whether Ready is to be called.
func (c *child) noteAlive(m message, now time.Time) (tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.alive || m.ready {
		c.aliveAt = now
	}
	if !m.ready {
		return false
	}
	c.readyAt = now
	if tell = now.Sub(c.toldAt) >= readyInterval; tell {
		c.toldAt = now
	}
	return tell
}

// ready returns when the child said that it is ready; zero if it has not.
func (c *child) ready() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readyAt
}

// silence returns how long ago the last sign of life was.
func (c *child) silence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.aliveAt)
}

package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A notifyChild is the daemon's end of one child process that sends notifications.
type notifyChild struct {
	cmd    *exec.Cmd
	socket *os.File // SOCK_SEQPACKET; closing it ends the child
	ended  chan struct{}

	mu      sync.Mutex
	last    uint64                 // number of a packet
	pending map[uint64]*sentPacket // nil after the child's end
}

type sentPacket struct {
	*packet
	left int    // batches that are not done
	lost func() // called if the child ends before all are done
}

func startNotifyChild(device *os.File, m childMount) (*notifyChild, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	childEnd := os.NewFile(uintptr(pair[1]), "notify")
	defer childEnd.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	c := &notifyChild{
		socket: os.NewFile(uintptr(pair[0]), "notify"), ended: make(chan struct{}), pending: map[uint64]*sentPacket{},
		cmd: &exec.Cmd{Path: "/proc/self/exe", Args: []string{notifyName, m.dir, m.device, strconv.FormatBool(m.kept)}, Dir: "/", Env: []string{}},
	}
	twin, err := duplicate(device)
	if err == nil {
		defer twin.Close()
		c.cmd.ExtraFiles = []*os.File{childEnd, twin}
		err = c.cmd.Start()
	}
	if err != nil {
		c.socket.Close()
		return nil, err
	}
	go c.listen()
	return c, nil
}

// send sends a packet, and reports false if the child has ended.
func (c *notifyChild) send(p *packet, lost func()) bool {
	c.mu.Lock()
	if c.pending == nil {
		c.mu.Unlock()
		return false
	}
	c.last++
	binary.NativeEndian.PutUint64(p.bytes, c.last)
	sent := &sentPacket{packet: p, lost: lost}
	for _, done := range p.done {
		if done != nil { // else an earlier child has sent the batch
			sent.left++
		}
	}
	c.pending[c.last] = sent
	c.mu.Unlock()
	if _, err := c.socket.Write(p.bytes); err != nil {
		c.socket.Close() // listen does the rest
	}
	return true
}

// listen passes on the child's answers until it ends.
func (c *notifyChild) listen() {
	buf := make([]byte, packetSize)
	for {
		size, err := c.socket.Read(buf)
		if err != nil || size < 12 {
			break
		}
		var answers []fuse.Status
		for at := 12; at+4 <= size; at += 4 {
			answers = append(answers, fuse.Status(binary.NativeEndian.Uint32(buf[at:])))
		}
		if done := c.finished(binary.NativeEndian.Uint64(buf), int(binary.NativeEndian.Uint32(buf[8:]))); done != nil {
			done(answers)
		}
	}
	c.socket.Close()
	c.mu.Lock()
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, sent := range pending {
		sent.lost()
	}
	c.cmd.Wait()
	close(c.ended)
}

// finished takes one batch off a packet, and returns what to call for it.
func (c *notifyChild) finished(number uint64, batch int) (done func([]fuse.Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.pending[number]
	if sent == nil || batch >= len(sent.done) || sent.done[batch] == nil {
		return nil
	}
	done, sent.done[batch] = sent.done[batch], nil
	if sent.left--; sent.left == 0 {
		delete(c.pending, number)
	}
	return done
}

package edge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	addressEvents = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1)
	eventBuffer   = 1 << 20                // bytes of unread events; the kernel may grant less
	eventsAtOnce  = 256                    // datagrams read before the picture is shown
	netlinkPacket = 64 << 10               // bytes of the largest datagram; the kernel dumps in pieces of 32 KiB
	dumpTries     = 10                     // of a dump that changes interrupt
	dumpPause     = 100 * time.Millisecond // before a dump that failed is tried again
	dumpPauseMost = 5 * time.Second        // to which the pause doubles
)

// FollowAddresses reads the addresses of the caller's network namespace and follows them until Close. If the kernel does
// not report them (a sandbox without AF_NETLINK), warn is called once, and only loopback is local.
func FollowAddresses(warn func(error)) *Addresses {
	a := noAddresses()
	f, err := newFollower(a, eventBuffer)
	if err != nil {
		f.close()
		warn(fmt.Errorf("only loopback is local: the addresses of this machine are not known: %w", err))
		return a
	}
	if err = f.dump(); err != nil {
		warn(fmt.Errorf("only loopback is local until the addresses of this machine can be read: %w", err))
	}
	ctx, stop := context.WithCancel(context.Background())
	a.stop, a.done, a.behind = stop, make(chan struct{}), f.isBehind
	context.AfterFunc(ctx, func() { f.events.file.SetReadDeadline(time.Now()) })
	go func() {
		defer close(a.done)
		defer f.close()
		f.run(ctx, err != nil)
	}()
	return a
}

// Close stops following. The addresses that are known stay.
func (a *Addresses) Close() {
	if a.stop != nil {
		a.stop()
		<-a.done
	}
}

// A follower keeps the picture of Addresses up to date. It subscribes to events first and then asks for a dump of all links
// and addresses: a change during the dump is an event that it reads afterwards, and the last event about an address is
// right. The dump has a socket of its own, so no part of it can come after a later event.
type follower struct {
	addresses     *Addresses
	events, dumps netlinkSocket
	buffer        []byte
	dumped        int         // dumps that succeeded
	reading       atomic.Bool // an event that is not in the picture yet

	links map[int]link
}

// A link is an interface with its addresses.
type link struct {
	name     string
	up       bool
	wentDown bool // since it was up
	assigned map[assigned]bool
}

// An assigned address is identified as the kernel does it. The other end is that of a point-to-point link.
type assigned struct {
	prefix netip.Prefix // not masked
	other  netip.Addr
}

func newFollower(a *Addresses, buffer int) (f *follower, err error) {
	f = &follower{addresses: a, buffer: make([]byte, netlinkPacket)}
	if f.events, err = openNetlink(addressEvents); err != nil {
		return f, err
	}
	f.events.limit(buffer)
	f.dumps, err = openNetlink(0)
	return f, err
}

func (f *follower) close() {
	f.events.close()
	f.dumps.close()
}

// run reads events until ctx ends. It asks for a dump whenever events are lost, or if they are lost from the start.
func (f *follower) run(ctx context.Context, lost bool) {
	defer f.reading.Store(false)
	for f.reading.Store(lost); ctx.Err() == nil; {
		for wait := dumpPause; lost && ctx.Err() == nil; wait = min(2*wait, dumpPauseMost) {
			// The picture stays during a dump. If that fails the picture goes, because an address may no longer be ours.
			if lost = f.dump() != nil; lost && ctx.Err() == nil {
				f.addresses.show(newPicture(nil))
				pause(ctx, wait)
			}
		}
		f.reading.Store(false)
		lost = f.follow()
	}
}

// isBehind reports whether an event is unread, or read and not in the picture yet. The order matters: an event is unread
// before it is read.
func (f *follower) isBehind() bool { return f.events.isReadable() || f.reading.Load() }

// follow waits for an event, reads all that there are, and shows the new picture. It reports whether events were lost.
func (f *follower) follow() (lost bool) {
	if err := f.events.await(); err != nil {
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	f.reading.Store(true)
	n, err := f.events.read(f.buffer, false)
	changed := false
	for i := 1; err == nil; i++ {
		c, broken := f.apply(f.buffer[:n])
		changed = changed || c
		if broken {
			return true
		}
		if i == eventsAtOnce {
			break
		}
		n, err = f.events.read(f.buffer, false)
	}
	if changed {
		f.show()
	}
	return err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, os.ErrDeadlineExceeded)
}

// dump asks for all links and addresses and shows them. It drops the events from before, which also makes the kernel send
// again if it had to drop some itself (ENOBUFS).
func (f *follower) dump() error {
	if err := f.events.drain(f.buffer); err != nil {
		return err
	}
	was := f.links
	for range dumpTries {
		f.links = map[int]link{}
		again := false
		for _, kind := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR} {
			interrupted, err := f.ask(kind)
			if err != nil {
				return err
			}
			again = again || interrupted
		}
		if !again {
			for index, l := range f.links {
				before := was[index]
				l.wentDown = !l.up && (before.up || before.wentDown)
				f.links[index] = l
			}
			f.dumped++
			f.show()
			return nil
		}
	}
	return errors.New("they change faster than they can be read")
}

// ask asks the kernel for all links or addresses, and reports whether a change interrupted the list.
func (f *follower) ask(kind uint16) (interrupted bool, err error) {
	// Parts of a dump that failed may be unread.
	if err := f.dumps.drain(f.buffer); err != nil {
		return false, err
	}
	if err := f.dumps.request(kind); err != nil {
		return false, err
	}
	for {
		n, err := f.dumps.read(f.buffer, true)
		if err != nil {
			return false, err
		}
		messages, err := syscall.ParseNetlinkMessage(f.buffer[:n])
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return interrupted, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return false, errors.New("netlink: a short error")
				}
				return false, os.NewSyscallError("netlink dump", syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
			}
			f.message(m)
		}
	}
}

// apply applies a datagram of events. It reports whether anything changed, and whether the datagram is malformed.
func (f *follower) apply(packet []byte) (changed, broken bool) {
	if len(packet)%unix.NLMSG_ALIGNTO != 0 {
		return false, true // the kernel pads messages, and the parser relies on it
	}
	messages, err := syscall.ParseNetlinkMessage(packet)
	if err != nil {
		return false, true
	}
	for _, m := range messages {
		if f.message(m) {
			changed = true
		}
	}
	return changed, false
}

// message applies one message: a link or an address has come, changed or gone. It reports whether anything changed.
func (f *follower) message(m syscall.NetlinkMessage) (changed bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		info := (*unix.IfInfomsg)(unsafe.Pointer(&m.Data[0]))
		if info.Family != unix.AF_UNSPEC {
			return false // about a port of a bridge, not about the link
		}
		index := int(info.Index)
		l, known := f.links[index]
		if m.Header.Type == unix.RTM_DELLINK {
			delete(f.links, index)
			return known
		}
		next := link{name: nameOf(&m), up: info.Flags&unix.IFF_UP != 0, assigned: l.assigned}
		next.wentDown = !next.up && (l.up || l.wentDown)
		if next.assigned == nil {
			next.assigned = map[assigned]bool{}
		}
		f.links[index] = next
		return !known || next.name != l.name || next.up != l.up
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		index, address, ok := assignedOf(&m)
		l, known := f.links[index]
		if !ok || !known {
			return false
		}
		was := l.assigned[address]
		if m.Header.Type == unix.RTM_NEWADDR && isOurs(&m) {
			l.assigned[address] = true
			return !was
		}
		delete(l.assigned, address)
		return was
	}
	return false
}

func nameOf(m *syscall.NetlinkMessage) (name string) {
	attributes(m.Data[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		if kind == unix.IFLA_IFNAME {
			name = unix.ByteSliceToString(value)
		}
	})
	return name
}

// attributes yields the attributes behind the fixed part of a message, rtnetlink(7), up to the first malformed one.
func attributes(data []byte, yield func(kind uint16, value []byte)) {
	for len(data) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofRtAttr || size > len(data) {
			return
		}
		yield(binary.NativeEndian.Uint16(data[2:]), data[unix.SizeofRtAttr:size])
		data = data[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(data)):]
	}
}

// assignedOf is the address that a message is about: on a point-to-point link the near end.
func assignedOf(m *syscall.NetlinkMessage) (index int, a assigned, ok bool) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return 0, assigned{}, false
	}
	info := (*unix.IfAddrmsg)(unsafe.Pointer(&m.Data[0]))
	var near netip.Addr
	attributes(m.Data[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
		addr, isAddr := netip.AddrFromSlice(value)
		switch {
		case kind == unix.IFA_LOCAL && isAddr:
			near = addr
		case kind == unix.IFA_ADDRESS && isAddr:
			a.other = addr
		}
	})
	if !near.IsValid() {
		near = a.other
	}
	a.prefix = netip.PrefixFrom(near, int(info.Prefixlen))
	return int(info.Index), a, a.prefix.IsValid()
}

// isOurs is false for an IPv6 address that a neighbour has, or may have as long as that is not known.
func isOurs(m *syscall.NetlinkMessage) bool {
	flags := (*unix.IfAddrmsg)(unsafe.Pointer(&m.Data[0])).Flags
	switch {
	case flags&unix.IFA_F_DADFAILED != 0:
		return false
	case flags&unix.IFA_F_TENTATIVE != 0:
		return flags&unix.IFA_F_OPTIMISTIC != 0
	}
	return true
}

// show makes a new picture of the links and addresses.
func (f *follower) show() {
	var all []interfaceAddress
	names := map[int]string{}
	for index, l := range f.links {
		names[index] = l.name
		// When a link goes down, the kernel no longer treats its addresses as local, so somebody else may have them. It does
		// treat addresses as local on a link that has never been up: kube-proxy has such a link.
		if l.wentDown {
			continue
		}
		for a := range l.assigned {
			all = append(all, interfaceAddress{l.name, a.prefix})
		}
	}
	p := newPicture(all)
	p.names = names
	f.addresses.show(p)
}

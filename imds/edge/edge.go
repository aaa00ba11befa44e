// Package edge serves package imds on sockets:
//
//	listener ──▶ gate: may this peer be answered? ──▶ registry: is there room? ──▶ conn ──┐
//	   ┌──────────────────────────────────────────────────────────────────────────────────┘
//	   └▶ readHead ──▶ parser ──▶ imds.Respond ──▶ set the hop limit ──▶ write ──▶ next request
//
// It is a connection loop of our own, because net/http's server cannot send EC2's status lines and header order, answers
// some bad requests by itself, and hides the connection whose hop limit has to be set.
//
//	instance := edge.NewInstance(tokens)
//	store.Attach(instance)                // every new snapshot is published to it
//	s := edge.New(edge.Config{Instances: instance, Clock: clock.System()})
//	listener, err := edge.Listen(ctx, "127.0.0.1:1338")
//	err = s.Serve(ctx, listener)          // once for each listener, until ctx ends
//
// A connection is about one instance from its first byte to its last ([Instances]).
//
// Everything that a client can use up has a limit:
//
//	request line and headers   16 KiB and 5 s. A larger request gets an empty 400, a slower one no answer
//	body                       1 KiB and 5 s. A longer or chunked body is not read: the request is
//	                           answered and the connection closed
//	waiting                    5 s between requests, 10 s to take an answer
//	connections                4096, and 256 of one peer that is not local (an IPv6 /64 is one peer).
//	                           Beyond that the one unused for longest is closed
//
// A time-out may be late by an eighth. Other ports of the daemon have similar limits, see [Port].
//
// Only peers that a [Rule] allows are answered. The connection of any other is closed within 20 ms, or at once if many
// come.
//
// # What strangers can make us do
//
// Anybody who can connect, allowed or not, can make us do work that delays others. Each such place has a limit:
//
//	accept             one goroutine for each listener. Each connection costs a look at the rules, an entry in
//	                   the registry and two socket options: constant work in memory. No lock is held over a
//	                   system call, and nothing is logged
//	rules              local is a look-up in a map; iface:NAME costs as many prefixes as the interface has; a
//	                   network costs one prefix. A link-local IPv6 peer costs one getpeername(2)
//	own addresses      no connection makes us ask for them: the kernel reports changes ([Addresses]). A router
//	                   advertisement of a neighbour can be a change. The kernel keeps 16 such addresses for
//	                   each interface, and a goroutine that nobody waits for reads them
//	second look        the address of a peer that is refused may be one that we have not read yet. 64
//	                   connections of all ports wait up to 20 ms for that; others are closed at once
//	report of a peer   1 a minute for each and 1024 in all, remembered in constant time. Only the 64 with a
//	                   second look make one, so a log that blocks holds up nobody else
//	other reports      1 a minute in all for hosts, 1 a minute for each peer without a token; 16 at once
//	request            16 KiB of head and 1 KiB of body, in the connection's own goroutine and buffer
//	token              one AES-GCM of 40 bytes to issue or verify. Anything else is refused by its length
//	answer             a look-up in the snapshot. Each place is rendered once for each snapshot.
//	                   The connection lets others run after every second request
//	taking an answer   10 s. The kernel holds 128 KiB on the way out and 64 KiB on the way in
//	eviction           constant, and the connection is closed without the lock
//	lingering          0.5 s or 256 KiB. The connection counts as open and may be evicted meanwhile
//	withheld token     20 ms to see whether the peer is local after all, then 20 s or 256 KiB, as for lingering
//	no descriptors     one connection is closed, and accept pauses for 10 ms. The daemon gives each port few
//	                   enough connections that this does not happen
//	metrics            64 connections, 4 scrapes at once, each a walk through the tree without a lock of the
//	                   mount or of HTTP
//
// What comes before accept is the kernel's: its backlog, SYN cookies, and the packets themselves.
//
// An answer that holds a token leaves with the hop limit of the metadata options as its IP TTL, so that it does not reach
// a client that is more hops away. The connection keeps that TTL: if it were raised again, TCP would retransmit the lost
// token with the higher one (measured: within 2 ms).
package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/source/clock"
)

// The limits of a server that [Config] does not set.
const (
	DefaultMaxConns        = 4096
	defaultMaxConnsPerPeer = 256              // of a peer that is not local, so that no neighbour can take all
	defaultHeaderTimeout   = 5 * time.Second  // from the first byte of a request to the end of its headers
	defaultBodyTimeout     = 5 * time.Second  // to read a body, which is dropped
	defaultIdleTimeout     = 5 * time.Second  // from an answer to the next request
	defaultWriteTimeout    = 10 * time.Second // to send an answer
)

const (
	stopGrace      = time.Second            // for requests in progress when the context ends
	freshGrace     = time.Second            // for a new connection to send its first request then
	acceptPause    = 10 * time.Millisecond  // when no file descriptor is left
	reportEvery    = time.Minute            // between two reports of one peer, or of hosts
	reportedMax    = 1024                   // refused peers remembered; others are not reported
	lingerTime     = 500 * time.Millisecond // for the client to read the last answer
	lingerBytes    = 256 << 10              // that it may send meanwhile
	maxHead        = 16 << 10               // bytes of request line and headers, with the empty line
	maxBody        = 1 << 10                // bytes of a body that is worth reading
	keepBuffers    = 4 << 10                // bytes of a head for which an idle connection may keep memory
	copyBody       = 2 << 10                // bytes of a body that are cheaper to copy behind the head than to send separately
	timeoutSlack   = 8                      // a time-out may be late by one part in this many
	sendBuffer     = 64 << 10               // bytes on their way to a client (the kernel doubles it); it would grow to 4 MiB
	receiveBuffer  = 32 << 10               // bytes on their way from a client (doubled too); it would grow to 6 MiB
	userTimeout    = 20 * time.Second       // TCP_USER_TIMEOUT of a connection that carries a token
	secondLook     = 20 * time.Millisecond  // to wait for an address that makes a peer allowed
	lookMost       = 2 * time.Second        // the same while events of the kernel about addresses are unread
	maxSecondLooks = 64                     // connections of all ports that wait for it at once
	maxReports     = 16                     // callbacks running at once; what happens meanwhile is not reported
)

// A Config says what a server needs. Only Instances must be set.
type Config struct {
	Instances Instances
	Clock     clock.Clock // nil: the system's
	Hosts     imds.Hosts
	Allow     []Rule // the peers that are answered; nil: processes of this machine
	// Addresses are those of the machine; nil: only loopback addresses are local.
	Addresses *Addresses

	// OutsideGuests says that the server runs outside of the instance, as EC2's does: the wire shows how far away a peer
	// is. Otherwise it runs inside. There a peer whose address is not the machine's own (a container on a bridge) counts as
	// one hop further away than the wire shows.
	OutsideGuests bool

	// Zero means the default.
	MaxConns, MaxConnsPerPeer                             int
	HeaderTimeout, BodyTimeout, IdleTimeout, WriteTimeout time.Duration

	// RefusedPeer, if not nil, is called for a peer that no rule allows, at most once a minute for each. Connections call it
	// concurrently.
	RefusedPeer func(peer netip.Addr)
	// RefusedHost, if not nil, is called with a Host that was refused, without its port, at most once a minute in all. The
	// client chose the name, so quote it. Connections call it concurrently.
	RefusedHost func(name string)
	// Withheld, if not nil, is called for a peer that got no token because it is further away than the hop limit, at most
	// once a minute for each. Connections call it concurrently.
	Withheld func(peer netip.Addr, hopLimit int)
}

// A Server answers requests on any number of listeners.
type Server struct {
	config   Config
	conns    registry
	gate     *gate
	counters counters
	reports  struct {
		underWay slots
		withheld *throttle[netip.Addr]
		host     *throttle[struct{}]
	}
}

// New returns a server.
func New(config Config) *Server {
	if config.Clock == nil {
		config.Clock = clock.System()
	}
	config.MaxConns = cmp.Or(config.MaxConns, DefaultMaxConns)
	config.MaxConnsPerPeer = cmp.Or(config.MaxConnsPerPeer, min(defaultMaxConnsPerPeer, max(1, config.MaxConns/2)))
	config.HeaderTimeout = cmp.Or(config.HeaderTimeout, defaultHeaderTimeout)
	config.BodyTimeout = cmp.Or(config.BodyTimeout, defaultBodyTimeout)
	config.IdleTimeout = cmp.Or(config.IdleTimeout, defaultIdleTimeout)
	config.WriteTimeout = cmp.Or(config.WriteTimeout, defaultWriteTimeout)
	s := &Server{config: config}
	s.conns.max, s.conns.maxPerPeer = config.MaxConns, config.MaxConnsPerPeer
	s.gate = newGate(config.Allow, config.Addresses, config.Clock, config.RefusedPeer)
	s.reports.underWay = make(slots, maxReports)
	s.reports.withheld = newThrottle[netip.Addr](config.Clock, reportedMax)
	s.reports.host = newThrottle[struct{}](config.Clock, 1)
	return s
}

// Listen opens a listener for [Server.Serve] on a TCP address, "host:port". It does not use Multipath TCP, as net.Listen
// does: the kernel cannot set a hop limit for it, so a client that speaks it could not get a token.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	// A silent connection is closed before a keep-alive probe would be sent, so we save the system calls for it.
	config := net.ListenConfig{Control: limitNewSocket, KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Serve answers the connections of a listener, which it takes over, until ctx ends. Then it closes the listener and idle
// connections at once, gives requests in progress a second to finish and new connections a second to send their first
// request, and returns nil. An error means that the listener no longer accepts.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if err := limitBuffers(listener); err != nil && !errors.Is(err, errNotASocket) {
		listener.Close()
		return fmt.Errorf("bound the buffers of %s: %w", listener.Addr(), err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		<-ctx.Done()
		listener.Close()
	})
	for {
		nc, err := listener.Accept()
		switch {
		case err == nil:
			s.take(ctx, nc, &running)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			s.conns.evict()
			pause(ctx, acceptPause)
		case errors.Is(err, syscall.ECONNABORTED):
		default:
			return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// take decides about a connection that has just been accepted. The next connection waits for it, so it only does work
// that others cannot prolong.
func (s *Server) take(ctx context.Context, nc net.Conn, running *sync.WaitGroup) {
	switch v := s.gate.look(nc); {
	case v.allowed:
		// In the order of arrival: a connection that comes during a neighbour's flood must not count as older than the
		// flood.
		c := s.admit(nc, v)
		running.Go(func() { s.serve(ctx, c) })
	case s.gate.mayLookAgain():
		running.Go(func() {
			v := s.gate.lookAgain(nc)
			if !v.allowed {
				s.gate.refuse(nc)
				s.gate.report(v.peer)
			}
			s.gate.looked()
			if v.allowed {
				s.serve(ctx, s.admit(nc, v))
			}
		})
	default:
		s.gate.refuse(nc)
	}
}

// admit registers a connection, and closes those that have to make room for it.
func (s *Server) admit(nc net.Conn, v verdict) *conn {
	peer := v.peer
	if v.local {
		peer = netip.Addr{}
	}
	limitBuffers(nc) // fails for what is no socket, which has no buffers
	c := newConn(s, nc, peer)
	s.conns.add(&c.member)
	return c
}

// report calls a callback, unless too many are running: then the log is blocked.
func (s *Server) report(tell func()) {
	if s.reports.underWay.take() {
		defer s.reports.underWay.giveBack()
		tell()
	}
}

// serve runs one connection to its end.
func (s *Server) serve(ctx context.Context, c *conn) {
	defer c.Close()
	defer c.release()
	defer s.conns.remove(&c.member)
	defer context.AfterFunc(ctx, c.stop)()
	for c.serveRequest(ctx) {
	}
}

// Package edge serves package imds on sockets. It is a connection loop of our own, because net/http's
// server cannot send EC2's status lines and header order, answers some bad requests by itself, and
// hides the connection whose hop limit has to be set.
//
//	s := edge.New(edge.Config{Tokens: tokens, Clock: clock.System()})
//	store.Attach(s)                       // the door: every reload is published to it
//	listener, err := edge.Listen(ctx, "127.0.0.1:1338")
//	err = s.Serve(ctx, listener)          // once for each listener, until ctx ends
//
// What a client may cost is bounded everywhere:
//
//	request line and headers   16 KiB and 5 s, else an empty 400 (a silent close for the time)
//	body                       1 KiB and 5 s; a longer or chunked one is not read: the request is
//	                           answered and the connection closed
//	a client that waits        5 s between requests, 10 s to take an answer
//	connections                4096, and 256 of one peer that is not local (an IPv6 /64 is one
//	                           peer); then the one unused for longest is closed
//
// A time-out may be late by an eighth. Other ports of the daemon have like limits, see [Port].
//
// Only peers that a [Rule] allows are answered; the connection of any other is closed: within 20 ms, or at
// once if many are.
//
// # What strangers can make us do
//
// Whoever can connect, allowed or not, can make us work that others may wait for. Each such place has a bound:
//
//	accept             one goroutine a listener. For each connection: a look at the rules, an entry in the
//	                   registry, two socket options. All of it from memory and of constant size; no
//	                   lock is held over a system call, and nothing is logged
//	rules              a map for local; as many prefixes as the interface has for iface:NAME; one prefix for
//	                   a network. A link-local IPv6 peer costs one getpeername(2)
//	own addresses      nobody who connects makes us ask for them: the kernel tells of changes ([Addresses]). A
//	                   router advertisement of a neighbour's can be a change; the kernel keeps 16
//	                   addresses an interface of these, and one goroutine that nobody waits for reads it
//	second look        a peer that is refused may be one whose address we have not read of yet: 64
//	                   connections of all ports wait up to 20 ms for that, others are closed at once
//	report of a peer   1 a minute for each and 1024 in all, remembered in constant time; made only by the 64
//	                   that have a second look, so a log that blocks holds no others
//	other reports      1 a minute in all for hosts, as for peers for withheld tokens; 16 at once
//	request            16 KiB of head, 1 KiB of body, in the connection's own goroutine and buffer
//	token              one AES-GCM of 40 bytes to issue or verify; anything else is refused by its length
//	answer             a look into the snapshot; a listing is rendered once for as long as the tree holds it.
//	                   The connection gives way to others after every second request
//	taking an answer   10 s; the kernel holds 128 KiB on the way out and 64 KiB on the way in
//	eviction           constant, and the close is outside of the lock
//	lingering          0.5 s or 256 KiB; the connection counts in the cap and may be evicted meanwhile
//	withheld token     20 ms to see whether the peer is local after all, then 20 s or 256 KiB; as lingering
//	no descriptors     one connection is closed, and accept pauses for 10 ms; the daemon gives each port few
//	                   enough to keep this from happening
//	metrics            64 connections, 4 scrapes at once, each a walk through the tree; no lock of the doors
//
// What comes before accept is the kernel's: its backlog, SYN cookies, packets as such.
//
// An answer that holds a token leaves with the hop limit of the metadata options as its IP TTL, so
// that it dies on the way to a client more hops away. The connection keeps that TTL: raised again,
// it would let TCP retransmit the lost token (measured: within 2 ms).
package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

// Limits of a server where [Config] says nothing else.
const (
	DefaultMaxConns        = 4096
	DefaultMaxConnsPerPeer = 256              // of a peer that is not local: no neighbour can take all
	DefaultHeaderTimeout   = 5 * time.Second  // from the first byte of a request to the end of its headers
	DefaultBodyTimeout     = 5 * time.Second  // for a body, which is read and dropped
	DefaultIdleTimeout     = 5 * time.Second  // from an answer to the next request
	DefaultWriteTimeout    = 10 * time.Second // for an answer
)

const (
	stopGrace      = time.Second            // for requests under way when the context ends
	freshGrace     = time.Second            // for the first request of a connection to begin then
	acceptPause    = 10 * time.Millisecond  // when there are no descriptors to accept with
	reportEvery    = time.Minute            // one report a refused peer, one for refused hosts
	reportedMax    = 1024                   // refused peers remembered; more go unreported
	lingerTime     = 500 * time.Millisecond // for the client to take the last answer
	lingerBytes    = 256 << 10              // of what it still sends meanwhile
	maxHead        = 16 << 10               // bytes of request line and headers, with the empty line
	maxBody        = 1 << 10                // bytes of a body that is worth reading
	keepBuffers    = 4 << 10                // bytes of a head whose memory an idle connection may hold
	copyBody       = 2 << 10                // bytes of a body that are cheaper to copy behind the head than to send by themselves
	timeoutSlack   = 8                      // a time-out may be late by this part of it
	sendBuffer     = 64 << 10               // bytes on their way to a client (the kernel doubles it); it would grow to 4 MiB
	receiveBuffer  = 32 << 10               // bytes on their way from a client (doubled too); it would grow to 6 MiB
	userTimeout    = 20 * time.Second       // TCP_USER_TIMEOUT of a connection that carries a token
	secondLook     = 20 * time.Millisecond  // for which a peer that is not allowed may be waited for
	lookMost       = 2 * time.Second        // the same, while we are behind with what the kernel says of addresses
	maxSecondLooks = 64                     // connections that wait for it at once, of all ports
	maxReports     = 16                     // callbacks under way at once; what comes then goes unreported
)

// A Config is what a server needs. Only Tokens must be given.
type Config struct {
	Tokens *token.Authority
	Clock  clock.Clock // nil: the system's
	Hosts  imds.Hosts
	Allow  []Rule // who is answered; nil: [Local] alone
	// Addresses are those of the machine; nil: no address is local but the loopback ones.
	Addresses *Addresses

	// OutsideGuests says that the server is outside of the instance, as EC2's is: the wire shows how
	// far away a peer is. Otherwise it runs inside, where a peer whose address is not the
	// machine's own (a container on a bridge) counts as one hop further away than the wire shows.
	OutsideGuests bool

	// Zero for each: the default.
	MaxConns, MaxConnsPerPeer                             int
	HeaderTimeout, BodyTimeout, IdleTimeout, WriteTimeout time.Duration

	// RefusedPeer, if not nil, is told of a peer that no rule allows, at most once a minute for
	// each. Connections call it concurrently.
	RefusedPeer func(peer netip.Addr)
	// RefusedHost, if not nil, is told which name was refused as Host, without its port, at most
	// once a minute in all. The client chose it: quote it. Connections call it concurrently.
	RefusedHost func(name string)
	// Withheld, if not nil, is told of a peer that got no token, because it is further away than
	// this hop limit, at most once a minute for each. Connections call it concurrently.
	Withheld func(peer netip.Addr, hopLimit int)
}

// A Server answers requests on any number of listeners from one snapshot.
type Server struct {
	config   Config
	snapshot atomic.Pointer[build.Snapshot]
	conns    registry
	gate     *gate
	counters counters
	reports  struct {
		underWay slots
		withheld *throttle[netip.Addr]
		host     *throttle[struct{}]
	}
}

var _ source.Door = (*Server)(nil)

// New returns a server. It answers 503 until the first Publish.
func New(config Config) *Server {
	if config.Clock == nil {
		config.Clock = clock.System()
	}
	config.MaxConns = cmp.Or(config.MaxConns, DefaultMaxConns)
	config.MaxConnsPerPeer = cmp.Or(config.MaxConnsPerPeer, min(DefaultMaxConnsPerPeer, max(1, config.MaxConns/2)))
	config.HeaderTimeout = cmp.Or(config.HeaderTimeout, DefaultHeaderTimeout)
	config.BodyTimeout = cmp.Or(config.BodyTimeout, DefaultBodyTimeout)
	config.IdleTimeout = cmp.Or(config.IdleTimeout, DefaultIdleTimeout)
	config.WriteTimeout = cmp.Or(config.WriteTimeout, DefaultWriteTimeout)
	s := &Server{config: config}
	s.conns.max, s.conns.maxPerPeer = config.MaxConns, config.MaxConnsPerPeer
	s.gate = newGate(config.Allow, config.Addresses, config.Clock, config.RefusedPeer)
	s.reports.underWay = make(slots, maxReports)
	s.reports.withheld = newThrottle[netip.Addr](config.Clock, reportedMax)
	s.reports.host = newThrottle[struct{}](config.Clock, 1)
	return s
}

// Publish implements [source.Door]: whatever request has not been read to the end of its headers when
// it returns is answered from next.
func (s *Server) Publish(next *build.Snapshot) { s.snapshot.Store(next) }

// Listen opens a listener for [Server.Serve] on a TCP address, "host:port". It does without Multipath
// TCP, which net.Listen takes: the kernel knows no hop limit for that, and so would not let a client
// that speaks it have a token.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	// Nobody who is silent stays long enough for a keep-alive probe, so the calls that ask for them are spared.
	config := net.ListenConfig{Control: limitNewSocket, KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Serve answers connections of the listener, which it takes over, until ctx ends; then the listener
// and idle connections are closed at once, requests under way have a second to finish, the first ones
// of connections as long to begin, and Serve returns nil.
// Any other error is that of a listener that no longer accepts.
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

// take decides about a connection that has just been accepted. It only does work that does not depend on what
// others have us do: the next one waits for it.
func (s *Server) take(ctx context.Context, nc net.Conn, running *sync.WaitGroup) {
	switch v := s.gate.look(nc); {
	case v.allowed:
		// In the order of arrival, so that whoever comes while a neighbour's flood is still being
		// taken in is not taken for older than it.
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

// admit registers a connection. The connections that have to go for it are closed.
func (s *Server) admit(nc net.Conn, v verdict) *conn {
	peer := v.peer
	if v.local {
		peer = netip.Addr{}
	}
	limitBuffers(nc) // what is no socket has none
	c := newConn(s, nc, peer)
	s.conns.add(&c.member)
	return c
}

// report calls a callback, unless so many are under way that the log does not take them.
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

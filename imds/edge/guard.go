package edge

import (
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"

	"github.com/imdsfs/imdsfs/source/clock"
)

// DefaultMaxPortConns is the limit of connections of a port other than the IMDS one.
const DefaultMaxPortConns = 64

// A PortConfig says who may use a port other than the IMDS one, and with how many connections.
type PortConfig struct {
	// Allow and Addresses are as in [Config], for this port only. A Unix socket ignores them: its server asks the kernel who
	// the caller is.
	Allow     []Rule
	Addresses *Addresses
	Clock     clock.Clock // nil: the system's
	MaxConns  int         // 0: DefaultMaxPortConns
	// RefusedPeer is as in [Config].
	RefusedPeer func(peer netip.Addr)
}

// A Port is a listener for net/http that limits its clients as the IMDS port does: a connection of a peer that no rule
// allows is closed unanswered, and above the limit the connection unused for longest is closed.
//
//	port := edge.Guard(listener, edge.PortConfig{Addresses: addresses})
//	server := http.Server{Handler: handler, ConnState: port.ConnState, …}
//	err := server.Serve(port)
//
// The server has time-outs of its own.
type Port struct {
	net.Listener
	gate  *gate // nil: a Unix socket
	conns registry
}

// Guard takes a listener over.
func Guard(listener net.Listener, config PortConfig) *Port {
	p := &Port{Listener: listener}
	p.conns.max = cmp.Or(config.MaxConns, DefaultMaxPortConns)
	if listener.Addr().Network() != "unix" {
		if config.Clock == nil {
			config.Clock = clock.System()
		}
		p.gate = newGate(config.Allow, config.Addresses, config.Clock, config.RefusedPeer)
		limitBuffers(listener) // if this fails the kernel's own limit applies
	}
	return p
}

// Refused is the number of connections that no rule allowed.
func (p *Port) Refused() uint64 {
	if p.gate == nil {
		return 0
	}
	return p.gate.refused.Load()
}

// Accept returns the next connection that may be answered. A connection that needs a second look has it in its first read,
// which returns EOF if the peer is refused.
func (p *Port) Accept() (net.Conn, error) {
	for {
		nc, err := p.Listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				p.conns.evict()
			}
			return nil, err
		}
		c := &portConn{member: member{Conn: nc}, port: p}
		switch {
		case p.gate == nil || p.gate.look(nc).allowed:
			if p.gate != nil {
				limitBuffers(nc)
			}
			p.conns.add(&c.member)
			return c, nil
		case p.gate.mayLookAgain():
			c.waits = true
			return c, nil
		default:
			p.gate.refuse(nc)
		}
	}
}

// ConnState is for [http.Server]: it marks a connection as used when a request has come in.
func (p *Port) ConnState(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*portConn); ok && state == http.StateActive {
		p.conns.touch(&c.member)
	}
}

// A portConn is a connection of a Port.
type portConn struct {
	member
	port *Port

	waits   bool // needs a second look
	look    sync.Once
	refused bool
}

// isRefused takes the second look, if one is needed.
func (c *portConn) isRefused() bool {
	if c.waits {
		gate := c.port.gate
		var refused *verdict // just now
		c.look.Do(func() {
			v := gate.lookAgain(c.Conn)
			if c.refused = !v.allowed; c.refused {
				gate.refuse(c.Conn)
				refused = &v
				return
			}
			gate.looked()
			limitBuffers(c.Conn)
			c.port.conns.add(&c.member)
		})
		// After the look: Close waits for the look, and must not wait for a log that blocks.
		if refused != nil {
			gate.report(refused.peer)
			gate.looked()
		}
	}
	return c.refused
}

func (c *portConn) Read(b []byte) (int, error) {
	if c.isRefused() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

func (c *portConn) Write(b []byte) (int, error) {
	if c.isRefused() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *portConn) Close() error {
	if c.waits {
		c.look.Do(func() {
			c.refused = true
			c.port.gate.looked()
		})
	}
	c.port.conns.remove(&c.member)
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection so that the client can still read the answer.
func (c *portConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errNotASocket
}

// SyscallConn lets callers ask the kernel about the other end.
func (c *portConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errNotASocket
}

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

// DefaultMaxPortConns are the connections of a port besides the IMDS one.
const DefaultMaxPortConns = 64

// A PortConfig says who may use a port besides the IMDS one, and how many connections there may be.
type PortConfig struct {
	// Allow and Addresses are as in [Config], and apply to this port alone. They mean nothing for a Unix
	// socket, whose server asks the kernel who the caller is.
	Allow     []Rule
	Addresses *Addresses
	Clock     clock.Clock // nil: the system's
	MaxConns  int         // 0: DefaultMaxPortConns
	// RefusedPeer is as in [Config].
	RefusedPeer func(peer netip.Addr)
}

// A Port is a listener for net/http whose clients are bounded as those of the IMDS port are: a peer that no rule
// allows is closed unanswered, and over the cap the connection unused for longest is closed.
//
//	port := edge.Guard(listener, edge.PortConfig{Addresses: addresses})
//	server := http.Server{Handler: handler, ConnState: port.ConnState, …}
//	err := server.Serve(port)
//
// Time-outs are the server's own.
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
		limitBuffers(listener) // where it cannot be done the kernel's own bound is what there is
	}
	return p
}

// Refused is how many connections no rule allowed.
func (p *Port) Refused() uint64 {
	if p.gate == nil {
		return 0
	}
	return p.gate.refused.Load()
}

// Accept returns the next connection that may be answered. One that has to wait for a second look does so in its
// first read, which says EOF if it is refused.
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

// ConnState is for [http.Server]: a connection is used when a request has come in.
func (p *Port) ConnState(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*portConn); ok && state == http.StateActive {
		p.conns.touch(&c.member)
	}
}

// A portConn is a connection of a Port.
type portConn struct {
	member
	port *Port

	waits   bool // for a second look
	look    sync.Once
	refused bool
}

// isRefused has the second look, if there has to be one.
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
		// Outside of that: Close waits for the look, and must not for a log that blocks.
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

// CloseWrite has net/http end a connection so that the client still reads the answer.
func (c *portConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errNotASocket
}

// SyscallConn is for those who ask the kernel about the other end.
func (c *portConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errNotASocket
}

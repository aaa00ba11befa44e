package edge

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A watchedListener passes on what it accepts.
type watchedListener struct {
	net.Listener
	accepted chan net.Conn
}

func (l watchedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- nc
	}
	return nc, err
}

func watch(t *testing.T, listen string) watchedListener {
	t.Helper()
	l, err := Listen(t.Context(), listen)
	kit.Require(t, err == nil, fmt.Sprintf("to listen on %s: %v", listen, err))
	return watchedListener{l, make(chan net.Conn, 10)}
}

func option(t *testing.T, nc net.Conn, level, name int) (value int) {
	t.Helper()
	err := control(nc, func(fd int) (err error) {
		value, err = unix.GetsockoptInt(fd, level, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// families are the three ways to set a packet's TTL. dial is the host to connect to.
var families = []struct {
	name, listen, dial  string
	level, ttl, minimum int
}{
	{"IPv4", "127.0.0.1:0", "127.0.0.1", unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL},
	{"IPv6", "[::1]:0", "::1", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT},
	{"IPv4 on an IPv6 socket", "[::]:0", "127.0.0.1", unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL},
}

func (h *harness) dialHost(d *net.Dialer, host string) *client {
	h.t.Helper()
	_, port, err := net.SplitHostPort(h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return dialAddr(h.t, d, net.JoinHostPort(host, port))
}

func TestHopLimitIsSetAndNeverRaised(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			l := watch(t, f.listen)
			h := startOn(t, l, Config{}, "http-put-response-hop-limit", "3")
			c := h.dialHost(&net.Dialer{}, f.dial)
			accepted := <-l.accepted
			before := option(t, accepted, f.level, f.ttl)
			if before <= 3 {
				t.Fatalf("this machine's TTL is %d already", before)
			}
			check := func(what string, want int) {
				t.Helper()
				if got := option(t, accepted, f.level, f.ttl); got != want {
					t.Errorf("%s: TTL %d, want %d", what, got, want)
				}
			}
			c.roundTrip()
			check("after a GET", before)
			c.send(strings.Replace(put, "60", "0", 1) + "\r\n")
			c.expect(gotBadTTL)
			check("after a refused PUT", before)
			c.send(put + "\r\n")
			c.expectToken()
			check("after a PUT", 3)
			if got := option(t, accepted, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != 20000 {
				t.Errorf("TCP_USER_TIMEOUT %d ms, want 20000", got)
			}
			c.roundTrip()
			check("after a GET on the same connection", 3)
			h.Publish(snapshot(t, "http-put-response-hop-limit", "64"))
			c.send(put + "\r\n")
			c.expectToken()
			check("after a PUT under a higher limit", 3)
			h.Publish(snapshot(t, "http-put-response-hop-limit", "2"))
			c.send(put + "\r\n")
			c.expectToken()
			check("after a PUT under a lower limit", 2)

			h.Publish(snapshot(t, "http-put-response-hop-limit", "64"))
			other := h.dialHost(&net.Dialer{}, f.dial)
			accepted = <-l.accepted
			other.send(put + "\r\n")
			other.expectToken()
			check("on another connection", 64)
		})
	}
}

// A client that is one hop too far away gets its connection and its data, but never the token. The kernel drops what arrives
// with a lower TTL, as a router on the way would.
func TestTokenDiesOnTheWay(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			h := startOn(t, watch(t, f.listen), Config{}, "http-put-response-hop-limit", "2")
			at := func(hops int) *client {
				d := &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
					e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), f.level, f.minimum, hops) })
					return errors.Join(err, e)
				}}
				return h.dialHost(d, f.dial)
			}
			near := at(2)
			near.send(put + "\r\n")
			near.expectToken()

			far := at(3)
			far.roundTrip()
			far.send(put + "\r\n")
			far.SetDeadline(time.Now().Add(300 * time.Millisecond))
			if n, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d bytes (%v), want none until the client gives up", n, err)
			}
			// What is sent later on this connection must not carry the token.
			h.Publish(snapshot(t, "http-put-response-hop-limit", "64"))
			far.SetDeadline(time.Now().Add(300 * time.Millisecond))
			far.send(get + put + "\r\n")
			if n, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d bytes (%v) on the connection that carried a token", n, err)
			}
		})
	}
}

// A hidingListener hides that its connections are sockets.
type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{nc}, nil
}

func TestNoTokenWhereTheHopLimitCannotBeSet(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := startOn(t, hidingListener{l}, Config{}).dial()
	c.roundTrip()
	c.send(put + "\r\n")
	c.expectEnd(true)
}

func TestClientsThatOfferMultipathTCPGetTokens(t *testing.T) {
	h := start(t, Config{})
	var d net.Dialer
	d.SetMultipathTCP(true)
	c := dialAddr(t, &d, h.addr)
	if multipath, err := c.Conn.(*net.TCPConn).MultipathTCP(); multipath || err != nil {
		t.Errorf("the connection is multipath: %t, %v", multipath, err)
	}
	c.send(put + "\r\n")
	c.expectToken()
}

package edge

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// guarded answers "ok" to every request on a port, until the test ends.
func guarded(t *testing.T, listener net.Listener, config PortConfig) (*Port, string) {
	t.Helper()
	port := Guard(listener, config)
	server := &http.Server{ConnState: port.ConnState, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })}
	var running sync.WaitGroup
	running.Go(func() { server.Serve(port) })
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return port, listener.Addr().String()
}

const (
	getOK = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	gotOK = "HTTP/1.1 200 OK\r\n"
)

func (c *client) answered() {
	c.t.Helper()
	c.send(getOK)
	c.expect(gotOK)
	rest := make([]byte, 500)
	if _, err := c.Read(rest); err != nil {
		c.t.Fatal(err)
	}
}

func loopbackListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAPortClosesTheConnectionUnusedForLongest(t *testing.T) {
	port, addr := guarded(t, loopbackListener(t), PortConfig{MaxConns: 3})
	dial := func() *client { return dialAddr(t, &net.Dialer{}, addr) }
	a, b, c := dial(), dial(), dial()
	for _, conn := range []*client{a, b, c, a} {
		conn.answered()
	}
	b.send(getOK[:10]) // a request that has only begun is no use
	d := dial()
	d.answered()
	b.expectEnd(false)
	for _, conn := range []*client{a, c, d} {
		conn.answered()
	}
	a.Close()
	c.Close()
	kit.Eventually(t, "closed ones are forgotten", func() bool { return port.conns.len() == 1 })
}

func TestAPortRefusesAllButItsOwnPeers(t *testing.T) {
	var told recorder[netip.Addr]
	addresses := noAddresses()
	port, addr := guarded(t, loopbackListener(t), PortConfig{Allow: mustParse(t, "10.0.0.0/8", "iface:lo"), Addresses: addresses, RefusedPeer: told.add})
	for range 3 {
		c := dialAddr(t, &net.Dialer{}, addr)
		c.send(getOK)
		c.expectEnd(false)
	}
	kit.Eventually(t, "all are seen to", func() bool { return len(addresses.secondLooks) == 0 })
	if got := told.all(); len(got) != 1 || got[0] != netip.MustParseAddr("127.0.0.1") || port.Refused() != 3 {
		t.Errorf("told %v of %d", got, port.Refused())
	}
	addresses.show(newPicture([]interfaceAddress{{"lo", netip.MustParsePrefix("127.0.0.1/8")}}))
	dialAddr(t, &net.Dialer{}, addr).answered()
}

// An address may be used before we have read that it is ours.
func TestAPeerOfAnAddressThatIsJustAddedIsAnswered(t *testing.T) {
	local := newPicture([]interfaceAddress{{"lo", netip.MustParsePrefix("127.0.0.1/8")}})
	for name, serve := range map[string]func(*Addresses) string{
		"IMDS": func(a *Addresses) string {
			return start(t, Config{Allow: mustParse(t, "iface:lo"), Addresses: a}).addr
		},
		"another port": func(a *Addresses) string {
			_, addr := guarded(t, loopbackListener(t), PortConfig{Allow: mustParse(t, "iface:lo"), Addresses: a})
			return addr
		},
	} {
		t.Run(name, func(t *testing.T) {
			answered := false
			for range 100 { // the event is in time mostly, but nothing can make it so on a busy machine
				a := noAddresses()
				addr := serve(a)
				c := dialAddr(t, &net.Dialer{}, addr)
				kit.Eventually(t, "it waits or is refused", func() bool { return len(a.secondLooks) == 1 || closed(c) })
				a.show(local)
				c.SetDeadline(time.Now().Add(patience))
				io.WriteString(c, get)
				if n, _ := c.Read(make([]byte, 9)); n == 9 {
					answered = true
					break
				}
			}
			if !answered {
				t.Error("refused each time")
			}
		})
	}
}

func closed(c *client) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return !ok || !timeout.Timeout()
}

// However many peers are refused, few wait. All slots are given back.
func TestFewConnectionsWaitForASecondLook(t *testing.T) {
	a := noAddresses()
	h := start(t, Config{Allow: mustParse(t, "iface:lo"), Addresses: a})
	port, addr := guarded(t, loopbackListener(t), PortConfig{Allow: mustParse(t, "iface:lo"), Addresses: a})
	var clients []*client
	for i := range 4 * maxSecondLooks {
		clients = append(clients, dialAddr(t, &net.Dialer{}, []string{h.addr, addr}[i%2]))
		if n := len(a.secondLooks); n > maxSecondLooks {
			t.Fatalf("%d wait", n)
		}
	}
	for _, c := range clients {
		c.expectEnd(false)
	}
	kit.Eventually(t, "none waits", func() bool { return len(a.secondLooks) == 0 })
	if n := h.Counts().PeersRefused + port.Refused(); n != uint64(len(clients)) {
		t.Errorf("%d are counted of %d", n, len(clients))
	}
	a.show(newPicture([]interfaceAddress{{"lo", netip.MustParsePrefix("127.0.0.1/8")}}))
	h.dial().roundTrip()
}

func TestAUnixSocketHasACapAndNoRule(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	guarded(t, l, PortConfig{MaxConns: 2, Allow: []Rule{}})
	var conns []*client
	for range 3 {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(patience))
		c := &client{nc, t}
		c.answered()
		conns = append(conns, c)
	}
	conns[0].expectEnd(false)
	conns[1].answered()
}

// A log that blocks holds up a few refused peers and no other connection.
func TestABlockedLogHoldsNobodyUp(t *testing.T) {
	block := make(chan struct{})
	a := noAddresses()
	h := start(t, Config{Allow: mustParse(t, "127.0.0.2/32"), Addresses: a, RefusedPeer: func(netip.Addr) { <-block }})
	t.Cleanup(func() { close(block) })
	for i := range 2 * maxSecondLooks {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(i))}}
		dialAddr(t, d, h.addr).expectEnd(false)
	}
	if n := len(a.secondLooks); n > maxSecondLooks {
		t.Errorf("%d are held", n)
	}
	dialAddr(t, &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}, h.addr).roundTrip()
}

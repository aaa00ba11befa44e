package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A routed is a service and a client that have one router between them, each in a network namespace
// of its own.
type routed struct {
	t                      testing.TB
	server, router, client netns
	address                string // of the service, host:port
	network                string // of all three
}

// newRouted makes the three, with addresses PREFIX1… from the server to the router and PREFIX2… on
// to the client.
func newRouted(t testing.TB, network, prefix, host, bits string) *routed {
	t.Helper()
	name := func(role string) string { return strings.ToLower(t.Name()[len(t.Name())-4:]) + "-" + role }
	n := &routed{t: t, server: bareNetns(t, name("server")), router: bareNetns(t, name("router")), client: bareNetns(t, name("client")), network: network}
	end := func(net, number int) string { return fmt.Sprintf("%s%d%s%d", prefix, net, host, number) }
	n.address = net.JoinHostPort(end(1, 1), "80")
	flags := ""
	if strings.Contains(prefix, ":") {
		flags = "nodad"
	}
	n.router.run(fmt.Sprintf(`ip link set lo up
		ip link add to-server type veth peer name eth0 netns %[1]s
		ip link add to-client type veth peer name eth0 netns %[2]s
		ip address add %[3]s/%[5]s dev to-server %[6]s
		ip address add %[4]s/%[5]s dev to-client %[6]s
		ip link set to-server up && ip link set to-client up
		echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding`,
		n.server.name, n.client.name, end(1, 2), end(2, 2), bits, flags))
	for _, side := range []struct {
		ns             netns
		address, route string
	}{
		{n.server, end(1, 1), end(1, 2)},
		{n.client, end(2, 1), end(2, 2)},
	} {
		side.ns.run(fmt.Sprintf("ip link set lo up && ip link set eth0 up && ip address add %s/%s dev eth0 %s && ip route add default via %s",
			side.address, bits, flags, side.route))
	}
	return n
}

const (
	v1Get = "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: instance-data\r\n\r\n"
	v2Put = "PUT /latest/api/token HTTP/1.1\r\nHost: instance-data\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
)

// The limit counts the hops that the packets with the token survive; all else passes.
func TestHopLimitBehindARouter(t *testing.T) {
	for _, family := range []struct{ name, network, prefix, host, bits string }{
		{"IPv4", "10.77.0.0/16", "10.77.", ".", "24"},
		{"IPv6", "fd77::/48", "fd77:0:0:", "::", "64"},
	} {
		t.Run(family.name, func(t *testing.T) {
			n := newRouted(t, family.network, family.prefix, family.host, family.bits)
			runtime := n.server.serve(write(t, "instance.toml", hopLimited), "--listen", n.address, "--allow-from", n.network)
			atRouter, atClient := n.router.capture("to-server"), n.client.capture("eth0")

			// Within the limit: the router's own.
			if answer := n.dial(n.router).roundTrip(v2Put); !tokenPattern.MatchString(answer) {
				t.Errorf("the router got no token: %q", answer)
			}
			// Beyond it: the client sees that there is a service, and never the answer.
			n.dial(n.client).wantInstanceID()
			lost, pipelined := n.dial(n.client), n.dial(n.client)
			lost.roundTrip(v1Get)
			lost.send(v2Put)
			pipelined.send(v2Put + v1Get)
			moreRetransmissions := func(more int) {
				t.Helper()
				before := map[int]int{lost.port: len(atRouter.tokens(lost.port)), pipelined.port: len(atRouter.tokens(pipelined.port))}
				kit.Eventually(t, "the router has seen a token again", func() bool {
					return len(atRouter.tokens(lost.port)) >= before[lost.port]+more && len(atRouter.tokens(pipelined.port)) >= before[pipelined.port]+more
				})
			}
			moreRetransmissions(2)
			n.dial(n.client).wantInstanceID()
			lost.wantNothing()
			pipelined.wantNothing()

			for limit := 2; limit <= 3; limit++ {
				n.server.run(fmt.Sprintf("imdsfs options set --runtime-dir %s http-put-response-hop-limit=%d", runtime, limit))
				if limit == 2 { // what was sent under the lower limit stays under it
					moreRetransmissions(1)
				}
				c := n.dial(n.client)
				token := tokenPattern.FindString(c.roundTrip(v2Put))
				if token == "" {
					t.Fatalf("limit %d: no token", limit)
				}
				kit.Eventually(t, "the capture has it too", func() bool { return atClient.payloads(c.port) >= c.received })
				seen := atClient.tokens(c.port)
				if len(seen) == 0 || string(tokenPattern.Find(seen[0].payload)) != token || seen[0].hops != limit-1 {
					t.Errorf("limit %d: captured %+v, want %s with %d hops left", limit, seen, token, limit-1)
				}
				c.token = token
				c.wantInstanceID()
				// What came before on the wire is in the capture before.
				kit.Eventually(t, "the capture has that too", func() bool { return atClient.payloads(c.port) >= c.received })
			}
			lost.wantNothing()
			pipelined.wantNothing()
			if found := append(atClient.tokens(lost.port), atClient.tokens(pipelined.port)...); len(found) > 0 {
				t.Errorf("the client received %+v", found)
			}
			if got := atClient.payloads(pipelined.port); got > 0 {
				t.Errorf("the client received %d bytes after PUT and GET in one", got)
			}
			if got := atClient.payloads(lost.port); got != lost.received {
				t.Errorf("the client's link has seen %d bytes, the client got %d before it asked for a token", got, lost.received)
			}
		})
	}
}

// hopLimited is an instance with limit 1. The router is the hop between, so the daemon stands outside of
// the guest.
var hopLimited = least("", `
[metadata-options]
http-put-response-hop-limit = 1
http-protocol-ipv6 = "enabled"

[server]
vantage = "host"
`)

var tokenPattern = regexp.MustCompile(`AQAEA[\w-]{49}==`)

// A clientConn is a connection to the service as a client has it.
type clientConn struct {
	net.Conn
	t        testing.TB
	in       *bufio.Reader
	port     int    // the client's
	received int    // bytes
	token    string // to be sent, if not empty
}

func (n *routed) dial(from netns) *clientConn {
	n.t.Helper()
	c := &clientConn{t: n.t}
	from.enter(func() error {
		conn, err := net.DialTimeout("tcp", n.address, kit.Patience)
		c.Conn = conn
		return err
	})
	n.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(kit.Patience))
	c.port = int(netip.MustParseAddrPort(c.LocalAddr().String()).Port())
	c.in = bufio.NewReader(io.TeeReader(c.Conn, counter{&c.received}))
	return c
}

type counter struct{ n *int }

func (n counter) Write(p []byte) (int, error) {
	*n.n += len(p)
	return len(p), nil
}

func (c *clientConn) send(request string) {
	c.t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
}

// roundTrip returns the status line and the body of the answer, with a line feed between.
func (c *clientConn) roundTrip(request string) string {
	c.t.Helper()
	c.send(request)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%q: %v", request, err)
	}
	return resp.Status + "\n" + string(body)
}

func (c *clientConn) wantInstanceID() {
	c.t.Helper()
	request := v1Get
	if c.token != "" {
		request = strings.Replace(v1Get, "\r\n\r\n", "\r\nX-aws-ec2-metadata-token: "+c.token+"\r\n\r\n", 1)
	}
	if got := c.roundTrip(request); got != "200 OK\ni-0a1b2c3d4e5f67890" {
		c.t.Errorf("GET: %q", got)
	}
}

// wantNothing checks that there is nothing to be read; what the other end sent has had the time to
// arrive.
func (c *clientConn) wantNothing() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("read %d bytes and %v, want none and no end", n, err)
	}
}

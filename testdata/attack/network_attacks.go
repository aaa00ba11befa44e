package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var networkAttacks = []attack{
	{name: "a neighbour routes to the address", by: neighbour, tries: "a route to 169.254.169.254 and fd00:ec2::254 over the LAN; GET and PUT", holds: "the connection is closed without a byte; the bridge, which is listed, is answered", run: func(w *world) error {
		for _, address := range []string{door, door6} {
			for range 3 {
				if err := first(silent(lan, address, "", get(idPath, "")), silent(lan, address, "", putToken("60"))); err != nil {
					return err
				}
			}
		}
		return w.answered(bridged, door)
	}},
	{name: "other ports and addresses of the host", by: neighbour, tries: "every listening port of the host, at its LAN address and the service's", holds: "nothing answers", run: func(w *world) error {
		ports, err := listening()
		if err != nil || len(ports) < 2 {
			return fmt.Errorf("only %v listen: %w", ports, err)
		}
		for _, port := range ports {
			for _, host := range []string{"192.0.2.1", "169.254.169.254", "172.31.0.1"} {
				if err := silent(lan, net.JoinHostPort(host, port), "", "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{name: "a listed network opens no other", by: container, tries: "the bridge, listed for one daemon, asks the daemon that does not list it", holds: "closed without a byte", run: func(w *world) error {
		return first(silent(bridged, strictDoor, "", get(idPath, "")), w.answered(bridged, door))
	}},
	{name: "a token at hop limit 1 on a bridge", by: container, tries: "PUT, PUT and GET in one, PUT twice", holds: "no token: the peer is one hop further away than the wire shows; GET goes", run: func(w *world) error {
		for _, stream := range []string{putToken("60"), putToken("60") + get(idPath, ""), get(idPath, "") + putToken("60"), putToken("60") + putToken("60")} {
			conn, err := bridged.dial(door, "", patience)
			if err != nil {
				return err
			}
			io.WriteString(conn, stream)
			conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // an answer needs a millisecond
			answer, _ := io.ReadAll(conn)
			conn.Close()
			if tokenPattern.Match(answer) {
				return fmt.Errorf("%q: %q", stream, answer)
			}
		}
		return w.answered(bridged, door)
	}},
	{name: "a token behind a router", by: container, tries: "PUT from behind a router at hop limit 1; PUT and GET in one; GET before; until it is sent again and again", holds: "no byte of a token on the client's link, nor anything after it; the router, one hop away, gets one", run: behindRouter},
	{name: "a token behind a router over Multipath TCP", by: container, tries: "a client that speaks MPTCP, for which the kernel knows no hop limit", holds: "no token arrives", run: func(w *world) error {
		ask := func(p place) (string, error) {
			fd := -1
			if err := p.do(func() (err error) {
				fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
				return err
			}); err != nil {
				return "", err
			}
			defer unix.Close(fd)
			limit := unix.Timeval{Usec: 500_000}
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 77, 1, 1}}); err != nil {
				return "", err
			}
			unix.Write(fd, []byte(putToken("60")))
			answer := make([]byte, 4096)
			n, _ := unix.Read(fd, answer)
			return string(answer[:max(n, 0)]), nil
		}
		near, err := ask(router)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
			return nil // the kernel does not have it
		}
		if err != nil || !tokenPattern.MatchString(near) {
			return fmt.Errorf("control: the router gets %q, %w", near, err)
		}
		far, err := ask(distant)
		if err == nil && far != "" {
			err = fmt.Errorf("the client gets %q", far)
		}
		return err
	}},
	{name: "a raised hop limit for what was lost", by: container, tries: "waiting for a retransmission while the limit is raised to 2", holds: "what was sent under limit 1 stays under it", slow: true, alone: true, run: func(w *world) error {
		set := func(limit string) error {
			out, err := w.as(0, imdsfs, "options", "set", "--runtime-dir", w.strict.runtime, "http-put-response-hop-limit="+limit)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		before, err := router.capture("eth0")
		if err != nil {
			return err
		}
		defer before.socket.Close()
		conn, err := distant.dial(strictDoor, "", patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		io.WriteString(conn, putToken("60"))
		port := conn.LocalAddr().(*net.TCPAddr).Port
		if err := first(until("the token has been sent", func() bool { return before.tokens(port) > 0 }), set("2")); err != nil {
			return err
		}
		defer set("1")
		sent := before.tokens(port)
		if err := until("it has been sent again", func() bool { return before.tokens(port) > sent+1 }); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the client reads %d bytes, %w", n, err)
		}
		control, err := distant.dial(strictDoor, "", patience)
		if err != nil {
			return err
		}
		defer control.Close()
		control.SetDeadline(time.Now().Add(patience))
		io.WriteString(control, strings.Replace(putToken("60"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		if answer, err := io.ReadAll(control); err != nil || !tokenPattern.Match(answer) {
			return fmt.Errorf("control: at limit 2 the client gets %q, %w", answer, err)
		}
		return nil
	}},
	{name: "a source that is on the loopback", by: neighbour, tries: "127.0.0.5 as the source, with route_localnet", holds: "no connection", run: func(w *world) error {
		if err := lan.sh("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; ip address add 127.0.0.5/32 dev eth0; ip route replace 169.254.169.254 via 192.0.2.1"); err != nil {
			return err
		}
		defer lan.sh("ip address del 127.0.0.5/32 dev eth0; echo 0 >/proc/sys/net/ipv4/conf/all/route_localnet")
		return silent(lan, door, "127.0.0.5", get(idPath, ""))
	}},
	{name: "a source that is ours", by: neighbour, tries: "the host's own address, and the service's, as the source", holds: "no connection", run: func(w *world) error {
		if err := lan.sh("ip address add 192.0.2.1/32 dev lo; ip route replace 169.254.169.254 dev eth0; ip address add 10.77.1.1/32 dev lo; ip neigh replace 169.254.169.254 lladdr $(cat /sys/class/net/eth0/address) dev eth0 2>/dev/null || true"); err != nil {
			return err
		}
		defer lan.sh("ip address del 192.0.2.1/32 dev lo; ip address del 10.77.1.1/32 dev lo; ip neigh flush dev eth0; ip route replace 169.254.169.254 via 192.0.2.1")
		return first(silent(lan, door, "192.0.2.1", get(idPath, "")), silent(lan, door, "10.77.1.1", get(idPath, "")))
	}, alone: true},
	{name: "an address that the host has just given up", by: neighbour, tries: "taking over 192.0.2.9 at the moment in which the host removes it, by ARP", holds: "closed without a byte from the first connection on", alone: true, run: func(w *world) error {
		for range 3 {
			if err := server.sh("ip address add 192.0.2.9/24 dev wire0"); err != nil {
				return err
			}
			// The daemon knows that the address is the machine's.
			if err := w.answeredFrom(server, door, "192.0.2.9"); err != nil {
				return err
			}
			if err := first(server.sh("ip address del 192.0.2.9/24 dev wire0; ip neigh flush dev wire0"), lan.sh("ip address add 192.0.2.9/24 dev eth0; ip neigh flush dev eth0")); err != nil {
				return err
			}
			err := first(silent(lan, door, "192.0.2.9", get(idPath, "")), silent(lan, door, "192.0.2.9", putToken("60")))
			lan.sh("ip address del 192.0.2.9/24 dev eth0")
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "a link-local address that the host has on another link", by: neighbour, tries: "fe80::77 on the LAN, which is the host's on its bridge", holds: "closed without a byte", run: func(w *world) error {
		if err := first(server.sh("ip -6 address add fe80::77/64 dev br0 nodad"), lan.sh("ip -6 address add fe80::77/64 dev eth0 nodad")); err != nil {
			return err
		}
		defer func() {
			server.sh("ip -6 address del fe80::77/64 dev br0")
			lan.sh("ip -6 address del fe80::77/64 dev eth0")
		}()
		return first(silent(lan, door6, "fe80::77%eth0", get(idPath, "")), w.answered(server, door6))
	}},
	{name: "IPv6 sources that hold an IPv4 one", by: neighbour, tries: "2002:7f00:1::1 (6to4), 64:ff9b::7f00:1, ::127.0.0.1", holds: "closed without a byte, or no connection", run: func(w *world) error {
		for _, source := range []string{"2002:7f00:1::1", "64:ff9b::7f00:1", "::7f00:1", "::ffff:0:7f00:1"} {
			if err := lan.sh("ip -6 address add " + source + "/128 dev eth0 nodad"); err != nil {
				continue // the kernel does not accept it at all
			}
			if err := server.sh("ip -6 route add " + source + "/128 via fd02::2"); err != nil {
				return err
			}
			err := silentOn6(source)
			lan.sh("ip -6 address del " + source + "/128 dev eth0")
			server.sh("ip -6 route del " + source + "/128 via fd02::2 || true")
			if err != nil {
				return err
			}
		}
		return w.answered(server, door6)
	}},
	{name: "a neighbour answers ARP for the service", by: neighbour, tries: "the service's address on the neighbour's link, with gratuitous ARP", holds: "clients of the host still reach the daemon", run: func(w *world) error {
		if err := bridged.sh("ip link add spoof type bridge; ip address add 169.254.169.254/32 dev spoof; ip link set spoof up"); err != nil {
			return err
		}
		defer bridged.sh("ip link del spoof")
		return w.answered(server, door)
	}},
	{name: "no word for refused peers", by: neighbour, tries: "connecting 50 times in vain", holds: "one line in the log, which names the peer and the remedy; status counts", run: func(w *world) error {
		for range 50 {
			if err := silent(lan, door, "", get(idPath, "")); err != nil {
				return err
			}
		}
		log := w.main.log.String()
		if n := strings.Count(log, "peer=192.0.2.2"); n > 2 || n == 0 || !strings.Contains(log, "--allow-from") {
			return fmt.Errorf("logged %d times, want once a minute, with the remedy", n)
		}
		status, err := w.as(0, imdsfs, "status")
		if err == nil && !strings.Contains(status, "192.0.2.2") {
			err = fmt.Errorf("status does not name the peer:\n%s", status)
		}
		return err
	}},
}

func behindRouter(w *world) error {
	atRouter, err := router.capture("eth0")
	if err != nil {
		return err
	}
	defer atRouter.socket.Close()
	atClient, err := distant.capture("eth0")
	if err != nil {
		return err
	}
	near, err := router.dial(strictDoor, "", patience)
	if err != nil {
		return err
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	io.WriteString(near, strings.Replace(putToken("60"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	if answer, err := io.ReadAll(near); err != nil || !tokenPattern.Match(answer) {
		return fmt.Errorf("control: the router gets %q, %w", answer, err)
	}
	before := "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n" // its answer, 403, arrives
	var ports []int
	for _, stream := range []string{putToken("60"), putToken("60") + get(idPath, ""), before + putToken("60"), putToken("60") + putToken("60")} {
		conn, err := distant.dial(strictDoor, "", patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		io.WriteString(conn, stream)
		port := conn.LocalAddr().(*net.TCPAddr).Port
		ports = append(ports, port)
	}
	for _, port := range ports {
		if err := until("the token has been sent several times", func() bool { return atRouter.tokens(port) >= 3 }); err != nil {
			return err
		}
	}
	// A connection that gets its answer: after it the client's link has carried everything that came before.
	far, err := distant.dial(strictDoor, "", patience)
	if err != nil {
		return err
	}
	defer far.Close()
	far.SetDeadline(time.Now().Add(patience))
	io.WriteString(far, "GET / HTTP/1.0\r\nHost: evil.test\r\n\r\n")
	if answer, err := io.ReadAll(far); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 403") {
		return fmt.Errorf("control: the client gets %q, %w", answer, err)
	}
	if n := atClient.tokens(0); n > 0 {
		return fmt.Errorf("the client's link has carried a token %d times", n)
	}
	for i, port := range ports {
		if n := atClient.bytes(port); n > 0 && i != 2 {
			return fmt.Errorf("the client's link has carried %d bytes of answer %d", n, i)
		}
	}
	return atClient.end()
}

// silent checks that a peer gets no byte from an address: no connection within a second, or one that is closed at once.
func silent(p place, address, from, stream string) error {
	conn, err := p.dial(address, strings.TrimSuffix(from, "%eth0"), time.Second)
	if strings.HasSuffix(from, "%eth0") {
		conn, err = p.dialZone(address, from)
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && (op.Timeout() || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EINVAL)) {
			return nil
		}
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, stream)
	answer, err := io.ReadAll(conn)
	switch {
	case len(answer) > 0:
		return fmt.Errorf("%s from %s: %q", address, conn.LocalAddr(), answer)
	case err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE):
		return fmt.Errorf("%s from %s is not closed: %w", address, conn.LocalAddr(), err)
	}
	return nil
}

func silentOn6(source string) error { return silent(lan, door6, source, get(idPath, "")) }

// dialZone connects from an IPv6 link-local address.
func (p place) dialZone(address, from string) (conn net.Conn, err error) {
	host, zone, _ := strings.Cut(from, "%")
	dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(host), Zone: zone}}
	dialer.SetMultipathTCP(false)
	err = p.do(func() error {
		conn, err = dialer.Dial("tcp", address)
		return err
	})
	return conn, err
}

// answered checks that a peer gets the main daemon's instance. It is the counter-test of silent.
func (w *world) answered(p place, address string) error { return w.answeredFrom(p, address, "") }

func (w *world) answeredFrom(p place, address, from string) error {
	conn, err := p.dial(address, from, patience)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, strings.Replace(get(idPath, ""), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(answer), mainID) {
		return fmt.Errorf("control: %s gets %q, %w", p, answer, err)
	}
	return nil
}

// listening are the TCP ports with a listener in this namespace.
func listening() (ports []string, err error) {
	seen := map[string]bool{}
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != "0A" {
				continue
			}
			var port int
			fmt.Sscanf(fields[1][strings.LastIndexByte(fields[1], ':')+1:], "%X", &port)
			if p := fmt.Sprint(port); !seen[p] {
				seen[p] = true
				ports = append(ports, p)
			}
		}
	}
	return ports, nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long anything that has to happen may take on a loaded machine.
const patience = time.Minute

// A place is a network namespace, by its name for ip(8); "" is the server's, which is ours.
type place string

const (
	server  place = ""
	lan     place = "lan"     // 192.0.2.2, on a wire to the server
	bridged place = "bridged" // 172.31.0.2, on the server's bridge br0
	router  place = "router"  // 10.77.1.2 to the server, 10.77.2.2 to the client
	distant place = "distant" // 10.77.2.1
)

// do calls f in the place. f must do its work in its own goroutine. Sockets that it makes stay in the place.
func (p place) do(f func() error) error {
	if p == server {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread must not be used for anything else
		done <- func() error {
			there, err := os.Open("/run/netns/" + string(p))
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// dial connects from the place. from is the source address, "" for any.
func (p place) dial(address, from string, limit time.Duration) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: limit}
	dialer.SetMultipathTCP(false)
	if from != "" {
		local := netip.MustParseAddr(from)
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	err = p.do(func() error {
		conn, err = dialer.Dial("tcp", address)
		return err
	})
	return conn, err
}

// sh runs a line of shell in the place. It has to succeed.
func (p place) sh(line string) error {
	cmd := exec.Command("sh", "-ec", line)
	if p != server {
		cmd = exec.Command("ip", "netns", "exec", string(p), "sh", "-ec", line)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%.200s: %w\n%s", line, err, out)
	}
	return nil
}

// say sends a stream and its end to an address and returns everything that comes back. A reset after the answers is no
// error: the server may close the connection before everything is sent.
func (p place) say(address, stream string) (string, error) {
	conn, err := p.dial(address, "", patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	go func() {
		io.WriteString(conn, stream)
		conn.(*net.TCPConn).CloseWrite()
	}()
	answer, err := io.ReadAll(io.LimitReader(conn, 64<<20))
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		err = nil
	}
	return string(answer), err
}

// codes are the status codes of complete answers, with "close" after one that ends the connection: "200 400 close".
func codes(answer string) (string, error) {
	var b strings.Builder
	in := newLineReader(answer)
	for {
		if _, err := in.Peek(1); err != nil {
			return strings.TrimPrefix(b.String(), " "), nil
		}
		resp, err := http.ReadResponse(in, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err != nil {
			return "", fmt.Errorf("no whole answer: %w in %.300q", err, answer)
		}
		fmt.Fprintf(&b, " %d", resp.StatusCode)
		if resp.Close {
			b.WriteString(" close")
		}
	}
}

// until polls until ok holds.
func until(what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", patience, what)
		}
	}
	return nil
}

package linklocal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Variables for tests.
var (
	// connectTimeout is for all addresses together. A real service accepts a connection in a few milliseconds, and the kernel
	// records that however busy the machine is.
	connectTimeout = time.Second
	// answerTimeout is for the answer on a connection. A real service takes a few milliseconds; another process of this
	// machine answers when it gets a processor.
	answerTimeout = 5 * time.Second
)

// An answer is the result of a probe of an address.
type answer struct {
	status string // of the HTTP response, "" without one
	closed bool   // a process accepted the connection and closed it without a response
}

// unanswered refuses addresses at whose port 80 somebody answers. ours are the addresses of a link that an earlier run left:
// only a process of this machine can answer there.
func unanswered(ctx context.Context, addrs []netip.Addr, ours []netip.Prefix) error {
	answers := make([]answer, len(addrs))
	var probes sync.WaitGroup
	for i, conn := range connect(addrs, connectTimeout) {
		if conn == nil {
			continue
		}
		probes.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
			answers[i] = probe(conn)
		})
	}
	probes.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, addr := range addrs {
		at := netip.AddrPortFrom(addr, 80)
		switch a := answers[i]; {
		case slices.Contains(ours, hostPrefix(addr)) && (a.status != "" || a.closed):
			return refuse(errInUse, fmt.Sprintf("%s, on %s", at, linkName), "stop it (another imdsfs?), or give --force-addresses")
		case a.status != "":
			return refuseAt(addr, errAnswered, fmt.Sprintf("%s says %q", at, a.status),
				"is this an instance in a cloud? listen elsewhere, or give --force-addresses to hide that service from this machine")
		}
	}
	return nil
}

// connect connects to port 80 of the addresses. The connection is nil if nobody accepts it within the time-out. It asks the
// kernel whether a connection is there. net.Dialer would give up by its own clock, even if the connection was there before
// this process got a processor again.
func connect(addrs []netip.Addr, timeout time.Duration) []net.Conn {
	conns := make([]net.Conn, len(addrs))
	pending := make([]unix.PollFd, len(addrs))
	for i, addr := range addrs {
		pending[i] = unix.PollFd{Fd: -1, Events: unix.POLLOUT} // poll ignores -1
		family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: 80, Addr: addr.As16()})
		if addr.Is4() {
			family, to = unix.AF_INET, &unix.SockaddrInet4{Port: 80, Addr: addr.As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
			unix.Close(fd)
			continue
		}
		pending[i].Fd = int32(fd)
	}
	for end, late := time.Now().Add(timeout), false; !late && slices.ContainsFunc(pending, func(p unix.PollFd) bool { return p.Fd >= 0 }); {
		left := time.Until(end)
		late = left <= 0 // so this poll is the last
		n, err := unix.Poll(pending, int(max(left, 0)/time.Millisecond))
		late = late && err != unix.EINTR
		if n <= 0 {
			continue
		}
		for i := range pending {
			if pending[i].Revents == 0 {
				continue
			}
			fd := int(pending[i].Fd)
			if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno == 0 {
				f := os.NewFile(uintptr(fd), addrs[i].String())
				conns[i], _ = net.FileConn(f) // a copy
				f.Close()
			} else {
				unix.Close(fd)
			}
			pending[i] = unix.PollFd{Fd: -1}
		}
	}
	for _, p := range pending {
		if p.Fd >= 0 {
			unix.Close(int(p.Fd))
		}
	}
	return conns
}

// probe sends one request with an invalid token. So a real service answers 401 whatever its hop limit is, and does not
// count the request as a use of IMDSv1, which might alarm an administrator.
func probe(conn net.Conn) answer {
	conn.SetDeadline(time.Now().Add(answerTimeout))
	req, err := http.NewRequest(http.MethodGet, "http://"+conn.RemoteAddr().String()+"/", nil)
	if err != nil {
		return answer{}
	}
	req.Header.Set("X-aws-ec2-metadata-token", "none")
	req.Close = true
	err = req.Write(conn)
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 16<<10)), req); err == nil {
			return answer{status: fmt.Sprintf("%s %d %s", resp.Proto, resp.StatusCode, http.StatusText(resp.StatusCode))}
		}
	}
	timeout, ok := err.(net.Error)
	return answer{closed: !ok || !timeout.Timeout()}
}

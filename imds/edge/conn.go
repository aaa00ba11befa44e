package edge

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/imds"
)

// A conn is one connection. Its goroutine alone uses it, but for place, which the registry guards,
// and for stop.
type conn struct {
	net.Conn
	server *Server
	place  *list.Element // in the registry; nil when it is not there

	in   *bufio.Reader
	head []byte // of the request being read
	out  []byte // the answer being written

	hopLimit int // the lowest that was set, 0 for none

	mu       sync.Mutex
	busy     bool // a request has begun and is not answered yet
	stopping bool
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{Conn: nc, server: s, in: bufio.NewReader(nc)}
}

// serveRequest waits for one request and answers it. It reports whether another may follow.
func (c *conn) serveRequest(ctx context.Context) bool {
	limits := &c.server.config
	c.SetReadDeadline(time.Now().Add(limits.IdleTimeout))
	if _, err := c.in.Peek(1); err != nil || !c.begin() {
		return false
	}
	c.SetReadDeadline(time.Now().Add(limits.HeaderTimeout))
	req, bodyLength, err := c.readRequest()
	var resp imds.Response
	switch now := limits.Clock.Now(); {
	case errors.Is(err, errBadRequest):
		resp = imds.BadRequest(now)
	case err != nil:
		return false
	default:
		c.server.conns.touch(c)
		req.Close = req.Close || ctx.Err() != nil
		resp = imds.Respond(c.server.snapshot.Load(), limits.Tokens, now, limits.Hosts, req)
	}
	if resp.RefusedHost != "" && limits.RefusedHost != nil && c.server.reports.host.allow(struct{}{}) {
		limits.RefusedHost(resp.RefusedHost)
	}
	if !c.write(&resp) {
		return false
	}
	if resp.Close {
		c.linger()
		return false
	}
	c.SetReadDeadline(time.Now().Add(limits.BodyTimeout))
	if _, err := c.in.Discard(bodyLength); err != nil {
		return false
	}
	return c.end()
}

func (c *conn) readRequest() (req *imds.Request, bodyLength int, err error) {
	if c.head, err = readHead(c.in, c.head[:0]); err != nil {
		return nil, 0, err
	}
	return parseHead(c.head)
}

// write sends the whole answer with one call. An answer with a token does not leave unless its hop
// limit could be set.
func (c *conn) write(resp *imds.Response) bool {
	if resp.HopLimit > 0 && !c.lowerHopLimit(resp.HopLimit) {
		return false
	}
	c.out = appendResponse(c.out[:0], resp)
	c.SetWriteDeadline(time.Now().Add(c.server.config.WriteTimeout))
	_, err := c.Write(c.out)
	if cap(c.out) > keepBuffers {
		c.out = nil
	}
	if cap(c.head) > keepBuffers {
		c.head = nil
	}
	return err == nil
}

func appendResponse(dst []byte, resp *imds.Response) []byte {
	dst = append(dst, resp.StatusLine()...)
	for _, h := range resp.Headers {
		dst = append(dst, "\r\n"...)
		dst = append(dst, h.Name...)
		dst = append(dst, ": "...)
		dst = append(dst, h.Value...)
	}
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, resp.Body...)
}

// lowerHopLimit sets the hop limit for all that is sent from now on, unless it is as low already.
func (c *conn) lowerHopLimit(limit int) bool {
	if c.hopLimit != 0 && c.hopLimit <= limit {
		return true
	}
	if setHopLimit(c.Conn, limit) != nil {
		return false
	}
	c.hopLimit = limit
	return true
}

// linger ends the connection so that the client gets the answer: closing a socket with unread input
// resets it, and a reset destroys what the client has not read yet.
func (c *conn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.Conn, lingerBytes)
}

// begin marks a request as under way, unless the server stops.
func (c *conn) begin() bool { return c.setBusy(true) }

// end marks it as done. It reports whether the connection goes on.
func (c *conn) end() bool { return c.setBusy(false) }

func (c *conn) setBusy(busy bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
	return !c.stopping
}

// stop closes the connection: at once if it is idle, otherwise after the grace at the latest.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if !c.busy {
		c.Close()
		return
	}
	time.AfterFunc(stopGrace, func() { c.Close() })
}

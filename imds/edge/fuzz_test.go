package edge

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
)

// A stream is a connection whose client sends in and then its end. Segments are at most chunk bytes.
type stream struct {
	net.Conn // nil: what is not below must not be called
	in       *bytes.Reader
	chunk    int
	out      bytes.Buffer
}

func (s *stream) Read(p []byte) (int, error)       { return s.in.Read(p[:min(len(p), s.chunk)]) }
func (s *stream) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *stream) Close() error                     { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }
func (s *stream) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// Whatever comes in, what goes out is a sequence of whole answers, the last one says close if one
// does, and none holds data: tokens are required, and none can be had without a socket.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		get, get + get, put + "\r\n" + get, "PRI * HTTP/2.0\r\n\r\n", "\r\n\r\n" + get, "GET", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nabcde" + get,
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n" + get,
		"HEAD /latest/ HTTP/1.1\r\n" + host + "\r\n" + strings.Repeat("x", 17<<10),
		"GET / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nX: y\r\n z\r\n\r\n",
	} {
		f.Add([]byte(s), 1000)
	}
	clock := source.NewManualClock(now)
	server := New(Config{Tokens: token.New([32]byte{7}, clock), Clock: clock})
	server.Publish(snapshot(f, "http-tokens", "required"))
	f.Fuzz(func(t *testing.T, in []byte, chunk int) {
		conn := &stream{in: bytes.NewReader(in), chunk: max(1, chunk)}
		server.serve(context.Background(), conn)
		if strings.Contains(conn.out.String(), instanceID) || strings.Contains(conn.out.String(), "AQAEA") {
			t.Fatalf("%q got %q", in, conn.out.String())
		}
		requests := methods(in)
		out := bufio.NewReader(&conn.out)
		for n := 0; ; n++ {
			if _, err := out.Peek(1); err == io.EOF {
				return
			}
			// Only how an answer to HEAD ends depends on the request.
			var req *http.Request
			if n < len(requests) {
				req = &http.Request{Method: requests[n]}
			}
			resp, err := http.ReadResponse(out, req)
			if err != nil {
				t.Fatalf("%q: answer %d: %v", in, n, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatalf("%q: body of answer %d: %v", in, n, err)
			}
			if _, err := out.Peek(1); resp.Close && err != io.EOF {
				t.Fatalf("%q: there is more after answer %d, which says close", in, n)
			}
		}
	})
}

// methods are those of the requests in a stream, read by the parts that are under test: it is the
// framing of the answers that is checked.
func methods(in []byte) (all []string) {
	r := bufio.NewReader(bytes.NewReader(in))
	for {
		head, err := readHead(r, nil)
		if err != nil {
			return all
		}
		req, length, err := parseHead(head)
		if err != nil {
			return append(all, "GET")
		}
		all = append(all, req.Method)
		if _, err := r.Discard(length); err != nil {
			return all
		}
	}
}

func FuzzParseAllow(f *testing.F) {
	for _, s := range []string{"local", "10.0.0.0/8", "fd00::/8", "iface:eth0", "iface:", "1.2.3.4", "fe80::1%eth0/64", "::ffff:1.2.3.4/120"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseAllow(s)
		if err == nil && r.String() != s {
			t.Errorf("ParseAllow(%q) prints %q", s, r)
		}
	})
}

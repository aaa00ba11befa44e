package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/clock"
)

// A stream is a connection whose client sends in and then ends. Segments have at most chunk bytes.
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

// Whatever comes in, the output is a sequence of complete answers. Only the last one may say close. None holds data, because
// tokens are required, and the server issues none without a socket.
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
	clock := clock.NewManual(now)
	instance := NewInstance(token.New([32]byte{7}, clock))
	server := New(Config{Instances: instance, Clock: clock})
	instance.Publish(snapshot(f, "http-tokens", "required"))
	f.Fuzz(func(t *testing.T, in []byte, chunk int) {
		conn := &stream{in: bytes.NewReader(in), chunk: max(1, chunk)}
		v := server.gate.look(conn)
		if !v.allowed {
			t.Fatal("the peer is not answered")
		}
		server.serve(context.Background(), server.admit(conn, v))
		if strings.Contains(conn.out.String(), instanceID) || strings.Contains(conn.out.String(), "AQAEA") {
			t.Fatalf("%q got %q", in, conn.out.String())
		}
		requests := methods(in)
		out := bufio.NewReader(&conn.out)
		closed := false
		for n := 0; ; n++ {
			if _, err := out.Peek(1); err == io.EOF {
				// No token is sent if its hop limit cannot be set.
				if n != len(requests) && !closed && requests[min(n, len(requests)-1)] != "PUT" {
					t.Fatalf("%q: %d requests got %d answers", in, len(requests), n)
				}
				return
			}
			// The request decides only how the answer to HEAD ends.
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
			closed = resp.Close
			if _, err := out.Peek(1); closed && err != io.EOF {
				t.Fatalf("%q: there is more after answer %d, which says close", in, n)
			}
		}
	})
}

// net/http accepts everything that the parser accepts, with the same meaning.
func FuzzParseHead(f *testing.F) {
	for _, s := range []string{
		get, put + "\r\n", strings.ReplaceAll(get, "\r\n", "\n"), "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n",
		"GET http://localhost:80/%zz?a HTTP/1.1\r\n" + host + "Connection: close, TE\r\nconnection: keep-alive\r\n\r\n",
		"CONNECT localhost:80 HTTP/1.1\r\n" + host + "\r\n", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "GET http://[::1 HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\ncontent-length:5 \r\nExpect:\r\n\r\n",
		"POST / HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551616\r\n\r\n",
		"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n",
		"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: gzip\r\nTransfer-Encoding: x\r\n\r\n",
		"GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", "GET / HTTP/1.1\r\n" + host + "X-Forwarded-For : a\r\n\r\n",
		"GET /\xff HTTP/1.9\r\nHost:\ta\xff \r\nX:\x00\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	p := new(parser) // of a connection: what was before must not show
	f.Fuzz(func(t *testing.T, in []byte) {
		head, err := readHead(bufio.NewReader(bytes.NewReader(in)), nil)
		if err != nil || bytes.HasPrefix(head, []byte("CONNECT ")) {
			return // net/http reads other targets there; Respond refuses them
		}
		length, err := p.parse(head)
		fresh, freshLength, freshErr := parseHead(head)
		if (err == nil) != (freshErr == nil) {
			t.Fatalf("%q: %v after another request, %v by itself", head, err, freshErr)
		}
		want, wantErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if escape := url.EscapeError(""); errors.As(wantErr, &escape) {
			return // Respond decodes the target, and refuses it then
		}
		if err != nil {
			if !stricter(head, want, wantErr) {
				t.Fatalf("%q is refused, but not by net/http", head)
			}
			return
		}
		if wantErr != nil || want.ProtoMajor != 1 {
			t.Fatalf("%q is taken, but net/http says %v", head, wantErr)
		}
		for _, got := range []*imds.Request{&p.req, fresh} {
			if got.Method != want.Method || got.Target != want.RequestURI || got.Minor != want.ProtoMinor {
				t.Errorf("%q: %+v, want %+v", head, got, want)
			}
			if want.URL.Host == "" && got.Host != strings.TrimRight(want.Host, " \t") {
				t.Errorf("%q: host %q, want %q", head, got.Host, want.Host)
			}
			for _, name := range imds.HeaderNames() {
				if !slices.Equal(got.Header[name], want.Header[name]) {
					t.Errorf("%q: %s %q, want %q", head, name, got.Header[name], want.Header[name])
				}
			}
			if long := want.ContentLength < 0 || want.ContentLength > maxBody; long != got.Close && want.ProtoMinor > 0 {
				t.Errorf("%q: the connection ends: %t, want %t", head, got.Close, long)
			}
		}
		if length != freshLength || !p.req.Close && int64(length) != want.ContentLength {
			t.Errorf("%q: %d bytes of body, want %d", head, length, want.ContentLength)
		}
	})
}

// stricter reports whether the parser has to refuse a head that net/http may accept.
func stricter(head []byte, parsed *http.Request, err error) bool {
	if err != nil || parsed.ProtoMajor != 1 {
		return true
	}
	for line := range bytes.Lines(head[bytes.IndexByte(head, '\n')+1:]) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if len(bytes.TrimSpace(line)) > 0 && bytes.ContainsAny(name, " \t") || len(bytes.TrimRight(line, "\r\n")) > 0 && len(bytes.TrimSpace(line)) == 0 {
			return true // folded, or a space before the colon
		}
	}
	return false
}

// methods are those of the requests in a stream, parsed by the code under test, as if none closed the connection: the test
// is about the framing of the answers.
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

package edge

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// converse sends a stream and its end, and returns every answer. It fails the test unless it gets a sequence of complete
// answers. The server may reset the connection before everything is sent.
func (h *harness) converse(t *testing.T, stream string) (answers []*http.Response) {
	t.Helper()
	c := h.dial()
	c.t = t
	go func() {
		io.WriteString(c, stream)
		c.Conn.(*net.TCPConn).CloseWrite()
	}()
	in := bufio.NewReader(c)
	for {
		if _, err := in.Peek(1); err != nil {
			if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("%.100q: %v", stream, err)
			}
			return answers
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%.100q: answer %d: %v", stream, len(answers), err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatalf("%.100q: body of answer %d: %v", stream, len(answers), err)
		}
		answers = append(answers, resp)
	}
}

func statuses(answers []*http.Response) string {
	var b strings.Builder
	for _, a := range answers {
		fmt.Fprintf(&b, " %d", a.StatusCode)
		if a.Close {
			b.WriteString(" close")
		}
	}
	return strings.TrimPrefix(b.String(), " ")
}

func TestHostileRequestsGetTheRightCode(t *testing.T) {
	h := start(t, Config{})
	request := func(target string, headers ...string) string {
		return "GET " + target + " HTTP/1.1\r\n" + host + strings.Join(headers, "") + "\r\n"
	}
	token := func(value string) string { return "X-aws-ec2-metadata-token: " + value + "\r\n" }
	for name, c := range map[string]struct{ stream, want string }{
		"dots":                        {request("/latest/../latest/meta-data/"), "404"},
		"one dot":                     {request("/latest/./meta-data/"), "404"},
		"dots above the root":         {request("/../../etc/passwd"), "404"},
		"encoded dots":                {request("/latest/%2e%2e/latest/"), "404"},
		"encoded slash":               {request("/latest%2fmeta-data"), "404"},
		"encoded slash, in a segment": {request("/latest/meta-data%2Finstance-id"), "404"},
		"doubly encoded":              {request("/latest/meta%252ddata/"), "404"},
		"encoded name":                {request("/latest/meta%2ddata/"), "200"},
		"encoded NUL":                 {request("/latest/meta-data/instance-id%00"), "404"},
		"malformed escape":            {request("/latest/%zz"), "400 close"},
		"escape without digits":       {request("/latest/%"), "400 close"},
		"8-bit bytes":                 {request("/latest/\xff\xfe"), "404"},
		"backslashes":                 {request(`/latest\meta-data`), "404"},
		"16,000 slashes":              {request(strings.Repeat("/", 16000)), "200"},
		"100,000 slashes":             {request(strings.Repeat("/", 100_000)), "400 close"},
		"1 MiB header":                {request("/", "X: "+strings.Repeat("x", 1<<20)+"\r\n"), "400 close"},
		"1 MiB of headers":            {request("/", strings.Repeat("X: y\r\n", 1<<20/6)), "400 close"},
		"1 MiB target":                {request("/" + strings.Repeat("x", 1<<20)), "400 close"},
		"two tokens":                  {request("/", token("a"), token("a")), "401"},
		"400 tokens":                  {request("/", strings.Repeat(token("a"), 400)), "401"},
		"a token of 15 KiB":           {request("/", token(strings.Repeat("A", 15<<10))), "401"},
		"a token of 17 KiB":           {request("/", token(strings.Repeat("A", 17<<10))), "400 close"},
		"a token that is no text":     {request("/", token("\xff\x80")), "401"},
		"400 TTLs":                    {put + strings.Repeat("X-aws-ec2-metadata-token-ttl-seconds: 60\r\n", 300) + "\r\n", "400"},
		"10 MiB PUT":                  {put + "Content-Length: 10485760\r\n\r\n" + strings.Repeat("x", 10<<20), "200 close"},
		"10 MiB chunked PUT": {put + "Transfer-Encoding: chunked\r\n\r\na00000\r\n" + strings.Repeat("x", 10<<20) + "\r\n0\r\n\r\n",
			"200 close"},
		"10 MiB PUT with Expect":        {put + "Expect: 100-continue\r\nContent-Length: 10485760\r\n\r\n" + strings.Repeat("x", 10<<20), "417 close"},
		"a length that says too much":   {put + "Content-Length: 1000\r\n\r\n" + "x", "200"},
		"a length that says too little": {put + "Content-Length: 1\r\n\r\n" + "xyz\r\n\r\n" + get, "200 400 close"},
		"a length that hides a request": {put + "Content-Length: 3\r\n\r\n" + "xyz" + get, "200 200"},
		"length and chunks":             {put + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + "0\r\n\r\n" + get, "200 close"},
		"1,000 requests at once":        {strings.Repeat(get, 1000), strings.TrimSpace(strings.Repeat("200 ", 1000))},
		"HTTP/1.0":                      {"GET / HTTP/1.0\r\n\r\n" + get, "200 close"},
		"HTTP/1.0 with a foreign Host":  {"GET / HTTP/1.0\r\nHost: evil.test\r\n\r\n", "403 close"},
		"HTTP/2 preface":                {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "400 close"},
		"HTTP/2 upgrade":                {request("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"), "200"},
		"absolute-form":                 {request("http://169.254.169.254/latest/"), "200"},
		"absolute-form, foreign":        {request("http://evil.test/latest/"), "403"},
		"absolute-form, https":          {request("https://169.254.169.254/latest/"), "400 close"},
		"authority-form":                {"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + host + "\r\n", "400 close"},
		"nothing":                       {"", ""},
		"empty lines alone":             {"\r\n\r\n\r\n", ""},
		"half a request":                {get[:40], ""},
		"half a request after one":      {get + get[:40], "200"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := statuses(h.converse(t, c.stream)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Whatever byte is at whatever place in a request, the answers are complete, and no byte passes that could end a line or a
// string for other software.
func TestStrangeBytesInEveryPlace(t *testing.T) {
	h := start(t, Config{}, "http-tokens", "required")
	for at := range len(get) + 1 {
		for _, b := range []string{"\r", "\n", "\x00", "\x80", "\xff", "\x7f", "\x0b"} {
			stream := get[:at] + b + get[at:]
			got := statuses(h.converse(t, stream))
			switch {
			case got == "400 close", got == "401", got == "":
			case got == "403" && b >= "\x80": // in the Host
			case got == "401 400 close" && at == len(get): // behind it
			default:
				t.Errorf("%q: %q", stream, got)
			}
			if control := b == "\x00" || b == "\x7f" || b == "\x0b"; control && got != "400 close" && at < len(get)-2 {
				t.Errorf("%q: %q, want 400", stream, got) // in the empty line it makes a header that never ends
			}
		}
	}
}

// These never complete a head, so they wait until the time-out, and are closed without an answer.
func TestOtherProtocolsAreClosed(t *testing.T) {
	h := start(t, Config{HeaderTimeout: short})
	t.Run("HTTP/0.9", func(t *testing.T) {
		c := h.dial()
		c.t = t
		c.send("GET /latest/meta-data/instance-id\r\n")
		c.expectEnd(true)
	})
	t.Run("TLS", func(t *testing.T) {
		err := tls.Client(h.dial(), &tls.Config{InsecureSkipVerify: true}).Handshake()
		var answered tls.RecordHeaderError // a hello with two line ends in it is a bad request
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.As(err, &answered) {
			t.Errorf("handshake: %v", err)
		}
	})
	t.Run("silence, while the client still sends", func(t *testing.T) {
		c := h.dial()
		c.t = t
		kit.Eventually(t, "closed", func() bool {
			_, err := io.WriteString(c, "x")
			return err != nil
		})
	})
}

func TestAPeerThatIsNotLocalHasACapOfItsOwn(t *testing.T) {
	server := New(Config{Instances: NewInstance(nil), MaxConns: 5, MaxConnsPerPeer: 2})
	open := func(peer string) (*conn, func() bool) {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close() })
		var from netip.Addr
		if peer != "" {
			from = netip.MustParseAddr(peer)
		}
		c := newConn(server, near, from)
		server.conns.add(&c.member)
		return c, func() bool {
			far.SetReadDeadline(time.Now())
			_, err := far.Read(make([]byte, 1))
			return err == io.EOF
		}
	}
	const a, b, local = "192.0.2.1", "192.0.2.2", ""
	wantClosed := func(what string, closed func() bool, want bool) {
		t.Helper()
		if closed() != want {
			t.Errorf("%s: closed %t, want %t", what, !want, want)
		}
	}
	_, local1 := open(local)
	a1, a1Closed := open(a)
	_, a2Closed := open(a)
	server.conns.touch(&a1.member)
	a3, a3Closed := open(a)
	wantClosed("the one that a used last", a1Closed, false)
	wantClosed("the one unused for longest of a", a2Closed, true)
	wantClosed("the new one of a", a3Closed, false)
	_, b1 := open(b)
	wantClosed("a's, when b comes", a1Closed, false)
	_, local2 := open(local)
	_, local3 := open(local)
	wantClosed("the one unused for longest of all", local1, true)
	wantClosed("a's, when the total is reached", a1Closed, false)
	for what, closed := range map[string]func() bool{"b's": b1, "the second local one": local2, "the third local one": local3} {
		wantClosed(what, closed, false)
	}
	server.conns.remove(&a1.member)
	server.conns.remove(&a1.member)
	server.conns.remove(&a3.member)
	if own := server.conns.byPeer; len(own) != 1 {
		t.Errorf("%d peers are remembered, want b alone", len(own))
	}
	if n := server.conns.byUse.Len(); n != 3 {
		t.Errorf("%d connections are open, want 3", n)
	}
}

// A peer with one IPv6 address has 2⁶⁴ of them.
func TestAnIPv6NetworkIsOnePeer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth0", true},
		{"fe80::1%eth0", "fe80::1%eth1", false},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "192.0.2.1", true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"::ffff:192.0.2.1", "192.0.2.1", true},
	} {
		server := New(Config{Instances: NewInstance(nil), MaxConnsPerPeer: 1})
		add := func(peer string) net.Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close() })
			server.conns.add(&newConn(server, near, netip.MustParseAddr(peer)).member)
			return far
		}
		first := add(c.a)
		add(c.b)
		first.SetReadDeadline(time.Now())
		if _, err := first.Read(make([]byte, 1)); (err == io.EOF) != c.same {
			t.Errorf("%s, then %s: the first one's read ends with %v; want them to be one peer: %t", c.a, c.b, err, c.same)
		}
	}
}

// For peers of this machine only the limit of all connections applies.
func TestLocalPeersHaveNoCapOfTheirOwn(t *testing.T) {
	h := start(t, Config{MaxConnsPerPeer: 1})
	a, b, c := h.dial(), h.dial(), h.dial()
	for _, conn := range []*client{a, b, c, a, b, c} {
		conn.roundTrip()
	}
}

package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/clock"
)

func TestBytesOnTheWire(t *testing.T) {
	h := start(t, Config{})
	for _, c := range []struct{ name, request, want string }{
		{"a leaf", get, gotID},
		{"HEAD", strings.Replace(get, "GET", "HEAD", 1), strings.TrimSuffix(gotID, instanceID)},
		{"404", "GET /nothing HTTP/1.1\r\n" + host + "\r\n",
			"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 339\r\n" + date + "Server: EC2ws\r\n\r\n" + page("404 - Not Found")},
		{"405", "GET /latest/api/token HTTP/1.1\r\n" + host + "\r\n",
			"HTTP/1.1 405 Not Allowed\r\nAllow: OPTIONS, PUT\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n"},
		{"403", "PUT /latest/api/token/ HTTP/1.1\r\n" + host + "\r\n",
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n"},
		{"401", "GET / HTTP/1.1\r\n" + host + "x-aws-ec2-metadata-token: x\r\n\r\n",
			"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n"},
		{"absolute-form", strings.Replace(get, "GET ", "GET http://localhost", 1), gotID},
		{"bare line feeds", strings.ReplaceAll(get, "\r\n", "\n"), gotID},
		{"an empty line before the request", "\r\n" + get, gotID},
		{"spaces around a value", "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: \t localhost \t\r\n\r\n", gotID},
		{"HTTP/1.0 with keep-alive", "GET /latest/meta-data/instance-id HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
			strings.Replace(gotID, "EC2ws\r\n", "EC2ws\r\nConnection: keep-alive\r\n", 1)},
		{"a later HTTP/1", "GET /latest/meta-data/instance-id HTTP/1.2\r\n" + host + "\r\n", gotID},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := h.dial()
			conn.t = t
			conn.send(c.request)
			conn.expect(c.want)
			conn.roundTrip()
		})
	}
}

func TestTokenOnTheWire(t *testing.T) {
	h := start(t, Config{}, "http-tokens", "required")
	c := h.dial()
	c.send(put + "\r\n")
	issued := c.expectToken()
	c.send(strings.Replace(get, "\r\n\r\n", "\r\nX-aws-ec2-metadata-token: "+issued+"\r\n\r\n", 1))
	c.expect(strings.Replace(gotID, "OK\r\n", "OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\n", 1))
	c.send(get)
	c.expect("HTTP/1.1 401 Unauthorized\r\n")
}

func TestConnectionEndsWhenToldTo(t *testing.T) {
	h := start(t, Config{})
	for name, c := range map[string]struct{ request, want string }{
		"HTTP/1.1 with close":           {strings.Replace(get, host, host+"Connection: close\r\n", 1), gotIDClosing},
		"HTTP/1.0":                      {"GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n", gotIDClosing},
		"HTTP/1.0, chunked":             {"GET /latest/meta-data/instance-id HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", gotIDClosing},
		"what follows is not looked at": {strings.Replace(get, host, host+"Connection: close\r\n", 1) + get, gotIDClosing},
	} {
		t.Run(name, func(t *testing.T) {
			conn := h.dial()
			conn.t = t
			conn.send(c.request)
			conn.expect(c.want)
			conn.expectEnd(true)
		})
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	h := start(t, Config{})
	c := h.dial()
	const userData = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: none\r\nLast-Modified: Tue, 03 Feb 2026 03:05:06 GMT\r\n" +
		"Content-Length: 6\r\n" + date + "Server: EC2ws\r\n\r\nhello\n"
	c.send(get + "POST / HTTP/1.1\r\nContent-Length: 5\r\n" + host + "\r\nGET /" +
		"GET /latest/user-data HTTP/1.1\r\n" + host + "\r\n" + put + "\r\n" + get + "bad\r\n\r\n" + get)
	c.expect(gotID)
	c.expect("HTTP/1.1 405 Not Allowed\r\nAllow: GET, HEAD, OPTIONS\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n")
	c.expect(userData)
	c.expectToken()
	c.expect(gotID)
	c.expect(gotBad)
	c.expectEnd(true)
}

// A request that arrives one byte at a time is the same request.
func TestRequestInPieces(t *testing.T) {
	h := start(t, Config{})
	c := h.dial()
	for _, b := range []byte(get + get) {
		c.send(string(b))
	}
	c.expect(gotID + gotID)
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	h := start(t, Config{})
	for name, request := range map[string]string{
		"no protocol":               "GET /latest/meta-data/instance-id\r\n\r\n",
		"HTTP/2 preface":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/2.0":                  "GET / HTTP/2.0\r\n" + host + "\r\n",
		"HTTP/0.9":                  "GET / HTTP/0.9\r\n" + host + "\r\n",
		"protocol in lower case":    "GET / http/1.1\r\n" + host + "\r\n",
		"another protocol":          "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
		"space in the target":       "GET /a b HTTP/1.1\r\n" + host + "\r\n",
		"two spaces":                "GET  / HTTP/1.1\r\n" + host + "\r\n",
		"space before the method":   " GET / HTTP/1.1\r\n" + host + "\r\n",
		"no method":                 "/ HTTP/1.1\r\n" + host + "\r\n",
		"method that is no token":   "G(T / HTTP/1.1\r\n" + host + "\r\n",
		"malformed escape":          "GET /%zz HTTP/1.1\r\n" + host + "\r\n",
		"asterisk":                  "OPTIONS * HTTP/1.1\r\n" + host + "\r\n",
		"authority":                 "CONNECT localhost:80 HTTP/1.1\r\n" + host + "\r\n",
		"no Host":                   "GET / HTTP/1.1\r\n\r\n",
		"empty Host":                "GET / HTTP/1.1\r\nHost:\r\n\r\n",
		"two Hosts":                 "GET / HTTP/1.1\r\n" + host + host + "\r\n",
		"two Hosts, absolute-form":  "GET http://localhost/ HTTP/1.1\r\n" + host + "host: localhost\r\n\r\n",
		"no Host, absolute-form":    "GET http://localhost/ HTTP/1.1\r\n\r\n",
		"header without colon":      "GET / HTTP/1.1\r\n" + host + "X\r\n\r\n",
		"header without name":       "GET / HTTP/1.1\r\n" + host + ": x\r\n\r\n",
		"space before the colon":    "GET / HTTP/1.1\r\n" + host + "X-Forwarded-For : a\r\n\r\n",
		"space within a name":       "GET / HTTP/1.1\r\n" + host + "X Y: a\r\n\r\n",
		"name beyond ASCII":         "GET / HTTP/1.1\r\n" + host + "X\xe4: a\r\n\r\n",
		"folded line":               "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n",
		"folded first line":         "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
		"NUL in a value":            "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"carriage return in a line": "GET / HTTP/1.1\r\n" + host + "X: a\rY: b\r\n\r\n",
		"two carriage returns":      "GET / HTTP/1.1\r\n" + host + "X: a\r\r\n\r\n",
		"escape in a value":         "GET / HTTP/1.1\r\n" + host + "X: \x1b[31m\r\n\r\n",
		"DEL in a value":            "GET / HTTP/1.1\r\n" + host + "X: \x7f\r\n\r\n",
		"control in the target":     "GET /\x01 HTTP/1.1\r\n" + host + "\r\n",
		"tab in the target":         "GET /\ta HTTP/1.1\r\n" + host + "\r\n",
		"length that is no number":  "POST / HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n",
		"negative length":           "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
		"signed length":             "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\n",
		"two lengths that disagree": "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"unknown transfer encoding": "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := h.dial()
			c.t = t
			c.send(request + get)
			c.expect(gotBad)
			c.expectEnd(true)
		})
	}
}

func TestHeadIsLimitedTo16KiB(t *testing.T) {
	h := start(t, Config{})
	fill := func(size int) string {
		const start, end = "GET /latest/meta-data/instance-id HTTP/1.1\r\n" + host + "X: ", "\r\n\r\n"
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	t.Run("16 KiB", func(t *testing.T) {
		c := h.dial()
		c.t = t
		c.send(fill(16<<10) + fill(16<<10))
		c.expect(gotID + gotID)
	})
	for name, request := range map[string]string{
		"one byte more":           fill(16<<10 + 1),
		"much more":               fill(200 << 10),
		"a long target":           "GET /" + strings.Repeat("x", 20<<10) + " HTTP/1.1\r\n" + host + "\r\n",
		"many headers":            "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 3000),
		"no line end":             strings.Repeat("x", 64<<10),
		"empty lines without end": strings.Repeat("\r\n", 10<<10),
	} {
		t.Run(name, func(t *testing.T) {
			c := h.dial()
			c.t = t
			c.send(request)
			c.expect(gotBad)
			c.expectEnd(true)
		})
	}
}

func TestBodies(t *testing.T) {
	h := start(t, Config{})
	post := func(header, body string) string {
		return strings.Replace(get, host, host+header, 1) + body
	}
	t.Run("up to 1 KiB is dropped", func(t *testing.T) {
		for _, size := range []int{0, 1, 1024} {
			c := h.dial()
			c.t = t
			c.send(post(fmt.Sprintf("Content-Length: %d\r\n", size), strings.Repeat("G", size)))
			c.expect(gotID)
			c.roundTrip()
		}
	})
	t.Run("the answer does not wait for it", func(t *testing.T) {
		c := h.dial()
		c.t = t
		c.send(post("Content-Length: 3\r\n", ""))
		c.expect(gotID)
		c.send("abc")
		c.roundTrip()
	})
	for name, request := range map[string]string{
		"longer":                 post("Content-Length: 1025\r\n", strings.Repeat("G", 1025)),
		"much longer":            post("Content-Length: 100000\r\n", strings.Repeat("G", 100000)),
		"longer, never sent":     post("Content-Length: 9223372036854775807\r\n", ""),
		"chunked":                post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
		"chunked, empty":         post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
		"chunked with a length":  post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"+get),
		"chunked, in upper case": post("TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"+get),
	} {
		t.Run(name+" is answered, then closed", func(t *testing.T) {
			c := h.dial()
			c.t = t
			c.send(request)
			c.expect(gotIDClosing)
			c.expectEnd(true)
		})
	}
}

// s3fs asks for its token like this. It sends the chunk only after 100 Continue or a time-out.
func TestExpectIsAnsweredWith417(t *testing.T) {
	h := start(t, Config{})
	c := h.dial()
	c.send(put + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
	c.expect("HTTP/1.1 417 Expectation Failed\r\nContent-Type: text/html\r\nContent-Length: 357\r\n" + date +
		"Server: EC2ws\r\nConnection: close\r\n\r\n" + page("417 - Expectation Failed"))
	c.send("0\r\n\r\n")
	c.expectEnd(true)
}

func TestPublishReachesOpenConnections(t *testing.T) {
	h := start(t, Config{})
	c := h.dial()
	c.roundTrip()
	h.Publish(snapshot(t, "http-tokens", "required"))
	c.send(get)
	c.expect("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n")
	h.Publish(snapshot(t))
	c.roundTrip()
	h.answers.Store(nil)
	c.send(get)
	c.expect("HTTP/1.1 503 Service Unavailable\r\n")
}

func TestManyClientsOfTheStandardLibrary(t *testing.T) {
	h := start(t, Config{})
	var clients sync.WaitGroup
	ctx, done := context.WithCancel(t.Context())
	var publisher sync.WaitGroup
	publisher.Go(func() {
		a, b := snapshot(t), snapshot(t)
		for ctx.Err() == nil {
			h.Publish(a)
			h.Publish(b)
		}
	})
	for range 8 {
		clients.Go(func() {
			client := http.Client{Transport: &http.Transport{}, Timeout: patience}
			defer client.CloseIdleConnections()
			for range 8 {
				resp, err := client.Get("http://" + h.addr + "/latest/meta-data/large")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
				resp.Body.Close()
				if err != nil || len(body) != 1<<20 || resp.StatusCode != 200 {
					t.Errorf("%d bytes, %v, %v", len(body), resp.Status, err)
				}
			}
		})
	}
	clients.Wait()
	done()
	publisher.Wait()
}

func BenchmarkGet(b *testing.B) {
	l, err := Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	instance := NewInstance(token.New([32]byte{7}, clock.System()))
	s := New(Config{Instances: instance})
	instance.Publish(snapshot(b))
	ctx, cancel := context.WithCancel(b.Context())
	var done sync.WaitGroup
	done.Go(func() { s.Serve(ctx, l) })
	defer done.Wait()
	defer cancel()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, len(gotID))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, get); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			b.Fatal(err)
		}
	}
}

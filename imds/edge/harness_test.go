package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	instanceID = "i-0a1b2c3d4e5f67890"
	patience   = kit.Patience // before a test gives up on the server
	never      = time.Hour    // for the time-outs that a test is not about
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)

func value(text string) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: now.Add(-time.Hour), Origin: tree.Origin{Place: "fixture.toml:1"}}
}

// snapshot is an instance with a large leaf and these metadata options, in pairs.
func snapshot(t testing.TB, options ...string) *build.Snapshot {
	t.Helper()
	f := &build.Fragment{
		Leaves: map[string]tree.Value{
			"meta-data/instance-id": value(instanceID),
			"meta-data/large":       value(strings.Repeat("x", 1<<20)),
			"user-data":             value("hello\n"),
		},
		Options: map[string]tree.Value{},
	}
	for i := 0; i < len(options); i += 2 {
		f.Options[options[i]] = value(options[i+1])
	}
	s, err := build.Build(nil, build.Env{Now: now}, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A harness is a running server on a port of its own.
type harness struct {
	*Server
	*Instance
	t      *testing.T
	clock  *clock.Manual
	addr   string
	stop   context.CancelFunc
	served chan error // what Serve returned
}

// start serves on 127.0.0.1. Time-outs that config does not set are never reached.
func start(t *testing.T, config Config, options ...string) *harness {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, l, config, options...)
}

func startOn(t *testing.T, l net.Listener, config Config, options ...string) *harness {
	t.Helper()
	clock := clock.NewManual(now)
	config.Clock = clock
	instance := NewInstance(token.New([32]byte{7}, clock))
	config.Instances = instance
	for _, d := range []*time.Duration{&config.HeaderTimeout, &config.BodyTimeout, &config.IdleTimeout, &config.WriteTimeout} {
		if *d == 0 {
			*d = never
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &harness{Server: New(config), Instance: instance, t: t, clock: clock, addr: l.Addr().String(), stop: cancel, served: make(chan error, 1)}
	h.Publish(snapshot(t, options...))
	var done sync.WaitGroup
	done.Go(func() { h.served <- h.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return h
}

// A client is one connection. It sends and reads bytes.
type client struct {
	net.Conn
	t *testing.T
}

func (h *harness) dial() *client {
	h.t.Helper()
	return dialAddr(h.t, &net.Dialer{}, h.addr)
}

func dialAddr(t *testing.T, d *net.Dialer, addr string) *client {
	t.Helper()
	nc, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &client{nc, t}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads exactly want.
func (c *client) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != want {
		c.t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

// expectEnd expects the server to close the connection without sending more. With gently a reset is a failure, because it
// could have destroyed an answer.
func (c *client) expectEnd(gently bool) {
	c.t.Helper()
	rest, err := io.ReadAll(c)
	if len(rest) > 0 || err != nil && (gently || !errors.Is(err, syscall.ECONNRESET)) {
		c.t.Fatalf("read %q (%v), want the end of the connection", rest, err)
	}
}

// roundTrip also shows that the connection is alive.
func (c *client) roundTrip() {
	c.t.Helper()
	c.send(get)
	c.expect(gotID)
}

func (h *harness) open() int {
	h.conns.mu.Lock()
	defer h.conns.mu.Unlock()
	return h.conns.byUse.Len()
}

const (
	date  = "Date: Tue, 03 Feb 2026 04:05:06 GMT\r\n"
	host  = "Host: 169.254.169.254\r\n"
	get   = "GET /latest/meta-data/instance-id HTTP/1.1\r\n" + host + "\r\n"
	gotID = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nAccept-Ranges: none\r\nLast-Modified: Tue, 03 Feb 2026 03:05:06 GMT\r\n" +
		"Content-Length: 19\r\n" + date + "Server: EC2ws\r\n\r\n" + instanceID
	gotIDClosing = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nAccept-Ranges: none\r\nLast-Modified: Tue, 03 Feb 2026 03:05:06 GMT\r\n" +
		"Content-Length: 19\r\n" + date + "Server: EC2ws\r\nConnection: close\r\n\r\n" + instanceID
	put = "PUT /latest/api/token HTTP/1.1\r\n" + host + "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n"

	gotTokenHead = "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\nContent-Length: 56\r\n" + date +
		"Server: EC2ws\r\nContent-Type: text/plain\r\n\r\nAQAEA"
)

var gotBad = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 343\r\n" + date + "Server: EC2ws\r\nConnection: close\r\n\r\n" + page("400 - Bad Request")

// gotBadTTL is the answer to a PUT with an invalid lifetime: EC2's has no page.
var gotBadTTL = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n" + date + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n"

func page(title string) string {
	return "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n" +
		"<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n" +
		"\t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n" +
		"<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n" +
		" <head>\n  <title>" + title + "</title>\n </head>\n" +
		" <body>\n  <h1>" + title + "</h1>\n </body>\n</html>\n"
}

// expectToken reads an answer to put and returns the token.
func (c *client) expectToken() string {
	c.t.Helper()
	c.expect(gotTokenHead)
	rest := make([]byte, token.Length-len("AQAEA"))
	if _, err := io.ReadFull(c, rest); err != nil {
		c.t.Fatal(err)
	}
	return "AQAEA" + string(rest)
}

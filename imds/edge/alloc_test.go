package edge

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/clock"
)

// A repeater is a client that sends the same request again and again and reads every answer.
type repeater struct {
	net.Conn // nil: what is not below must not be called
	request  string
	at       int
	taken    int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := copy(p, r.request[r.at:])
	r.at = (r.at + n) % len(r.request)
	return n, nil
}

func (r *repeater) Write(p []byte) (int, error)      { r.taken += len(p); return len(p), nil }
func (r *repeater) SetReadDeadline(time.Time) error  { return nil }
func (r *repeater) SetWriteDeadline(time.Time) error { return nil }

// The garbage collector would have to collect what requests allocate, and would delay other requests.
func TestRequestsForDataDoNotAllocate(t *testing.T) {
	clock := clock.NewManual(now)
	tokens := token.New([32]byte{7}, clock)
	instance := NewInstance(tokens)
	server := New(Config{Instances: instance, Clock: clock})
	instance.Publish(snapshot(t))
	with := func(headers string) string { return strings.Replace(get, "\r\n\r\n", "\r\n"+headers+"\r\n", 1) }
	for name, request := range map[string]string{
		"a leaf":          get,
		"a listing":       strings.Replace(get, "instance-id", "", 1),
		"with a token":    with("X-aws-ec2-metadata-token: " + tokens.Issue(instanceID, 60) + "\r\n"),
		"as clients do":   with("User-Agent: aws-sdk-go/1.44\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n"),
		"what is not":     strings.Replace(get, "instance-id", "nothing", 1),
		"without a token": with("X-aws-ec2-metadata-token: " + strings.Repeat("A", token.Length) + "\r\n"),
		"a POST":          strings.Replace(get, "GET", "POST", 1),
	} {
		c := newConn(server, &repeater{request: request}, netip.Addr{})
		serve := func() {
			if !c.serveRequest(context.Background()) {
				t.Fatalf("%s: the connection ends", name)
			}
		}
		serve()
		if allocs := testing.AllocsPerRun(100, serve); allocs > 0 {
			t.Errorf("%s: %v allocations a request", name, allocs)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	instance := NewInstance(token.New([32]byte{7}, clock.System()))
	server := New(Config{Instances: instance})
	instance.Publish(snapshot(b))
	c := newConn(server, &repeater{request: get}, netip.Addr{})
	b.ReportAllocs()
	for b.Loop() {
		if !c.serveRequest(context.Background()) {
			b.Fatal(io.EOF)
		}
	}
}

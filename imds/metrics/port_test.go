package metrics

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const patience = kit.Patience

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

// ask is the status of one scrape on the connection.
func ask(t *testing.T, nc net.Conn, host string) int {
	t.Helper()
	fmt.Fprintf(nc, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// A web page whose name has been pointed at the port sends its own name.
func TestForeignHostIsRefused(t *testing.T) {
	hosts, err := imds.NewHosts("metrics.test")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := servePort(t, Port{Hosts: hosts})
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:9338": 200, "[::1]:9338": 200, "localhost:9338": 200, "metrics.test": 200, "METRICS.test.:1": 200,
		"evil.test": 403, "evil.test:9338": 403, "127.0.0.1.evil.test": 403, "localhost.evil.test": 403, "127.0.0.1:x": 403,
	} {
		if got := ask(t, dial(t, address), host); got != want {
			t.Errorf("Host %s: %d, want %d", host, got, want)
		}
	}
	nc := dial(t, address)
	fmt.Fprint(nc, "GET /metrics HTTP/1.0\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("HTTP/1.0 without a Host: %v, %v", resp, err)
	}
}

func wantEnd(t *testing.T, what string, nc net.Conn) {
	t.Helper()
	if n, err := nc.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read %d bytes, %v; want the end of the connection", what, n, err)
	}
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	address, _ := serve(t)
	first := dial(t, address)
	if got := ask(t, first, "localhost"); got != 200 {
		t.Fatalf("status %d", got)
	}
	var idle []net.Conn
	for range edge.DefaultMaxPortConns - 1 {
		idle = append(idle, dial(t, address))
	}
	if got := ask(t, first, "localhost"); got != 200 {
		t.Fatalf("status %d with %d connections", got, edge.DefaultMaxPortConns)
	}
	if got := ask(t, dial(t, address), "localhost"); got != 200 {
		t.Fatalf("status %d over the cap", got)
	}
	wantEnd(t, "the one unused for longest", idle[0])
	for name, nc := range map[string]net.Conn{"one that is used": first, "the next": idle[1]} {
		if got := ask(t, nc, "localhost"); got != 200 {
			t.Fatalf("status %d for %s", got, name)
		}
	}
}

func TestSilentConnectionsEnd(t *testing.T) {
	t.Parallel()
	address, _ := serve(t)
	silent, slow, used := dial(t, address), dial(t, address), dial(t, address)
	fmt.Fprint(slow, "GET /metrics HTTP/1.1\r\nHost: ")
	if got := ask(t, used, "localhost"); got != 200 {
		t.Fatalf("status %d", got)
	}
	start := time.Now()
	wantEnd(t, "silent", silent)
	wantEnd(t, "amid the headers", slow)
	if took := time.Since(start); took < headerTimeout/2 {
		t.Errorf("closed after %v", took)
	}
	wantEnd(t, "after an answer", used)
}

func TestOtherPeersAreClosedUnanswered(t *testing.T) {
	rule, err := edge.ParseAllow("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := servePort(t, Port{PortConfig: edge.PortConfig{Allow: []edge.Rule{rule}}})
	for range 3 {
		nc := dial(t, address)
		fmt.Fprint(nc, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
		wantEnd(t, "a peer that is not listed", nc)
	}
}

package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const short = 50 * time.Millisecond

func TestTimeouts(t *testing.T) {
	t.Run("idle, nothing sent", func(t *testing.T) {
		start(t, Config{IdleTimeout: short}).dial().expectEnd(true)
	})
	t.Run("idle, after an answer", func(t *testing.T) {
		c := start(t, Config{IdleTimeout: short}).dial()
		c.send(get)
		c.expect(gotID)
		c.expectEnd(true)
	})
	t.Run("headers", func(t *testing.T) {
		c := start(t, Config{HeaderTimeout: short}).dial()
		c.send("GET / HTTP/1.1\r\n")
		c.expectEnd(true)
	})
	t.Run("body", func(t *testing.T) {
		c := start(t, Config{BodyTimeout: short}).dial()
		c.send(strings.Replace(get, host, host+"Content-Length: 2\r\n", 1) + "x")
		c.expect(gotID)
		c.expectEnd(true)
	})
	t.Run("answer not taken", func(t *testing.T) {
		h := start(t, Config{WriteTimeout: short})
		c := h.dial()
		c.send(strings.Repeat("GET /latest/meta-data/large HTTP/1.1\r\n"+host+"\r\n", 50)) // more than the sockets hold
		c.expect("HTTP/1.1 200 OK\r\n")
		kit.Eventually(t, "the connection is given up", func() bool { return h.open() == 0 })
		n, _ := io.Copy(io.Discard, c)
		if n >= 50<<20 {
			t.Errorf("all %d bytes came", n)
		}
	})
}

// The time-out counts from the first byte of a request: sending slowly does not prolong it.
func TestSlowHeadersDoNotHoldAConnection(t *testing.T) {
	h := start(t, Config{HeaderTimeout: 4 * short})
	c := h.dial()
	began := time.Now()
	tick := time.NewTicker(short / 5)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(c, "X"); err != nil {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("still open after %s", patience)
		}
	}
	if took := time.Since(began); took < 4*short {
		t.Errorf("closed after %s, before the limit of %s", took, 4*short)
	}
}

func TestAtTheCapTheConnectionUnusedForLongestGoes(t *testing.T) {
	h := start(t, Config{MaxConns: 3})
	a, b, c := h.dial(), h.dial(), h.dial()
	for _, conn := range []*client{a, b, c} {
		conn.roundTrip()
	}
	a.roundTrip()
	b.send("GET / HT") // a request that has only begun is no use
	d := h.dial()
	d.roundTrip()
	b.expectEnd(false)
	for _, conn := range []*client{a, c, d} {
		conn.roundTrip()
	}
	a.roundTrip()
	e := h.dial()
	e.roundTrip()
	c.expectEnd(false)
	a.roundTrip()
	d.roundTrip()
	if n := h.open(); n != 3 {
		t.Errorf("%d connections are open, the cap is 3", n)
	}
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	h := start(t, Config{MaxConns: 100})
	for range 20 {
		c := h.dial()
		c.roundTrip()
		c.Close()
	}
	kit.Eventually(t, "no connection is left", func() bool { return h.open() == 0 })
}

func TestStop(t *testing.T) {
	t.Run("closes idle connections at once", func(t *testing.T) {
		h := start(t, Config{})
		c := h.dial()
		c.roundTrip()
		h.stop()
		began := time.Now()
		c.expectEnd(true)
		if err := <-h.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took >= stopGrace {
			t.Errorf("took %s", took)
		}
		if _, err := net.Dial("tcp", h.addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after the stop: %v, want it refused", err)
		}
	})
	t.Run("closes a silent connection after a while", func(t *testing.T) {
		h := start(t, Config{})
		c := h.dial()
		kit.Eventually(t, "it is accepted", func() bool { return h.open() == 1 })
		h.stop()
		began := time.Now()
		c.expectEnd(false)
		if took := time.Since(began); took > 3*freshGrace {
			t.Errorf("took %s, the grace is %s", took, freshGrace)
		}
	})
	t.Run("answers who has just been accepted", func(t *testing.T) {
		h := start(t, Config{})
		c := h.dial()
		kit.Eventually(t, "it is accepted", func() bool { return h.open() == 1 })
		h.stop()
		c.send(get)
		c.expect(gotIDClosing)
		c.expectEnd(true)
		if err := <-h.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("lets a request that has begun finish", func(t *testing.T) {
		h := start(t, Config{})
		c := h.dial()
		c.send(get[:10])
		kit.Eventually(t, "the request has begun", func() bool { return h.busy() == 1 })
		h.stop()
		c.send(get[10:])
		c.expect(gotIDClosing)
		c.expectEnd(true)
		if err := <-h.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("does not wait for a request that does not finish", func(t *testing.T) {
		h := start(t, Config{})
		c := h.dial()
		c.send(get[:10])
		kit.Eventually(t, "the request has begun", func() bool { return h.busy() == 1 })
		began := time.Now()
		h.stop()
		c.expectEnd(true)
		if err := <-h.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took < stopGrace || took > 3*stopGrace {
			t.Errorf("took %s, the grace is %s", took, stopGrace)
		}
	})
}

func (h *harness) busy() (n int) {
	h.conns.mu.Lock()
	defer h.conns.mu.Unlock()
	for e := h.conns.byUse.Front(); e != nil; e = e.Next() {
		c := (*conn)(unsafe.Pointer(e.Value.(*member))) // its first field
		c.mu.Lock()
		if c.busy {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// A failing listener returns these errors before it accepts.
type failingListener struct {
	net.Listener
	errs chan error
}

func (l failingListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	default:
		return l.Listener.Accept()
	}
}

func TestAcceptingGoesOnWithoutDescriptors(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 3)
	h := startOn(t, failingListener{l, errs}, Config{})
	old := h.dial()
	old.roundTrip()
	errs <- syscall.EMFILE
	errs <- syscall.ECONNABORTED
	h.dial().roundTrip() // wakes Accept, which then meets the errors
	h.dial().roundTrip()
	old.expectEnd(false) // it made room
}

func TestServeReturnsWhyAListenerFails(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	errs <- syscall.EINVAL
	h := startOn(t, failingListener{l, errs}, Config{})
	err = <-h.served
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(fmt.Sprint(err), h.addr) {
		t.Errorf("Serve: %v, want EINVAL and the address %s", err, h.addr)
	}
}

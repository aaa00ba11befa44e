package packaging

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

const (
	answerLimit = 30 * time.Second
	askEvery    = 10 * time.Millisecond // more often, and a client runs out of ports
)

// clients request the value over HTTP in the machine all the time: one on a new connection each time, the other with a
// token on a kept connection. If the kept connection has ended it asks again once.
type clients struct {
	m             *machine
	shown         atomic.Int64 // the newest version of the value
	killing, dead atomic.Int64 // daemons that are about to be killed, and those that have ended since
	stop          atomic.Bool
	running       sync.WaitGroup
	fresh, kept   client
}

// A client counts its results. Only its goroutine uses it until it ends.
type client struct {
	requests, refused, failed, killed int             // killed: failed during a kill
	again                             int             // asked again, because the kept connection had ended
	waits                             []time.Duration // of requests during which there was a kill
	longest                           time.Duration   // of the others
	reasons                           map[string]int
}

func (m *machine) startClients() *clients {
	m.t.Helper()
	c := &clients{m: m}
	token := m.run("curl -sS --fail -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' " + endpoint + "/latest/api/token")
	m.t.Cleanup(func() {
		c.stop.Store(true)
		c.running.Wait()
	})
	c.running.Go(func() { c.ask(&c.fresh, "") })
	c.running.Go(func() { c.ask(&c.kept, token) })
	return c
}

// enter moves the calling goroutine's thread into the machine, so that its sockets are there. The thread ends with the
// goroutine.
func (m *machine) enter() error {
	runtime.LockOSThread()
	ns, err := os.Open(m.path("/proc/1/ns/net"))
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

type connection struct {
	net.Conn
	in *bufio.Reader
}

func dial() (*connection, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(endpoint, "http://")+":80")
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

func (c *connection) get(path, token string) (string, error) {
	c.SetDeadline(time.Now().Add(answerLimit))
	request := "GET " + path + " HTTP/1.1\r\nHost: instance-data\r\n"
	if token != "" {
		request += "X-aws-ec2-metadata-token: " + token + "\r\n"
	}
	if _, err := io.WriteString(c, request+"\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// ask asks until it is stopped. With a token the connection is kept.
func (c *clients) ask(t *client, token string) {
	if err := c.m.enter(); err != nil {
		c.m.t.Error(err)
		return
	}
	t.reasons = map[string]int{}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var conn *connection
	for ; !c.stop.Load(); <-tick.C {
		least, dead, begun := c.shown.Load(), c.dead.Load(), time.Now()
		reused := conn != nil
		text, connected, err := ask(&conn, token)
		if err != nil && reused {
			t.again++
			text, connected, err = ask(&conn, token)
		}
		if token == "" && conn != nil {
			conn.Close()
			conn = nil
		}
		killed, wait := c.killing.Load() > dead, time.Since(begun)
		t.requests++
		switch {
		case err == nil:
			if version, ok := versionIn(text); !ok || version < least {
				c.m.t.Errorf("HTTP shows version %d after %d was shown, or no payload: %.20q…", version, least, text)
			}
		case !connected:
			t.refused++
		case killed:
			t.killed++
		default:
			t.failed++
		}
		if err != nil {
			var errno unix.Errno
			if errors.As(err, &errno) {
				err = errno // without ports
			}
			t.reasons[err.Error()]++
		}
		if killed {
			t.waits = append(t.waits, wait)
		} else {
			t.longest = max(t.longest, wait)
		}
	}
}

// ask requests the value, on a new connection if there is none. After an error there is none.
func ask(conn **connection, token string) (text string, connected bool, err error) {
	if *conn == nil {
		if *conn, err = dial(); err != nil {
			*conn = nil
			return "", false, err
		}
	}
	if text, err = (*conn).get(stressed+"/value", token); err != nil {
		(*conn).Close()
		*conn = nil
	}
	return text, true, err
}

func versionIn(text string) (int64, bool) {
	first, _, _ := strings.Cut(text, " ")
	version, err := strconv.ParseInt(first, 10, 64)
	return version, err == nil && text == stress.Payload(version)
}

// reach waits until HTTP shows these versions, or newer ones.
func (c *clients) reach(value, names int64) error {
	done := make(chan error)
	go func() {
		err := c.m.enter()
		if err == nil {
			err = errors.Join(c.reachOne("/value", value), c.reachOne("/at", names))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return err
	}
	for shown := c.shown.Load(); shown < value && !c.shown.CompareAndSwap(shown, value); shown = c.shown.Load() {
	}
	return nil
}

func (c *clients) reachOne(file string, version int64) error {
	conn, err := dial()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err != nil {
			conn, err = dial()
			continue
		}
		var text string
		if text, err = conn.get(stressed+file, ""); err != nil { // it was killed
			conn.Close()
			continue
		}
		first, _, _ := strings.Cut(text, " ")
		if at, err := strconv.ParseInt(first, 10, 64); err == nil && at >= version {
			conn.Close()
			return nil
		}
	}
	return fmt.Errorf("%s is not at %d within %v: %w", file, version, patience, err)
}

// further waits until a change that is made now is shown.
func (c *clients) further() {
	c.m.t.Helper()
	before := c.shown.Load()
	kit.Eventually(c.m.t, "changes go on", func() bool { return c.shown.Load() > before+1 })
}

// around wraps a step that ends a daemon in the middle of its work.
func (c *clients) around(kill func()) {
	c.m.t.Helper()
	c.killing.Add(1)
	kill()
	c.dead.Add(1)
}

// end fails the test if a client was refused, or failed without a kill.
func (c *clients) end() {
	c.m.t.Helper()
	c.stop.Store(true)
	c.running.Wait()
	for _, t := range []struct {
		name string
		*client
	}{{"new connections", &c.fresh}, {"kept connection", &c.kept}} {
		slices.Sort(t.waits)
		if len(t.waits) == 0 {
			c.m.t.Errorf("%s: no request met a kill", t.name)
			continue
		}
		c.m.t.Logf("%s: %d requests, %d refused, %d failed, asked again %d times; longest %v. During kills: %d requests, %d failed; half took %v, the longest %v. Errors: %v",
			t.name, t.requests, t.refused, t.failed, t.again, t.longest, len(t.waits), t.killed, t.waits[len(t.waits)/2], t.waits[len(t.waits)-1], t.reasons)
		if t.refused+t.failed > 0 {
			c.m.t.Errorf("%s: %d requests went wrong", t.name, t.refused+t.failed)
		}
	}
}

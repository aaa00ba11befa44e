package main

import (
	"fmt"
	"net"
	"strings"
	"time"
)

const metricsGet = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9338\r\nConnection: close\r\n\r\n"

var metricsAttacks = []attack{
	{name: "foreign names", by: page, tries: "`Host: evil.test` and its kind at the metrics port", holds: "403 or 400; the address and localhost are answered", run: func(w *world) error {
		for _, host := range []string{"evil.test", "evil.test:9338", "127.0.0.1.nip.io", "localhost.evil.test", "2130706433", "0x7f000001", "user@127.0.0.1", "localhost.."} {
			if err := w.deny(metrics, strings.Replace(metricsGet, "127.0.0.1:9338", host, 1)); err != nil {
				return err
			}
		}
		return first(w.expect(metrics, metricsGet, "200.*"), w.expect(metrics, strings.Replace(metricsGet, "127.0.0.1:9338", "localhost:9338", 1), "200.*"))
	}},
	{name: "other methods and paths", by: client, tries: "POST, PUT, DELETE; `/debug/pprof/`, `/..`, `/latest/…`, `/api/token`", holds: "no value, no profile, nothing changes", run: func(w *world) error {
		for _, line := range []string{"POST /metrics", "PUT /latest/api/token", "DELETE /metrics", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /debug/vars", "GET /../../etc/passwd", "GET //etc/passwd", "GET /%2e%2e/%2e%2e/etc/passwd", "GET /latest/user-data", "GET " + credentials,
			"GET /v1/status", "POST /v1/upgrade", "TRACE /metrics", "CONNECT 127.0.0.1:80"} {
			answer, err := server.say(metrics, line+" HTTP/1.1\r\nHost: 127.0.0.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", line, err)
			case strings.HasPrefix(answer, "HTTP/1.1 200") && !strings.HasSuffix(line, " /metrics"), strings.Contains(answer, "root:"), tokenPattern.MatchString(answer):
				return fmt.Errorf("%s: %.300q", line, answer)
			}
			if err := w.secretIn(answer); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		return nil
	}},
	{name: "secrets in labels", by: client, tries: "reading all metrics", holds: "no secret, no token, no instance id, no peer's address", run: func(w *world) error {
		answer, err := server.say(metrics, metricsGet)
		if err != nil || !strings.Contains(answer, "imdsfs_") {
			return fmt.Errorf("control: %.300q, %w", answer, err)
		}
		if strings.Contains(answer, "192.0.2.2") {
			return fmt.Errorf("a peer's address shows")
		}
		return w.secretIn(answer)
	}},
	{name: "a neighbour scrapes", by: neighbour, tries: "metrics at an address of the LAN, without a list", holds: "closed without a byte; the host itself is answered", run: func(w *world) error {
		d, err := w.serve(instance(mainID, ""), "--listen", "127.0.0.1:0", "--mount", "none", "--metrics", "192.0.2.1:9339")
		if err != nil {
			return err
		}
		defer d.stop()
		request := strings.Replace(metricsGet, "127.0.0.1:9338", "192.0.2.1:9339", 1)
		return first(w.expect("192.0.2.1:9339", request, "200.*"), silent(lan, "192.0.2.1:9339", "", request))
	}},
	{name: "all descriptors", by: hog, tries: "600 idle connections to the metrics port of a daemon that may have 256 files", holds: "both doors go on: an answer within 3 s", run: func(w *world) error {
		return w.starve(func(metrics, _ string) string { return metrics }, 600, 3*time.Second)
	}},
	{name: "all descriptors by way of the service", by: hog, tries: "600 idle connections to the service of a daemon that may have 256 files", holds: "both doors go on: an answer within 15 s", run: func(w *world) error {
		return w.starve(func(_, door string) string { return door }, 600, 15*time.Second)
	}},
	{name: "slow headers", by: hog, tries: "200 connections that send a byte now and then", holds: "scrapes go on; each is closed within 30 s", slow: true, run: func(w *world) error {
		conns, err := hold(server, metrics, 200, "GET /metrics HT")
		defer closeAll(conns)
		if err != nil {
			return err
		}
		if err := w.expect(metrics, metricsGet, "200.*"); err != nil {
			return err
		}
		return until("all are closed", func() bool {
			for _, c := range conns {
				c.SetReadDeadline(time.Now().Add(time.Microsecond))
				if _, err := c.Read(make([]byte, 512)); isTimeout(err) {
					return false
				}
			}
			return true
		})
	}},
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// starve holds n connections to a port of a daemon with few descriptors and checks that the daemon answers within a limit.
func (w *world) starve(port func(metrics, door string) string, n int, limit time.Duration) error {
	mount := w.dir() + "/m"
	d, err := w.serveAs(how{prefix: []string{"prlimit", "--nofile=256:256"}}, instance(mainID, ""), "--listen", "127.0.0.3:0", "--mount", mount, "--metrics", "127.0.0.3:0")
	if err != nil {
		return err
	}
	defer d.stop()
	address, err := d.address()
	if err != nil {
		return err
	}
	scrape, err := d.metricsAddress()
	if err != nil {
		return err
	}
	conns, err := hold(server, port(scrape, address), n, "")
	defer closeAll(conns)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := w.expect(address, strings.Replace(get(idPath, ""), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1), "200 close"); err != nil {
		return err
	}
	if took := time.Since(begin); exceeds(took, limit) {
		return fmt.Errorf("a request took %v", took)
	}
	if out, err := w.as(mallory, "timeout", "10", "cat", mount+idPath); out != mainID || err != nil {
		return fmt.Errorf("the mount: %q, %w", out, err)
	}
	if out, err := w.as(mallory, "timeout", "10", "ls", mount+"/latest/meta-data/network/interfaces"); err != nil {
		return fmt.Errorf("the mount: %s, %w", out, err)
	}
	return nil
}

// metricsAddress is the address of the metrics, from the log.
func (d *daemon) metricsAddress() (string, error) {
	_, rest, ok := strings.Cut(d.log.String(), `msg="serving metrics" address="`)
	address, _, _ := strings.Cut(rest, `"`)
	if !ok {
		return "", fmt.Errorf("the log does not say where metrics are served:\n%s", d.log)
	}
	return address, nil
}

// hold opens n connections, on each of which it sends a text. The server may close any of them at any time.
func hold(p place, address string, n int, text string) (conns []net.Conn, err error) {
	err = p.do(func() error {
		for range n {
			conn, err := net.DialTimeout("tcp", address, patience)
			if err != nil {
				return err
			}
			conns = append(conns, conn)
			conn.SetDeadline(time.Now().Add(patience))
			conn.Write([]byte(text))
		}
		return nil
	})
	return conns, err
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

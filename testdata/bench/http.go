package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	httpRounds   = 3
	httpRoundsCI = 1
	httpMore     = 4 // rounds of loads with bounds
	httpStarts   = 5
	httpConns    = 32 // of wrk, where there is more than one

	tokenHeader = "X-aws-ec2-metadata-token"
	ttlHeader   = "X-aws-ec2-metadata-token-ttl-seconds"
)

// A load is one kind of request.
type load struct {
	name, path string
	args       []string // of wrk
	onlyOurs   bool
}

// A pressure is how a load is applied.
type pressure struct {
	name string
	args []string
}

var pressures = []pressure{
	{"1 connection", []string{"-c1"}},
	{"32 connections", []string{fmt.Sprintf("-c%d", httpConns)}},
	{"fresh connections", []string{fmt.Sprintf("-c%d", httpConns), "-HConnection: close"}},
}

// An httpTarget serves the same bytes as the others.
type httpTarget struct {
	name, address string
	runs          map[string][]second // by load and pressure
}

func benchHTTP(ctx context.Context, e *env) (string, error) {
	file, err := e.instanceFile("http", usualInstance("ami-0abcdef123456789")) // 20 bytes
	if err != nil {
		return "", err
	}
	ready, err := e.readyTimes(file)
	if err != nil {
		return "", err
	}
	ours, err := e.serve("http", file)
	if err != nil {
		return "", err
	}
	defer ours.stop()
	loads, err := e.loads(ours.address)
	if err != nil {
		return "", err
	}
	root := filepath.Join(e.dir, "www")
	if err := copyBodies(root, ours.address, loads); err != nil {
		return "", err
	}
	nginx, nginxAddress, err := e.nginx(root)
	if err != nil {
		return "", err
	}
	defer nginx.stop()
	bare, bareAddress, err := e.bare(ctx, root)
	if err != nil {
		return "", err
	}
	defer bare.stop()

	targets := []*httpTarget{{name: "imdsfs", address: ours.address}, {name: "nginx", address: nginxAddress}, {name: "net/http", address: bareAddress}}
	for _, t := range targets {
		t.runs = map[string][]second{}
	}
	rounds := httpRounds
	if e.ci {
		rounds = httpRoundsCI
	}
	for round := range rounds {
		for _, l := range loads {
			for _, p := range pressures {
				if err := visit(ctx, targets, l, p, round); err != nil {
					return "", err
				}
			}
		}
	}
	for round := range httpMore {
		if err := visit(ctx, targets, loads[0], pressures[1], round); err != nil {
			return "", err
		}
	}

	c := &checks{ci: e.ci}
	key := loads[0].name + pressures[1].name
	speed := func(i int) float64 { return targets[i].median(key).perSecond }
	c.atLeast("32 connections, requests/s: imdsfs / nginx", speed(0)/speed(1), 1, "×")
	c.atLeast("32 connections, requests/s: imdsfs / net/http", speed(0)/speed(2), 1.5, "×")
	c.atMost("32 connections, p99: imdsfs / nginx", float64(targets[0].median(key).p99)/float64(targets[1].median(key).p99), 1.5, "×")
	c.within("both doors ready, from exec", median(ready), 50*time.Millisecond)
	c.atMost("resident memory after all this", ours.mib("VmRSS"), 25, " MiB")
	return "## The HTTP door\n\n" + describe() + "\n\n" + httpTable(targets, loads) + "\n" + c.table() + httpNote, c.err()
}

// visit applies one load in one way to every target, in an order that rotates.
func visit(ctx context.Context, targets []*httpTarget, l load, p pressure, round int) error {
	for i := range targets {
		t := targets[(i+round)%len(targets)]
		if l.onlyOurs && t != targets[0] {
			continue
		}
		r, err := wrk(ctx, t.address, l, p)
		if err != nil {
			return fmt.Errorf("%s, %s, %s: %w", t.name, l.name, p.name, err)
		}
		t.runs[l.name+p.name] = append(t.runs[l.name+p.name], r)
	}
	return nil
}

// httpNote is from a profile (pprof) of the daemon at 32 connections.
const httpNote = `
wrk is on the same machine and takes a core of it, so these are figures of both together. Where the daemon's time goes at 32
connections: write(2), which pays for the way through TCP on the loopback, 56 %; read(2), which now and then finds nothing yet,
15 %; Go's scheduler with epoll_wait(2) 5 %; what is ours, the rest: checks and look-up 8 %, parsing 5 %, time-outs 4 %.
That is about 1 µs a request, and no memory. nginx does without the empty reads and the scheduler.
`

// readyTimes starts the daemon with both doors, again and again.
func (e *env) readyTimes(file string) (times []time.Duration, err error) {
	for range httpStarts {
		d, err := e.serve("ready", file)
		if err != nil {
			return nil, err
		}
		d.stop()
		times = append(times, d.ready)
	}
	return times, nil
}

func (e *env) loads(address string) ([]load, error) {
	token, err := fetch(http.MethodPut, address, "/latest/api/token", ttlHeader, "21600")
	if err != nil {
		return nil, err
	}
	script := filepath.Join(e.dir, "put.lua")
	if err := os.WriteFile(script, []byte("wrk.method = \"PUT\"\n"), 0o644); err != nil {
		return nil, err
	}
	return []load{
		{name: "GET, 20 bytes", path: "/latest/" + amiID},
		{name: "GET, 20 bytes, with a token", path: "/latest/" + amiID, args: []string{"-H" + tokenHeader + ": " + token}},
		{name: fmt.Sprintf("GET, %d lines", tagCount), path: "/latest/" + tagsDir},
		{name: "PUT for a token", path: "/latest/api/token", args: []string{"-s", script, "-H" + ttlHeader + ": 21600"}, onlyOurs: true},
	}, nil
}

// copyBodies makes files of what the daemon answers.
func copyBodies(root, address string, loads []load) error {
	for _, l := range loads {
		if l.onlyOurs {
			continue
		}
		body, err := fetch(http.MethodGet, address, l.path)
		if err != nil {
			return err
		}
		file := filepath.Join(root, l.path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(body), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func fetch(method, address, path string, header ...string) (string, error) {
	req, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return string(body), err
}

// nginxConfig is the fastest way to serve static files with nginx: a worker for each core, files kept open, no log.
const nginxConfig = `
daemon off;
user root;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr notice;
events { worker_connections 8192; }
http {
	access_log off;
	open_file_cache max=1000 inactive=10m;
	open_file_cache_valid 10m;
	keepalive_timeout 60s;
	keepalive_requests 1000000000;
	default_type text/plain;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server { listen %[2]s; root %[3]s; }
}
`

// nginx starts the nginx that .ci/deps has unpacked.
func (e *env) nginx(root string) (s *server, address string, err error) {
	binary, err := filepath.Abs(".deps/nginx/usr/sbin/nginx")
	if err != nil {
		return nil, "", err
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, "", fmt.Errorf("nginx is not here, run .ci/deps in the project's folder: %w", err)
	}
	if address, err = freeAddress(); err != nil {
		return nil, "", err
	}
	dir := filepath.Join(e.dir, "nginx")
	file := filepath.Join(dir, "nginx.conf")
	config := fmt.Sprintf(nginxConfig, dir, address, root)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte(config), 0o644)); err != nil {
		return nil, "", err
	}
	s, err = start("start worker process ", "", exec.Command(binary, "-p", dir, "-e", "stderr", "-c", file))
	return s, address, err
}

// bare starts the server in the folder of that name.
func (e *env) bare(ctx context.Context, root string) (s *server, address string, err error) {
	binary, err := e.build(ctx, "bare", "testdata/bench/bare")
	if err != nil {
		return nil, "", err
	}
	if address, err = freeAddress(); err != nil {
		return nil, "", err
	}
	s, err = start("ready", "", exec.Command(binary, root, address))
	return s, address, err
}

// freeAddress is for a server that needs to know its port.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// A second is what wrk reports of a second.
type second struct {
	perSecond float64
	p50, p99  time.Duration
}

// wrk runs Debian's HTTP load generator. It is written in C and uses one thread, so it leaves the other core free.
func wrk(ctx context.Context, address string, l load, p pressure) (second, error) {
	args := slices.Concat([]string{"-t1", "-d1s", "--latency"}, p.args, l.args, []string{"http://" + address + l.path})
	out, err := exec.CommandContext(ctx, "wrk", args...).CombinedOutput()
	if err != nil {
		return second{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return parseWrk(string(out))
}

// parseWrk refuses a run in which anything went wrong.
func parseWrk(out string) (r second, err error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "50%":
			r.p50, err = time.ParseDuration(f[1])
		case len(f) == 2 && f[0] == "99%":
			r.p99, err = time.ParseDuration(f[1])
		case len(f) == 2 && f[0] == "Requests/sec:":
			_, err = fmt.Sscan(f[1], &r.perSecond)
		case strings.Contains(line, "Non-2xx") || strings.Contains(line, "Socket errors"):
			err = errors.New(strings.TrimSpace(line))
		}
		if err != nil {
			return second{}, err
		}
	}
	if r.perSecond == 0 || r.p50 == 0 || r.p99 == 0 {
		return second{}, fmt.Errorf("wrk says too little:\n%s", out)
	}
	return r, nil
}

// median takes each number by itself.
func (t *httpTarget) median(key string) (m second) {
	var speeds []float64
	var p50, p99 []time.Duration
	for _, r := range t.runs[key] {
		speeds, p50, p99 = append(speeds, r.perSecond), append(p50, r.p50), append(p99, r.p99)
	}
	return second{median(speeds), median(p50), median(p99)}
}

func httpTable(targets []*httpTarget, loads []load) string {
	var b strings.Builder
	b.WriteString("| requests/s (p50, p99) |")
	for _, t := range targets {
		b.WriteString(" " + t.name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(targets)) + "\n")
	for _, l := range loads {
		for _, p := range pressures {
			b.WriteString("| " + l.name + ", " + p.name + " |")
			for _, t := range targets {
				key := l.name + p.name
				if len(t.runs[key]) == 0 {
					b.WriteString(" |")
					continue
				}
				m := t.median(key)
				fmt.Fprintf(&b, " %.0f (%s, %s) |", m.perSecond, pretty(m.p50), pretty(m.p99))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

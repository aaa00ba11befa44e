package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	soakClients = 64 // half of them v1, half v2, every tenth of them hostile
	soakCI      = 10 * time.Second
	soakPeriod  = 500 * time.Millisecond // between changes of the file
	soakGrowth  = 8 << 20                // bytes that are no growth
)

// soakFor is how long to soak: IMDSFS_SOAK=10m for the real thing.
func soakFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("IMDSFS_SOAK")
	if text == "" {
		return soakCI
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < soakCI {
		t.Fatalf("IMDSFS_SOAK=%q: give a duration of at least %v", text, soakCI)
	}
	return d
}

// A soak is what the clients of the test have in common.
type soak struct {
	t       *testing.T
	d       *served
	written atomic.Int64 // the generation that is being written, or has been
	asked   atomic.Int64 // requests of well-behaved clients
	failed  atomic.Int64
}

// Well-behaved clients see no error, never an old value after a newer one, and the daemon does not grow,
// whatever hostile clients and changes of the file there are.
func TestSoak(t *testing.T) {
	kit.Require(t, os.Getuid() == 0, "root, to count the descriptors of the daemon")
	duration := soakFor(t)
	file := write(t, "instance.toml", generation(0))
	s := &soak{t: t, d: serve(t, file, false)}
	descriptors := s.d.descriptors()

	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var clients sync.WaitGroup
	for i := range soakClients {
		switch {
		case i%10 == 9:
			clients.Go(func() { s.hostile(ctx, i) })
		default:
			clients.Go(func() { s.client(ctx, i%2 == 1) })
		}
	}
	warm := s.change(ctx, file, duration)
	clients.Wait()

	now, peak := s.d.resident()
	t.Logf("%d requests in %v, %d changes; memory %.1f MiB after a fifth of the time, %.1f at the end, %.1f at most",
		s.asked.Load(), duration, s.written.Load(), mib(warm), mib(now), mib(peak))
	if s.asked.Load() < soakClients || s.written.Load() < 2 {
		t.Error("too little happened for the test to say anything")
	}
	if grown := now - warm; grown > soakGrowth {
		t.Errorf("memory grew by %.1f MiB", mib(grown))
	}
	kit.Eventually(t, "all connections are closed", func() bool { return s.d.descriptors() <= descriptors })
	s.d.ask("GET", "/latest/meta-data/instance-id")
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// generation is the instance file with a number in it, twice, and every tenth one has a further value.
func generation(n int64) string {
	more := ""
	if n%10 == 0 {
		more = "\nround = \"yes\""
	}
	return least("", fmt.Sprintf("generation = \"%d\"\nlarge = \"%s\"%s", n, strings.Repeat(strconv.FormatInt(n%10, 10), 64<<10), more))
}

// change rewrites the file until ctx ends. It returns what the daemon occupied after a fifth of the time.
func (s *soak) change(ctx context.Context, file string, duration time.Duration) (warm int64) {
	tick := time.NewTicker(soakPeriod)
	defer tick.Stop()
	begin := time.Now()
	for {
		select {
		case <-ctx.Done():
			return warm
		case <-tick.C:
		}
		rewrite(s.t, file, generation(s.written.Add(1)))
		if time.Since(begin) > duration/5 {
			if now, _ := s.d.resident(); warm == 0 || time.Since(begin) < duration/2 {
				warm = max(warm, now)
			}
		}
	}
}

// client asks for what changes and for what does not, most of the time on one connection.
func (s *soak) client(ctx context.Context, v2 bool) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: kit.Patience}
	token := ""
	seen := int64(0)
	for n := 0; ctx.Err() == nil && s.failed.Load() < 10; n++ {
		if n%50 == 49 {
			transport.CloseIdleConnections()
		}
		if v2 && n%100 == 0 {
			token = s.get(client, "PUT", "/latest/api/token", "", nil)
		}
		s.get(client, "GET", "/latest/meta-data/instance-id", token, func(body string) bool { return body == leastID })
		s.get(client, "GET", "/latest/meta-data/", token, func(body string) bool {
			return strings.Contains(body, "\ngeneration\n") && strings.Contains(body, "\ninstance-id\n")
		})
		s.get(client, "GET", "/latest/meta-data/generation", token, func(body string) bool {
			now, err := strconv.ParseInt(body, 10, 64)
			good := err == nil && now >= seen && now <= s.written.Load()
			seen = now
			return good
		})
		s.get(client, "GET", "/latest/meta-data/large", token, func(body string) bool {
			return len(body) == 64<<10 && strings.Trim(body, body[:1]) == ""
		})
	}
}

// get makes one request, whose answer has to be good.
func (s *soak) get(client *http.Client, method, path, token string, good func(body string) bool) string {
	req, err := http.NewRequest(method, s.d.url(path), nil)
	if err != nil {
		s.t.Error(err)
		return ""
	}
	switch {
	case method == "PUT":
		req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "21600")
	case token != "":
		req.Header.Set("X-aws-ec2-metadata-token", token)
	}
	s.asked.Add(1)
	body, err := fetchBody(client, req)
	if err == nil && good != nil && !good(body) {
		err = fmt.Errorf("%.100q", body)
	}
	if err != nil {
		s.failed.Add(1)
		s.t.Errorf("%s %s: %v", method, path, err)
	}
	return body
}

func fetchBody(client *http.Client, req *http.Request) (string, error) {
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// hostile does one of the things that nobody should do.
func (s *soak) hostile(ctx context.Context, i int) {
	const request = "GET /latest/meta-data/large HTTP/1.1\r\nHost: localhost\r\n"
	kinds := []struct {
		opening, drip string
		reads         bool
	}{
		{request, "X", false},
		{strings.Repeat(request+"\r\n", 100), "", false},
		{"", "\x16\x03\x01\x02\x00\r\n\r\n", true},
		{"PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", "x", true},
		{"GET /%2e%2e/ HTTP/1.1\r\nHost: localhost\r\nX-aws-ec2-metadata-token: \xff\r\n\r\n", "\r\n", true},
		{"", "", false},
	}
	kind := kinds[i/10%len(kinds)]
	misbehave(ctx, s.d.address, kind.opening, kind.drip, kind.reads, func() {})
}

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// tellAddress leaves the address of a server in a run-time directory, as a daemon does.
func tellAddress(t *testing.T, dir string, server *httptest.Server) {
	t.Helper()
	must(t, os.WriteFile(daemon.ListenFile(dir), []byte(strings.TrimPrefix(server.URL, "http://")+"\n"), 0o644))
}

// A service answers reads of a path with one status after the other, the last again and again.
func TestGetWaits(t *testing.T) {
	t.Setenv(client.EndpointVariable, "")
	for name, c := range map[string]struct {
		wait     string
		statuses []int
		code     int
		says     string // on standard output or error
	}{
		"for the path":                        {"1h", []int{404, 404, 200}, 0, "here"},
		"while the service is not well":       {"1h", []int{503, 500, 200}, 0, "here"},
		"not at all by itself":                {"0s", []int{404, 200}, exitNo, "/latest/meta-data/x: no such metadata\n"},
		"not for what is refused":             {"1h", []int{403, 200}, exitFailed, "403 Forbidden"},
		"not for what needs another token":    {"1h", []int{401, 401, 200}, exitFailed, "401 Unauthorized"},
		"no longer than asked for the path":   {"300ms", []int{404}, exitNo, "/latest/meta-data/x: no such metadata, after 300ms\n"},
		"no longer than asked for the answer": {"300ms", []int{503}, exitFailed, "503 Service Unavailable, after 300ms\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					io.WriteString(w, "token")
					return
				}
				n := int(asked.Add(1))
				w.WriteHeader(c.statuses[min(n, len(c.statuses))-1])
				io.WriteString(w, "here")
			}))
			defer server.Close()
			dir := t.TempDir()
			tellAddress(t, dir, server)
			var out syncBuffer
			code := run([]string{"get", "--runtime-dir", dir, "--wait", c.wait, "x"}, &out, &out)
			if code != c.code || !strings.Contains(out.String(), c.says) {
				t.Errorf("exit %d, want %d: %s", code, c.code, out.String())
			}
			if n := int(asked.Load()); len(c.statuses) > 1 && n > len(c.statuses) || c.code != 0 && c.wait == "1h" && n >= len(c.statuses) {
				t.Errorf("%d tries of %d", n, len(c.statuses))
			}
		})
	}
}

// Nobody is there when get begins; another service at the real address is not asked instead.
func TestGetWaitsForTheDaemon(t *testing.T) {
	t.Setenv(client.EndpointVariable, "")
	dir := t.TempDir()
	var out syncBuffer
	if code := run([]string{"get", "--runtime-dir", dir, "--wait", "50ms", "instance-id"}, &out, &out); code != exitFailed ||
		!strings.Contains(out.String(), "no imdsfs listens on this machine, after 50ms\nimdsfs: hint: start one with: imdsfs serve; ") {
		t.Errorf("without a daemon: exit %d: %s", code, out.String())
	}

	// A daemon that was killed has left an address at which nobody listens.
	gone := httptest.NewServer(nil)
	tellAddress(t, dir, gone)
	gone.Close()
	var got syncBuffer
	done := make(chan int, 1)
	go func() { done <- run([]string{"get", "--runtime-dir", dir, "--wait", "1h", "instance-id"}, &got, &got) }()
	d := serve(t, write(t, "web.toml", least("", "")), false)
	rewrite(t, daemon.ListenFile(dir), d.address+"\n")
	kit.Eventually(t, "printed", func() bool { return got.String() != "" })
	if code := <-done; code != 0 || got.String() != "i-0a1b2c3d4e5f67890" {
		t.Errorf("from %s: exit %d: %q", d.address, code, got.String())
	}
}

func TestGetRefusesToWaitForOtherTimes(t *testing.T) {
	for _, wait := range []string{"-1s", "24h1ns", "soon"} {
		var out syncBuffer
		if code := run([]string{"get", "--wait", wait, "x"}, &out, &out); code != exitUsage {
			t.Errorf("--wait %s: exit %d: %s", wait, code, out.String())
		}
	}
}

package main

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// call asks the daemon as the imdsfs commands do.
func (d *served) call(method, path string, body, result any) error {
	flags := adminFlags{runtimeDir: d.runtime}
	return flags.call(d.t.Context(), method, path, body, result)
}

func (d *served) setOption(name, value string) {
	d.t.Helper()
	if err := d.call("PATCH", "/v1/options", map[string]string{name: value}, nil); err != nil {
		d.t.Fatal(err)
	}
}

// While options change a thousand times, no client is answered by what was before a change that has
// returned: a request that begins after "required" must not get data without a token, and one that
// begins after "optional" must.
func TestNoClientSeesAnOptionOfBefore(t *testing.T) {
	const changes, clients = 1000, 32
	d := serve(t, write(t, "web.toml", least("", "")), false)
	// generation counts changes; a change is even while it stands and odd while it is made.
	var generation atomic.Int64
	var required atomic.Bool
	var asked, checked atomic.Int64
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			client := http.Client{Timeout: kit.Patience, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			pace := time.NewTicker(5 * time.Millisecond) // leaves the daemon some of the machine
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				before, want := generation.Load(), required.Load()
				resp, err := client.Get(d.url("/latest/meta-data/instance-id"))
				if err != nil {
					t.Errorf("GET: %v", err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				asked.Add(1)
				if before%2 != 0 || generation.Load() != before {
					continue // a change was under way
				}
				checked.Add(1)
				if status := map[bool]int{true: http.StatusUnauthorized, false: http.StatusOK}[want]; resp.StatusCode != status {
					t.Errorf("tokens required: %v, and a request without one gets %d", want, resp.StatusCode)
				}
			}
		})
	}
	for i := range changes {
		value := map[bool]string{true: "required", false: "optional"}[i%2 == 0]
		generation.Add(1)
		d.setOption("http-tokens", value)
		required.Store(i%2 == 0)
		generation.Add(1)
		// Let clients look at every tenth.
		if i%10 == 0 {
			seen := checked.Load()
			kit.Eventually(t, "clients look", func() bool { return checked.Load() > seen || t.Failed() })
		}
	}
	close(stop)
	running.Wait()
	if checked.Load() < changes/10 {
		t.Errorf("only %d of %d requests fell between changes", checked.Load(), asked.Load())
	}
	t.Logf("%d requests, %d of them between changes", asked.Load(), checked.Load())
}

// What is set is what runs after a crash, whenever that comes.
func TestOptionsOutliveSIGKILL(t *testing.T) {
	state, file := t.TempDir(), write(t, "web.toml", least("", ""))
	want := "optional"
	for i := range 10 {
		d := serve(t, file, false, "--state-dir", state)
		var list optionList
		if err := d.call("GET", "/v1/options", nil, &list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Options {
			if o.Name == "http-tokens" && o.Value != want {
				t.Errorf("start %d: http-tokens = %s, want %s", i, o.Value, want)
			}
		}
		want = map[bool]string{true: "required", false: "optional"}[i%2 == 0]
		d.setOption("http-tokens", want)
		d.kill()
	}
}

func TestStatusTellsOfFaultsUntilTheyAreGone(t *testing.T) {
	file := write(t, "web.toml", least("", ""))
	d := serve(t, file, false)
	var s control.Status
	status := func() control.Status {
		t.Helper()
		s = control.Status{}
		if err := d.call("GET", "/v1/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := status(); len(s.Faults) > 0 || s.Mount != nil || len(s.Listeners) != 1 || time.Since(s.Started) > time.Hour {
		t.Errorf("at first: %+v", s)
	}
	d.reload(file, least(`platfrom = "ec2"`, ""), "still serving")
	if s := status(); len(s.Faults) != 1 || s.Counters.ReloadFailures != 1 {
		t.Errorf("with a faulty file: %+v", s)
	}
	if err := d.call("POST", "/v1/reload", nil, nil); err == nil {
		t.Error("a reload that was asked for does not tell of the fault")
	}
	d.reload(file, least("", ""), "the input is good again")
	if s := status(); len(s.Faults) > 0 {
		t.Errorf("with a good file again: %+v", s)
	}
	if err := d.call("POST", "/v1/reload", nil, nil); err != nil {
		t.Error(err)
	}
}

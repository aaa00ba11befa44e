package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// resident is the memory that the daemon occupies and has occupied at most, in bytes.
func (d *served) resident() (now, peak int64) {
	d.t.Helper()
	status := kit.ReadFile(d.t, fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	value := func(key string) int64 {
		_, rest, _ := strings.Cut(status, "\n"+key+":")
		kib, err := strconv.ParseInt(strings.Fields(rest + " ?")[0], 10, 64)
		if err != nil {
			d.t.Fatalf("%s of the daemon: %v", key, err)
		}
		return kib << 10
	}
	return value("VmRSS"), value("VmHWM")
}

// descriptors is how many the daemon has open. It is not dumpable, so only root may look.
func (d *served) descriptors() int {
	d.t.Helper()
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "fd"))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(fds)
}

// crowdMemory bounds what 4096 connections may cost, in bytes: a stack and a buffer each.
const crowdMemory = 64 << 20

// plainBinary has the test run imdsfs as it is built for users: the race detector, with which the tests
// are built, multiplies memory.
func plainBinary(t *testing.T) {
	t.Helper()
	kit.RequireCommand(t, "go")
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-race=false", "-o", dir+"/imdsfs", ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Whatever a crowd of hostile clients does, others are served as if they were alone.
func TestHostileCrowdHoldsNobodyUp(t *testing.T) {
	var files unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	kit.Require(t, err == nil && files.Cur >= 6000, "6,000 open files (ulimit -n)")
	plainBinary(t)
	d := serve(t, write(t, "instance.toml", least("", fmt.Sprintf("large = %q", strings.Repeat("x", 1<<20)))), false)
	const (
		request = "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: localhost\r\n"
		large   = "GET /latest/meta-data/large HTTP/1.1\r\nHost: localhost\r\n\r\n"
		putLong = "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 1000\r\n\r\n"
	)
	before, _ := d.resident()
	for _, hostile := range []struct {
		name    string
		clients int
		// opening is sent at once, then drip again and again, until the server closes.
		opening, drip string
		reads         bool
	}{
		{"5,000 connections", 5000, "", "", false},
		{"headers, a byte at a time", 300, request, "X", false},
		{"headers without end", 10, request, strings.Repeat("X: y\r\n", 1<<10), false},
		{"bodies, a byte at a time", 300, putLong, "x", true},
		{"answers not taken", 500, strings.Repeat(large, 20), "", false},
		{"as fast as it goes", 4, "", strings.Repeat(request+"\r\n", 100), true},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			ctx, done := context.WithCancel(t.Context())
			var crowd, arrived sync.WaitGroup
			defer crowd.Wait()
			defer done()
			for range hostile.clients {
				arrived.Add(1)
				crowd.Go(func() { misbehave(ctx, d.address, hostile.opening, hostile.drip, hostile.reads, arrived.Done) })
			}
			arrived.Wait()
			var times []time.Duration
			for i := range 100 {
				begin := time.Now()
				if err := fetchOnce(d.address, request+"Connection: close\r\n\r\n", leastID); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
				times = append(times, time.Since(begin))
			}
			slices.Sort(times)
			if median := times[len(times)/2]; median > time.Second {
				t.Errorf("median of the others %v, want 1 s at most", median)
			}
			memory, _ := d.resident()
			t.Logf("others: median %v, slowest %v; daemon %d MiB", times[len(times)/2], times[len(times)-1], memory>>20)
		})
	}
	if _, peak := d.resident(); peak-before > crowdMemory {
		t.Errorf("the daemon grew by %d MiB, the bound is %d", (peak-before)>>20, crowdMemory>>20)
	}
}

// misbehave is one client: it sends opening, calls arrived, and then sends drip for ever. It comes back
// when the server closes.
func misbehave(ctx context.Context, address, opening, drip string, reads bool, arrived func()) {
	once := sync.OnceFunc(arrived)
	defer once()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			<-tick.C
			continue
		}
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		if reads {
			go io.Copy(io.Discard, nc)
		} else {
			nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // of the opening: it need not fit
		}
		io.WriteString(nc, opening)
		nc.SetWriteDeadline(time.Time{})
		once()
		for drip != "" {
			if _, err := io.WriteString(nc, drip); err != nil {
				break
			}
			if len(drip) == 1 {
				<-tick.C
			}
		}
		if drip == "" {
			<-ctx.Done()
		}
		stop()
		nc.Close()
	}
}

// fetchOnce makes one request on a connection of its own; the answer has to end in want.
func fetchOnce(address, request, want string) error {
	nc, err := net.DialTimeout("tcp", address, kit.Patience)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(kit.Patience))
	if _, err := io.WriteString(nc, request); err != nil {
		return err
	}
	answer, err := io.ReadAll(nc)
	if err == nil && (!strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(answer), "\r\n\r\n"+want)) {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// program puts imdsfs as users have it at path: without the race detector, under which a start takes ten
// times as long. Its version tells one from the other.
func program(t testing.TB, path, version string, tags ...string) {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	key := version + " " + strings.Join(tags, ",")
	built := programs.built[key]
	if built == "" {
		dir, err := os.MkdirTemp("", "imdsfs-program-") // goes with the tests
		if err != nil {
			t.Fatal(err)
		}
		built = dir + "/imdsfs"
		cmd := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-tags", strings.Join(tags, ","), "-o", built, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		programs.built[key] = built
	}
	text, err := os.ReadFile(built)
	must(t, err, os.WriteFile(path, text, 0o755), os.Chmod(path, 0o755))
}

var programs = struct {
	mu    sync.Mutex
	built map[string]string
}{built: map[string]string{}}

// A siege kills and upgrades a daemon for as long as it is told to.
type siege struct {
	t        *testing.T
	s        *site
	d        *served
	programs [2]string // that take turns at s.base/imdsfs

	kills, upgrades, wantKills, wantUpgrades atomic.Int64
}

func (g *siege) enough() bool {
	return g.kills.Load() >= g.wantKills.Load() && g.upgrades.Load() >= g.wantUpgrades.Load()
}

// run ends when stop is closed. Every third kill hits a daemon that is in the middle of its start.
func (g *siege) run(stop <-chan struct{}) {
	pause := func(d time.Duration) bool {
		select {
		case <-stop:
			return false
		case <-time.After(d):
			return true
		}
	}
	for turn := 0; pause(20 * time.Millisecond); turn++ {
		if g.wantUpgrades.Load() > 0 && (turn%6 == 5 || g.wantKills.Load() == 0) {
			g.upgrade(turn)
			continue
		}
		if g.wantKills.Load() == 0 {
			continue
		}
		g.kill()
		for i := range 2 {
			if turn%3 == 2 && pause(time.Duration(turn*7%40+i)*time.Millisecond) {
				g.kill()
			}
		}
		g.awaitDaemon(stop)
	}
}

func (g *siege) kill() {
	// A keeper's daemon is a child of one of its threads.
	for _, pid := range childrenNamed(g.d.cmd.Process.Pid) {
		g.kills.Add(1) // before anybody feels it
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			return
		}
		g.kills.Add(-1)
	}
}

// childrenNamed are the children of a process, of whichever of its threads, that serve.
func childrenNamed(parent int) (pids []int) { return childrenWith(parent, "\x00serve\x00") }

// childrenWith are the children in whose command line this stands.
func childrenWith(parent int, text string) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, file := range files {
		children, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(children)) {
			pid, _ := strconv.Atoi(word)
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(command), text) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// awaitDaemon waits until one answers.
func (g *siege) awaitDaemon(stop <-chan struct{}) {
	for deadline := time.Now().Add(kit.Patience); time.Now().Before(deadline); {
		select {
		case <-stop:
			return
		default:
		}
		if exec.Command(g.s.base+"/imdsfs", "status", "--runtime-dir", g.s.runtime).Run() == nil {
			return
		}
	}
	g.t.Errorf("no daemon answers after %v", kit.Patience)
}

func (g *siege) upgrade(turn int) {
	next := g.programs[turn%2]
	must(g.t, os.Remove(g.s.base+"/imdsfs"), os.Link(next, g.s.base+"/imdsfs"))
	out, err := exec.Command(g.s.base+"/imdsfs", "upgrade", "--runtime-dir", g.s.runtime).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "upgraded from") {
		g.t.Errorf("upgrade: %v: %s", err, out)
		return
	}
	g.upgrades.Add(1)
}

// A caller asks over HTTP on a new connection each time.
type caller struct {
	address                          string
	asked, refused, broken, upgraded atomic.Int64 // upgraded: that went wrong with nobody killed
	longest                          atomic.Int64 // ns
}

func (c *caller) run(ctx context.Context, g *siege) {
	client := http.Client{Timeout: kit.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		kills, start := g.kills.Load(), time.Now()
		resp, err := client.Get("http://" + c.address + "/latest/meta-data/instance-id")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		c.asked.Add(1)
		c.longest.Store(max(c.longest.Load(), int64(time.Since(start))))
		switch {
		case err == nil:
		case errors.Is(err, syscall.ECONNREFUSED):
			c.refused.Add(1)
		case kills == g.kills.Load():
			c.upgraded.Add(1)
			g.t.Errorf("HTTP, with nobody killed: %v", err)
		default:
			c.broken.Add(1)
		}
	}
}

// A watcher in a container reads in a loop of shell, as people do there. It complains of whatever is wrong.
const watch = `while [ ! -e "$board/stop" ]; do
	floor=$(cat "$board/floor"); text=$(cat "$dir/value") || echo "read: $?"
	first=${text%% *}; last=${text##* }
	[ "$first" = "$last" ] || echo "torn: $first $last"
	[ "$first" -ge "$floor" ] || echo "stale: $first after $floor"
	[ $(ls "$dir" 2>/dev/null | grep -c '^k') = 60 ] || echo "names are missing"
	n=$((n+1)); echo $n >"$board/$rounds"
done`

// TestMountOutlivesItsDaemon: readers of all kinds keep reading while the daemon is killed, upgraded, and changed.
func TestMountOutlivesItsDaemon(t *testing.T) {
	for name, c := range map[string]struct {
		flags           []string
		kills, upgrades int64
		duration        time.Duration
		containers      bool
	}{
		"with a keeper":            {[]string{"--keep"}, 100, 20, 8 * time.Second, true},
		"with a keeper, as nobody": {[]string{"--keep", "--user", "nobody"}, 12, 4, 3 * time.Second, false},
		"by exec in place":         {nil, 0, 20, 4 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, stressFile(0, 0))
			must(t, os.Chmod(s.file, 0o644))
			g := &siege{t: t, s: s, programs: [2]string{s.base + "/one", s.base + "/two"}}
			g.wantKills.Store(c.kills)
			g.wantUpgrades.Store(c.upgrades)
			program(t, g.programs[0], "one")
			program(t, g.programs[1], "two")
			must(t, os.Link(g.programs[0], s.base+"/imdsfs"))
			g.d = s.ready(s.launchAs([]string{s.base + "/imdsfs"}, c.flags...))

			// Readers: on the mount; through a bind mount in another mount namespace; in containers.
			pid := s.holder("unshare", "-m", "sh", "-c", `mount --bind "$1" "$2" && exec sleep 1000`, "sh", s.mount+stressed, s.mustMkdir("bound"))
			board := s.mustMkdir("board")
			must(t, os.WriteFile(board+"/floor", []byte("0"), 0o644), os.Chmod(board, 0o777))
			var loops []*loop
			if c.containers {
				loops = append(loops, s.loop("user namespace", board, s.enclose("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm")))
				loops = append(loops, s.loop("podman", "/board", s.podman(s.mount+"/latest/meta-data", "--volume", board+":/board")))
			}

			call := &caller{address: g.d.address}
			ctx, cancel := context.WithCancel(t.Context())
			stop := make(chan struct{})
			var callers sync.WaitGroup
			callers.Go(func() { call.run(ctx, g) })
			client := &watchfulClient{g.d, http.Client{Timeout: kit.Patience}}
			var changes atomic.Int64
			stress.Run(t, stress.Target{
				Dir: s.mount + stressed, Bind: fmt.Sprintf("/proc/%d/root%s", pid, s.base+"/bound"),
				Least: 20,
				Meanwhile: func() {
					var besieger sync.WaitGroup
					besieger.Go(func() { g.run(stop) })
					latest := time.After(20 * c.duration)
					tick := time.NewTicker(10 * time.Millisecond)
					defer tick.Stop()
					for start := time.Now(); time.Since(start) < c.duration || !g.enough() || changes.Load() < 200; {
						select {
						case <-tick.C:
							if !t.Failed() {
								continue
							}
						case <-latest:
						}
						break
					}
					close(stop)
					besieger.Wait()
				},
				Change: func(value, names int64) error {
					changes.Add(1)
					if err := os.WriteFile(s.file+".new", []byte(stressFile(value, names)), 0o644); err != nil {
						return err
					}
					return os.Rename(s.file+".new", s.file)
				},
				Wait: func(value, names int64) error {
					if err := client.reachesInSpite(stressed+"/value", value); err != nil {
						return err
					}
					if err := raise(board+"/floor", value); err != nil {
						return err
					}
					return client.reachesInSpite(stressed+"/at", names)
				},
			})
			cancel()
			callers.Wait()
			if !g.enough() || changes.Load() < 200 {
				t.Error("that is too little")
			}
			for _, l := range loops {
				l.end(board)
			}
			t.Logf("%d SIGKILLs, %d upgrades, %d changes", g.kills.Load(), g.upgrades.Load(), changes.Load())
			t.Logf("HTTP: %d new connections, %d refused, %d answers broken off by a kill, %d failed otherwise, the longest took %v",
				call.asked.Load(), call.refused.Load(), call.broken.Load(), call.upgraded.Load(), time.Duration(call.longest.Load()).Round(time.Millisecond))
			if call.refused.Load() > 0 {
				t.Errorf("%d connections were refused", call.refused.Load())
			}
			if text := g.d.log.String(); strings.Contains(text, "mounted afresh") || strings.Contains(text, "level=error") {
				t.Error("the daemon complained")
			}
			s.end(g.d)
		})
	}
}

// reachesInSpite is reaches where requests may be broken off.
func (c *watchfulClient) reachesInSpite(path string, version int64) (err error) {
	for deadline := time.Now().Add(kit.Patience); time.Now().Before(deadline); {
		if err = c.reaches(path, version); err == nil {
			return nil
		}
		var broken net.Error
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &broken) {
			return err
		}
	}
	return err
}

var floorMu sync.Mutex

// raise writes a number to a file if it is higher than what is there.
func raise(path string, value int64) error {
	floorMu.Lock()
	defer floorMu.Unlock()
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if old, _ := strconv.ParseInt(string(text), 10, 64); old >= value {
		return nil
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(fmt.Sprint(value)), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// A loop reads in a container.
type loop struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	said *syncBuffer
}

func (s *site) loop(name, board string, in container) *loop {
	s.t.Helper()
	line := fmt.Sprintf("board=%s dir=%s%s rounds=rounds-%s\n", board, in.dir, strings.TrimPrefix(stressed, "/latest/meta-data"), dashed(name))
	l := &loop{s.t, name, in.sh(line + watch), &syncBuffer{}}
	l.cmd.Stdout, l.cmd.Stderr = l.said, l.said
	s.background(l.cmd)
	return l
}

// end has it stop, and fails the test for what it complained of, or if it read too little.
func (l *loop) end(board string) {
	l.t.Helper()
	must(l.t, os.WriteFile(board+"/stop", nil, 0o644))
	ended := make(chan error, 1)
	go func() { ended <- l.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(kit.Patience):
		l.t.Errorf("the reader in the %s hangs", l.name)
	}
	if said := l.said.String(); said != "" {
		l.t.Errorf("the reader in the %s complains: %.2000s", l.name, said)
	}
	text, _ := os.ReadFile(board + "/rounds-" + dashed(l.name))
	rounds, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	l.t.Logf("%s: %d rounds", l.name, rounds)
	if rounds < 20 {
		l.t.Errorf("the reader in the %s read %d times only", l.name, rounds)
	}
}

func dashed(name string) string { return strings.ReplaceAll(name, " ", "-") }

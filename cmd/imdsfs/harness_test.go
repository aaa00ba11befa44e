package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// TestMain makes the test binary stand in for imdsfs: testscript puts a command of that name on the
// PATH, which all tests here run as a user would.
func TestMain(m *testing.M) {
	fs.ChildMain()
	stress.Main()
	swapMain()
	scratchMain()
	os.Setenv("GORACE", noRaceSleep)
	switch {
	case mount.IsCalled():
		os.Exit(runMount(os.Args[1:], os.Stdout, os.Stderr))
	case os.Getenv(besideTerminalVariable) != "":
		os.Exit(besideTerminal())
	case os.Getenv(daemon.BackgroundVariable) != "":
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) // mount(8) takes the PATH away, which finds it again otherwise
	}
	testscript.Main(tidy{m}, map[string]func(){
		"imdsfs": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// tidy has the tests, but not the command, use a temporary directory of their own.
type tidy struct{ *testing.M }

func (m tidy) Run() int { return scratch.Run(m.M) }

// noRaceSleep is for the programs that tests start: the race detector's second at the end of each adds up.
const noRaceSleep = "atexit_sleep_ms=0"

const instances = "../../testdata/instances"

// The words of package daemon, as the tests write them in command lines.
const (
	none      = daemon.None
	linkLocal = daemon.LinkLocal
)

// A syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A served is a running imdsfs serve.
type served struct {
	t       testing.TB
	cmd     *exec.Cmd
	log     *syncBuffer
	runtime string
	mount   string // "" without
	address string // host:port, "" without
	exited  chan error
	once    sync.Once
}

// serve starts imdsfs serve on a file, on a free port and, if mount, on a directory of the test's own,
// and waits until it is ready. It is stopped, and looked after, at the end of the test.
func serve(t testing.TB, file string, mount bool, flags ...string) *served {
	t.Helper()
	d := &served{t: t, log: &syncBuffer{}, runtime: t.TempDir(), exited: make(chan error, 1)}
	dir := none
	if mount {
		kit.RequireMount(t)
		d.mount = filepath.Join(publicDir(t), "metadata")
		dir = d.mount
	}
	args := []string{"serve", "-c", file, "--listen", "127.0.0.1:0", "--mount", dir, "--runtime-dir", d.runtime, "--state-dir", t.TempDir()}
	d.cmd = exec.Command("imdsfs", append(args, flags...)...)
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("log of imdsfs serve %s:\n%s", filepath.Base(file), d.log)
		}
	})
	kit.Eventually(t, "ready", func() bool {
		select {
		case err := <-d.exited:
			d.exited <- err
			t.Fatalf("imdsfs serve ended: %v\n%s", err, d.log)
		default:
		}
		return strings.Contains(d.log.String(), "msg=ready")
	})
	text, err := os.ReadFile(daemon.ListenFile(d.runtime))
	if err != nil {
		t.Fatal(err)
	}
	d.address, _, _ = strings.Cut(string(text), "\n")
	return d
}

// publicDir is a new directory that every user can enter; t.TempDir is the test's user's alone.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "imdsfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// stop ends the daemon as systemd would and fails the test if it does not end well.
func (d *served) stop() {
	d.once.Do(func() {
		d.t.Helper()
		start := time.Now()
		d.signal(syscall.SIGTERM)
		select {
		case err := <-d.exited:
			if err != nil {
				d.t.Errorf("imdsfs serve ended with: %v", err)
			}
		case <-time.After(kit.Patience):
			d.cmd.Process.Kill()
			d.t.Errorf("imdsfs serve does not stop: killed after %v", time.Since(start))
			<-d.exited
		}
		if d.mount == "" {
			return
		}
		if strings.Contains(kit.ReadFile(d.t, "/proc/self/mountinfo"), d.mount) {
			d.t.Errorf("%s is still mounted", d.mount)
			syscall.Unmount(d.mount, syscall.MNT_DETACH)
		}
		if _, err := os.Lstat(d.mount); !os.IsNotExist(err) {
			d.t.Errorf("the mount point that imdsfs made is still there: %v", err)
		}
	})
}

func (d *served) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Errorf("signal %v: %v", sig, err)
	}
}

func (d *served) url(path string) string { return "http://" + d.address + path }

// A reply is an HTTP answer, read to the end.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends one request on a connection that is kept for the next.
func (d *served) ask(method, path string, header ...string) reply {
	d.t.Helper()
	req, err := http.NewRequest(method, d.url(path), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := http.Client{Timeout: kit.Patience}
	resp, err := client.Do(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// token gets a session token, as a client in an instance that requires one has to.
func (d *served) token() string {
	d.t.Helper()
	r := d.ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
	if r.status != http.StatusOK {
		d.t.Fatalf("PUT /latest/api/token: %d", r.status)
	}
	return r.body
}

// write makes a file in a directory of the test's own and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	rewrite(t, path, text)
	return path
}

// rewrite replaces a file as editors do.
func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// instanceFiles are all the good instance files, by name.
func instanceFiles(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(instances + "/*.toml")
	if err != nil || len(paths) < 5 {
		t.Fatalf("only %d instance files in %s: %v", len(paths), instances, err)
	}
	files := map[string]string{}
	for _, p := range paths {
		files[strings.TrimSuffix(filepath.Base(p), ".toml")] = p
	}
	return files
}

const leastFile = `[instance]
launch-time = 2026-01-05T08:30:00Z
%s
[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
instance-type = "m5.large"
local-ipv4 = "10.0.12.34"
mac = "06:2b:3c:4d:5e:6f"
placement.availability-zone = "eu-west-1b"
%s
`

// least is a small instance file with lines of its own under [instance] and [meta-data].
func least(instance, metaData string) string { return fmt.Sprintf(leastFile, instance, metaData) }

// nobody is a command that runs as another user, uid and gid 65534.
func nobody(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

func toString(v any) string { return fmt.Sprintf("%v", v) }

// metrics is the address that metrics are served on.
func (d *served) metrics() string {
	d.t.Helper()
	const before = `msg="serving metrics" address="`
	_, rest, ok := strings.Cut(d.log.String(), before)
	address, _, _ := strings.Cut(rest, `"`)
	if !ok {
		d.t.Fatal("the log does not say where metrics are served")
	}
	return address
}

package clients

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clientPatience is how long a client may take, a refusal included.
const clientPatience = 3 * time.Minute

// noRaceSleep is for processes of this binary: the race detector's second at the end of each adds up.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// A world is a network namespace with nothing in it but the daemon and, between the daemon and the
// address of the real service, the recorder of exchanges. Clients that run in it need not be told where
// to ask, and reach nothing else.
type world struct {
	t      *testing.T
	netns  string
	record string
}

func newWorld(t *testing.T, config string) world {
	t.Helper()
	require(t, os.Getuid() == 0, "root, for a network namespace")
	requireFile(t, "/usr/sbin/ip")
	w := world{t, fmt.Sprintf("imdsfs-clients-%d", os.Getpid()), filepath.Join(t.TempDir(), "exchanges")}
	ip(t, "netns", "add", w.netns)
	t.Cleanup(func() { ip(t, "netns", "delete", w.netns) })
	ip(t, "-n", w.netns, "link", "set", "lo", "up")
	ip(t, "-n", w.netns, "address", "add", "169.254.169.254/32", "dev", "lo")

	daemon := strings.TrimPrefix(serve(t, config, w.enter()...), "http://")
	recorder := exec.Command(w.enter()[0], append(w.enter()[1:], self(t))...)
	recorder.Env = append(os.Environ(), noRaceSleep, runEnv+"=recorder", "RECORDER_DAEMON="+daemon, "RECORDER_FILE="+w.record)
	recorder.Stderr = os.Stderr
	stdin, err := recorder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := recorder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := recorder.Wait(); err != nil {
			t.Errorf("the recorder ended with: %v", err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the recorder does not listen: %q, %v", line, err)
	}
	return w
}

// enter is the command that runs another in this world.
func (w world) enter() []string { return []string{"ip", "netns", "exec", w.netns} }

// run runs a client as on a new machine: no credentials and no settings, neither in the environment nor
// at home, and Debian's programs before others.
func (w world) run(client []string) (stdout, stderr string, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), clientPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.enter()[0], append(w.enter()[1:], client...)...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = []string{
		"HOME=" + w.t.TempDir(), "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		noRaceSleep,
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		w.t.Errorf("%s: not done in %v\n%s%s", strings.Join(client, " "), clientPatience, &out, &errs)
	}
	return out.String(), errs.String(), err
}

// exchanges are all so far, in the order of their answers.
func (w world) exchanges() []exchange {
	w.t.Helper()
	text, err := os.ReadFile(w.record)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []exchange
	for line := range strings.Lines(string(text)) {
		e, err := parseExchange(line)
		if err != nil {
			w.t.Error(err)
			continue
		}
		all = append(all, e)
	}
	return all
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// self is the path of this test binary.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// require skips the test on a laptop that cannot run it, and fails it where everything is required.
func require(t *testing.T, met bool, what string) {
	t.Helper()
	switch {
	case met:
	case os.Getenv("IMDSFS_REQUIRE_ALL") == "1":
		t.Fatalf("IMDSFS_REQUIRE_ALL=1, but this test needs %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

func requireFile(t *testing.T, path string) {
	t.Helper()
	_, err := os.Stat(path)
	require(t, err == nil, path+" (`make test` gets it)")
}

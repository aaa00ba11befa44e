package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A runSite has a directory for what imdsfs run makes, in which nothing may be left.
type runSite struct {
	t    *testing.T
	temp string
}

func newRunSite(t *testing.T) *runSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "imdsfs-test-")
	must(t, err, os.Chmod(dir, 0o777|os.ModeSticky))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &runSite{t, dir}
}

func (s *runSite) command(args ...string) *exec.Cmd {
	cmd := exec.Command("imdsfs", append([]string{"run"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+s.temp)
	return cmd
}

// left fails the test if something is left.
func (s *runSite) left() {
	s.t.Helper()
	if left, err := filepath.Glob(s.temp + "/*"); err != nil || len(left) > 0 {
		s.t.Errorf("left behind: %q, %v", left, err)
	}
}

// start starts a command and waits until what it prints matches.
func (s *runSite) start(cmd *exec.Cmd, until string) *syncBuffer {
	s.t.Helper()
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	must(s.t, cmd.Start())
	s.t.Cleanup(func() { cmd.Process.Kill() })
	kit.Eventually(s.t, until, func() bool { return regexp.MustCompile(until).MatchString(out.String()) })
	return out
}

// A user without a home directory, and with an environment that would lead elsewhere, runs a command.
func TestRunServesADemoInstanceToACommand(t *testing.T) {
	s := newRunSite(t)
	cmd := s.command("--", "sh", "-c", `imdsfs get instance-id && echo && imdsfs get --v1 iam/security-credentials/ && echo && env && stat -c %a "$IMDSFS_RUNTIME_DIR/.." &&
		imdsfs set --runtime-dir "$IMDSFS_RUNTIME_DIR" instance-type t3.nano && imdsfs get instance-type && echo && imdsfs upgrade --runtime-dir "$IMDSFS_RUNTIME_DIR"; exit 3`)
	if privilege.IsRoot() {
		own := publicDir(t)
		self, err := os.ReadFile("/proc/self/exe")
		must(t, err, os.WriteFile(own+"/imdsfs", self, 0o755))
		t.Cleanup(func() { os.Remove(own + "/imdsfs") })
		cmd = nobody(own+"/imdsfs", cmd.Args[1:]...)
		cmd.Env = []string{"TMPDIR=" + s.temp, "PATH=" + own + ":/usr/bin:/bin", "GORACE=" + noRaceSleep}
	} else {
		cmd.Env = []string{"TMPDIR=" + s.temp, "PATH=" + os.Getenv("PATH"), "GORACE=" + noRaceSleep}
	}
	cmd.Env = append(cmd.Env, "AWS_EC2_METADATA_DISABLED=true", client.EndpointVariable+"=http://192.0.2.1", client.EndpointVariable+"_MODE=IPv6", "HTTP_PROXY=http://192.0.2.1", "NO_PROXY=example.com")
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit %d, want the command's 3", code)
	}
	lines := strings.Split(string(out), "\n")
	for _, want := range []string{
		"i-0de0de0de0de0de00", "demo-role", "AFTERBURN_AWS_REGION=eu-central-1", "no_proxy=example.com,127.0.0.1", "NO_PROXY=example.com,127.0.0.1", "700", "t3.nano",
		"imdsfs: error: UnsupportedOperation: not upgraded: imdsfs run ends with its command, and no other program can replace it",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`(?m)^`+client.EndpointVariable+`=http://127\.0\.0\.1:\d+/$`).Match(out) || strings.Contains(string(out), "AWS_EC2_METADATA_DISABLED") || strings.Contains(string(out), "_MODE=") {
		t.Errorf("the environment does not lead SDKs here:\n%s", out)
	}
	s.left()
}

func TestTheDemoInstanceHasNoWarnings(t *testing.T) {
	out, err := exec.Command("imdsfs", "check", "demo.toml").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "demo.toml: good\n") || strings.Contains(string(out), "warning") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRunEndsAsItsCommandDoes(t *testing.T) {
	s := newRunSite(t)
	plain := write(t, "plain", "text")
	broken := write(t, "broken", "#!/nowhere/at/all\n")
	binary := write(t, "binary", "neither a program nor a script")
	must(t, os.Chmod(broken, 0o755), os.Chmod(binary, 0o755))
	faulty := write(t, "faulty.toml", "[meta-data]\ninstance-id = 5.\n")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--", "true"}, 0, ""},
		{[]string{"sh", "-c", "exit 42"}, 42, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{[]string{"--", "no-such-command"}, 127, "imdsfs: error: no-such-command: executable file not found in $PATH\n"},
		{[]string{"--", "/no/such/command"}, 127, "imdsfs: error: /no/such/command: no such file or directory\n"},
		{[]string{"--", broken}, 127, "broken: no such file or directory\n"},
		{[]string{"--", binary}, 126, "binary: exec format error\n"},
		{[]string{"--", plain}, 126, "plain: permission denied\n"},
		{[]string{"-c", faulty, "--", "echo", "started"}, exitInvalid, "faulty.toml:2"},
		{[]string{"--listen", none, "--", "echo", "started"}, exitUsage, "nothing to serve"},
		{[]string{"--listen", "192.0.2.1:1", "--", "echo", "started"}, exitFailed, "192.0.2.1:1"},
		{[]string{"-c", write(t, "web.toml", least("", "")+"[metadata-options]\nhttp-tokens = \"required\"\n"), "imdsfs", "get", "instance-id"}, 0, "i-0a1b2c3d4e5f67890"},
	} {
		cmd := s.command(c.args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.says) || strings.Contains(string(out), "started") {
			t.Errorf("%q: exit %d, want %d and %q:\n%s", c.args, code, c.code, c.says, out)
		}
		s.left()
	}
}

// What a file says of [server] is for serve: here it would collide with a daemon that runs, and need root.
func TestRunLeavesTheDaemonOfTheSameFileAlone(t *testing.T) {
	s := newRunSite(t)
	server := fmt.Sprintf("[server]\nlisten = [%q]\nmount = %q\nruntime-dir = %q\nstate-dir = %q\nmetrics = %q\nkeep = true\nuser = \"nobody\"\nadd-addresses = true\n",
		"192.0.2.1:80", "/nowhere/at/all", "/nowhere/run", "/nowhere/state", "192.0.2.1:81")
	cmd := s.command("-c", write(t, "web.toml", least("", "")+server), "--", "imdsfs", "get", "instance-id")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "i-0a1b2c3d4e5f67890" {
		t.Errorf("%v: %s", err, out)
	}
	s.left()
}

func TestRunPassesSignalsOn(t *testing.T) {
	s := newRunSite(t)
	for sig, name := range map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP", syscall.SIGUSR2: "USR2"} {
		cmd := s.command("--", "sh", "-c", `trap 'imdsfs get instance-id; exit 9' `+name+`; echo up; while :; do sleep 0.01; done`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from a terminal of whoever runs the test
		out := s.start(cmd, "up\n")
		must(t, cmd.Process.Signal(sig))
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 || out.String() != "up\ni-0de0de0de0de0de00" {
			t.Errorf("%v: exit %d:\n%s", sig, code, out)
		}
		s.left()
	}
	// A command that takes no signal dies of it.
	cmd := s.command("--", "sh", "-c", "echo up; exec sleep 1000")
	s.start(cmd, "up\n")
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+15 {
		t.Errorf("exit %d, want 143", code)
	}
	s.left()
}

// The keyboard's signal reaches the command once, and run outlives it.
func TestCtrlCIsForTheCommand(t *testing.T) {
	s := newRunSite(t)
	w := newTerminal(t)
	cmd := s.command("--", "sh", "-c", `trap 'n=$((n+1)); echo "signal $n"' INT; trap 'imdsfs get instance-id; echo " after $n"; kill $!; exit 0' QUIT
		sleep 1000 & echo up; while :; do wait $!; done`)
	w.on(cmd)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	typed := func(keys, until string) {
		t.Helper()
		_, err := w.keys.WriteString(keys)
		must(t, err)
		kit.Eventually(t, until, func() bool { return strings.Contains(w.log.String(), until) })
	}
	kit.Eventually(t, "up", func() bool { return strings.Contains(w.log.String(), "up") })
	typed("\x03", "signal 1")
	typed("\x1c", "i-0de0de0de0de0de00 after 1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, w.log)
	}
	s.left()
}

// Without a command it prints what to paste; two run at once.
func TestRunUntilASignal(t *testing.T) {
	s := newRunSite(t)
	const last = "# or edit .*\n"
	one, two := s.command(), s.command()
	out := s.start(one, last)
	s.start(two, last)
	second := s.command("-c", "../../testdata/instances/us-east-1-role.toml")
	other := s.start(second, last)
	script := strings.ReplaceAll(out.String(), "aws configure list\n", "")
	said, err := exec.Command("sh", "-ec", script+"\nimdsfs get instance-type").CombinedOutput()
	if err != nil || !strings.Contains(string(said), "i-0de0de0de0de0de00") || !strings.HasSuffix(string(said), "c7g.xlarge") {
		t.Errorf("the lines, as pasted: %v\n%s\n%s", err, script, said)
	}
	if !strings.HasPrefix(out.String(), "# a demo instance, i-0de0de0de0de0de00, until Ctrl-C") || !strings.HasPrefix(other.String(), "# the instance, i-0fedcba9876543210, until") {
		t.Errorf("printed:\n%s%s", out, other)
	}
	for cmd, sig := range map[*exec.Cmd]os.Signal{one: syscall.SIGINT, two: syscall.SIGTERM, second: syscall.SIGHUP} {
		must(t, cmd.Process.Signal(sig))
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
	s.left()
}

package clients

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	instanceFile = "../instances/us-east-1-role.toml"
	patience     = time.Minute // for the daemon to start, and to stop
)

// binary is the imdsfs under test.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("IMDSFS_BIN")
	if path == "" {
		if os.Getenv("IMDSFS_REQUIRE_ALL") == "1" {
			t.Fatal("IMDSFS_BIN is not set: `make test` builds the binary and sets it")
		}
		t.Skip("IMDSFS_BIN does not name an imdsfs binary; `make test` does")
	}
	return path
}

// serve runs the daemon on config, without a mount, until the test ends, and checks that SIGTERM
// stops it with status 0. It returns the URL of the metadata service. within is a command that runs
// another, in a namespace say, and becomes it by exec(2).
func serve(t *testing.T, config string, within ...string) string {
	t.Helper()
	dir := t.TempDir()
	runtimeDir := filepath.Join(dir, "run")
	args := append(within, binary(t), "serve", "-c", config, "--listen", "127.0.0.1:0", "--mount", "none",
		"--runtime-dir", runtimeDir, "--state-dir", filepath.Join(dir, "state"))
	cmd := exec.Command(args[0], args[1:]...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var exit error
	exited := make(chan struct{})
	go func() {
		exit = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		select {
		case <-exited:
			if exit != nil {
				t.Errorf("after SIGTERM: %v, want status 0", exit)
			}
		case <-time.After(patience):
			cmd.Process.Kill()
			<-exited
			t.Errorf("still running %v after SIGTERM", patience)
		}
		if t.Failed() {
			t.Logf("imdsfs printed:\n%s", output.String())
		}
	})

	deadline := time.After(patience)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(runtimeDir, "listen"))
		if address, _, whole := strings.Cut(string(text), "\n"); whole {
			return "http://" + address
		}
		select {
		case <-exited:
			t.Fatalf("imdsfs ended before it listened: %v", exit)
		case <-deadline:
			t.Fatalf("no address in %s/listen after %v: %v", runtimeDir, patience, err)
		case <-poll.C:
		}
	}
}

// inBothModes runs test with tokens optional and with tokens required. stated is when the served
// instance file was last changed.
func inBothModes(t *testing.T, test func(t *testing.T, endpoint string, stated time.Time)) {
	t.Helper()
	binary(t)
	for _, tokens := range []string{"optional", "required"} {
		t.Run("http-tokens="+tokens, func(t *testing.T) {
			config := withTokens(t, tokens)
			info, err := os.Stat(config)
			if err != nil {
				t.Fatal(err)
			}
			test(t, serve(t, config), info.ModTime().UTC().Truncate(time.Second))
		})
	}
}

// withTokens is the instance file with the option http-tokens set as told.
func withTokens(t *testing.T, tokens string) string {
	t.Helper()
	if tokens == "optional" {
		return instanceFile
	}
	text, err := os.ReadFile(instanceFile)
	if err != nil {
		t.Fatal(err)
	}
	const option = `http-tokens = "optional"`
	if strings.Count(string(text), option) != 1 {
		t.Fatalf("%s does not hold %s once", instanceFile, option)
	}
	changed := strings.Replace(string(text), option, `http-tokens = "`+tokens+`"`, 1)
	path := filepath.Join(t.TempDir(), "instance.toml")
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRetriesWaitLongerEachTime(t *testing.T) {
	for name, c := range map[string]struct {
		text, step string
		want       time.Duration
	}{
		"nothing":           {"", "", 0},
		"none":              {"0", "", 0},
		"the first":         {"1", "", time.Second},
		"the third":         {"3\n", "", 4 * time.Second},
		"the last":          {"5", "", 16 * time.Second},
		"more than that":    {"999", "", 16 * time.Second},
		"less than none":    {"-3", "", 0},
		"nonsense":          {"zwei", "", 0},
		"far too much":      {"99999999999999999999", "", 16 * time.Second},
		"another step":      {"2", "10ms", 20 * time.Millisecond},
		"a step too long":   {"5", "1h", maxRetryWait},
		"a step that is no": {"2", "soon", 2 * time.Second},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/"+refusedName, []byte(c.text), 0o600))
		t.Setenv(retryVariable, c.step)
		turn := openTurn(dir, os.Geteuid())
		if got := turn.wait(); got != c.want {
			t.Errorf("%s: %v instead of %v", name, got, c.want)
		}
		turn.forget()
		if _, err := os.Lstat(dir + "/" + refusedName); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it is not forgotten: %v", name, err)
		}
		turn.close()
	}
}

// The directory is the daemon's: whatever lies there, root neither follows nor waits.
func TestAnOddCountOfRefusalsIsNone(t *testing.T) {
	secret := t.TempDir() + "/secret"
	must(t, os.WriteFile(secret, []byte("4"), 0o600))
	for name, lay := range map[string]func(path string) error{
		"a symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"a FIFO":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := t.TempDir()
		must(t, lay(dir+"/"+refusedName))
		turn := openTurn(dir, os.Geteuid())
		if got := turn.wait(); got != 0 {
			t.Errorf("%s: %v", name, got)
		}
		turn.forget()
		turn.close()
	}
	if text := readFile(t, secret); text != "4" {
		t.Errorf("the link's target holds %q", text)
	}
	open := t.TempDir()
	must(t, os.WriteFile(open+"/"+refusedName, []byte("4"), 0o600), os.Chmod(open, 0o777))
	for _, dir := range []string{open, open + "/missing"} {
		turn := openTurn(dir, os.Geteuid())
		if turn.refusals != 0 {
			t.Errorf("%s: %d", dir, turn.refusals)
		}
		turn.forget()
		turn.close()
	}
}

// Without systemd nothing is tried again: a first start that is refused ends at once, and says why once.
func TestARefusedFirstStartEndsAtOnce(t *testing.T) {
	s := newKeptSite(t, least("", ""))
	busy := s.start()
	for user, how := range map[int][]string{0: {"--keep"}, nobodyID: {"--keep", "--user", "nobody"}} {
		name := fmt.Sprint(user)
		run, state := s.mustMkdir("run-"+name), s.mustMkdir("state-"+name)
		must(t, os.Chown(run, user, user), os.Chown(state, user, user))
		for _, c := range []struct {
			runtime, mount, listen string
			code                   int
			said                   string
		}{
			{run, none, busy.address, exitFailed, "listen tcp " + busy.address + ": bind: address already in use"},
			{run, s.file, "127.0.0.1:0", exitInvalid, "mount " + s.file + ": not a directory"},
			{run, s.mount, "127.0.0.1:0", exitFailed, "mount " + s.mount + ": already served by a running imdsfs"},
			{s.runtime, s.mount, "127.0.0.1:0", exitFailed, ""},
		} {
			if c.said == "" && user == 0 {
				c.said = "an imdsfs is already running with the run-time directory " + s.runtime
			} else if c.said == "" {
				c.code, c.said = exitInvalid, s.runtime+" does not belong to nobody"
			}
			args := append([]string{"serve", "-c", s.file, "--runtime-dir", c.runtime, "--state-dir", state, "--mount", c.mount, "--listen", c.listen}, how...)
			cmd := exec.Command(s.base+"/imdsfs", args...)
			out, _ := cmd.CombinedOutput()
			errs, hints := strings.Count(string(out), "imdsfs: error: "+c.said), strings.Count(string(out), "imdsfs: hint: ")
			if code := cmd.ProcessState.ExitCode(); code != c.code || errs != 1 || hints != 1 || strings.Count(string(out), "\n") != 2 {
				t.Errorf("%v: exit code %d instead of %d, and not just %q:\n%s", how, code, c.code, c.said, out)
			}
		}
	}
	s.expect(s.mount+"/latest/meta-data/instance-id", leastID)
	s.end(busy)
}

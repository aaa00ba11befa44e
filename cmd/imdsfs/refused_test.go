package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

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

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMakeTestRunsEverything has `make test` run with a go that only notes what it is told, and fails where it is to.
func TestMakeTestRunsEverything(t *testing.T) {
	requireCommand(t, "make")
	const fake = `#!/bin/sh
echo "${PWD##*/} $*" >>"$NOTES"
case "${PWD##*/} $*" in $FAILS) exit 1; esac
`
	for name, c := range map[string]struct {
		fails string
		want  bool
	}{"nothing fails": {"", true}, "our tests fail": {"tree test *", false}, "the clients' tests fail": {"clients test *", false}} {
		dir := filepath.Join(t.TempDir(), "tree")
		must(t, os.MkdirAll(dir+"/testdata/clients", 0o755), os.MkdirAll(dir+"/.ci", 0o755), os.MkdirAll(dir+"/path", 0o755),
			os.WriteFile(dir+"/Makefile", []byte(readFile(t, "../../Makefile")), 0o644),
			os.WriteFile(dir+"/.ci/deps", []byte("#!/bin/sh\n"), 0o755), os.WriteFile(dir+"/path/go", []byte(fake), 0o755))
		cmd := exec.Command("make", "test")
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + dir + "/path:/usr/bin:/bin", "NOTES=" + dir + "/notes", "FAILS=" + c.fails}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if (err == nil) != c.want || err != nil && !errors.As(err, &exit) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		var ran []string
		for line := range strings.Lines(readFile(t, dir+"/notes")) {
			if where, what, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(what, "test ") {
				ran = append(ran, where)
				if !strings.Contains(what, " -race -timeout=35m ") {
					t.Errorf("%s: in %s: go %s", name, where, what)
				}
			}
		}
		if strings.Join(ran, " ") != "tree clients" {
			t.Errorf("%s: ran go test in %v\n%s", name, ran, out)
		}
	}
}

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// TestMakeTestRunsEverything has `make test` run with a go that only notes what it is told, and fails where it is to.
func TestMakeTestRunsEverything(t *testing.T) {
	kit.RequireCommand(t, "make")
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
			os.WriteFile(dir+"/Makefile", []byte(kit.ReadFile(t, "../../Makefile")), 0o644),
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
		for line := range strings.Lines(kit.ReadFile(t, dir+"/notes")) {
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

// TestDepsSaysWhatItInstalls: with apt-get's own plan, before it does so, and that something has to go for it.
func TestDepsSaysWhatItInstalls(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, for a mount namespace")
	kit.RequireCommand(t, "unshare")
	release, _ := os.ReadFile("/etc/os-release")
	kit.Require(t, strings.Contains(string(release), "\nID=debian\n"), "Debian")
	dir := t.TempDir()
	script := kit.ReadFile(t, "../../.ci/deps")
	must(t, os.MkdirAll(dir+"/.ci", 0o755), os.WriteFile(dir+"/.ci/deps", []byte(script), 0o755), os.MkdirAll(dir+"/path", 0o755),
		os.MkdirAll(dir+"/testdata/clients/node_modules", 0o755), os.WriteFile(dir+"/testdata/clients/package-lock.json", nil, 0o644),
		os.WriteFile(dir+"/testdata/clients/node_modules/.package-lock.json", nil, 0o644))
	// All is there but fuse3 and wrk.
	value := func(pattern string) string {
		found := regexp.MustCompile(`(?m)^` + pattern + `$`).FindStringSubmatch(script)
		if found == nil {
			t.Fatalf("no %s", pattern)
		}
		return found[1]
	}
	for _, name := range strings.Fields(value(`unpacked=\((.*)\)`)) {
		must(t, os.MkdirAll(dir+"/.deps/"+name, 0o755), os.WriteFile(dir+"/.deps/"+name+".version", []byte("1\n"), 0o644))
	}
	must(t, os.WriteFile(dir+"/.deps/machine.version", []byte(value(`machine="(.*)"`)+"\n"), 0o644),
		os.WriteFile(dir+"/path/dpkg-query", []byte("#!/bin/sh\ncase $* in *fuse3 | *wrk) printf not-installed;; *) printf installed; esac\n"), 0o755),
		os.WriteFile(dir+"/path/apt-get", []byte(`#!/bin/sh
case $* in
*--simulate*install*fuse3*wrk*) printf 'Remv fuse [2.9]\nInst libluajit (1)\nInst fuse3 (3)\nInst wrk (4)\nConf fuse3 (3)\n';;
*) echo "apt-get $*" >>installed; grep -c . "$SAID" >>installed;;
esac
`), 0o755))
	said := dir + "/said"
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", "mount -t tmpfs run /run; mount -t tmpfs sbin /usr/sbin; exec .ci/deps >$SAID 2>&1")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + dir + "/path:/usr/bin:/bin", "SAID=" + said}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s%s", err, out, kit.ReadFile(t, said))
	}
	const want = ".ci/deps: getting fuse3 wrk\n.ci/deps: installing with apt-get: libluajit fuse3 wrk\n.ci/deps: which replaces: fuse\n"
	if got := kit.ReadFile(t, said); got != want {
		t.Errorf("it says\n%swant\n%s", got, want)
	}
	// It had said all that when it installed, and installed nothing else.
	if got := strings.Fields(kit.ReadFile(t, dir+"/installed")); strings.Join(got[len(got)-3:], " ") != "fuse3 wrk 3" || strings.Count(strings.Join(got, " "), "apt-get") != 1 {
		t.Errorf("installed: %v", got)
	}
}

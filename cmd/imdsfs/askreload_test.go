package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
)

// A quietFile is an instance file that is written by another name of it, in another folder, which no watch sees.
type quietFile struct {
	t          testing.TB
	path, name string
}

func newQuietFile(t testing.TB, text string) quietFile {
	t.Helper()
	f := quietFile{t, write(t, "web.toml", text), filepath.Join(t.TempDir(), "other-name")}
	if err := os.Link(f.path, f.name); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f quietFile) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.name, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func TestReloadTellsWhatChangedOrEveryFault(t *testing.T) {
	const planted = "planted-secret-4711"
	f := newQuietFile(t, least("", `tier = "gold"`))
	d := serve(t, f.path, false)
	reload := func() (int, string, string) { return imdsfs("reload", "--runtime-dir", d.runtime) }

	f.write(least("", "colour = \"blue\"\niam.info = \""+planted+"\"") + "[metadata-options]\nhttp-tokens = \"required\"\n")
	code, out, errs := reload()
	const want = "reloaded: meta-data/colour added\nreloaded: meta-data/iam added\nreloaded: meta-data/tier removed\nreloaded: option http-tokens changed\n"
	if out != want || errs != "" || code != 0 {
		t.Errorf("a good file: exit %d\n%s%s", code, out, errs)
	}
	if log := d.log.String(); !strings.Contains(log, `msg=reloaded added=3 changed=0 options=http-tokens paths="meta-data/colour added, meta-data/iam added, meta-data/tier removed" removed=1`) || strings.Contains(log, planted) {
		t.Errorf("the log does not name what changed, or tells a value:\n%s", log)
	}

	if code, out, errs := reload(); !strings.HasPrefix(out, "reloaded: nothing has changed") || errs != "" || code != 0 {
		t.Errorf("nothing new: exit %d\n%s%s", code, out, errs)
	}

	var many strings.Builder
	for n := range 30 {
		many.WriteString("x" + strconv.Itoa(100+n) + " = \"1\"\n")
	}
	f.write(least("", many.String()))
	if code, out, _ := reload(); strings.Count(out, " added\n") != 20 || !strings.HasSuffix(out, "reloaded: and 12 more\nreloaded: option http-tokens changed\n") || code != 0 {
		t.Errorf("32 paths: exit %d\n%s", code, out)
	}

	f.write(least(`platfrom = "ec2"`, "") + "[tgas]\n")
	code, out, errs = reload()
	for _, fault := range []string{f.path + ":3: instance.platfrom: unknown key", f.path + ":11: tgas: unknown", "imdsfs: hint: the daemon keeps serving what it served before"} {
		if !strings.Contains(errs, fault) {
			t.Errorf("it does not say %q", fault)
		}
	}
	if faults := strings.Count(errs, "imdsfs: error: "+f.path+":"); out != "" || faults != 2 || code != exitInvalid {
		t.Errorf("a faulty file: exit %d, %d faults\n%s%s", code, faults, out, errs)
	}
	if r := d.ask("GET", "/latest/meta-data/x100"); r.body != "1" {
		t.Errorf("with a faulty file x100 is %q", r.body)
	}

	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := reload(); out != "" || !strings.Contains(errs, f.path) || code != exitFailed {
		t.Errorf("without the file: exit %d\n%s%s", code, out, errs)
	}
}

func TestReloadFallsBackToTheSignal(t *testing.T) {
	f := newQuietFile(t, least("", ""))
	d := serve(t, f.path, false, "--admin", "none")
	if code, _, errs := imdsfs("reload", "--runtime-dir", d.runtime); code != exitFailed || !strings.Contains(errs, "has no admin socket there") {
		t.Errorf("without a process: exit %d\n%s", code, errs)
	}
	f.write(least("", `colour = "blue"`))
	d.after("msg=reloaded", func() {
		pid := strconv.Itoa(d.cmd.Process.Pid)
		code, _, errs := imdsfs("reload", "--runtime-dir", d.runtime, "--pid", pid)
		if want := "imdsfs: warning: no admin socket at " + daemon.AdminSocket(d.runtime) + ": sent SIGHUP to pid " + pid; code != 0 || !strings.HasPrefix(errs, want) {
			t.Errorf("with a process: exit %d\n%s", code, errs)
		}
	})
	for _, pid := range []string{"0", "-1", "1"} {
		if code, _, errs := imdsfs("reload", "--runtime-dir", d.runtime, "--pid", pid); code != exitUsage {
			t.Errorf("--pid %s: exit %d\n%s", pid, code, errs)
		}
	}
}

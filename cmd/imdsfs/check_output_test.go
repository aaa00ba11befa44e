package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// becomesReadable runs what check --user nobody proposes until it finds no fault, and returns the faults.
func becomesReadable(t *testing.T, file string) (faults []string) {
	t.Helper()
	remedy := regexp.MustCompile(`\(([^()]*)\)$`)
	for range 5 {
		_, stderr, code := check(t, "-q", "--user", "nobody", file)
		if code == 0 {
			return faults
		}
		if code != exitInvalid {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		for line := range strings.Lines(stderr) {
			line = strings.TrimSpace(line)
			faults = append(faults, line)
			hint := remedy.FindStringSubmatch(line)
			if hint == nil {
				t.Fatalf("no remedy: %s", line)
			}
			if out, err := exec.Command("sh", "-c", hint[1]).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", hint[1], err, out)
			}
		}
	}
	t.Fatalf("it does not become readable: %q", faults)
	return nil
}

func TestCheckReadsAsTheUserWhoServes(t *testing.T) {
	p := newPlace(t)
	const role = "[credentials.web]\ntype = \"static\"\naccess-key-id = \"ASIAEXAMPLE\"\nsecret-access-key-file = %q\ntoken = \"t\"\n"
	dir := p.roots + "/conf"
	file, secret := dir+"/web.toml", dir+"/secrets/key"
	must(t, os.MkdirAll(dir+"/secrets", 0o755), os.WriteFile(secret, []byte(rootOnly), 0o644))
	nogroup, err := exec.Command("id", "-gn", "nobody").Output()
	must(t, err)
	group := strings.TrimSpace(string(nogroup))
	const who = "permission denied: nobody (uid 65534) may not "
	at := fmt.Sprintf("imdsfs: error: %s:13: credentials.web.secret-access-key-file: the file that it names cannot be read: %s", file, who)
	for name, c := range map[string]struct {
		change func()
		want   []string
	}{
		"everybody may": {func() {}, nil},
		"the file": {func() { must(t, os.Chmod(file, 0o600)) }, []string{
			fmt.Sprintf("imdsfs: error: %s: %sread %s (it belongs to uid 0 and gid 0, mode 0600) (chgrp %s %s && chmod g+r %s)", file, who, file, group, file, file)}},
		"a directory above all": {func() { must(t, os.Chmod(dir, 0o700)) }, []string{
			fmt.Sprintf("imdsfs: error: %s: %senter %s (it belongs to uid 0 and gid 0, mode 0700) (chgrp %s %s && chmod g+x %s)", file, who, dir, group, dir, dir)}},
		"a directory, and what is in it": {func() { must(t, os.Chmod(secret, 0o600), os.Chmod(dir+"/secrets", 0o700)) }, []string{
			fmt.Sprintf("%senter %s/secrets (it belongs to uid 0 and gid 0, mode 0700) (chgrp %s %s/secrets && chmod g+x %s/secrets)", at, dir, group, dir, dir),
			fmt.Sprintf("%sread %s (it belongs to uid 0 and gid 0, mode 0600) (chgrp %s %s && chmod g+r %s)", at, secret, group, secret, secret)}},
		"his group may": {func() { must(t, os.Chown(secret, 0, 65534), os.Chmod(secret, 0o640)) }, nil},
		"his group may not": {func() { must(t, os.Chown(secret, 0, 65534), os.Chmod(secret, 0o604)) }, []string{
			fmt.Sprintf("%sread %s (it belongs to uid 0 and gid 65534, mode 0604) (chmod g+r %s)", at, secret, secret)}},
		"it is his": {func() { must(t, os.Chown(secret, 65534, 0), os.Chmod(secret, 0o044)) }, []string{
			fmt.Sprintf("%sread %s (it belongs to uid 65534 and gid 0, mode 0044) (chmod u+r %s)", at, secret, secret)}},
	} {
		must(t, os.Chown(secret, 0, 0), os.Chmod(secret, 0o644), os.Chmod(dir, 0o755), os.Chmod(dir+"/secrets", 0o755))
		p.put(file, 0, least("", fmt.Sprintf(role, secret)))
		c.change()
		if _, stderr, code := check(t, "-q", file); code != 0 {
			t.Errorf("%s: root finds %s", name, stderr)
		}
		if got := becomesReadable(t, file); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
	if os.Geteuid() != 0 {
		t.Error("this process has changed its user")
	}

	// Nobody but root can look as another user; everybody can as himself.
	nobody, err := privilege.Lookup("nobody")
	must(t, err, os.Chown(secret, 0, 0), os.Chmod(secret, 0o600), os.Chmod(dir+"/secrets", 0o755))
	must(t, privilege.Do(nobody, func() error {
		if _, stderr, code := check(t, "-q", "--user", "root", file); code != exitFailed || !strings.Contains(stderr, "--user root: only root and that user can tell") || !strings.Contains(stderr, "hint: run it as root: sudo imdsfs check --user root") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		if _, stderr, code := check(t, "-q", "--user", "nobody", file); code != exitInvalid || !strings.Contains(stderr, at) {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		return nil
	}))
	if _, stderr, code := check(t, "--user", "no-such-user", file); code != exitInvalid || !strings.Contains(stderr, "useradd") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestCheckPrintsOneDocumentAFile(t *testing.T) {
	documents := func(want int, args ...string) (all []checkDocument) {
		t.Helper()
		stdout, stderr, code := check(t, append([]string{"--json"}, args...)...)
		if code != want || code == exitInvalid && stderr != "" {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		for line := range strings.Lines(stdout) {
			var d checkDocument
			must(t, json.Unmarshal([]byte(line), &d))
			if d.Faults == nil || d.Warnings == nil || d.Settings == nil || d.Leaves == nil || d.Good != (len(d.Faults) == 0) {
				t.Errorf("%s", line)
			}
			all = append(all, d)
		}
		return all
	}
	role := instances + "/us-east-1-role.toml"
	plain, _, _ := check(t, role)
	d := documents(0, role)[0]
	if d.File != role || len(d.Settings)+len(d.Leaves) != strings.Count(plain, "\n  ") {
		t.Errorf("%s: %d settings, %d leaves; check prints\n%s", d.File, len(d.Settings), len(d.Leaves), plain)
	}
	secrets := 0
	for _, leaf := range d.Leaves {
		if leaf.Secret {
			secrets++
		}
		if leaf.Secret != (leaf.Value == nil) || leaf.Origin == "" {
			t.Errorf("%+v", leaf)
		}
	}
	if secrets < 2 {
		t.Errorf("%d secrets", secrets)
	}
	odd := write(t, "odd.toml", least("", "colour = \"blue\"\n[server]\nhosts = [\"a\", \"b\"]\n"))
	bad := write(t, "bad.toml", least("platfrom = \"ec2\"", "[server]\nallow-from = [\"10.0.0.1/8\"]\n"))
	got := documents(exitInvalid, odd, bad)
	if w := got[0].Warnings; len(w) != 1 || w[0] != (checkFault{odd, 10, "meta-data.colour", "EC2 has no path /latest/meta-data/colour", "it is served all the same"}) {
		t.Errorf("%+v", w)
	}
	if s := got[0].Settings[0]; s != (checkSetting{"server.hosts", "a b", odd + ":12"}) {
		t.Errorf("%+v", s)
	}
	if f := got[1].Faults; len(f) != 2 || f[0] != (checkFault{bad, 3, "instance.platfrom", "unknown key", "did you mean platform?"}) || f[1].Line != 11 || f[1].Key != "server.allow-from" {
		t.Errorf("%+v", f)
	}
	if f := documents(exitInvalid, "missing.toml", odd)[0].Faults; len(f) != 1 || !strings.Contains(f[0].Message, "no such file") {
		t.Errorf("%+v", f)
	}
}

func TestCheckFitsTheTerminal(t *testing.T) {
	w := newTerminal(t)
	for i, columns := range []int{80, 200, 60} {
		size, variable := columns, ""
		if columns == 60 {
			size, variable = 80, "COLUMNS=60"
		}
		must(t, unix.IoctlSetWinsize(int(w.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(size), Row: 24}))
		before := len(w.log.String())
		cmd := exec.Command("imdsfs", "check", instances+"/m5-two-interfaces.toml", instances+"/us-east-1-role.toml")
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "COLUMNS=") }), variable)
		w.on(cmd)
		must(t, cmd.Run())
		fmt.Fprintf(w.slave, "end %d\n", i)
		end := fmt.Sprintf("end %d\r\n", i)
		kit.Eventually(t, "all of it is printed", func() bool { return strings.HasSuffix(w.log.String(), end) })
		printed := strings.ReplaceAll(w.log.String()[before:], "\r", "")
		widest := 0
		for line := range strings.Lines(printed) {
			n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))
			widest = max(widest, n)
			if n > columns {
				t.Errorf("%d columns: %d in %q", columns, n, line)
			}
		}
		if widest < columns/2 {
			t.Errorf("%d columns: no more than %d are used", columns, widest)
		}
		for _, line := range []string{"\n[instance]\n", "\n[metadata-options]\n", "\n/latest/meta-data\n", "\n/latest/dynamic\n", "\n/latest/user-data\n", "  meta-data/placement/region"} {
			if !strings.Contains(printed, line) {
				t.Errorf("%d columns: there is no %q in\n%s", columns, line, printed)
			}
		}
	}
}

package tomlfile

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/source/watch"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestWholeSchemaIsUnderstood(t *testing.T) {
	t.Setenv("IMDSFS_TEST_SESSION_TOKEN", "planted-session-token")
	t.Setenv("IMDSFS_TEST_KEY_ID", "ASIAPLANTEDIDENTITY0")
	golden, err := filepath.Abs("testdata/whole.golden")
	if err != nil {
		t.Fatal(err)
	}
	ownTestdata(t)
	f, err := Load("testdata/whole.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := describe(f)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if f.Fragment.Role.SecretAccessKey.Reveal() != "wJalrXUtnFEMIK7MDENGbPxRfiCYPLANTED" {
		t.Error("secret-access-key-file is not the file's text without its newline")
	}
	if f.Fragment.Role.Token.Reveal() != "planted-session-token" {
		t.Error("token-env is not the variable's text")
	}
	for i, name := range []string{"secret", "whole.toml"} {
		if abs, _ := filepath.Abs("testdata/" + name); len(f.Refers) != 2 || f.Refers[i] != abs {
			t.Errorf("Refers are %q, want %s at %d", f.Refers, abs, i)
		}
	}
}

// describe prints a File, secrets masked, times of files left out.
func describe(f *File) string {
	var b strings.Builder
	section := func(name string, values map[string]tree.Value) {
		fmt.Fprintf(&b, "%s\n", name)
		for _, k := range slices.Sorted(maps.Keys(values)) {
			v := values[k]
			fmt.Fprintf(&b, "  %s = %q (%s %s)\n", k, v.Bytes, v.Origin, v.Origin.Key)
		}
	}
	fr := f.Fragment
	section("leaves", fr.Leaves)
	section("instance", fr.Instance)
	section("options", fr.Options)
	fmt.Fprintf(&b, "lock %q\n", fr.Lock)
	section("tags", fr.Tags)
	fmt.Fprintln(&b, "public keys")
	for _, k := range fr.PublicKeys {
		fmt.Fprintf(&b, "  %s = %q (%s %s)\n", k.Name, k.Key.Bytes, k.Key.Origin, k.Key.Origin.Key)
	}
	for _, r := range []*build.Role{fr.Role, fr.IdentityRole} {
		fmt.Fprintf(&b, "role %q %s %v %v %s %q %q (%s %s)\n", r.Name, r.AccessKeyID, r.SecretAccessKey, r.Token,
			r.Expiration.Format(time.RFC3339), r.ProfileARN, r.ProfileID, r.Origin, r.Origin.Key)
	}
	number := func(p *uint32, format string) string {
		if p == nil {
			return "-"
		}
		return fmt.Sprintf(format, *p)
	}
	for _, a := range fr.Access {
		fmt.Fprintf(&b, "access %q uid %s gid %s mode %s (%s %s)\n", a.Path, number(a.UID, "%d"), number(a.GID, "%d"), number(a.Mode, "%04o"), a.Origin, a.Origin.Key)
	}
	for _, w := range fr.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	s := f.Server
	fmt.Fprintf(&b, "server\n  listen %q\n  mount %q runtime-dir %q state-dir %q\n  sources %q\n  allow-from %q\n  hosts %q\n  log %q %q\n  metrics-allow-from %q\n",
		s.Listen, s.Mount, s.RuntimeDir, s.StateDir, s.Sources, s.AllowFrom, s.Hosts, s.LogLevel, s.LogFormat, s.MetricsAllowFrom)
	for _, k := range slices.Sorted(maps.Keys(s.Places)) {
		if strings.HasSuffix(k, "]") { // an element
			continue
		}
		fmt.Fprintf(&b, "  %s at %s\n", k, s.Places[k])
	}
	return b.String()
}

func TestTwelveFaultsAreReportedAtOnce(t *testing.T) {
	const path = "testdata/twelve-faults.toml"
	// Who serves says what [server] means.
	_, err := Load(path, func(s *Server) problem.Faults {
		f := s.At("listen", len(s.Listen)-1)
		f.Text = "not an address"
		return problem.Faults{f}
	})
	faults := faultsOf(t, err)
	want := []faultWant{
		{1, "userdata", "unknown key (did you mean user-data?)"},
		{4, "instance.platfrom", "unknown key (did you mean platform?)"},
		{5, "instance.account-id", "must be 12 digits"},
		{6, "instance.launch-time", "the time has no zone"},
		{7, "instance.user-data", "user-data is inside [instance] (move it above the first table header)"},
		{10, "meta-data.instance-id", "an array or a table inside an array"},
		{11, `meta-data.network.interfaces.macs.06-2b-3c-4d-5e-6f`, `not a MAC address of six bytes with colons (write it as "06:2b:3c:4d:5e:6f")`},
		{14, "tags.aws.stack", `quote keys that hold a dot: "aws.stack"`},
		{17, "metadata-options.http-tokens", "a value of 'maybe' is not valid: specify either 'required' or 'optional'"},
		{20, "credentials.web-role.type", "not supported by this version"},
		{24, "access.mode", "the mode has more than read bits"},
		{27, "server.listen", "not an address"},
	}
	compare(t, path, faults, want)
}

// decode is for a file of ours.
func decode(path, text string, mtime time.Time) (*File, error) {
	return reader{}.decode(path, text, mtime, watch.Marks{})
}

type faultWant struct {
	line int
	key  string
	text string // is part of Text and Hint as Fault.String prints them
}

// wantFaults loads text and compares its faults, by line and key.
func wantFaults(t *testing.T, text string, want ...faultWant) {
	t.Helper()
	_, err := decode("web-1.toml", text, time.Time{})
	compare(t, "web-1.toml", faultsOf(t, err), want)
}

func faultsOf(t *testing.T, err error) problem.Faults {
	t.Helper()
	var faults problem.Faults
	if err != nil && !errors.As(err, &faults) {
		t.Fatalf("the error is no Faults: %v", err)
	}
	return faults
}

func compare(t *testing.T, path string, faults problem.Faults, want []faultWant) {
	t.Helper()
	want = slices.Clone(want)
	slices.SortStableFunc(want, func(a, b faultWant) int { return cmp.Compare(a.line, b.line) })
	for i := range max(len(faults), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("not expected: %s", faults[i])
		case i >= len(faults):
			t.Errorf("missing: %v", want[i])
		default:
			w, f := want[i], faults[i]
			if f.Place != fmt.Sprintf("%s:%d", path, w.line) || f.Key != w.key || !strings.Contains(f.String(), w.text) {
				t.Errorf("got  %s\nwant %s:%d: %s: … %s …", f, path, w.line, w.key, w.text)
			}
		}
	}
}

func TestFileThatCannotBeReadIsAnErrorWithItsName(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo.toml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(dir, "none.toml"): "no such file",
		dir:                             "not a regular file",
		fifo:                            "not a regular file",
	} {
		_, err := Load(path, nil)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", path, err, text)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.toml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("errors.Is does not find ErrNotExist in %v", err)
	}
}

func TestFileOfMoreThanEightMiBIsAFault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.toml")
	write(t, path, strings.Repeat("# comment comment comment comment\n", 8<<20/34+1))
	_, err := Load(path, nil)
	compare(t, path, faultsOf(t, err), []faultWant{{1, "", "8388608 are allowed"}})
}

func TestMtimeIsTheLaterOfTheFileAndTheOneItNames(t *testing.T) {
	dir := t.TempDir()
	main, script := filepath.Join(dir, "web-1.toml"), filepath.Join(dir, "script")
	write(t, main, "user-data-file = \"script\"\n[meta-data]\nmac = \"x\"\n[instance]\nplatform = \"ec2\"\n")
	write(t, script, "#!/bin/sh\n")
	old, recent := time.Unix(1_700_000_000, 5), time.Unix(1_800_000_000, 7)
	for _, c := range []struct{ main, script, want time.Time }{{old, recent, recent}, {recent, old, recent}} {
		for path, mtime := range map[string]time.Time{main: c.main, script: c.script} {
			if err := os.Chtimes(path, mtime, mtime); err != nil {
				t.Fatal(err)
			}
		}
		f, err := Load(main, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Fragment.Leaves["user-data"].Mtime; !got.Equal(c.want) {
			t.Errorf("user-data: %v, want %v", got, c.want)
		}
		if got := f.Fragment.Leaves["meta-data/mac"].Mtime; !got.Equal(c.main) {
			t.Errorf("mac: %v, want %v", got, c.main)
		}
		if got := f.Fragment.Instance["platform"].Mtime; !got.Equal(c.main) {
			t.Errorf("platform: %v, want %v", got, c.main)
		}
	}
}

func TestSourceReadsTheFileAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1.toml")
	var s source.Source = New(path, nil)
	if s.Name() != "file" {
		t.Errorf("the name is %q", s.Name())
	}
	for _, id := range []string{"i-0123456789abcdef0", "i-0123456789abcdef1"} {
		write(t, path, "[meta-data]\ninstance-id = \""+id+"\"\n")
		fragment, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(fragment.Leaves["meta-data/instance-id"].Bytes); got != id {
			t.Errorf("instance-id is %q, want %q", got, id)
		}
	}
	write(t, path, "[meta-data\n")
	if _, err := s.Load(t.Context()); len(faultsOf(t, err)) != 1 {
		t.Errorf("a faulty file: %v", err)
	}
}

func TestEmptyFileStatesNothing(t *testing.T) {
	f, err := decode("web-1.toml", "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Fragment.Leaves) != 0 || f.Fragment.Role != nil || len(f.Server.Places) != 0 {
		t.Errorf("it states %+v %+v", f.Fragment, f.Server)
	}
}

func TestSnapshotShowsWhatTheFileStates(t *testing.T) {
	t.Setenv("IMDSFS_TEST_SESSION_TOKEN", "planted-session-token")
	t.Setenv("IMDSFS_TEST_KEY_ID", "ASIAPLANTEDIDENTITY0")
	ownTestdata(t)
	f, err := Load("testdata/whole.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := build.Build(nil, build.Env{Now: time.Unix(1_790_000_000, 0)}, f.Fragment)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/latest/user-data":                            "#!/bin/sh\n\x00\xff",
		"/latest/meta-data/placement/region":           "eu-west-1",
		"/latest/meta-data/public-keys/0/openssh-key":  "ssh-rsa AAAAB3NzaC1yc2E ops\n",
		"/latest/meta-data/public-keys/1/openssh-key":  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 deploy\n",
		"/latest/meta-data/tags/instance/Name":         "web-1",
		"/latest/meta-data/iam/security-credentials":   "web-role",
		"/latest/meta-data/spot/termination-time":      "2026-02-03T05:05:06.5Z",
		"/latest/meta-data/security-groups":            "web\nssh",
		"/latest/dynamic/fws/instance-monitoring":      "disabled",
		"/latest/meta-data/network/interfaces/macs":    "06:2b:3c:4d:5e:6f/",
		"/2009-04-04/meta-data/hibernation/configured": "false",
	} {
		v, ok := snapshot.Find(path)
		if !ok {
			t.Errorf("%s is not there", path)
			continue
		}
		got := v.Bytes()
		if v.IsDir() {
			got = v.Listing()
		}
		if string(got) != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ownTestdata goes to a copy of testdata that belongs to the test: a checkout may be another user's.
func ownTestdata(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/testdata", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"whole.toml", "secret"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/testdata/"+name, string(text))
	}
	t.Chdir(dir)
}

package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A process binds, among its own mounts, a role's credentials, the directory that they are in, and another file.
func TestStatusNamesBindMountsOfSingleFiles(t *testing.T) {
	kit.RequireCommand(t, "unshare")
	text := func(secret string) string {
		return least("", "") + "[credentials.web]\ntype = \"static\"\naccess-key-id = \"ASIA\"\nsecret-access-key = \"" + secret + "\"\ntoken = \"t\"\n"
	}
	s := newSite(t, text("hunter2"))
	d := s.start()
	status := func(flags ...string) string {
		t.Helper()
		out, err := exec.Command("imdsfs", append([]string{"status", "--runtime-dir", s.runtime}, flags...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("imdsfs status: %v\n%s", err, out)
		}
		return string(out)
	}
	if got := status(); strings.Contains(got, "bind mount") {
		t.Errorf("without any bind mount:\n%s", got)
	}

	inside := s.mustMkdir("in side")
	pid := s.holder("unshare", "-m", "sh", "-ec", `cd "$2"; mkdir dir; : >creds; : >mac
		mount --bind "$1/iam/security-credentials" dir; mount --bind "$1/iam/security-credentials/web" creds; mount --bind "$1/mac" mac
		exec sleep 1000`, "sh", s.mount+"/latest/meta-data", inside)
	cat := func(path string) string {
		t.Helper()
		out, err := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-m", "cat", filepath.Join(inside, path)).CombinedOutput()
		if err != nil {
			t.Fatalf("cat %s: %v: %s", path, err, out)
		}
		return string(out)
	}
	d.reload(s.file, text("hunter3"), "msg=reloaded")
	if got := cat("creds"); !strings.Contains(got, "hunter2") {
		t.Errorf("a file that is bound by itself changed, so the warning is out of date: %s", got)
	}
	if got := cat("dir/web"); !strings.Contains(got, "hunter3") {
		t.Errorf("a file in a directory that is bound did not change: %s", got)
	}

	const role = "/latest/meta-data/iam/security-credentials/web"
	got := status()
	for _, want := range []string{
		fmt.Sprintf("single-file bind mount: pid %d (sleep) %s/creds shows %s as it was; bind-mount its directory instead\n", pid, inside, role),
		fmt.Sprintf("single-file bind mount: pid %d (sleep) %s/mac keeps /latest/meta-data/mac as it is now; bind-mount its directory instead\n", pid, inside),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("status does not say %q:\n%s", want, got)
		}
	}
	if strings.Count(got, "single-file bind mount") != 2 {
		t.Errorf("status names more than the two files:\n%s", got)
	}
	var found fileBinds
	if err := json.Unmarshal([]byte(status("--json")), &found); err != nil || len(found.Binds) != 2 || !found.All {
		t.Errorf("status --json: %+v, %v", found, err)
	}

	// The role goes: what is bound is in the tree no more, and its kind is not known.
	d.reload(s.file, strings.ReplaceAll(text("hunter3"), "credentials.web", "credentials.other"), "msg=reloaded")
	if got := status(); !strings.Contains(got, "/creds shows "+role+" as it was") {
		t.Errorf("status does not name a file that has gone:\n%s", got)
	}
}

func TestStatusEscapesWhatProcessesCallThemselves(t *testing.T) {
	var text strings.Builder
	b := fileBinds{All: true, Binds: []fs.Bind{{PID: 7, Process: "\x1b[31mred\n", Point: "/a\x1b]0;b", Path: "/latest/user-data"}}}
	if err := b.print(&text); err != nil {
		t.Fatal(err)
	}
	want := `single-file bind mount: pid 7 (\x1b[31mred\n) /a\x1b]0;b keeps /latest/user-data as it is now; bind-mount its directory instead` + "\n"
	if text.String() != want {
		t.Errorf("%q, want %q", text.String(), want)
	}
}

func TestStatusPointsSDKsAtTheDaemon(t *testing.T) {
	for _, c := range []struct{ listeners, want string }{
		{"", ""},
		{"127.0.0.1:1338", "http://127.0.0.1:1338/"},
		{"0.0.0.0:80 [::1]:1338", "http://127.0.0.1:80/"},
		{"[::]:1338", "http://[::1]:1338/"},
		{"[fe80::1%eth0]:80 10.0.0.1:1338", "http://10.0.0.1:1338/"},
		{"127.0.0.1:1338 169.254.169.254:80", "http://169.254.169.254/"},
	} {
		if got := client.EndpointOf(strings.Fields(c.listeners)); got != c.want {
			t.Errorf("%q: %q, want %q", c.listeners, got, c.want)
		}
	}
	d := serve(t, write(t, "web.toml", least("", "")), false)
	out, err := exec.Command("imdsfs", "status", "--runtime-dir", d.runtime).CombinedOutput()
	if want := "export AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" + d.address + "/\n"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("status does not say %q: %v\n%s", want, err, out)
	}
}

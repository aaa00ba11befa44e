package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// serverKeys are values of each key of [server]: good ones, and bad ones with what is said of them.
var serverKeys = map[string]struct {
	good []string
	bad  map[string]string
}{
	"listen": {
		[]string{`[]`, `["127.0.0.1:0", "[::1]:0"]`, `["none"]`, `["link-local", "127.0.0.1:1338"]`, `[":80"]`, `["[::1]:80", "127.0.0.1:80"]`, `["[fe80::1%eth0]:80"]`, `["no-such-host.test:80"]`},
		map[string]string{
			`["127.0.0.1"]`: "not an address", `["::1"]`: "not an address", `["127.0.0.1:65536"]`: "not a port", `["127.0.0.1:http"]`: "not a port", `["a b:80"]`: "not a host",
			`["127.0.0.1.1:80"]`: "not a host", `["256.0.0.1:80"]`: "not a host", `[""]`: "not an address", `["none", "127.0.0.1:80"]`: "stands beside an address",
			`["127.0.0.1:80", "127.0.0.1:080"]`: "cannot both be listened on", `["127.0.0.1:80", ":80"]`: "cannot both be listened on", `["link-local", "169.254.169.254:80"]`: "cannot both be listened on",
			`["[::]:80", "0.0.0.0:80"]`: "cannot both be listened on", `["a", "a"]`: "given twice", `[80]`: "must be a string", `":80"`: "must be an array",
		},
	},
	"mount": {
		[]string{`"/run/metadata"`, `"none"`, `"/no/such/dir"`},
		map[string]string{`""`: "is empty", `"metadata"`: "absolute path", `"/a\u0000b"`: "not a path", `"/"`: "would lie below the mount /", `"/run/imdsfs"`: "would lie below the mount", `1`: "must be a string"},
	},
	"runtime-dir": {[]string{`"/run/other"`}, map[string]string{`"none"`: "the daemon needs one", `"run"`: "absolute path", `"/run/metadata/x"`: "would lie below the mount", `"/` + strings.Repeat("d", 100) + `"`: "at most 107 bytes"}},
	"state-dir":   {[]string{`"/var/lib/other"`}, map[string]string{`"none"`: "the daemon needs one", `"lib"`: "absolute path", `""`: "is empty", `"/run/metadata"`: "would lie below the mount"}},
	"sources":     {[]string{`["file"]`, `["host"]`}, map[string]string{`[]`: "lists no source", `["files"]`: "specify host or file", `["file", "file"]`: "given twice"}},
	"allow-from": {
		[]string{`[]`, `["local", "10.0.0.0/8", "fd00::/8", "iface:docker0"]`},
		map[string]string{
			`["10.0.0.1/8"]`: "bits set after the prefix, write 10.0.0.0/8", `["all"]`: "give local", `["10.0.0.1"]`: "write 10.0.0.1/32", `["::ffff:10.0.0.0/104"]`: "as IPv4",
			`["fe80::1%eth0/64"]`: "give local", `["iface:"]`: "no name of an interface", `["iface:.."]`: "no name of an interface", `["iface:name-longer-than-15"]`: "no name of an interface", `["local", "local"]`: "given twice",
		},
	},
	"metrics-allow-from": {[]string{`["10.0.0.0/8"]`}, map[string]string{`["10.0.0.1/8"]`: "write 10.0.0.0/8", `["10.0.0.1"]`: "write 10.0.0.1/32"}},
	"hosts":              {[]string{`["metadata.internal", "My_Service."]`, `[]`}, map[string]string{`["*.example.com"]`: "give a DNS name", `["metadata:80"]`: "give a DNS name", `["."]`: "give a DNS name", `[""]`: "give a DNS name"}},
	"log-level":          {[]string{`"debug"`, `"warn"`}, map[string]string{`"trace"`: "specify debug, info, warn or error", `""`: "is empty"}},
	"log-format":         {[]string{`"json"`}, map[string]string{`"xml"`: "specify text or json"}},
	"admin":              {[]string{`"/run/x.sock"`, `"none"`}, map[string]string{`"x.sock"`: "absolute path", `"/` + strings.Repeat("d", 107) + `"`: "at most 107 bytes"}},
	"metrics":            {[]string{`"none"`, `"127.0.0.1:9338"`, `"127.0.0.1:0"`}, map[string]string{`"link-local"`: "not an address", `"9338"`: "not an address", `"127.0.0.1:1338"`: "is an address of --listen already", `":1338"`: "is an address of --listen already"}},
	"vantage":            {[]string{`"guest"`, `"host"`}, map[string]string{`"above"`: "specify guest or host"}},
	"add-addresses":      {[]string{`true`}, map[string]string{`"yes"`: "true or false"}},
	"keep":               {[]string{`true`}, map[string]string{`1`: "true or false"}},
	"user":               {[]string{"\"imdsfs\"\nkeep = true"}, map[string]string{`"imdsfs"`: "--user needs a keeper", "\"a b\"\nkeep = true": "not the name of a user"}},
	"watchdog":           {[]string{`"15s"`, `"200ms"`}, map[string]string{`"199ms"`: "too short", `"15"`: "not a duration", `"-1s"`: "not a duration"}},
}

// What one of them refuses the others refuse, in the same words and with its place.
func TestCheckServeAndUpgradesJudgeAlike(t *testing.T) {
	t.Cleanup(func() { unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }) // a trial takes it away
	empty := t.TempDir()
	schema := kit.ReadFile(t, "../../source/tomlfile/unknown.go")
	for key := range serverKeys {
		if !strings.Contains(schema, `"`+key+`"`) {
			t.Errorf("%s is no key", key)
		}
	}
	try := func(key, value, fault string) {
		t.Helper()
		elsewhere := "state-dir = \"" + empty + "\"\n"
		if key == "state-dir" {
			elsewhere = ""
		}
		file := write(t, "web.toml", least("", "")+"[server]\n"+key+" = "+value+"\n"+elsewhere)
		_, checkSays, checkCode := check(t, "-q", file)
		var trialSays bytes.Buffer
		trialCode := run([]string{"serve", "--trial", "-c", file}, &trialSays, &trialSays)
		_, serveErr := daemon.Config{File: file}.Validate(nil)
		var serveSays bytes.Buffer
		serveCode := 0
		if serveErr != nil {
			serveCode = report(&serveSays, serveErr)
		}
		want := 0
		if fault != "" {
			want = exitInvalid
		}
		if checkCode != want || trialCode != want || serveCode != want {
			t.Errorf("%s = %s: check ends with %d, serve with %d, an upgrade's trial with %d; want %d\n%s%s", key, value, checkCode, serveCode, trialCode, want, checkSays, serveSays.String())
		}
		const hint = "imdsfs: hint: see all of it with: imdsfs check "
		told := fmt.Sprintf("imdsfs: error: %s:12: server.%s: ", file, key)
		if fault != "" && (!strings.HasPrefix(checkSays, told) || !strings.Contains(checkSays, fault) || trialSays.String() != checkSays+hint+file+"\n" || serveSays.String() != trialSays.String()) {
			t.Errorf("%s = %s: check says\n%sserve says\n%san upgrade\n%s", key, value, checkSays, serveSays.String(), trialSays.String())
		}
	}
	for key, values := range serverKeys {
		for _, value := range values.good {
			try(key, value, "")
		}
		for value, fault := range values.bad {
			try(key, value, fault)
		}
	}
}

// A flag is judged as the file is, and wins; what the file says is judged all the same.
func TestFlagsAreJudgedAsTheFileIs(t *testing.T) {
	good := write(t, "good.toml", least("", "")+"[server]\nuser = \"imdsfs\"\nkeep = true\n")
	bad := write(t, "bad.toml", least("", "")+"[server]\nallow-from = [\"10.0.0.1/8\"]\n")
	for _, c := range []struct {
		config daemon.Config
		code   int
		says   string
	}{
		{daemon.Config{File: good}, 0, ""},
		{daemon.Config{File: bad, AllowFrom: []string{"local"}}, exitInvalid, "bad.toml:12: server.allow-from"},
		{daemon.Config{File: good, AllowFrom: []string{"10.0.0.1/8"}}, exitUsage, `--allow-from "10.0.0.1/8": there are bits set`},
		{daemon.Config{File: good, Hosts: []string{"a:1"}}, exitUsage, `--host "a:1": give a DNS name`},
		{daemon.Config{File: good, Listen: []string{":80", "127.0.0.1:80"}}, exitUsage, ":80 and 127.0.0.1:80 cannot both"},
		{daemon.Config{File: good, Keeper: daemon.KeeperConfig{Watchdog: 1}}, exitUsage, "--watchdog \"1ns\": too short"},
		{daemon.Config{File: none, Keeper: daemon.KeeperConfig{User: "imdsfs"}}, exitUsage, "--user needs a keeper"},
		{daemon.Config{File: none, Mount: none, Listen: []string{none}}, exitUsage, "nothing to serve"},
	} {
		c.config.StateDir = t.TempDir()
		_, err := c.config.Validate(nil)
		var said bytes.Buffer
		code := 0
		if err != nil {
			code = report(&said, err)
		}
		if code != c.code || !strings.Contains(said.String(), c.says) {
			t.Errorf("%d, want %d with %q: %s", code, c.code, c.says, said.String())
		}
	}
}

// with runs a subcommand that talks to a daemon.
func with(d *served, args ...string) (string, error) {
	out, err := exec.Command("imdsfs", append(args, "--runtime-dir", d.runtime)...).CombinedOutput()
	return string(out), err
}

// A reload and an upgrade refuse what a start would refuse, and the daemon keeps serving.
func TestAnUpgradeIsRefusedForWhatAStartWouldRefuse(t *testing.T) {
	s := newSite(t, least("", `tier = "gold"`))
	d := s.start("--mount", none)
	started := d.cmd.Process.Pid
	if out, err := with(d, "set", "plan", "b"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, c := range map[string]struct{ metaData, fault string }{
		"a network with bits after its prefix":       {"[server]\nallow-from = [\"local\", \"10.0.0.1/8\"]", `web.toml:11: server.allow-from: "10.0.0.1/8": there are bits set after the prefix, write 10.0.0.0/8`},
		"a user without a keeper":                    {"[server]\nuser = \"imdsfs\"", "web.toml:11: server.user: --user needs a keeper"},
		"what was set at run time stands in the way": {"[meta-data.plan]\nc = \"x\"", "a value cannot also be a directory"},
	} {
		d.reload(s.file, least("", c.metaData), "still serving")
		if !strings.Contains(strings.ReplaceAll(d.log.String(), `\"`, `"`), c.fault) {
			t.Errorf("%s: the reload does not say %q:\n%s", name, c.fault, d.log)
		}
		if out, err := with(d, "upgrade"); err == nil || !strings.Contains(out, "not upgraded") || !strings.Contains(out, c.fault) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if got := d.ask("GET", tier).body; got != "gold" || d.ended() || syscall.Kill(started, 0) != nil {
			t.Fatalf("%s: the daemon says %q", name, got)
		}
	}
	d.reload(s.file, least("", `tier = "silver"`), "the input is good again")
	if out, err := with(d, "upgrade"); err != nil || d.ended() {
		t.Errorf("%v: %s", err, out)
	}
	s.ready(d)
	if got := d.ask("GET", tier).body; got != "silver" {
		t.Errorf("after the upgrade it says %q", got)
	}
	s.end(d)
}

func TestEachWarningIsLoggedOnce(t *testing.T) {
	const rule = "[[access]]\npath = \"/latest/meta-data/none\"\nmode = \"0440\"\n"
	text := func(more string) string { return least("", "colour = \"blue\"\n"+more) }
	s := newSite(t, text(rule+rule))
	d := s.start("--mount", none, "--log-level", "debug")
	want := map[string]int{"has no path /latest/meta-data/colour": 1, "has no path /latest/meta-data/none, and no source": 2}
	told := func(when string) {
		t.Helper()
		for text, n := range want {
			if got := strings.Count(d.log.String(), text); got != n {
				t.Errorf("%s: %q is logged %d times, want %d:\n%s", when, text, got, n, d.log)
			}
		}
	}
	told("at the start")
	d.after("msg=reloaded", func() { d.signal(syscall.SIGHUP) })
	told("after a reload without a change")
	d.reload(s.file, text("\n\ntier = \"gold\"\n"+rule+rule), "msg=reloaded")
	told("after a change of something else")
	d.reload(s.file, text("tier = \"gold\"\n"+rule+rule+rule), "msg=reloaded")
	want["has no path /latest/meta-data/none, and no source"]++
	told("after one more")
	d.after("msg=ready", func() {
		if out, err := with(d, "upgrade"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	want = map[string]int{"has no path /latest/meta-data/colour": 2, "has no path /latest/meta-data/none, and no source": 6}
	told("after a handover, by the successor")
	d.after("msg=reloaded", func() { d.signal(syscall.SIGHUP) })
	told("after a reload of the successor")
	s.end(d)
}

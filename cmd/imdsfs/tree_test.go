package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

var bigTree = map[string]string{
	"/":                                  "2021-03-23\nlatest",
	"/2021-03-23/":                       "meta-data\nuser-data",
	"/2021-03-23/meta-data/":             "mac",
	"/2021-03-23/meta-data/mac":          "06:2b:3c:4d:5e:6f",
	"/latest/":                           "dynamic\nmeta-data\nuser-data",
	"/latest/user-data":                  "#!/bin/sh\nPASSWORD=hunter2",
	"/latest/dynamic/":                   "instance-identity/",
	"/latest/dynamic/instance-identity/": "document",
	"/latest/dynamic/instance-identity/document":                                   "{\n  \"accountId\" : \"000000000000\"\n}",
	"/latest/meta-data/":                                                           "events/\ngone\ngone-too/\niam/\nidentity-credentials/\nlong\nmac\npublic-keys/\ntags/\nweird",
	"/latest/meta-data/events/":                                                    "",
	"/latest/meta-data/iam/":                                                       "info\nsecurity-credentials/",
	"/latest/meta-data/iam/info":                                                   "{}",
	"/latest/meta-data/iam/security-credentials/":                                  "web-role",
	"/latest/meta-data/iam/security-credentials/web-role":                          "{ hunter2 }",
	"/latest/meta-data/identity-credentials/":                                      "ec2/",
	"/latest/meta-data/identity-credentials/ec2/":                                  "security-credentials/",
	"/latest/meta-data/identity-credentials/ec2/security-credentials/":             "ec2-instance",
	"/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance": "{ hunter2 }",
	"/latest/meta-data/long":                                                       strings.Repeat("ä", 100),
	"/latest/meta-data/mac":                                                        "06:2b:3c:4d:5e:6f",
	"/latest/meta-data/public-keys/":                                               "0=my,key\n10=ops",
	"/latest/meta-data/public-keys/0/":                                             "openssh-key",
	"/latest/meta-data/public-keys/0/openssh-key":                                  "ssh-ed25519 AAAA web\n",
	"/latest/meta-data/public-keys/10/":                                            "openssh-key",
	"/latest/meta-data/public-keys/10/openssh-key":                                 "ssh-ed25519 BBBB ops\n",
	"/latest/meta-data/tags/":                                                      "instance/",
	"/latest/meta-data/tags/instance/":                                             "0=x\nempty",
	"/latest/meta-data/tags/instance/0=x":                                          "a tag, not a key",
	"/latest/meta-data/tags/instance/empty":                                        "",
	"/latest/meta-data/weird":                                                      "\x1b[2J\xff\tend",
}

// longest is what 80 columns leave of the value.
var longest = strings.Repeat("ä", treeColumns-len("      long: ")-1)

var wholeTree = `/
  2021-03-23/
    meta-data/
      mac: 06:2b:3c:4d:5e:6f
  latest/
    dynamic/
      instance-identity/
        document: { …
    meta-data/
      events/
      gone: [listed, but not there]
      gone-too/: [listed, but not there]
      iam/
        info: {}
        security-credentials/
          web-role: [secret]
      identity-credentials/
        ec2/
          security-credentials/
            ec2-instance: [secret]
      long: ` + longest + `…
      mac: 06:2b:3c:4d:5e:6f
      public-keys/
        0/ (my,key)
          openssh-key: ssh-ed25519 AAAA web
        10/ (ops)
          openssh-key: ssh-ed25519 BBBB ops
      tags/
        instance/
          0=x: a tag, not a key
          empty
      weird: \x1b[2J\xff\tend
    user-data: [secret]
`

func TestTreeShowsEverythingButSecretsWithOneToken(t *testing.T) {
	service := &kit.IMDS{T: t, Tree: bigTree}
	code, out, errs := imdsfs("tree", "--endpoint", serveHTTP(t, service), "/")
	if code != 0 || out != wholeTree {
		t.Errorf("exit %d, errors %q, printed\n%s\nwant\n%s", code, errs, out, wholeTree)
	}
	if n := service.Tokens.Load(); n != 1 {
		t.Errorf("%d tokens fetched, want 1", n)
	}
}

func TestTreeShowsWhatIsAskedFor(t *testing.T) {
	endpoint := serveHTTP(t, &kit.IMDS{T: t, Tree: bigTree})
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"mac"}, "/latest/meta-data/mac: 06:2b:3c:4d:5e:6f\n"},
		{[]string{"mac/"}, "/latest/meta-data/mac: 06:2b:3c:4d:5e:6f\n"},
		{[]string{"tags"}, "/latest/meta-data/tags/\n  instance/\n    0=x: a tag, not a key\n    empty\n"},
		{[]string{"//latest/meta-data//tags/instance/empty"}, "/latest/meta-data/tags/instance/empty\n"},
		{[]string{"public-keys/0"}, "/latest/meta-data/public-keys/0/\n  openssh-key: ssh-ed25519 AAAA web\n"},
		{[]string{"--values=false", "iam"}, "/latest/meta-data/iam/\n  info\n  security-credentials/\n    web-role\n"},
		{[]string{"--full", "/latest/dynamic/instance-identity"},
			"/latest/dynamic/instance-identity/\n  document: {\n      \"accountId\" : \"000000000000\"\n    }\n"},
		{[]string{"--full", "long"}, "/latest/meta-data/long: " + strings.Repeat("ä", 100) + "\n"},
		{[]string{"/latest/user-data"}, "/latest/user-data: [secret]\n"},
		{[]string{"--full", "--secrets", "/latest/user-data"}, "/latest/user-data: #!/bin/sh\n  PASSWORD=hunter2\n"},
		{[]string{"--secrets", "iam/security-credentials/web-role"}, "/latest/meta-data/iam/security-credentials/web-role: { hunter2 }\n"},
		{[]string{"/2021-03-23"}, "/2021-03-23/\n  meta-data/\n    mac: 06:2b:3c:4d:5e:6f\n"},
	} {
		code, out, errs := imdsfs(append([]string{"tree", "--endpoint", endpoint}, test.args...)...)
		if code != 0 || out != test.want {
			t.Errorf("tree %v: exit %d, errors %q, printed\n%s\nwant\n%s", test.args, code, errs, out, test.want)
		}
	}
	for _, path := range []string{"nothing", "nothing/", "nothing/below", "/2009-04-04", "/2021-03-23/user-data"} {
		code, out, errs := imdsfs("tree", "--endpoint", endpoint, path)
		want := "imdsfs: error: " + ec2.Absolute(path) + ": no such metadata\n"
		if path == "/2021-03-23/user-data" { // another version has it
			want += "imdsfs: hint: did you mean /latest/user-data?\n"
		}
		if code != exitNo || out != "" || errs != want {
			t.Errorf("tree %s: exit %d, printed %q, errors %q, want %q", path, code, out, errs, want)
		}
	}
}

func TestTreeFetchesNoSecretThatItDoesNotShow(t *testing.T) {
	service := &kit.IMDS{T: t, Tree: bigTree}
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.RequestURI, "/web-role") || strings.HasSuffix(r.RequestURI, "/ec2-instance") {
			t.Errorf("fetched %s", r.RequestURI)
		}
		service.ServeHTTP(w, r)
	}))
	if code, _, errs := imdsfs("tree", "--endpoint", endpoint); code != 0 {
		t.Errorf("exit %d, errors %q", code, errs)
	}
}

func TestTreeRefusesNamesThatLeadElsewhere(t *testing.T) {
	for _, line := range []string{"..", "../", ".", "./", "/", "//", "a/b", "/a", "a//", "a\x00b", "a\x1b[2J", "a\r", "a\u0085", "a\xff"} {
		t.Run(fmt.Sprintf("%q", line), func(t *testing.T) {
			endpoint := serveHTTP(t, onData(func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI != "/latest/meta-data/" {
					t.Errorf("asked for %s", r.RequestURI)
				}
				fmt.Fprint(w, line)
			}))
			code, _, errs := imdsfs("tree", "--endpoint", endpoint)
			if code != exitFailed || !strings.Contains(errs, "the listing of /latest/meta-data/ holds ") || strings.ContainsAny(errs, "\x00\x1b\r\u0085") || !utf8.ValidString(errs) {
				t.Errorf("exit %d, errors %q", code, errs)
			}
		})
	}
}

func TestTreeIsBounded(t *testing.T) {
	deep := serveHTTP(t, onData(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a/") }))
	code, out, errs := imdsfs("tree", "--endpoint", deep)
	if code != exitFailed || strings.Count(out, "\n") != 32-1 || !strings.Contains(errs, "more than 32 levels deep") {
		t.Errorf("deep: exit %d, %d lines, errors %q", code, strings.Count(out, "\n"), errs)
	}
	wide := serveHTTP(t, onData(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("a\n", 100_000)) }))
	code, out, errs = imdsfs("tree", "--values=false", "--endpoint", wide)
	if code != exitFailed || strings.Count(out, "\n") != 100_000 || !strings.Contains(errs, "more than 100000 names") {
		t.Errorf("wide: exit %d, %d lines, errors %q", code, strings.Count(out, "\n"), errs)
	}
}

package tomlfile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
)

const goodRole = "type = 'static'\naccess-key-id = 'ASIAX'\nsecret-access-key = 's'\ntoken = 't'\n"

func TestCredentials(t *testing.T) {
	tests := map[string]struct {
		text string
		want []faultWant
	}{
		"nothing given": {"[credentials.r]\n", []faultWant{
			{1, "credentials.r.type", `type = "static"`},
			{1, "credentials.r.access-key-id", "access-key-id, access-key-id-file or access-key-id-env"},
			{1, "credentials.r.secret-access-key", "missing"},
			{1, "credentials.r.token", "always have a session token"},
		}},
		"two roles": {"[credentials.a]\n" + goodRole + "[credentials.b]\n" + goodRole, []faultWant{
			{6, "credentials.b", "keep this or credentials.a of line 1"},
		}},
		"no role":                   {"[credentials]\n", []faultWant{{1, "credentials", "name it: [credentials.NAME]"}}},
		"keys without a role":       {"[credentials]\ntype = 'static'\n", []faultWant{{2, "credentials.type", "[credentials.NAME]"}}},
		"role that is no table":     {"[credentials]\nr = 'static'\n", []faultWant{{2, "credentials.r", "[credentials.NAME]"}}},
		"role's name":               {"[credentials.'a b']\n" + goodRole, []faultWant{{1, `credentials."a b"`, "not the name of a role"}}},
		"role's name too long":      {"[credentials." + strings.Repeat("r", 65) + "]\n" + goodRole, []faultWant{{1, "credentials." + strings.Repeat("r", 65), "1 to 64"}}},
		"process":                   {"[credentials.r]\ntype = 'process'\ncommand = ['x']\n", []faultWant{{2, "credentials.r.type", "not supported by this version"}}},
		"profile":                   {"[credentials.r]\ntype = 'profile'\n", []faultWant{{2, "credentials.r.type", "not supported by this version"}}},
		"assume-role":               {"[credentials.r]\ntype = 'assume-role'\n", []faultWant{{2, "credentials.r.type", "not supported by this version"}}},
		"upstream":                  {"[identity-credentials]\ntype = 'upstream'\n", []faultWant{{2, "identity-credentials.type", "not supported by this version"}}},
		"unknown type":              {"[credentials.r]\n" + strings.Replace(goodRole, "static", "statik", 1), []faultWant{{2, "credentials.r.type", `it must be "static"`}}},
		"two forms":                 {"[credentials.r]\n" + goodRole + "token-env = 'X'\n", []faultWant{{6, "credentials.r.token-env", "keep this or token of line 5"}}},
		"variable that is not set":  {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-env = 'IMDSFS_TEST_UNSET'", 1), []faultWant{{5, "credentials.r.token-env", "not set"}}},
		"file that is not there":    {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-file = 'none'", 1), []faultWant{{5, "credentials.r.token-file", "no such file"}}},
		"file of two lines":         {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-file = 'two-lines'", 1), []faultWant{{5, "credentials.r.token-file", "one line of text"}}},
		"file of more than 64 KiB":  {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-file = 'large'", 1), []faultWant{{5, "credentials.r.token-file", "65536 are allowed"}}},
		"empty file":                {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-file = 'empty'", 1), []faultWant{{5, "credentials.r.token-file", "one line of text"}}},
		"bytes that are no text":    {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token-file = 'binary'", 1), []faultWant{{5, "credentials.r.token-file", "one line of text"}}},
		"empty":                     {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token = ''", 1), []faultWant{{5, "credentials.r.token", "one line of text"}}},
		"not a string":              {"[credentials.r]\n" + strings.Replace(goodRole, "token = 't'", "token = 12345", 1), []faultWant{{5, "credentials.r.token", "must be a string"}}},
		"expiration":                {"[credentials.r]\n" + goodRole + "expiration = '6h'\n", []faultWant{{6, "credentials.r.expiration", "point in time"}}},
		"profile's ARN":             {"[credentials.r]\n" + goodRole + "instance-profile-arn = 'arn:aws:iam::123456789012:role/r'\n", []faultWant{{6, "credentials.r.instance-profile-arn", "not the ARN"}}},
		"profile's id":              {"[credentials.r]\n" + goodRole + "instance-profile-id = ''\n", []faultWant{{6, "credentials.r.instance-profile-id", "one line"}}},
		"nothing wrong":             {"[credentials.'My_+=,.@-9']\n" + goodRole, nil},
		"role's keys at one remove": {"[credentials]\nr.type = 'static'\n", []faultWant{{2, "credentials.r.access-key-id", "missing"}, {2, "credentials.r.secret-access-key", "missing"}, {2, "credentials.r.token", "missing"}}},
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "two-lines"), "a\nb\n")
	write(t, filepath.Join(dir, "large"), strings.Repeat("x", 64<<10+1))
	write(t, filepath.Join(dir, "empty"), "\n")
	write(t, filepath.Join(dir, "binary"), "\xff\xfe")
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "web-1.toml")
			write(t, path, c.text)
			_, err := Load(path, nil)
			compare(t, path, faultsOf(t, err), c.want)
		})
	}
}

func TestSecretInAFileLosesOneNewline(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "web-1.toml"), filepath.Join(dir, "token")
	write(t, path, "[credentials.r]\n"+strings.Replace(goodRole, "token = 't'", "token-file = 'token'", 1))
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	for _, text := range []string{"the-token", "the-token\n", "the-token\r\n"} {
		write(t, file, text)
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
		f, err := Load(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Fragment.Role.Token.Reveal(); got != "the-token" {
			t.Errorf("%q: the token is %q", text, got)
		}
		if !f.Fragment.Role.Mtime.Equal(later) {
			t.Errorf("the role is of %v, want %v", f.Fragment.Role.Mtime, later)
		}
	}
}

// Each text has a secret where a mistake is, or beside it.
func TestFaultsHoldNoSecret(t *testing.T) {
	const secret = "wJalrXUtnFEMI7PLANTED"
	t.Setenv("IMDSFS_TEST_PLANTED", secret+"\nsecond line")
	role := func(key, rest string) string {
		return "[credentials.r]\n" + strings.Replace(goodRole, key, rest, 1)
	}
	tests := map[string]string{
		"unquoted":                    role("'t'", secret),
		"unquoted, digits first":      role("'t'", "1234"+secret),
		"unquoted, date first":        role("'t'", "2026-01-01"+secret),
		"unquoted, hexadecimal":       role("'t'", "0xg"+secret),
		"unquoted, sign first":        role("'t'", "+"+secret),
		"unquoted, slash first":       role("'t'", "/"+secret),
		"quote is missing":            role("'t'", `"`+secret),
		"opening quote is missing":    role("'t'", secret+`"`),
		"three quotes are missing":    role("'t'", `"""`+secret),
		"quote inside":                role("'t'", `"x"`+secret),
		"wrong escape":                role("'t'", `"\q`+secret+`"`),
		"wrong hex escape":            role("'t'", `"\u12`+secret+`"`),
		"not UTF-8":                   role("'t'", "\""+secret+"\xff\""),
		"control character":           role("'t'", "\""+secret+"\x01\""),
		"wrapped":                     role("'t'", "\"x\"\n"+secret+"=="),
		"equals sign is missing":      role("token = 't'", "token '"+secret+"'"),
		"array":                       role("'t'", "['"+secret+"']"),
		"array without end":           role("'t'", "['"+secret+"'"),
		"table":                       role("'t'", "{x='"+secret+"'}"),
		"given twice":                 role("token = 't'", "token = '"+secret+"'\ntoken = '"+secret+"'"),
		"two forms":                   role("token = 't'", "token = '"+secret+"'\ntoken-file = '"+secret+"'"),
		"control character, escaped":  role("'t'", `"`+secret+`\n"`),
		"in the place of a file":      role("token = 't'", "token-file = '"+secret+"'"),
		"in the place of a variable":  role("token = 't'", "token-env = '"+secret+"'"),
		"variable of two lines":       role("token = 't'", "token-env = 'IMDSFS_TEST_PLANTED'"),
		"in the place of the type":    role("'static'", "'"+secret+"'"),
		"in the place of an ARN":      role("token = 't'", "token = 't'\ninstance-profile-arn = '"+secret+"'"),
		"in the place of an id":       role("token = 't'", "token = 't'\ninstance-profile-id = \""+secret+"\\n\""),
		"in the place of a time":      role("token = 't'", "token = 't'\nexpiration = '"+secret+"'"),
		"unknown key's value":         role("token", "tokken"),
		"under [credentials]":         "[credentials]\ntoken = '" + secret + "'",
		"under [instance]":            "[instance]\ntoken = '" + secret + "'",
		"before any table":            "token = '" + secret + "'",
		"of another type":             role("'static'", "'process'") + "command = '" + secret + "'",
		"user-data, two forms":        "user-data = '" + secret + "'\nuser-data-base64 = '" + secret + "'",
		"user-data, base64":           "user-data-base64 = '" + secret + "'",
		"user-data, file":             "user-data-file = '" + secret + "'",
		"user-data inside a table":    "[instance]\nuser-data = '" + secret + "'",
		"user-data that is too large": "user-data = '" + strings.Repeat(secret, 1000) + "'",
		"public key":                  "[public-keys]\nk = '" + secret + "'",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decode("web-1.toml", text, time.Time{})
			faults := faultsOf(t, err)
			if len(faults) == 0 {
				t.Fatal("no fault")
			}
			for _, f := range faults {
				if all := fmt.Sprintf("%#v %s", f, f); strings.Contains(all, secret) {
					t.Errorf("the secret is in %s", all)
				}
			}
		})
	}
}

func TestPrintedFragmentHoldsNoSecret(t *testing.T) {
	f, err := decode("web-1.toml", "[credentials.r]\n"+strings.NewReplacer("'s'", "'PLANTED'", "'t'", "'PLANTED'").Replace(goodRole), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var role build.Role = *f.Fragment.Role
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if s := fmt.Sprintf(format, role); strings.Contains(s, "PLANTED") {
			t.Errorf("%s prints %s", format, s)
		}
	}
}

func TestAFileListsTheVariablesThatItNames(t *testing.T) {
	t.Setenv("WEB_SECRET", "hunter2")
	text := `[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
[credentials.web]
type = "static"
access-key-id = "ASIAEXAMPLE"
secret-access-key-env = "WEB_SECRET"
token-env = "WEB_TOKEN"
`
	file, err := decode("web.toml", text, time.Time{})
	if err == nil || file == nil || !slices.Equal(file.Environment, []string{"WEB_SECRET", "WEB_TOKEN"}) {
		t.Errorf("got %+v, %v", file, err)
	}
}

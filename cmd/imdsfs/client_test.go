package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/rundir"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// serveHTTP returns the address of a server that stops with the test.
func serveHTTP(t *testing.T, h http.Handler) string { return kit.ServeHTTP(t, h) }

// serveBytes returns the address of a server that answers every connection with text and closes it.
func serveBytes(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096)) // closing with unread bytes would reset the connection
			fmt.Fprint(conn, text)
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// deadAddress returns an address where nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func imdsfs(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

func answer(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// onToken answers the token request by h and anything else by the value "v1".
func onToken(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			h(w, r)
			return
		}
		fmt.Fprint(w, "v1")
	}
}

// onData gives a token and answers anything else by h.
func onData(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			fmt.Fprint(w, "TOKEN==")
			return
		}
		h(w, r)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

var smallTree = map[string]string{
	"/latest/meta-data/":                          "instance-id\nplacement/",
	"/latest/meta-data/instance-id":               "i-0a1b2c3d4e5f67890",
	"/latest/meta-data/placement/":                "region",
	"/latest/meta-data/public-keys/0/openssh-key": "ssh-ed25519 AAAA web\n",
	"/latest/user-data":                           "\x1f\x8b\x00\xff",
	"/2021-03-23/meta-data/mac":                   "06:2b:3c:4d:5e:6f",
	"//latest//meta-data/mac":                     "06:2b:3c:4d:5e:6f",
	"/latest/meta-data/tags/instance/a,b=c:d@e+f": "raw",
	"/latest/meta-data/a%20b%25%3Fc%23%C3%A4":     "escaped",
}

func TestGetPrintsTheBodyByteForByte(t *testing.T) {
	service := &kit.IMDS{T: t, Tree: smallTree}
	endpoint := serveHTTP(t, service)
	for path, want := range map[string]string{
		"instance-id":                   "i-0a1b2c3d4e5f67890",
		"/latest/meta-data/instance-id": "i-0a1b2c3d4e5f67890",
		"":                              "instance-id\nplacement/",
		"placement/":                    "region",
		"public-keys/0/openssh-key":     "ssh-ed25519 AAAA web\n",
		"/latest/user-data":             "\x1f\x8b\x00\xff",
		"/2021-03-23/meta-data/mac":     "06:2b:3c:4d:5e:6f",
		"//latest//meta-data/mac":       "06:2b:3c:4d:5e:6f",
		"tags/instance/a,b=c:d@e+f":     "raw",
		"a b%?c#ä":                      "escaped",
	} {
		code, out, errs := imdsfs("get", "--endpoint", endpoint, path)
		if code != 0 || out != want || errs != "" {
			t.Errorf("get %q: exit %d, %q, errors %q; want %q", path, code, out, errs, want)
		}
	}
}

func TestGetWithV1NeverTouchesTokens(t *testing.T) {
	endpoint := serveHTTP(t, &kit.IMDS{T: t, Tree: smallTree, NoToken: true})
	code, out, errs := imdsfs("get", "--v1", "--endpoint", endpoint+"/", "instance-id")
	if code != 0 || out != "i-0a1b2c3d4e5f67890" {
		t.Errorf("exit %d, %q, errors %q", code, out, errs)
	}
}

// A failure is what get and tree say of a service that fails.
type failure struct {
	name     string
	endpoint func(*testing.T) string
	args     []string
	code     int
	err      string // regular expression of the whole line; tree asks for the listing above x first
	hint     string
}

// check runs get and tree.
func (f *failure) check(t *testing.T) {
	for _, command := range []string{"get", "tree"} {
		args := append([]string{command, "--endpoint", f.endpoint(t), "x"}, f.args...)
		code, out, errs := imdsfs(args...)
		if out != "" {
			t.Errorf("%s printed %q", command, out)
		}
		want := "imdsfs: error: " + f.err + "\n"
		if f.hint != "" {
			want += "imdsfs: hint: " + f.hint + "\n"
		}
		if code != f.code || !regexp.MustCompile("^"+want+"$").MatchString(errs) {
			t.Errorf("%s: exit %d, want %d\ngot  %s\nwant %s", command, code, f.code, errs, want)
		}
		if strings.ContainsFunc(errs, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
			t.Errorf("%s prints a control character: %q", command, errs)
		}
	}
}

func TestFailuresSayWhatAndWhatToDo(t *testing.T) {
	var puts atomic.Int64
	alwaysUnauthorized := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			puts.Add(1)
			fmt.Fprint(w, "TOKEN==")
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
	handle := func(h http.HandlerFunc) func(*testing.T) string {
		return func(t *testing.T) string { return serveHTTP(t, h) }
	}
	raw := func(text string) func(*testing.T) string {
		return func(t *testing.T) string { return serveBytes(t, text) }
	}
	for _, test := range []failure{
		{"nothing listens", deadAddress, nil, exitFailed,
			`no instance metadata service answers at http://127\.0\.0\.1:\d+: connect: connection refused`, `start one with: imdsfs serve; .*--endpoint.*`},
		{"404", handle((&kit.IMDS{T: t}).ServeHTTP), nil, exitNo, `/latest/meta-data/x: no such metadata`, ``},
		{"401 with a fresh token, twice", handle(alwaysUnauthorized), nil, exitFailed,
			`GET http://\S+/latest/meta-data/x?: 401 Unauthorized`, `.*refuses the token.*`},
		{"401 without a token", handle(answer(401)), []string{"--v1"}, exitFailed, `GET \S+: 401 Unauthorized`, `.*leave out --v1`},
		{"403", handle(onData(answer(403))), nil, exitFailed, `GET \S+: 403 Forbidden`, `enable http-endpoint.*`},
		{"503", handle(onData(answer(503))), nil, exitFailed, `GET \S+: 503 Service Unavailable`, `try again.*`},
		{"unknown status", handle(onData(answer(799))), nil, exitFailed, `GET \S+: 799`, ``},
		{"redirect", handle(onData(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
		})), nil, exitFailed,
			`GET \S+/latest/meta-data/x?: 301 Moved Permanently`, `redirects are not followed.*`},
		{"token 403", handle(onToken(answer(403))), nil, exitFailed,
			`no session token: PUT http://\S+/latest/api/token: 403 Forbidden`, `enable http-endpoint.*; --v1 asks without a token`},
		{"token 404", handle(onToken(answer(404))), nil, exitFailed, `no session token: PUT \S+: 404 Not Found`, `.*--v1.*`},
		{"token 405", handle(onToken(answer(405))), nil, exitFailed, `no session token: PUT \S+: 405 Method Not Allowed`, `.*--v1.*`},
		{"token 400", handle(onToken(answer(400))), nil, exitFailed, `no session token: PUT \S+: 400 Bad Request`, ``},
		{"token redirect", handle(onToken(answer(302))), nil, exitFailed, `no session token: PUT \S+: 302 Found`, `redirects.*`},
		{"token times out", handle(onToken(hang)), []string{"--timeout", "150ms"}, exitFailed,
			`no session token: PUT \S+/latest/api/token: no answer in time \(150ms\)`, `.*http-put-response-hop-limit.*--v1.*`},
		{"token is a page", handle(onToken(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Sign in</html>\n") })), nil, exitFailed,
			`no session token: PUT \S+: the answer is no token.*`, `see what runs there.*`},
		{"token is empty", handle(onToken(answer(200))), nil, exitFailed, `no session token: PUT \S+: the answer is no token.*`, `see what runs there.*`},
		{"token is huge", handle(onToken(func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("T"), 1<<10+1)) })), nil, exitFailed,
			`PUT \S+: the answer is longer than 1024 bytes`, ``},
		{"value times out", handle(onData(hang)), []string{"--timeout", "150ms"}, exitFailed,
			`GET \S+/latest/meta-data/x?: no answer in time \(150ms\)`, `.*--timeout`},
		{"value stops half way", handle(onData(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			w.(http.Flusher).Flush()
			hang(w, r)
		})), []string{"--timeout", "150ms"}, exitFailed, `GET \S+: no answer in time \(150ms\)`, `.*--timeout`},
		{"value is huge", handle(onData(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20+64<<10+1)) })), nil, exitFailed,
			`GET \S+: the answer is longer than 1114112 bytes`, ``},
		{"value is cut short", raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), []string{"--v1"}, exitFailed,
			`GET \S+: the connection was closed before the whole answer came`, `see what runs there.*`},
		{"nothing is said", raw(""), []string{"--v1"}, exitFailed, `GET \S+: the connection was closed before the whole answer came`, `see what runs there.*`},
		{"garbage", raw("SSH-2.0-\x1b[2Jgarbage\r\n"), []string{"--v1"}, exitFailed, `GET \S+: .*malformed HTTP.*`, `see what runs there.*`},
		{"endless headers", raw("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 640<<10)), []string{"--v1"}, exitFailed, `GET \S+: .*header.*`, `see what runs there.*`},
	} {
		t.Run(test.name, func(t *testing.T) {
			puts.Store(0)
			test.check(t)
			if test.name == "401 with a fresh token, twice" && puts.Load() != 4 {
				t.Errorf("%d tokens fetched by two commands, want two each", puts.Load())
			}
		})
	}
}

func TestWrongUsageExitsWith2(t *testing.T) {
	t.Setenv(client.EndpointVariable, "")
	for _, args := range [][]string{
		{"get"}, {"get", "a", "b"}, {"get", "--no-such-flag", "a"}, {"tree", "a", "b"},
		{"get", "--timeout", "0s", "a"}, {"get", "--timeout", "-1s", "a"}, {"get", "--timeout", "soon", "a"},
		{"get", "--endpoint", "127.0.0.1:1338", "a"}, {"get", "--endpoint", "localhost:1338", "a"},
		{"get", "--endpoint", "ftp://127.0.0.1", "a"}, {"get", "--endpoint", "http://", "a"}, {"get", "--endpoint", "http://h/?q", "a"},
		{"tree", "--endpoint", "http://user:hunter2@127.0.0.1"},
	} {
		code, out, errs := imdsfs(args...)
		if code != exitUsage || out != "" || !strings.HasPrefix(errs, "imdsfs: error: ") || !strings.Contains(errs, "\nimdsfs: hint: ") {
			t.Errorf("%v: exit %d, printed %q, errors %q", args, code, out, errs)
		}
		if strings.Contains(errs, "hunter2") {
			t.Errorf("%v: the password is printed: %q", args, errs)
		}
	}
}

func TestEndpointIsFoundInTheDocumentedOrder(t *testing.T) {
	alive := strings.TrimPrefix(serveHTTP(t, answer(200)), "http://")
	dead := strings.TrimPrefix(deadAddress(t), "http://")
	const flag, variable = "http://127.0.0.1:1", "http://127.0.0.1:2"
	for _, test := range []struct {
		name, flag, variable, file, want string
	}{
		{"flag", flag, variable, alive, flag},
		{"variable", "", variable + "/", alive, variable},
		{"local daemon", "", "", alive + "\n", "http://" + alive},
		{"second address of the local daemon", "", "", dead + "\n" + alive + "\n", "http://" + alive},
		{"killed daemon", "", "", dead + "\n", client.LinkLocal},
		{"no daemon", "", "", "", client.LinkLocal},
		{"file of something else", "", "", "\x00garbage\nexample.org:80\nhttp://" + alive + "\n", client.LinkLocal},
		{"endless file", "", "", strings.Repeat("\n", daemon.MaxListenFile) + alive + "\n", client.LinkLocal},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.file != "" {
				if err := os.WriteFile(daemon.ListenFile(dir), []byte(test.file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv(client.EndpointVariable, test.variable)
			f := clientFlags{endpoint: test.flag, runtimeDir: dir, timeout: client.DefaultTimeout}
			c, err := f.client(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := c.client.Endpoint().String(); got != test.want {
				t.Errorf("endpoint %s, want %s", got, test.want)
			}
		})
	}
}

func TestAddressLeftByAStrangerIsNotBelieved(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to give a file away")
	dir := t.TempDir()
	file := daemon.ListenFile(dir)
	if err := os.WriteFile(file, []byte("127.0.0.1:1338\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := rundir.Listening(dir); len(got) != 1 || err != nil {
		t.Fatalf("our own file gives %v", got)
	}
	if err := os.Chown(file, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := rundir.Listening(dir); len(got) != 0 || err != nil {
		t.Errorf("a stranger's file gives %v", got)
	}
}

func TestBadVariableIsNamed(t *testing.T) {
	t.Setenv(client.EndpointVariable, "169.254.169.254")
	code, _, errs := imdsfs("get", "mac")
	if code != exitUsage || !strings.Contains(errs, client.EndpointVariable) {
		t.Errorf("exit %d, errors %q", code, errs)
	}
}

func TestHelpHasAnExample(t *testing.T) {
	for _, command := range []string{"get", "tree"} {
		code, out, _ := imdsfs(command, "--help")
		for _, part := range []string{"Examples:\n  imdsfs " + command, "--endpoint URL", "--timeout", "--v1", "Exit codes:"} {
			if code != 0 || !strings.Contains(out, part) {
				t.Errorf("%s --help: exit %d, no %q in\n%s", command, code, part, out)
			}
		}
	}
	for _, flag := range []string{"--values", "--full", "--secrets"} {
		if _, out, _ := imdsfs("tree", "--help"); !strings.Contains(out, flag) {
			t.Errorf("tree --help does not tell of %s", flag)
		}
	}
}

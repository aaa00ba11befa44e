package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

const (
	strangerEnv = "IMDSFS_TEST_STRANGER" // the socket that a child, run as another user, talks to
	nobody      = 65534
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(strangerEnv); socket != "" {
		os.Exit(askAsStranger(socket))
	}
	os.Exit(scratch.Run(m))
}

// operations are all requests of the API.
var operations = []struct{ method, path, body string }{
	{"GET", "/v1/status", ""},
	{"GET", "/v1/options", ""},
	{"PATCH", "/v1/options", `{"http-tokens":"required"}`},
	{"DELETE", "/v1/options", ""},
	{"GET", "/v1/overlay", ""},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"Name","value":"eA=="}`},
	{"POST", "/v1/kinds", `{"paths":["/latest"]}`},
	{"DELETE", "/v1/overlay", ""},
	{"POST", "/v1/reload", ""},
	{"POST", "/v1/upgrade", `{"program":"/good"}`},
}

// askAsStranger prints the status and the body of the answer to every operation.
func askAsStranger(socket string) int {
	for _, op := range operations {
		req, err := http.NewRequest(op.method, "http://imdsfs"+op.path, strings.NewReader(op.body))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		resp, err := clientOf(socket).Do(req)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Printf("uid %d: %d %s", os.Getuid(), resp.StatusCode, body)
	}
	return 0
}

func TestAnotherUserIsRefusedWhateverTheModeOfTheSocket(t *testing.T) {
	kit.Require(t, os.Getuid() == 0, "root, to become another user")
	i := newInstance(t, nil)
	socket := i.serve(0o666)
	as := func(uid uint32) []string {
		cmd := exec.Command("/proc/self/exe") // its directory is ours alone
		cmd.Env = append(os.Environ(), strangerEnv+"="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("as uid %d: %v\n%s", uid, err, out)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	want := fmt.Sprintf(`uid %d: 403 {"code":"UnauthorizedOperation","message":"only root and the daemon's own user may use this socket"}`, nobody)
	lines := as(nobody)
	if len(lines) != len(operations) {
		t.Fatalf("%d answers to %d operations: %q", len(lines), len(operations), lines)
	}
	for n, line := range lines {
		if line != want {
			t.Errorf("%s %s: %s", operations[n].method, operations[n].path, line)
		}
	}
	if n := len(i.changes().Changes); n > 0 {
		t.Errorf("%d changes of a user who was refused", n)
	}
	for n, line := range as(0) { // the same program is answered when it is root
		if !strings.HasPrefix(line, "uid 0: 200 ") {
			t.Errorf("%s %s: %s", operations[n].method, operations[n].path, line)
		}
	}
}

func TestOnlyRootAndOurselvesAreAllowed(t *testing.T) {
	own := uint32(os.Geteuid())
	for _, c := range []struct {
		who     caller
		allowed bool
	}{
		{caller{uid: 0}, true},
		{caller{uid: own}, true},
		{caller{uid: own + 1}, false},
		{caller{uid: nobody}, false},
		{caller{uid: 1<<32 - 1}, false},
		{caller{uid: 0, err: errors.New("unknown")}, false},
	} {
		if got := c.who.allowed(); got != c.allowed {
			t.Errorf("%+v: %v", c.who, got)
		}
	}
}

func TestACallerThatTheKernelDoesNotNameIsRefused(t *testing.T) {
	i := newInstance(t, nil)
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/status", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("without Serve: %d", w.Code)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go i.Serve(t.Context(), listener, 0)
	resp, err := http.Get("http://" + listener.Addr().String() + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("over TCP: %d", resp.StatusCode)
	}
}

func TestBadRequestsAreRefusedAndChangeNothing(t *testing.T) {
	i := newInstance(t, nil)
	socket := i.serve(0o600)
	before := i.Store.Snapshot()
	long := strings.Repeat("x", maxBody)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"options, no body":            {"PATCH", "/v1/options", "", 400, "BadRequest"},
		"options, no JSON":            {"PATCH", "/v1/options", planted, 400, "BadRequest"},
		"options, cut":                {"PATCH", "/v1/options", `{"http-tokens":"requ`, 400, "BadRequest"},
		"options, a list":             {"PATCH", "/v1/options", `["http-tokens"]`, 400, "BadRequest"},
		"options, a number":           {"PATCH", "/v1/options", `{"http-put-response-hop-limit":2}`, 400, "BadRequest"},
		"options, two values":         {"PATCH", "/v1/options", `{"http-tokens":"required"}{"http-tokens":"optional"}`, 400, "BadRequest"},
		"options, something behind":   {"PATCH", "/v1/options", `{"http-tokens":"required"} ` + planted, 400, "BadRequest"},
		"options, deeply nested":      {"PATCH", "/v1/options", strings.Repeat(`{"a":`, 100_000), 400, "BadRequest"},
		"options, null":               {"PATCH", "/v1/options", `null`, 400, codeInvalidValue},
		"options, empty":              {"PATCH", "/v1/options", `{}`, 400, codeInvalidValue},
		"options, unknown":            {"PATCH", "/v1/options", `{"http-tokens":"required","hops":"1"}`, 400, codeInvalidValue},
		"options, null value":         {"PATCH", "/v1/options", `{"http-tokens":null}`, 400, codeInvalidValue},
		"options, too long":           {"PATCH", "/v1/options", `{"http-tokens":"` + long + `"}`, 413, "BadRequest"},
		"options, too long by spaces": {"PATCH", "/v1/options", `{"http-tokens":"required"}` + strings.Repeat(" ", maxBody), 413, "BadRequest"},
		"reset, unknown option":       {"DELETE", "/v1/options?name=hops", "", 400, codeInvalidValue},
		"reset, empty option":         {"DELETE", "/v1/options?name=", "", 400, codeInvalidValue},
		"reset, unknown parameter":    {"DELETE", "/v1/options?nam=http-tokens", "", 400, "BadRequest"},
		"reset, one unknown more":     {"DELETE", "/v1/options?name=http-tokens&all=1", "", 400, "BadRequest"},
		"reset, bad percent sign":     {"DELETE", "/v1/options?name=%zz", "", 400, "BadRequest"},
		"reset, semicolon":            {"DELETE", "/v1/options?a;name=http-tokens", "", 400, "BadRequest"},
		"forget, unknown parameter":   {"DELETE", "/v1/overlay?kinds=tags", "", 400, "BadRequest"},
		"forget, bad query":           {"DELETE", "/v1/overlay?kind=%zz", "", 400, "BadRequest"},
		"reset, two instances":        {"DELETE", "/v1/overlay?instance=a&instance=b", "", 400, "BadRequest"},
		"reset, unknown kind":         {"DELETE", "/v1/overlay?kind=", "", 400, codeInvalidValue},
		"reset, unknown instance":     {"DELETE", "/v1/overlay?instance=i-1", "", 400, codeInvalidValue},
		"edit, no body":               {"POST", "/v1/overlay", "", 400, "BadRequest"},
		"edit, unknown field":         {"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"a","vaule":"eA=="}`, 400, "BadRequest"},
		"edit, no base64":             {"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"a","value":"` + planted + `"}`, 400, "BadRequest"},
		"edit, a list":                {"POST", "/v1/overlay", `[]`, 400, "BadRequest"},
		"edit, null":                  {"POST", "/v1/overlay", `null`, 400, codeInvalidValue},
		"edit, empty":                 {"POST", "/v1/overlay", `{}`, 400, codeInvalidValue},
		"edit, of options":            {"POST", "/v1/overlay", `{"kind":"options","action":"set","name":"http-tokens","value":"b3B0aW9uYWw="}`, 400, codeInvalidValue},
		"edit, no action":             {"POST", "/v1/overlay", `{"kind":"tags","name":"a"}`, 400, codeInvalidValue},
		"edit, unknown action":        {"POST", "/v1/overlay", `{"kind":"tags","action":"drop","name":"a"}`, 400, codeInvalidValue},
		"edit, no name":               {"POST", "/v1/overlay", `{"kind":"tags","action":"set"}`, 400, codeInvalidValue},
		"edit, too long":              {"POST", "/v1/overlay", `{"kind":"values","action":"set","name":"user-data","value":"` + long + `"}`, 413, "BadRequest"},
		"unknown path":                {"GET", "/v1/secrets", "", 404, "NotFound"},
		"unknown version":             {"GET", "/v2/status", "", 404, "NotFound"},
		"root":                        {"GET", "/", "", 404, "NotFound"},
		"below a path":                {"GET", "/v1/status/", "", 404, "NotFound"},
		"wrong method":                {"PUT", "/v1/options", `{"http-tokens":"required"}`, 404, "NotFound"},
		"read of a command":           {"GET", "/v1/reload", "", 404, "NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask(t, socket, c.method, c.path, []byte(c.body))
			if r.status != c.status || r.problem.Code != c.code || r.problem.Message == "" {
				t.Errorf("%d %s, want %d and %s", r.status, r.body, c.status, c.code)
			}
			if strings.Contains(r.body, planted) {
				t.Errorf("the answer quotes the body: %s", r.body)
			}
		})
	}
	if i.Store.Snapshot() != before || len(i.changes().Changes) > 0 {
		t.Errorf("something has changed: %+v", i.changes())
	}
}

func TestTheLargestValueGoesThrough(t *testing.T) {
	i := newInstance(t, nil)
	socket := i.serve(0o600)
	body, err := json.Marshal(Edit{Kind: "values", Action: Set, Name: "meta-data/large", Value: bytes.Repeat([]byte{0xff}, build.MaxLeaf)})
	if err != nil {
		t.Fatal(err)
	}
	if r := ask(t, socket, "POST", "/v1/overlay", body); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if got := len(i.text("meta-data/large")); got != build.MaxLeaf {
		t.Errorf("%d bytes are served", got)
	}
}

func TestAChangeIsInForceWhenTheAnswerComes(t *testing.T) {
	i := newInstance(t, nil)
	socket := i.serve(0o600)
	for n := range 50 {
		want := []string{"required", "optional"}[n%2]
		r := ask(t, socket, "PATCH", "/v1/options", []byte(`{"http-tokens":"`+want+`"}`))
		if r.status != http.StatusOK || i.value(tokens) != want || !strings.Contains(r.body, `"name":"http-tokens","value":"`+want+`"`) {
			t.Fatalf("change %d: %s in force, answer %d %s", n, i.value(tokens), r.status, r.body)
		}
	}
}

func TestAFaultyReloadNamesEachFault(t *testing.T) {
	i := newInstance(t, nil)
	socket := i.serve(0o600)
	i.file.err = problem.Faults{{Place: "web.toml:3", Key: "instance.platfrom", Text: "unknown key"}, {Place: "web.toml:9", Text: "bad"}}
	r := ask(t, socket, "POST", "/v1/reload", nil)
	if r.status != http.StatusUnprocessableEntity || r.problem.Code != "InvalidInput" || len(r.problem.Faults) != 2 || r.problem.Faults[0] != "web.toml:3: instance.platfrom: unknown key" {
		t.Errorf("%d %s", r.status, r.body)
	}
	i.file.err = errors.New("read web.toml: input/output error")
	if r := ask(t, socket, "POST", "/v1/reload", nil); r.status != http.StatusInternalServerError || !strings.Contains(r.problem.Message, "input/output error") {
		t.Errorf("%d %s", r.status, r.body)
	}
	i.file.err = nil
	if r := ask(t, socket, "POST", "/v1/reload", nil); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	i := newInstance(t, nil)
	nc, err := net.Dial("unix", i.serve(0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	go fmt.Fprintf(nc, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 4*maxHeader))
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// FuzzRequests checks that every body and query is answered with JSON and a documented status, and leaves a state that a
// restart can load.
func FuzzRequests(f *testing.F) {
	for n, op := range operations {
		f.Add(n, "", []byte(op.body))
	}
	f.Add(2, "", []byte(`{"http-put-response-hop-limit":"64","http-endpoint":"disabled"}`))
	f.Add(3, "name=http-tokens&name=http-endpoint", []byte(nil))
	f.Add(3, "name=%zz;", []byte(nil))
	f.Add(5, "", []byte(`{"kind":"values","action":"unset","name":"meta-data/"}`))
	f.Add(5, "", []byte(`{"kind":"values","action":"set","name":"user-data","value":"AA=="}`))
	f.Add(5, "", []byte(`{"kind":"tags","action":"forget","name":"\u0000"} {}`))
	f.Fuzz(func(t *testing.T, n int, query string, body []byte) {
		op := operations[uint(n)%uint(len(operations))]
		i := newInstance(t, nil)
		req := httptest.NewRequest(op.method, op.path, bytes.NewReader(body))
		req.URL.RawQuery = query
		req = req.WithContext(withCaller(req.Context(), caller{uid: 0}))
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, req)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%d with a body that is no JSON object: %q", w.Code, w.Body)
		}
		switch w.Code {
		case http.StatusOK:
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if answer["code"] == "" || answer["message"] == "" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
		i.start()
	})
}

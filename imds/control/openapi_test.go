package control

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
)

// A described is the API's description, with the answers that have been seen.
type described struct {
	doc    *openapi3.T
	router routers.Router
	seen   map[string]bool // "GET /v1/status 200"
}

func loadDescription(t *testing.T) *described {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../contrib/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &described{doc, router, map[string]bool{}}
}

// ask sends a request and checks it and the answer against the description. The request has to be valid by the description
// or not, as the caller says. ask returns the answer's status.
func (d *described) ask(t *testing.T, socket, method, path, body string, good bool) int {
	t.Helper()
	send := func() *http.Request {
		req, err := http.NewRequest(method, "http://imdsfs"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		return req
	}
	req := send()
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		t.Fatalf("%s %s is not described: %v", method, path, err)
	}
	input := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true}}
	switch err := openapi3filter.ValidateRequest(t.Context(), input); {
	case good && err != nil:
		t.Errorf("%s %s %.100s: a good request is not as described: %v", method, path, body, err)
	case !good && err == nil:
		t.Errorf("%s %s %.100s: a bad request is as described", method, path, body)
	}
	resp, err := clientOf(socket).Do(send())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	output := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: resp.StatusCode,
		Header: resp.Header, Body: io.NopCloser(bytes.NewReader(text)), Options: input.Options}
	if err := openapi3filter.ValidateResponse(t.Context(), output); err != nil {
		t.Errorf("%s %s %.100s: the answer %d %s is not as described: %v", method, path, body, resp.StatusCode, text, err)
	}
	d.seen[method+" "+route.Path+" "+strconv.Itoa(resp.StatusCode)] = true
	return resp.StatusCode
}

// describedRequests are sent one after the other. good says that the request is valid by the description.
var describedRequests = []struct {
	method, path, body string
	good               bool
	status             int
}{
	{"GET", "/v1/status", "", true, 200},
	{"GET", "/v1/options", "", true, 200},
	{"GET", "/v1/overlay", "", true, 200},
	{"PATCH", "/v1/options", `{"http-tokens":"required","http-put-response-hop-limit":"1"}`, true, 200},
	{"PATCH", "/v1/options", `{"http-endpoint":"disabled"}`, true, 200},
	{"PATCH", "/v1/options", `{"http-tokens":"optional"}`, true, 400}, // the endpoint is disabled
	{"PATCH", "/v1/options", `{"http-endpoint":"enabled","http-protocol-ipv6":"enabled","instance-metadata-tags":"enabled"}`, true, 200},
	{"PATCH", "/v1/options", `{"http-put-response-hop-limit":"64"}`, true, 403}, // locked
	{"PATCH", "/v1/options", `{"http-put-response-hop-limit":"65"}`, false, 400},
	{"PATCH", "/v1/options", `{"http-put-response-hop-limit":1}`, false, 400},
	{"PATCH", "/v1/options", `{"http-tokens":""}`, false, 400},
	{"PATCH", "/v1/options", `{"HttpTokens":"required"}`, false, 400},
	{"PATCH", "/v1/options", `{}`, false, 400},
	{"PATCH", "/v1/options", ``, false, 400},
	{"PATCH", "/v1/options", `{"http-tokens":"required"}` + strings.Repeat(" ", maxBody), true, 413},
	{"DELETE", "/v1/options?name=http-tokens&name=http-protocol-ipv6", "", true, 200},
	{"DELETE", "/v1/options?name=hops", "", false, 400},
	{"DELETE", "/v1/options?name=http-put-response-hop-limit", "", true, 403}, // locked, and tighter now
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"Name","value":"d2ViLTI="}`, true, 200},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"Empty"}`, true, 200},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"unset","name":"Old"}`, true, 200},
	{"POST", "/v1/overlay", `{"kind":"values","action":"set","name":"meta-data/ami-id","value":"YQ=="}`, true, 200},
	{"POST", "/v1/overlay", `{"kind":"values","action":"forget","name":"meta-data/ami-id"}`, true, 200},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"Patch Group"}`, true, 400},
	{"POST", "/v1/overlay", `{"kind":"options","action":"set","name":"http-tokens"}`, false, 400},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"drop","name":"a"}`, false, 400},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":""}`, false, 400},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set"}`, false, 400},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"a","vaule":"eA=="}`, false, 400},
	{"POST", "/v1/overlay", `{"kind":"tags","action":"set","name":"a"}` + strings.Repeat(" ", maxBody), true, 413},
	{"GET", "/v1/overlay", "", true, 200},
	{"POST", "/v1/kinds", `{"paths":["/latest/meta-data","/latest/meta-data/instance-id","/nowhere"]}`, true, 200},
	{"POST", "/v1/kinds", `{"paths":"/latest"}`, false, 400},
	{"POST", "/v1/kinds", `{"paths":[]}` + strings.Repeat(" ", maxBody), true, 413},
	{"DELETE", "/v1/overlay?kind=values&kind=tags", "", true, 200},
	{"DELETE", "/v1/overlay", "", true, 403}, // the locked option
	{"DELETE", "/v1/overlay?kind=tag", "", false, 400},
	{"DELETE", "/v1/overlay?instance=i-none", "", true, 400},
	{"DELETE", "/v1/overlay?instance=", "", true, 400},
	{"POST", "/v1/reload", "", true, 200},
	{"POST", "/v1/upgrade", `{"program":"/good"}`, true, 200},
	{"POST", "/v1/upgrade", `{"program":"/bad"}`, true, 400},
	{"POST", "/v1/upgrade", `{"program":1}`, false, 400},
	{"POST", "/v1/upgrade", `{"program":"/good","now":true}`, false, 400},
	{"POST", "/v1/upgrade", `{"program":"/good"}` + strings.Repeat(" ", maxBody), true, 413},
}

func TestAPIIsAsDescribed(t *testing.T) {
	d := loadDescription(t)
	i := newInstance(t, func(f *build.Fragment) {
		f.Options, f.Lock = values(hops, "2"), []string{hops}
	})
	socket := i.serve(0o600)
	for _, c := range describedRequests {
		if got := d.ask(t, socket, c.method, c.path, c.body, c.good); got != c.status {
			t.Errorf("%s %s %.100s: %d, want %d", c.method, c.path, c.body, got, c.status)
		}
	}

	i.file.fragment.Leaves["meta-data/instance-id"] = stated("i-00000000000000042")
	i.file.fragment.Leaves["meta-data/tier"] = stated("gold")
	delete(i.file.fragment.Leaves, "meta-data/local-ipv4")
	d.ask(t, socket, "POST", "/v1/reload", "", true)
	d.ask(t, socket, "GET", "/v1/overlay", "", true)
	i.Status = fullStatus
	d.ask(t, socket, "GET", "/v1/status", "", true)
	i.file.err = problem.Faults{{Place: "web.toml:3", Text: "bad"}}
	d.ask(t, socket, "POST", "/v1/reload", "", true)
	i.file.err = errors.New("read web.toml: input/output error")
	d.ask(t, socket, "POST", "/v1/reload", "", true)
	i.breakState()
	d.ask(t, socket, "PATCH", "/v1/options", `{"http-tokens":"required"}`, true)
	d.ask(t, socket, "DELETE", "/v1/options?name=http-tokens", "", true)
	d.ask(t, socket, "DELETE", "/v1/overlay?instance=i-0a1b2c3d4e5f67890", "", true)
	d.ask(t, socket, "POST", "/v1/overlay", `{"kind":"tags","action":"unset","name":"Name"}`, true)

	for path, item := range d.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status := range operation.Responses.Map() {
				// A test of its own, which needs root, checks that another user gets 403.
				if answer := method + " " + path + " " + status; !d.seen[answer] && status != "403" {
					t.Errorf("%s is described and was not seen", answer)
				}
			}
		}
	}
}

func TestEveryOperationIsDescribed(t *testing.T) {
	d := loadDescription(t)
	known := map[string]bool{}
	for _, op := range operations {
		known[op.method+" "+op.path] = true
		req, err := http.NewRequest(op.method, "http://imdsfs"+op.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.router.FindRoute(req); err != nil {
			t.Errorf("%s %s is not described: %v", op.method, op.path, err)
		}
	}
	for path, item := range d.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if !known[method+" "+path] {
				t.Errorf("%s %s is described, and the tests do not know it", method, path)
			}
			if operation.Responses.Value("403") == nil {
				t.Errorf("%s %s can answer 403", method, path)
			}
		}
	}
}

// fullStatus is a status without empty fields.
func fullStatus() Status {
	return Status{
		Version: "v1.2.3", PID: 42, Started: noon, Config: "/etc/imdsfs/imdsfs.toml", Handover: "the keeper, pid 41",
		Mount:     &Mount{Dir: "/run/metadata", Inodes: 12, Stalled: 1, Requests: map[string]uint64{"LOOKUP": 7}},
		Listeners: []string{"127.0.0.1:1338"}, Addresses: "dummy link imds0",
		Sources:  []Source{{Name: "file", Loaded: noon}},
		Faults:   []string{"web.toml:3: bad"},
		Peers:    []Peer{{Address: "172.17.0.2", Why: "got no token at hop limit 1", Last: noon.Add(time.Second)}},
		Counters: Counters{1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
	}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const instanceID = "i-0a1b2c3d4e5f67890"

var tree = map[string]string{
	"/":                                "2021-03-23\nlatest",
	"/latest/":                         "dynamic\nmeta-data\nuser-data",
	"/latest/dynamic/":                 "",
	"/latest/meta-data/":               "gone\ngone-too/\ninstance-id\npublic-keys/\nsecret",
	"/latest/meta-data/instance-id":    instanceID,
	"/latest/meta-data/public-keys/":   "0=my,key",
	"/latest/meta-data/public-keys/0/": "openssh-key",
	"/latest/meta-data/public-keys/0/openssh-key": "ssh-ed25519 AAAA",
	"/latest/meta-data/secret":                    "hunter2",
}

func newClient(t *testing.T, h http.Handler, v1 bool, timeout time.Duration) *Client {
	t.Helper()
	endpoint, err := ParseEndpoint(kit.ServeHTTP(t, h))
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Endpoint: endpoint, V1: v1, Timeout: timeout})
}

func TestExpiredTokenIsRenewedOnce(t *testing.T) {
	service := &kit.IMDS{T: t, Tree: tree, Useful: 1}
	c := newClient(t, service, false, 0)
	for range 3 {
		if body, err := c.Get(t.Context(), "/latest/meta-data/instance-id"); err != nil || string(body) != instanceID {
			t.Errorf("%q, %v", body, err)
		}
	}
	if n := service.Tokens.Load(); n != 3 {
		t.Errorf("%d tokens for 3 requests that each use one up", n)
	}
}

func TestGetMayBeCalledAtOnce(t *testing.T) {
	service := &kit.IMDS{T: t, Tree: tree}
	c := newClient(t, service, false, 0)
	if _, err := c.Get(t.Context(), "/latest/"); err != nil { // for the token: the service knows the last one alone
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			if body, err := c.Get(t.Context(), "/latest/meta-data/instance-id"); err != nil || string(body) != instanceID {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
	running.Wait()
	if n := service.Tokens.Load(); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

func TestNoProxyIsUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c := newClient(t, &kit.IMDS{T: t, Tree: tree}, false, 0)
	if c.http.Transport.(*http.Transport).Proxy != nil { // net/http uses none for a loopback address
		t.Error("a proxy may be used")
	}
}

func TestErrorsTellApartWhatIsWrong(t *testing.T) {
	status := func(put, get int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			code := get
			if r.Method == http.MethodPut {
				code = put
			}
			w.WriteHeader(code)
			fmt.Fprint(w, "TOKEN==")
		})
	}
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cut := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "100") })
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Sign in</html>") })
	all := []error{ErrNotFound, ErrUnreachable, ErrTimeout, ErrBroken, ErrNoToken}
	for name, c := range map[string]struct {
		service http.Handler
		v1      bool
		is      []error
		code    int
		mayPass bool
	}{
		"nothing there":            {status(200, 404), false, []error{ErrNotFound}, 0, true},
		"refused":                  {status(200, 403), false, nil, 403, false},
		"refused with every token": {status(200, 401), false, nil, 401, false},
		"refused without a token":  {status(200, 401), true, nil, 401, false},
		"not well":                 {status(200, 503), false, nil, 503, true},
		"no IMDSv2":                {status(404, 200), false, []error{ErrNoToken}, 404, false},
		"no token yet":             {status(503, 200), false, []error{ErrNoToken}, 503, true},
		"no token but a page":      {page, false, []error{ErrNoToken}, 0, false},
		"no answer":                {hang, true, []error{ErrTimeout}, 0, true},
		"no answer with a token":   {hang, false, []error{ErrNoToken, ErrTimeout}, 0, true},
		"half an answer":           {cut, true, []error{ErrBroken}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			limit := time.Minute
			if slices.Contains(c.is, ErrTimeout) {
				limit = 100 * time.Millisecond
			}
			_, err := newClient(t, c.service, c.v1, limit).Get(t.Context(), "/latest/meta-data/x")
			for _, sentinel := range all {
				if want := slices.Contains(c.is, sentinel); errors.Is(err, sentinel) != want {
					t.Errorf("%v: is %q: %t, want %t", err, sentinel, !want, want)
				}
			}
			var refused *Refused
			if errors.As(err, &refused) != (c.code != 0) || refused != nil && (refused.Code != c.code || refused.V1 != c.v1) {
				t.Errorf("%v: %+v, want the code %d", err, refused, c.code)
			}
			if MayPass(err) != c.mayPass || problem.Hint(err) != "" {
				t.Errorf("%v: may pass %t, hint %q", err, MayPass(err), problem.Hint(err))
			}
		})
	}
	dead := New(Config{Endpoint: mustParse(t, "http://127.0.0.1:1")})
	if _, err := dead.Get(t.Context(), "/"); !errors.Is(err, ErrUnreachable) || !MayPass(err) {
		t.Errorf("nobody listens: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dead.Get(ended, "/"); !errors.Is(err, context.Canceled) || MayPass(err) {
		t.Errorf("canceled: %v", err)
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := ParseEndpoint(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// walked is what a walk yields: a place a line, and at its end the error.
func walked(t *testing.T, c *Client, path string, fetch func(Path) bool) string {
	var b strings.Builder
	for p, err := range c.Walk(t.Context(), path, fetch) {
		switch {
		case err != nil:
			fmt.Fprintf(&b, "%v\n", err)
		case p.Dir:
			fmt.Fprintf(&b, "%d %s absent=%t key=%s\n", p.Depth, p.Path.Dir(), p.Absent, p.Key)
		default:
			fmt.Fprintf(&b, "%d %s absent=%t %q\n", p.Depth, p.Path, p.Absent, p.Value)
		}
	}
	return b.String()
}

func TestWalkYieldsAllThatIsBelow(t *testing.T) {
	c := newClient(t, &kit.IMDS{T: t, Tree: tree}, false, 0)
	notSecret := func(p Path) bool { return p[len(p)-1] != "secret" }
	for path, want := range map[string]string{
		"/latest": `0 /latest/ absent=false key=
1 /latest/dynamic/ absent=false key=
1 /latest/meta-data/ absent=false key=
2 /latest/meta-data/gone absent=true ""
2 /latest/meta-data/gone-too/ absent=true key=
2 /latest/meta-data/instance-id absent=false "i-0a1b2c3d4e5f67890"
2 /latest/meta-data/public-keys/ absent=false key=
3 /latest/meta-data/public-keys/0/ absent=false key=my,key
4 /latest/meta-data/public-keys/0/openssh-key absent=false "ssh-ed25519 AAAA"
2 /latest/meta-data/secret absent=false ""
`,
		"/latest/meta-data/instance-id/": "0 /latest/meta-data/instance-id absent=false \"i-0a1b2c3d4e5f67890\"\n",
		"/latest/meta-data/secret":       "0 /latest/meta-data/secret absent=false \"\"\n",
		"/latest/user-data":              "no such metadata\n",
		"/latest/meta-data/nothing":      "no such metadata\n",
		"/latest/meta-data/nothing/":     "no such metadata\n",
	} {
		if got := walked(t, c, path, notSecret); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
		}
	}
	if got := walked(t, c, "/latest/meta-data/secret", nil); !strings.Contains(got, "hunter2") {
		t.Errorf("all values are wanted: %s", got)
	}
}

func TestWalkEndsWithTheLoop(t *testing.T) {
	asked := 0
	service := &kit.IMDS{T: t, Tree: tree}
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		service.ServeHTTP(w, r)
	}), false, 0)
	for range c.Walk(t.Context(), "/latest", nil) {
		break
	}
	if asked != 2 {
		t.Errorf("%d requests, want the token and one listing", asked)
	}
}

func TestCorrectFindsTheNearestPath(t *testing.T) {
	c := newClient(t, &kit.IMDS{T: t, Tree: tree}, false, 0)
	for path, want := range map[string]string{
		"/latest/metadata/instanceid":       "/latest/meta-data/instance-id",
		"/latest/meta-data/public-key/0":    "/latest/meta-data/public-keys/0/",
		"/latest/meta-data/instance-id/x":   "",
		"/latest/meta-data/something-else":  "",
		"/latest/user-data":                 "", // listed, and not there
		"/latest/meta-data/instance-id":     "/latest/meta-data/instance-id",
		"/latest//meta-data//instance-idd/": "/latest/meta-data/instance-id",
	} {
		if got := c.Correct(t.Context(), path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func FuzzListing(f *testing.F) {
	for _, seed := range []string{"ami-id\nplacement/", "0=my-key\n1=ops,e", "..", "a/b/", "\x00", "a\n\n\xff"} {
		f.Add(seed)
	}
	places := []Path{nil, {"latest"}, {"latest", "meta-data"}, {"latest", "meta-data", "public-keys"}}
	f.Fuzz(func(t *testing.T, body string) {
		for _, p := range places {
			entries, err := parseListing(p, body)
			for _, e := range entries {
				if slices.Contains([]string{"", ".", ".."}, e.Name) || strings.ContainsAny(e.Name, "/\n\x00\x1b") {
					t.Errorf("a listing of %s gives the name %q", p.Dir(), e.Name)
				}
			}
			if err != nil && (!errors.Is(err, ErrBadName) || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
				t.Errorf("the error is %q", err)
			}
		}
		if text := problem.Printable(body); strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Printable(%q) = %q", body, text)
		}
	})
}

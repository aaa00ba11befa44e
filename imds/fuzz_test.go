package imds

import (
	"bytes"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/build"
)

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"/", "", "*", "//latest//api/token", "/latest/api/token/", "/%2e%2e/%2f%00", "/%", "/%zz?%zz", "http://a", "HTTP://[::1]:80//x?/y", "http:///", "latest"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, ok := parseTarget(raw)
		if !ok {
			return
		}
		path, _, _ := strings.Cut(raw, "?")
		if got.absolute {
			path = path[len("http://")+len(got.authority):]
		}
		var want []string
		for _, s := range strings.Split(path, "/") {
			if s != "" {
				decoded, err := url.PathUnescape(s)
				if err != nil {
					t.Fatalf("%q was taken although %v", raw, err)
				}
				want = append(want, decoded)
			}
		}
		if strings.Join(got.segments, "\x00/") != strings.Join(want, "\x00/") {
			t.Errorf("%q: segments %q, want %q", raw, got.segments, want)
		}
		if slashed := "/" + strings.Join(strings.FieldsFunc(path, func(c rune) bool { return c == '/' }), "/"); got.isToken !=
			(slashed == "/latest/api/token" && !strings.HasSuffix(path, "/")) {
			t.Errorf("%q: isToken %t", raw, got.isToken)
		}
	})
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"", "localhost", "a:80", "[::1]:80", "[", "]", ":", "[]:", "127.0.0.1.", "LOCALHOST.:1", "[::%a b]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if (Hosts{}).Allow(host) && strings.ContainsAny(host, "/@ \t,") {
			t.Errorf("%q is allowed", host)
		}
		if name := refusedName(host); len(name) > maxName {
			t.Errorf("%q is reported with %d bytes", host, len(name))
		}
	})
}

// These rules hold for every request.
func FuzzRespond(f *testing.F) {
	tokens, _ := authority()
	// A token that was issued under the fixed key, because the processes of a fuzzing run have to use the same.
	const good = "AQAEAMfdOFEOhAVY4fKQD7HWyn-qGYl-N-OekXwcb01-Cl-1mMThqQ=="
	if _, ok := tokens.Verify(instanceID, good); !ok {
		f.Fatalf("the token %s is no good", good)
	}
	snapshots := map[string]*build.Snapshot{
		"optional": snapshot(f, fixture(), optional),
		"required": snapshot(f, fixture(), required),
		"disabled": snapshot(f, fixture(), disabled),
	}
	seed := func(method, target, host, headers string) { f.Add(method, target, host, headers, 1) }
	seed("GET", "/latest/meta-data/instance-id", "localhost", "X-aws-ec2-metadata-token: "+good)
	seed("GET", "/", "127.0.0.1", "X-aws-ec2-metadata-token: \nX-Forwarded-For: a")
	seed("PUT", "/latest/api/token", "[::1]:80", "X-aws-ec2-metadata-token-ttl-seconds: 60")
	seed("PUT", "/latest/api/token", "[::1]:80", "X-aws-ec2-metadata-token-ttl-seconds: 60\nX-Forwarded-For: a")
	seed("POST", "http://localhost/%2e%2e/?x", "", "Connection: close\nExpect: 100-continue")
	seed("OPTIONS", "*", "evil.test", "Connection: keep-alive")
	for _, target := range []string{
		"/", "/latest", "/latest/", "/2009-04-04/", "/2021-03-23/meta-data/tags/instance/", "/1.0/meta-data", "/1999-01-01/", "/latest/user-data/",
		"//latest//meta-data///instance-id//", "/latest/meta-data/instance-id/foo", "/latest/meta-data/public-keys/", "/latest/meta-data/public-keys/0=my-key-name",
		"/latest/meta-data/iam/security-credentials/web-role", "/latest/dynamic/instance-identity/document?x=/y", "/2021-03-23/api/token", "/latest/api/token/",
		"/latest/%6deta-data/", "/latest%2fmeta-data", "/latest/meta-data/%00", "/latest/meta-data/../", "/%zz", "http://localhost/latest/", "http://evil.test/", "localhost:80",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "OPTIONS"} {
			seed(method, target, "169.254.169.254", "")
			seed(method, target, "169.254.169.254", "X-aws-ec2-metadata-token: "+good)
			seed(method, target, "instance-data", "X-aws-ec2-metadata-token: "+good+"\nX-Forwarded-For: 10.0.0.1")
			seed(method, target, "instance-data", "X-aws-ec2-metadata-token-ttl-seconds: 21600")
		}
	}
	f.Fuzz(func(t *testing.T, method, target, host, headers string, minor int) {
		req := &Request{Method: method, Target: target, Host: host, Minor: minor, Header: http.Header{}, MayGetToken: true}
		for _, line := range strings.Split(headers, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			req.Header.Add(name, value)
		}
		valid := len(req.Header[tokenHeader]) == 1 && strings.Trim(req.Header[tokenHeader][0], " \t") == good
		for mode, snap := range snapshots {
			resp := respond(snap, tokens, Hosts{}, req)
			checkWellFormed(t, &resp, method)
			issued := len(resp.Body) == token.Length && bytes.HasPrefix(resp.Body, []byte("AQAEA"))
			isData := resp.Status == 200 && header(resp, "Accept-Ranges") != ""
			switch {
			case issued && (req.has("X-Forwarded-For") || method != "PUT" || mode == "disabled"):
				t.Errorf("%s: a token for %+v", mode, req)
			case issued != (resp.HopLimit > 0):
				t.Errorf("%s: HopLimit %d for %+v", mode, resp.HopLimit, req)
			case isData && mode == "required" && !valid:
				t.Errorf("data without a valid token for %+v", req)
			case isData && (mode == "disabled" || req.has(tokenHeader) && (!valid || req.has("X-Forwarded-For"))):
				t.Errorf("%s: data for %+v", mode, req)
			}
			if isData && !shows(snap, req, resp.Body) {
				t.Errorf("%s: %q for %+v, which the tree does not hold", mode, resp.Body, req)
			}
			if method == "GET" {
				head := *req
				head.Method = "HEAD"
				resp.Body = nil
				if other := respond(snap, tokens, Hosts{}, &head); render(&resp) != render(&other) {
					t.Errorf("%s: GET and HEAD differ for %+v", mode, req)
				}
			}
		}
	})
}

// shows reports whether body is what the tree holds at the target of a request. Unlike the code under test it looks for each
// name in the directory's list of children.
func shows(snap *build.Snapshot, req *Request, body []byte) bool {
	path, _, _ := strings.Cut(req.Target, "?")
	if !strings.HasPrefix(path, "/") {
		_, path, _ = strings.Cut(path[len("http://"):], "/")
	}
	v := snap.Root()
	for _, segment := range strings.FieldsFunc(path, func(c rune) bool { return c == '/' }) {
		name, err := url.PathUnescape(segment)
		if err != nil || !slices.Contains(slices.Collect(maps.Keys(maps.Collect(v.Children()))), name) {
			return false
		}
		v, _ = v.Child(name)
	}
	want := v.Bytes()
	if v.IsDir() {
		want = v.Listing()
	}
	return req.Method == http.MethodHead && len(body) == 0 || req.Method == http.MethodGet && bytes.Equal(body, want)
}

func checkWellFormed(t *testing.T, resp *Response, method string) {
	t.Helper()
	if reasons[resp.Status] == "" {
		t.Errorf("status %d", resp.Status)
	}
	seen := map[string]bool{}
	for _, h := range resp.lines {
		if seen[h.Name] || strings.ContainsAny(h.Name+h.Value, "\r\n\x00") {
			t.Errorf("header %q: %q", h.Name, h.Value)
		}
		seen[h.Name] = true
	}
	if length, err := strconv.Atoi(header(*resp, "Content-Length")); err != nil || method != "HEAD" && length != len(resp.Body) {
		t.Errorf("Content-Length %q for a body of %d bytes", header(*resp, "Content-Length"), len(resp.Body))
	}
}

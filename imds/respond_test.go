package imds

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
)

// A row is one line of the facts: a request and the complete answer to it.
type row struct {
	name string // the section and row of the facts
	// request is "METHOD TARGET" or "METHOD TARGET HTTP/1.0", then header lines. Without a Host line the Host is
	// 169.254.169.254; "Host:" alone means no Host. TOKEN stands for a valid token, EXPIRED for one that has expired, FOREIGN
	// for one of another instance.
	request string
	options map[string]string
	// want is the answer with plain newlines. TOKEN stands for a valid token.
	want string
}

var (
	optional = map[string]string{}
	required = map[string]string{"http-tokens": "required"}
	disabled = map[string]string{"http-endpoint": "disabled", "http-tokens": "required"}
	tagged   = map[string]string{"instance-metadata-tags": "enabled"}
)

const (
	date     = "Date: Tue, 03 Feb 2026 04:05:06 GMT\n"
	modified = "Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT\n"
	server   = "Server: EC2ws\n"
)

// The kinds of answer, with the header order of the captures.

func data(contentType, body string) string {
	return "HTTP/1.1 200 OK\nContent-Type: " + contentType + "\nAccept-Ranges: none\n" + modified +
		fmt.Sprintf("Content-Length: %d\n", len(body)) + date + server + "\n" + body
}

func text(body string) string { return data("text/plain", body) }

func issued(ttl int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: %d\nContent-Length: 56\n", ttl) +
		date + server + "Content-Type: text/plain\n\nTOKEN"
}

func empty(status string) string {
	return "HTTP/1.1 " + status + "\nContent-Length: 0\n" + date + server + "Content-Type: text/plain\n\n"
}

func allow(status, methods string) string {
	return "HTTP/1.1 " + status + "\nAllow: " + methods + "\nContent-Length: 0\n" + date + server + "Content-Type: text/plain\n\n"
}

func page(status string, length int, title string) string {
	return "HTTP/1.1 " + status + fmt.Sprintf("\nContent-Type: text/html\nContent-Length: %d\n", length) + date + server + "\n" +
		"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n" +
		"<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n" +
		"\t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n" +
		"<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n" +
		" <head>\n  <title>" + title + "</title>\n </head>\n" +
		" <body>\n  <h1>" + title + "</h1>\n </body>\n</html>\n"
}

var (
	notFound     = page("404 Not Found", 339, "404 - Not Found")
	badRequest   = empty("400 Bad Request") // of a PUT: the TTL
	malformed    = conn("close", page("400 Bad Request", 343, "400 - Bad Request"))
	unauthorized = empty("401 Unauthorized")
	forbidden    = empty("403 Forbidden")
)

// with adds the header with which answers to a valid token begin.
func with(remaining int, answer string) string {
	status, rest, _ := strings.Cut(answer, "\n")
	return fmt.Sprintf("%s\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: %d\n%s", status, remaining, rest)
}

// conn adds the Connection header in its place.
func conn(what, answer string) string {
	return strings.Replace(answer, server, server+"Connection: "+what+"\n", 1)
}

// headOf drops the body.
func headOf(answer string) string {
	head, _, _ := strings.Cut(answer, "\n\n")
	return head + "\n\n"
}

func parseRequest(t testing.TB, text string, placeholders map[string]string) *Request {
	t.Helper()
	lines := strings.Split(text, "\n")
	first := strings.Split(lines[0], " ")
	r := &Request{Method: first[0], Target: first[1], Minor: 1, Host: "169.254.169.254", Header: http.Header{}, MayGetToken: true}
	if len(first) > 2 {
		if _, err := fmt.Sscanf(first[2], "HTTP/1.%d", &r.Minor); err != nil {
			t.Fatalf("%q: %v", first[2], err)
		}
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("no header line: %q", line)
		}
		value = strings.TrimPrefix(value, " ")
		if name := strings.TrimSpace(value); placeholders[name] != "" {
			value = strings.Replace(value, name, placeholders[name], 1)
		}
		if strings.EqualFold(name, "Host") {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	return r
}

func render(r *Response) string {
	var b strings.Builder
	b.WriteString(r.statusLine() + "\n")
	for _, h := range r.lines {
		b.WriteString(h.Name + ": " + h.Value + "\n")
	}
	b.WriteString("\n")
	b.Write(r.Body)
	return b.String()
}

// elapsed since TOKEN was issued: 21518 of 21600 seconds are left, as in EC2's captures.
const elapsed = 82 * time.Second

func runRows(t *testing.T, rows []row) {
	t.Helper()
	tokens, clock := authority()
	placeholders := map[string]string{
		"EXPIRED": tokens.Issue(instanceID, 60),
		"FOREIGN": tokens.Issue("i-0ffffffffffffffff", 21600),
		"TOKEN":   tokens.Issue(instanceID, 21600),
	}
	clock.Advance(elapsed)
	hosts, err := NewHosts("metadata.test")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		names[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			resp := respond(snapshot(t, fixture(), r.options), tokens, hosts, parseRequest(t, r.request, placeholders))
			got := render(&resp)
			if body := string(resp.Body); strings.HasPrefix(body, "AQAEA") {
				if _, ok := tokens.Verify(instanceID, body); !ok {
					t.Errorf("the token %q is no good", body)
				}
				got = strings.TrimSuffix(got, body) + "TOKEN"
			}
			if got != r.want {
				t.Errorf("%s\n\ngot:\n%s\n\nwant:\n%s", r.request, got, r.want)
			}
			if says := strings.Contains(got, "\nConnection: close\n"); says != resp.Close {
				t.Errorf("Close is %t, but the header says %t", resp.Close, says)
			}
		})
	}
}

const (
	ttl = "\nX-aws-ec2-metadata-token-ttl-seconds: "
	tok = "\nX-aws-ec2-metadata-token: "
	put = "PUT /latest/api/token"
	id  = "GET /latest/meta-data/instance-id"
)

func TestTokenEndpoint(t *testing.T) {
	notAllowed := allow("405 Not Allowed", "OPTIONS, PUT")
	runRows(t, []row{
		{"§1.1 PUT, TTL 1", put + ttl + "1", optional, issued(1)},
		{"§1.1 PUT, TTL 21600", put + ttl + "21600", optional, issued(21600)},
		{"§1.1 PUT, tokens required", put + ttl + "60", required, issued(60)},
		{"§1.1 PUT, TTL header missing", put, optional, badRequest},
		{"§1.1 PUT, TTL > 21600", put + ttl + "21601", optional, badRequest},
		{"§1.1 PUT, TTL 0", put + ttl + "0", optional, badRequest},
		{"§1.1 PUT, TTL negative", put + ttl + "-1", optional, badRequest},
		{"§1.1 PUT, TTL with a plus sign", put + ttl + "+60", optional, badRequest},
		{"§1.1 PUT, TTL no number", put + ttl + "six", optional, badRequest},
		{"§1.1 PUT, TTL hexadecimal", put + ttl + "0x3c", optional, badRequest},
		{"§1.1 PUT, TTL with a unit", put + ttl + "60s", optional, badRequest},
		{"§1.1 PUT, TTL with a fraction", put + ttl + "60.0", optional, badRequest},
		{"§1.1 PUT, TTL two numbers", put + ttl + "60 60", optional, badRequest},
		{"§1.1 PUT, TTL empty", put + ttl, optional, badRequest},
		{"§1.1 PUT, TTL beyond 64 bits", put + ttl + "18446744073709551676", optional, badRequest},
		{"§1.1 PUT, TTL given twice", put + ttl + "60" + ttl + "60", optional, badRequest},
		{"§1.1 PUT, TTL with spaces around", put + ttl + " 60\t", optional, issued(60)},
		{"§1.1 PUT with X-Forwarded-For", put + ttl + "60\nX-Forwarded-For: 10.0.0.1", optional, forbidden},
		{"§1.1 PUT with an empty X-Forwarded-For", put + ttl + "60\nX-Forwarded-For:", optional, forbidden},
		{"§1.1 PUT, HttpEndpoint disabled", put + ttl + "60", disabled, forbidden},
		{"§1.1 PUT /<date>/api/token", "PUT /2021-03-23/api/token" + ttl + "60", optional, forbidden},
		{"§1.1 PUT /<date>/api/token, tokens required", "PUT /2021-03-23/api/token" + ttl + "60", required, forbidden},
		{"§1.1 PUT /latest/api/token/", put + "/" + ttl + "60", optional, forbidden},
		{"§1.1 PUT /latest/api/token//", put + "//" + ttl + "60", optional, forbidden},
		{"§1.1 PUT any other path", "PUT /latest/meta-data/instance-id" + ttl + "60", optional, forbidden},
		{"§1.1 PUT any other path, with a token", "PUT /latest/user-data" + tok + "TOKEN", optional, forbidden},
		{"§1.1 PUT /", "PUT /" + ttl + "60", optional, forbidden},
		{"§1.1 PUT below the token path", put + "/x" + ttl + "60", optional, forbidden},
		{"§1.1 PUT, another case of the path", "PUT /latest/API/token" + ttl + "60", optional, forbidden},
		{"§1.1 PUT, percent-encoded path", "PUT /latest/api/%74oken" + ttl + "60", optional, forbidden},
		{"§1.1 PUT, dots in the path", "PUT /latest/meta-data/../api/token" + ttl + "60", optional, forbidden},
		{"§1.1 GET on the token path", "GET /latest/api/token", optional, notAllowed},
		{"§1.1 GET on the token path, tokens required", "GET /latest/api/token", required, notAllowed},
		{"§1.1 HEAD on the token path", "HEAD /latest/api/token", optional, notAllowed},
		{"§1.1 POST on the token path", "POST /latest/api/token" + ttl + "60", optional, notAllowed},
		{"§1.1 DELETE on the token path", "DELETE /latest/api/token", optional, notAllowed},
		{"§1.1 PATCH on the token path", "PATCH /latest/api/token", optional, notAllowed},
		{"§1.1 an unknown method on the token path", "put /latest/api/token" + ttl + "60", optional, notAllowed},
		{"§1.1 GET with X-Forwarded-For on the token path", "GET /latest/api/token\nX-Forwarded-For: 10.0.0.1", optional, notAllowed},
		{"§1.1 GET on the token path, the client closes", "GET /latest/api/token\nConnection: close", optional, conn("close", notAllowed)},
		{"§1.1 OPTIONS on the token path", "OPTIONS /latest/api/token", required, allow("200 OK", "OPTIONS, PUT")},
		{"§1.1 GET /latest/api/token/", "GET /latest/api/token/", optional, notFound},
		{"§1.1 GET /<date>/api/token", "GET /2021-03-23/api/token", optional, notFound},
		{"§1.2 PUT 200 when the client closes", put + ttl + "21600\nConnection: close", optional, conn("close", issued(21600))},
		{"§1.2 header names in lower case", put + "\nx-aws-ec2-metadata-token-ttl-seconds: 60", optional, issued(60)},
		{"§1.2 header names in upper case", put + "\nX-AWS-EC2-METADATA-TOKEN-TTL-SECONDS: 60", optional, issued(60)},
		{"§2.2 double slashes on the token path", "PUT //latest//api/token" + ttl + "60", optional, issued(60)},
		{"§2.2 a query on the token path", put + "?a=%zz" + ttl + "60", optional, issued(60)},
		{"§10 PUT with a form content type", put + ttl + "300\nContent-Type: application/x-www-form-urlencoded", optional, issued(300)},
		{"§10 PUT chunked with Expect", put + ttl + "21600\nExpect: 100-continue", optional, conn("close", page("417 Expectation Failed", 357, "417 - Expectation Failed"))},
	})
}

func TestTokenedAndTokenlessRequests(t *testing.T) {
	const xff = "\nX-Forwarded-For: 10.0.0.1"
	value := text(instanceID)
	notAllowed := allow("405 Not Allowed", "GET, HEAD, OPTIONS")
	runRows(t, []row{
		{"§1.1 GET data, valid token, tokens required", id + tok + "TOKEN", required, with(21518, value)},
		{"§1.1 GET data, valid token, tokens optional", id + tok + "TOKEN", optional, with(21518, value)},
		{"§1.1 HEAD data, valid token", "HEAD /latest/meta-data/instance-id" + tok + "TOKEN", required, headOf(with(21518, value))},
		{"§1.1 HEAD on data path", "HEAD /latest/meta-data/public-ipv4", optional, headOf(text("203.0.113.25"))},
		{"§1.1 HEAD on data path, tokenless when required", "HEAD /latest/meta-data/public-ipv4", required, unauthorized},
		{"§1.1 HEAD on a listing", "HEAD /latest/", optional, headOf(text("dynamic\nmeta-data\nuser-data"))},
		{"§1.1 HEAD on what is not there", "HEAD /latest/meta-data/nothing", optional, headOf(notFound)},
		{"§1.1 GET data, token expired, required", id + tok + "EXPIRED", required, unauthorized},
		{"§1.1 GET data, token garbage, required", id + tok + "garbage", required, unauthorized},
		{"§1.1 GET data, another instance's token, required", id + tok + "FOREIGN", required, unauthorized},
		{"§1.1 GET data, token expired, optional", id + tok + "EXPIRED", optional, unauthorized},
		{"§1.1 GET data, token garbage, optional", id + tok + "garbage", optional, unauthorized},
		{"§1.1 GET data, another instance's token, optional", id + tok + "FOREIGN", optional, unauthorized},
		{"§1.1 GET data, empty token header, optional", id + tok, optional, unauthorized},
		{"§1.1 GET data, empty token header, required", id + tok, required, unauthorized},
		{"§1.1 GET data, TTL header but no token", id + ttl + "21600", optional, unauthorized},
		{"§1.1 GET data, TTL header and a token", id + ttl + "21600" + tok + "TOKEN", optional, with(21518, value)},
		{"§1.1 GET data, two tokens", id + tok + "TOKEN" + tok + "TOKEN", optional, unauthorized},
		{"§1.1 GET data, a huge token", id + tok + strings.Repeat("A", 10000), optional, unauthorized},
		{"§1.1 GET data, spaces around the token", id + tok + " TOKEN\t", required, with(21518, value)},
		{"§1.1 GET data, no token, optional", id, optional, value},
		{"§1.1 GET data, no token, required", id, required, unauthorized},
		{"§1.1 GET data, no token, required, the client closes", id + "\nConnection: close", required, conn("close", unauthorized)},
		{"§1.1 GET /, no token, required", "GET /", required, unauthorized},
		{"§2.1 GET /latest/, no token, required", "GET /latest/", required, unauthorized},
		{"§2.5 GET what is not there, no token, required", "GET /latest/nothing", required, unauthorized},
		{"§2.5 GET an unknown version, no token, required", "GET /1999-01-01/", required, unauthorized},
		{"§2.2 GET dots, no token, required", "GET /latest/../latest", required, unauthorized},
		{"§1.1 GET data, token + X-Forwarded-For", id + tok + "TOKEN" + xff, optional, forbidden},
		{"§1.1 GET data, token + X-Forwarded-For, required", id + tok + "TOKEN" + xff, required, forbidden},
		{"§2.5 GET data, invalid token + X-Forwarded-For", id + tok + "garbage" + xff, optional, forbidden},
		{"§1.1 GET data, no token + X-Forwarded-For, optional", id + xff, optional, value},
		{"§1.1 GET data, no token + X-Forwarded-For, required", id + xff, required, unauthorized},
		{"§1.1 POST on a data path", "POST /latest/meta-data/instance-id", optional, notAllowed},
		{"§1.1 DELETE on a data path", "DELETE /latest/user-data", optional, notAllowed},
		{"§1.1 PATCH on a data path with a token", "PATCH /latest/user-data" + tok + "TOKEN", required, notAllowed},
		{"§1.1 POST on what is not there", "POST /latest/nothing", optional, notAllowed},
		{"§1.1 POST without token, required", "POST /latest/meta-data/instance-id", required, unauthorized},
		{"§1.1 OPTIONS on a data path", "OPTIONS /latest/meta-data/", optional, allow("200 OK", "GET, HEAD, OPTIONS")},
		{"§1.2 remaining seconds on a listing", "GET /" + tok + "TOKEN", required, with(21518, text(versions))},
		{"§1.2 remaining seconds on a 404", "GET /latest/nothing" + tok + "TOKEN", required, with(21518, notFound)},
		{"§1.2 remaining seconds when the client closes", id + tok + "TOKEN\nConnection: close", required, conn("close", with(21518, value))},
		{"§2.5 GET data, endpoint disabled", id + tok + "TOKEN", disabled, forbidden},
		{"§2.5 GET what is not there, endpoint disabled", "GET /nothing", disabled, forbidden},
		{"§2.5 GET on the token path, endpoint disabled", "GET /latest/api/token", disabled, forbidden},
	})
}

func TestFirstFailingCheckAnswers(t *testing.T) {
	const xff, expect, evil = "\nX-Forwarded-For: 10.0.0.1", "\nExpect: 100-continue", "\nHost: evil.test"
	expectation := conn("close", page("417 Expectation Failed", 357, "417 - Expectation Failed"))
	runRows(t, []row{
		{"§2.5 malformed before Host", "GET /%zz" + evil + expect, disabled, malformed},
		{"§2.5 Host before Expect", id + evil + expect, disabled, forbidden},
		{"§2.5 Expect before disabled", id + expect, disabled, expectation},
		{"§2.5 Expect with any value", id + "\nExpect: tea", optional, expectation},
		{"§2.5 Expect without value", id + "\nExpect:", optional, expectation},
		{"§2.5 Expect with HEAD", "HEAD /latest/" + expect, optional, headOf(expectation)},
		{"§2.5 disabled before method", "POST /latest/api/token" + xff, disabled, forbidden},
		{"§2.5 method before X-Forwarded-For", "POST /latest/api/token" + xff, optional, allow("405 Not Allowed", "OPTIONS, PUT")},
		{"§2.5 X-Forwarded-For before TTL", put + xff, optional, forbidden},
		{"§2.5 PUT elsewhere before token", "PUT /latest/meta-data/" + tok + "garbage", required, forbidden},
		{"§2.5 X-Forwarded-For before token", id + tok + "garbage" + xff, required, forbidden},
		{"§2.5 token before method", "POST /latest/" + tok + "garbage", optional, unauthorized},
		{"§2.5 method before path", "POST /nothing", optional, allow("405 Not Allowed", "GET, HEAD, OPTIONS")},
	})
}

func TestPeerThatMayNotHaveATokenGetsNone(t *testing.T) {
	tokens, _ := authority()
	req := parseRequest(t, put+ttl+"60", nil)
	req.MayGetToken = false
	resp := respond(snapshot(t, fixture(), nil), tokens, Hosts{}, req)
	if got := render(&resp); got != forbidden {
		t.Errorf("got:\n%s\nwant:\n%s", got, forbidden)
	}
}

func TestOnlyAnswersWithATokenLimitHops(t *testing.T) {
	tokens, _ := authority()
	for _, limit := range []int{1, 2, 64} {
		snap := snapshot(t, fixture(), map[string]string{"http-put-response-hop-limit": fmt.Sprint(limit)})
		for request, want := range map[string]int{
			put + ttl + "60":            limit,
			put + ttl + "0":             0,
			put + "/" + ttl + "60":      0,
			"OPTIONS /latest/api/token": 0,
			id:                          0,
		} {
			if resp := respond(snap, tokens, Hosts{}, parseRequest(t, request, nil)); resp.HopLimit != want {
				t.Errorf("limit %d, %q: HopLimit %d, want %d", limit, request, resp.HopLimit, want)
			}
		}
	}
}

func TestBeforeTheFirstSnapshotTheAnswerIsRetry(t *testing.T) {
	tokens, _ := authority()
	for _, request := range []string{id, put + ttl + "60", "GET /", "POST /latest/api/token"} {
		resp := respond(nil, tokens, Hosts{}, parseRequest(t, request, nil))
		if got, want := render(&resp), empty("503 Service Unavailable"); got != want {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", request, got, want)
		}
	}
}

func TestTokenIsAskedForAndUsed(t *testing.T) {
	tokens, clock := authority()
	snap := snapshot(t, fixture(), required)
	resp := respond(snap, tokens, Hosts{}, parseRequest(t, put+ttl+"2", nil))
	issued := string(resp.Body)
	if len(issued) != token.Length {
		t.Fatalf("token %q", issued)
	}
	get := func() string {
		resp := respond(snap, tokens, Hosts{}, parseRequest(t, id+tok+issued, nil))
		return render(&resp)
	}
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{0, with(2, text(instanceID))},
		{time.Second, with(1, text(instanceID))},
		{999 * time.Millisecond, with(1, text(instanceID))},
		{time.Millisecond, unauthorized},
	} {
		clock.Advance(step.after)
		if got := get(); got != step.want {
			t.Errorf("%s later got:\n%s\nwant:\n%s", step.after, got, step.want)
		}
	}
}

func TestRespondLeavesItsInputAlone(t *testing.T) {
	tokens, _ := authority()
	snap := snapshot(t, fixture(), nil)
	req := parseRequest(t, id+"\nConnection: Close, TE\nX-Other: 1", nil)
	before := maps.Clone(req.Header)
	first := respond(snap, tokens, Hosts{}, req)
	second := respond(snap, tokens, Hosts{}, req)
	if render(&first) != render(&second) {
		t.Error("the same request is answered in two ways")
	}
	if !maps.EqualFunc(before, req.Header, slices.Equal[[]string]) {
		t.Error("the headers of the request were changed")
	}
}

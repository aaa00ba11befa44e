package imds

import (
	"net/http"
	"net/url"
	"strings"
)

// A Request is what [Service.Respond] needs to know of one HTTP/1 request.
type Request struct {
	Method string
	Target string // as on the wire: "/latest/meta-data/", "http://host/…", with its query
	Minor  int    // of the protocol version: 0 for HTTP/1.0
	Host   string // the value of the Host header, "" if there is none
	// Header holds the other headers by their canonical names (as net/http makes them). Only those of HeaderNames matter. A
	// header without values counts as absent.
	Header http.Header
	// MayGetToken is whether the peer may have a session token at all.
	MayGetToken bool
	// Close ends the connection after the answer, whatever the client asks for.
	Close bool
}

// HeaderNames are the canonical names of the headers in Request.Header that [Service.Respond] reads.
func HeaderNames() []string {
	return []string{"Connection", "Expect", "X-Forwarded-For", tokenHeader, ttlHeader}
}

func (r *Request) has(name string) bool { return len(r.Header[name]) > 0 }

// IsV2 reports whether the request is one of version 2: it has a header that only version 2 knows.
func (r *Request) IsV2() bool { return r.has(tokenHeader) || r.has(ttlHeader) }

// persistence decides whether the connection stays open: HTTP/1.1 does unless the client says close, HTTP/1.0 only if the
// client asks for keep-alive.
func (r *Request) persistence() connection {
	var wantsClose, wantsKeep bool
	for _, line := range r.Header["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.Trim(option, " \t")
			wantsClose = wantsClose || strings.EqualFold(option, "close")
			wantsKeep = wantsKeep || strings.EqualFold(option, "keep-alive")
		}
	}
	switch {
	case r.Close || wantsClose:
		return connClose
	case r.Minor >= 1:
		return connOpen
	case wantsKeep:
		return connKeepAlive
	}
	return connClose
}

// A target is a parsed request target without its query.
type target struct {
	absolute  bool     // absolute-form, http://authority/path
	authority string   // of the absolute-form
	isToken   bool     // exactly the token path
	segments  []string // decoded once, empty ones left out
}

// parseTarget reads the origin-form and the absolute-form (RFC 9112 §3.2). Any other form is malformed, and so is a percent
// sign without two hexadecimal digits. The segments go into room while they fit.
func parseTarget(raw string, room ...string) (t target, ok bool) {
	path, _, _ := strings.Cut(raw, "?")
	const scheme = "http://"
	switch {
	case strings.HasPrefix(path, "/"):
	case len(path) >= len(scheme) && strings.EqualFold(path[:len(scheme)], scheme):
		t.absolute = true
		t.authority, path, _ = strings.Cut(path[len(scheme):], "/")
		path = "/" + path
	default:
		return target{}, false
	}
	t.segments = room[:0]
	t.isToken = !strings.HasSuffix(path, "/")
	for rest, segment := path, ""; rest != ""; {
		if segment, rest, _ = strings.Cut(rest, "/"); segment == "" {
			continue
		}
		name, err := url.PathUnescape(segment)
		if err != nil {
			return target{}, false
		}
		if n := len(t.segments); n >= len(tokenPath) || segment != tokenPath[n] { // before decoding
			t.isToken = false
		}
		t.segments = append(t.segments, name)
	}
	t.isToken = t.isToken && len(t.segments) == len(tokenPath)
	return t, true
}

// Package imds is the protocol of the EC2 instance metadata service, versions 1 and 2, as a pure function:
// [Service.Respond] turns a [Tree] and a [Request] into a [Response] and touches nothing else. Package imds/edge has the
// sockets, limits and time-outs, imds/token the tokens.
//
//	bytes ──▶ edge ──▶ Request ──▶ Respond ──▶ Response ──▶ AppendHead, Body ──▶ edge ──▶ bytes
//	                                  ▲
//	build.Snapshot ──▶ Tree ─────────┘
//
// Every request goes through the same checks in this order. The first that fails decides the answer:
//
//	400  the target is malformed, or an HTTP/1.1 request names no host
//	403  the host is not one of ours ([Hosts]: a guard against DNS rebinding)
//	417  there is an Expect header
//	503  there is no snapshot yet
//	403  http-endpoint is disabled
//	     on /latest/api/token: 405 not PUT, 403 forwarded, 400 bad TTL, else 200 and a token
//	403  PUT on any other path
//	403  a token, but forwarded
//	401  an invalid token, or none where one is required
//	405  neither GET, HEAD nor OPTIONS
//	404  no such path in this version
//
// So a client without the token that the options require learns nothing about the tree, not even which paths exist. A
// header of version 2 makes the request one of version 2: an invalid token is 401 even while tokens are optional.
//
// Status lines, the order of headers and bodies are those of EC2's current servers (Server: EC2ws, captured 2020 to
// 2026). Three things are ours: the check of the Host header, connections that stay open, and 503 before the first
// snapshot, which EC2 documents without an example.
package imds

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
)

// tokenPath is the one path that issues tokens: not with a final slash, not below another version, not percent-encoded
// (EC2 user guide, "Retrieve instance metadata").
var tokenPath = []string{"latest", "api", "token"}

// A Service answers requests. It does not change.
type Service struct {
	Tokens *token.Authority
	Hosts  Hosts
}

// Respond answers one request from a tree, which is nil before the first one is published. now is the wall clock, for the
// Date header. The same arguments give the same response, a new token apart.
func (s *Service) Respond(answers *Answers, now time.Time, req *Request) Response {
	var room [12]string // for the segments of any path that exists
	target, ok := parseTarget(req.Target, room[:]...)
	if !ok || req.Minor >= 1 && req.Host == "" {
		bad := answer{now: now, conn: connClose, head: req.Method == http.MethodHead}
		return bad.page(http.StatusBadRequest)
	}
	a := answer{now: now, conn: req.persistence(), head: req.Method == http.MethodHead}
	host := req.Host
	if target.absolute {
		// RFC 9112 §3.2.2: it replaces the Host header. (A copy keeps room on the stack.)
		host = strings.Clone(target.authority)
	}
	if (host != "" || target.absolute) && !s.Hosts.Allow(host) {
		refused := a.plain(http.StatusForbidden)
		refused.RefusedHost = refusedName(host)
		return refused
	}
	if req.has("Expect") {
		a.conn = connClose // the body, if one comes, is not read
		return a.page(http.StatusExpectationFailed)
	}
	if answers == nil {
		return a.plain(http.StatusServiceUnavailable)
	}
	opts := answers.snapshot.Options()
	if !opts.HTTPEndpoint {
		return a.plain(http.StatusForbidden)
	}
	if target.isToken {
		return s.respondToken(a, answers.snapshot.InstanceID(), opts.HopLimit, req)
	}
	if req.Method == http.MethodPut {
		return a.plain(http.StatusForbidden)
	}
	return s.respondData(a, answers, target.segments, req)
}

// respondToken answers on the token path.
func (s *Service) respondToken(a answer, instanceID string, hopLimit int, req *Request) Response {
	switch req.Method {
	case http.MethodPut:
	case http.MethodOptions:
		return a.allow(http.StatusOK, allowToken)
	default:
		return a.allow(http.StatusMethodNotAllowed, allowToken)
	}
	// A forwarded PUT comes through a proxy that an attacker may have tricked into sending it. The client behind it must
	// not get a token.
	if req.has("X-Forwarded-For") || !req.MayGetToken {
		return a.plain(http.StatusForbidden)
	}
	ttl, ok := parseTTL(req.Header[ttlHeader])
	if !ok {
		return a.plain(http.StatusBadRequest)
	}
	return a.token(s.Tokens.Issue(instanceID, ttl), ttl, hopLimit)
}

// parseTTL reads the only value of the TTL header: decimal digits in range, which spaces may surround.
func parseTTL(values []string) (seconds int, ok bool) {
	if len(values) != 1 {
		return 0, false
	}
	digits := strings.Trim(values[0], " \t")
	if strings.Trim(digits, "0123456789") != "" {
		return 0, false // Atoi would accept a sign
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= token.MinTTLSeconds && n <= token.MaxTTLSeconds
}

// respondData answers on every path but the token path, and every method but PUT.
func (s *Service) respondData(a answer, answers *Answers, segments []string, req *Request) Response {
	switch given := req.Header[tokenHeader]; {
	case len(given) > 0:
		if req.has("X-Forwarded-For") {
			return a.plain(http.StatusForbidden)
		}
		if len(given) > 1 {
			return a.plain(http.StatusUnauthorized)
		}
		remaining, ok := s.Tokens.Verify(answers.snapshot.InstanceID(), strings.Trim(given[0], " \t"))
		if !ok {
			return a.plain(http.StatusUnauthorized)
		}
		a.remaining = remaining
	case req.has(ttlHeader), answers.snapshot.Options().TokensRequired:
		return a.plain(http.StatusUnauthorized)
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		return a.allow(http.StatusOK, allowData)
	default:
		return a.allow(http.StatusMethodNotAllowed, allowData)
	}
	v, ok := lookup(answers.snapshot, segments)
	if !ok {
		return a.page(http.StatusNotFound)
	}
	return a.data(answers.entity(v))
}

// lookup walks from "/". No name in the tree holds a slash or NUL, or is "." or "..", so a decoded segment of that kind
// finds nothing. There is nothing below a leaf.
func lookup(snap *build.Snapshot, segments []string) (v tree.View, ok bool) {
	v = snap.Root()
	for _, name := range segments {
		if v, ok = v.Child(name); !ok {
			return tree.View{}, false
		}
	}
	return v, true
}

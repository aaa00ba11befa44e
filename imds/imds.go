// Package imds is the protocol of the EC2 instance metadata service, versions 1 and 2, as a pure
// function: [Respond] turns a snapshot and a [Request] into a [Response] and touches nothing else.
// Sockets, limits and time-outs are the business of package imds/edge, tokens of imds/token.
//
// Every request goes through the same checks, in this order, and the first that fails answers:
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
// So nothing about the tree shows without the token that the options ask for, not even which paths
// exist. A header of version 2 means that the request is meant as version 2: an invalid token is 401
// also while tokens are optional.
//
// Status lines, the order of headers and bodies are those of EC2's current servers (Server: EC2ws,
// captured 2020 to 2026). Three things are ours: the check of the Host header, connections that stay
// open, and 503 before the first snapshot, which EC2 documents without showing it.
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

// tokenPath is where tokens are to be had, and nowhere else: not with a final slash, not below
// another version, not percent-encoded (EC2 user guide, "Retrieve instance metadata").
var tokenPath = []string{"latest", "api", "token"}

// Respond answers one request from snap, which is nil before the first one is published. now is the
// wall clock, for the Date header. The same arguments give the same response, a new token apart.
func Respond(snap *build.Snapshot, tokens *token.Authority, now time.Time, hosts Hosts, req *Request) Response {
	var room [12]string // for the segments of any path that exists
	target, ok := parseTarget(req.Target, room[:]...)
	if !ok || req.Minor >= 1 && req.Host == "" {
		bad := answer{now: now, conn: connClose, head: req.Method == http.MethodHead}
		return bad.page(http.StatusBadRequest)
	}
	a := answer{now: now, conn: req.persistence(), head: req.Method == http.MethodHead}
	host := req.Host
	if target.absolute {
		// RFC 9112 §3.2.2: it replaces the Host header. (A copy, so that room stays on the stack.)
		host = strings.Clone(target.authority)
	}
	if (host != "" || target.absolute) && !hosts.Allow(host) {
		refused := a.plain(http.StatusForbidden)
		refused.RefusedHost = refusedName(host)
		return refused
	}
	if req.has("Expect") {
		a.conn = connClose // the body, if one comes, is not read
		return a.page(http.StatusExpectationFailed)
	}
	if snap == nil {
		return a.plain(http.StatusServiceUnavailable)
	}
	opts := snap.Options()
	if !opts.HTTPEndpoint {
		return a.plain(http.StatusForbidden)
	}
	if target.isToken {
		return respondToken(a, snap.InstanceID(), opts.HopLimit, tokens, req)
	}
	if req.Method == http.MethodPut {
		return a.plain(http.StatusForbidden)
	}
	return respondData(a, snap, tokens, target.segments, req)
}

// respondToken answers on the token path.
func respondToken(a answer, instanceID string, hopLimit int, tokens *token.Authority, req *Request) Response {
	switch req.Method {
	case http.MethodPut:
	case http.MethodOptions:
		return a.allow(http.StatusOK, allowToken)
	default:
		return a.allow(http.StatusMethodNotAllowed, allowToken)
	}
	// A forwarded PUT comes through a proxy that may have been talked into it; its client must
	// not get a token.
	if req.has("X-Forwarded-For") || !req.MayGetToken {
		return a.plain(http.StatusForbidden)
	}
	ttl, ok := parseTTL(req.Header[ttlHeader])
	if !ok {
		return a.plain(http.StatusBadRequest)
	}
	return a.token(tokens.Issue(instanceID, ttl), ttl, hopLimit)
}

// parseTTL reads the one value of the TTL header: decimal digits, in range, spaces around them.
func parseTTL(values []string) (seconds int, ok bool) {
	if len(values) != 1 {
		return 0, false
	}
	digits := strings.Trim(values[0], " \t")
	if strings.Trim(digits, "0123456789") != "" {
		return 0, false // a sign, which Atoi would take
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= token.MinTTLSeconds && n <= token.MaxTTLSeconds
}

// respondData answers on every path but the token's, for every method but PUT.
func respondData(a answer, snap *build.Snapshot, tokens *token.Authority, segments []string, req *Request) Response {
	switch given := req.Header[tokenHeader]; {
	case len(given) > 0:
		if req.has("X-Forwarded-For") {
			return a.plain(http.StatusForbidden)
		}
		if len(given) > 1 {
			return a.plain(http.StatusUnauthorized)
		}
		remaining, ok := tokens.Verify(snap.InstanceID(), strings.Trim(given[0], " \t"))
		if !ok {
			return a.plain(http.StatusUnauthorized)
		}
		a.remaining = remaining
	case req.has(ttlHeader), snap.Options().TokensRequired:
		return a.plain(http.StatusUnauthorized)
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		return a.allow(http.StatusOK, allowData)
	default:
		return a.allow(http.StatusMethodNotAllowed, allowData)
	}
	v, ok := lookup(snap, segments)
	if !ok {
		return a.page(http.StatusNotFound)
	}
	return a.data(v)
}

// lookup walks from "/". No name in the tree holds a slash or NUL, or is "." or "..", so a decoded
// segment that does finds nothing; nor is there anything below a leaf.
func lookup(snap *build.Snapshot, segments []string) (v tree.View, ok bool) {
	v = snap.Root()
	for _, name := range segments {
		if v, ok = v.Child(name); !ok {
			return tree.View{}, false
		}
	}
	return v, true
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Hints for errors of an instance metadata service.
const (
	hintForbidden = "enable http-endpoint, make the service answer to this name (serve --host), or keep proxies from adding X-Forwarded-For"
	hintStranger  = "see what runs there, or point at another with --endpoint"
	hintNoDaemon  = "start one with: imdsfs serve; or point at one with --endpoint URL or " + client.EndpointVariable
	hintV1        = "; --v1 asks without a token"
)

// A service is the instance metadata service that a subcommand reads. Its methods add hints to the errors of the client.
type service struct {
	client   *client.Client
	fallback bool          // no endpoint is named and no daemon of ours listens, so the link-local address is asked
	timeout  time.Duration // of a request
}

// get returns the body at an absolute path. The error is [client.ErrNotFound] for 404; any other has its hint.
func (s *service) get(ctx context.Context, path string) ([]byte, error) {
	body, err := s.client.Get(ctx, path)
	return body, s.explain(err)
}

// explain adds a hint to an error, and the address that was asked if the user named none.
func (s *service) explain(err error) error {
	hint, ok := adviceFor(err)
	switch {
	case !ok:
		return err
	case !s.fallback, errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrBadName):
		return problem.Failed(hint, err)
	}
	return problem.Failed(strings.TrimSuffix(hintNoDaemon+"; there: "+hint, "; there: "),
		fmt.Errorf("%w (no imdsfs daemon listens here, so %s was asked)", err, s.client.Endpoint()))
}

// adviceFor returns the hint for an error of the client. It is not ok for an error that subcommands explain themselves, such as
// 404.
func adviceFor(err error) (hint string, ok bool) {
	var refused *client.Refused
	noToken := errors.Is(err, client.ErrNoToken)
	switch {
	case errors.Is(err, client.ErrUnreachable):
		return hintNoDaemon, true
	case errors.Is(err, client.ErrTimeout) && noToken:
		return "from a container or through a proxy http-put-response-hop-limit must be 2 or more" + hintV1, true
	case errors.Is(err, client.ErrTimeout):
		return "see whether the service is well, or wait longer with --timeout", true
	case errors.As(err, &refused):
		return adviceForStatus(refused, noToken), true
	case noToken, errors.Is(err, client.ErrBroken), errors.Is(err, client.ErrBadName):
		return hintStranger, true
	}
	return "", false
}

// adviceForStatus returns the hint for the status code of an answer, "" if there is none.
func adviceForStatus(refused *client.Refused, noToken bool) string {
	switch code := refused.Code; {
	case code == http.StatusForbidden && noToken:
		return hintForbidden + hintV1
	case code == http.StatusMethodNotAllowed && noToken, code == http.StatusNotFound:
		return "the service does not know IMDSv2: --v1 asks without a token"
	case code == http.StatusUnauthorized && refused.V1:
		return "the service requires a session token (http-tokens is required): leave out --v1"
	case code == http.StatusUnauthorized:
		return "the service refuses the token that it has just given: see whether more than one answers at this address"
	case code == http.StatusForbidden:
		return hintForbidden
	case code >= 300 && code < 400:
		return "redirects are not followed: point at the service itself with --endpoint"
	case code >= 500 && code < 600:
		return "try again in a moment"
	}
	return ""
}

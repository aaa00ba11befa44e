package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// What can go wrong, for errors.Is. See [Refused] too.
var (
	// ErrNotFound is the answer 404.
	ErrNotFound = errors.New("no such metadata")
	// ErrUnreachable says that nobody accepts a connection at the endpoint.
	ErrUnreachable = errors.New("no instance metadata service answers")
	// ErrTimeout says that somebody accepted the connection and did not answer in time.
	ErrTimeout = errors.New("no answer in time")
	// ErrBroken says that the answer broke off, or is no HTTP. It is no part of the message.
	ErrBroken = errors.New("the answer cannot be read")
	// ErrNoToken says that the service gave no session token: it refused the request ([Refused]), did not answer it
	// ([ErrTimeout]), or answered with something else.
	ErrNoToken = errors.New("no session token")
	// ErrBadName is about a line of a listing that could lead elsewhere, or plays with the terminal.
	ErrBadName = errors.New("which cannot be a name")
)

// Refused is an answer whose status is neither 200 nor 404.
type Refused struct {
	Method string
	URL    string
	Code   int  // of HTTP
	V1     bool // the client asks without a session token
}

func (e *Refused) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Method, e.URL, strings.TrimSpace(fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code))))
}

func (c *Client) refused(method, path string, code int) error {
	return &Refused{Method: method, URL: c.url(path).String(), Code: code, V1: c.config.V1}
}

// MayPass reports whether another try may go better: nobody answers, nothing is at the path, or the service is not well.
// What a service refuses stays refused.
func MayPass(err error) bool {
	var refused *Refused
	if errors.As(err, &refused) {
		return refused.Code >= http.StatusInternalServerError
	}
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrTimeout) || errors.Is(err, ErrBroken)
}

// broken is an error that is [ErrBroken] and does not say so.
type broken struct{ error }

func (e broken) Unwrap() []error { return []error{ErrBroken, e.error} }

// explain turns what net/http says of a failed request into what it means.
func (c *Client) explain(method, path string, err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &op) && op.Op == "dial":
		text := op.Err.Error()
		if op.Timeout() {
			text = "connect: timed out"
		}
		return fmt.Errorf("%w at %s: %s", ErrUnreachable, c.config.Endpoint, text)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s %s: %w (%s)", method, c.url(path), ErrTimeout, c.config.Timeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the connection was closed before the whole answer came")
	}
	return broken{fmt.Errorf("%s %s: %w", method, c.url(path), err)}
}

// Package client reads an instance metadata service (IMDS): EC2's, imdsfs, or any other.
//
//	c := client.New(client.Config{Endpoint: endpoint})
//	body, err := c.Get(ctx, "/latest/meta-data/mac")   // the bytes, or ErrNotFound
//	names, err := c.List(ctx, client.ParsePath("/latest"))
//	for place, err := range c.Walk(ctx, "/latest", nil) { … }
//
// The data takes one way:
//
//	Walk, Correct ──▶ List ──▶ Get ──▶ PUT for a session token, once ──▶ GET ──▶ the body
//
// A client never uses a proxy, follows no redirect, and asks without a token (IMDSv1) only if it is told to. Every
// answer is bounded in time and size, and every name in a listing is checked: the service may be anything that listens
// at the address.
//
// Errors say what is wrong and with which request ([ErrNotFound], [ErrUnreachable], [ErrTimeout], [ErrBroken],
// [ErrNoToken], [ErrBadName], [Refused]). They hold no advice: what to do depends on how the service was found and on the
// flags of a subcommand, which the command line knows.
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
	"sync"
	"time"
)

const (
	DefaultTimeout = 5 * time.Second // of a request
	ConnectTimeout = 3 * time.Second // to connect, at most

	tokenPath   = "/latest/api/token"
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	tokenTTL    = "21600" // seconds; the most that EC2 gives

	maxAnswer      = 1<<20 + 64<<10 // bytes: the largest leaf, and room for a service that allows more
	maxToken       = 1 << 10        // bytes; EC2's have 56
	maxHeaderBytes = 64 << 10
)

// A Config says which service to read, and how. Only Endpoint must be given.
type Config struct {
	Endpoint *url.URL      // of the service, as [ParseEndpoint] makes it
	V1       bool          // ask without a session token (IMDSv1)
	Timeout  time.Duration // of each request; 0: [DefaultTimeout]
}

// A Client reads one service. It fetches a session token for the first request, keeps it, and renews it when the service
// refuses it. It is safe for concurrent use.
type Client struct {
	config Config
	http   *http.Client

	mu    sync.Mutex
	token string // "" until the first request, and after a refusal
}

// New returns a client. It asks nothing yet.
func New(config Config) *Client {
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	return &Client{config: config, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // instance metadata never goes through a proxy
			DialContext:            NewDialer(config.Timeout).DialContext,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// NewDialer returns a dialer for requests that may take that long. At most half of the time goes into connecting, so that
// the two time-outs can be told apart.
func NewDialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: min(ConnectTimeout, timeout/2)}
}

// Endpoint is the address of the service.
func (c *Client) Endpoint() *url.URL { return c.config.Endpoint }

// Get returns the body at an absolute path that is not percent-encoded. Two slashes stay two, as typed.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	for renewed := false; ; renewed = true {
		header := http.Header{}
		token := ""
		if !c.config.V1 {
			var err error
			if token, err = c.sessionToken(ctx); err != nil {
				return nil, err
			}
			header.Set(tokenHeader, token)
		}
		code, body, err := c.do(ctx, http.MethodGet, path, header, maxAnswer)
		switch {
		case err != nil:
			return nil, err
		case code == http.StatusOK:
			return body, nil
		case code == http.StatusNotFound:
			return nil, ErrNotFound
		case code == http.StatusUnauthorized && !c.config.V1 && !renewed:
			c.forget(token) // it expired, or the service started anew
		default:
			return nil, c.refused(http.MethodGet, path, code)
		}
	}
}

// sessionToken returns the token that is kept, or else a new one.
func (c *Client) sessionToken(ctx context.Context) (string, error) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token != "" {
		return token, nil
	}
	token, err := c.newToken(ctx)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
	return token, nil
}

// forget drops a token that was refused, unless another request has renewed it already.
func (c *Client) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = ""
	}
}

func (c *Client) newToken(ctx context.Context) (string, error) {
	code, body, err := c.do(ctx, http.MethodPut, tokenPath, http.Header{ttlHeader: {tokenTTL}}, maxToken)
	switch {
	case errors.Is(err, ErrTimeout):
		return "", fmt.Errorf("%w: %w", ErrNoToken, err)
	case err != nil:
		return "", err
	case code != http.StatusOK:
		return "", fmt.Errorf("%w: %w", ErrNoToken, c.refused(http.MethodPut, tokenPath, code))
	case len(body) == 0 || strings.ContainsFunc(string(body), func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%w: PUT %s: the answer is no token, so this is no instance metadata service", ErrNoToken, c.url(tokenPath))
	}
	return string(body), nil
}

// do sends one request and returns the status code and the body of an answer 200, which is at most limit bytes long.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, limit int64) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.config.Endpoint.String(), nil)
	if err != nil {
		return 0, nil, err
	}
	request.URL = c.url(path)
	header.Set("User-Agent", "imdsfs")
	request.Header = header
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, c.explain(method, path, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return 0, nil, c.explain(method, path, err)
	}
	if int64(len(body)) > limit {
		return 0, nil, fmt.Errorf("%s %s: the answer is longer than %d bytes", method, c.url(path), limit)
	}
	return response.StatusCode, body, nil
}

func (c *Client) url(path string) *url.URL {
	u := *c.config.Endpoint
	u.Path += path
	return &u
}

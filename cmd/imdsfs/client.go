package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	endpointVariable  = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	linkLocalEndpoint = "http://169.254.169.254"

	tokenTTL       = "21600" // seconds; the most that EC2 gives
	connectTimeout = 3 * time.Second
	requestTimeout = 5 * time.Second

	maxAnswer      = 1<<20 + 64<<10 // bytes: the largest leaf, and room for a service that allows more
	maxToken       = 1 << 10        // bytes; EC2's have 56
	maxHeaderBytes = 64 << 10

	hintForbidden = "enable http-endpoint, make the service answer to this name (serve --host), or keep proxies from adding X-Forwarded-For"
	hintStranger  = "see what runs there, or point at another with --endpoint"
	hintNoDaemon  = "start one with: imdsfs serve; or point at one with --endpoint URL or " + endpointVariable
)

var (
	// errNotFound is the answer 404.
	errNotFound = errors.New("no such metadata")
	errNobody   = errors.New("no instance metadata service answers")
)

// lastResort is asked where nothing is named and no daemon listens. A test has another.
var lastResort = linkLocalEndpoint

// clientFlags are the flags of the subcommands that read an instance metadata service.
type clientFlags struct {
	endpoint   string
	runtimeDir string
	v1         bool
	timeout    time.Duration
	local      bool // ask nobody else than a local daemon, unless an endpoint is named
}

// errNoListener says that no local daemon listens.
var errNoListener = errors.New("no imdsfs listens on this machine")

func (f *clientFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.endpoint, "endpoint", "", "`URL` of the service (default $"+endpointVariable+
		", else the local daemon, else "+linkLocalEndpoint+")")
	flags.StringVar(&f.runtimeDir, "runtime-dir", "", "`DIR` where the local daemon leaves its address (default "+daemon.DefaultRuntimeDir()+")")
	flags.BoolVar(&f.v1, "v1", false, "ask without a session token (IMDSv1)")
	flags.DurationVar(&f.timeout, "timeout", requestTimeout, "time for each request")
}

// client returns a client of the service that the flags, the environment or the local daemon name.
func (f *clientFlags) client(ctx context.Context) (*client, error) {
	if f.timeout <= 0 {
		return nil, problem.Usage("say for example --timeout 5s", fmt.Errorf("--timeout %s: not a time to wait", f.timeout))
	}
	// At most half of the time goes into connecting, so that the two time-outs can be told apart.
	dialer := &net.Dialer{Timeout: min(connectTimeout, f.timeout/2)}
	base, named, err := f.resolve(ctx, dialer)
	if err != nil {
		return nil, err
	}
	return &client{
		base: base, fallback: !named, v1: f.v1, timeout: f.timeout,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  nil, // instance metadata never goes through a proxy
				DialContext:            dialer.DialContext,
				DisableCompression:     true,
				MaxResponseHeaderBytes: maxHeaderBytes,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// resolve finds the service, in the order that the help of get tells. It is not named if only the link-local address
// is left.
func (f *clientFlags) resolve(ctx context.Context, dialer *net.Dialer) (base *url.URL, named bool, err error) {
	if f.endpoint != "" {
		base, err = parseEndpoint("--endpoint", f.endpoint)
		return base, true, err
	}
	if text := os.Getenv(endpointVariable); text != "" {
		base, err = parseEndpoint(endpointVariable, text)
		return base, true, err
	}
	for _, dir := range runtimeDirs(f.runtimeDir) {
		address, err := answering(ctx, dialer, dir)
		if err != nil && f.runtimeDir != "" {
			return nil, false, err
		}
		if address.IsValid() {
			return &url.URL{Scheme: "http", Host: address.String()}, true, nil
		}
	}
	if f.local {
		return nil, false, problem.Failed("start one with: imdsfs serve; or name a service with --endpoint URL", errNoListener)
	}
	base, err = parseEndpoint("", lastResort)
	return base, false, err
}

// parseEndpoint checks the URL that name, a flag or a variable, gives.
func parseEndpoint(name, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// The text is not repeated: it may hold a password.
		return nil, problem.Usage("a good one is http://127.0.0.1:1338", fmt.Errorf("%s: not the URL of a service", name))
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// listening are the addresses that a daemon with the run-time directory dir said it listens on, one a
// line; none if there is no such daemon. The error says why the directory is not believed.
func listening(dir string) ([]netip.AddrPort, error) {
	d, err := openRunDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer d.file.Close()
	f := d.open(filepath.Base(daemon.ListenFile(dir)))
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, daemon.MaxListenFile))
	if err != nil {
		return nil, nil
	}
	var addresses []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		if address, err := netip.ParseAddrPort(strings.TrimSpace(line)); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// A client reads one instance metadata service, by IMDSv2 unless v1 is set. It fetches one session
// token and keeps it.
type client struct {
	base *url.URL
	// fallback: nobody has named base, and no daemon of ours listens.
	fallback bool
	v1       bool
	timeout  time.Duration // of a request
	http     *http.Client
	token    string
	code     int // of the last answer's status, 0 if none came
}

// get returns the body at an absolute path that is not percent-encoded. The error is errNotFound for
// 404, and else ready for report.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	body, err := c.fetch(ctx, path)
	var said *problem.Error
	if !c.fallback || !errors.As(err, &said) || errors.Is(err, errNobody) {
		return body, err
	}
	return nil, &problem.Error{Kind: said.Kind, Hint: strings.TrimSuffix(hintNoDaemon+"; there: "+said.Hint, "; there: "),
		Err: fmt.Errorf("%w (no imdsfs daemon listens here, so %s was asked)", err, c.base)}
}

func (c *client) fetch(ctx context.Context, path string) ([]byte, error) {
	for renewed := false; ; renewed = true {
		header := http.Header{}
		if !c.v1 {
			if c.token == "" {
				if err := c.renewToken(ctx); err != nil {
					return nil, err
				}
			}
			header.Set("X-Aws-Ec2-Metadata-Token", c.token)
		}
		code, body, err := c.do(ctx, http.MethodGet, path, header, maxAnswer)
		switch {
		case err != nil:
			return nil, err
		case code == http.StatusOK:
			return body, nil
		case code == http.StatusNotFound:
			return nil, errNotFound
		case code == http.StatusUnauthorized && !c.v1 && !renewed:
			c.token = "" // it expired, or the service started anew
		default:
			return nil, problem.Failed(c.hint(code), fmt.Errorf("GET %s: %s", c.url(path), status(code)))
		}
	}
}

func (c *client) renewToken(ctx context.Context) error {
	const path = "/latest/api/token"
	refused := func(hint, what string) error {
		return problem.Failed(hint, fmt.Errorf("no session token: PUT %s: %s", c.url(path), what))
	}
	header := http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {tokenTTL}}
	code, body, err := c.do(ctx, http.MethodPut, path, header, maxToken)
	switch {
	case errors.Is(err, errTimeout):
		return problem.Failed("from a container or through a proxy http-put-response-hop-limit must be 2 or more; --v1 asks without a token",
			fmt.Errorf("no session token: %w", err))
	case err != nil:
		return err
	case code == http.StatusForbidden:
		return refused(hintForbidden+"; --v1 asks without a token", status(code))
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed:
		return refused("the service does not know IMDSv2: --v1 asks without a token", status(code))
	case code != http.StatusOK:
		return refused(c.hint(code), status(code))
	case len(body) == 0 || strings.ContainsFunc(string(body), func(r rune) bool { return r <= ' ' || r > '~' }):
		return refused(hintStranger, "the answer is no token, so this is no instance metadata service")
	}
	c.token = string(body)
	return nil
}

// do sends one request and returns the status code and the body, which is at most limit bytes long.
func (c *client) do(ctx context.Context, method, path string, header http.Header, limit int64) (int, []byte, error) {
	c.code = 0
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.base.String(), nil)
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
	c.code = response.StatusCode
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		c.code = 0
		return 0, nil, c.explain(method, path, err)
	}
	if int64(len(body)) > limit {
		return 0, nil, fmt.Errorf("%s %s: the answer is longer than %d bytes", method, c.url(path), limit)
	}
	return response.StatusCode, body, nil
}

// url is the address of an absolute path. Two slashes stay two, as typed.
func (c *client) url(path string) *url.URL {
	u := *c.base
	u.Path += path
	return &u
}

// errTimeout is the error of a request that a service took and did not answer in time.
var errTimeout = errors.New("no answer in time")

// explain turns what net/http says of a failed request into what it means.
func (c *client) explain(method, path string, err error) error {
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
		return problem.Failed(hintNoDaemon, fmt.Errorf("%w at %s: %s", errNobody, c.base, text))
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Failed("see whether the service is well, or wait longer with --timeout",
			fmt.Errorf("%s %s: %w (%s)", method, c.url(path), errTimeout, c.timeout))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the connection was closed before the whole answer came")
	}
	return problem.Failed(hintStranger, fmt.Errorf("%s %s: %w", method, c.url(path), err))
}

// hint says what to do about the status code of an answer, "" if nothing.
func (c *client) hint(code int) string {
	switch {
	case code == http.StatusUnauthorized && c.v1:
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

func status(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

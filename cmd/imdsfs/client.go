package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/rundir"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/problem"
)

// lastResort is the endpoint if none is named and no daemon listens. Tests change it.
var lastResort = client.LinkLocal

// clientFlags are the flags of the subcommands that read an instance metadata service.
type clientFlags struct {
	endpoint   string
	runtimeDir string
	v1         bool
	timeout    time.Duration
	local      bool // ask only a local daemon, unless an endpoint is named
}

// errNoListener says that no local daemon listens.
var errNoListener = errors.New("no imdsfs listens on this machine")

func (f *clientFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.endpoint, "endpoint", "", "`URL` of the service (default $"+client.EndpointVariable+
		", else the local daemon, else "+client.LinkLocal+")")
	flags.StringVar(&f.runtimeDir, "runtime-dir", "", "`DIR` where the local daemon leaves its address (default "+daemon.DefaultRuntimeDir()+")")
	flags.BoolVar(&f.v1, "v1", false, "ask without a session token (IMDSv1)")
	flags.DurationVar(&f.timeout, "timeout", client.DefaultTimeout, "time for each request")
}

// client finds the service that the flags, the environment or the local daemon name.
func (f *clientFlags) client(ctx context.Context) (*service, error) {
	if f.timeout <= 0 {
		return nil, problem.Usage("say for example --timeout 5s", fmt.Errorf("--timeout %s: not a time to wait", f.timeout))
	}
	endpoint, named, err := f.resolve(ctx, client.NewDialer(f.timeout))
	if err != nil {
		return nil, err
	}
	c := client.New(client.Config{Endpoint: endpoint, V1: f.v1, Timeout: f.timeout})
	return &service{client: c, fallback: !named, timeout: f.timeout}, nil
}

// resolve finds the endpoint, in the order that the help of get states. It is not named if only the link-local address is
// left.
func (f *clientFlags) resolve(ctx context.Context, dialer *net.Dialer) (endpoint *url.URL, named bool, err error) {
	if f.endpoint != "" {
		endpoint, err = parseEndpoint("--endpoint", f.endpoint)
		return endpoint, true, err
	}
	if text := os.Getenv(client.EndpointVariable); text != "" {
		endpoint, err = parseEndpoint(client.EndpointVariable, text)
		return endpoint, true, err
	}
	for _, dir := range rundir.Candidates(f.runtimeDir) {
		address, err := rundir.Answering(ctx, dialer, dir)
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
	endpoint, err = parseEndpoint("", lastResort)
	return endpoint, false, err
}

// parseEndpoint parses the URL of an endpoint; name is the flag or the variable that gives it.
func parseEndpoint(name, text string) (*url.URL, error) {
	u, err := client.ParseEndpoint(text)
	if err != nil {
		return nil, problem.Usage("for example http://127.0.0.1:1338", fmt.Errorf("%s: %w", name, err))
	}
	return u, nil
}

package client

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// EndpointVariable is the environment variable in which SDKs look for the URL of the service.
const EndpointVariable = "AWS_EC2_METADATA_SERVICE_ENDPOINT"

// LinkLocal is the URL at which SDKs look for the service by themselves.
var LinkLocal = "http://" + ec2.ServiceIPv4.String()

// errNotEndpoint is the error of [ParseEndpoint].
var errNotEndpoint = errors.New("not the URL of a service")

// ParseEndpoint reads the URL of a service: http or https, a host, and perhaps a port and a path. The error does not
// repeat the text, which may hold a password.
func ParseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errNotEndpoint
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// EndpointOf is the URL at which SDKs on this machine reach a daemon that listens on these addresses, "" if they cannot.
// It ends in a slash: AWS CLI 2.9 joins the port with the path without one. If the daemon listens on the address of the
// real service that one is taken, because SDKs need no setting for it.
func EndpointOf(listeners []string) string {
	if slices.Contains(listeners, netip.AddrPortFrom(ec2.ServiceIPv4, 80).String()) {
		return LinkLocal + "/"
	}
	for _, text := range listeners {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		// An unspecified address is every one, and SDKs take no URL with a zone.
		switch ip := address.Addr(); {
		case ip.Zone() != "":
			continue
		case ip == netip.IPv4Unspecified():
			address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), address.Port())
		case ip == netip.IPv6Unspecified():
			address = netip.AddrPortFrom(netip.IPv6Loopback(), address.Port())
		}
		return "http://" + address.String() + "/"
	}
	return ""
}

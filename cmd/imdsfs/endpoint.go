package main

import (
	"net/netip"
	"slices"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
)

// endpointOf is the URL at which SDKs on this machine reach a daemon that listens on these addresses, "" if they
// cannot. It ends with a slash, without which AWS CLI 2.9 joins the port with the path. An address of the real service comes first: it needs no word to them.
func endpointOf(listeners []string) string {
	if slices.Contains(listeners, daemon.LinkLocalIPv4) {
		return linkLocalEndpoint + "/"
	}
	for _, text := range listeners {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		// An unspecified address is every one, and a zone belongs to no URL of an SDK.
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

// exportEndpoint is the line of shell that points SDKs at an endpoint.
func exportEndpoint(endpoint string) string { return "export " + endpointVariable + "=" + endpoint }

// pointClients says how SDKs on this machine come to a daemon that listens on these addresses, "" if they cannot.
func pointClients(listeners []string) string {
	switch endpoint := endpointOf(listeners); endpoint {
	case "":
		return ""
	case linkLocalEndpoint + "/":
		return "SDKs find it by themselves"
	default:
		return "SDKs find it with: " + exportEndpoint(endpoint)
	}
}

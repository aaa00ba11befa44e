package main

import "github.com/imdsfs/imdsfs/imds/client"

func endpointOf(listeners []string) string { return client.EndpointOf(listeners) }

// exportEndpoint returns the shell command that points SDKs at an endpoint.
func exportEndpoint(endpoint string) string { return "export " + endpointVariable + "=" + endpoint }

// pointClients says how SDKs on this machine reach a daemon that listens on these addresses; "" if they cannot.
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

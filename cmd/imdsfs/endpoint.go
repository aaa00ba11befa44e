package main

import "github.com/imdsfs/imdsfs/imds/client"

// exportEndpoint returns the shell command that points SDKs at an endpoint.
func exportEndpoint(endpoint string) string {
	return "export " + client.EndpointVariable + "=" + endpoint
}

// pointClients says how SDKs on this machine reach a daemon that listens on these addresses; "" if they cannot.
func pointClients(listeners []string) string {
	switch endpoint := client.EndpointOf(listeners); endpoint {
	case "":
		return ""
	case client.LinkLocal + "/":
		return "SDKs find it by themselves"
	default:
		return "SDKs find it with: " + exportEndpoint(endpoint)
	}
}

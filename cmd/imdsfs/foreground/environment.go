package foreground

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/imds/client"
)

// Environment returns an environment that points SDKs at the service at endpoint: base, with set (NAME=VALUE, each) in the
// place of what base says.
func Environment(base []string, endpoint string, set []string) []string {
	environment := slices.Clone(base)
	for _, name := range []string{"AWS_EC2_METADATA_DISABLED", client.EndpointVariable + "_MODE"} {
		environment = unset(environment, name)
	}
	set = append(slices.Clone(set), client.EndpointVariable+"="+endpoint)
	for _, variable := range append(set, withoutProxy(environment, endpoint)...) {
		name, _, _ := strings.Cut(variable, "=")
		environment = append(unset(environment, name), variable)
	}
	return environment
}

// withoutProxy returns the variables that make clients ask an endpoint directly where the environment names a proxy. Some
// SDKs, and curl, ask the proxy for 127.0.0.1 too.
func withoutProxy(environment []string, endpoint string) (variables []string) {
	u, err := url.Parse(endpoint)
	named := slices.ContainsFunc([]string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}, func(name string) bool { return lookUp(environment, name) != "" })
	if err != nil || !named {
		return nil
	}
	const lower, upper = "no_proxy", "NO_PROXY"
	for _, names := range [][2]string{{lower, upper}, {upper, lower}} {
		hosts := u.Hostname()
		if others := cmp.Or(lookUp(environment, names[0]), lookUp(environment, names[1])); others != "" {
			hosts = others + "," + hosts
		}
		variables = append(variables, names[0]+"="+hosts)
	}
	return variables
}

// lookUp returns the value of a variable, "" without one.
func lookUp(environment []string, name string) string {
	for _, text := range slices.Backward(environment) {
		if value, ok := strings.CutPrefix(text, name+"="); ok {
			return value
		}
	}
	return ""
}

func unset(environment []string, name string) []string {
	return slices.DeleteFunc(environment, func(text string) bool { return strings.HasPrefix(text, name+"=") })
}

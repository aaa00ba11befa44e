package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// completed is what a shell is offered after words, of which the last is not yet whole.
func completed(t *testing.T, words ...string) (offered []string, directive cobra.ShellCompDirective) {
	t.Helper()
	var out, stderr strings.Builder
	if code := run(append([]string{"__complete"}, words...), &out, &stderr); code != 0 {
		t.Fatalf("%q: exit code %d\n%s", words, code, &stderr)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	last := len(lines) - 1
	if _, err := fmt.Sscanf(lines[last], ":%d", &directive); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, &out)
	}
	return lines[:last], directive
}

func TestShellsCompletePathsOfTheRunningDaemon(t *testing.T) {
	defer func(was time.Duration) { completionLimit = was }(completionLimit)
	completionLimit = kit.Patience
	d := serve(t, instances+"/web-1.toml", false)
	t.Setenv(client.EndpointVariable, "")
	const space, noSpace = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	for line, want := range map[string]struct {
		offered   string
		directive cobra.ShellCompDirective
	}{
		"get inst":                       {"instance-action instance-id instance-life-cycle instance-type", space},
		"get placement/avail":            {"placement/availability-zone placement/availability-zone-id", space},
		"get network/interfaces/m":       {"network/interfaces/macs/", noSpace},
		"get network/interfaces/macs/06": {"network/interfaces/macs/06:2b:3c:4d:5e:6f/", noSpace},
		"get tags/instance/":             {"tags/instance/Environment tags/instance/Name tags/instance/example.com:owner", space},
		"get public-keys/":               {"public-keys/0/", noSpace},
		"get meta":                       {"meta-data/", noSpace},
		"get user":                       {"user-data", space},
		"get meta-data/amI":              {"", space},
		"get meta-data/ami-i":            {"meta-data/ami-id", space},
		"get /la":                        {"/latest/", noSpace},
		"get /latest/":                   {"/latest/dynamic/ /latest/meta-data/ /latest/user-data", noSpace},
		"get /2021-03-23/dynamic/instance-identity/": {"/2021-03-23/dynamic/instance-identity/document", space},
		"tree ia":        {"iam/", noSpace},
		"tree mac m":     {"", space},
		"unset publ":     {"public-hostname public-ipv4 public-keys/", noSpace},
		"set spot/":      {"spot/instance-action spot/termination-time", space},
		"set instance-":  {"instance-action instance-id instance-life-cycle instance-type", space},
		"set mac 06":     {"", space},
		"get spot/":      {"", space},
		"tag unset N":    {"Name", space},
		"tag set Env":    {"Environment", space},
		"tag set Name w": {"", space},
	} {
		words := strings.Split(line, " ")
		at := 1
		if words[0] == "tag" {
			at = 2
		}
		offered, directive := completed(t, slices.Insert(words, at, "--runtime-dir", d.runtime)...)
		if got := strings.Join(offered, " "); got != want.offered || directive != want.directive {
			t.Errorf("imdsfs %s: %q, %v; want %q, %v", line, got, directive, want.offered, want.directive)
		}
	}
}

// Without a daemon nobody else is asked, and what EC2 has can be set.
func TestShellsCompleteWithoutADaemon(t *testing.T) {
	t.Setenv(client.EndpointVariable, "")
	defer func(was string) { lastResort = was }(lastResort)
	lastResort = "http://127.0.0.1:1" // asked, it would be an error
	dir := t.TempDir()
	for line, want := range map[string]string{
		"get inst":                 "",
		"get ":                     "dynamic/ meta-data/ user-data",
		"set placement/region":     "placement/region",
		"set /latest/dynamic/fw":   "/latest/dynamic/fws/",
		"tag unset ":               "",
		"unset dynamic/instance-i": "",
	} {
		words := strings.Split(line, " ")
		offered, _ := completed(t, slices.Insert(words, len(words)-1, "--runtime-dir", dir)...)
		if got := strings.Join(offered, " "); got != want {
			t.Errorf("imdsfs %s: %q, want %q", line, got, want)
		}
	}
}

func TestShellsCompleteOptionsFlagsAndFiles(t *testing.T) {
	const space, noSpace = cobra.ShellCompDirectiveNoFileComp, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	for line, want := range map[string]struct {
		offered   string
		directive cobra.ShellCompDirective
	}{
		"options set http-t":                       {"http-tokens=", noSpace},
		"options set http-tokens=":                 {"http-tokens=required http-tokens=optional", space},
		"options set http-tokens=r":                {"http-tokens=required", space},
		"options set http-tokens=required http-t":  {"", space},
		"options set http-put-response-hop-limit=": {"", space},
		"options set nonsense=":                    {"", space},
		"options reset http-p":                     {"http-protocol-ipv6 http-put-response-hop-limit", space},
		"options get ":                             {"", space},
		"serve --log-level ":                       {"debug info warn error", space},
		"serve --log-format ":                      {"text json", space},
		"serve --listen ":                          {"127.0.0.1:1338 link-local none", space},
		"serve -c ":                                {"toml", cobra.ShellCompDirectiveFilterFileExt},
		"serve --config ":                          {"toml", cobra.ShellCompDirectiveFilterFileExt},
		"serve --state-dir ":                       {"", cobra.ShellCompDirectiveFilterDirs},
		"serve ":                                   {"", space},
		"status --runtime-dir ":                    {"", cobra.ShellCompDirectiveFilterDirs},
		"check ":                                   {"toml", cobra.ShellCompDirectiveFilterFileExt},
		"check web.toml ":                          {"toml", cobra.ShellCompDirectiveFilterFileExt},
	} {
		offered, directive := completed(t, strings.Split(line, " ")...)
		wanted := strings.Fields(want.offered)
		slices.Sort(offered)
		slices.Sort(wanted)
		if !slices.Equal(offered, wanted) || directive != want.directive {
			t.Errorf("imdsfs %s: %q, %v; want %q, %v", line, offered, directive, wanted, want.directive)
		}
	}
}

// What is offered is accepted.
func TestWhatShellsOfferIsAccepted(t *testing.T) {
	levels, _ := completed(t, "serve", "--log-level", "")
	formats, _ := completed(t, "serve", "--log-format", "")
	for _, level := range levels {
		for _, format := range formats {
			c := daemon.Config{File: none, StateDir: t.TempDir(), LogLevel: level, LogFormat: format}
			if _, err := c.Validate(nil); err != nil {
				t.Error(err)
			}
		}
	}
	for _, name := range ec2.OptionNames() {
		values := ec2.OptionValues(name)
		if name == ec2.OptionHopLimit {
			values = []string{exampleValue(name)}
		}
		for _, value := range values {
			var o build.Options
			if err := o.Set(name, value); err != nil || o.Text(name) != value {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
		if len(values) == 0 {
			t.Errorf("%s has no values", name)
		}
	}
}

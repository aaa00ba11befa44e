package build

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// optionsCase is one row about how options are settled: pairs of a name and a value for each level.
type optionsCase struct {
	ami      string // imds-support
	account  []string
	launch   []string
	runTime  []string
	lock     []string
	platform string
	want     []string // those that are not EC2's built-in defaults
	origins  []string // pairs of an option and what its origin begins with
	warning  string
	fault    string
}

func valuesAt(place string, pairs []string) map[string]tree.Value {
	values := map[string]tree.Value{}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = tree.Value{Bytes: []byte(pairs[i+1]), Mtime: fileTime, Origin: tree.Origin{Place: place, Key: pairs[i]}}
	}
	return values
}

func (c optionsCase) build() (*Snapshot, error) {
	file := least()
	file.AccountDefaults = valuesAt("test.toml:10", c.account)
	file.Options = valuesAt("test.toml:20", c.launch)
	file.Lock = c.lock
	if c.ami != "" {
		file.Instance["imds-support"] = stated(c.ami)
	}
	if c.platform != "" {
		file.Instance["platform"] = stated(c.platform)
	}
	overlay := &Fragment{RunTime: true, Options: valuesAt("set at run time", c.runTime)}
	return Build(nil, testEnv, file, overlay)
}

// Facts about precedence: EC2 user guide, "Configure instance metadata options for new instances".
func TestOptionsAreSettledAsInEC2(t *testing.T) {
	const (
		endpoint, ipv6, hops = ec2.OptionHTTPEndpoint, ec2.OptionHTTPProtocolIPv6, ec2.OptionHopLimit
		tokens, tags         = ec2.OptionHTTPTokens, ec2.OptionInstanceMetadataTags
	)
	for name, c := range map[string]optionsCase{
		"built-in": {origins: []string{endpoint, "default", ipv6, "default", hops, "default", tokens, "default", tags, "default"}},

		"the AMI covers tokens and hop limit": {ami: "v2.0", want: []string{tokens, "required", hops, "2"},
			origins: []string{tokens, "derived from instance.imds-support", hops, "derived from instance.imds-support", endpoint, "default"}},

		"account over built-in: tokens":   {account: []string{tokens, "required"}, want: []string{tokens, "required"}, origins: []string{tokens, "test.toml:10"}},
		"account over built-in: hops":     {account: []string{hops, "64"}, want: []string{hops, "64"}, origins: []string{hops, "test.toml:10"}},
		"account over built-in: endpoint": {account: []string{endpoint, "disabled"}, want: []string{endpoint, "disabled"}},
		"account over built-in: tags":     {account: []string{tags, "enabled"}, want: []string{tags, "enabled"}},

		"account over AMI: tokens": {ami: "v2.0", account: []string{tokens, "optional"}, want: []string{hops, "2"}, origins: []string{tokens, "test.toml:10"}},
		"account over AMI: hops, tokens stay": {ami: "v2.0", account: []string{hops, "1"}, want: []string{tokens, "required"},
			origins: []string{tokens, "derived from", hops, "test.toml:10"}},
		"no preference leaves the AMI": {ami: "v2.0", account: []string{tokens, "no-preference", hops, "-1", endpoint, "no-preference", tags, "no-preference", ec2.TokensEnforced, "no-preference"},
			want: []string{tokens, "required", hops, "2"}},
		"no preference leaves the built-in": {account: []string{tokens, "no-preference", hops, "-1"}},

		"launch over account: tokens":   {account: []string{tokens, "required"}, launch: []string{tokens, "optional"}, origins: []string{tokens, "test.toml:20"}},
		"launch over account: hops":     {account: []string{hops, "5"}, launch: []string{hops, "1"}},
		"launch over account: endpoint": {account: []string{endpoint, "disabled"}, launch: []string{endpoint, "enabled"}},
		"launch over account: tags":     {account: []string{tags, "enabled"}, launch: []string{tags, "disabled"}},
		"launch over AMI":               {ami: "v2.0", launch: []string{tokens, "optional", hops, "1"}},
		"launch over all, each option by itself": {ami: "v2.0", account: []string{hops, "3", tags, "enabled"}, launch: []string{tokens, "optional"},
			want: []string{hops, "3", tags, "enabled"}},
		"launch alone sets IPv6": {launch: []string{ipv6, "enabled"}, want: []string{ipv6, "enabled"}},

		"run time over launch": {launch: []string{tokens, "required", hops, "3"}, runTime: []string{tokens, "optional"}, want: []string{hops, "3"},
			origins: []string{tokens, "set at run time", hops, "test.toml:20"}},
		"run time over all": {ami: "v2.0", account: []string{tokens, "required", hops, "9"}, launch: []string{endpoint, "disabled"},
			runTime: []string{tokens, "optional", hops, "1", endpoint, "enabled", ipv6, "enabled", tags, "enabled"}, want: []string{ipv6, "enabled", tags, "enabled"}},

		"enforced tokens, required by the AMI":        {ami: "v2.0", account: []string{ec2.TokensEnforced, "enabled"}, want: []string{tokens, "required", hops, "2"}},
		"enforced tokens, required by the account":    {account: []string{ec2.TokensEnforced, "enabled", tokens, "required"}, want: []string{tokens, "required"}},
		"enforced tokens, required at launch":         {account: []string{ec2.TokensEnforced, "enabled"}, launch: []string{tokens, "required"}, want: []string{tokens, "required"}},
		"enforced tokens, required at run time":       {account: []string{ec2.TokensEnforced, "enabled"}, runTime: []string{tokens, "required"}, want: []string{tokens, "required"}},
		"enforced tokens, optional by default":        {account: []string{ec2.TokensEnforced, "enabled"}, fault: "this account requires tokens"},
		"enforced tokens, optional at launch":         {ami: "v2.0", account: []string{ec2.TokensEnforced, "enabled"}, launch: []string{tokens, "optional"}, fault: "this account requires tokens"},
		"enforced tokens, optional at run time":       {ami: "v2.0", account: []string{ec2.TokensEnforced, "enabled"}, runTime: []string{tokens, "optional"}, fault: "this account requires tokens"},
		"tokens not enforced":                         {account: []string{ec2.TokensEnforced, "disabled"}},
		"lock: weaker tokens at run time":             {launch: []string{tokens, "required"}, lock: []string{tokens}, runTime: []string{tokens, "optional"}, want: []string{tokens, "required"}, origins: []string{tokens, "test.toml:20"}, warning: "http-tokens is locked"},
		"lock: a higher hop limit at run time":        {lock: []string{hops}, runTime: []string{hops, "2"}, warning: "is locked"},
		"lock: the endpoint on again at run time":     {launch: []string{endpoint, "disabled"}, lock: []string{endpoint}, runTime: []string{endpoint, "enabled"}, want: []string{endpoint, "disabled"}, warning: "is locked"},
		"lock: IPv6 at run time":                      {lock: []string{ipv6}, runTime: []string{ipv6, "enabled"}, warning: "is locked"},
		"lock: tags at run time":                      {lock: []string{tags}, runTime: []string{tags, "enabled"}, warning: "is locked"},
		"lock: tighter tokens at run time":            {lock: []string{tokens}, runTime: []string{tokens, "required"}, want: []string{tokens, "required"}},
		"lock: a lower hop limit at run time":         {launch: []string{hops, "9"}, lock: []string{hops}, runTime: []string{hops, "3"}, want: []string{hops, "3"}},
		"lock: the endpoint off at run time":          {lock: []string{endpoint}, runTime: []string{endpoint, "disabled"}, want: []string{endpoint, "disabled"}},
		"lock: of another option":                     {launch: []string{tokens, "required"}, lock: []string{hops}, runTime: []string{tokens, "optional"}},
		"lock does not bind the file":                 {ami: "v2.0", lock: []string{tokens}, launch: []string{tokens, "optional"}, want: []string{hops, "2"}},
		"Snowball Edge: hop limit and IPv6 are fixed": {platform: "snowball", ami: "v2.0", want: []string{tokens, "required"}, origins: []string{hops, "default: fixed on Snowball Edge", ipv6, "default: fixed"}},
		"Snowball Edge: changed at run time before":   {platform: "snowball", runTime: []string{hops, "3", ipv6, "enabled"}},
		"Snowball Edge: another hop limit at launch":  {platform: "snowball", launch: []string{hops, "2"}, fault: "on Snowball Edge this is always 1"},
		"Snowball Edge: IPv6 at launch":               {platform: "snowball", launch: []string{ipv6, "enabled"}, fault: "on Snowball Edge this is always disabled"},

		"no such AMI support":        {ami: "v1.0", fault: "unknown value"},
		"account: IPv6 has none":     {account: []string{ipv6, "enabled"}, fault: "unknown default"},
		"account: unknown":           {account: []string{"http-token", "required"}, fault: "unknown default"},
		"account: hop limit 0":       {account: []string{hops, "0"}, fault: "from 1 to 64"},
		"account: hop limit -2":      {account: []string{hops, "-2"}, fault: "from 1 to 64"},
		"account: bad tokens":        {account: []string{tokens, "-1"}, fault: "either 'required' or 'optional'"},
		"account: bad enforced":      {account: []string{ec2.TokensEnforced, "yes"}, fault: "either 'enabled' or 'disabled'"},
		"launch: hop limit 0":        {launch: []string{hops, "0"}, fault: "from 1 to 64"},
		"launch: hop limit 65":       {launch: []string{hops, "65"}, fault: "from 1 to 64"},
		"launch: no number":          {launch: []string{hops, "two"}, fault: "from 1 to 64"},
		"launch: no preference":      {launch: []string{tokens, "no-preference"}, fault: "either 'required' or 'optional'"},
		"launch: empty":              {launch: []string{endpoint, ""}, fault: "a value of '' is not valid"},
		"launch: another case":       {launch: []string{endpoint, "Enabled"}, fault: "either 'enabled' or 'disabled'"},
		"launch: unknown":            {launch: []string{"http-token", "required"}, fault: "unknown option"},
		"run time: bad, as by hand":  {runTime: []string{tokens, "maybe"}, fault: "either 'required' or 'optional'"},
		"run time: bad, and locked":  {lock: []string{tokens}, runTime: []string{tokens, "maybe"}, fault: "either 'required' or 'optional'"},
		"run time: unknown, by hand": {runTime: []string{"http-token", "required"}, fault: "unknown option"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := c.build()
			if c.fault != "" {
				var faults problem.Faults
				if !errors.As(err, &faults) || !strings.Contains(faults.Error(), c.fault) {
					t.Fatalf("want a fault with %q, got %v", c.fault, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := newOptions()
			for i := 0; i < len(c.want); i += 2 {
				if err := want.Set(c.want[i], c.want[i+1]); err != nil {
					t.Fatal(err)
				}
			}
			for _, option := range ec2.OptionNames() {
				if got := s.Options().Text(option); got != want.Text(option) {
					t.Errorf("%s = %s, want %s", option, got, want.Text(option))
				}
			}
			for i := 0; i < len(c.origins); i += 2 {
				if got := s.Options().Origins[c.origins[i]].String(); !strings.HasPrefix(got, c.origins[i+1]) {
					t.Errorf("%s comes from %q, want %q", c.origins[i], got, c.origins[i+1])
				}
			}
			if got := s.Warnings().Error(); !strings.Contains(got, c.warning) || c.warning == "" && strings.Contains(got, "locked") {
				t.Errorf("warnings %q, want %q", got, c.warning)
			}
		})
	}
}

// Whatever the levels below say, the highest that says something counts, for each option by itself.
func TestHighestLevelWinsForEachOption(t *testing.T) {
	levels := map[string]struct{ values, account []string }{
		ec2.OptionHTTPEndpoint:         {[]string{"enabled", "disabled"}, []string{"enabled", "disabled", "no-preference", ""}},
		ec2.OptionHTTPTokens:           {[]string{"optional", "required"}, []string{"optional", "required", "no-preference", ""}},
		ec2.OptionHopLimit:             {[]string{"1", "2", "64"}, []string{"1", "2", "64", "-1", ""}},
		ec2.OptionHTTPProtocolIPv6:     {[]string{"enabled", "disabled"}, []string{""}},
		ec2.OptionInstanceMetadataTags: {[]string{"enabled", "disabled"}, []string{"enabled", "disabled", "no-preference", ""}},
	}
	pair := func(name, value string) []string {
		if value == "" {
			return nil
		}
		return []string{name, value}
	}
	builtin, ami := newOptions(), map[string]string{ec2.OptionHTTPTokens: "required", ec2.OptionHopLimit: "2"}
	for name, level := range levels {
		for _, support := range []string{"", "v2.0"} {
			for _, account := range level.account {
				for _, launch := range append(level.values, "") {
					for _, runTime := range append(level.values, "") {
						want := builtin.Text(name)
						if v, ok := ami[name]; ok && support != "" {
							want = v
						}
						if account != "" && account != "no-preference" && account != "-1" {
							want = account
						}
						for _, v := range []string{launch, runTime} {
							if v != "" {
								want = v
							}
						}
						row := fmt.Sprintf("%s: AMI %q, account %q, launch %q, run time %q", name, support, account, launch, runTime)
						s, err := optionsCase{ami: support, account: pair(name, account), launch: pair(name, launch), runTime: pair(name, runTime)}.build()
						if err != nil {
							t.Fatalf("%s: %v", row, err)
						}
						if got := s.Options().Text(name); got != want {
							t.Errorf("%s: %s, want %s", row, got, want)
						}
					}
				}
			}
		}
	}
}

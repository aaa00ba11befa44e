package control

import (
	"maps"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	endpoint = ec2.OptionHTTPEndpoint
	ipv6     = ec2.OptionHTTPProtocolIPv6
	hops     = ec2.OptionHopLimit
	tokens   = ec2.OptionHTTPTokens
	tags     = ec2.OptionInstanceMetadataTags
)

func pairs(list []string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

const (
	either      = ". Specify either 'enabled' or 'disabled' and try again."
	combination = "The HttpTokens, HttpPutResponseHopLimit and HttpProtocolIpv6 parameters are not allowed unless HttpEndpoint is enabled. "
)

var endpointOff = []string{endpoint, "disabled"}

// Sources of the rules: EC2 API reference, ModifyInstanceMetadataOptions; EC2 user guide, "Configure
// instance metadata options for existing instances"; wording captured 2022 (terraform-provider-aws#25547).
var modifications = map[string]struct {
	platform string
	launch   []string
	account  []string
	lock     []string
	tags     []string // keys
	before   []string // set at run time before
	set      []string
	want     []string // in force afterwards
	code     string   // of the refusal; then nothing has changed
	message  string
}{
	"tokens required":    {set: []string{tokens, "required"}, want: []string{tokens, "required"}},
	"tokens optional":    {launch: []string{tokens, "required"}, set: []string{tokens, "optional"}, want: []string{tokens, "optional"}},
	"hop limit 1":        {launch: []string{hops, "2"}, set: []string{hops, "1"}, want: []string{hops, "1"}},
	"hop limit 64":       {set: []string{hops, "64"}, want: []string{hops, "64"}},
	"endpoint disabled":  {set: endpointOff, want: endpointOff},
	"endpoint enabled":   {launch: endpointOff, set: []string{endpoint, "enabled"}, want: []string{endpoint, "enabled"}},
	"IPv6 enabled":       {set: []string{ipv6, "enabled"}, want: []string{ipv6, "enabled"}},
	"IPv6 disabled":      {launch: []string{ipv6, "enabled"}, set: []string{ipv6, "disabled"}, want: []string{ipv6, "disabled"}},
	"tags enabled":       {set: []string{tags, "enabled"}, want: []string{tags, "enabled"}},
	"tags disabled":      {launch: []string{tags, "enabled"}, set: []string{tags, "disabled"}, want: []string{tags, "disabled"}},
	"the value it has":   {set: []string{hops, "1"}, want: []string{hops, "1"}},
	"all at once":        {set: []string{endpoint, "enabled", tokens, "required", hops, "3", ipv6, "enabled", tags, "enabled"}, want: []string{endpoint, "enabled", tokens, "required", hops, "3", ipv6, "enabled", tags, "enabled"}},
	"others keep theirs": {launch: []string{tags, "enabled"}, before: []string{tokens, "required", hops, "5"}, set: []string{ipv6, "enabled"}, want: []string{tags, "enabled", tokens, "required", hops, "5", ipv6, "enabled"}},

	"empty endpoint":    {set: []string{endpoint, ""}, code: codeInvalidValue, message: "A value of '' is not valid for HttpEndpoint" + either},
	"unknown endpoint":  {set: []string{endpoint, "on"}, code: codeInvalidValue, message: "A value of 'on' is not valid for HttpEndpoint" + either},
	"another case":      {set: []string{endpoint, "Enabled"}, code: codeInvalidValue, message: "A value of 'Enabled' is not valid for HttpEndpoint" + either},
	"unknown IPv6":      {set: []string{ipv6, "yes"}, code: codeInvalidValue, message: "A value of 'yes' is not valid for HttpProtocolIpv6" + either},
	"unknown tags":      {set: []string{tags, "1"}, code: codeInvalidValue, message: "A value of '1' is not valid for InstanceMetadataTags" + either},
	"unknown tokens":    {set: []string{tokens, "maybe"}, code: codeInvalidValue, message: "A value of 'maybe' is not valid for HttpTokens. Specify either 'required' or 'optional' and try again."},
	"no preference":     {set: []string{tokens, "no-preference"}, code: codeInvalidValue, message: "'no-preference' is not valid for HttpTokens"},
	"hop limit 0":       {set: []string{hops, "0"}, code: codeInvalidValue, message: "A value of '0' is not valid for HttpPutResponseHopLimit. Specify a whole number from 1 to 64 and try again."},
	"hop limit 65":      {set: []string{hops, "65"}, code: codeInvalidValue, message: "'65' is not valid for HttpPutResponseHopLimit"},
	"hop limit -1":      {set: []string{hops, "-1"}, code: codeInvalidValue, message: "'-1' is not valid for HttpPutResponseHopLimit"},
	"hop limit 1.5":     {set: []string{hops, "1.5"}, code: codeInvalidValue, message: "'1.5' is not valid"},
	"hop limit, spaces": {set: []string{hops, " 1"}, code: codeInvalidValue, message: "' 1' is not valid"},
	"hop limit, empty":  {set: []string{hops, ""}, code: codeInvalidValue, message: "A value of '' is not valid for HttpPutResponseHopLimit"},
	"hop limit, huge":   {set: []string{hops, strings.Repeat("9", 5000)}, code: codeInvalidValue, message: "A value of '" + strings.Repeat("9", 80) + "' is not valid"},
	"unknown option":    {set: []string{"http-token", "required"}, code: codeInvalidValue, message: "'http-token' is not an option. The options are http-endpoint, "},
	"the API's name":    {set: []string{"HttpTokens", "required"}, code: codeInvalidValue, message: "'HttpTokens' is not an option"},
	"account's option":  {set: []string{ec2.TokensEnforced, "enabled"}, code: codeInvalidValue, message: "is not an option"},
	"nothing":           {code: codeInvalidValue, message: "no option is named"},
	"all or none":       {set: []string{tokens, "required", hops, "65", endpoint, "disabled"}, code: codeInvalidValue, message: "'65'"},

	"endpoint disabled, with tokens":    {set: []string{endpoint, "disabled", tokens, "required"}, code: codeInvalidCombination, message: combination},
	"endpoint disabled, with hop limit": {set: []string{endpoint, "disabled", hops, "2"}, code: codeInvalidCombination, message: combination},
	"endpoint disabled, with IPv6":      {set: []string{endpoint, "disabled", ipv6, "disabled"}, code: codeInvalidCombination, message: combination},
	"tokens while disabled":             {launch: endpointOff, set: []string{tokens, "required"}, code: codeInvalidCombination, message: combination},
	"hop limit while disabled":          {launch: endpointOff, set: []string{hops, "1"}, code: codeInvalidCombination, message: combination},
	"IPv6 while disabled at run time":   {before: endpointOff, set: []string{ipv6, "enabled"}, code: codeInvalidCombination, message: combination},
	"tokens while disabled, enabling":   {launch: endpointOff, set: []string{endpoint, "enabled", tokens, "required"}, want: []string{endpoint, "enabled", tokens, "required"}},
	"a bad value comes first":           {launch: endpointOff, set: []string{hops, "65"}, code: codeInvalidValue, message: "'65'"},
	"tags while disabled: the mount":    {launch: endpointOff, set: []string{tags, "enabled"}, want: []string{endpoint, "disabled", tags, "enabled"}},
	"endpoint disabled, with tags":      {set: []string{endpoint, "disabled", tags, "enabled"}, want: []string{endpoint, "disabled", tags, "enabled"}},
	"disabling twice":                   {launch: endpointOff, set: endpointOff, want: endpointOff},

	"enabling tags with an illegal key": {tags: []string{"Name", "Patch Group"}, set: []string{tags, "enabled"}, code: codeInvalidValue,
		message: `'Patch Group' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name ('.', '..', '_index')`},
	"enabling tags with a slash":          {tags: []string{"a/b"}, set: []string{tags, "enabled"}, code: codeInvalidValue, message: "'a/b' is not a valid tag key."},
	"enabling tags with a dot":            {tags: []string{"."}, set: []string{tags, "enabled"}, code: codeInvalidValue, message: "'.' is not a valid tag key."},
	"enabling tags with two dots":         {tags: []string{".."}, set: []string{tags, "enabled"}, code: codeInvalidValue, message: "'..' is not a valid tag key."},
	"enabling tags with _index":           {tags: []string{"_index"}, set: []string{tags, "enabled"}, code: codeInvalidValue, message: "'_index' is not a valid tag key."},
	"enabling tags with every legal sign": {tags: []string{"aZ09+-=.,_:@", "..."}, set: []string{tags, "enabled"}, want: []string{tags, "enabled"}},
	"illegal keys while tags are hidden":  {tags: []string{"Patch Group"}, set: []string{tokens, "required"}, want: []string{tokens, "required", tags, "disabled"}},

	"enforced tokens": {account: []string{ec2.TokensEnforced, "enabled"}, launch: []string{tokens, "required"}, set: []string{tokens, "optional"}, code: codeInvalidValue, message: "this account requires tokens"},

	"locked tokens":            {lock: []string{tokens}, launch: []string{tokens, "required"}, set: []string{tokens, "optional"}, code: codeUnauthorized, message: "HttpTokens is locked at 'required'"},
	"locked tokens, by run":    {lock: []string{tokens}, before: []string{tokens, "required"}, set: []string{tokens, "optional"}, code: codeUnauthorized, message: "HttpTokens is locked at 'required'"},
	"locked hop limit":         {lock: []string{hops}, set: []string{hops, "2"}, code: codeUnauthorized, message: "HttpPutResponseHopLimit is locked at '1'"},
	"locked hop limit, by run": {lock: []string{hops}, launch: []string{hops, "9"}, before: []string{hops, "3"}, set: []string{hops, "4"}, code: codeUnauthorized, message: "HttpPutResponseHopLimit is locked at '3'"},
	"locked endpoint":          {lock: []string{endpoint}, launch: endpointOff, set: []string{endpoint, "enabled"}, code: codeUnauthorized, message: "HttpEndpoint is locked at 'disabled'"},
	"locked IPv6":              {lock: []string{ipv6}, set: []string{ipv6, "enabled"}, code: codeUnauthorized, message: "HttpProtocolIpv6 is locked at 'disabled'"},
	"locked tags":              {lock: []string{tags}, set: []string{tags, "enabled"}, code: codeUnauthorized, message: "InstanceMetadataTags is locked at 'disabled'"},
	"locked, with others":      {lock: []string{hops}, set: []string{tokens, "required", hops, "2"}, code: codeUnauthorized, message: "To allow '2', take it out of lock under [metadata-options] and reload"},
	"locked, tighter":          {lock: []string{tokens, hops, endpoint, ipv6, tags}, launch: []string{hops, "9", ipv6, "enabled", tags, "enabled"}, set: []string{tokens, "required", hops, "3", ipv6, "disabled", tags, "disabled"}, want: []string{tokens, "required", hops, "3", ipv6, "disabled", tags, "disabled"}},
	"locked, tighter yet":      {lock: []string{hops}, launch: []string{hops, "9"}, before: []string{hops, "3"}, set: []string{hops, "2"}, want: []string{hops, "2"}},
	"locked endpoint, off":     {lock: []string{endpoint}, set: endpointOff, want: endpointOff},
	"locked, the same again":   {lock: []string{tokens}, launch: []string{tokens, "required"}, set: []string{tokens, "required"}, want: []string{tokens, "required"}},
	"another is locked":        {lock: []string{hops}, launch: []string{tokens, "required"}, set: []string{tokens, "optional"}, want: []string{tokens, "optional"}},

	"Snowball Edge, hop limit":    {platform: "snowball", set: []string{hops, "2"}, code: codeUnsupported, message: "HttpPutResponseHopLimit is always 1 on Snowball Edge and cannot be changed"},
	"Snowball Edge, IPv6":         {platform: "snowball", set: []string{ipv6, "enabled"}, code: codeUnsupported, message: "HttpProtocolIpv6 is always disabled on Snowball Edge and cannot be changed"},
	"Snowball Edge, hop limit 1":  {platform: "snowball", set: []string{hops, "1"}, want: []string{hops, "1"}},
	"Snowball Edge, hop limit 65": {platform: "snowball", set: []string{hops, "65"}, code: codeInvalidValue, message: "'65'"},
	"Snowball Edge, tokens":       {platform: "snowball", set: []string{tokens, "required"}, want: []string{tokens, "required", hops, "1"}},
}

func TestModifyInstanceMetadataOptions(t *testing.T) {
	for name, c := range modifications {
		t.Run(name, func(t *testing.T) {
			i := newInstance(t, func(f *build.Fragment) {
				f.Options, f.AccountDefaults, f.Lock, f.Tags = values(c.launch...), values(c.account...), c.lock, map[string]tree.Value{}
				for _, key := range c.tags {
					f.Tags[key] = stated("value")
				}
				if c.platform != "" {
					f.Instance = values("platform", c.platform)
				}
			})
			if len(c.before) > 0 {
				if err := i.setOptions(pairs(c.before), "uid 0"); err != nil {
					t.Fatal(err)
				}
			}
			before, stored := i.options(), i.changes()
			err := i.setOptions(pairs(c.set), "uid 0")
			if got := code(t, err); got != c.code {
				t.Fatalf("got %q (%v), want %q", got, err, c.code)
			}
			if c.code != "" {
				if !strings.Contains(err.Error(), c.message) {
					t.Errorf("got %q, want %q", err, c.message)
				}
				wantOptions(t, "after the refusal", i.options(), before)
				if got := i.changes(); len(got.Changes) != len(stored.Changes) {
					t.Errorf("the refused change is stored: %+v", got)
				}
			}
			running := i.options()
			for name, want := range pairs(c.want) {
				if got := i.value(name); got != want {
					t.Errorf("%s = %s, want %s", name, got, want)
				}
			}
			for name := range pairs(c.set) {
				if origin := originOf(running, name); c.code == "" && c.platform == "" && origin != "set at run time, 2026-03-01T12:00:00Z, by uid 0" {
					t.Errorf("%s comes from %q", name, origin)
				}
			}
			i.start()
			wantOptions(t, "after a restart", i.options(), running)
		})
	}
}

func originOf(options []Option, name string) string {
	for _, o := range options {
		if o.Name == name {
			return o.Origin
		}
	}
	return ""
}

func wantOptions(t *testing.T, when string, got, want []Option) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s %s: %+v, want %+v", when, want[i].Name, got[i], want[i])
		}
	}
}

func TestResetForgetsWhatWasSetAtRunTime(t *testing.T) {
	for name, c := range map[string]struct {
		lock  []string
		set   []string
		reset []string
		want  []string
		code  string
	}{
		"all":                      {set: []string{tokens, "optional", hops, "9"}, want: []string{tokens, "required", hops, "1"}},
		"one":                      {set: []string{tokens, "optional", hops, "9"}, reset: []string{hops}, want: []string{tokens, "optional", hops, "1"}},
		"several":                  {set: []string{tokens, "optional", hops, "9", ipv6, "enabled"}, reset: []string{hops, tokens}, want: []string{tokens, "required", hops, "1", ipv6, "enabled"}},
		"nothing was set":          {want: []string{tokens, "required", hops, "1"}},
		"no option":                {set: []string{hops, "9"}, reset: []string{"hops"}, want: []string{hops, "9"}, code: codeInvalidValue},
		"one is none":              {set: []string{hops, "9"}, reset: []string{hops, ""}, want: []string{hops, "9"}, code: codeInvalidValue},
		"locked, to a tighter one": {set: []string{tokens, "optional"}, want: []string{tokens, "required"}},
		"locked, to a weaker one":  {lock: []string{endpoint}, set: []string{endpoint, "disabled"}, want: []string{endpoint, "disabled"}, code: codeUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			i := newInstance(t, func(f *build.Fragment) {
				f.Options, f.Lock = values(tokens, "required"), c.lock
			})
			if len(c.set) > 0 {
				if err := i.setOptions(pairs(c.set), "uid 0"); err != nil {
					t.Fatal(err)
				}
			}
			if got := code(t, i.resetOptions(c.reset, "uid 0")); got != c.code {
				t.Errorf("got %q, want %q", got, c.code)
			}
			for range 2 {
				for name, want := range pairs(c.want) {
					if got := i.value(name); got != want {
						t.Errorf("%s = %s, want %s", name, got, want)
					}
				}
				i.start()
			}
		})
	}
}

// Options that were set before the file said Snowball Edge must not prevent other changes.
func TestOptionsOfAnotherPlatformDoNotBlockChanges(t *testing.T) {
	i := newInstance(t, nil)
	if err := i.setOptions(map[string]string{hops: "3"}, "uid 0"); err != nil {
		t.Fatal(err)
	}
	i.file.fragment.Instance = values("platform", "snowball")
	i.start()
	if err := i.changeTag(Set, "Name", []byte("a"), "uid 0"); err != nil {
		t.Error(err)
	}
	if err := i.setOptions(map[string]string{tokens: "required"}, "uid 0"); err != nil {
		t.Error(err)
	}
	if i.value(hops) != "1" || i.value(tokens) != "required" {
		t.Errorf("hop limit %s, tokens %s", i.value(hops), i.value(tokens))
	}
}

// A lock that a reload adds applies from then on. Values that are already set stay.
func TestLockFollowsTheFile(t *testing.T) {
	i := newInstance(t, nil)
	required := map[string]string{tokens: "required"}
	optional := map[string]string{tokens: "optional"}
	if err := i.setOptions(required, "uid 0"); err != nil {
		t.Fatal(err)
	}
	i.file.fragment.Lock = []string{tokens}
	if _, err := i.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := code(t, i.setOptions(optional, "uid 0")); got != codeUnauthorized {
		t.Errorf("locked: %q", got)
	}
	for _, o := range i.options() {
		if o.Locked != (o.Name == tokens) {
			t.Errorf("%s is said to be locked: %v", o.Name, o.Locked)
		}
	}
	i.file.fragment.Lock = nil
	if _, err := i.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := i.setOptions(optional, "uid 0"); err != nil || i.value(tokens) != "optional" {
		t.Errorf("no longer locked: %v, %s", err, i.value(tokens))
	}
}

// Package source decides on precedence. Here the value and its origin have to reach the caller.
func TestOptionsTellWhereTheyComeFrom(t *testing.T) {
	i := newInstance(t, func(f *build.Fragment) {
		f.Instance = values("imds-support", "v2.0")
		f.AccountDefaults = map[string]tree.Value{hops: {Bytes: []byte("1"), Origin: tree.Origin{Place: "web.toml:3"}}}
		f.Options = values(ipv6, "enabled")
	})
	if err := i.setOptions(map[string]string{tags: "enabled"}, "uid 1000"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		endpoint: "enabled, default",
		tokens:   "required, derived from instance.imds-support",
		hops:     "1, web.toml:3",
		ipv6:     "enabled, web.toml:7",
		tags:     "enabled, set at run time, 2026-03-01T12:00:00Z, by uid 1000",
	}
	got := map[string]string{}
	for _, o := range i.options() {
		got[o.Name] = o.Value + ", " + o.Origin
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

package ec2

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names of the metadata options, as in EC2's API and the AWS CLI.
const (
	OptionHTTPEndpoint         = "http-endpoint"
	OptionHTTPTokens           = "http-tokens"
	OptionHopLimit             = "http-put-response-hop-limit"
	OptionHTTPProtocolIPv6     = "http-protocol-ipv6"
	OptionInstanceMetadataTags = "instance-metadata-tags"
)

// Options are the values of EC2's instance metadata options.
type Options struct {
	HTTPEndpoint         bool // false: every HTTP request is answered 403
	TokensRequired       bool // http-tokens = "required": v2 only
	HopLimit             int  // IP TTL of the answer to a token PUT, 1..64
	HTTPProtocolIPv6     bool
	InstanceMetadataTags bool // tags are shown, on both doors
}

// An Option holds all facts about one metadata option. To do something for all options, iterate over the rows of
// [OptionTable].
type Option struct {
	Name string // "http-tokens"
	API  string // the parameter of ModifyInstanceMetadataOptions: "HttpTokens"

	// The value of an option is one of two words, or a number.
	Yes, No  string // "required", "optional"
	Min, Max int    // 0 for words

	Default string // EC2's own (EC2 user guide, "Configure the instance metadata options")
	AMI     string // what an AMI with imds-support v2.0 sets; "": nothing (EC2 user guide, "Configure the AMI")
	// Snowball is the fixed value of the option on Snowball Edge (developer guide, "IMDS versions"); "": you can choose.
	Snowball string
	// NeedsEndpoint: EC2 changes the option only if HttpEndpoint is enabled, or enabled by the same call (EC2 user guide,
	// "Configure instance metadata options for existing instances"). Tags do not need it: the mount shows them even if
	// HTTP is off.
	NeedsEndpoint bool
	// Account: the option has an account default (ModifyInstanceMetadataDefaults). The value NoPreference means that no
	// default is set.
	Account      bool
	NoPreference string

	// weaker reports whether the first value allows more than the second, which a lock forbids at run time.
	weaker func(is, was *Options) bool
	word   func(*Options) *bool // true: Yes
	number func(*Options) *int
}

// noPreference is the account default that sets none, for options with words.
const noPreference = "no-preference"

// optionTable has a row for each option, sorted by name.
var optionTable = []Option{
	{
		Name: OptionHTTPEndpoint, API: "HttpEndpoint", Yes: "enabled", No: "disabled", Default: "enabled", Account: true, NoPreference: noPreference,
		word:   func(o *Options) *bool { return &o.HTTPEndpoint },
		weaker: func(is, was *Options) bool { return is.HTTPEndpoint && !was.HTTPEndpoint },
	},
	{
		Name: OptionHTTPProtocolIPv6, API: "HttpProtocolIpv6", Yes: "enabled", No: "disabled", Default: "disabled", Snowball: "disabled", NeedsEndpoint: true,
		word:   func(o *Options) *bool { return &o.HTTPProtocolIPv6 },
		weaker: func(is, was *Options) bool { return is.HTTPProtocolIPv6 && !was.HTTPProtocolIPv6 },
	},
	{
		Name: OptionHopLimit, API: "HttpPutResponseHopLimit", Min: 1, Max: 64, Default: "1", AMI: "2", Snowball: "1", NeedsEndpoint: true, Account: true, NoPreference: "-1",
		number: func(o *Options) *int { return &o.HopLimit },
		weaker: func(is, was *Options) bool { return is.HopLimit > was.HopLimit },
	},
	{
		Name: OptionHTTPTokens, API: "HttpTokens", Yes: "required", No: "optional", Default: "optional", AMI: "required", NeedsEndpoint: true, Account: true, NoPreference: noPreference,
		word:   func(o *Options) *bool { return &o.TokensRequired },
		weaker: func(is, was *Options) bool { return !is.TokensRequired && was.TokensRequired },
	},
	{
		Name: OptionInstanceMetadataTags, API: "InstanceMetadataTags", Yes: "enabled", No: "disabled", Default: "disabled", Account: true, NoPreference: noPreference,
		word:   func(o *Options) *bool { return &o.InstanceMetadataTags },
		weaker: func(is, was *Options) bool { return is.InstanceMetadataTags && !was.InstanceMetadataTags },
	},
}

// OptionTable returns a row for each metadata option, sorted by name. Do not change it.
func OptionTable() []Option { return optionTable }

// OptionCalled returns the option with this name, nil if there is none.
func OptionCalled(name string) *Option {
	if i := slices.IndexFunc(optionTable, func(o Option) bool { return o.Name == name }); i >= 0 {
		return &optionTable[i]
	}
	return nil
}

// OptionNames returns the names of all options, sorted.
func OptionNames() []string {
	names := make([]string, len(optionTable))
	for i := range optionTable {
		names[i] = optionTable[i].Name
	}
	return names
}

// isNumber reports whether the values are numbers and not words.
func (o *Option) isNumber() bool { return o.number != nil }

// Values returns the words that the option takes, nil if it takes numbers.
func (o *Option) Values() []string {
	if o.isNumber() {
		return nil
	}
	return []string{o.Yes, o.No}
}

// Allowed says which values are valid, in the words of EC2's refusals: "either 'required' or 'optional'".
func (o *Option) Allowed() string {
	if o.isNumber() {
		return fmt.Sprintf("a whole number from %d to %d", o.Min, o.Max)
	}
	return fmt.Sprintf("either '%s' or '%s'", o.Yes, o.No)
}

// Text returns the option's value in all, as EC2 writes it.
func (o *Option) Text(all *Options) string {
	switch {
	case o.isNumber():
		return strconv.Itoa(*o.number(all))
	case *o.word(all):
		return o.Yes
	}
	return o.No
}

// Set parses value and sets it in all. The error says what is valid, in the words of EC2's InvalidParameterValue.
func (o *Option) Set(all *Options, value string) error {
	if o.isNumber() {
		n, err := strconv.Atoi(value)
		if err != nil || n < o.Min || n > o.Max {
			return o.invalid(value)
		}
		*o.number(all) = n
		return nil
	}
	if value != o.Yes && value != o.No {
		return o.invalid(value)
	}
	*o.word(all) = value == o.Yes
	return nil
}

func (o *Option) invalid(value string) error {
	return fmt.Errorf("a value of '%s' is not valid: specify %s", value, o.Allowed())
}

// Weakens reports whether the option allows more with its value in is than with its value in was.
func (o *Option) Weakens(was, is *Options) bool { return o.weaker(is, was) }

// HasPreference reports whether the account default value sets one.
func (o *Option) HasPreference(value string) bool { return value != o.NoPreference }

// DefaultOptions returns EC2's own defaults.
func DefaultOptions() Options {
	var all Options
	for i := range optionTable {
		if err := optionTable[i].Set(&all, optionTable[i].Default); err != nil {
			panic(optionTable[i].Name + ": " + err.Error()) // a test sets every default
		}
	}
	return all
}

// Text returns the value of the option called name, "" if there is no such option.
func (o *Options) Text(name string) string {
	if row := OptionCalled(name); row != nil {
		return row.Text(o)
	}
	return ""
}

// Set parses value and sets the option called name.
func (o *Options) Set(name, value string) error {
	if row := OptionCalled(name); row != nil {
		return row.Set(o, value)
	}
	return fmt.Errorf("unknown option: the options are %s", strings.Join(OptionNames(), ", "))
}

// TokensEnforced is the account default that makes a launch with optional tokens fail.
const TokensEnforced = "http-tokens-enforced"

// AccountDefaultNames returns the keys of [account-defaults], the parameters of EC2's ModifyInstanceMetadataDefaults.
func AccountDefaultNames() []string {
	names := []string{TokensEnforced}
	for i := range optionTable {
		if optionTable[i].Account {
			names = append(names, optionTable[i].Name)
		}
	}
	slices.Sort(names)
	return names
}

// CheckAccountDefault says what is wrong with a value of [account-defaults]. Besides the values of the option,
// "no-preference" is valid, or -1 for the hop limit.
func CheckAccountDefault(name, value string) error {
	option := OptionCalled(name)
	if name == TokensEnforced {
		option = OptionCalled(OptionHTTPEndpoint) // the same words
	}
	switch {
	case option == nil || !option.Account:
		return fmt.Errorf("unknown default: the defaults are %s", strings.Join(AccountDefaultNames(), ", "))
	case !option.HasPreference(value):
		return nil
	}
	var scratch Options
	return option.Set(&scratch, value)
}

// OptionValues returns the words that the option called name takes; nil if it takes numbers or does not exist.
func OptionValues(name string) []string {
	if row := OptionCalled(name); row != nil {
		return row.Values()
	}
	return nil
}

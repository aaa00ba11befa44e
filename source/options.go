package source

import (
	"fmt"
	"maps"
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

// Options are EC2's instance metadata options.
type Options struct {
	HTTPEndpoint         bool // false: every HTTP request is answered 403
	TokensRequired       bool // http-tokens = "required": v2 only
	HopLimit             int  // IP TTL of the answer to a token PUT, 1..64
	HTTPProtocolIPv6     bool
	InstanceMetadataTags bool // tags are shown, on both doors
	// Lock names the options that may be tightened at run time, never weakened.
	Lock []string
	// Origins tells for each option by name where it comes from.
	Origins map[string]Origin
}

// builtinOptions are EC2's own defaults (EC2 user guide, "Configure the instance metadata options").
func builtinOptions() Options {
	o := Options{HTTPEndpoint: true, HopLimit: 1, Origins: map[string]Origin{}}
	for _, name := range OptionNames() {
		o.Origins[name] = Origin{Kind: Default}
	}
	return o
}

// OptionNames returns the names of all options, sorted.
func OptionNames() []string {
	return []string{OptionHTTPEndpoint, OptionHTTPProtocolIPv6, OptionHopLimit, OptionHTTPTokens, OptionInstanceMetadataTags}
}

// OptionValues returns the values that the option called name takes, nil if they are numbers or there is no such option.
func OptionValues(name string) []string {
	switch name {
	case OptionHTTPEndpoint, OptionHTTPProtocolIPv6, OptionInstanceMetadataTags:
		return []string{"enabled", "disabled"}
	case OptionHTTPTokens:
		return []string{"required", "optional"}
	}
	return nil
}

// Text returns the value of the option called name as EC2 writes it, "" for an unknown name.
func (o *Options) Text(name string) string {
	enabled := map[bool]string{true: "enabled", false: "disabled"}
	switch name {
	case OptionHTTPEndpoint:
		return enabled[o.HTTPEndpoint]
	case OptionHTTPProtocolIPv6:
		return enabled[o.HTTPProtocolIPv6]
	case OptionInstanceMetadataTags:
		return enabled[o.InstanceMetadataTags]
	case OptionHTTPTokens:
		if o.TokensRequired {
			return "required"
		}
		return "optional"
	case OptionHopLimit:
		return strconv.Itoa(o.HopLimit)
	}
	return ""
}

// Set parses value for the option called name. The error says what is allowed, in the manner of
// EC2's InvalidParameterValue.
func (o *Options) Set(name, value string) error {
	switch name {
	case OptionHTTPEndpoint:
		return setEnum(&o.HTTPEndpoint, value, "enabled", "disabled")
	case OptionHTTPProtocolIPv6:
		return setEnum(&o.HTTPProtocolIPv6, value, "enabled", "disabled")
	case OptionInstanceMetadataTags:
		return setEnum(&o.InstanceMetadataTags, value, "enabled", "disabled")
	case OptionHTTPTokens:
		return setEnum(&o.TokensRequired, value, "required", "optional")
	case OptionHopLimit:
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 64 {
			return fmt.Errorf("a value of '%s' is not valid: specify a whole number from 1 to 64", value)
		}
		o.HopLimit = n
		return nil
	}
	return fmt.Errorf("unknown option: the options are %s", strings.Join(OptionNames(), ", "))
}

func setEnum(field *bool, value, yes, no string) error {
	if value != yes && value != no {
		return fmt.Errorf("a value of '%s' is not valid: specify either '%s' or '%s'", value, yes, no)
	}
	*field = value == yes
	return nil
}

// TokensEnforced is the account default that makes a launch with optional tokens fail.
const TokensEnforced = "http-tokens-enforced"

// AccountDefaultNames are the keys of [account-defaults], in EC2's API ModifyInstanceMetadataDefaults.
func AccountDefaultNames() []string {
	return []string{OptionHTTPEndpoint, OptionHopLimit, OptionHTTPTokens, TokensEnforced, OptionInstanceMetadataTags}
}

// CheckAccountDefault reports what is wrong with a value of [account-defaults]. Besides the values of
// the option there is "no-preference", or -1 for the hop limit.
func CheckAccountDefault(name, value string) error {
	switch {
	case !slices.Contains(AccountDefaultNames(), name):
		return fmt.Errorf("unknown default: the defaults are %s", strings.Join(AccountDefaultNames(), ", "))
	case !hasPreference(name, value):
		return nil
	case name == TokensEnforced:
		name = OptionHTTPEndpoint // the same two words
	}
	var scratch Options
	return scratch.Set(name, value)
}

func hasPreference(name, value string) bool {
	if name == OptionHopLimit {
		return value != "-1"
	}
	return value != "no-preference"
}

// Weakens reports whether turning the option called name from its value in o to that in next opens
// something: what a lock forbids at run time.
func (o *Options) Weakens(name string, next *Options) bool {
	opened := func(was, is bool) bool { return is && !was }
	switch name {
	case OptionHTTPTokens:
		return opened(!o.TokensRequired, !next.TokensRequired)
	case OptionHopLimit:
		return next.HopLimit > o.HopLimit
	case OptionHTTPEndpoint:
		return opened(o.HTTPEndpoint, next.HTTPEndpoint)
	case OptionHTTPProtocolIPv6:
		return opened(o.HTTPProtocolIPv6, next.HTTPProtocolIPv6)
	case OptionInstanceMetadataTags:
		return opened(o.InstanceMetadataTags, next.InstanceMetadataTags)
	}
	return false
}

// set is Set with the provenance of the value.
func (o *Options) set(name, value string, origin Origin) error {
	if err := o.Set(name, value); err != nil {
		return err
	}
	o.Origins[name] = origin
	return nil
}

// resolveOptions settles each option by itself, as EC2 does: launch (what the file states) > account
// default > AMI (imds-support) > built-in; then come changes at run time, as far as the lock allows.
func (b *builder) resolveOptions() {
	o := builtinOptions()
	o.Lock = b.lock
	apply := func(values map[string]Value, skip func(name string, v Value) bool) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			v := values[name]
			if skip != nil && skip(name, v) {
				continue
			}
			if err := o.set(name, string(v.Bytes), v.Origin); err != nil {
				b.fault(faultAt(v, err.Error(), ""))
			}
		}
	}
	switch ami := b.instance["imds-support"]; string(ami.Bytes) {
	case "":
	case "v2.0":
		origin := Origin{Kind: Derived, From: []string{"instance.imds-support"}}
		o.TokensRequired, o.Origins[OptionHTTPTokens] = true, origin
		o.HopLimit, o.Origins[OptionHopLimit] = 2, origin
	default:
		b.fault(faultAt(ami, "unknown value", `leave it out or say "v2.0"`))
	}
	apply(b.account, func(name string, v Value) bool {
		if err := CheckAccountDefault(name, string(v.Bytes)); err != nil {
			b.fault(faultAt(v, err.Error(), ""))
			return true
		}
		return name == TokensEnforced || !hasPreference(name, string(v.Bytes))
	})
	apply(b.launch, nil)
	launched := o
	apply(b.runTime, func(name string, v Value) bool {
		next := launched
		if next.Set(name, string(v.Bytes)) != nil || !slices.Contains(b.lock, name) || !launched.Weakens(name, &next) {
			return false
		}
		b.warn(faultAt(v, name+" is locked: "+string(v.Bytes)+", set at run time, is weaker than "+launched.Text(name)+" and does not count", ""))
		return true
	})
	if b.snowball {
		fixed := Origin{Kind: Default, Place: "always so on Snowball Edge"}
		o.HopLimit, o.Origins[OptionHopLimit] = 1, fixed
		o.HTTPProtocolIPv6, o.Origins[OptionHTTPProtocolIPv6] = false, fixed
	}
	if v := b.account[TokensEnforced]; string(v.Bytes) == "enabled" && !o.TokensRequired {
		b.fault(faultAt(v, "tokens have to be required in this account, and http-tokens is optional",
			`set http-tokens = "required" under [metadata-options]`))
	}
	b.options = o
}

func faultAt(v Value, text, hint string) Fault {
	return Fault{Place: v.Origin.Place, Key: v.Origin.Key, Text: text, Hint: hint}
}

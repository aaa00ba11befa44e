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

// resolveOptions settles each option by itself: stated > AMI (imds-support) > built-in.
func resolveOptions(stated map[string]Value, lock []string, imdsSupport Value) (Options, Faults) {
	o := builtinOptions()
	var faults Faults
	switch string(imdsSupport.Bytes) {
	case "":
	case "v2.0":
		o.TokensRequired, o.HopLimit = true, 2
		o.Origins[OptionHTTPTokens] = Origin{Kind: Derived, From: []string{"instance.imds-support"}}
		o.Origins[OptionHopLimit] = o.Origins[OptionHTTPTokens]
	default:
		faults = append(faults, faultAt(imdsSupport, "unknown value", `leave it out or say "v2.0"`))
	}
	for _, name := range slices.Sorted(maps.Keys(stated)) {
		v := stated[name]
		if err := o.Set(name, string(v.Bytes)); err != nil {
			faults = append(faults, faultAt(v, err.Error(), ""))
			continue
		}
		o.Origins[name] = v.Origin
	}
	o.Lock = lock
	return o, faults
}

func faultAt(v Value, text, hint string) Fault {
	return Fault{Place: v.Origin.Place, Key: v.Origin.Key, Text: text, Hint: hint}
}

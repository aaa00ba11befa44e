package ec2

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Form says how EC2 writes the value of a category (EC2 user guide, "Instance metadata categories"; captures; facts §3
// and §4). A value of another form is served unchanged, and check warns of it.
type Form struct {
	Path  string // as in the table of categories
	Is    string // "an id"
	Like  string // an example, or all valid values
	Valid func(string) bool
	// Costs says what a value of another form breaks; "" if nothing.
	Costs string
	// Document: the value is a JSON document.
	Document bool
}

const interfaceForm = "meta-data/network/interfaces/macs/*/"

var forms = []Form{
	{Path: "meta-data/instance-id", Is: "an instance id", Like: "i-0a1b2c3d4e5f67890", Valid: resource("i"), Costs: "EC2 Instance Connect and others refuse it"},
	{Path: "meta-data/instance-type", Is: "an instance type", Like: "m5.large", Valid: matches(`[a-z][a-z0-9]*(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*`), Costs: "the architecture and the hypervisor do not follow from it"},
	{Path: "meta-data/placement/availability-zone", Is: "an Availability Zone", Like: "eu-west-1b", Valid: func(s string) bool { return RegionOf(s) != "" },
		Costs: "no region follows, and without one no host names: state placement.region, or write the zone as EC2 does"},
	{Path: "meta-data/placement/region", Is: "a region", Like: "eu-west-1", Valid: wholeForm.MatchString},
	{Path: "meta-data/ami-id", Is: "an AMI's id", Like: "ami-0abcdef1234567890", Valid: resource("ami")},
	{Path: "meta-data/reservation-id", Is: "a reservation's id", Like: "r-0a5b6c7d8e9f01234", Valid: resource("r")},
	{Path: "meta-data/ami-launch-index", Is: "a number", Like: "0", Valid: isCount},
	{Path: "meta-data/autoscaling/target-lifecycle-state", Valid: oneOf("Detached", "InService", "Standby", "Terminated", "Warmed:Hibernated", "Warmed:Running", "Warmed:Stopped", "Warmed:Terminated"),
		Is: "a lifecycle state", Like: "InService, Detached, Standby, Terminated, Warmed:Running, Warmed:Stopped, Warmed:Hibernated or Warmed:Terminated"},
	{Path: "meta-data/instance-action", Is: "an action", Like: "none, shutdown or bundle-pending", Valid: oneOf("none", "shutdown", "bundle-pending")},
	{Path: "meta-data/instance-life-cycle", Is: "a purchasing option", Like: "on-demand, spot, scheduled or capacity-block", Valid: oneOf("on-demand", "spot", "scheduled", "capacity-block")},
	{Path: "meta-data/hibernation/configured", Is: "a boolean", Like: "true or false", Valid: oneOf("true", "false")},
	{Path: "dynamic/fws/instance-monitoring", Is: "the state of detailed monitoring", Like: "enabled or disabled", Valid: oneOf("enabled", "disabled")},

	{Path: "meta-data/spot/termination-time", Is: "a time", Like: "2026-01-05T18:02:00Z", Valid: isTime},
	{Path: "meta-data/spot/instance-action", Is: "EC2's document", Like: `{"action": "stop", "time": "2026-01-05T18:02:00Z"}`, Document: true, Valid: isSpotAction},
	{Path: "meta-data/events/recommendations/rebalance", Is: "EC2's document", Like: `{"noticeTime": "2026-01-05T18:02:00Z"}`, Document: true, Valid: isRebalance},
	{Path: "meta-data/events/maintenance/scheduled", Is: "EC2's document", Like: eventLike("active"), Document: true, Valid: isEvents("active")},
	{Path: "meta-data/events/maintenance/history", Is: "EC2's document", Like: eventLike("completed"), Document: true, Valid: isEvents("completed", "canceled")},
	{Path: "meta-data/iam/info", Is: "EC2's document", Like: `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "InstanceProfileArn" : "arn:aws:iam::123456789012:instance-profile/NAME", "InstanceProfileId" : "AIPA…"}`,
		Document: true, Valid: hasTexts("Code")},
	{Path: "meta-data/iam/security-credentials/*", Is: "EC2's document", Like: credentialsLike, Document: true, Valid: isCredentials},
	{Path: "meta-data/iam/security-credentials-extended/*", Is: "EC2's document", Like: credentialsLike, Document: true, Valid: isCredentials},
	{Path: "meta-data/identity-credentials/ec2/info", Is: "EC2's document", Like: `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "AccountId" : "123456789012"}`, Document: true, Valid: hasTexts("Code")},
	{Path: "meta-data/identity-credentials/ec2/security-credentials/ec2-instance", Is: "EC2's document", Like: credentialsLike, Document: true, Valid: isCredentials},
	{Path: "dynamic/instance-identity/document", Is: "EC2's document", Like: `{"accountId" : "123456789012", "region" : "eu-west-1", …}; usually left out: it is derived`, Document: true, Valid: hasTexts()},

	{Path: interfaceForm + "device-number", Is: "a number", Like: "0", Valid: isCount},
	{Path: interfaceForm + "network-card", Is: "a number", Like: "0", Valid: isCount},
	{Path: interfaceForm + "interface-id", Is: "an interface's id", Like: "eni-01a2b3c4d5e6f7081", Valid: resource("eni")},
	{Path: interfaceForm + "subnet-id", Is: "a subnet's id", Like: "subnet-0123456789abcdef0", Valid: resource("subnet")},
	{Path: interfaceForm + "vpc-id", Is: "a VPC's id", Like: "vpc-0123456789abcdef0", Valid: resource("vpc")},
	{Path: interfaceForm + "security-group-ids", Is: "ids of security groups", Like: "sg-0123456789abcdef0", Valid: EachLine(resource("sg"))},
	{Path: interfaceForm + "owner-id", Is: "an account", Like: "123456789012", Valid: matches(`[0-9]{12}`)},
	{Path: interfaceForm + "mac", Is: "a MAC address", Like: "06:2b:3c:4d:5e:6f", Valid: ValidMAC},
	{Path: interfaceForm + "ipv4-prefix", Is: "IPv4 prefixes", Like: "10.0.41.240/28", Valid: EachLine(isPrefix(true))},
	{Path: interfaceForm + "ipv6-prefix", Is: "IPv6 prefixes", Like: "2001:db8:55:a100:1::/80", Valid: EachLine(isPrefix(false))},
	{Path: interfaceForm + "subnet-ipv4-cidr-block", Is: "an IPv4 block", Like: "10.0.0.0/20", Valid: isPrefix(true)},
	{Path: interfaceForm + "subnet-ipv6-cidr-blocks", Is: "IPv6 blocks", Like: "2001:db8:55:a100::/64", Valid: EachLine(isPrefix(false))},
	{Path: interfaceForm + "vpc-ipv4-cidr-block", Is: "an IPv4 block", Like: "10.0.0.0/16", Valid: isPrefix(true)},
	{Path: interfaceForm + "vpc-ipv4-cidr-blocks", Is: "IPv4 blocks", Like: "10.0.0.0/16", Valid: EachLine(isPrefix(true))},
	{Path: interfaceForm + "vpc-ipv6-cidr-blocks", Is: "IPv6 blocks", Like: "2001:db8:55:a100::/56", Valid: EachLine(isPrefix(false))},
	{Path: interfaceForm + "ipv4-associations/*", Is: "IPv4 addresses", Like: "10.0.12.34", Valid: EachLine(IsIPv4)},
}

const credentialsLike = `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "Type" : "AWS-HMAC", "AccessKeyId" : "ASIA…", "SecretAccessKey" : "…", "Token" : "…", "Expiration" : "2026-01-06T00:02:00Z"}`

// Forms returns the table of all known forms. Do not change it.
func Forms() []Form { return forms }

// FormOf returns the form of the leaf at path, nil if none is known.
func FormOf(path string) *Form {
	if row := CategoryOf(path); row != nil {
		if i := slices.IndexFunc(forms, func(f Form) bool { return f.Path == row.Path }); i >= 0 {
			return &forms[i]
		}
	}
	return nil
}

// DocumentAt returns an example of the JSON document that EC2 has at path, "" if it has none.
func DocumentAt(path string) string {
	if f := FormOf(path); f != nil && f.Document {
		return f.Like
	}
	return ""
}

func matches(pattern string) func(string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString
}

// resource accepts the id of an EC2 resource: 17 hexadecimal digits, or 8 in older ids. On Snowball Edge it begins with
// "s.".
func resource(kind string) func(string) bool { return matches(`(s\.)?` + kind + `-[0-9a-f]{8,32}`) }

func oneOf(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

func isCount(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func isTime(s string) bool {
	t, err := time.Parse(time.RFC3339, s)
	return err == nil && t.Location() == time.UTC
}

func isPrefix(v4 bool) func(string) bool {
	return func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && p.Addr().Is4() == v4
	}
}

// jsonTexts returns the string members of a JSON object. ok is false if document is not an object.
func jsonTexts(document string) (texts map[string]string, ok bool) {
	var members map[string]any
	if json.Unmarshal([]byte(document), &members) != nil || members == nil {
		return nil, false
	}
	texts = map[string]string{}
	for name, v := range members {
		if text, ok := v.(string); ok {
			texts[name] = text
		}
	}
	return texts, true
}

// hasTexts accepts a JSON object in which these members are strings.
func hasTexts(names ...string) func(string) bool {
	return func(document string) bool {
		texts, ok := jsonTexts(document)
		return ok && !slices.ContainsFunc(names, func(name string) bool { _, ok := texts[name]; return !ok })
	}
}

func isSpotAction(document string) bool {
	texts, ok := jsonTexts(document)
	return ok && oneOf("hibernate", "stop", "terminate")(texts["action"]) && isTime(texts["time"])
}

func isRebalance(document string) bool {
	texts, ok := jsonTexts(document)
	return ok && isTime(texts["noticeTime"])
}

// isCredentials accepts a failure too: EC2 writes it as a document with a code and a message, with status 200.
func isCredentials(document string) bool {
	texts, ok := jsonTexts(document)
	if !ok || texts["Code"] == "" {
		return false
	}
	if texts["Code"] != "Success" {
		return true
	}
	return hasTexts("AccessKeyId", "SecretAccessKey", "Token")(document) && isTime(texts["Expiration"])
}

// eventTime is EC2's format for the times of scheduled events.
const eventTime = "2 Jan 2006 15:04:05 GMT"

func eventLike(state string) string {
	return `[ {"NotBefore" : "21 Jan 2026 09:00:43 GMT", "Code" : "system-reboot", "Description" : "scheduled reboot", "EventId" : "instance-event-0d59937288b749b32", "NotAfter" : "21 Jan 2026 09:17:23 GMT", "State" : "` + state + `"} ]`
}

func isEvents(states ...string) func(string) bool {
	return func(document string) bool {
		var events []json.RawMessage
		if json.Unmarshal([]byte(document), &events) != nil || strings.TrimSpace(document) == "null" {
			return false
		}
		for _, raw := range events {
			event, ok := jsonTexts(string(raw))
			_, err := time.Parse(eventTime, event["NotBefore"])
			if !ok || err != nil || event["EventId"] == "" || !slices.Contains(states, event["State"]) ||
				!oneOf("instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop")(event["Code"]) {
				return false
			}
		}
		return true
	}
}

// EachLine accepts a text if every line of it is valid.
func EachLine(valid func(string) bool) func(string) bool {
	return func(text string) bool {
		for line := range strings.SplitSeq(text, "\n") {
			if !valid(line) {
				return false
			}
		}
		return true
	}
}

// SpotNotice returns the action and the time in a document of spot/instance-action. ok is false if it is not such a
// document.
func SpotNotice(document string) (action, at string, ok bool) {
	if !isSpotAction(document) {
		return "", "", false
	}
	texts, _ := jsonTexts(document)
	return texts["action"], texts["time"], true
}

// CredentialsEnd returns the expiration in a document of credentials; zero if there is none.
func CredentialsEnd(document []byte) time.Time {
	var c struct{ Expiration time.Time }
	if json.Unmarshal(document, &c) != nil {
		return time.Time{}
	}
	return c.Expiration
}

package source

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A form is how EC2 writes the value of a category, where that is known (EC2 user guide, "Instance metadata
// categories"; captures; facts §3 and §4). A value of another form is served as it is, and check warns of it.
type form struct {
	path  string // as in the table of categories
	is    string // "an id"
	like  string // an example; or all values there are
	valid func(string) bool
	// costs is what does not follow from a value of another form, "" if nothing.
	costs string
	// document: EC2 has one JSON document there.
	document bool
}

const interfaceForm = "meta-data/network/interfaces/macs/*/"

var forms = []form{
	{path: "meta-data/instance-id", is: "an instance id", like: "i-0a1b2c3d4e5f67890", valid: resource("i"), costs: "EC2 Instance Connect and others refuse it"},
	{path: "meta-data/instance-type", is: "an instance type", like: "m5.large", valid: matches(`[a-z][a-z0-9]*(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*`), costs: "the architecture and the hypervisor do not follow from it"},
	{path: "meta-data/placement/availability-zone", is: "an Availability Zone", like: "eu-west-1b", valid: func(s string) bool { return regionOf(s) != "" },
		costs: "no region follows, and without one no host names: state placement.region, or write the zone as EC2 does"},
	{path: "meta-data/placement/region", is: "a region", like: "eu-west-1", valid: wholeForm.MatchString},
	{path: "meta-data/ami-id", is: "an AMI's id", like: "ami-0abcdef1234567890", valid: resource("ami")},
	{path: "meta-data/reservation-id", is: "a reservation's id", like: "r-0a5b6c7d8e9f01234", valid: resource("r")},
	{path: "meta-data/ami-launch-index", is: "a number", like: "0", valid: isCount},
	{path: "meta-data/autoscaling/target-lifecycle-state", valid: oneOf("Detached", "InService", "Standby", "Terminated", "Warmed:Hibernated", "Warmed:Running", "Warmed:Stopped", "Warmed:Terminated"),
		is: "a lifecycle state", like: "InService, Detached, Standby, Terminated, Warmed:Running, Warmed:Stopped, Warmed:Hibernated or Warmed:Terminated"},
	{path: "meta-data/instance-action", is: "an action", like: "none, shutdown or bundle-pending", valid: oneOf("none", "shutdown", "bundle-pending")},
	{path: "meta-data/instance-life-cycle", is: "a purchasing option", like: "on-demand, spot, scheduled or capacity-block", valid: oneOf("on-demand", "spot", "scheduled", "capacity-block")},
	{path: "meta-data/hibernation/configured", is: "a boolean", like: "true or false", valid: oneOf("true", "false")},
	{path: "dynamic/fws/instance-monitoring", is: "the state of detailed monitoring", like: "enabled or disabled", valid: oneOf("enabled", "disabled")},

	{path: "meta-data/spot/termination-time", is: "a time", like: "2026-01-05T18:02:00Z", valid: isTime},
	{path: "meta-data/spot/instance-action", is: "EC2's document", like: `{"action": "stop", "time": "2026-01-05T18:02:00Z"}`, document: true, valid: isSpotAction},
	{path: "meta-data/events/recommendations/rebalance", is: "EC2's document", like: `{"noticeTime": "2026-01-05T18:02:00Z"}`, document: true, valid: isRebalance},
	{path: "meta-data/events/maintenance/scheduled", is: "EC2's document", like: eventLike("active"), document: true, valid: isEvents("active")},
	{path: "meta-data/events/maintenance/history", is: "EC2's document", like: eventLike("completed"), document: true, valid: isEvents("completed", "canceled")},
	{path: "meta-data/iam/info", is: "EC2's document", like: `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "InstanceProfileArn" : "arn:aws:iam::123456789012:instance-profile/NAME", "InstanceProfileId" : "AIPA…"}`,
		document: true, valid: hasTexts("Code")},
	{path: "meta-data/iam/security-credentials/*", is: "EC2's document", like: credentialsLike, document: true, valid: isCredentials},
	{path: "meta-data/iam/security-credentials-extended/*", is: "EC2's document", like: credentialsLike, document: true, valid: isCredentials},
	{path: "meta-data/identity-credentials/ec2/info", is: "EC2's document", like: `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "AccountId" : "123456789012"}`, document: true, valid: hasTexts("Code")},
	{path: "meta-data/identity-credentials/ec2/security-credentials/ec2-instance", is: "EC2's document", like: credentialsLike, document: true, valid: isCredentials},
	{path: "dynamic/instance-identity/document", is: "EC2's document", like: `{"accountId" : "123456789012", "region" : "eu-west-1", …}; usually left out: it is derived`, document: true, valid: hasTexts()},

	{path: interfaceForm + "device-number", is: "a number", like: "0", valid: isCount},
	{path: interfaceForm + "network-card", is: "a number", like: "0", valid: isCount},
	{path: interfaceForm + "interface-id", is: "an interface's id", like: "eni-01a2b3c4d5e6f7081", valid: resource("eni")},
	{path: interfaceForm + "subnet-id", is: "a subnet's id", like: "subnet-0123456789abcdef0", valid: resource("subnet")},
	{path: interfaceForm + "vpc-id", is: "a VPC's id", like: "vpc-0123456789abcdef0", valid: resource("vpc")},
	{path: interfaceForm + "security-group-ids", is: "ids of security groups", like: "sg-0123456789abcdef0", valid: eachLine(resource("sg"))},
	{path: interfaceForm + "owner-id", is: "an account", like: "123456789012", valid: matches(`[0-9]{12}`)},
	{path: interfaceForm + "mac", is: "a MAC address", like: "06:2b:3c:4d:5e:6f", valid: ValidMAC},
	{path: interfaceForm + "ipv4-prefix", is: "IPv4 prefixes", like: "10.0.41.240/28", valid: eachLine(isPrefix(true))},
	{path: interfaceForm + "ipv6-prefix", is: "IPv6 prefixes", like: "2001:db8:55:a100:1::/80", valid: eachLine(isPrefix(false))},
	{path: interfaceForm + "subnet-ipv4-cidr-block", is: "an IPv4 block", like: "10.0.0.0/20", valid: isPrefix(true)},
	{path: interfaceForm + "subnet-ipv6-cidr-blocks", is: "IPv6 blocks", like: "2001:db8:55:a100::/64", valid: eachLine(isPrefix(false))},
	{path: interfaceForm + "vpc-ipv4-cidr-block", is: "an IPv4 block", like: "10.0.0.0/16", valid: isPrefix(true)},
	{path: interfaceForm + "vpc-ipv4-cidr-blocks", is: "IPv4 blocks", like: "10.0.0.0/16", valid: eachLine(isPrefix(true))},
	{path: interfaceForm + "vpc-ipv6-cidr-blocks", is: "IPv6 blocks", like: "2001:db8:55:a100::/56", valid: eachLine(isPrefix(false))},
	{path: interfaceForm + "ipv4-associations/*", is: "IPv4 addresses", like: "10.0.12.34", valid: eachLine(isIPv4)},
}

const credentialsLike = `{"Code" : "Success", "LastUpdated" : "2026-01-05T18:02:00Z", "Type" : "AWS-HMAC", "AccessKeyId" : "ASIA…", "SecretAccessKey" : "…", "Token" : "…", "Expiration" : "2026-01-06T00:02:00Z"}`

// formOf is the form of the leaf at path, nil where none is known.
func formOf(path string) *form {
	if row := lookup(path); row != nil {
		if i := slices.IndexFunc(forms, func(f form) bool { return f.path == row.path }); i >= 0 {
			return &forms[i]
		}
	}
	return nil
}

// DocumentAt is an example of the JSON document that EC2 has at path, "" where it has none.
func DocumentAt(path string) string {
	if f := formOf(path); f != nil && f.document {
		return f.like
	}
	return ""
}

func matches(pattern string) func(string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString
}

// resource is the id of an EC2 resource: 17 hexadecimal digits, 8 of old; on Snowball Edge it begins with "s.".
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

// jsonTexts are the members of a JSON object that are text; ok is false for what is no object.
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

// hasTexts wants an object with these members, all text.
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

// isCredentials takes a failure as well: EC2 writes it with a code and a message, and status 200.
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

// eventTime is EC2's form of the times of scheduled events.
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

// checkForm warns of a value that has not the form that EC2 gives it. What the machine says of itself is not
// somebody's slip.
func (b *builder) checkForm(path string, l leaf) {
	f := formOf(path)
	if f == nil || l.Origin.Kind != Stated || l.Origin.Key == "" || f.valid(string(l.Bytes)) {
		return
	}
	what := "this"
	if !IsSecret(path) && !f.document {
		what = strconv.Quote(shortened(string(l.Bytes)))
	}
	hint := "EC2 writes " + f.like
	if f.costs != "" {
		hint = f.costs + "; " + hint
	}
	b.warn(faultAt(l.Value, what+" is not "+f.is, hint))
}

func shortened(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// checkIdentity refuses what no client could use, and warns where what should follow from the instance's own values
// does not.
func (b *builder) checkIdentity() {
	if v, ok := b.value("meta-data/instance-id"); ok && len(v.Bytes) == 0 {
		b.fault(faultAt(v, "the instance's id is empty", "leave it out, or state one such as i-0a1b2c3d4e5f67890"))
	}
	if region, ok := b.value(regionKey); ok {
		_, _, known := partitionOf(string(region.Bytes))
		_, partition := b.leaves["meta-data/services/partition"]
		_, domain := b.leaves["meta-data/services/domain"]
		if !known && !(partition && domain) {
			b.warn(faultAt(b.statedOf(regionKey, zoneKey), fmt.Sprintf("the region %.60q is in no partition that is known: services/partition, services/domain and public host names do not follow", region.Bytes),
				"state services.partition and services.domain if clients need them"))
		}
	}
	b.checkPrimary()
	b.checkRoles()
}

// statedOf is the first of the values at keys that somebody states.
func (b *builder) statedOf(keys ...string) Value {
	for _, key := range keys {
		if v, ok := b.value(key); ok && v.Origin.Kind == Stated {
			return v
		}
	}
	v, _ := b.value(keys[0])
	return v
}

// checkRoles refuses a second role: clients take the listing of the roles for the name of one.
func (b *builder) checkRoles() {
	const dir = "meta-data/iam/security-credentials/"
	var roles []string
	for path := range b.leaves {
		if name, ok := strings.CutPrefix(path, dir); ok && !strings.Contains(name, "/") {
			roles = append(roles, name)
		}
	}
	if slices.Sort(roles); len(roles) < 2 {
		return
	}
	first, second := b.leaves[dir+roles[0]].Value, b.leaves[dir+roles[1]].Value
	if second.Origin.Kind != Stated {
		first, second = second, first
	}
	b.fault(faultAt(second, fmt.Sprintf("an instance has one role, and this makes it %d: %s (%s)", len(roles), strings.Join(roles, ", "), first.Origin), "keep one"))
}

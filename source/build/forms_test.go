package build

import (
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// Each form: something that has it, and something that has not, with what the warning says.
func TestValuesHaveEC2sForm(t *testing.T) {
	const nic = "meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/"
	const event = `{"NotBefore" : "21 Jan 2019 09:00:43 GMT", "Code" : "system-reboot", "Description" : "x", "EventId" : "instance-event-0d59937288b749b32", "NotAfter" : "21 Jan 2019 09:17:23 GMT", "State" : "STATE"}`
	const keys = `"AccessKeyId" : "ASIA", "SecretAccessKey" : "hunter2", "Token" : "t"`
	for path, c := range map[string]struct{ good, bad, says string }{
		"meta-data/instance-id":                                                {"i-0a1b2c3d", "web-1", "such as"},
		"meta-data/instance-type":                                              {"u7i-12tb.224xlarge", "m5large", "the architecture and the hypervisor do not follow"},
		"meta-data/placement/availability-zone":                                {"us-east-1-wl1-bos-wlz-1", "US-EAST-1a", "no region follows"},
		"meta-data/placement/region":                                           {"eu-west-1", "eu-west", "eu-west-1"},
		"meta-data/ami-id":                                                     {"s.ami-0123456789abcdef0", "debian-12", "ami-0abcdef1234567890"},
		"meta-data/reservation-id":                                             {"r-12345678", "1", "r-0a5b"},
		"meta-data/ami-launch-index":                                           {"12", "first", "0"},
		"meta-data/autoscaling/target-lifecycle-state":                         {"Warmed:Running", "running", "InService"},
		"meta-data/instance-action":                                            {"shutdown", "stop", "bundle-pending"},
		"meta-data/instance-life-cycle":                                        {"spot", "reserved", "on-demand"},
		"meta-data/hibernation/configured":                                     {"true", "yes", "true or false"},
		"dynamic/fws/instance-monitoring":                                      {"enabled", "on", "enabled or disabled"},
		"meta-data/spot/termination-time":                                      {"2015-01-05T18:02:00Z", "2015-01-05 18:02", "2026-01-05T18:02:00Z"},
		"meta-data/spot/instance-action":                                       {`{"action":"terminate","time":"2015-01-05T18:02:00Z"}`, "terminate", `{"action": "stop"`},
		"meta-data/events/recommendations/rebalance":                           {`{"noticeTime": "2015-01-05T18:02:00Z"}`, "2015-01-05T18:02:00Z", `{"noticeTime"`},
		"meta-data/events/maintenance/scheduled":                               {"[ \n" + strings.Replace(event, "STATE", "active", 1) + " ]", event, "EventId"},
		"meta-data/events/maintenance/history":                                 {"[" + strings.Replace(event, "STATE", "canceled", 1) + "]", strings.Replace("["+event+"]", "STATE", "active", 1), "completed"},
		"meta-data/iam/info":                                                   {`{"Code":"Success"}`, "web", "InstanceProfileArn"},
		"meta-data/iam/security-credentials/web":                               {`{"Code":"Success",` + keys + `,"Expiration":"2027-01-01T00:00:00Z"}`, `{"Code":"Success",` + keys + `}`, "Expiration"},
		"meta-data/iam/security-credentials-extended/web":                      {`{"Code":"AssumeRoleUnauthorizedAccess"}`, `{"SecretAccessKey":"hunter2"}`, "AWS-HMAC"},
		"meta-data/identity-credentials/ec2/info":                              {`{"Code":"Success"}`, "[]", "AccountId"},
		"meta-data/identity-credentials/ec2/security-credentials/ec2-instance": {`{"Code":"Success",` + keys + `,"Expiration":"2027-01-01T00:00:00Z"}`, "hunter2", "AccessKeyId"},
		"dynamic/instance-identity/document":                                   {"{}", "null", "derived"},
		nic + "device-number":                                                  {"0", "eth0", "a number"},
		nic + "network-card":                                                   {"0", "00", "a number"},
		nic + "interface-id":                                                   {"eni-01a2b3c4d5e6f7081", "eth0", "eni-"},
		nic + "subnet-id":                                                      {"subnet-12345678", "10.0.0.0/24", "subnet-"},
		nic + "vpc-id":                                                         {"vpc-12345678", "default", "vpc-"},
		nic + "security-group-ids":                                             {"sg-12345678\nsg-0123456789abcdef0", "sg-12345678\nweb", "sg-"},
		nic + "owner-id":                                                       {"123456789012", "me", "123456789012"},
		nic + "mac":                                                            {"06:2b:3c:4d:5e:6f", "06-2B-3C-4D-5E-6F", "06:2b"},
		nic + "ipv4-prefix":                                                    {"10.0.0.16/28\n10.0.0.32/28", "10.0.0.16", "/28"},
		nic + "ipv6-prefix":                                                    {"2001:db8::/80", "10.0.0.0/28", "/80"},
		nic + "subnet-ipv4-cidr-block":                                         {"10.0.0.0/20", "10.0.0.0", "/20"},
		nic + "subnet-ipv6-cidr-blocks":                                        {"2001:db8:55:a100:0:0:0:0/64", "2001:db8::", "/64"},
		nic + "vpc-ipv4-cidr-block":                                            {"10.0.0.0/16", "vpc", "/16"},
		nic + "vpc-ipv4-cidr-blocks":                                           {"10.0.0.0/16\n10.1.0.0/16", "10.0.0.0/16,10.1.0.0/16", "/16"},
		nic + "vpc-ipv6-cidr-blocks":                                           {"2001:db8::/56", "fd00", "/56"},
		nic + "ipv4-associations/203.0.113.1":                                  {"10.0.12.34", "web", "10.0.12.34"},
	} {
		t.Run(path, func(t *testing.T) {
			if ec2.FormOf(path) == nil {
				t.Fatal("no form is known")
			}
			warnings := func(value string) string {
				f := with(least(), path, value)
				if strings.HasSuffix(path, "/region") {
					with(f, zoneKey, value+"a", "meta-data/services/partition", "aws", "meta-data/services/domain", "example")
				}
				s, err := Build(nil, testEnv, f)
				if err != nil {
					return err.Error()
				}
				return s.Warnings().Error()
			}
			if got := warnings(c.good); got != "" {
				t.Errorf("%q: %s", c.good, got)
			}
			got := warnings(c.bad)
			if !strings.Contains(got, " is not ") || !strings.Contains(got, "test.toml:1: k: ") || !strings.Contains(got, strings.Replace(c.says, "such as", "i-0a1b2c3d4e5f67890", 1)) {
				t.Errorf("%q: the warning is %q, and does not say %q", c.bad, got, c.says)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is shown: %s", got)
			}
		})
	}
	tested := map[string]bool{}
	for _, f := range ec2.Forms() {
		if tested[f.Path] {
			t.Errorf("%s has two forms", f.Path)
		}
		tested[f.Path] = true
		if ec2.CategoryOf(strings.ReplaceAll(f.Path, "*", "x")) == nil {
			t.Errorf("EC2 has no %s", f.Path)
		}
		if example := !strings.ContainsAny(f.Like, "…,") && !strings.Contains(f.Like, " or ") || strings.HasPrefix(f.Like, "[") || f.Document && !strings.Contains(f.Like, "…"); example && !f.Valid(f.Like) {
			t.Errorf("%s: the example %s has not the form", f.Path, f.Like)
		}
	}
}

func TestWhatDoesNotFollowIsSaid(t *testing.T) {
	const macs = "meta-data/network/interfaces/macs/"
	const first, second = macs + "06:00:00:00:00:01/", macs + "06:00:00:00:00:02/"
	for name, c := range map[string]struct {
		state []string
		says  string
	}{
		"an unknown partition": {[]string{zoneKey, "moon-1a"}, `the region "moon-1" is in no known partition`},
		"an empty id":          {[]string{"meta-data/instance-id", ""}, "the instance id is empty"},
		"two roles": {[]string{"meta-data/iam/security-credentials/a", `{"Code":"x"}`, "meta-data/iam/security-credentials/b", `{"Code":"x"}`},
			"an instance has one role, and this makes it 2: a, b (test.toml:1)"},
		"a mac of no interface":  {[]string{first + "subnet-id", "subnet-12345678"}, "this interface is not described, but others are (check whether it is one of 06:00:00:00:00:01)"},
		"the same device twice":  {[]string{"meta-data/mac", "06:00:00:00:00:01", first + "device-number", "0", second + "device-number", "0"}, "two interfaces have device-number 0 on network card 0: 06:00:00:00:00:01 and 06:00:00:00:00:02 (test.toml:1)"},
		"the same on card 3":     {[]string{"meta-data/mac", "06:00:00:00:00:03", macs + "06:00:00:00:00:03/device-number", "0", first + "network-card", "3", first + "device-number", "1", second + "network-card", "3", second + "device-number", "1"}, "two interfaces have device-number 1 on network card 3"},
		"against the stated mac": {[]string{"meta-data/mac", "06:00:00:00:00:01", second + "device-number", "0"}, "two interfaces have device-number 0"},
		"a primary elsewhere":    {[]string{"meta-data/mac", "06:00:00:00:00:01", first + "device-number", "1"}, "has device-number 1 on network card 0: EC2 has it at 0 on 0"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Build(nil, testEnv, with(least(), c.state...))
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = s.Warnings().Error()
			}
			if !strings.Contains(got, c.says) || !strings.Contains(got, "test.toml:1: k: ") {
				t.Errorf("%q does not say %q", got, c.says)
			}
		})
	}
	f := with(least(), first+"device-number", "1", second+"device-number", "2")
	delete(f.Leaves, "meta-data/mac")
	if s := build(t, nil, testEnv, f); !strings.Contains(s.Warnings().Error(), "no interface is the primary one") {
		t.Errorf("nothing is said of a primary interface that is missing: %v", s.Warnings())
	}
	if got := text(build(t, nil, testEnv, with(least(), zoneKey, "moon-1a", "meta-data/public-ipv4", "203.0.113.1")), "meta-data/public-hostname"); got != "-" {
		t.Errorf("public-hostname = %q", got)
	}
}

// The primary interface is device 0 on network card 0, whoever sorts first.
func TestThePrimaryInterface(t *testing.T) {
	const macs = "meta-data/network/interfaces/macs/"
	const low, high = macs + "06:00:00:00:00:01/", macs + "06:00:00:00:00:02/"
	for name, c := range map[string]struct {
		state     []string
		mac, ipv4 string
		numbers   string // of low and high
	}{
		"card 1 sorts first":     {[]string{low + "network-card", "1", low + "device-number", "0", high + "network-card", "0", high + "device-number", "0"}, "06:00:00:00:00:02", "10.0.0.2", "0 0"},
		"without a card":         {[]string{low + "network-card", "1", low + "device-number", "0", high + "device-number", "0"}, "06:00:00:00:00:02", "10.0.0.2", "0 0"},
		"without numbers":        {nil, "06:00:00:00:00:01", "10.0.0.1", "0 1"},
		"the own address":        {[]string{"meta-data/local-ipv4", "10.0.0.2"}, "06:00:00:00:00:02", "10.0.0.2", "1 0"},
		"one number of two":      {[]string{low + "device-number", "1"}, "06:00:00:00:00:02", "10.0.0.2", "1 0"},
		"a number taken":         {[]string{high + "device-number", "0"}, "06:00:00:00:00:02", "10.0.0.2", "1 0"},
		"each card by itself":    {[]string{low + "network-card", "1"}, "06:00:00:00:00:02", "10.0.0.2", "0 0"},
		"the stated one, always": {[]string{"meta-data/mac", "06:00:00:00:00:02"}, "06:00:00:00:00:02", "10.0.0.2", "1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			f := with(least(), low+"local-ipv4s", "10.0.0.1", high+"local-ipv4s", "10.0.0.2")
			delete(f.Leaves, "meta-data/mac")
			delete(f.Leaves, "meta-data/local-ipv4")
			s := build(t, nil, testEnv, with(f, c.state...))
			got := []string{text(s, "meta-data/mac"), text(s, "meta-data/local-ipv4"), text(s, low+"device-number") + " " + text(s, high+"device-number"), text(s, "meta-data/hostname")}
			want := []string{c.mac, c.ipv4, c.numbers, "ip-" + strings.ReplaceAll(c.ipv4, ".", "-") + ".eu-west-1.compute.internal"}
			if strings.Join(got, "\n") != strings.Join(want, "\n") || len(s.Warnings()) > 0 {
				t.Errorf("got %q, want %q; warnings: %v", got, want, s.Warnings())
			}
		})
	}
}

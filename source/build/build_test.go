package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

var (
	fileTime  = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	startTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testEnv   = Env{Now: startTime, LaunchTime: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), UID: 7, GID: 8}
)

func stated(text string) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: fileTime, Origin: tree.Origin{Place: "test.toml:1", Key: "k"}}
}

// least is the least input that everything else follows from.
func least() *Fragment {
	return &Fragment{
		Leaves: map[string]tree.Value{
			"meta-data/instance-id":                 stated("i-0a1b2c3d4e5f67890"),
			"meta-data/instance-type":               stated("m5.large"),
			"meta-data/local-ipv4":                  stated("10.0.12.34"),
			"meta-data/mac":                         stated("06:2b:3c:4d:5e:6f"),
			"meta-data/placement/availability-zone": stated("eu-west-1b"),
		},
		Instance: map[string]tree.Value{}, Options: map[string]tree.Value{}, Tags: map[string]tree.Value{},
	}
}

// with states more: pairs of a path and a value.
func with(f *Fragment, pairs ...string) *Fragment {
	for i := 0; i < len(pairs); i += 2 {
		if key, ok := strings.CutPrefix(pairs[i], "instance."); ok {
			f.Instance[key] = stated(pairs[i+1])
		} else if key, ok := strings.CutPrefix(pairs[i], "option."); ok {
			f.Options[key] = stated(pairs[i+1])
		} else {
			f.Leaves[pairs[i]] = stated(pairs[i+1])
		}
	}
	return f
}

func build(t *testing.T, prev *Snapshot, env Env, fragments ...*Fragment) *Snapshot {
	t.Helper()
	s, err := Build(prev, env, fragments...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// text is the leaf at a path below /latest; "-" if there is none.
func text(s *Snapshot, path string) string {
	v, ok := s.Find("/latest/" + path)
	if !ok || v.IsDir() {
		return "-"
	}
	return string(v.Bytes())
}

func TestLeastInputImpliesTheRest(t *testing.T) {
	s := build(t, nil, testEnv, least())
	const nic = "meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/"
	const name = "ip-10-0-12-34.eu-west-1.compute.internal"
	for path, want := range map[string]string{
		"meta-data/hostname":                       name,
		"meta-data/local-hostname":                 name,
		"meta-data/placement/region":               "eu-west-1",
		"meta-data/placement/availability-zone-id": "euw1-az2",
		"meta-data/services/domain":                "amazonaws.com",
		"meta-data/services/partition":             "aws",
		"meta-data/ami-launch-index":               "0",
		"meta-data/ami-manifest-path":              "(unknown)",
		"meta-data/instance-action":                "none",
		"meta-data/instance-life-cycle":            "on-demand",
		"meta-data/profile":                        "default-hvm",
		"meta-data/system":                         "nitro",
		"meta-data/reservation-id":                 "r-daa266317246813a4",
		"meta-data/block-device-mapping/ami":       "/dev/xvda",
		"meta-data/block-device-mapping/root":      "/dev/xvda",
		"meta-data/events/maintenance/history":     "[]",
		"meta-data/events/maintenance/scheduled":   "[]",
		"dynamic/fws/instance-monitoring":          "disabled",
		nic + "device-number":                      "0",
		nic + "mac":                                "06:2b:3c:4d:5e:6f",
		nic + "local-ipv4s":                        "10.0.12.34",
		nic + "local-hostname":                     name,
		nic + "owner-id":                           "000000000000",
		nic + "security-groups":                    "default",
		"meta-data/ami-id":                         "-",
		"meta-data/public-ipv4":                    "-",
		"meta-data/iam/info":                       "-",
		"user-data":                                "-",
	} {
		if got := text(s, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	const document = `{
  "accountId" : "000000000000",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-west-1b",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : null,
  "instanceId" : "i-0a1b2c3d4e5f67890",
  "instanceType" : "m5.large",
  "kernelId" : null,
  "pendingTime" : "2026-01-01T00:00:00Z",
  "privateIp" : "10.0.12.34",
  "ramdiskId" : null,
  "region" : "eu-west-1",
  "version" : "2017-09-30"
}`
	if got := text(s, "dynamic/instance-identity/document"); got != document {
		t.Errorf("document = %s", got)
	}
}

func TestDerivation(t *testing.T) {
	const nic = "meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/"
	const second = "meta-data/network/interfaces/macs/06:aa:00:00:00:01/"
	const zone = "meta-data/placement/availability-zone"
	for name, c := range map[string]struct {
		state, want []string
	}{
		"us-east-1 has names of its own": {
			[]string{zone, "us-east-1a", "meta-data/public-ipv4", "203.0.113.25"},
			[]string{"meta-data/hostname", "ip-10-0-12-34.ec2.internal", "meta-data/public-hostname", "ec2-203-0-113-25.compute-1.amazonaws.com",
				nic + "public-hostname", "ec2-203-0-113-25.compute-1.amazonaws.com"}},
		"China": {
			[]string{zone, "cn-north-1a", "meta-data/public-ipv4", "203.0.113.25"},
			[]string{"meta-data/services/partition", "aws-cn", "meta-data/services/domain", "amazonaws.com.cn", "meta-data/placement/availability-zone-id", "cnn1-az1",
				"meta-data/hostname", "ip-10-0-12-34.cn-north-1.compute.internal",
				"meta-data/public-hostname", "ec2-203-0-113-25.cn-north-1.compute.amazonaws.com.cn"}},
		"GovCloud":               {[]string{zone, "us-gov-west-1b"}, []string{"meta-data/services/partition", "aws-us-gov", "meta-data/placement/region", "us-gov-west-1", "meta-data/placement/availability-zone-id", "usgw1-az2"}},
		"a Local Zone":           {[]string{zone, "us-west-2-lax-1a"}, []string{"meta-data/placement/region", "us-west-2", "meta-data/placement/availability-zone-id", "usw2-lax1-az1"}},
		"no cloud at all":        {[]string{zone, "local-1a"}, []string{"meta-data/placement/region", "local-1", "meta-data/placement/availability-zone-id", "-"}},
		"resource names":         {[]string{"instance.hostname-type", "resource-name"}, []string{"meta-data/hostname", "i-0a1b2c3d4e5f67890.eu-west-1.compute.internal", nic + "local-hostname", "i-0a1b2c3d4e5f67890.eu-west-1.compute.internal"}},
		"a stated name is meant": {[]string{"meta-data/hostname", "web.example"}, []string{"meta-data/local-hostname", "web.example", nic + "local-hostname", "web.example"}},
		"Graviton":               {[]string{"meta-data/instance-type", "c7gn.large"}, []string{"dynamic/instance-identity/document", `"architecture" : "arm64"`}},
		"not Graviton":           {[]string{"meta-data/instance-type", "g4dn.xlarge"}, []string{"dynamic/instance-identity/document", `"architecture" : "x86_64"`}},
		"Xen":                    {[]string{"meta-data/instance-type", "t2.micro"}, []string{"meta-data/system", "xen"}},
		"product codes":          {[]string{"meta-data/product-codes", "a\nb"}, []string{"dynamic/instance-identity/document", `"marketplaceProductCodes" : [ "a", "b" ]`}},
		"fields of the document": {
			[]string{"instance.billing-products", "bp-1\nbp-2", "instance.marketplace-product-codes", "c", "instance.kernel-id", "aki-1", "instance.ramdisk-id", "ari-1"},
			[]string{"dynamic/instance-identity/document", `"billingProducts" : [ "bp-1", "bp-2" ]`, "dynamic/instance-identity/document", `"marketplaceProductCodes" : [ "c" ]`,
				"dynamic/instance-identity/document", `"kernelId" : "aki-1"`, "dynamic/instance-identity/document", `"ramdiskId" : "ari-1"`,
				"meta-data/product-codes", "c", "meta-data/kernel-id", "aki-1", "meta-data/ramdisk-id", "ari-1"}},
		"a kernel of the tree": {[]string{"meta-data/kernel-id", "aki-2"}, []string{"dynamic/instance-identity/document", `"kernelId" : "aki-2"`}},
		"a Spot termination":   {[]string{"meta-data/spot/instance-action", `{"action": "terminate", "time": "2026-01-05T18:02:00Z"}`}, []string{"meta-data/spot/termination-time", "2026-01-05T18:02:00Z"}},
		"a Spot stop":          {[]string{"meta-data/spot/instance-action", `{"action": "stop", "time": "2026-01-05T18:02:00Z"}`}, []string{"meta-data/spot/termination-time", "-"}},
		"another partition":    {[]string{zone, "us-isob-east-1a", "meta-data/public-ipv4", "203.0.113.25"}, []string{"meta-data/services/partition", "aws-iso-b", "meta-data/services/domain", "sc2s.sgov.gov", "meta-data/public-hostname", "ec2-203-0-113-25.us-isob-east-1.compute.sc2s.sgov.gov"}},
		"an unknown partition": {[]string{zone, "moon-1a"}, []string{"meta-data/placement/region", "moon-1", "meta-data/services/partition", "-", "meta-data/services/domain", "-", "meta-data/hostname", "ip-10-0-12-34.moon-1.compute.internal"}},
		"a Mac":                {[]string{"meta-data/instance-type", "mac2-m2.metal"}, []string{"dynamic/instance-identity/document", `"architecture" : "arm64_mac"`}},
		"the interface implies the instance": {
			[]string{nic + "ipv6s", "2001:db8::1\n2001:db8::2", nic + "public-ipv4s", "203.0.113.9", nic + "security-groups", "web\nssh"},
			[]string{"meta-data/ipv6", "2001:db8::1", "meta-data/public-ipv4", "203.0.113.9", "meta-data/security-groups", "web\nssh",
				nic + "ipv4-associations/203.0.113.9", "10.0.12.34"}},
		"a second interface": {
			[]string{second + "local-ipv4s", "10.0.13.1\n10.0.13.2", second + "public-ipv4s", "198.51.100.1\n198.51.100.2", second + "vpc-ipv4-cidr-blocks", "10.0.0.0/16\n10.1.0.0/16"},
			[]string{second + "device-number", "1", second + "local-hostname", "ip-10-0-13-1.eu-west-1.compute.internal", second + "owner-id", "000000000000",
				second + "ipv4-associations/198.51.100.2", "10.0.13.2", second + "vpc-ipv4-cidr-block", "10.0.0.0/16", "meta-data/local-ipv4", "10.0.12.34", second + "security-groups", "-"}},
		"one CIDR block makes a list": {[]string{nic + "vpc-ipv4-cidr-block", "10.0.0.0/16"}, []string{nic + "vpc-ipv4-cidr-blocks", "10.0.0.0/16"}},
		"explicit wins": {
			[]string{"meta-data/placement/region", "xx-1", "meta-data/reservation-id", "r-1", nic + "owner-id", "1", "dynamic/instance-identity/document", "{}"},
			[]string{"meta-data/placement/region", "xx-1", "meta-data/reservation-id", "r-1", nic + "owner-id", "1", "dynamic/instance-identity/document", "{}"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := build(t, nil, testEnv, with(least(), c.state...))
			for i := 0; i < len(c.want); i += 2 {
				got, want := text(s, c.want[i]), c.want[i+1]
				if got != want && !(strings.HasPrefix(want, `"`) && strings.Contains(got, want)) {
					t.Errorf("%s = %q, want %q", c.want[i], got, want)
				}
			}
		})
	}
}

func TestIPv6OnlyInstanceHasNoIPv4(t *testing.T) {
	f := with(least(), "meta-data/ipv6", "2001:db8::7")
	delete(f.Leaves, "meta-data/local-ipv4")
	s := build(t, nil, testEnv, f)
	for path, want := range map[string]string{
		"meta-data/local-ipv4": "-",
		"meta-data/hostname":   "i-0a1b2c3d4e5f67890.eu-west-1.compute.internal",
		"meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/ipv6s":          "2001:db8::7",
		"meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/local-ipv4s":    "-",
		"meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/local-hostname": "i-0a1b2c3d4e5f67890.eu-west-1.compute.internal",
	} {
		if got := text(s, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if doc := text(s, "dynamic/instance-identity/document"); !strings.Contains(doc, `"privateIp" : null`) {
		t.Error(doc)
	}
}

func TestLaterFragmentsWinLeafByLeaf(t *testing.T) {
	over := &Fragment{Leaves: map[string]tree.Value{"meta-data/instance-type": stated("t3.nano")}, PublicKeys: []PublicKey{{"ops", stated("ssh-rsa B")}}}
	base := least()
	base.PublicKeys = []PublicKey{{"a", stated("ssh-rsa A")}, {"b", stated("ssh-rsa C")}}
	s := build(t, nil, testEnv, base, over)
	if got := text(s, "meta-data/instance-type"); got != "t3.nano" {
		t.Errorf("instance-type = %s", got)
	}
	if got := text(s, "meta-data/local-ipv4"); got != "10.0.12.34" {
		t.Errorf("local-ipv4 = %s", got)
	}
	v, _ := s.Find("/latest/meta-data/public-keys")
	if got := string(v.Listing()); got != "0=ops" {
		t.Errorf("public-keys = %q", got)
	}
}

func TestFaultsAreAllReportedWithTheirPlaces(t *testing.T) {
	long := strings.Repeat("x", ec2.MaxUserData+1)
	many := "1.0"
	for i := range maxVersions {
		many += fmt.Sprintf("\n%d-01-01", 2000+i)
	}
	for name, c := range map[string]struct {
		state []string
		tags  []string
		want  []string
	}{
		"a leaf that is a directory": {[]string{"meta-data/foo", "x", "meta-data/foo/bar", "y"}, nil, []string{"meta-data/foo conflicts with meta-data/foo/bar"}},
		"against a derived one":      {[]string{"meta-data/services", "x"}, nil, []string{"meta-data/services conflicts with meta-data/services/"}},
		"between names that sort":    {[]string{"meta-data/a", "x", "meta-data/a-b", "y", "meta-data/a/c", "z"}, nil, []string{"meta-data/a conflicts with meta-data/a/c"}},
		"names":                      {[]string{"meta-data/..", "x", "meta-data/a\nb", "y", "meta-data//x", "z", "meta-data/" + strings.Repeat("n", 256), "w", "meta-data/\xff", "v"}, nil, []string{`".."`, "control character", "is empty", "longer than 255", "not UTF-8"}},
		"sizes":                      {[]string{"user-data", long, "meta-data/big", strings.Repeat("x", MaxLeaf+1)}, nil, []string{"16385 bytes of user-data", "1048577 bytes"}},
		"outside":                    {[]string{"foo/bar", "x"}, nil, []string{"outside meta-data"}},
		"addresses":                  {[]string{"meta-data/local-ipv4", "10.0.0", "meta-data/mac", "06-2B", "meta-data/ipv6", "10.0.0.1"}, nil, []string{`"10.0.0" is not an IPv4`, `"06-2B" is not a MAC`, `"10.0.0.1" is not an IPv6`}},
		"options":                    {[]string{"option.http-tokens", "maybe", "option.http-put-response-hop-limit", "65", "instance.imds-support", "v3"}, nil, []string{"'maybe'", "'65'", "unknown value"}},
		"tag keys while shown":       {[]string{"option.instance-metadata-tags", "enabled"}, []string{"Patch Group", "_index"}, []string{"'Patch Group' is not a valid tag key. Tag keys must match pattern", "'_index'"}},
		"Snowball":                   {[]string{"instance.platform", "snowball", "option.http-put-response-hop-limit", "2", "option.http-protocol-ipv6", "enabled"}, nil, []string{"always 1", "always disabled"}},
		"versions":                   {[]string{"instance.versions", "1.0\n2021-13-01"}, nil, []string{`"2021-13-01" is not a version`}},
		"many versions":              {[]string{"instance.versions", many}, nil, []string{"501 versions are too many (list 500 at most)"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := with(least(), c.state...)
			for _, key := range c.tags {
				f.Tags[key] = stated("v")
			}
			prev := build(t, nil, testEnv, least())
			_, err := Build(prev, testEnv, f)
			var faults problem.Faults
			if !errors.As(err, &faults) || len(faults) != len(c.want) {
				t.Fatalf("got %d faults, want %d:\n%v", len(faults), len(c.want), err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no fault says %q:\n%v", want, err)
				}
			}
			for _, f := range faults {
				if f.Place != "test.toml:1" {
					t.Errorf("%v has the place %q", f, f.Place)
				}
			}
		})
	}
}

func TestTreeIsBounded(t *testing.T) {
	f := least()
	megabyte := strings.Repeat("x", MaxLeaf)
	for i := range 65 {
		with(f, "meta-data/big/"+string(rune('A'+i)), megabyte)
	}
	if _, err := Build(nil, testEnv, f); err == nil || !strings.Contains(err.Error(), "limit of 67108864") {
		t.Errorf("got %v", err)
	}
}

func TestWarnings(t *testing.T) {
	everybody := uint32(0o444)
	f := with(least(), "meta-data/colour", "blue", "meta-data/placement/region", "eu-west-2", "user-data", "x")
	f.Tags["Name"] = stated("web")
	f.Role = &Role{Name: "web", Expiration: startTime.Add(-time.Hour), Origin: tree.Origin{Place: "test.toml:9"}}
	f.Access = []AccessRule{{Mode: &everybody, Origin: tree.Origin{Place: "test.toml:11"}}, {Path: "meta-data/color", Mode: new(uint32), Origin: tree.Origin{Place: "test.toml:12"}}}
	s := build(t, nil, testEnv, f)
	all := s.Warnings().Error()
	for _, want := range []string{"EC2 has no path /latest/meta-data/colour", "zone eu-west-1b is not in the region eu-west-2", "tags are not shown", "expired at 2026-03-01T11:00:00Z", "every user of this machine can read", "test.toml:12: EC2 has no path /latest/meta-data/color"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning says %q:\n%s", want, all)
		}
	}
	if got := text(s, "meta-data/colour"); got != "blue" {
		t.Errorf("an unknown path is served all the same, got %q", got)
	}
	if clean := build(t, nil, testEnv, least()); len(clean.Warnings()) > 0 {
		t.Errorf("good input warns: %v", clean.Warnings())
	}
}

func TestSnowballServesItsFewCategories(t *testing.T) {
	f := with(least(), "instance.platform", "snowball", "meta-data/public-ipv4", "203.0.113.9", "meta-data/ami-id", "s.ami-1", "meta-data/hostname", "ip-10-0-12-34")
	delete(f.Leaves, "meta-data/placement/availability-zone")
	s := build(t, nil, testEnv, f)
	v, _ := s.Find("/latest/meta-data")
	want := "ami-id\nhostname\ninstance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\npublic-ipv4\nreservation-id\nsecurity-groups"
	if got := string(v.Listing()); got != want {
		t.Errorf("listing = %q, want %q", got, want)
	}
	v, _ = s.Find("/latest/meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f")
	if got := string(v.Listing()); strings.Contains(got, "owner-id") || !strings.Contains(got, "public-ipv4s") {
		t.Errorf("interface = %q", got)
	}
	if got := s.Versions()[len(s.Versions())-1]; got != "2021-03-23" {
		t.Errorf("newest version = %s", got)
	}
	doc := text(s, "dynamic/instance-identity/document")
	for _, field := range []string{"accountId", "architecture", "availabilityZone", "pendingTime", "region"} {
		if !strings.Contains(doc, `"`+field+`" : null`) {
			t.Errorf("%s is not null: %s", field, doc)
		}
	}
	if !strings.Contains(doc, `"imageId" : "s.ami-1"`) || !strings.Contains(doc, `"privateIp" : "10.0.12.34"`) {
		t.Error(doc)
	}
	if got := text(s, "dynamic/fws/instance-monitoring"); got != "-" {
		t.Errorf("fws = %q", got)
	}
}

func TestAccess(t *testing.T) {
	group, mode, open := uint32(99), uint32(0o440), uint32(0o444)
	f := with(least(), "user-data", "x", "meta-data/iam/security-credentials/web", "{}", "meta-data/iam/info", "{}")
	f.Access = []AccessRule{{Path: "meta-data/iam", GID: &group, Mode: &mode}, {Path: "meta-data/iam/info", Mode: &open}}
	s := build(t, nil, testEnv, f)
	for path, want := range map[string]tree.Attr{
		"user-data":                              {Mode: 0o400, UID: 7, GID: 8},
		"meta-data":                              {Mode: 0o555, UID: 7, GID: 8},
		"meta-data/instance-id":                  {Mode: 0o444, UID: 7, GID: 8},
		"meta-data/iam":                          {Mode: 0o550, UID: 7, GID: 99},
		"meta-data/iam/info":                     {Mode: 0o444, UID: 7, GID: 99},
		"meta-data/iam/security-credentials":     {Mode: 0o550, UID: 7, GID: 99},
		"meta-data/iam/security-credentials/web": {Mode: 0o440, UID: 7, GID: 99},
	} {
		v, _ := s.Find("/latest/" + path)
		if v.Attr() != want {
			t.Errorf("%s has %+v, want %+v", path, v.Attr(), want)
		}
	}
}

func TestSettingsTellWhereTheyComeFrom(t *testing.T) {
	s := build(t, nil, testEnv, with(least(), "instance.imds-support", "v2.0", "option.instance-metadata-tags", "enabled"))
	got := map[string]string{}
	for _, x := range s.Settings() {
		got[x.Key] = x.Value + " " + x.Origin.String()
	}
	want := map[string]string{
		"instance.account-id":                          "000000000000 default",
		"instance.architecture":                        "x86_64 derived from meta-data/instance-type",
		"instance.hostname-type":                       "ip-name default",
		"instance.imds-support":                        "v2.0 test.toml:1",
		"instance.launch-time":                         "2026-01-01T00:00:00Z default: fixed at first start",
		"instance.platform":                            "ec2 default",
		"instance.versions":                            strings.Join(ec2.Versions(false), " ") + " default",
		"metadata-options.http-endpoint":               "enabled default",
		"metadata-options.http-protocol-ipv6":          "disabled default",
		"metadata-options.http-put-response-hop-limit": "2 derived from instance.imds-support",
		"metadata-options.http-tokens":                 "required derived from instance.imds-support",
		"metadata-options.instance-metadata-tags":      "enabled test.toml:1",
	}
	if !maps.Equal(got, want) {
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if got[k] != want[k] {
				t.Errorf("%s: got %q, want %q", k, got[k], want[k])
			}
		}
	}
}

package build

import (
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// everything states one leaf of every row in the table of categories.
func everything() *Fragment {
	f := least()
	for _, row := range ec2.Categories() {
		path := strings.ReplaceAll(row.Path, "macs/*", "macs/06:2b:3c:4d:5e:6f")
		path = strings.ReplaceAll(path, "public-keys/*", "public-keys/0")
		path = strings.ReplaceAll(path, "*", "x")
		if ec2.CategoryOf(path) == nil || strings.Contains(path, "tags/") {
			continue // a directory that is dated by itself
		}
		if _, ok := f.Leaves[path]; !ok && !strings.Contains(path, "ipv") {
			f.Leaves[path] = stated("value")
		}
	}
	f.Options[ec2.OptionInstanceMetadataTags] = stated("enabled")
	f.Tags["Name"] = stated("web")
	return with(f, "meta-data/ipv6", "2001:db8::1", "meta-data/public-ipv4", "203.0.113.9")
}

// EC2 user guide, "Instance metadata categories": the version each was introduced with, a child's
// being at least its parent's.
func TestVersionsHideWhatTheyDidNotHave(t *testing.T) {
	s := build(t, nil, testEnv, everything())
	const nic = "meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/"
	for _, c := range []struct{ path, before, since string }{
		{"user-data", "", "1.0"},
		{"meta-data/instance-id", "", "1.0"},
		{"meta-data/profile", "", "1.0"}, // undated: in every version
		{"meta-data/local-hostname", "1.0", "2007-01-19"},
		{"meta-data/product-codes", "2007-01-19", "2007-03-01"},
		{"meta-data/instance-type", "2007-03-01", "2007-08-29"},
		{"meta-data/block-device-mapping/ami", "2007-10-10", "2007-12-15"},
		{"meta-data/block-device-mapping", "2007-10-10", "2007-12-15"},
		{"meta-data/placement", "2007-12-15", "2008-02-01"},
		{"meta-data/instance-action", "2008-02-01", "2008-09-01"},
		{"dynamic", "2008-09-01", "2009-04-04"},
		{"dynamic/instance-identity/document", "2008-09-01", "2009-04-04"},
		{"dynamic/instance-identity/rsa2048", "2008-09-01", "2009-04-04"}, // undated below a dated parent
		{"meta-data/network", "2009-04-04", "2011-01-01"},
		{nic + "local-hostname", "2009-04-04", "2011-01-01"}, // dated 2007-01-19 below network
		{"meta-data/iam/info", "2011-05-01", "2012-01-12"},
		{"meta-data/services/partition", "2014-11-05", "2015-10-20"},
		{nic + "ipv6s", "2016-04-19", "2016-06-30"},
		{"meta-data/spot/instance-action", "2016-09-02", "2018-03-28"}, // 2016-11-15 is no version
		{"meta-data/events/maintenance/scheduled", "2018-03-28", "2018-08-17"},
		{"meta-data/identity-credentials/ec2/info", "2018-03-28", "2018-08-17"},
		{"meta-data/instance-life-cycle", "2018-09-24", "2019-10-01"},
		{"meta-data/placement/region", "2019-10-01", "2020-10-27"},
		{"meta-data/ipv6", "2020-10-27", "2021-01-03"},
		{"meta-data/tags/instance/Name", "2021-01-03", "2021-03-23"},
		{"meta-data/autoscaling/target-lifecycle-state", "2021-03-23", "2021-07-15"},
		{"meta-data/system", "2022-07-09", "2022-09-24"},
	} {
		has := func(version string) bool {
			_, ok := s.Find("/" + version + "/" + c.path)
			return ok
		}
		if c.before != "" && has(c.before) {
			t.Errorf("%s has %s already", c.before, c.path)
		}
		if !has(c.since) || !has(tree.Latest) {
			t.Errorf("%s (or latest) has no %s", c.since, c.path)
		}
		parent, name := c.path[:max(strings.LastIndex(c.path, "/"), 0)], c.path[strings.LastIndex(c.path, "/")+1:]
		listed := func(version string) bool {
			v, ok := s.Find("/" + version + "/" + parent)
			return ok && slices.Contains(strings.Split(strings.ReplaceAll(string(v.Listing()), "/", ""), "\n"), name)
		}
		if c.before != "" && listed(c.before) || !listed(c.since) {
			t.Errorf("listings of %s and %s disagree with the table about %s", c.before, c.since, c.path)
		}
	}
}

func TestEveryListedNameResolves(t *testing.T) {
	s := build(t, nil, testEnv, everything())
	n := 0
	var visit func(path string, v tree.View)
	visit = func(path string, v tree.View) {
		lines := strings.Split(string(v.Listing()), "\n")
		for _, line := range lines {
			name, _, _ := strings.Cut(strings.TrimSuffix(line, "/"), "=")
			child, ok := v.Child(name)
			if !ok {
				t.Errorf("%s lists %q, which is not there", path, line)
				continue
			}
			n++
			if child.IsDir() {
				visit(path+"/"+name, child)
			}
		}
		count := 0
		for range v.Children() {
			count++
		}
		if count != len(lines) {
			t.Errorf("%s has %d children and lists %d", path, count, len(lines))
		}
	}
	visit("", s.Root())
	if n < 1000 {
		t.Errorf("only %d names seen", n)
	}
}

func TestListings(t *testing.T) {
	f := least()
	for i := range 11 {
		f.PublicKeys = append(f.PublicKeys, PublicKey{"key" + string(rune('a'+i)), stated("ssh-rsa X")})
	}
	f.Role = &Role{Name: "web-role"}
	f.Instance["versions"] = stated("1.0\n2021-03-23\n2009-04-04")
	s := build(t, nil, testEnv, f)
	for path, want := range map[string]string{
		"/":                        "1.0\n2009-04-04\n2021-03-23\nlatest",
		"/1.0":                     "meta-data\nuser-data", // nothing dynamic yet; user-data is always named
		"/latest":                  "dynamic\nmeta-data\nuser-data",
		"/latest/dynamic":          "fws/\ninstance-identity/",
		"/latest/meta-data/iam":    "info\nsecurity-credentials/",
		"/latest/meta-data/events": "maintenance/",
		"/latest/meta-data/iam/security-credentials":     "web-role",
		"/latest/meta-data/public-keys":                  "0=keya\n1=keyb\n2=keyc\n3=keyd\n4=keye\n5=keyf\n6=keyg\n7=keyh\n8=keyi\n9=keyj\n10=keyk",
		"/latest/meta-data/public-keys/10":               "openssh-key",
		"/latest/meta-data/network/interfaces/macs":      "06:2b:3c:4d:5e:6f/",
		"/latest/meta-data/block-device-mapping":         "ami\nroot",
		"/latest/meta-data/placement":                    "availability-zone\navailability-zone-id\nregion",
		"/2009-04-04/meta-data/placement":                "availability-zone",
		"/2009-04-04/meta-data/network/interfaces":       "-",
		"/latest/meta-data/public-keys/0=keya":           "-",
		"/2016-09-02":                                    "-",
		"/latest/meta-data/instance-id/below":            "-",
		"/latest/meta-data/public-keys/../instance-type": "-",
	} {
		got := "-"
		if v, ok := s.Find(path); ok {
			got = string(v.Listing())
		}
		if got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	if key := text(s, "meta-data/public-keys/0/openssh-key"); key != "ssh-rsa X\n" {
		t.Errorf("openssh-key = %q", key)
	}
	if _, ok := s.Find("/latest/user-data"); ok {
		t.Error("there is user-data that nobody stated")
	}
}

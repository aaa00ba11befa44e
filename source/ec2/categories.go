// Package ec2 holds the facts about EC2, and nothing about how imdsfs serves them: only tables and functions of text.
//
//	categories.go  the paths that EC2 has, with the version that introduced each
//	versions.go    the dated versions
//	options.go     the metadata options, one row each
//	place.go       regions, partitions, host names, instance types
//	forms.go       how EC2 writes the values
//	paths.go       what users type for a path
//	nearest.go     what they may have meant
//	service.go     the addresses of the service
//
// The sources ask it which paths and values are valid, package build asks what to derive and what to refuse, and the
// command line asks what the user meant. Each fact names its source.
package ec2

import (
	"slices"
	"strings"
)

// A Category is one row of the table of paths that EC2 serves.
type Category struct {
	Path     string // relative to a version; "*" stands for any one name
	Since    string // the version that introduced it; "": undated, every version has it
	Snowball bool   // Snowball Edge has it too
}

// categories is the table of paths that EC2 has, with the version that introduced each (EC2 user guide, "Instance metadata
// categories" and "Dynamic data categories"; rows without a date there are undated here). It lists a directory only if
// EC2 dates the directory itself.
var categories = []Category{
	{"user-data", "1.0", true},

	{"meta-data/ami-id", "1.0", true},
	{"meta-data/ami-launch-index", "1.0", false},
	{"meta-data/ami-manifest-path", "1.0", false},
	{"meta-data/ancestor-ami-ids", "2007-10-10", false},
	{"meta-data/autoscaling/target-lifecycle-state", "2021-07-15", false},
	{"meta-data/block-device-mapping/*", "2007-12-15", false},
	{"meta-data/elastic-gpus/associations/*", "2016-11-30", false},
	{"meta-data/elastic-inference/associations/*", "2018-11-29", false},
	{"meta-data/events/maintenance/history", "2018-08-17", false},
	{"meta-data/events/maintenance/scheduled", "2018-08-17", false},
	{"meta-data/events/recommendations/rebalance", "2020-10-27", false},
	{"meta-data/hibernation/configured", "", false},
	{"meta-data/hostname", "1.0", true},
	{"meta-data/iam", "2012-01-12", false},
	{"meta-data/iam/info", "2012-01-12", false},
	{"meta-data/iam/security-credentials/*", "2012-01-12", false},
	{"meta-data/iam/security-credentials-extended/*", "2012-01-12", false},
	{"meta-data/identity-credentials", "2018-05-23", false},
	{"meta-data/identity-credentials/ec2/info", "2018-05-23", false},
	{"meta-data/identity-credentials/ec2/security-credentials/ec2-instance", "2018-05-23", false},
	{"meta-data/instance-action", "2008-09-01", false},
	{"meta-data/instance-id", "1.0", true},
	{"meta-data/instance-life-cycle", "2019-10-01", false},
	{"meta-data/instance-type", "2007-08-29", true},
	{"meta-data/ipv6", "2021-01-03", false},
	{"meta-data/kernel-id", "2008-02-01", false},
	{"meta-data/local-hostname", "2007-01-19", true},
	{"meta-data/local-ipv4", "1.0", true},
	{"meta-data/mac", "2011-01-01", true},
	{"meta-data/managed-ssh-keys/signer-cert", "", false},
	{"meta-data/managed-ssh-keys/signer-ocsp/*", "", false},
	{"meta-data/managed-ssh-keys/active-keys/*", "", false},
	{"meta-data/metrics/vhostmd", "2011-05-01", false},
	{"meta-data/network", "2011-01-01", true},
	{"meta-data/network/interfaces/macs/*/device-number", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/interface-id", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/ipv4-associations/*", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/ipv4-prefix", "", false},
	{"meta-data/network/interfaces/macs/*/ipv6-prefix", "", false},
	{"meta-data/network/interfaces/macs/*/ipv6s", "2016-06-30", false},
	{"meta-data/network/interfaces/macs/*/local-hostname", "2007-01-19", true},
	{"meta-data/network/interfaces/macs/*/local-ipv4s", "2011-01-01", true},
	{"meta-data/network/interfaces/macs/*/mac", "2011-01-01", true},
	{"meta-data/network/interfaces/macs/*/network-card", "2020-11-01", false},
	{"meta-data/network/interfaces/macs/*/outpost-arn", "", false},
	{"meta-data/network/interfaces/macs/*/owner-id", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/public-hostname", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/public-ipv4s", "2011-01-01", true},
	{"meta-data/network/interfaces/macs/*/security-groups", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/security-group-ids", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/subnet-id", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/subnet-ipv4-cidr-block", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/subnet-ipv6-cidr-blocks", "2016-06-30", false},
	{"meta-data/network/interfaces/macs/*/vpc-id", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/vpc-ipv4-cidr-block", "2011-01-01", false},
	{"meta-data/network/interfaces/macs/*/vpc-ipv4-cidr-blocks", "2016-06-30", false},
	{"meta-data/network/interfaces/macs/*/vpc-ipv6-cidr-blocks", "2016-06-30", false},
	{"meta-data/placement/availability-zone", "2008-02-01", false},
	{"meta-data/placement/availability-zone-id", "2019-10-01", false},
	{"meta-data/placement/group-name", "2020-08-24", false},
	{"meta-data/placement/host-id", "2020-08-24", false},
	{"meta-data/placement/partition-number", "2020-08-24", false},
	{"meta-data/placement/region", "2020-08-24", false},
	{"meta-data/product-codes", "2007-03-01", false},
	{"meta-data/profile", "", false},
	{"meta-data/public-hostname", "2007-01-19", false},
	{"meta-data/public-ipv4", "2007-01-19", true},
	{"meta-data/public-keys/*/openssh-key", "1.0", true},
	{"meta-data/ramdisk-id", "2007-10-10", false},
	{"meta-data/reservation-id", "1.0", true},
	{"meta-data/security-groups", "1.0", true},
	{"meta-data/services/domain", "2014-02-25", false},
	{"meta-data/services/partition", "2015-10-20", false},
	{"meta-data/spot/instance-action", "2016-11-15", false},
	{"meta-data/spot/termination-time", "2014-11-05", false},
	{"meta-data/system", "2022-09-24", false},
	{"meta-data/tags", "2021-03-23", false},
	{"meta-data/tags/instance/*", "2021-03-23", false},

	{"dynamic/fws", "2009-04-04", false},
	{"dynamic/fws/instance-monitoring", "2009-04-04", false},
	{"dynamic/instance-identity", "2009-04-04", true},
	{"dynamic/instance-identity/document", "2009-04-04", true},
	{"dynamic/instance-identity/dsa2048", "", false},
	{"dynamic/instance-identity/pkcs7", "2009-04-04", false},
	{"dynamic/instance-identity/rsa2048", "", false},
	{"dynamic/instance-identity/signature", "2009-04-04", false},
}

// Categories returns the table. Do not change it.
func Categories() []Category { return categories }

// A catalog finds the category of a path, one name at a time.
type catalog struct {
	row  *Category // nil: a directory that is not in the table
	next map[string]*catalog
}

var catalogRoot = newCatalog()

func newCatalog() *catalog {
	root := &catalog{}
	for i := range categories {
		c := root
		for name := range strings.SplitSeq(categories[i].Path, "/") {
			if c.next == nil {
				c.next = map[string]*catalog{}
			}
			if c.next[name] == nil {
				c.next[name] = &catalog{}
			}
			c = c.next[name]
		}
		c.row = &categories[i]
	}
	return root
}

// child returns the entry for name below c, or nil if EC2 has none. A nil catalog has no children.
func (c *catalog) child(name string) *catalog {
	if c == nil {
		return nil
	}
	if n := c.next[name]; n != nil {
		return n
	}
	return c.next["*"]
}

// CategoryOf returns the row for a leaf's path, relative to a version; nil if EC2 has no such leaf.
func CategoryOf(path string) *Category {
	c := catalogRoot
	for name := range strings.SplitSeq(path, "/") {
		c = c.child(name)
	}
	if c == nil || len(c.next) > 0 {
		return nil
	}
	return c.row
}

// Since returns the version that introduced path: the latest among the versions of path and of the directories above it.
// It is "" if all of them are undated or unknown.
func Since(path string) string {
	since := ""
	c := catalogRoot
	for name := range strings.SplitSeq(path, "/") {
		if c = c.child(name); c == nil {
			break
		}
		if c.row != nil {
			since = max(since, c.row.Since)
		}
	}
	return since
}

// IsCategory reports whether EC2 has path, relative to a version, as a leaf or as a directory.
func IsCategory(path string) bool {
	c := catalogRoot
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			c = c.child(name)
		}
	}
	return c != nil
}

// CategoriesBelow returns the names that EC2 has in the directory at path, relative to a version, sorted. The name of a
// directory ends in a slash. Names that differ between instances, such as MAC addresses, are left out.
func CategoriesBelow(path string) []string {
	c := catalogRoot
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			c = c.child(name)
		}
	}
	if c == nil {
		return nil
	}
	var names []string
	for name, n := range c.next {
		switch {
		case name == "*":
			continue
		case len(n.next) > 0:
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// IsSecret reports whether the leaf at path, relative to a version, is secret: user-data and credentials. Other users
// cannot read it, and it is never printed.
func IsSecret(path string) bool {
	return path == UserData || IsCredential(path)
}

// IsCredential reports whether the leaf at path, relative to a version, holds credentials.
func IsCredential(path string) bool {
	rest, ok := strings.CutPrefix(path, "meta-data/iam/security-credentials")
	if ok && (strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "-extended/")) {
		return true
	}
	rest, ok = strings.CutPrefix(path, "meta-data/identity-credentials/")
	return ok && strings.Contains(rest, "/security-credentials/")
}

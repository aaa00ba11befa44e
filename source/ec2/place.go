package ec2

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Regions, zones and names. Sources: EC2 user guide, "Regions and Zones", "Instance hostname types".

const regionForm = `[a-z]+(?:-[a-z]+)*-[0-9]+`

// A zone is a region and a letter, or a region and one or more words: Local Zones (us-west-2-lax-1a) and Wavelength Zones
// (us-east-1-wl1-bos-wlz-1) have words.
var (
	zoneForm   = regexp.MustCompile(`^(` + regionForm + `)(?:[a-z]|(?:-[a-z0-9]+)+)$`)
	wholeForm  = regexp.MustCompile(`^` + regionForm + `$`)
	localZone  = regexp.MustCompile(`^-([a-z]{3})-([0-9])([a-z])$`)
	wavelength = regexp.MustCompile(`^-(wl[0-9]+-[a-z]{3})-wlz-([0-9]+)$`)
)

// RegionOf returns the region of a zone: eu-west-1b → eu-west-1, us-west-2-lax-1a → us-west-2. It returns "" if zone does
// not have the form of a zone.
func RegionOf(zone string) string {
	if m := zoneForm.FindStringSubmatch(zone); m != nil {
		return m[1]
	}
	return ""
}

var (
	ordinaryRegion = regexp.MustCompile(`^(us-gov|us|eu|ap|sa|ca|me|af|il|mx|cn)-(north|south|east|west|central|northeast|northwest|southeast|southwest)-([0-9])$`)
	compass        = strings.NewReplacer("northeast", "ne", "northwest", "nw", "southeast", "se", "southwest", "sw",
		"north", "n", "south", "s", "east", "e", "west", "w", "central", "c")
)

// ZoneIDOf returns the id of a zone in a public region: eu-west-1b → euw1-az2, us-west-2-lax-1a → usw2-lax1-az1,
// us-east-1-wl1-bos-wlz-1 → use1-wl1-bos-wlz1. EC2 shuffles the letters of older regions by account, so this is a default
// and not a fact. It returns "" if ids do not follow this pattern.
func ZoneIDOf(zone string) string {
	region := RegionOf(zone)
	m := ordinaryRegion.FindStringSubmatch(region)
	if m == nil {
		return ""
	}
	id := strings.Replace(m[1], "us-gov", "usg", 1) + compass.Replace(m[2]) + m[3]
	number := func(letter string) string { return "-az" + strconv.Itoa(int(letter[0]-'a')+1) }
	rest := zone[len(region):]
	if len(rest) == 1 {
		return id + number(rest)
	}
	if m := localZone.FindStringSubmatch(rest); m != nil {
		return id + "-" + m[1] + m[2] + number(m[3])
	}
	if m := wavelength.FindStringSubmatch(rest); m != nil {
		return id + "-" + m[1] + "-wlz" + m[2]
	}
	return ""
}

// partitions lists the partitions of AWS by how their regions begin, as the SDKs' public partitions file does
// (aws-sdk-go-v2 1.47, internal/endpoints/awsrulesfn/partitions.json). More specific ones come first. The last is not part
// of AWS: it is for the zone that package host gives to a machine.
var partitions = []struct{ regions, name, domain string }{
	{"us-gov", "aws-us-gov", "amazonaws.com"},
	{"us-iso", "aws-iso", "c2s.ic.gov"},
	{"us-isob", "aws-iso-b", "sc2s.sgov.gov"},
	{"eu-isoe", "aws-iso-e", "cloud.adc-e.uk"},
	{"us-isof", "aws-iso-f", "csp.hci.ic.gov"},
	{"eusc-de", "aws-eusc", "amazonaws.eu"},
	{"cn", "aws-cn", "amazonaws.com.cn"},
	{"us", "aws", "amazonaws.com"}, {"eu", "aws", "amazonaws.com"}, {"ap", "aws", "amazonaws.com"}, {"sa", "aws", "amazonaws.com"}, {"ca", "aws", "amazonaws.com"},
	{"me", "aws", "amazonaws.com"}, {"af", "aws", "amazonaws.com"}, {"il", "aws", "amazonaws.com"}, {"mx", "aws", "amazonaws.com"},
	{"local", "aws", "amazonaws.com"},
}

// PartitionOf returns the partition of a region and the domain of its services. ok is false if the region is unknown.
func PartitionOf(region string) (partition, domain string, ok bool) {
	if !wholeForm.MatchString(region) {
		return "", "", false
	}
	for _, p := range partitions {
		if strings.HasPrefix(region, p.regions+"-") {
			return p.name, p.domain, true
		}
	}
	return "", "", false
}

// PrivateDNS returns the private name of a host ("ip-10-0-0-1" or "i-0abc…") in a region.
func PrivateDNS(host, region string) string {
	if region == "us-east-1" {
		return host + ".ec2.internal"
	}
	return host + "." + region + ".compute.internal"
}

// PublicDNS returns the public name that EC2 gives to a public IPv4 address.
func PublicDNS(ipv4, region, domain string) string {
	host := "ec2-" + strings.ReplaceAll(ipv4, ".", "-")
	if region == "us-east-1" {
		return host + ".compute-1." + domain
	}
	return host + "." + region + ".compute." + domain
}

// The parts of an instance type (EC2 user guide, "Amazon EC2 instance type naming conventions"): series, generation,
// attributes, an optional part after a hyphen, and the size.
var (
	typeForm  = regexp.MustCompile(`^([a-z]+)([0-9]*)([a-z]*)((?:-[a-z0-9]+)*)\.[a-z0-9]+(?:-[a-z0-9]+)*$`)
	xenFamily = regexp.MustCompile(`^(t1|t2|m[1-4]|c[134]|cc[12]|cr1|r[34]|i[23]|d2|h1|hs1|g[23]|p[23]|x1|x1e|f1)\.`)
)

// ArchitectureOf returns the architecture of an instance type. Types with a g among the attributes (m7g, c7gn, im4gn, g5g)
// are arm64, and so are a1, and p6e-gb200 with NVIDIA's Grace. mac1 has an Intel processor, later ones (mac2, mac-m4) an
// Apple one.
func ArchitectureOf(instanceType string) string {
	m := typeForm.FindStringSubmatch(instanceType)
	if m == nil {
		return "x86_64"
	}
	series, generation, attributes, suffix := m[1], m[2], m[3], m[4]
	switch {
	case series == "mac" && generation == "1":
		return "x86_64_mac"
	case series == "mac":
		return "arm64_mac"
	case series == "a" && generation == "1", strings.Contains(attributes, "g"), strings.HasPrefix(suffix, "-gb"):
		return "arm64"
	}
	return "x86_64"
}

// SystemOf returns the hypervisor of an instance type.
func SystemOf(instanceType string) string {
	if xenFamily.MatchString(instanceType) && !strings.HasSuffix(instanceType, ".metal") {
		return "xen"
	}
	return "nitro"
}

func IsIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

func IsIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == "" && !a.Is4In6()
}

var macForm = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)

// ValidMAC reports whether s is a MAC address as EC2 writes it: lower case, with colons.
func ValidMAC(s string) bool { return macForm.MatchString(s) }

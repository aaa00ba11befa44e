package source

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Regions, zones and names. Sources: EC2 user guide, "Regions and Zones", "Instance hostname types".

var regionPrefix = regexp.MustCompile(`^[a-z]+(-[a-z]+)*-[0-9]+`)

// regionOf cuts a zone to its region: eu-west-1b → eu-west-1, us-west-2-lax-1a → us-west-2. It is ""
// for what is no zone.
func regionOf(zone string) string {
	region := regionPrefix.FindString(zone)
	if region == zone {
		return ""
	}
	return region
}

var (
	ordinaryZone = regexp.MustCompile(`^(us-gov|us|eu|ap|sa|ca|me|af|il|mx|cn)-(north|south|east|west|central|northeast|northwest|southeast|southwest)-([0-9])([a-z])$`)
	compass      = strings.NewReplacer("northeast", "ne", "northwest", "nw", "southeast", "se", "southwest", "sw",
		"north", "n", "south", "s", "east", "e", "west", "w", "central", "c")
)

// zoneIDOf is the id of an ordinary zone of a public region: eu-west-1b → euw1-az2. EC2 shuffles the
// letters of older regions by account, so this is a default, not a fact; "" where ids have no such
// pattern.
func zoneIDOf(zone string) string {
	m := ordinaryZone.FindStringSubmatch(zone)
	if m == nil {
		return ""
	}
	area := strings.Replace(m[1], "us-gov", "usg", 1)
	return area + compass.Replace(m[2]) + m[3] + "-az" + strconv.Itoa(int(m[4][0]-'a')+1)
}

// partitionOf gives the partition of a region and its services' domain.
func partitionOf(region string) (partition, domain string) {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn", "amazonaws.com.cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov", "amazonaws.com"
	}
	return "aws", "amazonaws.com"
}

// privateDNS is the private name of a host ("ip-10-0-0-1" or "i-0abc…") in a region.
func privateDNS(host, region string) string {
	if region == "us-east-1" {
		return host + ".ec2.internal"
	}
	return host + "." + region + ".compute.internal"
}

// publicDNS is the public name that EC2 gives to a public IPv4 address.
func publicDNS(ipv4, region, domain string) string {
	host := "ec2-" + strings.ReplaceAll(ipv4, ".", "-")
	if region == "us-east-1" {
		return host + ".compute-1." + domain
	}
	return host + "." + region + ".compute." + domain
}

var (
	gravitonFamily = regexp.MustCompile(`^(a1|[a-z]+[0-9]+g[a-z]*)(\.|-|$)`)
	xenFamily      = regexp.MustCompile(`^(t1|t2|m[1-4]|c[134]|cc[12]|cr1|r[34]|i[23]|d2|h1|hs1|g[23]|p[23]|x1|x1e|f1)\.`)
)

// architectureOf guesses from the instance type: the Graviton families have a g behind the
// generation (m6g, c7gn, t4g), and a1.
func architectureOf(instanceType string) string {
	if gravitonFamily.MatchString(instanceType) {
		return "arm64"
	}
	return "x86_64"
}

// systemOf is the hypervisor of an instance type.
func systemOf(instanceType string) string {
	if xenFamily.MatchString(instanceType) && !strings.HasSuffix(instanceType, ".metal") {
		return "xen"
	}
	return "nitro"
}

func isIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == "" && !a.Is4In6()
}

var macForm = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)

// ValidMAC reports whether s is a MAC address as EC2 writes it: lower case, with colons.
func ValidMAC(s string) bool { return macForm.MatchString(s) }

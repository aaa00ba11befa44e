package build

import (
	"strconv"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// Keys that several rules need.
const (
	idKey       = "meta-data/instance-id"
	typeKey     = "meta-data/instance-type"
	macKey      = "meta-data/mac"
	regionKey   = "meta-data/placement/region"
	zoneKey     = "meta-data/placement/availability-zone"
	domainKey   = "meta-data/services/domain"
	ipKey       = "meta-data/local-ipv4"
	publicIPKey = "meta-data/public-ipv4"
	hostKey     = "meta-data/hostname"
	localKey    = "meta-data/local-hostname"
	publicKey   = "meta-data/public-hostname"
	groupsKey   = "meta-data/security-groups"
	documentKey = "dynamic/instance-identity/document"

	accountKey  = "instance.account-id"
	platformKey = "instance.platform"
	nameTypeKey = "instance.hostname-type"
	launchKey   = "instance.launch-time"
	versionsKey = "instance.versions"

	macsPath = "meta-data/network/interfaces/macs/"
	each     = macsPath + "*/" // each interface in turn
	primary  = macsPath + "@/" // the primary interface
)

// Sources of facts.
const (
	aboutDocument  = `EC2 user guide, "Instance identity documents"`
	aboutHostnames = `EC2 user guide, "Instance hostname types"`
	aboutMetadata  = `EC2 user guide, "Instance metadata categories"`
	aboutCards     = `EC2 user guide, "Network cards"`
	aboutRegions   = `EC2 user guide, "Regions and Zones"`
	aboutTypes     = `EC2 user guide, "Amazon EC2 instance type naming conventions"`
)

// rules is what follows from what. A default without a fact is what an ordinary instance has (captures; facts §3).
var rules = []rule{
	// What the instance is.
	{target: platformKey, assumes: "-", value: constant("ec2")},
	{target: accountKey, assumes: "-", value: constant("000000000000")},
	{target: nameTypeKey, assumes: "-", value: constant("ip-name"), fact: aboutHostnames},
	{target: launchKey, assumes: "fixed at first start", value: launchTime, fact: aboutDocument},
	{target: "instance.architecture", needs: []string{typeKey}, value: of(ec2.ArchitectureOf), fact: aboutTypes},
	{target: "instance.architecture", assumes: "-", value: constant("x86_64"), fact: aboutTypes},
	{target: versionsKey, uses: []string{platformKey}, assumes: "-", value: versions, fact: "GET / on a Nitro instance (captured 2024-08)"},
	{target: "meta-data/system", needs: []string{typeKey}, value: of(ec2.SystemOf), fact: `EC2 user guide, "Instances built on the AWS Nitro System"`},
	{target: "meta-data/system", assumes: "-", value: constant("nitro")},

	// Where it is.
	{target: regionKey, needs: []string{zoneKey}, value: of(ec2.RegionOf), fact: aboutRegions},
	{target: "meta-data/placement/availability-zone-id", needs: []string{zoneKey}, assumes: "EC2 numbers zones by account; state yours if it matters", value: of(ec2.ZoneIDOf), fact: aboutRegions},
	{target: "meta-data/services/partition", needs: []string{regionKey}, value: partition, fact: "the SDKs' partitions.json"},
	{target: domainKey, needs: []string{regionKey}, value: domain, fact: "the SDKs' partitions.json"},

	// The primary interface has the same addresses and groups as the instance. Of a list, the instance shows the first line.
	{target: macKey, value: primaryMAC, fact: aboutCards},
	{target: ipKey, needs: []string{ifStated + primary + "local-ipv4s"}, value: firstLine, fact: aboutMetadata},
	{target: primary + "local-ipv4s", needs: []string{ipKey}, value: same, fact: aboutMetadata},
	{target: publicIPKey, needs: []string{ifStated + primary + "public-ipv4s"}, value: firstLine, fact: aboutMetadata},
	{target: primary + "public-ipv4s", needs: []string{publicIPKey}, value: same, fact: aboutMetadata},
	{target: "meta-data/ipv6", needs: []string{ifStated + primary + "ipv6s"}, value: firstLine, fact: aboutMetadata},
	{target: primary + "ipv6s", needs: []string{"meta-data/ipv6"}, value: same, fact: aboutMetadata},
	{target: groupsKey, needs: []string{ifStated + primary + "security-groups"}, value: same, fact: aboutMetadata},
	{target: groupsKey, assumes: "-", value: constant("default")},
	{target: primary + "security-groups", needs: []string{groupsKey}, value: same, fact: aboutMetadata},

	// Each interface.
	{target: primary + "device-number", value: primaryNumber, fact: aboutCards},
	{target: each + "device-number", assumes: "the next free number, in the order of the addresses", value: deviceNumber, fact: aboutCards},
	{target: primary + "mac", needs: []string{macKey}, value: same, fact: aboutMetadata},
	{target: each + "mac", value: ownMAC, fact: aboutMetadata},
	{target: each + "owner-id", needs: []string{accountKey}, value: same, fact: aboutMetadata},
	{target: each + "interface-id", uses: []string{idKey}, assumes: "from the instance id and the mac", value: interfaceID},
	{target: each + "vpc-ipv4-cidr-blocks", needs: []string{ifStated + each + "vpc-ipv4-cidr-block"}, value: same, fact: aboutMetadata},
	{target: each + "vpc-ipv4-cidr-block", needs: []string{ifStated + each + "vpc-ipv4-cidr-blocks"}, value: firstLineIfAny, fact: aboutMetadata},
	{target: each + "ipv4-associations/", needs: []string{each + "public-ipv4s", each + "local-ipv4s"}, values: associations, fact: aboutMetadata},

	// Host names. If only one of hostname and local-hostname is stated, the other is the same.
	{target: hostKey, needs: []string{ifStated + localKey}, value: same, fact: aboutHostnames},
	{target: hostKey, needs: []string{ipKey, regionKey}, uses: []string{nameTypeKey}, value: ipName, fact: aboutHostnames},
	{target: hostKey, needs: []string{idKey, regionKey}, value: resourceName, fact: aboutHostnames},
	{target: localKey, needs: []string{ifStated + hostKey}, value: same, fact: aboutHostnames},
	{target: localKey, needs: []string{ipKey, regionKey}, uses: []string{nameTypeKey}, value: ipName, fact: aboutHostnames},
	{target: localKey, needs: []string{idKey, regionKey}, value: resourceName, fact: aboutHostnames},
	{target: publicKey, needs: []string{publicIPKey, regionKey, domainKey}, value: publicName, fact: aboutHostnames},
	{target: primary + "local-hostname", needs: []string{localKey}, uses: []string{macKey}, value: sameIfShown, fact: aboutMetadata},
	{target: each + "local-hostname", needs: []string{each + "local-ipv4s", regionKey}, value: privateName, fact: aboutHostnames},
	{target: each + "local-hostname", needs: []string{idKey, regionKey}, value: resourceName, fact: aboutHostnames},
	{target: primary + "public-hostname", needs: []string{publicKey}, uses: []string{macKey}, value: sameIfShown, fact: aboutMetadata},
	{target: each + "public-hostname", needs: []string{each + "public-ipv4s", regionKey, domainKey}, value: publicName, fact: aboutHostnames},

	// What an ordinary instance has.
	{target: "meta-data/ami-launch-index", assumes: "-", value: constant("0")},
	{target: "meta-data/ami-manifest-path", assumes: "-", value: constant("(unknown)")},
	{target: "meta-data/block-device-mapping/ami", assumes: "-", value: constant("/dev/xvda")},
	{target: "meta-data/block-device-mapping/root", needs: []string{"meta-data/block-device-mapping/ami"}, value: same, fact: aboutMetadata},
	{target: "meta-data/events/maintenance/history", assumes: "-", value: constant("[]")},
	{target: "meta-data/events/maintenance/scheduled", assumes: "-", value: constant("[]")},
	{target: "meta-data/instance-action", assumes: "-", value: constant("none")},
	{target: "meta-data/instance-life-cycle", assumes: "-", value: constant("on-demand")},
	{target: "meta-data/profile", assumes: "-", value: constant("default-hvm")},
	{target: "meta-data/reservation-id", uses: []string{idKey}, assumes: "from the instance id", value: reservationID},
	{target: "dynamic/fws/instance-monitoring", assumes: "-", value: constant("disabled")},
	// Older clients, from before there were other actions, look for a termination here.
	{target: "meta-data/spot/termination-time", needs: []string{"meta-data/spot/instance-action"}, value: terminationTime, fact: `EC2 user guide, "Spot Instance interruption notices"`},

	// Fields of the identity document that are also leaves.
	{target: "instance.kernel-id", needs: []string{ifStated + "meta-data/kernel-id"}, value: same, fact: aboutDocument},
	{target: "meta-data/kernel-id", needs: []string{ifStated + "instance.kernel-id"}, value: same, fact: aboutDocument},
	{target: "instance.ramdisk-id", needs: []string{ifStated + "meta-data/ramdisk-id"}, value: same, fact: aboutDocument},
	{target: "meta-data/ramdisk-id", needs: []string{ifStated + "instance.ramdisk-id"}, value: same, fact: aboutDocument},
	{target: "instance.marketplace-product-codes", needs: []string{ifStated + "meta-data/product-codes"}, value: same, fact: aboutDocument},
	{target: "meta-data/product-codes", needs: []string{ifStated + "instance.marketplace-product-codes"}, value: same, fact: aboutDocument},

	// Documents.
	{target: "meta-data/iam/", uses: []string{accountKey, "meta-data/services/partition"}, values: roleDocuments, fact: `EC2 user guide, "IAM roles for Amazon EC2"`},
	{target: "meta-data/identity-credentials/ec2/", uses: []string{accountKey}, values: identityDocuments, fact: aboutMetadata},
	{target: documentKey, uses: documentKeys(), value: identityDocument, fact: aboutDocument},
}

func constant(text string) func(*scope) (string, bool) {
	return func(*scope) (string, bool) { return text, true }
}

// of applies f to the rule's first need. If f returns "", the rule gives no value.
func of(f func(string) string) func(*scope) (string, bool) {
	return func(s *scope) (string, bool) {
		text := f(s.need(0))
		return text, text != ""
	}
}

// same returns the rule's first need.
func same(s *scope) (string, bool) { return s.need(0), true }

// sameIfShown is same if the instance shows its primary interface. It does not if mac was removed at run time.
func sameIfShown(s *scope) (string, bool) {
	_, ok := s.get(macKey)
	return s.need(0), ok
}

func firstLine(s *scope) (string, bool) {
	line, _, _ := strings.Cut(s.need(0), "\n")
	return line, true
}

func firstLineIfAny(s *scope) (string, bool) {
	line, _ := firstLine(s)
	return line, line != ""
}

func launchTime(s *scope) (string, bool) {
	return s.b.env.LaunchTime.UTC().Format(time.RFC3339), !s.b.env.LaunchTime.IsZero()
}

func versions(s *scope) (string, bool) {
	return strings.Join(ec2.Versions(s.b.snowball), "\n"), true
}

func partition(s *scope) (string, bool) {
	name, _, ok := ec2.PartitionOf(s.need(0))
	return name, ok
}

func domain(s *scope) (string, bool) {
	_, domain, ok := ec2.PartitionOf(s.need(0))
	return domain, ok
}

// privateName returns the private DNS name of the first address. The rule's needs are the addresses and the region.
func privateName(s *scope) (string, bool) {
	ip, ok := firstLineIfAny(s)
	return ec2.PrivateDNS("ip-"+strings.ReplaceAll(ip, ".", "-"), s.need(1)), ok
}

// ipName is privateName if host names are made from addresses.
func ipName(s *scope) (string, bool) {
	if kind, _ := s.get(nameTypeKey); kind != "ip-name" {
		return "", false
	}
	return privateName(s)
}

// resourceName returns the private DNS name that is made from the instance id.
func resourceName(s *scope) (string, bool) {
	id, ok := firstLineIfAny(s)
	return ec2.PrivateDNS(id, s.need(1)), ok
}

// publicName returns the public DNS name of the first address. An unknown region has no domain, and so no public names.
func publicName(s *scope) (string, bool) {
	ip, ok := firstLineIfAny(s)
	return ec2.PublicDNS(ip, s.need(1), s.need(2)), ok
}

func interfaceID(s *scope) (string, bool) {
	id, _ := s.get(idKey)
	return "eni-" + hexOf(17, "interface", id+" "+s.mac), true
}

func reservationID(s *scope) (string, bool) {
	id, _ := s.get(idKey)
	return "r-" + hexOf(17, "reservation", id), true
}

func terminationTime(s *scope) (string, bool) {
	action, at, ok := ec2.SpotNotice(s.need(0))
	return at, ok && action == "terminate"
}

// associations maps each public address to the private address at the same place in its list. It adds nothing to an
// interface whose associations are stated.
func associations(s *scope) map[string]value {
	dir := s.key(s.rule.target)
	for path := range s.b.leaves { // no other rule fills this directory
		if strings.HasPrefix(path, dir) {
			return nil
		}
	}
	made := map[string]value{}
	privates := strings.Split(s.need(1), "\n")
	for i, address := range strings.Split(s.need(0), "\n") {
		if i < len(privates) && ec2.IsIPv4(address) {
			made[address] = s.made(privates[i])
		}
	}
	return made
}

// deviceNumber returns the number that findInterfaces gave to an interface without a stated one.
func deviceNumber(s *scope) (string, bool) {
	n, ok := s.b.interfaces.numbers[s.mac]
	return strconv.Itoa(n), ok
}

package ec2

import "net/netip"

// The addresses of the instance metadata service (EC2 user guide, "Use the Instance Metadata Service to access instance
// metadata"). It listens on port 80.
var (
	ServiceIPv4 = netip.MustParseAddr("169.254.169.254")
	ServiceIPv6 = netip.MustParseAddr("fd00:ec2::254")
)

package main

import (
	"fmt"
	"strings"
)

const instanceHead = `
[instance]
launch-time = 2026-01-05T08:30:00Z

[metadata-options]
instance-metadata-tags = "enabled"

[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
instance-type = "m5.24xlarge"
ami-id = %q
local-ipv4 = "10.0.12.34"
mac = "06:2b:3c:4d:5e:00"
security-groups = ["web", "ssh"]
placement.availability-zone = "eu-west-1b"
`

// Paths of the usual instance, below latest.
const (
	amiID    = "meta-data/ami-id"
	aFile    = "meta-data/instance-id"
	another  = "meta-data/local-ipv4"
	missing  = "meta-data/spot"
	tagsDir  = "meta-data/tags/instance"
	tagCount = 60
)

// usualInstance has about 180 leaves: five interfaces, and tagCount tags in one directory.
func usualInstance(ami string) string {
	var b strings.Builder
	fmt.Fprintf(&b, instanceHead, ami)
	for i := range 5 {
		fmt.Fprintf(&b, `
[meta-data.network.interfaces.macs."06:2b:3c:4d:5e:%02x"]
device-number = %d
interface-id = "eni-0a1b2c3d4e5f6%04x"
local-ipv4s = ["10.0.12.%d", "10.0.13.%d"]
security-groups = ["web", "ssh"]
security-group-ids = ["sg-0a0a0a0a0a0a0a0a0", "sg-0b0b0b0b0b0b0b0b0"]
subnet-id = "subnet-0123456789abcdef0"
subnet-ipv4-cidr-block = "10.0.12.0/24"
vpc-id = "vpc-0fedcba9876543210"
vpc-ipv4-cidr-block = "10.0.0.0/16"
vpc-ipv4-cidr-blocks = ["10.0.0.0/16", "100.64.0.0/16"]
`, i, i, i, 34+i, 34+i)
	}
	b.WriteString("\n[tags]\n")
	for i := range tagCount {
		fmt.Fprintf(&b, "tag-%02d = \"value of the tag %d\"\n", i, i)
	}
	return b.String()
}

// Tables of manyInstance, and where they show below latest.
const (
	manyTable = "meta-data.many"
	manyDir   = "meta-data/many"
	tagsTable = "tags"
)

// manyInstance has count values of size bytes in one table.
func manyInstance(table string, count, size int) string {
	var b strings.Builder
	fmt.Fprintf(&b, instanceHead, "ami-0abcdef1234567890")
	fmt.Fprintf(&b, "\n[%s]\n", table)
	value := strings.Repeat("x", size)
	for i := range count {
		fmt.Fprintf(&b, "value-%05d = \"%s\"\n", i, value)
	}
	return b.String()
}

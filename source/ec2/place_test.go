package ec2

import (
	"strings"
	"testing"
)

func TestRegions(t *testing.T) {
	for zone, want := range map[string]string{
		"eu-west-1b": "eu-west-1", "us-gov-west-1a": "us-gov-west-1", "us-iso-east-1b": "us-iso-east-1", "eusc-de-east-1a": "eusc-de-east-1",
		"ap-southeast-7c": "ap-southeast-7", "us-west-2-lax-1a": "us-west-2", "us-east-1-wl1-bos-wlz-1": "us-east-1", "local-1a": "local-1",
		"us-east-1": "", "US-EAST-1a": "", "nova": "", "us-east-1a ": "", " us-east-1a": "", "us-east-1ab": "", "us-east-1-": "", "us-east-1A": "", "": "", "eu-west-1b\n": "",
	} {
		if got := RegionOf(zone); got != want {
			t.Errorf("%q is in %q, want %q", zone, got, want)
		}
	}
}

// As the SDKs' public partitions file has them.
func TestPartitions(t *testing.T) {
	for region, want := range map[string]string{
		"us-east-1": "aws amazonaws.com", "eu-central-2": "aws amazonaws.com", "mx-central-1": "aws amazonaws.com", "il-central-1": "aws amazonaws.com",
		"ap-southeast-7": "aws amazonaws.com", "af-south-1": "aws amazonaws.com", "me-central-1": "aws amazonaws.com", "ca-west-1": "aws amazonaws.com", "sa-east-1": "aws amazonaws.com",
		"cn-northwest-1": "aws-cn amazonaws.com.cn", "us-gov-east-1": "aws-us-gov amazonaws.com",
		"us-iso-west-1": "aws-iso c2s.ic.gov", "us-isob-east-1": "aws-iso-b sc2s.sgov.gov", "eu-isoe-west-1": "aws-iso-e cloud.adc-e.uk",
		"us-isof-south-1": "aws-iso-f csp.hci.ic.gov", "eusc-de-east-1": "aws-eusc amazonaws.eu", "local-1": "aws amazonaws.com",
		"xx-east-1": "", "us": "", "us-east": "", "RegionOne": "", "usa-east-1": "", "": "",
	} {
		name, domain, ok := PartitionOf(region)
		if got := strings.TrimSpace(name + " " + domain); got != want || ok != (want != "") {
			t.Errorf("%q is in %q, want %q", region, got, want)
		}
	}
}

func TestArchitectures(t *testing.T) {
	for want, types := range map[string]string{
		"arm64": "a1.medium a1.metal t4g.nano m6g.large m6gd.metal m7g.large m7gd.xlarge m8g.24xlarge m8gd.large m8gn.large m8gb.large c6g.large c6gd.large c6gn.16xlarge " +
			"c7g.large c7gd.large c7gn.large c8g.large c8gd.metal-24xl c8gn.large c8gb.large r6g.large r6gd.large r7g.large r7gd.large r8g.large r8gd.48xlarge r8gn.large r8gb.large x2gd.metal x8g.large " +
			"im4gn.large is4gen.medium i4g.large i7g.large i8g.large i8ge.large g5g.xlarge hpc7g.16xlarge p6e-gb200.36xlarge",
		"x86_64": "g4dn.xlarge g4ad.xlarge g3.4xlarge g5.xlarge g6.xlarge g6e.xlarge g6f.large gr6.4xlarge gr6f.4xlarge g7e.2xlarge p4d.24xlarge p5.48xlarge p5en.48xlarge p6-b200.48xlarge p6-b300.48xlarge " +
			"u7i-12tb.224xlarge u7in-24tb.224xlarge u-6tb1.metal u-24tb1.112xlarge trn1.32xlarge trn1n.32xlarge trn2.48xlarge inf2.xlarge dl1.24xlarge dl2q.24xlarge vt1.3xlarge f2.6xlarge " +
			"m5.large m5zn.metal m7i-flex.large m7a.large m8i.large c7i-flex.large t3a.micro t2.micro t1.micro m1.small hpc6id.32xlarge hpc7a.96xlarge x2iedn.metal z1d.large i7ie.large i4i.metal d3en.xlarge r8i-flex.large cg1.4xlarge hs1.8xlarge " +
			"imdsfs.host sbe-c.large KVM Standard-PC-Q35-ICH9-2009",
		"arm64_mac":  "mac2.metal mac2-m2.metal mac2-m2pro.metal mac2-m1ultra.metal mac-m4.metal mac-m4pro.metal",
		"x86_64_mac": "mac1.metal",
	} {
		for name := range strings.FieldsSeq(types) {
			if got := ArchitectureOf(name); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	}
}

func TestZoneIDs(t *testing.T) {
	for zone, want := range map[string]string{
		"us-east-1a": "use1-az1", "ap-northeast-1c": "apne1-az3", "ap-southeast-2b": "apse2-az2", "ca-central-1d": "cac1-az4",
		"cn-northwest-1a": "cnnw1-az1", "us-gov-east-1a": "usge1-az1", "us-west-2-lax-1a": "usw2-lax1-az1", "us-east-1-wl1-bos-wlz-1": "use1-wl1-bos-wlz1",
		"us-west-2-other": "", "us-iso-east-1a": "", "local-1a": "", "eu-west-1": "",
	} {
		if got := ZoneIDOf(zone); got != want {
			t.Errorf("%s is %q, want %q", zone, got, want)
		}
	}
}

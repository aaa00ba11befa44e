package main

import (
	"os"
	"strings"
	"testing"
)

// requireFile is for clients by the path of Debian's package: another of that name may come first on
// the PATH.
func requireFile(t testing.TB, path string) {
	t.Helper()
	_, err := os.Stat(path)
	require(t, err == nil, path)
}

// botocoreScript fetches what every Python AWS program fetches.
const botocoreScript = `
import json, logging
from botocore.utils import InstanceMetadataFetcher, InstanceMetadataRegionFetcher
c = InstanceMetadataFetcher(timeout=2, num_attempts=2).retrieve_iam_role_credentials()
print(c["role_name"], c["access_key"], c["secret_key"], c["token"], c["expiry_time"])
print(InstanceMetadataRegionFetcher(timeout=2, num_attempts=2).retrieve_region())
`

// Unmodified programs of Debian at the address of the real service.
func TestUnmodifiedClients(t *testing.T) {
	for _, mode := range []string{"optional", "required"} {
		t.Run(mode, func(t *testing.T) {
			text := readFile(t, instances+"/us-east-1-role.toml")
			file := write(t, "instance.toml", strings.Replace(text, `http-tokens = "optional"`, `http-tokens = "`+mode+`"`, 1))
			ns := newNetns(t)
			ns.serveLinkLocal(file)
			for _, c := range []struct {
				name, program, line string
				want                []string
			}{
				{"botocore", "/usr/lib/python3/dist-packages/botocore/utils.py", "/usr/bin/python3 -c '" + botocoreScript + "'",
					[]string{"batch-role ASIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY IQoJb3JpZ2luX2VjEXAMPLE//session/token== 2099-01-01T00:00:00Z\nus-east-1\n"}},
				{"AWS CLI", "/usr/bin/aws", "/usr/bin/aws configure list",
					[]string{"access_key     ****************MPLE         iam-role", "region                us-east-1             imds"}},
				{"ec2metadata of cloud-guest-utils", "/usr/bin/ec2metadata", "/usr/bin/ec2metadata",
					[]string{"instance-id: i-0fedcba9876543210\n", "availability-zone: us-east-1c\n", "local-ipv4: 10.0.1.23\n", "public-keys: ['ssh-ed25519 ", "product-codes: 7examplecodeaaaaaaaaaaaaa\n"}},
				{"ec2-metadata of amazon-ec2-utils", "/usr/bin/ec2-metadata", "/usr/bin/ec2-metadata --instance-id --availability-zone --public-keys --security-groups",
					[]string{"instance-id: i-0fedcba9876543210\n", "placement: us-east-1c\n", "keyname:deploy\nindex:0\nformat:openssh-key\nkey:(begins from next line)\nssh-ed25519 "}},
			} {
				t.Run(c.name, func(t *testing.T) {
					requireFile(t, c.program)
					stdout, stderr, err := ns.try(c.line)
					if err != nil {
						t.Errorf("%v", err)
					}
					for _, want := range c.want {
						if !strings.Contains(stdout, want) {
							t.Errorf("prints\n%s%s\nwhich lacks %q", stdout, stderr, want)
						}
					}
				})
			}
		})
	}
}

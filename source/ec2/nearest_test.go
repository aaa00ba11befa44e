package ec2

import "testing"

func TestNearestPath(t *testing.T) {
	for path, want := range map[string]string{
		"meta-data/instanceid":                                         "meta-data/instance-id",
		"meta-data/placement/availabilty-zone":                         "meta-data/placement/availability-zone",
		"meta-data/placment/region":                                    "meta-data/placement/region",
		"meta-data/region":                                             "meta-data/placement/region",
		"meta-data/network/interfaces/macs/06:00:00:00:00:01/subnetid": "meta-data/network/interfaces/macs/06:00:00:00:00:01/subnet-id",
		"meta-data/tag/instance/Name":                                  "meta-data/tags/instance/Name",
		"meta-data/user_data":                                          "user-data",
		"meta-data/metadata/mac":                                       "meta-data/mac",
		"dynamic/instance-identity/documents":                          "dynamic/instance-identity/document",

		"meta-data/instance-id":   "", // EC2 has it
		"meta-data/iam":           "",
		"meta-data/rack":          "",
		"meta-data/rack/position": "",
		"meta-data/local/mac/of":  "",
		"meta-data/x":             "",
		"":                        "",
	} {
		if got := NearestPath(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

package ec2

import (
	"slices"
	"strings"
	"time"
)

// ec2Versions is what GET / listed on a Nitro instance in August 2024, without "latest".
var ec2Versions = strings.Fields(`
	1.0 2007-01-19 2007-03-01 2007-08-29 2007-10-10 2007-12-15 2008-02-01 2008-09-01 2009-04-04
	2011-01-01 2011-05-01 2012-01-12 2014-02-25 2014-11-05 2015-10-20 2016-04-19 2016-06-30
	2016-09-02 2018-03-28 2018-08-17 2018-09-24 2019-10-01 2020-10-27 2021-01-03 2021-03-23
	2021-07-15 2022-07-09 2022-09-24 2024-04-11`)

// snowballVersions end with 2021-03-23 (Snowball Edge developer guide, "IMDS versions").
var snowballVersions = ec2Versions[:slices.Index(ec2Versions, "2021-03-23")+1]

// Versions returns the versions of EC2 or of Snowball Edge, oldest first.
func Versions(snowball bool) []string {
	if snowball {
		return snowballVersions
	}
	return ec2Versions
}

// ValidVersion reports whether s has the form of an EC2 version: "1.0" or a date, "2021-03-23". Versions in byte order are
// in the order of their age.
func ValidVersion(s string) bool {
	if s == "1.0" {
		return true
	}
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

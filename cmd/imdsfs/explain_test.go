package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCheckExplainsWhereAValueComesFrom(t *testing.T) {
	file := write(t, "web.toml", `[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
local-ipv4 = "10.0.12.34"
placement.availability-zone = "eu-west-1b"
[credentials.web]
type = "static"
access-key-id = "AKIAIOSFODNN7EXAMPLE"
secret-access-key = "hunter2"
token = "hunter2"
`)
	for typed, c := range map[string]struct {
		code int
		out  string
		errs string
	}{
		"hostname": {0, `hostname = ip-10-0-12-34.eu-west-1.compute.internal
hostname ← local-ipv4 (FILE:3), placement/region ← placement/availability-zone (FILE:4)
see EC2 user guide, "Instance hostname types"
`, ""},
		"/latest/meta-data/instance-id": {0, "instance-id = i-0a1b2c3d4e5f67890\ninstance-id (FILE:2)\n", ""},
		"instance.account-id":           {0, "instance.account-id = 000000000000\ninstance.account-id (default)\n", ""},
		"metadata-options.http-tokens":  {0, "metadata-options.http-tokens = optional\nmetadata-options.http-tokens (default)\n", ""},
		"iam/security-credentials/web":  {0, "iam/security-credentials/web = [secret]\niam/security-credentials/web (FILE:5)\n", ""},
		"host-name":                     {exitNo, "", "imdsfs: error: FILE: there is no host-name\nimdsfs: hint: did you mean hostname?\n"},
		"iam":                           {exitNo, "", "imdsfs: error: FILE: iam is a directory\nimdsfs: hint: name a value below it\n"},
		"/2021-03-23/meta-data/mac":     {exitUsage, "", "imdsfs: error: --explain /2021-03-23/meta-data/mac: the path names one version"},
	} {
		var out, errs bytes.Buffer
		code := run([]string{"check", "--explain", typed, file}, &out, &errs)
		got := strings.ReplaceAll(out.String(), file, "FILE")
		said := strings.ReplaceAll(errs.String(), file, "FILE")
		if code != c.code || got != c.out || !strings.HasPrefix(said, c.errs) || c.errs == "" && said != "" {
			t.Errorf("%s: exit %d\n%s%s\nwant %d\n%s%s", typed, code, got, said, c.code, c.out, c.errs)
		}
		if strings.Contains(got+said, "hunter2") {
			t.Errorf("%s: a secret is shown: %s%s", typed, got, said)
		}
	}
}

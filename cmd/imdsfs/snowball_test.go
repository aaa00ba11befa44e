package main

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// Every row of what the Snowball Edge developer guide says (facts §6), on both doors.
func TestSnowball(t *testing.T) {
	d := serve(t, instances+"/snowball.toml", true)
	const nic = "network/interfaces/macs/02:ab:cd:01:23:45/"
	categories := []string{
		"ami-id", "hostname", "instance-id", "instance-type", "local-hostname", "local-ipv4", "mac", "public-ipv4", "public-keys/0/openssh-key",
		"reservation-id", "security-groups", nic + "local-hostname", nic + "local-ipv4s", nic + "mac", nic + "public-ipv4s",
	}
	token := d.token()
	var leaves []string
	for path, p := range crawl(t, d) {
		if rest, ok := strings.CutPrefix(path, "/latest/meta-data/"); ok && !p.dir {
			leaves = append(leaves, rest)
		}
	}
	slices.Sort(leaves)
	if slices.Sort(categories); !slices.Equal(leaves, categories) {
		t.Errorf("categories %q, want %q", leaves, categories)
	}
	get := func(path string) reply { return d.ask("GET", path, "X-aws-ec2-metadata-token", token) }
	if got := get("/latest/dynamic/instance-identity/").body; got != "document" {
		t.Errorf("dynamic/instance-identity lists %q", got)
	}
	if got := get("/latest/dynamic/").body; got != "instance-identity/" {
		t.Errorf("dynamic lists %q", got)
	}
	document := get("/latest/dynamic/instance-identity/document").body
	for _, line := range strings.Split(document, "\n") {
		name, value, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ","), " : ")
		known := slices.Contains([]string{`"instanceId"`, `"imageId"`, `"privateIp"`, `"instanceType"`, `"version"`}, name)
		if ok && known == (value == "null") {
			t.Errorf("document says %s", line)
		}
	}
	versions := strings.Split(get("/").body, "\n")
	if versions[0] != "1.0" || versions[len(versions)-2] != "2021-03-23" || versions[len(versions)-1] != "latest" {
		t.Errorf("versions %q", versions)
	}
	for path, want := range map[string]int{
		"/latest/meta-data/placement/availability-zone": 404, "/latest/meta-data/iam/info": 404, "/latest/dynamic/fws/": 404,
		"/2021-07-15/": 404, "/latest/user-data": 200, "/latest/meta-data/nothing": 404,
	} {
		if got := get(path).status; got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
		if _, err := os.Stat(d.mount + path); (err == nil) != (want == 200) {
			t.Errorf("stat %s: %v", path, err)
		}
	}
	if got := d.ask("PUT", "/latest/api/token").status; got != http.StatusBadRequest {
		t.Errorf("PUT without the TTL header: %d", got)
	}
	if got := d.ask("GET", "/latest/", "X-aws-ec2-metadata-token", "nonsense").status; got != http.StatusUnauthorized {
		t.Errorf("a bad token: %d", got)
	}
	if got := d.ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60", "X-Forwarded-For", "192.0.2.1").status; got != http.StatusForbidden {
		t.Errorf("a forwarded PUT: %d", got)
	}
	for name, value := range map[string]string{"http-put-response-hop-limit": "2", "http-protocol-ipv6": "enabled"} {
		err := d.call("PATCH", "/v1/options", map[string]string{name: value}, nil)
		if err == nil || !strings.Contains(err.Error(), "UnsupportedOperation") || !strings.Contains(err.Error(), "Snowball Edge") {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	d.setOption("http-tokens", "required") // v2 can be made mandatory
	if got := d.ask("GET", "/latest/meta-data/ami-id").status; got != http.StatusUnauthorized {
		t.Errorf("v1 where v2 is mandatory: %d", got)
	}
	d.call("PATCH", "/v1/options", map[string]string{"http-tokens": "optional"}, nil)
}

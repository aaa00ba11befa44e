package imds

import (
	"strings"
	"testing"
)

func TestHostRule(t *testing.T) {
	value := text(instanceID)
	host := func(h string) string { return id + "\nHost: " + h }
	runRows(t, []row{
		{"security: IPv4 address", host("127.0.0.1"), optional, value},
		{"security: IPv4 address and port", host("127.0.0.1:1338"), optional, value},
		{"security: IPv6 address", host("[fd00:ec2::254]"), optional, value},
		{"security: IPv6 address and port", host("[::1]:80"), optional, value},
		{"security: localhost", host("localhost"), optional, value},
		{"security: localhost, case and port", host("LocalHost:1338"), optional, value},
		{"security: localhost with a final dot", host("localhost."), optional, value},
		{"security: instance-data", host("instance-data"), optional, value},
		{"security: instance-data.ec2.internal", host("instance-data.ec2.internal"), optional, value},
		{"security: final dot and port", host("Instance-Data.EC2.Internal.:80"), optional, value},
		{"security: a host added", host("metadata.test"), optional, value},
		{"security: a host added, case, dot and port", host("Metadata.Test.:8080"), optional, value},
		{"security: another name", host("evil.test"), optional, forbidden},
		{"security: another name, PUT", put + ttl + "60\nHost: evil.test", optional, forbidden},
		{"security: a name below ours", host("evil.localhost"), optional, forbidden},
		{"security: a name that begins like ours", host("localhost.evil.test"), optional, forbidden},
		{"security: an address within a name", host("127.0.0.1.evil.test"), optional, forbidden},
		{"security: an IPv4 address in another notation", host("0x7f000001"), optional, forbidden},
		{"security: an IPv6 address without brackets", host("::1"), optional, forbidden},
		{"security: an IPv4 address in brackets", host("[127.0.0.1]"), optional, forbidden},
		{"security: an open bracket", host("[::1"), optional, forbidden},
		{"security: an IPv6 address with a zone (RFC 6874)", host("[fe80::1%25eth0]"), optional, value},
		{"security: as curl sends it", host("[fe80::1%eth0]:1338"), optional, value},
		{"security: a zone that is percent-encoded", host("[fe80::1%25eth0%2d1]"), optional, value},
		{"security: a zone with a blank", host("[fe80::1%a b]"), optional, forbidden},
		{"security: an empty zone", host("[fe80::1%]"), optional, forbidden},
		{"security: a zone with a name behind a slash", host("[fe80::1%25eth0/evil.test]"), optional, forbidden},
		{"security: a zone with an @", host("[fe80::1%25@evil.test]"), optional, forbidden},
		{"security: a zone with a broken escape", host("[fe80::1%25eth0%2]"), optional, forbidden},
		{"security: a zone that is too long", host("[fe80::1%" + strings.Repeat("a", 65) + "]"), optional, forbidden},
		{"security: a zone with bytes beyond ASCII", host("[fe80::1%\u00e9]"), optional, forbidden},
		{"security: a zone of IPv4", host("[127.0.0.1%25lo]"), optional, forbidden},
		{"security: text after the bracket", host("[::1]evil.test"), optional, forbidden},
		{"security: digits after the bracket", host("[::1]80"), optional, forbidden},
		{"security: a port that is none", host("localhost:evil"), optional, forbidden},
		{"security: two ports", host("localhost:80:80"), optional, forbidden},
		{"security: user information", host("localhost@evil.test"), optional, forbidden},
		{"security: two final dots", host("localhost.."), optional, forbidden},
		{"security: no Host in HTTP/1.1", id + "\nHost:", optional, malformed},
		{"security: no Host in HTTP/1.0", id + " HTTP/1.0\nHost:", optional, conn("close", value)},
		{"security: another name in HTTP/1.0", id + " HTTP/1.0\nHost: evil.test", optional, conn("close", forbidden)},
		{"security: refused although disabled", host("evil.test"), disabled, forbidden},
	})
}

func TestTargetForms(t *testing.T) {
	value := text(instanceID)
	const path = "/latest/meta-data/instance-id"
	runRows(t, []row{
		{"absolute-form", "GET http://169.254.169.254" + path, optional, value},
		{"absolute-form with a port", "GET http://localhost:1338" + path, optional, value},
		{"absolute-form, case of the scheme", "GET HTTP://localhost" + path, optional, value},
		{"absolute-form without path", "GET http://localhost", optional, text(versions)},
		{"absolute-form with a query alone", "GET http://localhost?x=/y", optional, text(versions)},
		{"absolute-form, double slashes", "GET http://localhost//latest//meta-data/instance-id", optional, value},
		{"absolute-form for a token", "PUT http://localhost/latest/api/token" + ttl + "60", optional, issued(60)},
		{"absolute-form replaces Host: refused", "GET http://evil.test" + path, optional, forbidden},
		{"absolute-form replaces Host: answered", "GET http://localhost" + path + "\nHost: evil.test", optional, value},
		{"absolute-form, user information", "GET http://localhost@evil.test" + path, optional, forbidden},
		{"absolute-form, an IPv6 zone", "GET http://[fe80::1%25eth0]" + path, optional, value},
		{"absolute-form, empty authority", "GET http://" + path, optional, forbidden},
		{"absolute-form, empty authority, HTTP/1.0", "GET http://" + path + " HTTP/1.0", optional, conn("close", forbidden)},
		{"absolute-form, HTTP/1.1 without Host", "GET http://localhost" + path + "\nHost:", optional, malformed},
		{"another scheme", "GET https://localhost" + path, optional, malformed},
		{"asterisk-form", "OPTIONS *", optional, malformed},
		{"authority-form", "CONNECT localhost:80", optional, malformed},
		{"a path without slash", "GET latest/meta-data", optional, malformed},
		{"an empty target", "GET ", optional, malformed},
	})
}

func TestRefusedHostIsNamed(t *testing.T) {
	tokens, _ := authority()
	snap := snapshot(t, fixture(), nil)
	for host, want := range map[string]string{
		"metadata:80":                  "metadata",
		"My-Service.Cluster.Local.:80": "my-service.cluster.local",
		"::1":                          "::1",
		"a b":                          "a b",
		strings.Repeat("x", 1000):      strings.Repeat("x", 253),
		"localhost":                    "",
		"127.0.0.1":                    "",
	} {
		req := parseRequest(t, id, nil)
		req.Host = host
		if resp := respond(snap, tokens, Hosts{}, req); resp.RefusedHost != want {
			t.Errorf("Host %q: RefusedHost %q, want %q", host, resp.RefusedHost, want)
		}
	}
}

func TestNewHostsRefusesWhatIsNoName(t *testing.T) {
	for _, name := range []string{"", ".", "metadata:80", "http://metadata", "a/b", "a b", "*.test", "[::1]", strings.Repeat("x", 254), "ä.test"} {
		if _, err := NewHosts("good.test", name); err == nil || !strings.Contains(err.Error(), "DNS name") {
			t.Errorf("NewHosts(%q): error %v, want one that asks for a DNS name", name, err)
		}
	}
	hosts, err := NewHosts("My_Service.Test.", "metadata")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"my_service.test", "MY_SERVICE.TEST.:80", "metadata"} {
		if !hosts.Allow(name) {
			t.Errorf("%q is refused", name)
		}
	}
}

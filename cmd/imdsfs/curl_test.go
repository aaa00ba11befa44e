package main

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const getToken = `TOKEN=$(curl -sX PUT "http://169.254.169.254/latest/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 21600")`

// The lines of the EC2 user guide ("Retrieve instance metadata", "Use IMDSv2"), as they stand there but
// for curl's -s, with what they print.
func TestCurlAsInTheGuide(t *testing.T) {
	kit.RequireCommand(t, "curl")
	ns := newNetns(t)
	ns.serveLinkLocal(instances + "/us-east-1-role.toml")
	const v2 = getToken + ` && curl -s -H "X-aws-ec2-metadata-token: $TOKEN" `
	for _, c := range []struct{ path, want string }{
		{"/latest/meta-data/ami-id", "ami-0123456789abcdef0"},
		{"/latest/meta-data/reservation-id", "r-b46a29d85466d0843"},
		{"/latest/meta-data/local-hostname", "ip-10-0-1-23.ec2.internal"},
		{"/latest/meta-data/public-hostname", "ec2-203-0-113-99.compute-1.amazonaws.com"},
		{"/latest/meta-data/public-keys/", "0=deploy\n1=ops"},
		{"/latest/meta-data/public-keys/0/", "openssh-key"},
		{"/latest/meta-data/placement/availability-zone", "us-east-1c"},
		{"/latest/meta-data/tags/instance/", "Empty\nName\nPath\napp.example.com:tier"},
		{"/latest/dynamic/instance-identity/", "document"},
		{"/latest/", "dynamic\nmeta-data\nuser-data"},
		{"/2021-03-23/meta-data/instance-id", "i-0fedcba9876543210"},
	} {
		v1 := ns.run("curl -s http://169.254.169.254" + c.path)
		if got := ns.run(v2 + "http://169.254.169.254" + c.path); got != v1 {
			t.Errorf("%s: IMDSv1 says %q, IMDSv2 %q", c.path, v1, got)
		}
		if v1 != c.want {
			t.Errorf("%s: %q, want %q", c.path, v1, c.want)
		}
	}
	token := ns.run(getToken + ` && printf %s "$TOKEN"`)
	if len(token) != 56 || !strings.HasPrefix(token, "AQAEA") {
		t.Errorf("token %q has not the form of EC2's", token)
	}
	data := ns.run(v2 + "http://169.254.169.254/latest/user-data")
	if !strings.Contains(hex.EncodeToString([]byte(data)), "00ff") {
		t.Errorf("binary user-data did not come through: %q", data)
	}
}

// What cannot go through an ordinary HTTP library: exact status lines and bodies, with curl.
func TestCurlOnTheWire(t *testing.T) {
	kit.RequireCommand(t, "curl")
	ns := newNetns(t)
	ns.serveLinkLocal(instances + "/us-east-1-role.toml")
	const at = "http://169.254.169.254"
	for name, c := range map[string]struct {
		line string
		want []string
	}{
		"PUT without TTL":             {"curl -si -X PUT " + at + "/latest/api/token", []string{"HTTP/1.1 400 Bad Request\r\n", "Content-Length: 0\r\n"}},
		"PUT, TTL too long":           {"curl -si -X PUT " + at + "/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 21601'", []string{"HTTP/1.1 400 Bad Request\r\n"}},
		"PUT forwarded":               {"curl -si -X PUT " + at + "/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' -H 'X-Forwarded-For: 192.0.2.1'", []string{"HTTP/1.1 403 Forbidden\r\n", "Content-Length: 0\r\n"}},
		"PUT below a version":         {"curl -si -X PUT " + at + "/2021-03-23/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'", []string{"HTTP/1.1 403 Forbidden\r\n"}},
		"PUT with a slash":            {"curl -si -X PUT " + at + "/latest/api/token/ -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'", []string{"HTTP/1.1 403 Forbidden\r\n"}},
		"GET on the token path":       {"curl -si " + at + "/latest/api/token", []string{"HTTP/1.1 405 Not Allowed\r\nAllow: OPTIONS, PUT\r\nContent-Length: 0\r\n"}},
		"a bad token":                 {"curl -si -H 'X-aws-ec2-metadata-token: nonsense' " + at + "/", []string{"HTTP/1.1 401 Unauthorized\r\n", "Content-Length: 0\r\n"}},
		"an unknown path":             {"curl -si " + at + "/latest/meta-data/nothing", []string{"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 339\r\n", "<title>404 - Not Found</title>\n"}},
		"a value":                     {"curl -si " + at + "/latest/meta-data/ami-launch-index", []string{"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nAccept-Ranges: none\r\nLast-Modified: ", "\r\nServer: EC2ws\r\n", "\r\n\r\n0"}},
		"HEAD":                        {"curl -sI " + at + "/latest/meta-data/public-ipv4", []string{"HTTP/1.1 200 OK\r\n", "Content-Length: 12\r\n"}},
		"a directory, no slash":       {"curl -si " + at + "/latest/meta-data/iam", []string{"HTTP/1.1 200 OK\r\n", "\r\n\r\ninfo\nsecurity-credentials/"}},
		"a value, slash":              {"curl -si " + at + "/latest/meta-data/services/domain/", []string{"HTTP/1.1 200 OK\r\n", "\r\n\r\namazonaws.com"}},
		"double slashes":              {"curl -si --path-as-is " + at + "//latest//meta-data///services//domain", []string{"HTTP/1.1 200 OK\r\n", "\r\n\r\namazonaws.com"}},
		"user-data, slash":            {"curl -si " + at + "/latest/user-data/ -o - | tr -d '\\0'", []string{"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"}},
		"dots are names":              {"curl -si --path-as-is " + at + "/latest/dynamic/../meta-data/", []string{"HTTP/1.1 404 Not Found\r\n"}},
		"Expect":                      {"curl -si -X PUT -H 'Expect: 100-continue' -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' -d x " + at + "/latest/api/token", []string{"HTTP/1.1 417 Expectation Failed\r\n", "Connection: close\r\n"}},
		"a foreign Host":              {"curl -si -H 'Host: evil.example' " + at + "/", []string{"HTTP/1.1 403 Forbidden\r\n"}},
		"HTTP/1.0":                    {"curl -si0 " + at + "/latest/meta-data/ami-launch-index", []string{"HTTP/1.1 200 OK\r\n", "Connection: close\r\n", "\r\n\r\n0"}},
		"a range":                     {"curl -si -r 0-1 " + at + "/latest/meta-data/services/domain", []string{"HTTP/1.1 200 OK\r\n", "\r\n\r\namazonaws.com"}},
		"compression":                 {"curl -si -H 'Accept-Encoding: gzip' " + at + "/latest/meta-data/services/domain", []string{"Content-Length: 13\r\n", "\r\n\r\namazonaws.com"}},
		"remaining time, header name": {getToken + "; curl -si -H \"x-AWS-ec2-METADATA-token: $TOKEN\" " + at + "/latest/meta-data/services/domain", []string{"HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21"}},
	} {
		got, stderr, _ := ns.try(c.line)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s\nprints %q%s\nwhich lacks %q", name, c.line, got, stderr, want)
			}
		}
	}
}

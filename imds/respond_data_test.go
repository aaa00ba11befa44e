package imds

import (
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/tree"
)

// versions is facts §2.1, captured in August 2024: 318 bytes, no final newline.
const versions = `1.0
2007-01-19
2007-03-01
2007-08-29
2007-10-10
2007-12-15
2008-02-01
2008-09-01
2009-04-04
2011-01-01
2011-05-01
2012-01-12
2014-02-25
2014-11-05
2015-10-20
2016-04-19
2016-06-30
2016-09-02
2018-03-28
2018-08-17
2018-09-24
2019-10-01
2020-10-27
2021-01-03
2021-03-23
2021-07-15
2022-07-09
2022-09-24
2024-04-11
latest`

func TestVersionsPathsAndSlashes(t *testing.T) {
	if len(versions) != 318 {
		t.Fatalf("the captured list has 318 bytes, this one %d", len(versions))
	}
	const md = "GET /latest/meta-data/"
	top := text("dynamic\nmeta-data\nuser-data")
	value := text(instanceID)
	runRows(t, []row{
		{"§2.1 GET /", "GET /", optional, text(versions)},
		{"§2.1 unknown version", "GET /2099-01-01/meta-data/", optional, notFound},
		{"§2.1 a date between two versions", "GET /2018-11-29/", optional, notFound},
		{"§2.1 older versions have older items", "GET /2009-04-04/meta-data/instance-id", optional, value},
		{"§2.1 older versions hide newer items", "GET /2009-04-04/meta-data/iam/info", optional, notFound},
		{"§2.1 newer versions show them", "GET /2012-01-12/meta-data/iam/security-credentials/", optional, text("web-role")},
		{"§2.2 /latest", "GET /latest", optional, top},
		{"§2.2 /latest/", "GET /latest/", optional, top},
		{"§2.2 /<date>", "GET /2021-03-23", optional, top},
		{"§2.2 /<date>/", "GET /2021-03-23/", optional, top},
		{"§2.2 directory without slash", "GET /latest/meta-data/iam", optional, text("info\nsecurity-credentials/")},
		{"§2.2 directory with slash", md + "iam/", optional, text("info\nsecurity-credentials/")},
		{"§2.2 leaf with trailing slash", md + "instance-id/", optional, value},
		{"§2.2 leaf with trailing slashes", md + "instance-id//", optional, value},
		{"§2.2 credentials with trailing slash are the credentials", "HEAD /latest/meta-data/iam/security-credentials/web-role/", optional,
			headOf(text(strings.Repeat("x", len(credentials(t)))))},
		{"§2.2 user-data", "GET /latest/user-data", optional, data("application/octet-stream", userData)},
		{"§2.2 user-data/ content type", "GET /latest/user-data/", optional, data("application/octet-stream", userData)},
		{"§2.2 double slashes, leading", "GET //latest/user-data", optional, data("application/octet-stream", userData)},
		{"§2.2 double slashes, inside", "GET /latest//meta-data///instance-id", optional, value},
		{"§2.2 double slashes alone", "GET //", optional, text(versions)},
		{"§2.2 query string", md + "instance-id?x=/../%zz", optional, value},
		{"§2.2 query string on /", "GET /?", optional, text(versions)},
		{"§2.2 percent-encoded name", md + "instance%2Did", optional, value},
		{"§2.2 percent-encoded MAC", md + "network/interfaces/macs/02%3a29%3A96:8f:6a:2d/mac", optional, text("02:29:96:8f:6a:2d")},
		{"§2.2 percent-encoding is decoded once", md + "instance%252Did", optional, notFound},
		{"§2.2 a plus sign is a plus sign", md + "instance+id", optional, notFound},
		{"§2.2 encoded slash in a segment", "GET /latest/meta-data%2Finstance-id", optional, notFound},
		{"§2.2 encoded slash alone", "GET /latest/%2F", optional, notFound},
		{"§2.2 encoded NUL", md + "instance-id%00", optional, notFound},
		{"§2.2 malformed escape", md + "instance%2", optional, malformed},
		{"§2.2 malformed escape, not hexadecimal", "GET /%gg", optional, malformed},
		{"§2.2 a lone percent sign", "GET /latest/%", optional, malformed},
		{"§2.2 malformed escape, tokens required", "GET /%", required, malformed},
		{"§2.2 dot segment", "GET /latest/./meta-data", optional, notFound},
		{"§2.2 dot-dot segment", "GET /latest/meta-data/../user-data", optional, notFound},
		{"§2.2 encoded dot-dot segment", "GET /latest/%2e%2E/latest", optional, notFound},
		{"§2.2 dot-dot above the top", "GET /../../etc/passwd", optional, notFound},
		{"§2.2 descend below a leaf", md + "instance-id/foo", optional, notFound},
		{"§2.2 descend below user-data", "GET /latest/user-data/foo", optional, notFound},
		{"§2.2 case of a name", md + "Instance-Id", optional, notFound},
		{"§2.2 case of latest", "GET /Latest/", optional, notFound},
		{"§2.5 404", "GET /latest/meta-data/nothing", optional, notFound},
		{"§2.5 404, the client closes", "GET /nothing\nConnection: close", optional, conn("close", notFound)},
	})
}

func credentials(t *testing.T) string {
	v, ok := snapshot(t, fixture(), nil).Find("/latest/meta-data/iam/security-credentials/web-role")
	if !ok {
		t.Fatal("the fixture has no credentials")
	}
	return string(v.Bytes())
}

func TestUserDataIsListedWhenThereIsNone(t *testing.T) {
	f := fixture()
	delete(f.Leaves, "user-data")
	snap := snapshot(t, f, nil)
	tokens, _ := authority()
	for request, want := range map[string]string{
		"GET /latest/":           text("dynamic\nmeta-data\nuser-data"),
		"GET /latest/user-data":  notFound,
		"GET /latest/user-data/": notFound,
	} {
		resp := respond(snap, tokens, Hosts{}, parseRequest(t, request, nil))
		if got := render(&resp); got != want {
			t.Errorf("§2.2 %s\ngot:\n%s\nwant:\n%s", request, got, want)
		}
	}
}

func TestListingsAndValues(t *testing.T) {
	const md = "GET /latest/meta-data/"
	const macs = md + "network/interfaces/macs/"
	runRows(t, []row{
		{"§2.3 public-keys/", md + "public-keys/", optional, text("0=my-key-name\n1=ops,e")},
		{"§2.3 public-keys", md + "public-keys", optional, text("0=my-key-name\n1=ops,e")},
		{"§2.3 public-keys/0", md + "public-keys/0", optional, text("openssh-key")},
		{"§2.3 public-keys/0/", md + "public-keys/0/", optional, text("openssh-key")},
		{"§2.3 public-keys/0=my-key-name", md + "public-keys/0=my-key-name", optional, notFound},
		{"§2.3 public-keys/0=my-key-name/openssh-key", md + "public-keys/0=my-key-name/openssh-key", optional, notFound},
		{"§2.3 iam/", md + "iam/", optional, text("info\nsecurity-credentials/")},
		{"§2.3 iam/security-credentials/", md + "iam/security-credentials/", optional, text("web-role")},
		{"§2.3 iam/security-credentials", md + "iam/security-credentials", optional, text("web-role")},
		{"§2.3 identity-credentials/", md + "identity-credentials/", optional, text("ec2/")},
		{"§2.3 identity-credentials/ec2/", md + "identity-credentials/ec2/", optional, text("info\nsecurity-credentials/")},
		{"§2.3 identity-credentials/ec2/security-credentials/", md + "identity-credentials/ec2/security-credentials/", optional, text("ec2-instance")},
		{"§2.3 network/", md + "network/", optional, text("interfaces/")},
		{"§2.3 network/interfaces/", md + "network/interfaces/", optional, text("macs/")},
		{"§2.3 macs/", macs, optional, text("02:29:96:8f:6a:2d/")},
		{"§2.3 ipv4-associations/", macs + "02:29:96:8f:6a:2d/ipv4-associations/", optional, text("203.0.113.25")},
		{"§2.3 ipv4-associations leaf", macs + "02:29:96:8f:6a:2d/ipv4-associations/203.0.113.25", optional, text("10.0.12.34")},
		{"§2.3 block-device-mapping/", md + "block-device-mapping/", optional, text("ami\nroot")},
		{"§2.3 tags/", md + "tags/", tagged, text("instance/")},
		{"§2.3 tags/instance/", md + "tags/instance/", tagged, text("Environment\nName\na:b")},
		{"§2.3 tags/instance", md + "tags/instance", tagged, text("Environment\nName\na:b")},
		{"§2.3 absent items 404: tags disabled", md + "tags/instance/", optional, notFound},
		{"§2.3 absent items 404: no Spot notice", md + "spot/instance-action", optional, notFound},
		{"§7 a tag with an empty value", md + "tags/instance/Environment", tagged, text("")},
		{"§7 a tag value with a slash and a space", md + "tags/instance/a:b", tagged, text("x/y z")},
		{"§2.3 dynamic/", "GET /latest/dynamic/", optional, text("fws/\ninstance-identity/")},
		{"§2.3 dynamic/instance-identity, no slash", "GET /latest/dynamic/instance-identity", optional, text("document")},
		{"§2.3 events/", md + "events/", optional, text("maintenance/")},
		{"§2.4 no trailing newline, lines separated", md + "security-groups", optional, text("web\nssh")},
		{"§2.4 openssh-key ends with a newline", md + "public-keys/0/openssh-key", optional, text(openSSHKey + "\n")},
		{"§2.4 JSON is text/plain", md + "events/maintenance/scheduled", optional, text("[]")},
		{"§2.4 Range is ignored", md + "instance-id\nRange: bytes=0-1", optional, text(instanceID)},
		{"§2.4 If-Modified-Since is ignored", md + "instance-id\nIf-Modified-Since: Fri, 02 Jan 2026 03:04:05 GMT", optional, text(instanceID)},
		{"§2.4 If-None-Match is ignored", md + "instance-id\nIf-None-Match: *", optional, text(instanceID)},
		{"§10 Accept and Accept-Encoding are ignored", md + "instance-id\nAccept: application/json\nAccept-Encoding: gzip", optional, text(instanceID)},
		{"§10 //latest/meta-data/", "GET //latest/meta-data/instance-id", optional, text(instanceID)},
		{"§10 /latest//meta-data/", "GET /latest//meta-data/instance-id", optional, text(instanceID)},
		{"§10 placement/availability-zone/", md + "placement/availability-zone/", optional, text("eu-west-1b")},
		{"§10 network/interfaces/macs", md + "network/interfaces/macs", optional, text("02:29:96:8f:6a:2d/")},
		{"§10 block-device-mapping", md + "block-device-mapping", optional, text("ami\nroot")},
	})
}

func TestPersistence(t *testing.T) {
	value := text(instanceID)
	runRows(t, []row{
		{"§2.4 HTTP/1.1 stays open", id, optional, value},
		{"§2.4 HTTP/1.1, keep-alive asked for", id + "\nConnection: keep-alive", optional, value},
		{"§2.4 HTTP/1.1, client says close", id + "\nConnection: close", optional, conn("close", value)},
		{"§2.4 close in another case and place", id + "\nConnection: TE, CLOSE", optional, conn("close", value)},
		{"§2.4 close in a second line", id + "\nConnection: TE\nConnection: close", optional, conn("close", value)},
		{"§2.4 HTTP/1.0 closes", id + " HTTP/1.0", optional, conn("close", value)},
		{"§2.4 HTTP/1.0 asks for keep-alive", id + " HTTP/1.0\nConnection: Keep-Alive", optional, conn("keep-alive", value)},
		{"§2.4 HTTP/1.0 says both", id + " HTTP/1.0\nConnection: keep-alive, close", optional, conn("close", value)},
		{"§2.4 HTTP/1.0 keep-alive on a 404", "GET /x HTTP/1.0\nConnection: keep-alive", optional, conn("keep-alive", notFound)},
		{"§2.4 HTTP/1.0 keep-alive on a token", put + " HTTP/1.0\nConnection: keep-alive" + ttl + "60", optional, conn("keep-alive", issued(60))},
		{"§2.4 HTTP/1.0 token closes", put + " HTTP/1.0" + ttl + "60", optional, conn("close", issued(60))},
	})
}

func TestConnectionThatMustEndSaysSo(t *testing.T) {
	tokens, _ := authority()
	req := parseRequest(t, id+"\nConnection: keep-alive", nil)
	req.Close = true
	resp := respond(snapshot(t, fixture(), nil), tokens, Hosts{}, req)
	if got, want := render(&resp), conn("close", text(instanceID)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestLastModifiedIsThatOfTheValue(t *testing.T) {
	f := fixture()
	newer := value("m5.xlarge")
	newer.Mtime = stated.Add(48 * time.Hour)
	f.Leaves["meta-data/instance-type"] = newer
	f.Leaves["meta-data/instance-id"] = tree.Value{Bytes: []byte(instanceID), Mtime: stated.In(time.FixedZone("UTC+9", 9*3600)), Origin: newer.Origin}
	snap := snapshot(t, f, nil)
	tokens, _ := authority()
	for path, want := range map[string]string{
		"/latest/meta-data/instance-type": "Sun, 04 Jan 2026 03:04:05 GMT",
		"/latest/meta-data/instance-id":   "Fri, 02 Jan 2026 03:04:05 GMT",
	} {
		resp := respond(snap, tokens, Hosts{}, parseRequest(t, "GET "+path, nil))
		if got := header(resp, "Last-Modified"); got != want {
			t.Errorf("%s: Last-Modified %q, want %q", path, got, want)
		}
	}
}

package imds

import (
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	instanceID = "i-0a1b2c3d4e5f67890"
	userData   = "#!/bin/sh\necho \x00\xff\n"
	openSSHKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA deploy"
)

var (
	stated = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	now    = time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
)

func value(text string) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: stated, Origin: tree.Origin{Place: "fixture.toml:1"}}
}

func values(m map[string]string) map[string]tree.Value {
	out := map[string]tree.Value{}
	for k, v := range m {
		out[k] = value(v)
	}
	return out
}

// fixture is an instance with values of every kind.
func fixture() *build.Fragment {
	const mac = "meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/"
	return &build.Fragment{
		Leaves: values(map[string]string{
			"meta-data/instance-id":                 instanceID,
			"meta-data/instance-type":               "m5.large",
			"meta-data/ami-id":                      "ami-0abcdef1234567890",
			"meta-data/local-ipv4":                  "10.0.12.34",
			"meta-data/public-ipv4":                 "203.0.113.25",
			"meta-data/mac":                         "02:29:96:8f:6a:2d",
			"meta-data/placement/availability-zone": "eu-west-1b",
			"meta-data/security-groups":             "web\nssh",
			mac + "subnet-id":                       "subnet-0123456789abcdef0",
			"user-data":                             userData,
		}),
		PublicKeys: []build.PublicKey{
			{Name: "my-key-name", Key: value(openSSHKey)},
			{Name: "ops,e", Key: value(openSSHKey)},
		},
		Tags: values(map[string]string{"Name": "web-1", "Environment": "", "a:b": "x/y z"}),
		Role: &build.Role{
			Name: "web-role", AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "secret", Token: "session",
			Expiration: now.Add(time.Hour), Mtime: stated, Origin: tree.Origin{Place: "fixture.toml:1"},
		},
		IdentityRole: &build.Role{
			AccessKeyID: "ASIAIOSFODNN7EXAMPL2", SecretAccessKey: "secret", Token: "session",
			Expiration: now.Add(time.Hour), Mtime: stated, Origin: tree.Origin{Place: "fixture.toml:1"},
		},
	}
}

// snapshot builds f with metadata options such as {"http-tokens": "required"}.
func snapshot(t testing.TB, f *build.Fragment, options map[string]string) *build.Snapshot {
	t.Helper()
	f.Options = values(options)
	s, err := build.Build(nil, build.Env{Now: now, LaunchTime: stated}, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func authority() (*token.Authority, *clock.Manual) {
	clock := clock.NewManual(now)
	return token.New([32]byte{7}, clock), clock
}

// respond answers one request from a snapshot that is not rendered yet.
func respond(snap *build.Snapshot, tokens *token.Authority, hosts Hosts, req *Request) Response {
	var answers *Answers
	if snap != nil {
		answers = NewAnswers(snap)
	}
	return (&Service{Tokens: tokens, Hosts: hosts}).Respond(answers, now, req)
}

func header(r Response, name string) string {
	for _, h := range r.lines {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// A headerLine is one line of the headers of an answer.
type headerLine struct{ Name, Value string }

// lines yields what AppendHead writes, line by line.
func (r *Response) lines(yield func(int, headerLine) bool) {
	_, rest, _ := strings.Cut(string(r.AppendHead(nil)), "\r\n")
	for i := 0; ; i++ {
		var line string
		if line, rest, _ = strings.Cut(rest, "\r\n"); line == "" {
			return
		}
		name, value, _ := strings.Cut(line, ": ")
		if !yield(i, headerLine{name, value}) {
			return
		}
	}
}

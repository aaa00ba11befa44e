package tomlfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUnknownKeys(t *testing.T) {
	wantFaults(t, `
plattform = 1
metadata = {}
[Instance]
[instance]
account_id = "123456789012"
http-tokens = "required"
mode = "0440"
zzzzzz = 1
x.y = 1
[metadata-options]
http-token = "required"
[credentials.r]
type = "static"
access-key-id = "k"
access-key = "k"
secret-access-key = "k"
token = "k"
[[access]]
path = "/"
user = "root"
group = 0
[server]
sorces = ["file"]
`,
		faultWant{2, "plattform", "metadata belongs in [meta-data]; the keys here are instance, meta-data"},
		faultWant{3, "metadata", "did you mean meta-data?"},
		faultWant{4, "Instance", "did you mean instance?"},
		faultWant{6, "instance.account_id", "did you mean account-id?"},
		faultWant{7, "instance.http-tokens", "it belongs in [metadata-options]"},
		faultWant{8, "instance.mode", "it belongs in [[access]]"},
		faultWant{9, "instance.zzzzzz", "the keys here are platform, account-id"},
		faultWant{10, "instance.x", "the keys here are platform"},
		faultWant{12, "metadata-options.http-token", "did you mean http-tokens?"},
		faultWant{16, "credentials.r.access-key", "did you mean access-key-id?"},
		faultWant{21, "access.user", "unknown key"},
		faultWant{24, "server.sorces", "did you mean sources?"},
	)
}

var traps = map[string]struct {
	text string
	want []faultWant
}{
	"user-data after a table header": {
		"[meta-data]\nuser-data = 'x'\n[dynamic]\nuser-data-file = 'x'\n[server]\nuser-data-base64 = 'x'\n[public-keys]\nuser-data = 'x'\n[credentials]\nuser-data = 'x'\n",
		[]faultWant{
			{2, "meta-data.user-data", "user-data is inside [meta-data] (move it above the first table header)"},
			{4, "dynamic.user-data-file", "user-data-file is inside [dynamic]"},
			{6, "server.user-data-base64", "user-data-base64 is inside [server]"},
			{8, "public-keys.user-data", "user-data is inside [public-keys]"},
			{10, "credentials.user-data", "user-data is inside [credentials]"},
		},
	},
	"user-data after a role's or a rule's header": {
		"[[access]]\npath = '/'\ngroup = 0\nuser-data = 'x'\n[identity-credentials]\ntype='static'\naccess-key-id='k'\nsecret-access-key='k'\ntoken='k'\nuser-data = 'x'\n",
		[]faultWant{
			{4, "access.user-data", "user-data is inside [access]"},
			{10, "identity-credentials.user-data", "user-data is inside [identity-credentials]"},
		},
	},
	"unquoted dots": {
		"[tags]\naws.cloudformation.stack = 's'\n[tags.other]\n[public-keys]\nmy.key = 'ssh-rsa A'\n[credentials.my.role]\ntype = 'static'\n",
		[]faultWant{
			{2, "tags.aws.cloudformation.stack", `quote keys that hold a dot: "aws.cloudformation.stack"`},
			{3, "tags.other", "quote keys that hold a dot"},
			{5, "public-keys.my.key", `quote keys that hold a dot: "my.key"`},
			{6, "credentials.my.role", `quote a role name that holds a dot: "my.role"`},
		},
	},
	"what has a table of its own": {
		"[meta-data]\ntags.instance.Name = 'x'\n[meta-data.public-keys]\nk = 'ssh-rsa A'\n",
		[]faultWant{
			{2, "meta-data.tags", "put it into [tags]"},
			{3, "meta-data.public-keys", "put it into [public-keys]"},
		},
	},
	"names that no file can have": {
		"[meta-data]\n'' = 1\n'.' = 1\n'..' = 1\n'a/b' = 1\n\"a\\nb\" = 1\n\"a\\u0000b\" = 1\n" + strings.Repeat("n", 256) + " = 1\n" + strings.Repeat("n", 255) + " = 1\n",
		[]faultWant{
			{2, `meta-data.""`, "must not be empty"}, {3, `meta-data."."`, "must not be"}, {4, `meta-data.".."`, "must not be"},
			{5, `meta-data."a/b"`, "write a path with dots"}, {6, `meta-data."a\nb"`, "newline"}, {7, `meta-data."a\u0000b"`, "NUL"},
			{8, "meta-data." + strings.Repeat("n", 256), "longer than 255 bytes"},
		},
	},
	"arrays that have no form": {
		"[meta-data]\na = [1, [2]]\nb = [\n  { c = 1 },\n  2,\n]\n[[meta-data.d]]\ne = 1\n[meta-data.f]\ng = [inf]\n",
		[]faultWant{
			{2, "meta-data.a", "an array is one value a line"}, {4, "meta-data.b", "an array is one value a line"},
			{7, "meta-data.d", "a directory is a plain table: [meta-data.d]"}, {10, "meta-data.f.g", "finite"},
		},
	},
	"tables where EC2 has a document": {
		"[meta-data.spot.instance-action]\naction = 'stop'\n[[meta-data.events.maintenance.scheduled]]\nCode = 'system-reboot'\n[meta-data.iam.security-credentials]\nweb = { Code = 'Success' }\n" +
			"[meta-data.events]\nmaintenance.history = [ { Code = 'x' } ]\nrecommendations = { rebalance = { noticeTime = 'x' } }\n",
		[]faultWant{
			{1, "meta-data.spot.instance-action", `write it as text: instance-action = '''{"action": "stop", "time": "2026-01-05T18:02:00Z"}'''`},
			{3, "meta-data.events.maintenance.scheduled", `scheduled = '''[ {"NotBefore"`},
			{6, "meta-data.iam.security-credentials.web", `"AccessKeyId"`},
			{8, "meta-data.events.maintenance.history", "one JSON document"}, {9, "meta-data.events.recommendations.rebalance", "noticeTime"},
		},
	},
	"settings of the document": {
		"[instance]\narchitecture = 'arm64_linux'\nkernel-id = ''\nramdisk-id = 1\nbilling-products = 'bp-1'\nmarketplace-product-codes = ['a', 'a', 'b\\n', \"c\\nd\"]\n",
		[]faultWant{
			{2, "instance.architecture", `"x86_64_mac" or "arm64_mac"`}, {3, "instance.kernel-id", "one line"}, {4, "instance.ramdisk-id", "must be a string"},
			{5, "instance.billing-products", "must be an array"}, {6, "instance.marketplace-product-codes", "given twice"}, {6, "instance.marketplace-product-codes", "one line"},
		},
	},
	"MAC addresses": {
		"[meta-data.network.interfaces.macs]\n06-2B-3C-4D-5E-6F.x = 1\n'062b.3c4d.5e6f'.x = 1\neth0.x = 1\n\"06:2b:3c:4d:5e:6f\".x = 1\n\"06:2B:3C:4D:5E:6F\".x = 1\n\"06:2b:3c:4d:5e:70\" = 1\n\"06:2b:3c:4d:5e:6f:70:71\".x = 1\n",
		[]faultWant{
			{2, "meta-data.network.interfaces.macs.06-2B-3C-4D-5E-6F", `"06:2b:3c:4d:5e:6f"`},
			{3, `meta-data.network.interfaces.macs."062b.3c4d.5e6f"`, `"06:2b:3c:4d:5e:6f"`},
			{4, "meta-data.network.interfaces.macs.eth0", "not a MAC"},
			{6, `meta-data.network.interfaces.macs."06:2B:3C:4D:5E:6F"`, "line 5"},
			{7, `meta-data.network.interfaces.macs."06:2b:3c:4d:5e:70"`, "must be a table"},
			{8, `meta-data.network.interfaces.macs."06:2b:3c:4d:5e:6f:70:71"`, "not a MAC"},
		},
	},
	"tables that are none": {
		"instance = 1\nmeta-data = [1]\ndynamic = ''\npublic-keys = 1\ntags = 1\nmetadata-options = 1\ncredentials = 1\nidentity-credentials = 1\naccess = {}\nserver = 1\n",
		[]faultWant{
			{1, "instance", "must be a table (write [instance] and its keys below)"}, {2, "meta-data", "must be a table"}, {3, "dynamic", "must be a table"},
			{4, "public-keys", "must be a table"}, {5, "tags", "must be a table"}, {6, "metadata-options", "must be a table"}, {7, "credentials", "must be a table"},
			{8, "identity-credentials", "must be a table"}, {9, "access", "write [[access]]"}, {10, "server", "must be a table"},
		},
	},
}

func TestTraps(t *testing.T) {
	for name, c := range traps {
		t.Run(name, func(t *testing.T) { wantFaults(t, c.text, c.want...) })
	}
}

func TestUserDataThatIsALeafOrATagIsAWarning(t *testing.T) {
	f, err := decode("web-1.toml", "[tags]\nuser-data = 'x'\n[meta-data.network]\nuser-data = 'y'\n", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "web-1.toml", f.Fragment.Warnings, []faultWant{
		{2, "tags.user-data", "above the first table header"},
		{4, "meta-data.network.user-data", "above the first table header"},
	})
	if string(f.Fragment.Tags["user-data"].Bytes) != "x" || string(f.Fragment.Leaves["meta-data/network/user-data"].Bytes) != "y" {
		t.Error("the tag or the leaf is not there")
	}
}

func TestWrongValues(t *testing.T) {
	tests := map[string]struct{ text, key, want string }{
		"platform":                 {"[instance]\nplatform = 'vax'", "instance.platform", `specify "ec2" or "snowball"`},
		"platform's type":          {"[instance]\nplatform = 1", "instance.platform", "must be a string"},
		"architecture":             {"[instance]\narchitecture = 'amd64'", "instance.architecture", `"x86_64", "arm64", "i386", "x86_64_mac" or "arm64_mac"`},
		"hostname-type":            {"[instance]\nhostname-type = 'ip'", "instance.hostname-type", `"ip-name" or "resource-name"`},
		"imds-support":             {"[instance]\nimds-support = '2.0'", "instance.imds-support", `specify "v2.0"`},
		"account-id unquoted":      {"[instance]\naccount-id = 123456789012", "instance.account-id", "put it in quotes"},
		"account-id":               {"[instance]\naccount-id = '1234567890123'", "instance.account-id", "12 digits"},
		"launch-time":              {"[instance]\nlaunch-time = 'yesterday'", "instance.launch-time", "2026-01-01T00:00:00Z"},
		"launch-time without zone": {"[instance]\nlaunch-time = 2026-01-01T00:00:00", "instance.launch-time", "no zone"},
		"launch-time, date":        {"[instance]\nlaunch-time = 2026-01-01", "instance.launch-time", "no zone"},
		"launch-time out of range": {"[instance]\nlaunch-time = 0001-01-01T00:00:00+01:00", "instance.launch-time", "out of range"},
		"versions, none":           {"[instance]\nversions = []", "instance.versions", "holds no version"},
		"versions, no array":       {"[instance]\nversions = '1.0'", "instance.versions", "must be an array"},
		"versions, no date":        {"[instance]\nversions = ['2021-02-30']", "instance.versions", "not an EC2 version"},
		"versions, latest":         {"[instance]\nversions = ['latest']", "instance.versions", "not an EC2 version"},
		"versions, twice":          {"[instance]\nversions = ['1.0', 1.0]", "instance.versions", "given twice"},
		"leaf without zone":        {"[meta-data]\nx = 2026-01-01T00:00:00", "meta-data.x", "no zone"},
		"leaf, not finite":         {"[meta-data]\nx = nan", "meta-data.x", "finite"},
		"key pair's name":          {"[public-keys]\n'a/b' = 'ssh-rsa A'", `public-keys."a/b"`, "name of a key pair"},
		"key pair, private":        {"[public-keys]\nk = '-----BEGIN OPENSSH PRIVATE KEY-----'", "public-keys.k", "not an OpenSSH public key"},
		"key pair, two lines":      {"[public-keys]\nk = \"ssh-rsa A\\nssh-rsa B\"", "public-keys.k", "not an OpenSSH public key"},
		"key pair's type":          {"[public-keys]\nk = 1", "public-keys.k", "must be a string"},
		"tag's type":               {"[tags]\nk = 1.10", "tags.k", "put it in quotes"},
		"tag, array":               {"[tags]\nk = ['a']", "tags.k", "put it in quotes"},
		"tag key":                  {"[tags]\n\"a\\nb\" = ''", `tags."a\nb"`, "newline"},
		"hop limit":                {"[metadata-options]\nhttp-put-response-hop-limit = 65", "metadata-options.http-put-response-hop-limit", "from 1 to 64"},
		"hop limit, quoted":        {"[metadata-options]\nhttp-put-response-hop-limit = '1'", "metadata-options.http-put-response-hop-limit", "without quotes"},
		"http-endpoint":            {"[metadata-options]\nhttp-endpoint = true", "metadata-options.http-endpoint", "must be a string"},
		"instance-metadata-tags":   {"[metadata-options]\ninstance-metadata-tags = 'on'", "metadata-options.instance-metadata-tags", "'enabled' or 'disabled'"},
		"lock":                     {"[metadata-options]\nlock = ['http-token']", "metadata-options.lock", "did you mean http-tokens?"},
		"lock, far":                {"[metadata-options]\nlock = ['x']", "metadata-options.lock", "the options are http-endpoint"},
		"lock, twice":              {"[metadata-options]\nlock = ['http-tokens', 'http-tokens']", "metadata-options.lock", "given twice"},
		"access, nothing":          {"[[access]]\npath = '/'", "access", "changes nothing"},
		"access, no path":          {"[[access]]\ngroup = 0", "access.path", "missing"},
		"access, version":          {"[[access]]\ngroup = 0\npath = '/2021-03-23/meta-data'", "access.path", "for every version"},
		"access, another root":     {"[[access]]\ngroup = 0\npath = '/latest/etc'", "access.path", "leads nowhere"},
		"access, dots":             {"[[access]]\ngroup = 0\npath = 'meta-data/../user-data'", "access.path", "not a path"},
		"access, double slash":     {"[[access]]\ngroup = 0\npath = 'meta-data//iam'", "access.path", "not a path"},
		"access, mode integer":     {"[[access]]\nmode = 0o440\npath = '/'", "access.mode", "in quotes"},
		"access, mode decimal":     {"[[access]]\nmode = '0480'\npath = '/'", "access.mode", "not a mode"},
		"access, mode writable":    {"[[access]]\nmode = '0640'\npath = '/'", "access.mode", "read bits"},
		"access, user":             {"[[access]]\nowner = 'no-such-user-here'\npath = '/'", "access.owner", "no such user"},
		"access, group":            {"[[access]]\ngroup = 'no-such-group-here'\npath = '/'", "access.group", "no such group"},
		"access, owner negative":   {"[[access]]\nowner = -1\npath = '/'", "access.owner", "not the number of a user"},
		"access, owner too high":   {"[[access]]\nowner = '4294967295'\npath = '/'", "access.owner", "not the number of a user"},
		"access, owner's type":     {"[[access]]\nowner = true\npath = '/'", "access.owner", "name or number of a user"},
		"listen, twice":            {"[server]\nlisten = [':80', ':80']", "server.listen", "given twice"},
		"listen's type":            {"[server]\nlisten = ':80'", "server.listen", "must be an array"},
		"sources, twice":           {"[server]\nsources = ['file', 'file']", "server.sources", "given twice"},
		"sources, none":            {"[server]\nsources = []", "server.sources", "lists no source"},
		"a text's type":            {"[server]\nmount = 1", "server.mount", "must be a string"},
		"a text, empty":            {"[server]\nstate-dir = ''", "server.state-dir", "is empty"},
		"add-addresses":            {"[server]\nadd-addresses = 'yes'", "server.add-addresses", "must be true or false"},
		"account default":          {"[account-defaults]\nhttp-tokens = 'maybe'", "account-defaults.http-tokens", "a value of 'maybe' is not valid"},
		"account hop limit":        {"[account-defaults]\nhttp-put-response-hop-limit = 0", "account-defaults.http-put-response-hop-limit", "a value of '0' is not valid"},
		"account enforcement":      {"[account-defaults]\nhttp-tokens-enforced = 'required'", "account-defaults.http-tokens-enforced", "a value of 'required' is not valid"},
		"account unknown":          {"[account-defaults]\nhttp-protocol-ipv6 = 'enabled'", "account-defaults.http-protocol-ipv6", "unknown key"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decode("web-1.toml", c.text, time.Time{})
			faults := faultsOf(t, err)
			if len(faults) != 1 || faults[0].Key != c.key || !strings.Contains(faults[0].String(), c.want) {
				t.Errorf("got %v\nwant one of %s: … %s …", faults, c.key, c.want)
			}
		})
	}
}

func TestFaultInAnArrayNamesTheElementsLine(t *testing.T) {
	wantFaults(t, "[server]\nlisten = [\n  ':80',\n  # a comment\n  80,\n]\n[[access]]\npath = '/'\ngroup = 0\n[[access]]\npath = '/'\nmode = '1'\n",
		faultWant{5, "server.listen", "must be a string"},
		faultWant{12, "access.mode", "read bits"})
	wantFaults(t, "access = [\n  { path = '/', group = 0 },\n  { path = '/x',\n    group = 0 },\n  5,\n]\n",
		faultWant{3, "access.path", "leads nowhere"},
		faultWant{5, "access", "must be a table"})
}

func TestUserData(t *testing.T) {
	dir := t.TempDir()
	binary := "\x1f\x8b\x00\xff\r\n\n"
	write(t, filepath.Join(dir, "binary"), binary)
	write(t, filepath.Join(dir, "empty"), "")
	write(t, filepath.Join(dir, "full"), strings.Repeat("x", 16<<10))
	write(t, filepath.Join(dir, "large"), strings.Repeat("x", 16<<10+1))
	full := strings.Repeat("x", 16<<10)
	tests := map[string]struct{ text, want, fault string }{
		"string":            {text: "user-data = \"#!/bin/sh\\n\"", want: "#!/bin/sh\n"},
		"empty is none":     {text: "user-data = ''"},
		"file":              {text: "user-data-file = 'binary'", want: binary},
		"absolute file":     {text: "user-data-file = '" + filepath.Join(dir, "binary") + "'", want: binary},
		"empty file":        {text: "user-data-file = 'empty'"},
		"full file":         {text: "user-data-file = 'full'", want: full},
		"base64":            {text: "user-data-base64 = 'H4sA/w0KCg=='", want: binary},
		"wrapped base64":    {text: "user-data-base64 = '''\nH4sA\n/w0KCg==\n'''", want: binary},
		"empty base64":      {text: "user-data-base64 = ''"},
		"no base64":         {text: "user-data-base64 = 'H4sA_w0KCg=='", fault: "not base64"},
		"unpadded":          {text: "user-data-base64 = 'H4sA/w0KCg'", fault: "not base64"},
		"large":             {text: "user-data = '" + full + "x'", fault: "user-data of 16385 bytes: EC2 takes at most 16384"},
		"full":              {text: "user-data = '" + full + "'", want: full},
		"large file":        {text: "user-data-file = 'large'", fault: "has 16385 bytes: 16384 are allowed"},
		"no file":           {text: "user-data-file = 'none'", fault: "no such file or directory"},
		"directory":         {text: "user-data-file = '.'", fault: "not a regular file"},
		"no name":           {text: "user-data-file = ''", fault: "names no file"},
		"number":            {text: "user-data = 1", fault: "must be a string"},
		"string and base64": {text: "user-data-base64 = ''\nuser-data = 'x'", fault: "keep this or user-data-base64 of line 1"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "web-1.toml")
			write(t, path, c.text)
			f, err := Load(path, nil)
			if c.fault != "" {
				if faults := faultsOf(t, err); len(faults) != 1 || !strings.Contains(faults[0].String(), c.fault) {
					t.Errorf("got %v, want %q", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v, ok := f.Fragment.Leaves["user-data"]
			if string(v.Bytes) != c.want || ok != (c.want != "") {
				t.Errorf("user-data is %q, %v; want %q", v.Bytes, ok, c.want)
			}
		})
	}
}

func TestNamesAreRelativeToTheFileNotToTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc", "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "etc", "script"), "right")
	write(t, filepath.Join(dir, "script"), "wrong")
	write(t, filepath.Join(dir, "etc", "d", "web-1.toml"), "user-data-file = '../script'")
	t.Chdir(dir)
	f, err := Load("etc/d/web-1.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	v := f.Fragment.Leaves["user-data"]
	if string(v.Bytes) != "right" || v.Origin.Place != "etc/d/web-1.toml:1" {
		t.Errorf("user-data is %q of %s", v.Bytes, v.Origin.Place)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(real, "etc/d/web-1.toml"), filepath.Join(real, "etc/script")}
	if strings.Join(f.Refers, " ") != strings.Join(want, " ") {
		t.Errorf("Refers are %q, want %q", f.Refers, want)
	}
}

func TestAccessRules(t *testing.T) {
	f, err := decode("web-1.toml", "[[access]]\npath = ''\nowner = '0'\n[[access]]\npath = '//meta-data/iam//'\nowner = 'root'\ngroup = 'root'\nmode = '444'\n[[access]]\npath = 'user-data'\nmode = '0'\n", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	rules := f.Fragment.Access
	if len(rules) != 3 || rules[0].Path != "" || rules[1].Path != "meta-data/iam" || rules[2].Path != "user-data" {
		t.Fatalf("the rules are %+v", rules)
	}
	if *rules[0].UID != 0 || rules[0].GID != nil || rules[0].Mode != nil {
		t.Errorf("the first rule is %+v", rules[0])
	}
	if *rules[1].UID != 0 || *rules[1].GID != 0 || *rules[1].Mode != 0o444 {
		t.Errorf("the second rule is %+v", rules[1])
	}
	if *rules[2].Mode != 0 {
		t.Errorf("the third rule is %+v", rules[2])
	}
}

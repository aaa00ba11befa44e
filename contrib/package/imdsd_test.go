package packaging

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// imdsd does what systemd-imdsd does with its environment, as of systemd 261, and writes the values that it gets to
// /run/got.
const imdsd = `#!/bin/sh -e
mkdir -p /run/got
ask() { curl -sS --fail --local-port 1-1023 "$@"; }
token=$(ask -X PUT -H "$SYSTEMD_IMDS_REFRESH_HEADER_NAME: 900" "$SYSTEMD_IMDS_TOKEN_URL")
env | sed -n 's/^SYSTEMD_IMDS_KEY_\([A-Z0-9_]*\)=.*/\1/p' | while read -r name; do
	eval "key=\$SYSTEMD_IMDS_KEY_$name"
	ask -H "$SYSTEMD_IMDS_TOKEN_HEADER_NAME: $token" -o "/run/got/$name" "$SYSTEMD_IMDS_DATA_URL$key$SYSTEMD_IMDS_DATA_URL_SUFFIX"
done
`

var assignment = regexp.MustCompile(`(?m)^Environment=(.*)$`)

func TestDropInForSystemdImdsd(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.run(`printf '%s' '
user-data = "#!/bin/sh\necho hello\n"
[meta-data]
hostname = "web-1.example"
public-ipv4 = "192.0.2.7"
ipv6 = "2001:db8::7"
placement.availability-zone = "eu-west-1b"
[public-keys]
deploy = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDc1gjRN5P7dIFSbgTBn9ZQs6dHY4ONfF5UQh3rBqkyX deploy"
' | cat - /etc/imdsfs/imdsfs.toml >/root/new && mv /root/new /etc/imdsfs/imdsfs.toml; systemctl start imdsfs`)
	want := map[string]string{
		"HOSTNAME": "web-1.example", "REGION": "eu-west-1", "ZONE": "eu-west-1b", "IPV4_PUBLIC": "192.0.2.7", "IPV6_PUBLIC": "2001:db8::7",
		"SSH_KEY":  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDc1gjRN5P7dIFSbgTBn9ZQs6dHY4ONfF5UQh3rBqkyX deploy\n",
		"USERDATA": "#!/bin/sh\necho hello\n",
	}
	m.write("/root/imdsd", imdsd)
	m.write("/etc/systemd/system/systemd-imdsd@.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -e /root/imdsd\n")
	// As the file says, except for the place where the package installs it.
	m.run(`mkdir -p /etc/systemd/system/systemd-imdsd@.service.d
cp /usr/share/doc/imdsfs/imdsd.conf /etc/systemd/system/systemd-imdsd@.service.d/imdsfs.conf; systemctl daemon-reload`)
	const unit = "systemd-imdsd@0.service"
	if said := m.run("systemd-analyze verify --man=no " + unit + " 2>&1"); said != "" {
		t.Errorf("systemd-analyze verify says:\n%s", said)
	}
	var assigned []string
	for _, a := range assignment.FindAllStringSubmatch(kit.ReadFile(t, "../systemd/imdsd.conf"), -1) {
		assigned = append(assigned, a[1])
	}
	if got := strings.Fields(m.property(unit, "Environment")); len(assigned) < 12 || !slices.Equal(got, assigned) {
		t.Errorf("the unit has %v, and the file says %v", got, assigned)
	}

	for _, mode := range []string{"optional", "required"} {
		m.run("imdsfs options set http-tokens=" + mode + " >/dev/null; rm -rf /run/got; systemctl start " + unit)
		entries, err := os.ReadDir(m.path("/run/got"))
		if err != nil || len(entries) != len(want) {
			t.Fatalf("with tokens %s it gets %v, %v", mode, entries, err)
		}
		for name, value := range want {
			if got := kit.ReadFile(t, m.path("/run/got/"+name)); got != value {
				t.Errorf("with tokens %s, %s is %q, want %q", mode, name, got, value)
			}
		}
	}
	if code := m.run("curl -sS -o /dev/null -w '%{http_code}' " + endpoint + "/latest/meta-data/hostname"); code != "401" {
		t.Errorf("without a token the answer is %s", code)
	}
}

package tomlfile

import (
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

var userDataKeys = []string{ec2.UserData, "user-data-file", "user-data-base64"}

// schema lists the keys of each table that takes no other keys. "" is the top of the file.
var schema = map[string][]string{
	"": append([]string{"instance", ec2.MetaData, ec2.Dynamic, "public-keys", "tags", "metadata-options", "account-defaults",
		"credentials", "identity-credentials", "access", "server"}, userDataKeys...),
	"instance": {"platform", "account-id", "architecture", "launch-time", "hostname-type", "imds-support", "versions",
		"billing-products", "marketplace-product-codes", "kernel-id", "ramdisk-id"},
	"metadata-options": append([]string{"lock"}, ec2.OptionNames()...),
	"account-defaults": ec2.AccountDefaultNames(),
	"credentials.NAME": {"type", "access-key-id", "access-key-id-file", "access-key-id-env",
		"secret-access-key", "secret-access-key-file", "secret-access-key-env", "token", "token-file", "token-env",
		"expiration", "instance-profile-arn", "instance-profile-id"},
	"access": {"path", "owner", "group", "mode"},
	"server": {"listen", "mount", "runtime-dir", "state-dir", "sources", "allow-from", "hosts",
		"log-level", "log-format", "admin", "metrics", "metrics-allow-from", "vantage", "add-addresses", "keep", "user", "watchdog"},
}

// refuseUnknown makes a fault of every key in t that schema does not list for the table called name.
func (t table) refuseUnknown(name string) {
	for _, n := range t.children() {
		if slices.Contains(schema[name], n.name) {
			continue
		}
		if n.misplacedUserData(t) {
			continue
		}
		_, isTable := n.value.(map[string]any)
		hint := "the keys here are " + strings.Join(schema[name], ", ")
		switch near, home := problem.Nearest(n.name, schema[name]), homeOf(n.name); {
		case home != "" && !isTable:
			hint = "it belongs in " + home
		case near != "":
			hint = "did you mean " + near + "?"
		case name == "" && !isTable:
			hint = "metadata belongs in [meta-data]; " + hint
		}
		n.fault("unknown key", hint)
	}
}

// misplacedUserData makes a fault of a user-data key below a table header, which makes it a key of that table. It reports
// whether it did.
func (n node) misplacedUserData(in table) bool {
	if !slices.Contains(userDataKeys, n.name) {
		return false
	}
	n.fault(n.name+" is inside ["+in.key+"]", "move it above the first table header")
	return true
}

// homeOf returns the header of the only table that has the key. It returns "" if no table or more than one has it.
func homeOf(key string) string {
	var homes []string
	for _, name := range []string{"instance", "metadata-options", "credentials.NAME", "access", "server"} {
		if slices.Contains(schema[name], key) {
			homes = append(homes, name)
		}
	}
	if len(homes) != 1 {
		return ""
	}
	if homes[0] == "access" {
		return "[[access]]"
	}
	return "[" + homes[0] + "]"
}

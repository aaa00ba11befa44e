package build

import (
	"fmt"
	"time"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Fragment holds what one source states. Nil maps and slices state nothing.
type Fragment struct {
	// Leaves maps a path ("meta-data/instance-id", "dynamic/…", "user-data") to its value.
	// Tags, public keys and credentials have fields of their own and do not belong here.
	Leaves map[string]tree.Value
	// Instance holds the keys of [instance] that are single values: "platform", "account-id",
	// "architecture", "launch-time" (RFC 3339), "hostname-type", "imds-support", "kernel-id", "ramdisk-id", and,
	// one a line, "billing-products", "marketplace-product-codes" and "versions".
	Instance map[string]tree.Value
	// Options holds EC2's metadata options by name, as text ("http-tokens" → "required").
	Options map[string]tree.Value
	// AccountDefaults holds the keys of [account-defaults] as text.
	AccountDefaults map[string]tree.Value
	// RunTime marks the fragment of changes made at run time: its Options apply after those of
	// all other fragments, and cannot weaken an option that is locked.
	RunTime bool
	// Removed are paths that do not exist, nor anything below them, even if another source states them.
	Removed []string
	// Lock names the options that may not be weakened at run time.
	Lock []string
	// Tags maps a tag key to its value.
	Tags map[string]tree.Value
	// PublicKeys are the key pairs in the order of their numbers. A later fragment with
	// PublicKeys replaces all of them.
	PublicKeys []PublicKey
	// Role is the instance's IAM role; nil: none. A later fragment's role replaces it.
	Role *Role
	// IdentityRole feeds identity-credentials/ec2; its Name is not used.
	IdentityRole *Role
	// Access holds the rules for owner, group and mode on the FUSE door; later rules win.
	Access []AccessRule
	// Warnings are likely mistakes that the source noticed. They do not stop a build.
	Warnings problem.Faults
}

// A PublicKey is one entry of public-keys/, listed as N=Name.
type PublicKey struct {
	Name string
	Key  tree.Value // the OpenSSH line; a missing final newline is added
}

// A Role is an IAM role and its credentials.
type Role struct {
	Name            string
	AccessKeyID     string
	SecretAccessKey Secret
	Token           Secret
	// Expiration of the credentials; zero: they roll, and expire 6 h after the last refresh.
	Expiration time.Time
	// ProfileARN and ProfileID of the instance profile; "": derived.
	ProfileARN string
	ProfileID  string
	Mtime      time.Time
	Origin     tree.Origin
}

// An AccessRule sets owner, group and mode of Path and everything below it, in every version.
// A nil field changes nothing.
type AccessRule struct {
	Path   string // relative to a version; "" is everything
	UID    *uint32
	GID    *uint32
	Mode   *uint32 // read bits only, 0..0444; a directory gets the search bit with each read bit
	Origin tree.Origin
}

// A Secret is text that no log, error or dump may show: every fmt verb, JSON and TOML print a mask instead.
type Secret string

const mask = "[secret]"

// Reveal returns the text itself, for the leaf that holds it.
func (s Secret) Reveal() string { return string(s) }

// Format implements [fmt.Formatter]: no verb shows the text.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, mask) }

// MarshalText masks the text in JSON and TOML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

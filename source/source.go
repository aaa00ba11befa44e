// Package source turns what is known about one instance into the tree that both doors show.
//
// The data flows one way:
//
//	Source.Load ──▶ Fragment ──▶ Build: merge → derive → check ──▶ *Snapshot ──▶ Door.Publish
//
// A [Source] reads one place (a TOML file, the host) and returns a [Fragment]: what is stated there,
// each value with its [Origin]. [Build] merges fragments (the later wins, leaf by leaf), derives what
// follows from them, fills in documented defaults, checks the invariants and returns an immutable
// [Snapshot]. A [Store] keeps the running snapshot and hands a new one to the doors in their order.
//
// A door walks a snapshot through [View]: a place in the tree as one EC2 version shows it. Listings,
// with all their oddities, are made by [View.Listing]; which version introduced a category stands in
// the table of categories.go.
//
// Paths in this package are relative to a version: "meta-data/instance-id", "dynamic/fws",
// "user-data"; "" is the version's own directory. Only [Snapshot.Find] takes absolute ones
// ("/latest/meta-data/instance-id").
package source

import (
	"context"
	"fmt"
	"time"
)

// A Source is one place that metadata comes from.
type Source interface {
	// Name is the name used in [server] sources: "file", "host".
	Name() string
	// Load reads the place anew. The error may be [Faults]; then a fragment may come with it, of
	// what could be made out, for further faults to be found in.
	Load(context.Context) (*Fragment, error)
}

// An InstanceSource states what belongs to one instance: changes that were made to it at run time. It stands behind
// the sources that tell which instance there is.
type InstanceSource interface {
	Source
	// LoadFor is Load, of what belongs to the instance with this id. "" is an instance without one.
	LoadFor(ctx context.Context, id string) (*Fragment, error)
}

// A Fragment is what one source states. Nil maps and slices state nothing.
type Fragment struct {
	// Leaves maps a path ("meta-data/instance-id", "dynamic/…", "user-data") to its value.
	// Tags, public keys and credentials have fields of their own and do not stand here.
	Leaves map[string]Value
	// Instance holds the keys of [instance] that are single values: "platform", "account-id",
	// "architecture", "launch-time" (RFC 3339), "hostname-type", "imds-support", "kernel-id", "ramdisk-id", and,
	// one a line, "billing-products", "marketplace-product-codes" and "versions".
	Instance map[string]Value
	// Options holds EC2's metadata options by name, as text ("http-tokens" → "required").
	Options map[string]Value
	// AccountDefaults holds the keys of [account-defaults] as text.
	AccountDefaults map[string]Value
	// RunTime marks the fragment of changes made at run time: its Options come after those that
	// every other fragment settles, and no lock lets them weaken one.
	RunTime bool
	// Removed are paths that do not exist, nor anything below them, whoever states them.
	Removed []string
	// Lock names the options that may not be weakened at run time.
	Lock []string
	// Tags maps a tag key to its value.
	Tags map[string]Value
	// PublicKeys are the key pairs in the order of their numbers. A later fragment that has
	// any replaces all.
	PublicKeys []PublicKey
	// Role is the instance's IAM role, nil for none. A later fragment's role replaces it.
	Role *Role
	// IdentityRole feeds identity-credentials/ec2; its Name is not used.
	IdentityRole *Role
	// Access are the rules for owner, group and mode on the FUSE door; later wins.
	Access []AccessRule
	// Warnings are traps that the source noticed and that do not stop it.
	Warnings Faults
}

// A Value is the bytes of one leaf or setting, and where they come from.
type Value struct {
	Bytes  []byte
	Mtime  time.Time // of what stated it: the file's, the boot's
	Origin Origin
}

// A PublicKey is one entry of public-keys/, listed as N=Name.
type PublicKey struct {
	Name string
	Key  Value // the OpenSSH line; its final newline is added if missing
}

// A Role is an IAM role and its credentials.
type Role struct {
	Name            string
	AccessKeyID     string
	SecretAccessKey Secret
	Token           Secret
	// Expiration of the credentials. Zero: rolling, 6 h from the last refresh.
	Expiration time.Time
	// ProfileARN and ProfileID of the instance profile; empty: derived.
	ProfileARN string
	ProfileID  string
	Mtime      time.Time
	Origin     Origin
}

// An AccessRule changes owner, group and mode of Path and all below it, in every version.
// Nil fields leave what is there.
type AccessRule struct {
	Path   string // relative to a version; "" is everything
	UID    *uint32
	GID    *uint32
	Mode   *uint32 // read bits only, 0..0444; a directory gets the search bit with each read bit
	Origin Origin
}

// A Secret is text that no log, error or dump may show: every fmt verb, JSON and TOML print a mask.
type Secret string

const mask = "[secret]"

// Reveal returns the text itself, for the leaf that has to hold it.
func (s Secret) Reveal() string { return string(s) }

// Format implements [fmt.Formatter] so that no verb shows the text.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, mask) }

// MarshalText masks the text in JSON and TOML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// A Door shows snapshots to clients: fs and imds each are one.
type Door interface {
	// Publish makes next what clients see. When it returns no client of this door can get a
	// value of an older snapshot (the FUSE door stops waiting for a kernel that does not
	// answer; see its documentation).
	Publish(next *Snapshot)
}

package build

import (
	"maps"
	"slices"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	textPlain   = "text/plain"
	octetStream = "application/octet-stream"
)

// How EC2's listings differ from a plain list of names (captures; facts §2.2 and §2.3): the versions in "/" and the three
// names in "/VERSION" have no slash at their end. "/VERSION" always lists user-data, even if there is none. public-keys
// lists "0=name" in the order of the numbers.
var (
	topStyle     = tree.Style{Bare: true}
	versionStyle = tree.Style{Bare: true, Always: ec2.UserData}
	keysStyle    = tree.Style{Numbered: true}
)

// assemble makes the snapshot. It shares every node that is the same with prev.
func (b *builder) assemble(prev *Snapshot) *Snapshot {
	s := &Snapshot{
		options: b.options, snowball: b.snowball, settings: b.settings(), warnings: b.warnings, rolled: b.leases.next, refresh: b.leases.refresh,
	}
	var old *tree.Tree
	if prev != nil {
		old = prev.Tree
	}
	s.Tree = tree.New(old, tree.Input{
		Versions: b.versions, Paths: slices.Sorted(maps.Keys(b.leaves)), Leaf: b.leaf, Dir: b.dir, Now: b.env.Now,
		Top: tree.Dir{Attr: tree.Attr{Mode: 0o555, UID: b.env.UID, GID: b.env.GID}, Style: &topStyle},
	})
	s.instance, _ = b.text(idKey)
	return s
}

// leaf returns the leaf at path for the tree.
func (b *builder) leaf(path string) tree.Leaf {
	v := b.leaves[path]
	secret := ec2.IsSecret(path)
	l := tree.Leaf{Value: v.Value, Since: ec2.Since(path), Attr: b.attr(path, secret), ContentType: textPlain, Secret: secret, Expires: v.expires}
	if path == ec2.UserData {
		l.ContentType = octetStream
	}
	if ec2.IsCredential(path) && l.Expires.IsZero() {
		l.Expires = ec2.CredentialsEnd(v.Bytes)
	}
	return l
}

// dir returns the directory at path for the tree.
func (b *builder) dir(path string) tree.Dir {
	d := tree.Dir{Attr: b.attr(path, false)}
	d.Attr.Mode |= d.Attr.Mode >> 2
	switch label := b.labels[path]; {
	case path == "":
		d.Style = &versionStyle
	case path == "meta-data/public-keys":
		d.Style = &keysStyle
	case label != "":
		d.Style = &tree.Style{Label: label}
	}
	return d
}

// attr returns owner, group and mode at path. Only the daemon's user can read a secret, and every user can read the rest,
// unless an access rule says otherwise. The last rule wins.
func (b *builder) attr(path string, secret bool) tree.Attr {
	at := tree.Attr{Mode: 0o444, UID: b.env.UID, GID: b.env.GID}
	if secret {
		at.Mode = 0o400
	}
	for _, r := range b.access {
		if !below(r.Path, path) {
			continue
		}
		if r.Mode != nil {
			at.Mode = *r.Mode & 0o444
		}
		if r.UID != nil {
			at.UID = *r.UID
		}
		if r.GID != nil {
			at.GID = *r.GID
		}
	}
	return at
}

package build

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Bounds of a tree.
const (
	MaxLeaf = 1 << 20  // bytes
	MaxTree = 64 << 20 // bytes, all leaves together
	maxName = 255      // bytes, of one name: NAME_MAX of the mount
)

// check refuses what the tree cannot hold, and warns of likely mistakes.
func (b *builder) check() {
	b.checkAddresses()
	b.checkSlots()
	b.checkIdentity()
	b.checkSettings()
	b.checkTags()
	paths := slices.Sorted(maps.Keys(b.leaves))
	total := 0
	for i, path := range paths {
		l := b.leaves[path]
		total += len(l.Bytes)
		b.checkLeaf(path, l)
		// Paths below this one sort after it, but not always right after it: a path that continues its last
		// name with a byte below '/' comes first.
		for _, other := range paths[i+1:] {
			if !strings.HasPrefix(other, path) {
				break
			}
			if other[len(path)] == '/' {
				b.conflict(path, other)
				break
			}
		}
	}
	if total > MaxTree {
		b.fault(problem.Fault{Place: "the tree", Text: fmt.Sprintf("%d bytes of values, more than the limit of %d", total, MaxTree)})
	}
	for _, r := range b.access {
		if !ec2.IsCategory(r.Path) && !b.isThere(r.Path) {
			b.warn(problem.Fault{Place: r.Origin.Place, Key: r.Origin.Key, Text: "EC2 has no path /latest/" + r.Path + ", and no source states one", Hint: "the rule has no effect"})
		}
		if r.Mode != nil && *r.Mode&0o004 != 0 {
			b.warnWide(r)
		}
	}
	if _, ok := b.leaves["meta-data/instance-id"]; !ok {
		b.warn(problem.Fault{Place: "the tree", Key: "meta-data/instance-id", Text: "no source states the instance id", Hint: "most clients need it"})
	}
}

// isThere reports whether there is a leaf at path or below it.
func (b *builder) isThere(path string) bool {
	for leaf := range b.leaves {
		if below(path, leaf) {
			return true
		}
	}
	return false
}

func (b *builder) checkLeaf(path string, l value) {
	place, key := place(l, path)
	names := strings.Split(path, "/")
	if path != ec2.UserData && (len(names) < 2 || names[0] != ec2.MetaData && names[0] != ec2.Dynamic) {
		b.fault(problem.Fault{Place: place, Key: key, Text: path + " is outside meta-data, dynamic and user-data"})
	}
	for _, name := range names {
		if why := badName(name); why != "" {
			b.fault(problem.Fault{Place: place, Key: key, Text: fmt.Sprintf("the name %.60q %s", name, why)})
		}
	}
	switch size := len(l.Bytes); {
	case path == ec2.UserData && size > ec2.MaxUserData:
		b.fault(problem.Fault{Place: place, Key: key, Text: fmt.Sprintf("%d bytes of user-data, more than EC2's limit of %d", size, ec2.MaxUserData)})
	case size > MaxLeaf:
		b.fault(problem.Fault{Place: place, Key: key, Text: fmt.Sprintf("a value of %d bytes, more than the limit of %d", size, MaxLeaf)})
	}
	if l.Origin.Kind != tree.Stated {
		return
	}
	switch row := ec2.CategoryOf(path); {
	case row == nil:
		hint := "it is served all the same"
		if near := ec2.NearestPath(path); near != "" {
			hint = "did you mean " + near + "? " + hint
		}
		b.warn(problem.Fault{Place: place, Key: key, Text: "EC2 has no path /latest/" + path, Hint: hint})
	case b.snowball && !row.Snowball:
		b.warn(problem.Fault{Place: place, Key: key, Text: "Snowball Edge has no path /latest/" + path, Hint: "it is served all the same"})
	}
	b.checkForm(path, l)
}

// badName says why a name cannot be in a listing and on the mount; "" if it can.
func badName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case name == "." || name == "..":
		return "means a directory"
	case len(name) > maxName:
		return fmt.Sprintf("is longer than %d bytes", maxName)
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsControl(r) }):
		return "contains a slash or a control character"
	}
	return ""
}

func (b *builder) conflict(leafPath, below string) {
	l, m := b.leaves[leafPath], b.leaves[below]
	if l.Origin.Kind != tree.Stated { // show the fault where the user can correct it
		l, m = m, l
		leafPath, below = below, leafPath
	}
	p, key := place(l, leafPath)
	other, _ := place(m, below)
	b.fault(problem.Fault{Place: p, Key: key, Text: fmt.Sprintf("a value cannot also be a directory: %s conflicts with %s (%s)", leafPath, below, other)})
}

// place returns where to look for a fault of a leaf.
func place(l value, path string) (place, key string) {
	if l.Origin.Kind != tree.Stated {
		return "/latest/" + path, l.Origin.String()
	}
	key = l.Origin.Key
	if key == "" {
		key = path
	}
	return l.Origin.Place, key
}

// maxVersions is far more than EC2 has. The inode numbers of the mount can tell that many apart.
const maxVersions = 500

func (b *builder) checkSettings() {
	if n := len(b.versions); n > maxVersions {
		b.fault(faultAt(b.instance["versions"].Value, fmt.Sprintf("%d versions are too many", n), fmt.Sprintf("list %d at most", maxVersions)))
	}
	for _, v := range b.versions {
		if !ec2.ValidVersion(v) {
			b.fault(faultAt(b.instance["versions"].Value, fmt.Sprintf("%.40q is not a version", v), `versions are "1.0" and dates such as "2021-03-23"`))
		}
	}
	if b.snowball {
		for _, o := range ec2.OptionTable() {
			if v, ok := b.launch[o.Name]; ok && o.Snowball != "" && string(v.Bytes) != o.Snowball {
				b.fault(faultAt(v, "on Snowball Edge this is always "+o.Snowball, "leave it out"))
			}
		}
	}
	zone, ok1 := b.text(zoneKey)
	region, ok2 := b.text(regionKey)
	if ok1 && ok2 && !strings.HasPrefix(zone, region) {
		b.warn(faultAt(b.leaves[regionKey].Value, fmt.Sprintf("the zone %s is not in the region %s", zone, region),
			"some clients take the region from the zone"))
	}
}

func (b *builder) checkTags() {
	if !b.options.InstanceMetadataTags {
		if len(b.tags) > 0 {
			first := b.tags[slices.Min(slices.Collect(maps.Keys(b.tags)))]
			b.warn(faultAt(first, "tags are not shown while instance-metadata-tags is disabled",
				`set instance-metadata-tags = "enabled" under [metadata-options] to show them`))
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(b.tags)) {
		if v := b.tags[key]; !ec2.ValidTagKey(key) { // the two backslashes are EC2's
			b.fault(faultAt(v, fmt.Sprintf("'%s' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\\\-_+=,.@:]{1,255}), "+
				"and must not be a reserved name ('.', '..', '_index')", strings.ToValidUTF8(key, "?")), "rename it, or disable instance-metadata-tags"))
		}
	}
}

// warnWide warns of a rule that lets every user read a secret.
func (b *builder) warnWide(r AccessRule) {
	for _, path := range slices.Sorted(maps.Keys(b.leaves)) {
		if ec2.IsSecret(path) && below(r.Path, path) {
			b.warn(problem.Fault{Place: r.Origin.Place, Key: r.Origin.Key, Text: "every user of this machine can read /latest/" + path,
				Hint: "give it a group and mode 0440 instead"})
			return
		}
	}
}

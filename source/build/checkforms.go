package build

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// checkForm warns of a value that does not have EC2's form. It skips what the machine states about itself, which has no
// key: that is not a typing mistake.
func (b *builder) checkForm(path string, l value) {
	f := ec2.FormOf(path)
	if f == nil || l.Origin.Kind != tree.Stated || l.Origin.Key == "" || f.Valid(string(l.Bytes)) {
		return
	}
	what := "this"
	if !ec2.IsSecret(path) && !f.Document {
		what = strconv.Quote(shortened(string(l.Bytes)))
	}
	hint := "EC2 writes " + f.Like
	if f.Costs != "" {
		hint = f.Costs + "; " + hint
	}
	b.warn(faultAt(l.Value, what+" is not "+f.Is, hint))
}

func shortened(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// checkIdentity refuses values that no client could use, and warns if values cannot be derived as they should be.
func (b *builder) checkIdentity() {
	if v, ok := b.value("meta-data/instance-id"); ok && len(v.Bytes) == 0 {
		b.fault(faultAt(v.Value, "the instance id is empty", "leave it out, or state one such as i-0a1b2c3d4e5f67890"))
	}
	if region, ok := b.value(regionKey); ok {
		_, _, known := ec2.PartitionOf(string(region.Bytes))
		_, partition := b.leaves["meta-data/services/partition"]
		_, domain := b.leaves["meta-data/services/domain"]
		if !known && !(partition && domain) {
			b.warn(faultAt(b.statedOf(regionKey, zoneKey), fmt.Sprintf("the region %.60q is in no known partition: services/partition, services/domain and public host names cannot be derived", region.Bytes),
				"state services.partition and services.domain if clients need them"))
		}
	}
	b.checkPrimary()
	b.checkRoles()
}

// statedOf returns the first value at keys that a source states, else the value at the first key.
func (b *builder) statedOf(keys ...string) tree.Value {
	for _, key := range keys {
		if v, ok := b.value(key); ok && v.Origin.Kind == tree.Stated {
			return v.Value
		}
	}
	v, _ := b.value(keys[0])
	return v.Value
}

// checkRoles refuses a second role: clients use the whole listing of roles as the name of one.
func (b *builder) checkRoles() {
	const dir = "meta-data/iam/security-credentials/"
	var roles []string
	for path := range b.leaves {
		if name, ok := strings.CutPrefix(path, dir); ok && !strings.Contains(name, "/") {
			roles = append(roles, name)
		}
	}
	if slices.Sort(roles); len(roles) < 2 {
		return
	}
	first, second := b.leaves[dir+roles[0]].Value, b.leaves[dir+roles[1]].Value
	if second.Origin.Kind != tree.Stated {
		first, second = second, first
	}
	b.fault(faultAt(second, fmt.Sprintf("an instance has one role, and this makes it %d: %s (%s)", len(roles), strings.Join(roles, ", "), first.Origin), "keep one"))
}

package build

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// derive adds the values that follow from stated ones, and the defaults. Stated values always win: a rule only fills a gap.
func (b *builder) derive() {
	b.base = b.env.LaunchTime
	if v, ok := b.value(idKey); ok {
		b.base = v.Mtime
	}
	platform, _ := b.text(platformKey)
	b.snowball = platform == "snowball"
	b.resolveOptions()
	b.interfaces = b.findInterfaces()
	b.expandKeys()
	b.expandTags()
	for i := range ordered {
		b.applyRule(&ordered[i])
	}
	versions, _ := b.text(versionsKey)
	b.versions = slices.Sorted(strings.SplitSeq(versions, "\n"))
	if b.snowball {
		b.cutToSnowball()
	}
}

// A rule fills the gap at one key. If several rules have the same target, the first that applies wins. The order of rules
// with different targets is only for readers: [order] computes the order from their needs.
type rule struct {
	// target is a key. In it, and in needs and uses, "*" stands for each network interface in turn, and "@" for the
	// primary one. A target that ends in a slash is a directory, in which the rule fills several leaves.
	target string
	// needs are the keys that the value follows from. The rule applies only if all of them have values. "stated:KEY" is
	// the value that a source states, not one that another rule makes.
	needs []string
	// uses are keys that the rule reads if they have values.
	uses []string
	// assumes marks the value as a documented default, even if it is computed from others. It is a remark for the user;
	// "-" is no remark.
	assumes string
	// value computes the value. ok is false if there is none after all.
	value func(s *scope) (text string, ok bool)
	// values computes the leaves of a directory by name, each with its origin.
	values func(s *scope) map[string]value
	// fact is the source of the fact that the rule implements.
	fact string
}

// ifStated is the prefix of a need that only a stated value meets.
const ifStated = "stated:"

// A scope is one application of a rule, for one network interface if the rule is about interfaces. Values of keys are read
// through get and need alone, which know what the rule declares: so the order of rules cannot matter.
type scope struct {
	b    *builder
	rule *rule
	mac  string
	from []string // the keys that the value follows from: the rule's needs, unless the rule sets others
}

// key replaces "*" and "@" in a key of the table by this interface and the primary one.
func (s *scope) key(key string) string {
	key = strings.TrimPrefix(key, ifStated)
	if s.mac != "" {
		key = strings.Replace(strings.Replace(key, "macs/*/", "macs/"+s.mac+"/", 1), "macs/@/", "macs/"+s.b.interfaces.primary+"/", 1)
	}
	return key
}

// get returns the value at a key of the table, which the rule has to name among its needs or uses.
func (s *scope) get(key string) (string, bool) {
	if !slices.Contains(s.rule.needs, key) && !slices.Contains(s.rule.uses, key) {
		panic("the rule for " + s.rule.target + " reads " + key + ", and does not declare it")
	}
	return s.b.text(s.key(key))
}

// need returns the value of the rule's need at index i.
func (s *scope) need(i int) string {
	text, _ := s.get(s.rule.needs[i])
	return text
}

// applyRule fills the gap at the rule's target, for each interface if the rule is about each.
func (b *builder) applyRule(r *rule) {
	switch {
	case strings.Contains(r.target, "macs/*/"):
		for _, mac := range b.interfaces.macs {
			b.fill(&scope{b: b, rule: r, mac: mac})
		}
	case r.isAboutPrimary() && b.interfaces.primary == "":
	default:
		b.fill(&scope{b: b, rule: r, mac: b.interfaces.primary})
	}
}

func (r *rule) isAboutPrimary() bool {
	return slices.ContainsFunc(append([]string{r.target}, r.needs...), func(key string) bool { return strings.Contains(key, "macs/@/") })
}

// fill fills the gap at the rule's target in one scope, if all needs of the rule have values.
func (b *builder) fill(s *scope) {
	for _, need := range s.rule.needs {
		key := s.key(need)
		s.from = append(s.from, key)
		v, ok := b.value(key)
		if !ok || v.derived && strings.HasPrefix(need, ifStated) {
			return
		}
	}
	if s.rule.values != nil {
		for name, v := range s.rule.values(s) {
			v.derived = true
			b.put(s.key(s.rule.target)+name, v)
		}
		return
	}
	if text, ok := s.rule.value(s); ok {
		b.put(s.key(s.rule.target), s.made(text))
	}
}

// made returns text as a value derived from the keys in s.from, or as a default.
func (s *scope) made(text string) value {
	v := tree.Value{Bytes: []byte(text), Mtime: s.b.base}
	if s.rule.assumes != "" {
		v.Origin = tree.Origin{Kind: tree.Default, Place: strings.TrimPrefix(s.rule.assumes, "-")}
	} else {
		v.Mtime, v.Origin = s.b.mtime(s.from), tree.Origin{Kind: tree.Derived, From: s.from}
	}
	return value{Value: v, derived: true}
}

// mtime returns the latest mtime of the values at keys.
func (b *builder) mtime(keys []string) time.Time {
	latest := time.Time{}
	for _, k := range keys {
		if v, ok := b.value(k); ok && v.Mtime.After(latest) {
			latest = v.Mtime
		}
	}
	if latest.IsZero() {
		return b.base
	}
	return latest
}

// expandKeys gives each key pair its directory.
func (b *builder) expandKeys() {
	for i, k := range b.keys {
		dir := fmt.Sprintf("meta-data/public-keys/%d", i)
		v := k.Key
		v.Bytes = []byte(strings.TrimRight(string(v.Bytes), "\n") + "\n")
		b.put(dir+"/openssh-key", value{Value: v})
		b.labels[dir] = fmt.Sprintf("%d=%s", i, k.Name)
	}
}

// expandTags adds the tags to the tree, if instance-metadata-tags is enabled.
func (b *builder) expandTags() {
	if !b.options.InstanceMetadataTags {
		return
	}
	for key, v := range b.tags {
		b.put(ec2.TagPath(key), value{Value: v})
	}
}

// cutToSnowball removes derived values and defaults that Snowball Edge does not have.
func (b *builder) cutToSnowball() {
	for path, v := range b.leaves {
		if row := ec2.CategoryOf(path); v.Origin.Kind != tree.Stated && (row == nil || !row.Snowball) {
			delete(b.leaves, path)
		}
	}
}

package build

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// derive adds what follows from what is stated, and the defaults. What is stated always wins: a rule only fills a gap.
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

// A rule fills the gap at one key: of several with one target, the first that applies. The order in which rules with
// different targets stand in the table is only for people: [order] makes one out of what they need.
type rule struct {
	// target is a key. In it, and in needs and uses, "*" stands for each network interface in turn, and "@" for the
	// primary one; a target that ends in a slash is a directory, where the rule fills several leaves.
	target string
	// needs are the keys that the value follows from: without one of them the rule does not apply. "stated:KEY" is what
	// a source states there, not what other rules make of it.
	needs []string
	// uses are keys that are read if there is anything.
	uses []string
	// assumes is the remark for a value that is a documented default, although it may be made of others. "-" is none.
	assumes string
	// value computes the value; ok is false if there is none after all.
	value func(s *scope) (text string, ok bool)
	// values computes the leaves of a directory by their names, each with its origin.
	values func(s *scope) map[string]value
	// fact is the source of the fact.
	fact string
}

const given = "stated:"

// A scope is what a rule sees: the values of its needs and uses, for one network interface if it is about one.
type scope struct {
	*builder
	rule *rule
	mac  string
	from []string // the keys that the value follows from: the rule's needs, unless it says others
}

// key is a key of the table, for this interface.
func (s *scope) key(key string) string {
	key = strings.TrimPrefix(key, given)
	if s.mac != "" {
		key = strings.Replace(strings.Replace(key, "macs/*/", "macs/"+s.mac+"/", 1), "macs/@/", "macs/"+s.interfaces.primary+"/", 1)
	}
	return key
}

// get is the value at a key of the table.
func (s *scope) get(key string) (string, bool) { return s.text(s.key(key)) }

// need is the value of the rule's need with this number.
func (s *scope) need(i int) string {
	text, _ := s.get(s.rule.needs[i])
	return text
}

// applyRule fills the gaps at a rule's target.
func (b *builder) applyRule(r *rule) {
	switch {
	case strings.Contains(r.target, "macs/*/"):
		for _, mac := range b.interfaces.macs {
			b.fill(&scope{builder: b, rule: r, mac: mac})
		}
	case r.isAboutPrimary() && b.interfaces.primary == "":
	default:
		b.fill(&scope{builder: b, rule: r, mac: b.interfaces.primary})
	}
}

func (r *rule) isAboutPrimary() bool {
	return slices.ContainsFunc(append([]string{r.target}, r.needs...), func(key string) bool { return strings.Contains(key, "macs/@/") })
}

// fill fills the gap at the rule's target in a scope, if all that the rule needs is there.
func (b *builder) fill(s *scope) {
	for _, need := range s.rule.needs {
		key := s.key(need)
		s.from = append(s.from, key)
		v, ok := b.value(key)
		if !ok || v.derived && strings.HasPrefix(need, given) {
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

// made is a value that follows from those at s.from, or is a default.
func (s *scope) made(text string) value {
	v := tree.Value{Bytes: []byte(text), Mtime: s.base}
	if s.rule.assumes != "" {
		v.Origin = tree.Origin{Kind: tree.Default, Place: strings.TrimPrefix(s.rule.assumes, "-")}
	} else {
		v.Mtime, v.Origin = s.mtime(s.from), tree.Origin{Kind: tree.Derived, From: s.from}
	}
	return value{Value: v, derived: true}
}

// mtime is the latest of the values at keys.
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

// expandTags shows the tags, if that is enabled.
func (b *builder) expandTags() {
	if !b.options.InstanceMetadataTags {
		return
	}
	for key, v := range b.tags {
		b.put(ec2.TagPath(key), value{Value: v})
	}
}

// cutToSnowball drops what nobody stated and Snowball Edge does not have.
func (b *builder) cutToSnowball() {
	for path, v := range b.leaves {
		if row := ec2.CategoryOf(path); v.Origin.Kind != tree.Stated && (row == nil || !row.Snowball) {
			delete(b.leaves, path)
		}
	}
}

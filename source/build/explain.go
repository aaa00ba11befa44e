package build

import (
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Origin is where the value at a key comes from: a path relative to a version, or the key of a setting
// ("instance.account-id", "metadata-options.http-tokens"). ok is false if there is no such value.
func (s *Snapshot) Origin(key string) (o tree.Origin, ok bool) {
	if v, found := s.Find("/" + tree.Latest + "/" + key); found && !v.IsDir() {
		return v.Origin(), true
	}
	i := slices.IndexFunc(s.settings, func(x Setting) bool { return x.Key == key })
	if i < 0 {
		return tree.Origin{}, false
	}
	return s.settings[i].Origin, true
}

// Explain follows a value back to what somebody states, or to a default:
//
//	hostname ← local-ipv4 (web-1.toml:7), placement/region ← placement/availability-zone (web-1.toml:9)
//
// Paths below meta-data are given without it. What follows from several others stands in parentheses, unless it is the
// last. ok is false if there is no value at key.
func (s *Snapshot) Explain(key string) (text string, ok bool) {
	if _, ok := s.Origin(key); !ok {
		return "", false
	}
	return s.chain(key, true, map[string]bool{}), true
}

func (s *Snapshot) chain(key string, last bool, seen map[string]bool) string {
	name := shortKey(key)
	o, ok := s.Origin(key)
	switch {
	case !ok || seen[key]: // the directory of an interface
		return name
	case o.Kind != tree.Derived:
		return name + " (" + o.String() + ")"
	}
	seen[key] = true
	defer delete(seen, key)
	var from []string
	for i, k := range o.From {
		from = append(from, s.chain(k, i == len(o.From)-1, seen))
	}
	text := name + " ← " + strings.Join(from, ", ")
	if !last {
		text = "(" + text + ")"
	}
	return text
}

func shortKey(key string) string {
	if rest, ok := strings.CutPrefix(key, ec2.MetaData+"/"); ok {
		return rest
	}
	return key
}

// Fact is the source of the rule that has made the value at key: `EC2 user guide, "Regions and Zones"`, or where it was
// captured. It is "" for what somebody states, and for defaults without a source.
func (s *Snapshot) Fact(key string) string {
	o, ok := s.Origin(key)
	if !ok || o.Kind == tree.Stated {
		return ""
	}
	from := make([]string, len(o.From))
	for i, k := range o.From {
		from[i] = pattern(k)
	}
	key = pattern(key)
	for i := range ordered {
		r := &ordered[i]
		if target := node(r.target); target != key && !(strings.HasSuffix(target, "/") && strings.HasPrefix(key, target)) {
			continue
		}
		var needs []string
		for _, need := range r.needs {
			needs = append(needs, node(strings.TrimPrefix(need, given)))
		}
		isDefault := o.Kind == tree.Default
		if isDefault == (r.assumes != "") && (isDefault || needs == nil || slices.Equal(needs, from)) {
			return r.fact
		}
	}
	return ""
}

// pattern is a key as the table of rules has it.
func pattern(key string) string {
	if rest, ok := strings.CutPrefix(key, macsPath); ok {
		if _, below, ok := strings.Cut(rest, "/"); ok {
			return each + below
		}
	}
	return key
}

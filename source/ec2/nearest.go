package ec2

import (
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
)

// NearestPath is the path of EC2 that somebody may have meant by one that EC2 does not have, both relative to a
// version: "meta-data/instanceid" gives "meta-data/instance-id", "meta-data/region" gives "meta-data/placement/region".
// It is "" if none is near.
func NearestPath(path string) string {
	if IsCategory(path) {
		return ""
	}
	names := strings.Split(path, "/")
	if near := catalogRoot.nearest(names); near != nil {
		return strings.Join(near, "/")
	}
	if names[0] == MetaData { // where "user_data" and "metadata/mac" are taken to lie
		if near := catalogRoot.nearest(names[1:]); near != nil {
			return strings.Join(near, "/")
		}
	}
	// A name below the wrong directory.
	found := ""
	for i := range categories {
		known := categories[i].Path
		if last := known[strings.LastIndex(known, "/")+1:]; last == names[len(names)-1] && !strings.Contains(known, "*") {
			if found != "" {
				return ""
			}
			found = known
		}
	}
	return found
}

// nearest is what names could mean below c, nil if nothing is near.
func (c *catalog) nearest(names []string) []string {
	if len(names) == 0 || c == nil {
		return nil
	}
	name := names[0]
	if c.next["*"] == nil && c.next[name] == nil {
		known := make([]string, 0, len(c.next))
		for n := range c.next {
			known = append(known, n)
		}
		slices.Sort(known) // of two that are as near, the same one each time
		if name = problem.Nearest(name, known); name == "" {
			return nil
		}
	}
	if len(names) == 1 {
		return []string{name}
	}
	rest := c.child(name).nearest(names[1:])
	if rest == nil {
		return nil
	}
	return append([]string{name}, rest...)
}

package ec2

import (
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
)

// NearestPath returns the EC2 path that the user may have meant by a path that EC2 does not have, both relative to a
// version: "meta-data/instanceid" gives "meta-data/instance-id", "meta-data/region" gives "meta-data/placement/region". It
// returns "" if none is close.
func NearestPath(path string) string {
	if IsCategory(path) {
		return ""
	}
	names := strings.Split(path, "/")
	if near := catalogRoot.nearest(names); near != nil {
		return strings.Join(near, "/")
	}
	if names[0] == MetaData { // Absolute puts "user_data" and "metadata/mac" there
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

// nearest returns the names below c that the user may have meant by names; nil if none are close.
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
		slices.Sort(known) // so that a tie always gives the same name
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

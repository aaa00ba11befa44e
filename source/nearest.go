package source

import (
	"slices"
	"strings"
)

// Nearest is the known name that a typing mistake could have turned into name, "" if all are too far. Upper and lower
// case count as one.
func Nearest(name string, known []string) string {
	best, least := "", 0
	for _, k := range known {
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d <= 1+len(k)/4 && d < len(k) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, drop or replace that turns a into b (Levenshtein).
func distance(a, b string) int {
	const far = 256
	if len(a) > far || len(b) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

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
		known := categories[i].path
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
		if name = Nearest(name, known); name == "" {
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

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	shortForm     = "/" + tree.Latest + "/" + ec2.MetaData + "/" // may be left out
	maxNearDepth  = 12                                           // names of a path that is searched for
	maxNearListed = 1000                                         // names of a directory that are compared
)

// noSuch says that the service has nothing at path, which somebody typed as typed, and what may be meant.
func (c *client) noSuch(ctx context.Context, typed, path string) error {
	hint := ""
	if near := c.near(ctx, path); near != "" {
		if !strings.HasPrefix(typed, "/") {
			near = shortPath(near)
		}
		hint = didYouMean(printable(near))
	}
	err := fmt.Errorf("%s: %w", printable(path), errNotFound)
	if c.fallback {
		err = fmt.Errorf("%w at %s; no imdsfs daemon listens here", err, c.base)
		hint = strings.TrimPrefix(hint+"; "+hintNoDaemon, "; ")
	}
	return problem.No(hint, err)
}

// shortPath is an absolute path as somebody would type it.
func shortPath(path string) string {
	if rest, ok := strings.CutPrefix(path, shortForm); ok && rest != "" {
		return rest
	}
	return strings.TrimPrefix(path, "/"+tree.Latest+"/")
}

// near is the path nearest to one that the service does not have; "" if none is near. It is one that the service has.
func (c *client) near(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for _, candidate := range meantBy(path) {
		if near := c.correct(ctx, candidate); near != "" && near != path {
			return near
		}
	}
	return ""
}

// meantBy are the paths that somebody can mean by one that does not exist: with a mistake in a name, a path of the
// mount (/run/metadata/latest/…), one below another directory than it says.
func meantBy(path string) []string {
	names := namesOf(path)
	candidates := []treePath{names}
	for i := len(names) - 1; i > 0; i-- {
		if names[i] == tree.Latest || ec2.ValidVersion(names[i]) {
			candidates = append(candidates, names[i:])
		}
	}
	if len(names) > 0 && (names[0] == tree.Latest || ec2.ValidVersion(names[0])) {
		names = names[1:]
	}
	relative := strings.Join(names, "/")
	if relative != "" {
		candidates = append(candidates, namesOf(ec2.Absolute(relative)), namesOf("/"+tree.Latest+"/"+relative))
	}
	if below, err := ec2.InEveryVersion(relative); err == nil {
		if near := ec2.NearestPath(below); near != "" {
			candidates = append(candidates, namesOf("/"+tree.Latest+"/"+near))
		}
	}
	var paths []string
	for _, c := range candidates {
		if p := c.path(false); len(c) > 0 && len(c) <= maxNearDepth && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

func namesOf(path string) treePath {
	return treePath(strings.FieldsFunc(path, func(r rune) bool { return r == '/' }))
}

// correct walks to path and takes the nearest listed name for each that is not listed; "" if there is none.
func (c *client) correct(ctx context.Context, path string) string {
	var at treePath
	dir := true
	for _, name := range namesOf(path) {
		if !dir {
			return ""
		}
		body, err := c.get(ctx, at.path(true))
		if err != nil {
			return ""
		}
		entries, err := parseListing(at, string(body))
		if err != nil {
			return ""
		}
		names := make([]string, 0, len(entries))
		for _, e := range entries[:min(len(entries), maxNearListed)] {
			names = append(names, e.name)
		}
		if !slices.Contains(names, name) {
			name = problem.Nearest(name, names)
		}
		i := slices.IndexFunc(entries, func(e listed) bool { return e.name == name })
		if i < 0 {
			return ""
		}
		at, dir = at.child(name), entries[i].dir
	}
	if _, err := c.get(ctx, at.path(dir)); err != nil {
		return "" // user-data is listed in any case
	}
	return at.path(dir)
}

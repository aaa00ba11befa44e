package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	shortForm    = "/" + tree.Latest + "/" + ec2.MetaData + "/" // what users may leave out
	maxNearDepth = 12                                           // names in a path to search for
)

// noSuch returns the error of a path that the service does not have, which the user typed as typed, and suggests another path.
func (s *service) noSuch(ctx context.Context, typed, path string) error {
	hint := ""
	if near := s.near(ctx, path); near != "" {
		if !strings.HasPrefix(typed, "/") {
			near = shortPath(near)
		}
		hint = didYouMean(problem.Printable(near))
	}
	err := fmt.Errorf("%s: %w", problem.Printable(path), client.ErrNotFound)
	if s.fallback {
		err = fmt.Errorf("%w at %s; no imdsfs daemon listens here", err, s.client.Endpoint())
		hint = strings.TrimPrefix(hint+"; "+hintNoDaemon, "; ")
	}
	return problem.No(hint, err)
}

// shortPath returns an absolute path as you would type it.
func shortPath(path string) string {
	if rest, ok := strings.CutPrefix(path, shortForm); ok && rest != "" {
		return rest
	}
	return strings.TrimPrefix(path, "/"+tree.Latest+"/")
}

// near returns the path of the service that is nearest to one that it does not have; "" if none is near.
func (s *service) near(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for _, candidate := range meantBy(path) {
		if near := s.client.Correct(ctx, candidate); near != "" && near != path {
			return near
		}
	}
	return ""
}

// meantBy returns the paths that a user may mean by one that does not exist. The user may have misspelled a name, typed a path
// of the mount (/run/metadata/latest/…), or meant another directory.
func meantBy(path string) []string {
	names := client.ParsePath(path)
	candidates := []client.Path{names}
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
		candidates = append(candidates, client.ParsePath(ec2.Absolute(relative)), client.ParsePath("/"+tree.Latest+"/"+relative))
	}
	if below, err := ec2.InEveryVersion(relative); err == nil {
		if near := ec2.NearestPath(below); near != "" {
			candidates = append(candidates, client.ParsePath("/"+tree.Latest+"/"+near))
		}
	}
	var paths []string
	for _, c := range candidates {
		if p := c.String(); len(c) > 0 && len(c) <= maxNearDepth && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

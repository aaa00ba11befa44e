package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Bounds of a walk: the tree comes from outside.
const (
	maxDepth  = 32
	maxPlaces = 100_000

	maxCompared = 1000 // names of a directory that [Client.Correct] compares
)

// A Place is where a walk began, or a place below.
type Place struct {
	Path   Path
	Depth  int    // below where the walk began
	Dir    bool   // the places below a directory follow it
	Key    string // of a directory in public-keys: the name of the key
	Value  []byte // of a file that was fetched
	Absent bool   // the service lists it, and answers 404
}

// Walk yields the place at a path and all below it, a directory before what it holds, in the order of the listings. It
// fetches the values of files that fetch chooses, all if fetch is nil. user-data is fetched in any case, because it is
// listed whether it exists or not; one that does not exist is left out.
//
// An error ends the walk. It is [ErrNotFound] if there is nothing at path.
func (c *Client) Walk(ctx context.Context, path string, fetch func(Path) bool) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		w := walk{client: c, fetch: fetch, yield: yield}
		if err := w.from(ctx, path); err != nil && !errors.Is(err, errEnded) {
			yield(Place{}, err)
		}
	}
}

// errEnded says that the loop over a walk has ended.
var errEnded = errors.New("ended")

type walk struct {
	client *Client
	fetch  func(Path) bool
	yield  func(Place, error) bool
	root   int // names in the path where it began
	places int // yielded
}

func (w *walk) from(ctx context.Context, path string) error {
	at := Place{Path: ParsePath(path)}
	w.root = len(at.Path)
	dir, err := w.isDir(ctx, at.Path, strings.HasSuffix(path, "/"))
	if err != nil {
		return err
	}
	at.Dir = dir
	return w.visit(ctx, at)
}

// isDir reports whether p is a directory: the listing above knows. What is not listed there is one if guess says so.
func (w *walk) isDir(ctx context.Context, p Path, guess bool) (bool, error) {
	if len(p) <= 2 {
		return !p.isUserData(), nil
	}
	entries, err := w.client.List(ctx, p[:len(p)-1])
	for _, e := range entries {
		if e.Name == p[len(p)-1] {
			return e.Dir, nil
		}
	}
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return guess, err
}

// visit yields a place and all below it. The error is [ErrNotFound] if nothing is there, and then nothing is yielded.
func (w *walk) visit(ctx context.Context, at Place) error {
	if at.Dir {
		return w.directory(ctx, at)
	}
	if at.Path.isUserData() || w.fetch == nil || w.fetch(at.Path) {
		var err error
		if at.Value, err = w.client.Get(ctx, at.Path.String()); err != nil {
			return err
		}
	}
	return w.show(at)
}

func (w *walk) directory(ctx context.Context, at Place) error {
	if len(at.Path) > maxDepth {
		return fmt.Errorf("%s: more than %d levels deep", problem.Printable(at.Path.Dir()), maxDepth)
	}
	entries, err := w.client.List(ctx, at.Path)
	if err != nil {
		return err
	}
	if err := w.show(at); err != nil {
		return err
	}
	for _, e := range entries {
		below := Place{Path: at.Path.Child(e.Name), Dir: e.Dir, Key: e.Key}
		err := w.visit(ctx, below)
		if errors.Is(err, ErrNotFound) {
			if below.Path.isUserData() {
				continue
			}
			below.Absent = true
			err = w.show(below)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) show(at Place) error {
	if w.places++; w.places > maxPlaces {
		return fmt.Errorf("more than %d names: walk a part of the tree", maxPlaces)
	}
	at.Depth = len(at.Path) - w.root
	if !w.yield(at, nil) {
		return errEnded
	}
	return nil
}

// Correct walks along a path, takes the nearest listed name for each that is not listed, and returns where it arrives: a
// path that the service has, "" if nothing is near.
func (c *Client) Correct(ctx context.Context, path string) string {
	var at Path
	dir := true
	for _, name := range ParsePath(path) {
		if !dir {
			return ""
		}
		entries, err := c.List(ctx, at)
		if err != nil {
			return ""
		}
		names := make([]string, 0, len(entries))
		for _, e := range entries[:min(len(entries), maxCompared)] {
			names = append(names, e.Name)
		}
		if !slices.Contains(names, name) {
			name = problem.Nearest(name, names)
		}
		i := slices.IndexFunc(entries, func(e Listed) bool { return e.Name == name })
		if i < 0 {
			return ""
		}
		at, dir = at.Child(name), entries[i].Dir
	}
	found := at.String()
	if dir {
		found = at.Dir()
	}
	if _, err := c.Get(ctx, found); err != nil {
		return "" // user-data is listed in any case
	}
	return found
}

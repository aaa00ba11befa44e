package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	bindsLimit = 3 * time.Second // for the lists of mounts of all processes
	maxNamed   = 50              // single-file bind mounts that are printed
)

// fileBinds are the bind mounts of single files of our mount, in the processes that we may look at.
type fileBinds struct {
	Binds []fs.Bind `json:"single-file-binds"`
	// All reports whether we could look at all processes.
	All bool `json:"all-processes-seen"`
}

// findFileBinds asks the daemon which bind mounts are of files. It does not look itself: access to a path in another process's
// mounts, or to a name of our mount that the kernel does not know, can hang. What is bound and no longer in the tree counts as
// a file.
func (f *adminFlags) findFileBinds(ctx context.Context, s *control.Status) fileBinds {
	found := fileBinds{Binds: []fs.Bind{}, All: true}
	if s.Mount == nil {
		return found
	}
	limited, cancel := context.WithTimeout(ctx, bindsLimit)
	defer cancel()
	binds, all, err := fs.Binds(limited, s.PID, s.Mount.Dir)
	if err != nil || len(binds) == 0 {
		// As another user, or from another container, we cannot see the daemon's mounts, and know nothing.
		found.All = all && err == nil
		return found
	}
	asked := struct {
		Paths []string `json:"paths"`
	}{}
	for _, b := range binds {
		asked.Paths = append(asked.Paths, b.Path)
	}
	var answer struct {
		Kinds []string `json:"kinds"`
	}
	if err := f.call(ctx, "POST", "/v1/kinds", asked, &answer); err != nil {
		found.All = false // a daemon of an earlier version
		return found
	}
	found.All = all
	for i, kind := range answer.Kinds[:min(len(answer.Kinds), len(binds))] {
		if kind == control.KindFile || kind == control.KindNone && binds[i].Old {
			found.Binds = append(found.Binds, binds[i])
		}
	}
	return found
}

// print prints one mount on a line.
func (b *fileBinds) print(w io.Writer) error {
	for _, m := range b.Binds[:min(len(b.Binds), maxNamed)] {
		shows := "keeps " + problem.Printable(m.Path) + " as it is now"
		if m.Old {
			shows = "shows " + problem.Printable(m.Path) + " as it was"
		}
		_, err := fmt.Fprintf(w, "single-file bind mount: pid %d (%s) %s %s; bind-mount its directory instead\n", m.PID, problem.Printable(m.Process), problem.Printable(m.Point), shows)
		if err != nil {
			return err
		}
	}
	if more := len(b.Binds) - maxNamed; more > 0 {
		if _, err := fmt.Fprintf(w, "single-file bind mounts: %d more, see imdsfs status --json\n", more); err != nil {
			return err
		}
	}
	if !b.All && privilege.IsRoot() {
		_, err := fmt.Fprintln(w, "single-file bind mounts: not all processes could be looked at")
		return err
	}
	return nil
}

// printStatusJSON prints the daemon's status and what we have found, as one object.
func printStatusJSON(w io.Writer, s *control.Status, binds fileBinds) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		*control.Status
		fileBinds
	}{s, binds})
}

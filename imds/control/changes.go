package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/overlay"
)

// A Changed is one entry of the overlay, without its value, which may be a secret.
type Changed struct {
	Kind    overlay.Kind `json:"kind"`
	Name    string       `json:"name"`
	Removed bool         `json:"removed"`
	Size    int          `json:"size"` // of the value, in bytes
	Time    time.Time    `json:"time"`
	By      string       `json:"by"`
}

// Others are changes that are kept for another instance and have no effect now.
type Others struct {
	Instance string `json:"instance"` // its id, "" if it has none
	Changes  int    `json:"changes"`  // how many
}

// Changes is the body of an answer about the overlay.
type Changes struct {
	Changes   []Changed `json:"changes"`             // in force
	Others    []Others  `json:"others"`              // sorted by id
	Forgotten []Changed `json:"forgotten,omitempty"` // by a reset
	Warnings  []string  `json:"warnings,omitempty"`  // of the change that was asked for, as of a file
}

// ChangesOf lists the entries of an overlay for the instance with this id, by kind and name, and counts those for others.
func ChangesOf(o *overlay.Overlay, id string) Changes {
	list := Changes{Changes: entriesOf(o, id, overlay.Kinds()), Others: []Others{}}
	for _, other := range o.Others(id) {
		list.Others = append(list.Others, Others{other, o.Len(other)})
	}
	return list
}

// entriesOf is never nil: an empty list is [] in JSON.
func entriesOf(o *overlay.Overlay, id string, kinds []overlay.Kind) []Changed {
	list := []Changed{}
	for _, kind := range kinds {
		entries := o.Entries(id, kind)
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			e := entries[name]
			list = append(list, Changed{kind, name, e.Removed, len(e.Value), e.Time, e.By})
		}
	}
	return list
}

func (c *Control) changes() Changes {
	id, ok := c.Store.StatedID()
	if !ok {
		id = c.Store.Snapshot().InstanceID()
	}
	return ChangesOf(c.Overlay, id)
}

// reset forgets what was changed at run time: changes of these kinds, or of all kinds if none is given, for the running
// instance or, if instance is not nil, for the one with that id. It returns what it has forgotten.
//
// Locks of the running instance apply here too: forgetting the change that tightened a locked option would weaken it. They
// do not apply to another instance, which has a file of its own and is not served.
func (c *Control) reset(kinds []overlay.Kind, instance *string, by string) (forgotten []Changed, err error) {
	for _, k := range kinds {
		if !slices.Contains(overlay.Kinds(), k) {
			return nil, refuse(codeInvalidValue, "'%.80s' is no kind of change. The kinds are options, tags and values", k)
		}
	}
	if len(kinds) == 0 {
		kinds = overlay.Kinds()
	}
	_, err = c.change(by, func(d *overlay.Draft, id string, _ overlay.Stamp) error {
		if instance != nil && *instance != id {
			others := c.Overlay.Others(id)
			if !slices.Contains(others, *instance) {
				return refuse(codeInvalidValue, "no changes are kept for instance '%.80s'; %s", *instance, quotedIDs(others))
			}
			id = *instance
		}
		forgotten = entriesOf(c.Overlay, id, kinds)
		for _, k := range kinds {
			d.ResetAll(id, k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return forgotten, nil
}

func quotedIDs(ids []string) string {
	const most = 10
	if len(ids) == 0 {
		return "there are none for any other than the running one"
	}
	text := "there are some for '" + strings.Join(ids[:min(len(ids), most)], "', '") + "'"
	if len(ids) > most {
		text += " and others"
	}
	return text
}

// mostPaths is the number of paths that a [Reloaded] names.
const mostPaths = 20

// Reloaded says what a reload changed, as paths relative to a version, without values. A directory that was added or removed
// stands for everything below it.
type Reloaded struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
	Options []string `json:"options"` // names of the metadata options whose value changed
	More    int      `json:"more"`    // number of paths that are not named
}

// ReloadedBy describes a change, with at most 20 paths.
func ReloadedBy(change build.Change) Reloaded {
	r := Reloaded{Options: append([]string{}, change.Options...)}
	left := mostPaths
	for _, l := range []struct {
		paths []string
		into  *[]string
	}{{tops(change.Added), &r.Added}, {tops(change.Removed), &r.Removed}, {change.Changed, &r.Changed}} {
		n := min(left, len(l.paths))
		*l.into = append([]string{}, l.paths[:n]...)
		left -= n
		r.More += len(l.paths) - n
	}
	return r
}

// tops leaves out paths below another path. A directory comes before what it holds.
func tops(paths []string) []string {
	var kept []string
	for _, p := range paths {
		if n := len(kept); n == 0 || !strings.HasPrefix(p, kept[n-1]+"/") {
			kept = append(kept, p)
		}
	}
	return kept
}

// Texts are the paths with what happened to each: "meta-data/colour added". The last text counts those that are not named.
func (r Reloaded) Texts() []string {
	var texts []string
	for _, l := range []struct {
		paths []string
		what  string
	}{{r.Added, "added"}, {r.Removed, "removed"}, {r.Changed, "changed"}} {
		for _, p := range l.paths {
			texts = append(texts, p+" "+l.what)
		}
	}
	if r.More > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", r.More))
	}
	return texts
}

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

// A Changed is one entry of the overlay; its value is not told, because it may be a secret.
type Changed struct {
	Kind    overlay.Kind `json:"kind"`
	Name    string       `json:"name"`
	Removed bool         `json:"removed"`
	Size    int          `json:"size"` // of the value, in bytes
	Time    time.Time    `json:"time"`
	By      string       `json:"by"`
}

// Others are changes that are kept for another instance, and not in force.
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

// ChangesOf lists what an overlay holds for the instance with this id, by kind and name, and how much for others.
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

// Reset forgets what was changed at run time, of these kinds or, without any, of all: for the running instance, or, if
// instance is not nil, for the one with that id. It returns what it has forgotten.
//
// A lock of the running instance holds here as well: what is locked is not weakened by forgetting what tightened it. It
// says nothing of another instance, which has an input of its own, and is not served.
func (c *Control) Reset(kinds []overlay.Kind, instance *string, by string) (forgotten []Changed, err error) {
	for _, k := range kinds {
		if !slices.Contains(overlay.Kinds(), k) {
			return nil, refuse(CodeInvalidValue, "'%.80s' is no kind of change. The kinds are options, tags and values", k)
		}
	}
	if len(kinds) == 0 {
		kinds = overlay.Kinds()
	}
	_, err = c.change(by, func(d *overlay.Draft, id string, _ overlay.Stamp) error {
		if instance != nil && *instance != id {
			others := c.Overlay.Others(id)
			if !slices.Contains(others, *instance) {
				return refuse(CodeInvalidValue, "no changes are kept for instance '%.80s'; %s", *instance, quotedIDs(others))
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

// MostPaths is how many paths a [Reloaded] names.
const MostPaths = 20

// Reloaded tells what a reload changed, as paths relative to a version, never values. A directory that came or went
// stands for all below it.
type Reloaded struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
	Options []string `json:"options"` // names of the metadata options with another value
	More    int      `json:"more"`    // how many paths are not named
}

// ReloadedBy names at most [MostPaths] paths of a change.
func ReloadedBy(change build.Change) Reloaded {
	r := Reloaded{Options: append([]string{}, change.Options...)}
	left := MostPaths
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

// tops leaves out what lies below another path. Directories come before what they hold.
func tops(paths []string) []string {
	var kept []string
	for _, p := range paths {
		if n := len(kept); n == 0 || !strings.HasPrefix(p, kept[n-1]+"/") {
			kept = append(kept, p)
		}
	}
	return kept
}

// Texts are the paths with what happened to each: "meta-data/colour added". At the end stands how many there are more.
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

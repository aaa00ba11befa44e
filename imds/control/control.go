// Package control is the admin API of a running daemon: it changes metadata options, tags and single values, and shows
// the status.
//
//	imdsfs set ──▶ admin socket ──▶ who is the caller? ──▶ routes ──▶ change ──▶ Store.Update: is the tree valid?
//	                                                                                │
//	answer ◀── published: the mount and HTTP show it ◀── Draft.Commit: on disk ◀────┘
//
//	c := &control.Control{Store: store, Overlay: changes, Clock: clock, …}
//	err := c.Serve(ctx, adminSocket, 0)
//
// A change is checked as a file would be, refused in the words of EC2's API ([Problem]), and written to disk. When it is
// answered the mount and HTTP show it. routes.go lists the requests; control.go and changes.go do the work.
package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Codes of refusals, as in EC2's API (ModifyInstanceMetadataOptions).
const (
	codeInvalidValue       = "InvalidParameterValue"
	codeInvalidCombination = "InvalidParameterCombination"
	codeUnauthorized       = "UnauthorizedOperation"
	codeUnsupported        = "UnsupportedOperation"
)

const maxPath = 4096 // bytes, of a path that is set or unset: PATH_MAX

// A refusal refuses a change.
type refusal struct {
	Code    string
	Message string // holds no secret
}

func (e *refusal) Error() string { return e.Code + ": " + e.Message }

func refuse(code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// Control acts on one running instance. It is safe for concurrent use.
type Control struct {
	Store   *source.Store
	Overlay *overlay.Overlay
	Clock   clock.Clock
	// Reload reads the sources again and returns what changed. The error may be [problem.Faults].
	Reload func(context.Context) (build.Change, error)
	// Upgrade replaces the daemon with another program, given by its absolute path, as soon as it has returned nil. by is
	// the user who asks, root or the daemon's own. Any error is a refusal.
	Upgrade func(ctx context.Context, program string, by uint32) error
	// Status describes the daemon. Control fills in options, changes and the instance.
	Status func() Status

	mu sync.Mutex // one change at a time
}

// An Option is one metadata option in force.
type Option struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "web.toml:31", "set at run time, 2026-…, by uid 0", "default"
	Locked bool   `json:"locked"` // may be tightened, but not weakened
}

// options are all options, sorted by name.
func (c *Control) options() []Option {
	o := c.Store.Snapshot().Options()
	var all []Option
	for _, name := range ec2.OptionNames() {
		all = append(all, Option{name, o.Text(name), o.Origins[name].String(), slices.Contains(o.Lock, name)})
	}
	return all
}

// setOptions changes options by name. Other options stay as they are.
func (c *Control) setOptions(changes map[string]string, by string) error {
	if len(changes) == 0 {
		return refuse(codeInvalidValue, "no option is named. The options are %s", strings.Join(ec2.OptionNames(), ", "))
	}
	_, err := c.change(by, func(d *overlay.Draft, _ string, stamp overlay.Stamp) error {
		current := c.Store.Snapshot()
		want := current.Options().Options
		names := slices.Sorted(maps.Keys(changes))
		for _, name := range names {
			if err := parseOption(&want, name, changes[name]); err != nil {
				return err
			}
			d.Set(overlay.Options, name, []byte(changes[name]), stamp)
		}
		for _, name := range names {
			option := ec2.OptionCalled(name)
			if !want.HTTPEndpoint && option.NeedsEndpoint {
				return refuse(codeInvalidCombination, "The HttpTokens, HttpPutResponseHopLimit and HttpProtocolIpv6 parameters "+
					"are not allowed unless HttpEndpoint is enabled. Specify 'enabled' for HttpEndpoint and try again.")
			}
			if current.IsSnowball() && option.Snowball != "" && option.Text(&want) != option.Snowball {
				return refuse(codeUnsupported, "%s is always %s on Snowball Edge and cannot be changed", option.API, option.Snowball)
			}
		}
		// The tree ignores a locked option that is weaker than the file says, so the new tree would not show it.
		return refuseWeaker(current.Options(), &want)
	})
	return err
}

// parseOption sets one option in o, or refuses the value in EC2's words.
func parseOption(o *ec2.Options, name, value string) error {
	option := ec2.OptionCalled(name)
	if option == nil {
		return refuse(codeInvalidValue, "'%.80s' is not an option. The options are %s", name, strings.Join(ec2.OptionNames(), ", "))
	}
	if option.Set(o, value) != nil {
		return refuse(codeInvalidValue, "A value of '%.80s' is not valid for %s. Specify %s and try again.", value, option.API, option.Allowed())
	}
	return nil
}

// resetOptions forgets what was set at run time; no names mean all.
func (c *Control) resetOptions(names []string, by string) error {
	for _, name := range names {
		if !slices.Contains(ec2.OptionNames(), name) {
			return refuse(codeInvalidValue, "'%.80s' is not an option. The options are %s", name, strings.Join(ec2.OptionNames(), ", "))
		}
	}
	if len(names) == 0 {
		names = ec2.OptionNames()
	}
	_, err := c.change(by, func(d *overlay.Draft, _ string, _ overlay.Stamp) error {
		for _, name := range names {
			d.Reset(overlay.Options, name)
		}
		return nil
	})
	return err
}

// An Action is what happens to a tag or a value.
type Action string

const (
	Set    Action = "set"
	Unset  Action = "unset"  // it does not exist, even if a source states it
	Forget Action = "forget" // what was set or unset at run time is forgotten
)

// changeTag changes the tag with this key. It returns the warnings that a check of a file would give now and not before.
func (c *Control) changeTag(action Action, key string, value []byte, by string) (problem.Faults, error) {
	if key == "" || len(key) > 255 {
		return nil, refuse(codeInvalidValue, "a tag key has 1 to 255 characters")
	}
	var absent problem.Faults
	if c.Store.Snapshot().Options().InstanceMetadataTags { // otherwise no tag shows
		absent = c.absent(action, ec2.TagPath(key))
	}
	warnings, err := c.act(overlay.Tags, action, key, value, by)
	return append(warnings, absent...), err
}

// changeValue changes the value at a path relative to a version: "meta-data/spot/termination-time", "user-data". It returns
// warnings as changeTag does.
func (c *Control) changeValue(action Action, path string, value []byte, by string) (problem.Faults, error) {
	switch {
	case len(path) > maxPath:
		return nil, refuse(codeInvalidValue, "a path of %d bytes is longer than %d", len(path), maxPath)
	case path == ec2.UserData, strings.HasPrefix(path, ec2.MetaData+"/"), strings.HasPrefix(path, ec2.Dynamic+"/"):
	default:
		return nil, refuse(codeInvalidValue, "'%.80s' is no path below meta-data, dynamic or user-data", path)
	}
	if key, ok := strings.CutPrefix(path, ec2.TagPath("")); ok && action != Forget {
		return nil, refuse(codeInvalidValue, "tags are changed by their key. Use imdsfs tag %s '%.80s'", action, key)
	}
	absent := c.absent(action, path)
	warnings, err := c.act(overlay.Values, action, path, value, by)
	return append(warnings, absent...), err
}

func (c *Control) act(kind overlay.Kind, action Action, name string, value []byte, by string) (problem.Faults, error) {
	return c.change(by, func(d *overlay.Draft, _ string, stamp overlay.Stamp) error {
		switch action {
		case Set:
			d.Set(kind, name, value, stamp)
		case Unset:
			d.Remove(kind, name, stamp)
		case Forget:
			d.Reset(kind, name)
		default:
			return refuse(codeInvalidValue, "'%.80s' is no action. The actions are set, unset and forget", action)
		}
		return nil
	})
}

// change makes a draft for the running instance, lets edit change it, and publishes it. edit gets the instance's id. change
// returns the new warnings.
func (c *Control) change(by string, edit func(d *overlay.Draft, id string, stamp overlay.Stamp) error) (problem.Faults, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.Store.Snapshot().Warnings()
	var draft *overlay.Draft
	_, err := c.Store.Update(c.Overlay.Name(), func(id string) (*build.Fragment, error) {
		draft = c.Overlay.Draft(id)
		if err := edit(draft, id, overlay.Stamp{Time: c.Clock.Now(), By: by}); err != nil {
			return nil, err
		}
		return draft.Fragment(), nil
	}, func(next *build.Snapshot) error {
		if err := refuseWeaker(c.Store.Snapshot().Options(), &next.Options().Options); err != nil {
			return err
		}
		return draft.Commit()
	})
	var faults problem.Faults
	if errors.As(err, &faults) {
		texts := make([]string, len(faults))
		for i, f := range faults {
			texts[i] = f.Text
		}
		return nil, refuse(codeInvalidValue, "%s", strings.Join(texts, "; "))
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(c.Store.Snapshot().Warnings()), func(f problem.Fault) bool { return slices.Contains(before, f) }), nil
}

// refuseWeaker enforces the lock, even for root. To weaken a locked option, edit the file.
func refuseWeaker(current *build.Options, next *ec2.Options) error {
	for _, name := range current.Lock {
		option := ec2.OptionCalled(name)
		if was := &current.Options; option != nil && option.Weakens(was, next) {
			return refuse(codeUnauthorized, "%s is locked at '%s': it may be tightened at run time, never weakened. "+
				"To allow '%s', take it out of lock under [metadata-options] and reload", option.API, option.Text(was), option.Text(next))
		}
	}
	return nil
}

func (c *Control) status() Status {
	s := c.Status()
	s.Options = c.options()
	s.Instance = c.Store.Snapshot().InstanceID()
	list := c.changes()
	s.Changes, s.Others = list.Changes, list.Others
	// An empty list is [] in JSON, not null.
	s.Listeners, s.Sources = append([]string{}, s.Listeners...), append([]Source{}, s.Sources...)
	s.Faults, s.Peers = append([]string{}, s.Faults...), append([]Peer{}, s.Peers...)
	if s.Mount != nil && s.Mount.Requests == nil {
		s.Mount.Requests = map[string]uint64{}
	}
	return s
}

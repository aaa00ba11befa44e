// Package control changes and tells what a running daemon does: metadata options, tags and single
// values at run time, and its status.
//
//	c := &control.Control{Store: store, Overlay: changes, Clock: clock, …}
//	err := c.SetOptions(map[string]string{"http-tokens": "required"}, "uid 0")
//	http.Serve(adminSocket, c.Handler())   // the admin API, for the imdsfs commands
//
// A change is checked as a file would be, refused as EC2's API would ([Error]), made durable, and in
// force on both doors when the call returns. The handlers (http.go) only translate.
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
	CodeInvalidValue       = "InvalidParameterValue"
	CodeInvalidCombination = "InvalidParameterCombination"
	CodeUnauthorized       = "UnauthorizedOperation"
	CodeUnsupported        = "UnsupportedOperation"
)

const maxPath = 4096 // bytes, of a path that is set or unset: PATH_MAX

// An Error refuses a change.
type Error struct {
	Code    string
	Message string // holds no secret
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func refuse(code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// Control acts on one running instance. It is safe for concurrent use.
type Control struct {
	Store   *source.Store
	Overlay *overlay.Overlay
	Clock   clock.Clock
	// Reload reads the sources again and tells what changed; the error may be [problem.Faults].
	Reload func(context.Context) (build.Change, error)
	// Upgrade has another program, by its absolute path, take the daemon's place as soon as it has
	// returned nil. by is the user who asks, root or the daemon's own. Any error is a refusal.
	Upgrade func(ctx context.Context, program string, by uint32) error
	// Status describes the daemon; Control fills in what it knows itself.
	Status func() Status

	mu sync.Mutex // one change at a time
}

// An Option is one metadata option in force.
type Option struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "web.toml:31", "set at run time, 2026-…, by uid 0", "default"
	Locked bool   `json:"locked"` // may be tightened, never weakened
}

// Options are all options, sorted by name.
func (c *Control) Options() []Option {
	o := c.Store.Snapshot().Options()
	var all []Option
	for _, name := range ec2.OptionNames() {
		all = append(all, Option{name, o.Text(name), o.Origins[name].String(), slices.Contains(o.Lock, name)})
	}
	return all
}

// apiName is the name of an option in EC2's API: http-tokens is HttpTokens.
func apiName(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "-") {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// SetOptions changes options by name. What is not named stays.
func (c *Control) SetOptions(changes map[string]string, by string) error {
	if len(changes) == 0 {
		return refuse(CodeInvalidValue, "no option is named. The options are %s", strings.Join(ec2.OptionNames(), ", "))
	}
	_, err := c.change(by, func(d *overlay.Draft, _ string, stamp overlay.Stamp) error {
		current := c.Store.Snapshot()
		want := *current.Options()
		names := slices.Sorted(maps.Keys(changes))
		for _, name := range names {
			if err := parseOption(&want, name, changes[name]); err != nil {
				return err
			}
			d.Set(overlay.Options, name, []byte(changes[name]), stamp)
		}
		for _, name := range names {
			if !want.HTTPEndpoint && needsEndpoint(name) {
				return refuse(CodeInvalidCombination, "The HttpTokens, HttpPutResponseHopLimit and HttpProtocolIpv6 parameters "+
					"are not allowed unless HttpEndpoint is enabled. Specify 'enabled' for HttpEndpoint and try again.")
			}
			if fixed, ok := fixedOnSnowball[name]; ok && current.IsSnowball() && want.Text(name) != fixed {
				return refuse(CodeUnsupported, "%s is always %s on Snowball Edge and cannot be changed", apiName(name), fixed)
			}
		}
		// The tree ignores a locked option that is weaker than what the file says, so it cannot tell.
		return refuseWeaker(current.Options(), &want)
	})
	return err
}

// needsEndpoint reports whether EC2 takes the option only while, or together with, HttpEndpoint enabled
// (EC2 user guide, "Configure instance metadata options for existing instances"). Which code it refuses
// with is not documented. Tags are not among them: the mount shows them whatever HTTP does.
func needsEndpoint(name string) bool {
	return name == ec2.OptionHTTPTokens || name == ec2.OptionHopLimit || name == ec2.OptionHTTPProtocolIPv6
}

// fixedOnSnowball are the options that cannot be changed there (Snowball Edge developer guide, "IMDS versions").
var fixedOnSnowball = map[string]string{ec2.OptionHopLimit: "1", ec2.OptionHTTPProtocolIPv6: "disabled"}

// parseOption sets one option in o, or refuses it in EC2's words.
func parseOption(o *build.Options, name, value string) error {
	err := o.Set(name, value)
	if err == nil {
		return nil
	}
	if !slices.Contains(ec2.OptionNames(), name) {
		return refuse(CodeInvalidValue, "'%.80s' is not an option. The options are %s", name, strings.Join(ec2.OptionNames(), ", "))
	}
	allowed := map[string]string{
		ec2.OptionHTTPTokens: "either 'required' or 'optional'",
		ec2.OptionHopLimit:   "a whole number from 1 to 64",
	}[name]
	if allowed == "" {
		allowed = "either 'enabled' or 'disabled'"
	}
	return refuse(CodeInvalidValue, "A value of '%.80s' is not valid for %s. Specify %s and try again.", value, apiName(name), allowed)
}

// ResetOptions forgets what was set at run time; no names mean all.
func (c *Control) ResetOptions(names []string, by string) error {
	for _, name := range names {
		if !slices.Contains(ec2.OptionNames(), name) {
			return refuse(CodeInvalidValue, "'%.80s' is not an option. The options are %s", name, strings.Join(ec2.OptionNames(), ", "))
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
	Unset  Action = "unset"  // it does not exist, whoever else states it
	Forget Action = "forget" // what was set or unset at run time is forgotten
)

// ChangeTag acts on the tag with this key. It returns what a check of a file would warn of, and did not before.
func (c *Control) ChangeTag(action Action, key string, value []byte, by string) (problem.Faults, error) {
	if key == "" || len(key) > 255 {
		return nil, refuse(CodeInvalidValue, "a tag key has 1 to 255 characters")
	}
	var absent problem.Faults
	if c.Store.Snapshot().Options().InstanceMetadataTags { // else nobody sees any
		absent = c.absent(action, ec2.TagPath(key))
	}
	warnings, err := c.act(overlay.Tags, action, key, value, by)
	return append(warnings, absent...), err
}

// ChangeValue acts on a path relative to a version: "meta-data/spot/termination-time", "user-data".
// It returns what a check of a file would warn of, and did not before.
func (c *Control) ChangeValue(action Action, path string, value []byte, by string) (problem.Faults, error) {
	switch {
	case len(path) > maxPath:
		return nil, refuse(CodeInvalidValue, "a path of %d bytes is longer than %d", len(path), maxPath)
	case path == ec2.UserData, strings.HasPrefix(path, ec2.MetaData+"/"), strings.HasPrefix(path, ec2.Dynamic+"/"):
	default:
		return nil, refuse(CodeInvalidValue, "'%.80s' is no path below meta-data, dynamic or user-data", path)
	}
	if key, ok := strings.CutPrefix(path, ec2.TagPath("")); ok && action != Forget {
		return nil, refuse(CodeInvalidValue, "tags are changed by their key. Use imdsfs tag %s '%.80s'", action, key)
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
			return refuse(CodeInvalidValue, "'%.80s' is no action. The actions are set, unset and forget", action)
		}
		return nil
	})
}

// change makes a draft for the running instance, lets edit change it, and brings it into force. edit is told the
// instance's id. It returns the warnings that come with the change.
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
		if err := refuseWeaker(c.Store.Snapshot().Options(), next.Options()); err != nil {
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
		return nil, refuse(CodeInvalidValue, "%s", strings.Join(texts, "; "))
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(c.Store.Snapshot().Warnings()), func(f problem.Fault) bool { return slices.Contains(before, f) }), nil
}

// refuseWeaker enforces the lock, also on root: whoever may weaken an option edits the file.
func refuseWeaker(current, next *build.Options) error {
	for _, name := range current.Lock {
		if current.Weakens(name, next) {
			return refuse(CodeUnauthorized, "%s is locked at '%s': it may be tightened at run time, never weakened. "+
				"To allow '%s', take it out of lock under [metadata-options] and reload", apiName(name), current.Text(name), next.Text(name))
		}
	}
	return nil
}

func (c *Control) status() Status {
	s := c.Status()
	s.Options = c.Options()
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

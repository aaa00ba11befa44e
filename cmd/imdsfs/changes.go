package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// mostListed are the changes made at run time that a person is shown at once; the admin API and status --json list all.
const mostListed = 20

// changeText names a change made at run time, never its value: "option http-tokens, set 2026-03-01T12:00:00Z by uid 0".
func changeText(c control.Changed) string {
	return fmt.Sprintf("%s %s, %s %s by %s", strings.TrimSuffix(string(c.Kind), "s"), printable(c.Name), actionOf(c), c.Time.UTC().Format(time.RFC3339), printable(c.By))
}

func actionOf(c control.Changed) control.Action {
	if c.Removed {
		return control.Unset
	}
	return control.Set
}

// changesText is how many changes there are: "1 change", "2 changes".
func changesText(n int) string {
	if n == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", n)
}

// instanceText names an instance by its id.
func instanceText(id string) string {
	if id == "" {
		return "an instance without an id"
	}
	return printable(id)
}

// resetOf is the command that forgets the changes of another instance.
func resetOf(id string) string { return "imdsfs reset --instance " + safepath.ShellWord(id) }

// noteInstance gives changes of an earlier version to the instance that is served, and logs those that are in force and
// those that are not, once for each instance.
func (p *process) noteInstance() {
	id, ok := p.store.StatedID()
	if !ok {
		return
	}
	if p.overlay.Unowned() {
		log := p.log.WithFields(logrus.Fields{"instance": id, "changes": p.overlay.Len(id)})
		if err := p.overlay.Adopt(p.store); err != nil {
			log.WithError(err).Warn("changes made at run time by an earlier version belong to this instance, and that cannot be kept")
		} else {
			log.Info("changes made at run time by an earlier version belong to this instance from now on")
		}
	}
	if p.instance != nil && *p.instance == id {
		return
	}
	first := p.instance == nil
	p.instance = &id
	list := control.ChangesOf(p.overlay, id)
	for _, c := range list.Changes[:min(len(list.Changes), mostListed)] {
		p.log.WithFields(logrus.Fields{"kind": c.Kind, "name": c.Name, "action": actionOf(c), "at": c.Time.UTC().Format(time.RFC3339), "by": c.By}).Info("changed at run time")
	}
	if more := len(list.Changes) - mostListed; more > 0 {
		p.log.WithField("more", more).Info("more was changed at run time: see all of it with imdsfs status --json")
	}
	level := logrus.WarnLevel // what was in force a moment ago may be among them
	if first {
		level = logrus.InfoLevel
	}
	for _, other := range list.Others[:min(len(list.Others), mostListed)] {
		options := slices.Sorted(maps.Keys(p.overlay.Entries(other.Instance, overlay.Options)))
		p.log.WithFields(logrus.Fields{"instance": other.Instance, "changes": other.Changes, "options": strings.Join(options, ","), "forget": resetOf(other.Instance)}).
			Log(level, "changes made at run time for another instance are kept, and are not in force")
	}
}

// printChanges prints what imdsfs serve would apply, of the changes o that are kept in a state directory, to the
// instance with this id. err is why they could not be read.
func printChanges(w, stderr io.Writer, o *overlay.Overlay, err error, stateDir, id string) error {
	if err != nil {
		return say(stderr, "warning", fmt.Sprintf("changes made at run time are not shown: %v", err))
	}
	list := control.ChangesOf(o, id)
	if len(list.Changes)+len(list.Others) == 0 {
		return nil
	}
	fmt.Fprintf(w, "changes made at run time, in %s:\n", printable(overlay.Path(stateDir)))
	for _, c := range list.Changes {
		fmt.Fprintf(w, "  %s\n", changeText(c))
	}
	for _, other := range list.Others {
		if _, err := fmt.Fprintf(w, "  %s for %s, not in force here\n", changesText(other.Changes), instanceText(other.Instance)); err != nil {
			return err
		}
	}
	return nil
}

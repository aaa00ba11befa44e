package daemon

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// MostListed is how many changes made at run time the log and imdsfs status list; the admin API and status --json list
// all.
const MostListed = 20

// ActionOf returns whether a change made at run time set or unset something.
func ActionOf(c control.Changed) control.Action {
	if c.Removed {
		return control.Unset
	}
	return control.Set
}

// ResetCommand returns the command that forgets the changes of an instance.
func ResetCommand(id string) string { return "imdsfs reset --instance " + safepath.ShellWord(id) }

// noteID assigns changes of an earlier version to the instance that is served. It logs which changes are in force and which
// are not, once for each instance.
func (i *Instance) noteID() {
	id, ok := i.store.StatedID()
	if !ok {
		return
	}
	if i.overlay.Unowned() {
		log := i.log.WithFields(logrus.Fields{"instance": id, "changes": i.overlay.Len(id)})
		if err := i.overlay.Adopt(i.store); err != nil {
			log.WithError(err).Warn("changes made at run time by an earlier version belong to this instance, and that cannot be kept")
		} else {
			log.Info("changes made at run time by an earlier version belong to this instance from now on")
		}
	}
	if i.history.noted != nil && *i.history.noted == id {
		return
	}
	first := i.history.noted == nil
	i.history.noted = &id
	list := control.ChangesOf(i.overlay, id)
	for _, c := range list.Changes[:min(len(list.Changes), MostListed)] {
		i.log.WithFields(logrus.Fields{"kind": c.Kind, "name": c.Name, "action": ActionOf(c), "at": c.Time.UTC().Format(time.RFC3339), "by": c.By}).Info("changed at run time")
	}
	if more := len(list.Changes) - MostListed; more > 0 {
		i.log.WithField("more", more).Info("more was changed at run time: see all of it with imdsfs status --json")
	}
	level := logrus.WarnLevel // some of them may have been in force a moment ago
	if first {
		level = logrus.InfoLevel
	}
	for _, other := range list.Others[:min(len(list.Others), MostListed)] {
		options := slices.Sorted(maps.Keys(i.overlay.Entries(other.Instance, overlay.Options)))
		i.log.WithFields(logrus.Fields{"instance": other.Instance, "changes": other.Changes, "options": strings.Join(options, ","), "forget": ResetCommand(other.Instance)}).
			Log(level, "changes made at run time for another instance are kept, and are not in force")
	}
}

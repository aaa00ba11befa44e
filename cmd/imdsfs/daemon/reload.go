package daemon

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// A history records how the reloads since the start went, and what the log already says about them. The start changes it,
// and then the loop alone.
type history struct {
	server   tomlfile.Server       // [server] as last read, to notice changes
	fault    atomic.Pointer[error] // of the last reload; nil if it succeeded
	warned   map[problem.Fault]int // warnings of the last good reload, without their places, and how often
	noted    *string               // the id for which the log lists the changes made at run time; nil before the first
	reloads  atomic.Uint64
	failures atomic.Uint64 // failed reloads
}

// reload reads the sources again, because somebody has asked for it or because a source has told of a change, and returns
// what has changed. If they are faulty, it logs each fault with its place, and the tree stays. For a source that cannot be
// read, the store uses what it said before.
func (i *Instance) reload(ctx context.Context, asked bool) (build.Change, error) {
	load := i.store.Refresh
	if asked {
		load = i.store.Reload
	}
	change, err := load(ctx)
	if ctx.Err() != nil {
		return build.Change{}, ctx.Err()
	}
	var stale *source.StaleError
	published := err == nil || errors.As(err, &stale)
	i.history.reloads.Add(1)
	if err != nil {
		i.history.failures.Add(1)
	}
	if published {
		i.logWarnings()
	}
	i.report("reloaded", change, err, asked)
	if published {
		i.warnOfServerKeys()
		i.noteID()
	}
	return change, err
}

// watchSources makes the loop reload when a source has changed.
func (i *Instance) watchSources(parent context.Context) (part, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	changed := func() {
		select {
		case i.changed <- struct{}{}:
		default: // the loop has a notice already
		}
	}
	i.store.Watch(ctx, changed, func(name string, err error) {
		i.log.WithError(err).WithField("source", name).Warn("changes may not be noticed; send SIGHUP after one")
	})
	return part{Close: cancel}, nil
}

// refresh builds the tree anew, with new credentials for roles whose credentials are about to expire.
func (i *Instance) refresh() {
	change, err := i.store.Rebuild()
	i.report("refreshed", change, err, false)
	if err != nil {
		i.observer.failed.Add(1)
		i.retry = i.clock.Now().Add(refreshRetry)
	}
}

const refreshRetry = time.Minute

// refreshTimer returns a channel that receives when the next refresh is due, nil without rolling credentials; stop ends the
// timer.
func (i *Instance) refreshTimer() (due <-chan time.Time, stop func()) {
	at := i.store.Snapshot().Refresh()
	if at.IsZero() {
		return nil, func() {}
	}
	if at.Before(i.retry) {
		at = i.retry
	}
	return i.clock.At(at)
}

// warnOfServerKeys warns, once for each change, that changes of [server] take effect only at a start.
func (i *Instance) warnOfServerKeys() {
	if i.file == nil {
		return
	}
	was, is := i.history.server, *i.file.Server()
	i.history.server = is // so that it warns once
	was.Places, is.Places = nil, nil
	if reflect.DeepEqual(was, is) {
		return
	}
	i.log.WithField("file", i.settings.File).Warn("changes of [server] take effect at the next start")
}

// report logs what a reload did. If nobody asked for the reload, it logs known faults, and that nothing has changed, at the level
// debug.
func (i *Instance) report(done string, change build.Change, err error, asked bool) {
	if err == nil {
		if i.history.fault.Swap(nil) != nil {
			i.log.Info("the input is good again")
		}
		i.reportChange(done, change, asked)
		return
	}
	var stale *source.StaleError
	if errors.As(err, &stale) {
		i.reportChange(done, change, asked)
	}
	if before := i.history.fault.Swap(&err); before != nil && (*before).Error() == err.Error() && !asked {
		i.log.Debug("the input is as faulty as before")
		return
	}
	var faults problem.Faults
	if errors.As(err, &faults) {
		for _, f := range faults[:min(len(faults), maxLogged)] {
			i.log.Error(f.String())
		}
		if more := len(faults) - maxLogged; more > 0 {
			i.log.WithField("more", more).Error("more faults: see all of them with imdsfs check")
		}
		i.log.WithField("faults", len(faults)).Error("the input is faulty: still serving what was there before")
		return
	}
	if stale != nil {
		i.log.WithError(err).Error("cannot read a source: still serving what it said before, and what the others say now")
		return
	}
	i.log.WithError(err).Error("cannot read the input: still serving what was there before")
}

func (i *Instance) reportChange(done string, change build.Change, asked bool) {
	level := logrus.InfoLevel
	if change.Empty() && !asked {
		level = logrus.DebugLevel
	}
	fields := logrus.Fields{
		"added": len(change.Added), "removed": len(change.Removed), "changed": len(change.Changed), "options": strings.Join(change.Options, ","),
	}
	if paths := control.ReloadedBy(change).Texts(); len(paths) > 0 {
		fields["paths"] = problem.Printable(strings.Join(paths, ", "))
	}
	i.log.WithFields(fields).Log(level, done)
}

// maxLogged limits how many warnings and faults of one tree are logged; check prints all.
const maxLogged = 20

// logWarnings logs the warnings of the tree that are new. A warning that has only moved to another line is not new.
func (i *Instance) logWarnings() {
	logged := map[problem.Fault]int{}
	var fresh problem.Faults
	for _, w := range i.store.Snapshot().Warnings() {
		same := w
		same.Place = ""
		if logged[same]++; logged[same] > i.history.warned[same] {
			fresh = append(fresh, w)
		}
	}
	i.history.warned = logged
	for _, w := range fresh[:min(len(fresh), maxLogged)] {
		i.log.Warn(w.String())
	}
	if more := len(fresh) - maxLogged; more > 0 {
		i.log.WithField("more", more).Warn("more warnings: see all of them with imdsfs check")
	}
}

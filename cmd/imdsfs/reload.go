package main

import (
	"context"
	"errors"
	"reflect"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
)

func (p *process) startWatching(ctx context.Context) {
	if p.file == nil {
		return
	}
	w, err := newWatcher(ctx, func(err error) { p.log.WithError(err).Warn("watching the files: changes may need a SIGHUP") })
	if err != nil {
		p.log.WithError(err).Warn("changes of the files are not noticed; send SIGHUP after one")
		return
	}
	p.watch = w
	w.follow(ctx, p.file.Refers())
	p.reload(ctx, false) // what changed before it was watched
}

// reload reads the sources again, and returns what changed. What is wrong with them is logged with its places, and
// the running tree stays.
func (p *process) reload(ctx context.Context, asked bool) (build.Change, error) {
	before := p.store.Snapshot()
	for ; ; asked = false {
		change, err := p.store.Reload(ctx)
		if ctx.Err() != nil {
			return build.Change{}, ctx.Err()
		}
		p.reloads.Add(1)
		if err != nil {
			p.failures.Add(1)
		}
		if err == nil {
			p.logWarnings()
		}
		p.report("reloaded", change, err, asked)
		if err == nil {
			p.warnOfServerKeys()
			p.noteInstance()
		}
		// The file may refer to others now, which nobody watched while they were read.
		if p.watch == nil || !p.watch.follow(ctx, p.file.Refers()) {
			return build.Diff(before, p.store.Snapshot()), err
		}
	}
}

func (p *process) warnOfServerKeys() {
	if p.file == nil {
		return
	}
	was, is := p.settings.server, *p.file.Server()
	p.settings.server = is // said once
	was.Places, is.Places = nil, nil
	if reflect.DeepEqual(was, is) {
		return
	}
	p.log.WithField("file", p.settings.config).Warn("changes of [server] take effect at the next start")
}

// report logs what a reload did. If nobody asked for it, faults that were reported before and the
// lack of changes are for debugging only.
func (p *process) report(done string, change build.Change, err error, asked bool) {
	if err == nil {
		level := logrus.InfoLevel
		if change.Empty() && !asked {
			level = logrus.DebugLevel
		}
		if p.lastFault.Swap(nil) != nil {
			p.log.Info("the input is good again")
		}
		fields := logrus.Fields{
			"added": len(change.Added), "removed": len(change.Removed), "changed": len(change.Changed), "options": strings.Join(change.Options, ","),
		}
		if paths := control.ReloadedBy(change).Texts(); len(paths) > 0 {
			fields["paths"] = printable(strings.Join(paths, ", "))
		}
		p.log.WithFields(fields).Log(level, done)
		return
	}
	if before := p.lastFault.Swap(&err); before != nil && (*before).Error() == err.Error() && !asked {
		p.log.Debug("the input is as faulty as before")
		return
	}
	var faults problem.Faults
	if errors.As(err, &faults) {
		for _, f := range faults[:min(len(faults), maxLogged)] {
			p.log.Error(f.String())
		}
		if more := len(faults) - maxLogged; more > 0 {
			p.log.WithField("more", more).Error("more faults: see all of them with imdsfs check")
		}
		p.log.WithField("faults", len(faults)).Error("the input is faulty: still serving what was there before")
		return
	}
	p.log.WithError(err).Error("cannot read the input: still serving what was there before")
}

// maxLogged are the warnings, and the faults, that are logged of one tree; check prints all.
const maxLogged = 20

// logWarnings logs the warnings of the tree that were not logged before. One that has only moved to another line is not
// new.
func (p *process) logWarnings() {
	logged := map[problem.Fault]int{}
	var fresh problem.Faults
	for _, w := range p.store.Snapshot().Warnings() {
		same := w
		same.Place = ""
		if logged[same]++; logged[same] > p.warned[same] {
			fresh = append(fresh, w)
		}
	}
	p.warned = logged
	for _, w := range fresh[:min(len(fresh), maxLogged)] {
		p.log.Warn(w.String())
	}
	if more := len(fresh) - maxLogged; more > 0 {
		p.log.WithField("more", more).Warn("more warnings: see all of them with imdsfs check")
	}
}

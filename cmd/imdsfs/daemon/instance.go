package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// An Instance holds what exists once for a described machine: the sources of its metadata, the tree that they become, and the
// two doors that show the tree.
type Instance struct {
	settings    *Settings
	handover    *handover.Store
	log         *logrus.Logger
	clock       clock.Clock
	predecessor *fs.Predecessor // whose mount we take over; nil without one

	store   *source.Store
	overlay *overlay.Overlay // changes made at run time
	file    *tomlfile.Source // nil if no instance file is a source
	mount   *fs.Door         // nil without a mount
	http    *edge.Instance

	history   history
	observer  observer
	published func(next *build.Snapshot, took time.Duration)
	changed   chan struct{} // receives when a source has changed
	retry     time.Time     // when to retry a refresh that failed
}

// newInstance makes the instance of the settings.
func (d *Daemon) newInstance() *Instance {
	i := &Instance{
		settings: d.Settings, handover: d.Handover, log: d.Log, clock: d.clock, predecessor: fs.Inherit(d.Handover.TakeAll(fs.KeptPrefix)),
		changed: make(chan struct{}, 1),
	}
	i.published = func(next *build.Snapshot, took time.Duration) { d.published(i, next, took) }
	return i
}

// load reads the sources for the first time. If they are faulty and a predecessor served a tree, the instance serves that tree.
func (i *Instance) load(ctx context.Context) (part, error) {
	launch, err := launchTime(i.settings.StateDir, i.clock.Now())
	if err != nil {
		return part{}, err
	}
	if err := i.openStore(launch); err != nil {
		return part{}, err
	}
	i.history.server = i.settings.server
	served := i.predecessor.Snapshot()
	if served != nil {
		i.store.Restore(served)
	}
	change, err := i.store.Reload(ctx)
	switch {
	case err == nil:
		i.logWarnings()
		i.noteID()
	case served == nil || ctx.Err() != nil:
		return part{}, invalid(i.settings.File, err)
	default:
		i.report("", change, err, true)
	}
	return part{}, nil
}

// openStore makes the store of all sources: those of the settings, and the changes made at run time.
func (i *Instance) openStore(launch time.Time) (err error) {
	if i.overlay, err = overlay.Open(i.settings.StateDir); err != nil {
		return problem.Invalid("move the file away: what was set at run time is then forgotten, locked options included", err)
	}
	sources, err := i.settings.makeSources()
	if err != nil {
		return err
	}
	for _, s := range sources {
		if file, ok := s.(*tomlfile.Source); ok {
			i.file = file
		}
	}
	i.settings.ForgetFile() // the source has it, if there is one
	env := func() build.Env { return environment(i.clock.Now(), launch) }
	i.store = source.NewStore(env, append(sources, i.overlay)...)
	return nil
}

// openTokens makes the HTTP door, which accepts the tokens of a predecessor.
func (i *Instance) openTokens(context.Context) (part, error) {
	tokens, err := token.Open(i.settings.RuntimeDir, i.clock)
	if err != nil {
		return part{}, NoRoom(err, i.settings.RuntimeDir, "--runtime-dir")
	}
	i.http = edge.NewInstance(tokens)
	return part{}, nil
}

// openDoors shows the tree on the mount, and then over HTTP. The store publishes later trees in the same order.
func (i *Instance) openDoors(context.Context) (p part, err error) {
	start := time.Now()
	switch {
	case i.settings.Mount != None:
		if i.mount, err = i.openMount(); err != nil {
			return part{}, err
		}
		p = part{Close: i.unmount, HandOver: i.handOverMount}
		i.store.Attach(i.mount)
	case i.predecessor != nil:
		if err := i.predecessor.Discard(i.settings.RuntimeDir, i.handover); err != nil {
			i.log.WithError(err).Warn("unmount what the predecessor had mounted")
		}
	}
	i.store.Attach(i.http)
	i.countPublish(time.Since(start))
	i.store.Observe(func(_ build.Change, took time.Duration) { i.countPublish(took) })
	return p, nil
}

func (i *Instance) openMount() (*fs.Door, error) {
	dir := i.settings.Mount
	cfg := fs.Config{
		Dir: dir, Source: os.Getenv(MountSourceVariable), RuntimeDir: i.settings.RuntimeDir, Clock: i.clock, Predecessor: i.predecessor,
		Warn: func(text string) { i.log.WithField("mount", dir).Warn(text) },
	}
	if i.handover.Durable() {
		cfg.Keeper = i.handover
	}
	door, err := fs.Mount(cfg, i.store.Snapshot())
	if problem.Hint(err) != "" {
		return nil, err
	}
	return door, NoRoom(err, i.settings.RuntimeDir, "--runtime-dir")
}

func (i *Instance) unmount() {
	if err := i.mount.Unmount(); err != nil {
		i.log.WithError(err).Error("unmount")
	}
}

// handOverMount leaves the mount to a successor. From now on readers pause until the successor answers, so no later step may
// take long.
func (i *Instance) handOverMount() error {
	lingering, err := i.mount.HandOver(i.handover)
	if err != nil {
		return fmt.Errorf("hand the mount over: %w", err)
	}
	handover.LeaveChild(lingering)
	fault.At("handed over")
	return nil
}

// abandon unmounts what a predecessor had mounted, unless it has become our own mount.
func (i *Instance) abandon() {
	if i.predecessor == nil || i.mount != nil {
		return
	}
	if err := i.predecessor.Discard(i.settings.RuntimeDir, i.handover); err != nil {
		i.log.WithError(err).Debug("unmount what the predecessor had mounted")
	}
}

// unmounted returns a channel that is closed when somebody has unmounted the tree; nil without a mount.
func (i *Instance) unmounted() <-chan struct{} {
	if i.mount == nil {
		return nil
	}
	return i.mount.Done()
}

// check returns an error unless the kernel gets answers and changes reach it.
func (i *Instance) check() error {
	if i.mount == nil {
		return nil
	}
	return i.mount.Check()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// A process is the running daemon.
type process struct {
	settings *settings
	log      *logrus.Logger
	clock    source.Clock
	store    *source.Store
	file     *tomlfile.Source // nil without an instance file
	mount    *fs.Door         // nil without a mount
	server   *edge.Server
	watch    *watcher // nil if nothing can be watched
	faults   string   // what the last reload reported, "" if it went well
	retry    time.Time
}

// runDaemon wires the sources to the tree and the tree to the doors, and serves until a signal.
// Whatever it opened is closed again in the opposite order.
func runDaemon(parent context.Context, s *settings, log *logrus.Logger) error {
	// Core dumps and ptrace by others would show credentials.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	ctx, stop, hup := signals(parent)
	defer stop()
	if err := makeDirs(s); err != nil {
		return err
	}
	lock, err := lockRuntimeDir(s.runtimeDir)
	if err != nil {
		return err
	}
	defer lock.Close()

	p := &process{settings: s, log: log, clock: source.SystemClock()}
	if err := p.load(ctx); err != nil {
		return err
	}
	if p.server, err = newEdge(s, p.clock, log); err != nil {
		return err
	}
	listeners, err := listenAll(ctx, s.listen, p.store.Snapshot().Options())
	if err != nil {
		return err
	}
	defer closeAll(listeners)

	// The mount is the first door: what HTTP shows is already on it.
	if s.mount != none {
		if p.mount, err = mountDoor(s, p.store.Snapshot(), p.clock, log); err != nil {
			return err
		}
		defer p.unmount()
		p.store.Attach(p.mount)
	}
	p.store.Attach(p.server)

	// Serving ends after the last word in the log, not with the signal.
	serving, endServing := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, len(listeners))
	var running sync.WaitGroup
	defer running.Wait()
	defer endServing()
	for _, l := range listeners {
		running.Go(func() { served <- p.server.Serve(serving, l) })
	}
	addresses := addressesOf(listeners)
	if err := writeListenFile(s.runtimeDir, addresses); err != nil {
		return err
	}
	defer os.Remove(listenFile(s.runtimeDir))
	p.startWatching(serving)

	log.WithFields(logrus.Fields{
		"mount": s.mount, "http": strings.Join(addresses, ","), "instance": p.store.Snapshot().InstanceID(),
	}).Info("ready")
	p.notify(daemon.SdNotifyReady)
	defer p.notify(daemon.SdNotifyStopping)
	return p.loop(ctx, hup, served)
}

// load reads the sources for the first time.
func (p *process) load(ctx context.Context) error {
	launch, err := launchTime(p.settings.stateDir, p.clock.Now())
	if err != nil {
		return err
	}
	sources := sourcesOf(p.settings.config, p.settings.sources)
	for _, src := range sources {
		if f, ok := src.(*tomlfile.Source); ok {
			p.file = f
		}
	}
	p.store = source.NewStore(func() source.Env { return environment(p.clock.Now(), launch) }, sources...)
	if _, err := p.store.Reload(ctx); err != nil {
		return invalid(p.settings.config, err)
	}
	p.logWarnings()
	return nil
}

// loop does what happens by itself, one thing at a time, until ctx ends or a door does.
func (p *process) loop(ctx context.Context, hup <-chan os.Signal, served <-chan error) error {
	var unmounted, changed <-chan struct{}
	if p.mount != nil {
		unmounted = p.mount.Done()
	}
	if p.watch != nil {
		changed = p.watch.changed
	}
	for {
		due, giveUp := p.refreshTimer()
		select {
		case <-ctx.Done():
			giveUp()
			p.log.Info("stopping")
			return nil
		case <-unmounted:
			giveUp()
			p.log.WithField("mount", p.settings.mount).Warn("unmounted by somebody else, stopping")
			return nil
		case err := <-served: // only with an error: nobody has told it to end
			giveUp()
			return err
		case <-hup:
			p.reload(ctx, true)
		case <-changed:
			p.reload(ctx, false)
		case <-due:
			change, err := p.store.Rebuild()
			p.report("refreshed", change, err, false)
			if err != nil {
				p.retry = p.clock.Now().Add(time.Minute)
			}
		}
		giveUp()
	}
}

// refreshTimer waits for rolling credentials to fall due; it never fires without any.
func (p *process) refreshTimer() (<-chan time.Time, func()) {
	due := p.store.Snapshot().Refresh()
	if due.IsZero() {
		return nil, func() {}
	}
	if due.Before(p.retry) {
		due = p.retry
	}
	return p.clock.At(due)
}

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

// reload reads the sources again. What is wrong with them is logged with its places, and the running
// tree stays.
func (p *process) reload(ctx context.Context, asked bool) {
	for ; ; asked = false {
		change, err := p.store.Reload(ctx)
		p.report("reloaded", change, err, asked)
		if err == nil && !change.Empty() {
			p.logWarnings()
		}
		if err == nil {
			p.warnOfServerKeys()
		}
		// The file may refer to others now, which nobody watched while they were read.
		if p.watch == nil || !p.watch.follow(ctx, p.file.Refers()) {
			return
		}
	}
}

func (p *process) warnOfServerKeys() {
	if p.file == nil {
		return
	}
	file, err := tomlfile.Load(p.settings.config)
	if err != nil || reflect.DeepEqual(file.Server, p.settings.server) {
		return
	}
	p.settings.server = file.Server // said once
	p.log.WithField("file", p.settings.config).Warn("changes of [server] take effect at the next start")
}

// report logs what a reload did. If nobody asked for it, faults that were reported before and the
// lack of changes are for debugging only.
func (p *process) report(done string, change source.Change, err error, asked bool) {
	if err == nil {
		level := logrus.InfoLevel
		if change.Empty() && !asked {
			level = logrus.DebugLevel
		}
		if p.faults != "" {
			p.log.Info("the input is good again")
		}
		p.faults = ""
		p.log.WithFields(logrus.Fields{
			"added": len(change.Added), "removed": len(change.Removed), "changed": len(change.Changed), "options": strings.Join(change.Options, ","),
		}).Log(level, done)
		return
	}
	if err.Error() == p.faults && !asked {
		p.log.Debug("the input is as faulty as before")
		return
	}
	p.faults = err.Error()
	var faults source.Faults
	if errors.As(err, &faults) {
		for _, f := range faults {
			p.log.Error(f.String())
		}
		p.log.WithField("faults", len(faults)).Error("the input is faulty: still serving what was there before")
		return
	}
	p.log.WithError(err).Error("cannot read the input: still serving what was there before")
}

func (p *process) logWarnings() {
	for _, w := range p.store.Snapshot().Warnings() {
		p.log.Warn(w.String())
	}
}

func (p *process) unmount() {
	if err := p.mount.Unmount(); err != nil {
		p.log.WithError(err).Error("unmount")
	}
}

// notify tells systemd, where there is one.
func (p *process) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		p.log.WithError(err).Warn("notify systemd")
	}
}

func newEdge(s *settings, clock source.Clock, log *logrus.Logger) (*edge.Server, error) {
	tokens, err := token.Open(s.runtimeDir, clock)
	if err != nil {
		return nil, err
	}
	hosts, err := imds.NewHosts(s.hosts...)
	if err != nil {
		return nil, failure(exitUsage, "", err)
	}
	var allow []edge.Rule
	for _, text := range s.allowFrom {
		rule, err := edge.ParseAllow(text)
		if err != nil {
			return nil, failure(exitUsage, "", err)
		}
		allow = append(allow, rule)
	}
	return edge.New(edge.Config{
		Tokens: tokens, Clock: clock, Hosts: hosts, Allow: allow,
		RefusedPeer: func(peer netip.Addr) {
			log.WithField("peer", peer).Warn("refused: not in allow-from; add its network with --allow-from to have it answered")
		},
		RefusedHost: func(name string) {
			log.WithField("host", name).Warn("refused: unknown Host header; add the name with --host if it is yours")
		},
	}), nil
}

func mountDoor(s *settings, snap *source.Snapshot, clock source.Clock, log *logrus.Logger) (*fs.Door, error) {
	door, err := fs.Mount(fs.Config{
		Dir: s.mount, RuntimeDir: s.runtimeDir, Clock: clock,
		Warn: func(text string) { log.WithField("mount", s.mount).Warn(text) },
	}, snap)
	var point *fs.PointError
	if errors.As(err, &point) {
		return nil, failure(exitFailed, point.Hint, err)
	}
	return door, err
}

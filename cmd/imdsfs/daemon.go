package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// A process is the running daemon.
type process struct {
	settings  *settings
	log       *logrus.Logger
	clock     clock.Clock
	started   time.Time
	kept      *fdstore.Store // for a successor
	store     *source.Store
	overlay   *overlay.Overlay
	file      *tomlfile.Source // nil without an instance file
	mount     *fs.Door         // nil without a mount
	server    *edge.Server
	http      *listeners
	link      *linklocal.Link // nil if the addresses are not ours
	watch     *watcher        // nil if nothing can be watched
	peers     peerLog
	metrics   *metrics.Exporter
	metricsAt net.Listener // nil if not wanted
	scrapers  metrics.Port

	addresses   *edge.Addresses // of this machine, for all ports
	descriptors descriptors

	asked        chan func(context.Context) // to reload
	instance     *string                    // the id for which the log has the changes made at run time, nil before the first
	upgrades     chan upgrade
	lastFault    atomic.Pointer[error]
	warned       map[problem.Fault]int // how often, without their places; by the last good reload
	publishes    atomic.Uint64
	reloads      atomic.Uint64
	failures     atomic.Uint64 // of reloads
	retry        time.Time     // of a refresh that failed
	publishStart time.Time     // under the store's lock

	// successor is set when somebody goes on: everything stays as it is for him.
	successor bool
	next      *candidate // that takes our place, nil if another process does
	ready     bool       // has been
}

// runDaemon serves until a signal. What it opened is closed again in the opposite order, unless there is a
// successor.
func runDaemon(parent context.Context, s *settings, kept *fdstore.Store, others map[string][]*os.File, log *logrus.Logger) error {
	// Core dumps and ptrace by others would show credentials.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	// Whoever starts us again tells a crash, or the signal of a watchdog, from wrong usage, which is no use to
	// repeat: by itself Go's runtime exits with the same status, 2.
	debug.SetTraceback("crash")
	// Where the log goes to a pipe, its reader may die, as a keeper does. Only a program that takes the signal
	// goes on then.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	fault.At("started")
	clock := clock.System()
	p := &process{
		settings: s, log: log, clock: clock, started: clock.Now(), kept: kept, peers: peerLog{clock: clock},
		asked: make(chan func(context.Context)), upgrades: make(chan upgrade),
	}
	err := p.run(parent, others)
	switch {
	case err != nil && !p.ready:
		return p.triedAgain(err)
	case err != nil || !p.successor:
		return err
	}
	if p.next == nil {
		return errHandedOver
	}
	return p.become(p.next)
}

// run wires the sources to the tree and the tree to the doors, and serves.
func (p *process) run(parent context.Context, others map[string][]*os.File) error {
	s := p.settings
	ctx, stop, signals := p.signals(parent)
	defer stop()
	predecessor := fs.Inherit(p.keptOf(fs.KeptPrefix))
	refused := func(err error) error { return p.refused(ctx, predecessor, err) }
	if err := makeDirs(s); err != nil {
		return refused(err)
	}
	lock, err := p.lockRuntimeDir()
	if err != nil {
		return refused(err)
	}
	defer p.unlock(lock)
	state, err := holdStateDir(ctx, s.stateDir)
	if err != nil {
		return refused(err)
	}
	defer state.Close()
	reapPredecessor()
	p.dropUnsound()

	if err := p.load(ctx, predecessor.Snapshot()); err != nil {
		return refused(err)
	}
	if err := p.helperRefusal(); err != nil {
		return refused(err)
	}
	if err := p.keepServer(); err != nil {
		return refused(err)
	}
	defer p.forget(keptServer)
	fault.At("sources read")
	p.descriptors = divideDescriptors(openFiles())
	p.addresses = edge.FollowAddresses(func(err error) {
		p.log.WithError(err).Warn("peers of other addresses are refused unless their network is listed")
	})
	defer p.addresses.Close()
	if p.server, err = p.newEdge(); err != nil {
		return refused(err)
	}
	p.metrics = metrics.New(p.sample)
	if err := p.listenMetrics(ctx); err != nil {
		return refused(err)
	}
	if p.metricsAt != nil {
		defer p.metricsAt.Close()
		defer p.forget(keptMetrics)
	}
	if err := p.addAddresses(ctx); err != nil {
		return refused(err)
	}
	defer p.removeAddresses()
	if p.http, err = p.listenAll(ctx, p.sockets(others)); err != nil {
		return refused(err)
	}
	defer p.http.close()
	fault.At("listening")

	p.store.Attach(doorFunc(p.publishing))
	// The mount comes before HTTP: what HTTP shows is already on it.
	if s.mount != none {
		if p.mount, err = p.mountDoor(predecessor); err != nil {
			return refused(err)
		}
		defer p.unmount()
		p.store.Attach(p.mount)
	} else if predecessor != nil {
		if err := predecessor.Discard(s.runtimeDir, p.kept); err != nil {
			log := p.log.WithError(err)
			log.Warn("unmount what the predecessor had mounted")
		}
	}
	p.store.Attach(p.server)
	p.store.Attach(doorFunc(p.published))

	// Serving ends after the last word in the log, not with the signal.
	serving, endServing := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer p.http.wait()
	defer endServing()
	p.http.serve(serving)
	defer p.forgetListeners()
	if err := p.startAdmin(serving, &running); err != nil {
		return refused(err)
	}
	p.noteListeners() // after that, so that whoever finds the addresses finds the admin socket too
	p.dropUnknown()
	p.startMetrics(serving, &running)
	p.startWatching(serving)
	p.startWatchdog(serving, &running)

	p.log.WithFields(logrus.Fields{
		"mount": s.mount, "http": strings.Join(p.http.addresses(), ","), "instance": p.store.Snapshot().InstanceID(),
	}).Info("ready")
	p.ready = true
	forgetRefusals(s.runtimeDir)
	p.notifyReady()
	fault.At("ready")
	defer p.notifyStopping()
	return p.loop(ctx, signals)
}

// load reads the sources for the first time. If a predecessor served a tree, what is wrong with the sources by
// now is no reason to serve nothing.
func (p *process) load(ctx context.Context, served *build.Snapshot) error {
	launch, err := launchTime(p.settings.stateDir, p.clock.Now())
	if err != nil {
		return err
	}
	if err := p.openStore(launch); err != nil {
		return err
	}
	if served != nil {
		p.store.Restore(served)
	}
	change, err := p.store.Reload(ctx)
	switch {
	case err == nil:
		p.logWarnings()
		p.noteInstance()
	case served == nil || ctx.Err() != nil:
		return invalid(p.settings.config, err)
	default:
		p.report("", change, err, true)
	}
	return nil
}

// openStore makes the store, of all sources: those of the settings, and what was changed at run time.
func (p *process) openStore(launch time.Time) (err error) {
	if p.overlay, err = overlay.Open(p.settings.stateDir); err != nil {
		return problem.Invalid("move the file away: what was set at run time is then forgotten, locked options included", err)
	}
	var sources []source.Source
	sources, p.file = p.settings.instanceSources()
	env := func() build.Env { return environment(p.clock.Now(), launch) }
	p.store = source.NewStore(env, append(sources, p.overlay)...)
	return nil
}

// A doorFunc is a door that only wants to know.
type doorFunc func(next *build.Snapshot)

func (f doorFunc) Publish(next *build.Snapshot) { f(next) }

// loop does what happens by itself, one thing at a time, until ctx ends or a door does.
func (p *process) loop(ctx context.Context, signals <-chan os.Signal) error {
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
		case err := <-p.http.ended:
			giveUp()
			return err
		case sig := <-signals:
			if p.heed(ctx, sig) {
				giveUp()
				return p.handOver()
			}
		case ask := <-p.asked:
			ask(ctx)
		case u := <-p.upgrades:
			next, err := p.tryProgram(ctx, u.program, u.by)
			u.done <- err
			if err == nil {
				giveUp()
				p.next = next
				return p.handOver()
			}
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

// notify tells systemd or the keeper, where there is one.
func (p *process) notify(state string) {
	if err := p.kept.Notify(state); err != nil {
		p.log.WithError(err).Warn("notify " + p.kept.String())
	}
}

func (p *process) notifyReady() {
	if p.settings.within != nil {
		p.settings.within(p)
		return
	}
	letGo()
	p.notify(daemon.SdNotifyReady)
	if os.Getenv(backgroundVariable) != "" {
		os.Unsetenv("NOTIFY_SOCKET") // mount has ended, and its socket with it
	}
}

func (p *process) notifyStopping() {
	if !p.successor {
		p.notify(daemon.SdNotifyStopping)
	}
}

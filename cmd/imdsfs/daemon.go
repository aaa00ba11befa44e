package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// A process is the running daemon.
type process struct {
	settings  *settings
	log       *logrus.Logger
	clock     source.Clock
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

	asked        chan chan error // to reload
	upgrades     chan upgrade
	lastFault    atomic.Pointer[error]
	publishes    atomic.Uint64
	reloads      atomic.Uint64
	failures     atomic.Uint64 // of reloads
	retry        time.Time     // of a refresh that failed
	publishStart time.Time     // under the store's lock

	// successor is set when somebody goes on: everything stays as it is for him.
	successor bool
	program   string // that takes our place, "" if another process does
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
	fault.At("started")
	clock := source.SystemClock()
	p := &process{
		settings: s, log: log, clock: clock, started: clock.Now(), kept: kept, peers: peerLog{clock: clock},
		asked: make(chan chan error), upgrades: make(chan upgrade),
	}
	if err := p.run(parent, others); err != nil || !p.successor {
		return err
	}
	if p.program == "" {
		return errHandedOver
	}
	return p.become(p.program)
}

// run wires the sources to the tree and the tree to the doors, and serves.
func (p *process) run(parent context.Context, others map[string][]*os.File) error {
	s := p.settings
	ctx, stop, signals := signals(parent)
	defer stop()
	if err := makeDirs(s); err != nil {
		return err
	}
	lock, err := p.lockRuntimeDir()
	if err != nil {
		return err
	}
	defer lock.Close()
	defer p.forget(keptLock)
	reapPredecessor()

	predecessor := fs.Inherit(p.keptOf(fs.KeptPrefix))
	if err := p.load(ctx, predecessor.Snapshot()); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop, which is no failure
		}
		return err
	}
	if err := p.keepServer(); err != nil {
		return err
	}
	defer p.forget(keptServer)
	fault.At("sources read")
	if p.server, err = p.newEdge(); err != nil {
		return err
	}
	p.metrics = metrics.New(p.sample)
	if err := p.listenMetrics(); err != nil {
		return err
	}
	if p.metricsAt != nil {
		defer p.metricsAt.Close()
		defer p.forget(keptMetrics)
	}
	if err := p.addAddresses(ctx); err != nil {
		return err
	}
	defer p.removeAddresses()
	handedOver, err := sockets(others)
	if err != nil {
		return fmt.Errorf("sockets from systemd: %w", err)
	}
	if p.http, err = p.listenAll(ctx, handedOver); err != nil {
		return err
	}
	defer p.http.close()
	fault.At("listening")

	p.store.Attach(doorFunc(p.publishing))
	// The mount comes before HTTP: what HTTP shows is already on it.
	if s.mount != none {
		if p.mount, err = p.mountDoor(predecessor); err != nil {
			return err
		}
		defer p.unmount()
		p.store.Attach(p.mount)
	} else if predecessor != nil {
		if err := predecessor.Discard(p.kept); err != nil {
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
	p.noteListeners()
	defer p.forgetListeners()
	if err := p.startAdmin(serving, &running); err != nil {
		return err
	}
	p.startMetrics(serving, &running)
	p.startWatching(serving)
	p.startWatchdog(serving, &running)

	p.log.WithFields(logrus.Fields{
		"mount": s.mount, "http": strings.Join(p.http.addresses(), ","), "instance": p.store.Snapshot().InstanceID(),
	}).Info("ready")
	p.notifyReady()
	fault.At("ready")
	defer p.notifyStopping()
	return p.loop(ctx, signals)
}

// load reads the sources for the first time. If a predecessor served a tree, what is wrong with the sources by
// now is no reason to serve nothing.
func (p *process) load(ctx context.Context, served *source.Snapshot) error {
	launch, err := launchTime(p.settings.stateDir, p.clock.Now())
	if err != nil {
		return err
	}
	if p.overlay, err = overlay.Open(p.settings.stateDir); err != nil {
		return failure(exitFailed, "move the file away: what was set at run time is then forgotten, locked options included", err)
	}
	sources := sourcesOf(p.settings.config, p.settings.sources)
	for _, src := range sources {
		if f, ok := src.(*tomlfile.Source); ok {
			p.file = f
		}
	}
	env := func() source.Env { return environment(p.clock.Now(), launch) }
	p.store = source.NewStore(env, append(sources, p.overlay)...)
	if served != nil {
		p.store.Restore(served)
	}
	change, err := p.store.Reload(ctx)
	switch {
	case err == nil:
		p.logWarnings()
	case served == nil || ctx.Err() != nil:
		return invalid(p.settings.config, err)
	default:
		p.report("", change, err, true)
	}
	return nil
}

// A doorFunc is a door that only wants to know.
type doorFunc func(next *source.Snapshot)

func (f doorFunc) Publish(next *source.Snapshot) { f(next) }

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
		case done := <-p.asked:
			done <- p.reload(ctx, true)
		case u := <-p.upgrades:
			err := p.tryProgram(ctx, u.program)
			u.done <- err
			if err == nil {
				giveUp()
				p.program = u.program
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
func (p *process) reload(ctx context.Context, asked bool) error {
	for ; ; asked = false {
		change, err := p.store.Reload(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.reloads.Add(1)
		if err != nil {
			p.failures.Add(1)
		}
		p.report("reloaded", change, err, asked)
		if err == nil && !change.Empty() {
			p.logWarnings()
		}
		if err == nil {
			p.warnOfServerKeys()
		}
		// The file may refer to others now, which nobody watched while they were read.
		if p.watch == nil || !p.watch.follow(ctx, p.file.Refers()) {
			return err
		}
	}
}

func (p *process) warnOfServerKeys() {
	if p.file == nil {
		return
	}
	file, err := tomlfile.Load(p.settings.config)
	if err != nil {
		return
	}
	was, is := p.settings.server, file.Server
	p.settings.server = is // said once
	was.Places, is.Places = nil, nil
	if reflect.DeepEqual(was, is) {
		return
	}
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
		if p.lastFault.Swap(nil) != nil {
			p.log.Info("the input is good again")
		}
		p.log.WithFields(logrus.Fields{
			"added": len(change.Added), "removed": len(change.Removed), "changed": len(change.Changed), "options": strings.Join(change.Options, ","),
		}).Log(level, done)
		return
	}
	if before := p.lastFault.Swap(&err); before != nil && (*before).Error() == err.Error() && !asked {
		p.log.Debug("the input is as faulty as before")
		return
	}
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

// maxWarnings are logged of one tree; check prints all.
const maxWarnings = 20

func (p *process) logWarnings() {
	warnings := p.store.Snapshot().Warnings()
	for _, w := range warnings[:min(len(warnings), maxWarnings)] {
		p.log.Warn(w.String())
	}
	if more := len(warnings) - maxWarnings; more > 0 {
		p.log.WithField("more", more).Warn("more warnings: see all of them with imdsfs check")
	}
}

func (p *process) unmount() {
	if p.successor {
		err := p.handOverMount()
		if err == nil {
			return
		}
		p.log.WithError(err).Error("not handed over: stopping")
		p.successor = false
	}
	if err := p.mount.Unmount(); err != nil {
		p.log.WithError(err).Error("unmount")
	}
}

// notify tells systemd or the keeper, where there is one.
func (p *process) notify(state string) {
	if err := p.kept.Notify(state); err != nil {
		p.log.WithError(err).Warn("notify " + p.kept.String())
	}
}

func (p *process) notifyReady() {
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

func (p *process) newEdge() (*edge.Server, error) {
	s := p.settings
	tokens, err := token.Open(s.runtimeDir, p.clock)
	if err != nil {
		return nil, noRoom(err, s.runtimeDir, "--runtime-dir")
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
		Tokens: tokens, Clock: p.clock, Hosts: hosts, Allow: allow, OutsideGuests: s.vantage == "host",
		RefusedPeer: func(peer netip.Addr) {
			p.peers.note(peer, "not in allow-from")
			p.log.WithField("peer", peer).Warn("refused: not in allow-from; add its network with --allow-from to have it answered")
		},
		RefusedHost: func(name string) {
			p.log.WithField("host", name).Warn("refused: unknown Host header; add the name with --host if it is yours")
		},
		Withheld: func(peer netip.Addr, hopLimit int) {
			p.peers.note(peer, fmt.Sprintf("got no token at hop limit %d", hopLimit))
			p.log.WithFields(logrus.Fields{"peer": peer, "hop-limit": hopLimit}).Warn(
				"no token: the peer is further away than the hop limit allows; raise it (imdsfs options set " +
					"http-put-response-hop-limit=2), or bind-mount the files into the container")
		},
	}), nil
}

// addAddresses puts the link-local addresses on a link of our own, if that is wanted.
func (p *process) addAddresses(ctx context.Context) (err error) {
	if !p.settings.addAddresses {
		return nil
	}
	opts := p.store.Snapshot().Options()
	p.link, err = linklocal.Add(ctx, linklocal.Config{
		IPv6: opts.HTTPProtocolIPv6, Force: p.settings.forceAddresses || p.inheritsListeners(expand(linkLocal, opts)),
		Warn: func(text string) { p.log.Warn(text) },
	})
	var refused *linklocal.Error
	if errors.As(err, &refused) {
		return failure(exitFailed, refused.Hint, err)
	}
	return err
}

func (p *process) removeAddresses() {
	if p.link == nil || p.successor {
		return
	}
	if err := p.link.Remove(); err != nil {
		p.log.WithError(err).Error("take the link-local addresses away")
	}
}

func (p *process) mountDoor(predecessor *fs.Predecessor) (*fs.Door, error) {
	dir := p.settings.mount
	cfg := fs.Config{
		Dir: dir, Source: os.Getenv(sourceVariable), RuntimeDir: p.settings.runtimeDir, Clock: p.clock, Predecessor: predecessor,
		Warn: func(text string) { p.log.WithField("mount", dir).Warn(text) },
	}
	if p.kept.Durable() {
		cfg.Keeper = p.kept
	}
	door, err := fs.Mount(cfg, p.store.Snapshot())
	var point *fs.PointError
	if errors.As(err, &point) {
		return nil, failure(exitFailed, point.Hint, err)
	}
	return door, noRoom(err, p.settings.runtimeDir, "--runtime-dir")
}

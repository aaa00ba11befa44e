package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
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

	clock := source.SystemClock()
	launch, err := launchTime(s.stateDir, clock.Now())
	if err != nil {
		return err
	}
	store := source.NewStore(func() source.Env { return environment(clock.Now(), launch) }, sourcesOf(s.config, s.sources)...)
	if _, err := store.Reload(ctx); err != nil {
		return invalid(s.config, err)
	}
	snap := store.Snapshot()
	logWarnings(log, snap)

	server, err := newEdge(s, clock, log)
	if err != nil {
		return err
	}
	listeners, err := listenAll(s.listen, snap.Options())
	if err != nil {
		return err
	}
	defer closeAll(listeners)

	// The mount is the first door: what HTTP shows is already on it.
	var unmounted <-chan struct{}
	if s.mount != none {
		mount, err := mountDoor(s, snap, clock, log)
		if err != nil {
			return err
		}
		defer func() {
			if err := mount.Unmount(); err != nil {
				log.WithError(err).Error("unmount")
			}
		}()
		unmounted = mount.Done()
		store.Attach(mount)
	}
	store.Attach(server)

	// Serving ends after the last word in the log, not with the signal.
	serveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- server.Serve(serveCtx, l) }()
	}
	running := len(listeners)
	defer func() { // before the deferred unmount: whoever still asks is answered from both doors or none
		cancel()
		for ; running > 0; running-- {
			<-served
		}
	}()

	addresses := addressesOf(listeners)
	if err := writeListenFile(s.runtimeDir, addresses); err != nil {
		return err
	}
	defer os.Remove(listenFile(s.runtimeDir))

	log.WithFields(logrus.Fields{"mount": s.mount, "http": strings.Join(addresses, ","), "instance": snap.InstanceID()}).Info("ready")
	notify(log, daemon.SdNotifyReady)
	defer notify(log, daemon.SdNotifyStopping)

	for {
		due, giveUp := refreshTimer(clock, store.Snapshot())
		select {
		case <-ctx.Done():
			giveUp()
			log.Info("stopping")
			return nil
		case <-unmounted:
			giveUp()
			log.WithField("mount", s.mount).Warn("unmounted by somebody else, stopping")
			return nil
		case err := <-served: // only with an error: nobody has told it to end
			giveUp()
			running--
			return err
		case <-hup:
			reload(ctx, s, store, log)
		case <-due:
			change, err := store.Rebuild()
			logChange(log, "refreshed", change, err)
		}
		giveUp()
	}
}

// refreshTimer waits for rolling credentials to fall due; it never fires without any.
func refreshTimer(clock source.Clock, snap *source.Snapshot) (<-chan time.Time, func()) {
	if snap.Refresh().IsZero() {
		return nil, func() {}
	}
	return clock.At(snap.Refresh())
}

// reload reads the sources again. What is wrong with them is logged with its places, and the running
// tree stays.
func reload(ctx context.Context, s *settings, store *source.Store, log *logrus.Logger) {
	change, err := store.Reload(ctx)
	logChange(log, "reloaded", change, err)
	if err != nil {
		return
	}
	logWarnings(log, store.Snapshot())
	if s.config == "" {
		return
	}
	if file, err := tomlfile.Load(s.config); err == nil && !reflect.DeepEqual(file.Server, s.server) {
		log.WithField("file", s.config).Warn("changes of [server] take effect at the next start")
	}
}

func logChange(log *logrus.Logger, done string, change source.Change, err error) {
	var faults source.Faults
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			log.Error(f.String())
		}
		log.WithField("faults", len(faults)).Error("the input is faulty: still serving what was there before")
	case err != nil:
		log.WithError(err).Error("cannot read the input: still serving what was there before")
	default:
		log.WithFields(logrus.Fields{"added": len(change.Added), "removed": len(change.Removed), "changed": len(change.Changed)}).Info(done)
	}
}

func logWarnings(log *logrus.Logger, snap *source.Snapshot) {
	for _, w := range snap.Warnings() {
		log.Warn(w.String())
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

// notify tells systemd, where there is one.
func notify(log *logrus.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.WithError(err).Warn("notify systemd")
	}
}

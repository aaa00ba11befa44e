// Package daemon is the program between its start and its end: it builds a daemon from a configuration, keeps it going,
// and ends it, or leaves it to a successor.
//
//	flags, [server] ─▶ Config ─▶ Validate ─▶ Settings ─▶ Run
//	                                                      │
//	        what there is once in a process             Daemon ── listeners, edge, metrics, admin socket, watchdog, signals
//	        what there is once for a described machine   └─ Instance ── sources ─▶ store ─▶ mount, then HTTP
//
// [Config.Validate] makes the real rules, hosts and addresses; whoever asks whether a configuration is good asks it:
// check, serve, a reload, the trial of an upgrade, the mount helper. [Run] starts the parts of a daemon in the order of
// [Daemon.order] and ends them in the opposite order. The package returns errors with advice (package problem); it
// prints nothing and never ends the process.
//
//	where to look for         file
//	the order of start, end   daemon.go
//	a described machine       instance.go, reload.go, observer.go, changes.go
//	ports                     listeners.go, edge.go, metrics.go, admin.go, addresses.go, descriptors.go
//	what status tells         status.go, peers.go
//	what happens by itself    loop.go, watchdog.go
//	a successor               upgrade.go, inherited.go; package handover
//	a start that is refused   refused.go
//	configuration             config.go, validate.go, trial.go
//	directories, accounts     dirs.go, locks.go, launch.go; package privilege
package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

// A Start is what a daemon is started with.
type Start struct {
	Settings *Settings
	Handover *handover.Store       // what a predecessor has left, and a successor gets
	Sockets  map[string][]*os.File // that a socket unit hands over, by name
	Log      *logrus.Logger
	Build    metrics.Build // of this program
	// Embedded: another command runs the daemon in its own process. The daemon then takes no signals, has no successor,
	// and ends with its context.
	Embedded bool
	Ready    func(*Daemon) // if not nil, called once, when both doors are ready
}

// A Daemon is what there is once in a process.
type Daemon struct {
	Start
	clock     clock.Clock
	started   time.Time
	instances []*Instance // one, for now
	ports     ports
	peers     peerLog
	serving   *serving // nil before anything is answered

	asked    chan func(context.Context) // what others have the loop do
	upgrades chan upgrade

	parts     []part              // that have been started, and not ended
	successor bool                // the parts are handed over at the end, not closed
	next      *handover.Candidate // that gets them, nil if another process does
	ready     bool                // has been
}

// ports are what a daemon answers on, and what all of that needs.
type ports struct {
	descriptors descriptors
	addresses   *edge.Addresses // of this machine
	link        *linklocal.Link // nil if the link-local addresses are not ours
	edge        *edge.Server
	listeners   *listeners
	metrics     metricsPort
}

// A part is a piece of a daemon that has been started and has to be ended.
type part struct {
	Close func() // nil: there is nothing to end. What goes wrong is logged.
	// HandOver ends it, and leaves it to a successor; nil: it is closed for a successor too.
	HandOver func() error
}

// stays is the HandOver of a part that a successor finds as it is.
func stays() error { return nil }

// A step starts one part; or it does what later steps need, and its part is empty.
type step func(ctx context.Context) (part, error)

// order is the order in which a daemon starts, from top to bottom, and ends, from bottom to top.
func (d *Daemon) order() (steps []step) {
	then := func(s ...step) { steps = append(steps, s...) }

	// The directories, in which no other daemon serves.
	then(d.makeDirs)
	then(d.lockRuntimeDir)
	then(d.lockStateDir)
	then(d.sortOutInherited)

	// What is served.
	then(d.each((*Instance).load)...)
	then(d.checkMountHelper)
	then(d.keepServer)
	then(reach("sources read"))

	// The ports, of which none answers yet.
	then(d.divideDescriptors)
	then(d.followAddresses)
	then(d.each((*Instance).openTokens)...)
	then(d.openEdge)
	then(d.openMetrics)
	then(d.addAddresses)
	then(d.openListeners)
	then(reach("listening"))

	// The doors. The mount comes before HTTP: what HTTP shows is already on it.
	then(d.each((*Instance).openDoors)...)
	then(d.serveHTTP)
	then(d.serveAdmin)
	then(d.noteListeners) // after that, so that whoever finds the addresses finds the admin socket too
	then(d.dropUnknown)
	then(d.serveMetrics)
	then(d.each((*Instance).watchSources)...)
	then(d.startWatchdog)
	then(d.sayReady)
	return steps
}

// each is a step for every instance.
func (d *Daemon) each(start func(*Instance, context.Context) (part, error)) (steps []step) {
	for _, i := range d.instances {
		steps = append(steps, func(ctx context.Context) (part, error) { return start(i, ctx) })
	}
	return steps
}

// reach is a point at which tests kill the process.
func reach(point string) step {
	return func(context.Context) (part, error) {
		fault.At(point)
		return part{}, nil
	}
}

// Run serves until a signal, and ends well or for a successor ([ErrHandedOver]); or another program takes its place.
func Run(parent context.Context, start Start) error {
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
	d := &Daemon{
		Start: start, clock: clock, started: clock.Now(), peers: peerLog{clock: clock},
		asked: make(chan func(context.Context)), upgrades: make(chan upgrade),
	}
	d.instances = []*Instance{d.newInstance()}
	err := d.run(parent)
	switch {
	case err != nil && !d.ready:
		return d.countRefusal(err)
	case err != nil || !d.successor:
		return err
	case d.next == nil:
		return ErrHandedOver
	}
	return d.become(d.next)
}

// run starts every part, serves, and ends every part.
func (d *Daemon) run(parent context.Context) error {
	ctx, stop, signals := d.signals(parent)
	defer stop()
	err := d.startParts(ctx)
	if err == nil {
		err = d.loop(ctx, signals)
	} else {
		err = d.refuse(ctx, err)
	}
	d.endParts()
	return err
}

func (d *Daemon) startParts(ctx context.Context) error {
	for _, start := range d.order() {
		p, err := start(ctx)
		if err != nil {
			return err
		}
		d.parts = append(d.parts, p)
	}
	return nil
}

// endParts ends the parts. If one cannot be handed over, it is closed, and so is all that was started before it.
func (d *Daemon) endParts() {
	for _, p := range slices.Backward(d.parts) {
		if d.successor && p.HandOver != nil {
			err := p.HandOver()
			if err == nil {
				continue
			}
			d.Log.WithError(err).Error("not handed over: stopping")
			d.successor = false
		}
		if p.Close != nil {
			p.Close()
		}
	}
	d.parts = nil
}

// signals are those that the daemon takes.
func (d *Daemon) signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	if d.Embedded {
		ctx, stop = context.WithCancel(parent)
		return ctx, stop, nil
	}
	return Signals(parent)
}

// Addresses are those that are really listened on.
func (d *Daemon) Addresses() []string { return d.ports.listeners.addresses() }

// Snapshot is the tree that is served.
func (d *Daemon) Snapshot() *build.Snapshot { return d.instances[0].store.Snapshot() }

func (d *Daemon) makeDirs(context.Context) (part, error) {
	return part{}, d.Settings.OwnDirs(&privilege.Account{UID: os.Geteuid(), GID: os.Getegid()})
}

func (d *Daemon) divideDescriptors(context.Context) (part, error) {
	d.ports.descriptors = divideDescriptors(openFiles())
	return part{}, nil
}

func (d *Daemon) followAddresses(context.Context) (part, error) {
	d.ports.addresses = edge.FollowAddresses(func(err error) {
		d.Log.WithError(err).Warn("peers of other addresses are refused unless their network is listed")
	})
	return part{Close: func() { d.ports.addresses.Close() }}, nil
}

// openListeners opens every address of HTTP. Nothing is accepted yet.
func (d *Daemon) openListeners(ctx context.Context) (part, error) {
	l, err := d.listenAll(ctx, d.handedOver())
	if err != nil {
		return part{}, err
	}
	d.ports.listeners = l
	return part{Close: l.close}, nil
}

// serveHTTP answers HTTP from now on. At the end nothing is answered any more, on any port.
func (d *Daemon) serveHTTP(ctx context.Context) (part, error) {
	d.serving = newServing(ctx)
	listeners := d.ports.listeners
	listeners.serve(d.serving.ctx)
	end := func() error {
		d.serving.cancel()
		listeners.wait()
		d.serving.running.Wait()
		return nil
	}
	return part{
		Close: func() {
			listeners.dropAll()
			os.Remove(ListenFile(d.Settings.RuntimeDir))
			end()
		},
		HandOver: end,
	}, nil
}

// noteListeners notes what is listened on. If it cannot, that alone ends no daemon.
func (d *Daemon) noteListeners(context.Context) (part, error) {
	d.ports.listeners.note(d.Log)
	return part{}, nil
}

// sayReady tells whoever waits for the daemon: log, systemd or keeper, the command that embeds it.
func (d *Daemon) sayReady(context.Context) (part, error) {
	d.Log.WithFields(logrus.Fields{
		"mount": d.Settings.Mount, "http": strings.Join(d.Addresses(), ","), "instance": d.Snapshot().InstanceID(),
	}).Info("ready")
	d.ready = true
	forgetRefusals(d.Settings.RuntimeDir)
	if d.Ready != nil {
		d.Ready(d)
	}
	if !d.Embedded {
		d.notifyReady()
	}
	fault.At("ready")
	return part{Close: d.notifyStopping, HandOver: stays}, nil
}

// Package daemon builds a daemon from a configuration, runs it, and stops it or hands it over to a successor.
//
//	flags, [server] ─▶ Config ─▶ Validate ─▶ Settings ─▶ Run
//	                                                      │
//	               once for each process                Daemon ── listeners, edge, metrics, admin socket, watchdog, signals
//	               once for each described machine       └─ Instance ── sources ─▶ store ─▶ mount, then HTTP
//
// [Config.Validate] builds the real rules, hosts and addresses, and nothing else decides whether a configuration is good: check,
// serve, a reload, the trial of an upgrade and the mount helper all call it. [Run] starts the parts of a daemon in the order
// of [Daemon.order], and ends them in the opposite order. The package returns errors with hints (package problem). It prints
// nothing, and never ends the process.
//
//	where to look for         file
//	the order of start, end   daemon.go
//	a described machine       instance.go, reload.go, observer.go, changes.go
//	ports                     listeners.go, edge.go, metrics.go, admin.go, addresses.go, descriptors.go
//	what status shows         status.go, peers.go
//	events, the watchdog      loop.go, watchdog.go
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

// A Start holds what a daemon is started with.
type Start struct {
	Settings *Settings
	Handover *handover.Store       // what a predecessor left, and what a successor gets
	Sockets  map[string][]*os.File // of a socket unit, by name
	Log      *logrus.Logger
	Build    metrics.Build // of this program
	// Embedded says that another command runs the daemon in its own process. The daemon then takes no signals, has no
	// successor, and ends with its context.
	Embedded bool
	Ready    func(*Daemon) // if not nil, called once, when both doors are ready
}

// A Daemon holds what exists once in a process.
type Daemon struct {
	Start
	clock     clock.Clock
	started   time.Time
	instances []*Instance // one, for now
	ports     ports
	peers     peerLog
	serving   *serving // nil before the daemon answers

	asked    chan func(context.Context) // for the loop to call
	upgrades chan upgrade

	parts     []part              // that are started
	successor bool                // hand the parts over at the end, instead of closing them
	next      *handover.Candidate // the program that gets them; nil: another process gets them
	ready     bool                // the daemon has been ready
}

// ports are the ports of a daemon, and what they share.
type ports struct {
	descriptors descriptors
	addresses   *edge.Addresses // of this machine
	link        *linklocal.Link // nil if the link-local addresses are not ours
	edge        *edge.Server
	listeners   *listeners
	metrics     metricsPort
}

// A part is a started piece of a daemon, which has to be ended.
type part struct {
	Close func() // ends it, and logs errors; nil if there is nothing to end
	// HandOver ends it and leaves it to a successor; nil if it is closed for a successor too.
	HandOver func() error
}

// stays is the HandOver of a part that a successor finds as it is.
func stays() error { return nil }

// A step starts one part. If it only prepares later steps, its part is empty.
type step func(ctx context.Context) (part, error)

// order is the order in which a daemon starts, from top to bottom, and ends, from bottom to top.
func (d *Daemon) order() (steps []step) {
	then := func(s ...step) { steps = append(steps, s...) }

	// The directories, and locks against other daemons in them.
	then(d.makeDirs)
	then(d.lockRuntimeDir)
	then(d.lockStateDir)
	then(d.sortOutInherited)

	// What is served.
	then(d.each((*Instance).load)...)
	then(d.checkMountHelper)
	then(d.keepServer)
	then(reach("sources read"))

	// The ports. None answers yet.
	then(d.divideDescriptors)
	then(d.followAddresses)
	then(d.each((*Instance).openTokens)...)
	then(d.openEdge)
	then(d.openMetrics)
	then(d.addAddresses)
	then(d.openListeners)
	then(reach("listening"))

	// The doors. The mount comes before HTTP, so that the mount already shows what HTTP answers.
	then(d.each((*Instance).openDoors)...)
	then(d.serveHTTP)
	then(d.serveAdmin)
	then(d.noteListeners) // after serveAdmin: a client that finds the addresses finds the admin socket too
	then(d.dropUnknown)
	then(d.serveMetrics)
	then(d.each((*Instance).watchSources)...)
	then(d.startWatchdog)
	then(d.sayReady)
	return steps
}

// each returns one step for every instance.
func (d *Daemon) each(start func(*Instance, context.Context) (part, error)) (steps []step) {
	for _, i := range d.instances {
		steps = append(steps, func(ctx context.Context) (part, error) { return start(i, ctx) })
	}
	return steps
}

// reach returns a step at which tests kill the process.
func reach(point string) step {
	return func(context.Context) (part, error) {
		fault.At(point)
		return part{}, nil
	}
}

// Run runs a daemon until a signal. The error is [ErrHandedOver] if another process takes over. If another program takes over in
// this process, Run does not return.
func Run(parent context.Context, start Start) error {
	// A core dump, or ptrace by others, would expose credentials.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	// systemd or a keeper must be able to tell a crash, or the signal of a watchdog, from wrong usage, after which it does not
	// start us again. By default Go's runtime exits with the same status, 2.
	debug.SetTraceback("crash")
	// If the log goes to a pipe, the reader, such as a keeper, may die. Only a program that takes SIGPIPE survives that.
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

// endParts ends the parts. If one cannot be handed over, endParts closes it and all parts that were started before it.
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

// signals returns a context that ends with the daemon, and the other signals that the daemon takes.
func (d *Daemon) signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	if d.Embedded {
		ctx, stop = context.WithCancel(parent)
		return ctx, stop, nil
	}
	return Signals(parent)
}

// Addresses returns the addresses that the daemon listens on, with the ports that the kernel chose.
func (d *Daemon) Addresses() []string { return d.ports.listeners.addresses() }

// Snapshot returns the tree that is served.
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

// openListeners opens every address of HTTP, without accepting connections.
func (d *Daemon) openListeners(ctx context.Context) (part, error) {
	l, err := d.listenAll(ctx, d.handedOver())
	if err != nil {
		return part{}, err
	}
	d.ports.listeners = l
	return part{Close: l.close}, nil
}

// serveHTTP answers HTTP from now on. Its end ends the answers on all ports.
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

// noteListeners writes the addresses down for clients. The daemon runs even if that fails.
func (d *Daemon) noteListeners(context.Context) (part, error) {
	d.ports.listeners.note(d.Log)
	return part{}, nil
}

// sayReady says that the daemon is ready: in the log, to systemd or a keeper, and to the command that embeds it.
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

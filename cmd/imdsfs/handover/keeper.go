package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
)

const (
	stopLimit  = 10 * time.Second       // for an orderly stop; then the daemon is killed
	mountLimit = 30 * time.Second       // for MountCommand
	backOff    = 50 * time.Millisecond  // before the second try; the first follows at once
	backOffMax = 5 * time.Second        // backOff doubles up to this
	steady     = 100 * time.Millisecond // a daemon that is ready for less counts as one that never was
	tick       = 100 * time.Millisecond // of the watchdog

	// GiveUp is the usual [Keeper.GiveUp].
	GiveUp = 30 * time.Second
)

// A Keeper runs a daemon, holds the descriptors that the daemon keeps, and starts it again when it dies or hangs. It talks
// to the daemon's [Store] only: it reads nothing from the network and no file.
//
//	code := (&handover.Keeper{Command: []string{"/usr/bin/imdsfs", "serve", …}, …}).Run(ctx, signals)
type Keeper struct {
	// Command is the daemon's program and arguments.
	Command []string
	// Start starts Command with the daemon's rights; nil: with ours.
	Start func(*exec.Cmd) error
	// MountCommand, if not nil, runs with our rights before each daemon that gets no mount, and makes the mount.
	MountCommand []string
	// MountName is the FDNAME of a mount.
	MountName string
	// Watchdog is how long the daemon may take to become ready, and how long it may be silent afterwards; zero: for ever.
	Watchdog time.Duration
	// GiveUp is how long to try while no daemon becomes ready. Meanwhile readers of the mount wait.
	GiveUp time.Duration
	// Log gets what happens, a sentence at a time.
	Log func(format string, args ...any)
	// Ready, if not nil, is called each time that a daemon becomes ready.
	Ready func()

	held      heldFiles
	badLimit  rateLimit // of the log of bad messages
	failing   time.Time // since when no daemon has been ready; zero while one is
	tries     int
	everReady bool // a daemon has been ready
	mounted   bool
}

// Protect prepares this process to be a keeper: nobody else can look at what it holds through /proc/PID/fd, and its
// children get no descriptor that it was not meant to have.
func Protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	return privilege.CloseOnExec()
}

// Hold passes what somebody else has handed to us, such as a socket unit's sockets, to every daemon.
func (k *Keeper) Hold(others map[string][]*os.File) {
	for name, files := range others {
		for _, f := range files {
			if fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				k.held.put(name, fd)
			}
			f.Close()
		}
	}
}

// RunAs makes the daemon run as an account, with these capabilities and with further variables of the environment
// (privilege.Start). before runs with our rights before each start of it.
func (k *Keeper) RunAs(a *privilege.Account, capabilities []uintptr, variables []string, before func() error) error {
	// The daemon inherits the limit.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
	}
	k.Start = func(cmd *exec.Cmd) error {
		if err := before(); err != nil {
			return err
		}
		return privilege.Start(cmd, a, capabilities, variables)
	}
	return nil
}

// Run runs one daemon after another, and returns the exit status for this program:
//
//   - when a daemon ends in an orderly way;
//   - when the first one ends before it is ready, unless it was killed after its mount was made;
//   - when none becomes ready for k.GiveUp;
//   - when ctx ends, which stops the daemon.
//
// Signals are passed on to the daemon.
func (k *Keeper) Run(ctx context.Context, signals <-chan os.Signal) int {
	defer k.held.clear()
	for {
		code, again := k.runOnce(ctx, signals)
		if !again || ctx.Err() != nil {
			return code
		}
		if k.failing.IsZero() {
			k.failing = time.Now()
		}
		if time.Since(k.failing) > k.GiveUp {
			k.Log("no daemon has been ready for %v: giving up", k.GiveUp)
			return code
		}
		if !k.pause(ctx, signals) {
			return code
		}
	}
}

// Mounted reports, after Run, whether there has been a mount. A faulty daemon may have left it behind, whatever its exit status
// says.
func (k *Keeper) Mounted() bool { return k.mounted }

// pause waits before the next try, longer each time. It drops signals: there is no daemon to pass them on to. It reports
// false when ctx ends.
func (k *Keeper) pause(ctx context.Context, signals <-chan os.Signal) bool {
	var wait time.Duration
	if k.tries > 0 {
		wait = min(backOff<<min(k.tries-1, 10), backOffMax)
	}
	k.tries++
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-signals:
		}
	}
}

// runOnce runs one daemon to its end. again: another one is to follow.
func (k *Keeper) runOnce(ctx context.Context, signals <-chan os.Signal) (code int, again bool) {
	if len(k.MountCommand) > 0 && !k.held.has(k.MountName) {
		if err := k.mount(ctx); err != nil {
			if !hasExited(err) {
				k.Log("%v", err)
			} // else the command has said why
			return exitCode(err), k.everReady
		}
	}
	k.mounted = k.mounted || k.held.has(k.MountName)
	names, files := k.held.list()
	c, err := k.start(k.Command, k.Start, k.Watchdog, names, files)
	if err != nil {
		k.Log("start the daemon: %v", err)
		return 1, k.everReady
	}
	err = k.supervise(ctx, signals, c)
	code = exitCode(err)
	reapOrphans()
	if ready := c.ready(); !ready.IsZero() {
		k.everReady, k.failing, k.tries = true, time.Time{}, 0
		if time.Since(ready) < steady {
			k.tries = 1
		}
	}
	switch {
	case ctx.Err() != nil && wasTerminated(err):
		return 0, false // it did not handle signals yet
	case code == 0, ctx.Err() != nil:
		return code, false
	case code == ExitHandedOver:
		if ready := c.ready(); !ready.IsZero() && time.Since(ready) >= steady {
			k.tries, k.failing = 0, time.Time{}
		}
		return code, true
	case !k.everReady && !(wasKilled(err) && k.held.has(k.MountName)):
		return code, false // the daemon has said why
	}
	k.Log("the daemon, pid %d, ended (%v); the next one takes over", c.cmd.Process.Pid, err)
	return code, true
}

// reapOrphans reaps children of dead daemons, which become ours if we are the first process of a container. Do not call it
// while anything waits for a child: it would take its exit status.
func reapOrphans() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
			return
		}
	}
}

// supervise waits for the end of a daemon. It passes signals on, stops the daemon when ctx ends, and kills one that is silent
// for too long.
func (k *Keeper) supervise(ctx context.Context, signals <-chan os.Signal, c *child) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	stopping := ctx.Done()
	var killAt time.Time
	var kill sync.Once // a daemon that survives SIGKILL waits inside the kernel; a second one changes nothing
	for {
		select {
		case err := <-c.ended:
			return err
		case sig := <-signals:
			c.cmd.Process.Signal(sig)
		case <-stopping:
			stopping, killAt = nil, time.Now().Add(stopLimit)
			c.cmd.Process.Signal(syscall.SIGTERM)
			c.cmd.Process.Signal(syscall.SIGCONT)
		case <-ticker.C:
			switch silent := c.silence(); {
			case !killAt.IsZero() && time.Now().After(killAt):
				kill.Do(func() {
					k.Log("the daemon does not stop: killed")
					c.cmd.Process.Kill()
				})
			case killAt.IsZero() && k.Watchdog > 0 && silent > k.Watchdog:
				kill.Do(func() {
					k.Log("the daemon, pid %d, has been silent for %v: killed", c.cmd.Process.Pid, silent.Truncate(time.Millisecond))
					c.cmd.Process.Kill()
				})
			}
		}
	}
}

// mount runs MountCommand.
func (k *Keeper) mount(ctx context.Context) error {
	c, err := k.start(k.MountCommand, nil, 0, nil, nil) // without what a daemon gave us: the command has our rights
	if err != nil {
		return fmt.Errorf("start the mount helper: %w", err)
	}
	select {
	case err = <-c.ended:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(mountLimit):
		err = fmt.Errorf("the mount helper has not ended after %v: it hangs on a path, or waits for the kernel", mountLimit)
	}
	if err != nil {
		c.cmd.Process.Kill() // nothing if it has ended
		return err
	}
	if !k.held.has(k.MountName) {
		return errors.New("the mount helper has made no mount, and has not said why")
	}
	return nil
}

// hasExited reports whether a process ended by itself, with an exit status.
func hasExited(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Exited()
}

// wasTerminated reports whether a process was ended by SIGTERM.
func wasTerminated(err error) bool { return endedBy(err) == syscall.SIGTERM }

func wasKilled(err error) bool { return endedBy(err) > 0 }

// endedBy returns the signal that ended a process, 0 for none.
func endedBy(err error) syscall.Signal {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return 0
	}
	return status.Signal()
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	return 1
}

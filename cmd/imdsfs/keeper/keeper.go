// Package keeper runs a daemon, holds what it keeps, and starts it again when it dies or hangs. It is what
// systemd's Restart=, WatchdogSec= and file descriptor store are, where there is no systemd: in
// containers and CI.
//
//	code := (&keeper.Keeper{Command: []string{"/proc/self/exe", "serve", …}, …}).Run(ctx, signals)
//
// The daemon talks to it by package fdstore. Besides that a keeper does nothing: it reads nothing from
// the network and no file.
//
// # Who trusts whom
//
// Three parties are told apart. Each checks what comes from one with fewer rights; what comes from one with more it
// believes.
//
//   - Root: the keeper and the helper that mounts and adds addresses (cmd/imdsfs/keep.go, mounthelper.go), or systemd in
//     the place of the keeper.
//   - The daemon's own user, with at most the capability to open a low port. Whoever gets control of the daemon is this
//     party.
//   - Everybody else on the machine and on the network.
//
// What crosses from the daemon to root:
//
//   - Messages to the keeper. [Keeper] checks each: names that fdstore makes and no other, one descriptor at most, of a
//     kind that can be held; bad ones are dropped, and a few a minute are logged (message.go). No message can replace or
//     remove what systemd has handed over. A flood, a hang or silence costs the daemon its life, not the keeper's.
//   - Descriptors that are held. The keeper does not read them and the mount helper does not get them; only the next
//     daemon does.
//   - What it writes on a terminal, without control characters (unprivileged.go).
//   - The run-time and the state directory, which are the daemon's. The helper acts on nothing that it finds there
//     before it has checked whose it is (package source/safepath; fs).
//
// What crosses from root to the daemon is what startAs in unprivileged.go lists: no terminal, no other descriptor, no
// other variable.
//
// What crosses from one daemon to the next, which has the same rights: descriptors by name. The next one does not fail
// over what makes no sense, but makes it afresh (successor.go, fs/inherited.go, fdstore). Exec also passes capabilities on:
// tryProgram in candidate.go checks that root chose the program.
//
// What crosses from everybody else:
//
//   - HTTP and the mount; see packages imds/edge and fs.
//   - The admin socket: package imds/control answers root and the daemon's own user, as the kernel names them.
//   - Places where everybody can write, such as /tmp: clients check whose the run-time directory is, and who answers, before
//     the first byte (trust.go).
package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// HandedOver is the exit status of a daemon that ends for a successor.
	HandedOver = 75

	stopLimit   = 10 * time.Second       // for an orderly stop, then it is killed
	helperLimit = 30 * time.Second       // for the helper that mounts
	backOff     = 50 * time.Millisecond  // before the second try; the first is at once
	backOffMax  = 5 * time.Second        // it doubles up to this
	steady      = 100 * time.Millisecond // a daemon that is ready for less is as good as one that never was
	tick        = 100 * time.Millisecond // of the watchdog
)

// A Keeper says what to run.
type Keeper struct {
	// Command is the daemon's, with the program first.
	Command []string
	// Start starts a command with the rights that the daemon has; nil: with ours.
	Start func(*exec.Cmd) error
	// Mount, if not nil, is run with our rights before a daemon for whom no mount is kept, to mount
	// for it.
	Mount []string
	// MountName is the name under which a mount is kept.
	MountName string
	// Watchdog is how long the daemon may take to be ready, and then be silent; zero: for ever.
	Watchdog time.Duration
	// GiveUp is how long no daemon may become ready.
	GiveUp time.Duration
	// Log is told what happens, a sentence at a time.
	Log func(format string, args ...any)
	// Ready, if not nil, is told each time that a daemon is.
	Ready func()

	shelf      shelf
	complaints complaints
	failing    time.Time // since when no daemon has been ready; zero while one is
	tries      int
	ever       bool // a daemon has been ready
	mounted    bool
}

// Hold has a descriptor passed to every daemon under a name: what somebody else handed to us. It becomes the
// keeper's.
func (k *Keeper) Hold(name string, fd int) { k.shelf.put(name, fd) }

// Run keeps a daemon until one ends in an orderly way, or cannot even start the first time (one that is killed with
// its mount made is gone on with), or ctx ends, which stops it. Signals are passed on. The result is the exit
// status for the program.
func (k *Keeper) Run(ctx context.Context, signals <-chan os.Signal) int {
	defer k.shelf.clear()
	for {
		code, again := k.once(ctx, signals)
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

// Mounted reports, after Run, whether there has been a mount. A daemon that has gone bad may have left it behind, although
// it says that it has not.
func (k *Keeper) Mounted() bool { return k.mounted }

// pause waits before the next try, longer each time. Signals have nobody to go to.
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

// once runs one daemon to its end. again: another is to follow.
func (k *Keeper) once(ctx context.Context, signals <-chan os.Signal) (code int, again bool) {
	if len(k.Mount) > 0 && !k.shelf.has(k.MountName) {
		if err := k.mount(ctx); err != nil {
			if !hasExited(err) {
				k.Log("%v", err)
			} // else it has said why
			return exitCode(err), k.ever
		}
	}
	k.mounted = k.mounted || k.shelf.has(k.MountName)
	names, files := k.shelf.list()
	c, err := k.start(k.Command, k.Start, k.Watchdog, names, files)
	if err != nil {
		k.Log("start the daemon: %v", err)
		return 1, k.ever
	}
	err = k.watch(ctx, signals, c)
	code = exitCode(err)
	reapOrphans()
	if ready := c.ready(); !ready.IsZero() {
		k.ever, k.failing, k.tries = true, time.Time{}, 0
		if time.Since(ready) < steady {
			k.tries = 1
		}
	}
	switch {
	case ctx.Err() != nil && wasTold(err):
		return 0, false // it had not come to listening for signals
	case code == 0, ctx.Err() != nil:
		return code, false
	case code == HandedOver:
		if ready := c.ready(); !ready.IsZero() && time.Since(ready) >= steady {
			k.tries, k.failing = 0, time.Time{}
		}
		return code, true
	case !k.ever && !(wasKilled(err) && k.shelf.has(k.MountName)):
		return code, false // it has said why
	}
	k.Log("the daemon, pid %d, ended (%v); the next one goes on", c.cmd.Process.Pid, err)
	return code, true
}

// reapOrphans is for a keeper that is the first process of a container, to whom the children of dead daemons come.
// It must not be called while a process is under way that somebody waits for.
func reapOrphans() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
			return
		}
	}
}

// watch passes signals on to a daemon until it ends.
func (k *Keeper) watch(ctx context.Context, signals <-chan os.Signal, c *child) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	stopping := ctx.Done()
	var killAt time.Time
	var kill sync.Once // one that does not die of it is in a wait of the kernel's
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

// mount has a helper mount for the daemon.
func (k *Keeper) mount(ctx context.Context) error {
	c, err := k.start(k.Mount, nil, 0, nil, nil) // nothing that a daemon gave us: the helper has our rights
	if err != nil {
		return fmt.Errorf("start the mount helper: %w", err)
	}
	select {
	case err = <-c.ended:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(helperLimit):
		err = fmt.Errorf("the mount helper has not ended after %v: it hangs on a path, or waits for the kernel", helperLimit)
	}
	if err != nil {
		c.cmd.Process.Kill() // of one that has ended: nothing
		return err
	}
	if !k.shelf.has(k.MountName) {
		return errors.New("the mount helper has made no mount, and has not said why")
	}
	return nil
}

// hasExited reports whether a process has ended by itself, with a status.
func hasExited(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Exited()
}

// wasTold reports whether a process has ended by SIGTERM.
func wasTold(err error) bool { return endedBy(err) == syscall.SIGTERM }

func wasKilled(err error) bool { return endedBy(err) > 0 }

// endedBy is the signal that has ended a process, or none.
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

package daemon

import (
	"context"
	"os"
	"syscall"
)

// loop handles one event after another, until ctx or a door ends, or a successor takes over.
func (d *Daemon) loop(ctx context.Context, signals <-chan os.Signal) error {
	i := d.instances[0]
	for !d.successor {
		due, stopTimer := i.refreshTimer()
		select {
		case <-ctx.Done():
			stopTimer()
			d.Log.Info("stopping")
			return nil
		case <-i.unmounted():
			stopTimer()
			d.Log.WithField("mount", d.Settings.Mount).Warn("unmounted by somebody else, stopping")
			return nil
		case err := <-d.ports.listeners.ended:
			stopTimer()
			return err
		case sig := <-signals:
			d.handleSignal(ctx, sig)
		case ask := <-d.asked:
			ask(ctx)
		case u := <-d.upgrades:
			next, err := d.tryProgram(ctx, u.program, u.by)
			u.done <- err
			if err == nil {
				stopTimer()
				d.handOver(next)
				return nil
			}
		case <-i.changed:
			i.reload(ctx, false)
		case <-due:
			i.refresh()
		}
		stopTimer()
	}
	return nil
}

// handleSignal reloads, or hands over.
func (d *Daemon) handleSignal(ctx context.Context, sig os.Signal) {
	switch sig {
	case syscall.SIGHUP:
		for _, i := range d.instances {
			i.reload(ctx, true)
		}
	case syscall.SIGUSR1:
		if d.Handover.Durable() {
			d.handOver(nil)
			return
		}
		d.Log.Warn("SIGUSR1 asks to hand over to another process, but nobody keeps anything for it: there is no keeper (--keep) and no file descriptor store")
	case syscall.SIGUSR2:
		next, err := d.tryOwnProgram(ctx)
		if err != nil {
			d.Log.WithError(err).Error("not upgraded")
			return
		}
		d.handOver(next)
	}
}

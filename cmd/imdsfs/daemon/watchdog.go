package daemon

import (
	"context"
	"os"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd or the keeper, where there is one.
func (d *Daemon) notify(state string) {
	if err := d.Handover.Notify(state); err != nil {
		d.Log.WithError(err).Warn("notify " + d.Handover.String())
	}
}

func (d *Daemon) notifyReady() {
	LeaveStart()
	d.notify(sd.SdNotifyReady)
	if os.Getenv(BackgroundVariable) != "" {
		os.Unsetenv("NOTIFY_SOCKET") // mount.fuse.imdsfs has ended, and its socket with it
	}
}

func (d *Daemon) notifyStopping() { d.notify(sd.SdNotifyStopping) }

// startWatchdog tells systemd or the keeper, if they ask for it, that the daemon is well: the kernel gets answers, and changes
// reach it.
func (d *Daemon) startWatchdog(context.Context) (part, error) {
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return part{}, nil
	}
	d.serving.run(func(ctx context.Context) {
		ticker := time.NewTicker(limit / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if d.isWell() {
				d.notify(sd.SdNotifyWatchdog)
			}
		}
	})
	return part{}, nil
}

func (d *Daemon) isWell() bool {
	well := true
	for _, i := range d.instances {
		if err := i.check(); err != nil {
			d.Log.WithError(err).Error("the mount is not well")
			well = false
		}
	}
	return well
}

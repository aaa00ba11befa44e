package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that SIGTERM and SIGINT end, and a channel of what else is taken: SIGHUP (reload),
// SIGUSR1 (end for a successor) and SIGUSR2 (upgrade in place). Those are taken to the end of the process:
// they would kill a daemon that is about to end well.
func Signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	return ctx, stop, c
}

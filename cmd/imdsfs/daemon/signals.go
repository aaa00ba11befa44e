package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that SIGTERM and SIGINT end, and a channel that receives SIGHUP (reload), SIGUSR1 (end for a
// successor) and SIGUSR2 (upgrade in place). The process takes these to its end, because they would kill a daemon that is
// stopping.
func Signals(parent context.Context) (ctx context.Context, stop func(), others <-chan os.Signal) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	c := make(chan os.Signal, 16) // the loop may need seconds for a reload, and none of them is to be lost
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	return ctx, stop, c
}

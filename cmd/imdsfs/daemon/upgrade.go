package daemon

import (
	"context"
	"errors"
	"os"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs/fault"
)

// ErrHandedOver is the error of a daemon that ends for a successor in another process. It is no failure.
var ErrHandedOver = errors.New("handed over")

// An upgrade is a request that another program take the place of this one.
type upgrade struct {
	program string
	by      uint32 // the user who asks
	done    chan error
}

// upgradeTo makes the loop try a program and, if the program is good, hand over to it.
func (d *Daemon) upgradeTo(ctx context.Context, program string, by uint32) error {
	if d.Embedded {
		return errors.New("imdsfs run ends with its command, and no other program can replace it")
	}
	u := upgrade{program, by, make(chan error, 1)}
	select {
	case d.upgrades <- u:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver ends the loop for a successor: a program in this process, or another process if next is nil.
func (d *Daemon) handOver(next *handover.Candidate) {
	d.Log.WithField("kept-by", d.Handover.String()).Info("handing over")
	d.successor, d.next = true, next
	fault.At("handing over")
}

// become runs another program in this process. If that fails, it runs this one again.
func (d *Daemon) become(next *handover.Candidate) error {
	err := d.Handover.Become(next)
	d.Log.WithError(err).Error("not upgraded")
	return d.Handover.Restart()
}

// tryProgram tries another program, with our arguments. by is the user who names it.
func (d *Daemon) tryProgram(ctx context.Context, path string, by uint32) (*handover.Candidate, error) {
	return handover.Try(ctx, path, handover.Trial{By: by, Args: os.Args[1:], Config: d.Settings.File})
}

// tryOwnProgram tries the program that is now at the path from which this one was started. A signal asks for it.
func (d *Daemon) tryOwnProgram(ctx context.Context) (*handover.Candidate, error) {
	program, err := handover.OwnProgram()
	if err != nil {
		return nil, err
	}
	by := handover.UnknownUser
	if privilege.IsRoot() {
		by = 0 // nobody else may send root a signal
	}
	return d.tryProgram(ctx, program, by)
}

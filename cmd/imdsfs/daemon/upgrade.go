package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/imdsfs/imdsfs/fs/fault"
)

// ErrHandedOver is how a daemon ends that another process succeeds. It is no failure.
var ErrHandedOver = errors.New("handed over")

// lingeringVariable holds the number of a child that outlives an exec: the successor waits for its end.
const lingeringVariable = "IMDSFS_LINGERING"

// OwnProgram is the path by which this program was called. After a package upgrade that is another program.
func OwnProgram() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	return path, nil
}

// An upgrade is a request that another program take the place of this one.
type upgrade struct {
	program string
	by      uint32 // the user who asks
	done    chan error
}

// upgradeTo has the loop try a program and, if that is good, hand over to it.
func (d *Daemon) upgradeTo(ctx context.Context, program string, by uint32) error {
	if d.Embedded {
		return errors.New("imdsfs run ends with its command, and goes on with no other program")
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

// handOver ends the loop for a successor: a program in this process, or nil for another process.
func (d *Daemon) handOver(next *candidate) {
	d.Log.WithField("kept-by", d.Handover.String()).Info("handing over")
	d.successor, d.next = true, next
	fault.At("handing over")
}

// become runs another program in this process. If that fails, it runs this one again.
func (d *Daemon) become(next *candidate) error {
	args := append([]string{next.path}, os.Args[1:]...)
	fault.At("exec")
	err := next.unchanged()
	if err == nil {
		err = d.Handover.Exec(next.path, args)
	}
	d.Log.WithError(err).Error("not upgraded")
	return d.Handover.Exec("/proc/self/exe", append([]string{os.Args[0]}, os.Args[1:]...))
}

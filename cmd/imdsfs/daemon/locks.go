package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// lockName is the file of the run-time directory that a daemon locks.
const lockName = "daemon.lock"

var errRunning = errors.New("an imdsfs is already running")

// IsRunning returns the error of a start in the run-time directory of a running daemon.
func IsRunning(runtimeDir string) error {
	return problem.Failed("stop it first, or give this one a --runtime-dir of its own", fmt.Errorf("%w with the run-time directory %s", errRunning, runtimeDir))
}

// IsTaken reports whether a start failed because another daemon has the run-time directory or the mount point.
func IsTaken(err error) bool { return errors.Is(err, errRunning) || errors.Is(err, fs.ErrServed) }

// lockRuntimeDir keeps other daemons out of the run-time directory.
func (d *Daemon) lockRuntimeDir(context.Context) (part, error) {
	lock, err := lockRuntimeDir(d.Settings.RuntimeDir, d.Handover)
	if err != nil {
		return part{}, err
	}
	return part{
		Close: func() { // at once: the keeper may take a while to close its copy
			unix.Flock(int(lock.Fd()), unix.LOCK_UN)
			d.Handover.Drop(keptLock)
			lock.Close()
		},
		HandOver: func() error { lock.Close(); return nil },
	}, nil
}

// lockRuntimeDir locks the directory for as long as the file is open. It takes over the lock of a predecessor, so that no other
// daemon can start in between.
func lockRuntimeDir(dir string, store *handover.Store) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	if f := store.Take(keptLock); f != nil {
		a, errA := f.Stat()
		b, errB := os.Lstat(path)
		if errA == nil && errB == nil && os.SameFile(a, b) && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return f, nil
		}
		f.Close()
		store.Drop(keptLock)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, NoRoom(problem.Failed("choose another with --runtime-dir", err), dir, "--runtime-dir")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, IsRunning(dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := store.Keep(keptLock, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockStateDir keeps other daemons out of the state directory.
func (d *Daemon) lockStateDir(ctx context.Context) (part, error) {
	state, err := holdStateDir(ctx, d.Settings.StateDir)
	if err != nil {
		return part{}, err
	}
	return part{Close: func() { state.Close() }}, nil
}

const stateDirWait = 2 * time.Second

// holdStateDir locks the state directory for as long as the file is open: two daemons that write one overlay would lose
// changes. A killed predecessor may hold its lock a moment longer.
func holdStateDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(stateDirWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		case ctx.Err() != nil || time.Now().After(end):
			f.Close()
			return nil, problem.Failed("stop that first, or give this one a --state-dir of its own",
				fmt.Errorf("%s is the state directory of a running imdsfs", dir))
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

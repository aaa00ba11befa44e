package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/problem"
)

// lockName is the file of the run-time directory that a daemon locks.
const lockName = "daemon.lock"

var errRunning = errors.New("an imdsfs is already running")

// IsRunning is the error of a start when another daemon has the run-time directory.
func IsRunning(runtimeDir string) error {
	return problem.Failed("stop it first, or give this one a --runtime-dir of its own", fmt.Errorf("%w with the run-time directory %s", errRunning, runtimeDir))
}

// IsTaken reports whether a start failed because another daemon has the run-time directory or the mount point.
func IsTaken(err error) bool { return errors.Is(err, errRunning) || errors.Is(err, fs.ErrServed) }

// lockRuntimeDir keeps a second daemon from this run-time directory for as long as the file is open. A
// predecessor's lock is gone on with, so that nobody gets in between.
func (p *process) lockRuntimeDir() (*os.File, error) {
	dir := p.settings.RuntimeDir
	path := filepath.Join(dir, lockName)
	if f := p.inherit(keptLock); f != nil {
		a, errA := f.Stat()
		b, errB := os.Lstat(path)
		if errA == nil && errB == nil && os.SameFile(a, b) && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return f, nil
		}
		f.Close()
		p.kept.Drop(keptLock)
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
	if err := p.kept.Keep(keptLock, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unlock lets another daemon have the run-time directory, at once: whoever keeps the lock for us may take a while to
// close it.
func (p *process) unlock(lock *os.File) {
	if !p.successor {
		unix.Flock(int(lock.Fd()), unix.LOCK_UN)
		p.kept.Drop(keptLock)
	}
	lock.Close()
}

const maxLaunchFile = 4 << 10 // bytes

// launchTime is when imdsfs first served in this state directory: the instance's launch, if nobody
// states another.
func launchTime(stateDir string, now time.Time) (time.Time, error) {
	launch, err := readLaunchTime(stateDir)
	if !errors.Is(err, os.ErrNotExist) {
		return launch, err
	}
	launch = now.UTC().Truncate(time.Second)
	text, err := json.Marshal(launchState{launch})
	if err != nil {
		return time.Time{}, err
	}
	return launch, NoRoom(atomicfile.Write(launchFile(stateDir), append(text, '\n'), 0o600), stateDir, "--state-dir")
}

type launchState struct {
	LaunchTime time.Time `json:"launch-time"`
}

func launchFile(stateDir string) string { return filepath.Join(stateDir, "launch.json") }

// readLaunchTime is launchTime where it was fixed before; the error is [os.ErrNotExist] elsewhere.
func readLaunchTime(stateDir string) (time.Time, error) {
	path := launchFile(stateDir)
	text, err := atomicfile.Read(path, maxLaunchFile)
	if errors.Is(err, os.ErrNotExist) {
		return time.Time{}, err
	}
	if err != nil {
		return time.Time{}, problem.Invalid("move it away: a new time is fixed at the next start", err)
	}
	var state launchState
	if err := json.Unmarshal(text, &state); err != nil {
		return time.Time{}, problem.Invalid("remove the file: a new time is fixed at the next start", fmt.Errorf("%s: %w", path, err))
	}
	return state.LaunchTime, nil
}

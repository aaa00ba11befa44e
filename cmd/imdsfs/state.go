package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// A dir is a directory of the daemon's, and the flag that chooses another.
type dir struct {
	name, path string
	mode       os.FileMode
	flag       string
}

// dirs are the run-time directory (others may look up the address in it) and the state directory (nobody else's
// business).
func (s *settings) dirs() []dir {
	return []dir{{"run-time directory", s.runtimeDir, 0o755, "--runtime-dir"}, {"state directory", s.stateDir, 0o700, "--state-dir"}}
}

// makeDirs creates the directories of the daemon, and refuses one that another user could put keys into, or exchange.
func makeDirs(s *settings) error {
	for _, d := range s.dirs() {
		f, err := d.open(safepath.Policy{})
		if err != nil {
			return err
		}
		info, err := f.Stat()
		f.Close()
		if err != nil {
			return err
		}
		if uid := ownerOf(info); uid != os.Geteuid() {
			return d.refuse(fmt.Errorf("%s belongs to uid %d, not to us", d.path, uid))
		}
	}
	return nil
}

// open opens the directory, O_PATH, and makes it if it is missing.
func (d dir) open(policy safepath.Policy) (*os.File, error) {
	f, err := policy.MakeDir(d.path, d.mode)
	var refused *safepath.Error
	switch {
	case errors.As(err, &refused):
		return nil, d.refuse(refused)
	case err != nil:
		return nil, noRoom(failure(exitInvalid, "choose another with "+d.flag, err), d.path, d.flag)
	}
	return f, nil
}

func (d dir) refuse(err error) error {
	return failure(exitInvalid, "name another with "+d.flag+", which only you can change; or, if a daemon of another user left it, stop that and remove it",
		fmt.Errorf("%s: %w", d.name, err))
}

func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// alreadyRunning is said before the name of a run-time directory.
const alreadyRunning = "an imdsfs is already running with the run-time directory"

func isRunning(runtimeDir string) error {
	return failure(exitFailed, "stop it first, or give this one a --runtime-dir of its own", fmt.Errorf("%s %s", alreadyRunning, runtimeDir))
}

// lockRuntimeDir keeps a second daemon from this run-time directory for as long as the file is open. A
// predecessor's lock is gone on with, so that nobody gets in between.
func (p *process) lockRuntimeDir() (*os.File, error) {
	dir := p.settings.runtimeDir
	path := filepath.Join(dir, "daemon.lock")
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
		return nil, noRoom(failure(exitFailed, "choose another with --runtime-dir", err), dir, "--runtime-dir")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, isRunning(dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, p.kept.Keep(keptLock, f)
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
	path := filepath.Join(stateDir, "launch.json")
	var state struct {
		LaunchTime time.Time `json:"launch-time"`
	}
	text, err := atomicfile.Read(path, maxLaunchFile)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &state); err != nil {
			return time.Time{}, failure(exitInvalid, "remove the file: a new time is fixed at the next start", fmt.Errorf("%s: %w", path, err))
		}
		return state.LaunchTime, nil
	case !errors.Is(err, os.ErrNotExist):
		return time.Time{}, err
	}
	state.LaunchTime = now.UTC().Truncate(time.Second)
	text, err = json.Marshal(state)
	if err != nil {
		return time.Time{}, err
	}
	return state.LaunchTime, noRoom(atomicfile.Write(path, append(text, '\n'), 0o600), stateDir, "--state-dir")
}

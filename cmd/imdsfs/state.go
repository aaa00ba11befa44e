package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/atomicfile"
)

// makeDirs creates the run-time directory (others may look up the address in it) and the state
// directory (nobody else's business).
func makeDirs(s *settings) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
		flag string
	}{{s.runtimeDir, 0o755, "--runtime-dir"}, {s.stateDir, 0o700, "--state-dir"}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return noRoom(failure(exitFailed, "choose another with "+dir.flag, err), dir.path, dir.flag)
		}
		if err := ownDir(dir.path); err != nil {
			return failure(exitFailed, "choose a directory that only you can change with "+dir.flag, err)
		}
	}
	return nil
}

// ownDir refuses a directory that another user could put keys into.
func ownDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to uid %d, not to us", dir, st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is writable by others (mode %04o)", dir, st.Mode&0o7777)
	}
	return nil
}

// alreadyRunning is said before the name of a run-time directory.
const alreadyRunning = "an imdsfs is already running with the run-time directory"

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
			return nil, failure(exitFailed, "stop it first, or give this one a --runtime-dir of its own",
				fmt.Errorf("%s %s", alreadyRunning, dir))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, p.kept.Keep(keptLock, f)
}

// launchTime is when imdsfs first served in this state directory: the instance's launch, if nobody
// states another.
func launchTime(stateDir string, now time.Time) (time.Time, error) {
	path := filepath.Join(stateDir, "launch.json")
	var state struct {
		LaunchTime time.Time `json:"launch-time"`
	}
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &state); err != nil {
			return time.Time{}, failure(exitFailed, "remove the file: a new time is fixed at the next start", fmt.Errorf("%s: %w", path, err))
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

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/problem"
)

const maxLaunchFile = 4 << 10 // bytes

// launchTime returns when imdsfs first served with this state directory. That is the launch of an instance for which nobody
// states another time.
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

// readLaunchTime returns the launch time that an earlier start has written. The error is [os.ErrNotExist] if there was none.
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

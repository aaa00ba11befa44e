package mount

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/fs"
)

// A daemon in the background says by its exit status that another one has its directories; no other start does.
func TestTheExitStatusTellsThatDirectoriesAreTaken(t *testing.T) {
	served := fmt.Errorf("mount /run/metadata: %w", fs.ErrServed)
	for _, c := range []struct {
		name       string
		err        error
		background bool
		want       int
	}{
		{"the run-time directory", daemon.IsRunning("/run/imdsfs"), true, exitTaken},
		{"the mount point", served, true, exitTaken},
		{"the mount point, wrapped", errors.Join(served, os.ErrExist), true, exitTaken},
		{"another error", os.ErrExist, true, 1},
		{"in the foreground", served, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(daemon.BackgroundVariable, map[bool]string{true: "1"}[c.background])
			if got := ExitStatus(c.err, 1); got != c.want {
				t.Errorf("exit status %d, want %d", got, c.want)
			}
		})
	}
}

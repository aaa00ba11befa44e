package daemon

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Variables with which mount.fuse.imdsfs tells the daemon that it starts, and its keeper, how to run.
const (
	// BackgroundVariable, if set, says that the log goes to standard error until the daemon is ready, and to standard output
	// after that.
	BackgroundVariable = "IMDSFS_BACKGROUND"
	// MountSourceVariable holds the source that the list of mounts is to show, so that mount -a knows what is mounted
	// already.
	MountSourceVariable = "IMDSFS_MOUNT_SOURCE"
)

// LeaveStart makes a daemon that mount(8) has started, or its keeper, log to standard output from now on. Call it before the
// process says that it is ready.
func LeaveStart() {
	if os.Getenv(BackgroundVariable) == "" {
		return
	}
	if err := unix.Dup3(1, 2, 0); err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: standard error stays as it is: %v\n", err)
	}
}

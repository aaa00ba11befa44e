package daemon

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What mount(8) says to the daemon that it starts, and to its keeper.
const (
	// BackgroundVariable is set: standard output is where the log goes when the daemon is ready, and standard error where
	// it goes until then.
	BackgroundVariable = "IMDSFS_BACKGROUND"
	// MountSourceVariable is what the list of mounts is to show as the source, so that mount -a knows what it has
	// mounted already.
	MountSourceVariable = "IMDSFS_MOUNT_SOURCE"
)

// LeaveStart is what mount(8) expects of a daemon, and of its keeper, before they tell it that they are ready: they log
// where nobody waits for it any more.
func LeaveStart() {
	if os.Getenv(BackgroundVariable) == "" {
		return
	}
	if err := unix.Dup3(1, 2, 0); err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: standard error stays as it is: %v\n", err)
	}
}

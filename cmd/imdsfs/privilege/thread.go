package privilege

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread calls f on a thread of its own, which is not used again: only f, and the processes that f starts, see what f
// changes about the thread.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // without an unlock: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// Renounce clears the inheritable and the ambient capabilities of this thread and sets no_new_privs: what the thread
// starts gets none of our capabilities, and no privilege from its file.
func Renounce() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header, data, err := capabilities()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	err = unix.Capset(&header, &data[0])
	// The packaged unit forbids capset(2). That is harmless: an inheritable capability takes effect only through the
	// program's file, and no_new_privs has just ruled that out.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

// capabilities returns those of this thread. All threads of a daemon have the same.
func capabilities() (header unix.CapUserHeader, sets [2]unix.CapUserData, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err = unix.Capget(&header, &sets[0]); err != nil {
		err = fmt.Errorf("capget: %w", err)
	}
	return header, sets, err
}

// IsPrivileged reports whether a program that takes our place by exec has rights that its user does not have:
// capabilities.
func IsPrivileged() (bool, error) {
	_, sets, err := capabilities()
	if err != nil {
		return false, err
	}
	return IsRoot() || sets[0].Permitted != 0 || sets[1].Permitted != 0, nil
}

// HasNetAdmin reports whether we have CAP_NET_ADMIN.
func HasNetAdmin() bool {
	_, sets, err := capabilities()
	return err == nil && sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// Why a directory cannot be mounted on. The errors of this package wrap one of these, or what the system says, in a
// [problem.Error] whose hint tells what to do.
var (
	ErrServed       = errors.New("already served by a running imdsfs")
	ErrForeign      = errors.New("something else is mounted there")
	ErrNotEmpty     = errors.New("the directory is not empty")
	ErrNotDir       = errors.New("not a directory")
	ErrNoParent     = errors.New("there is no directory to make it in")
	ErrPermission   = errors.New("no permission to mount there")
	ErrExchangeable = errors.New("somebody else could exchange it")
	ErrNoFUSE       = errors.New("there is no /dev/fuse")
	ErrHangs        = errors.New("the path does not answer")
)

// lasting are the refusals that stay until somebody changes what lies at the path. What is mounted or served there may go
// by itself.
var lasting = []error{ErrNotDir, ErrNotEmpty, ErrNoParent, ErrExchangeable}

// Ends of hints.
const (
	elsewhere = "or choose another directory with --mount"
	safely    = "with --mount choose a directory that only root and the daemon's user can exchange"
	stopThat  = "stop that one (umount -l if there is none), " + elsewhere
)

// refusal refuses the mount point dir. why is one of the errors above or what the system says; detail says what is in the
// way and may be empty; hint says what to do.
func refusal(dir string, why error, detail, hint string) error {
	err := fmt.Errorf("mount %s: %w", dir, why)
	if detail != "" {
		err = fmt.Errorf("mount %s: %w: %s", dir, why, detail)
	}
	if slices.Contains(lasting, why) {
		return problem.Invalid(hint, err)
	}
	return problem.Failed(hint, err)
}

// LookError is the refusal for a failure to look at dir or to mount on it.
func LookError(dir string, err error) error {
	var known *problem.Error
	var unsafe *safepath.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &unsafe):
		return refusal(dir, ErrExchangeable, unsafe.Error(), safely)
	case errors.Is(err, ErrHangs):
		return refusal(dir, ErrHangs, "", "look at what is mounted above it (/proc/self/mountinfo), "+elsewhere)
	case errors.Is(err, os.ErrPermission):
		return refusal(dir, ErrPermission, err.Error(), "run as root (in a container, with --cap-add SYS_ADMIN --device /dev/fuse), "+elsewhere)
	}
	return refusal(dir, err, "", "choose another directory with --mount")
}

// makeError is the refusal for a directory that cannot be made.
func makeError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return refusal(dir, err, "", "make it while the directory above can be written to, "+elsewhere)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return refusal(dir, err, "", fmt.Sprintf("make room in %s (see df and df -i), %s", filepath.Dir(dir), elsewhere))
	}
	return LookError(dir, err)
}

// IsDead reports whether err is what the kernel answers for a mount whose connection has ended.
func IsDead(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNREFUSED)
}

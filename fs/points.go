package fs

import (
	"context"

	"github.com/imdsfs/imdsfs/fs/mountpoint"
)

// What a program that mounts needs of package mountpoint.

// ErrServed says that a daemon serves the mount point. It is one of the errors that refuse a mount point; package
// mountpoint has the others.
var ErrServed = mountpoint.ErrServed

// How much the caller of [CleanUp] knows of the daemon.
const (
	MayLive      = mountpoint.MayLive
	Ended        = mountpoint.Ended
	EndedForGood = mountpoint.EndedForGood
)

// A Bind is a [mountpoint.Bind].
type Bind = mountpoint.Bind

// Binds is [mountpoint.Binds].
func Binds(ctx context.Context, daemon int, dir string) ([]Bind, bool, error) {
	return mountpoint.Binds(ctx, daemon, dir)
}

// Mounts is [mountpoint.Mounts].
func Mounts(runtimeDir string) ([]string, error) { return mountpoint.Mounts(runtimeDir) }

// CleanUp is [mountpoint.CleanUp].
func CleanUp(dir, runtimeDir string, known int) error {
	return mountpoint.CleanUp(dir, runtimeDir, known)
}

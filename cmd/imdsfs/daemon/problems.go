package daemon

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/imdsfs/imdsfs/source/problem"
)

// NoRoom adds a hint to an error of writing into dir, if the disk is full or read-only; flag chooses another directory.
func NoRoom(err error, dir, flag string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem.Failed(fmt.Sprintf("make room in %s (see df and df -i), or choose another with %s", dir, flag), err)
	case errors.Is(err, syscall.EROFS):
		return problem.Failed(fmt.Sprintf("choose one that can be written to with %s", flag), err)
	}
	return err
}
